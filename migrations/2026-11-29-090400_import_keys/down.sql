drop table imported_keys;
