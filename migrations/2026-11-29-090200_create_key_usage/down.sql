drop table key_usage;
