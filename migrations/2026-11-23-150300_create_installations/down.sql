drop table external_keys;
drop table tenant_app_key_configs;
drop table tenant_app_keys;
drop table tenant_installations;
