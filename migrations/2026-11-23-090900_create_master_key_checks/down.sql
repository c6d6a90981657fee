drop table master_key_checks;
