create table master_key_checks (
    version smallint not null,
    check_value bytea not null,
    create_time timestamptz not null,
    constraint master_key_checks_pkey primary key (version)
);

comment on table master_key_checks is 'Tells whether a service holds the master key that the keys in this database were made with.';
comment on column master_key_checks.version is 'Version of the master key; 0 stands for the permutation of key ids.';
comment on column master_key_checks.check_value is 'HMAC of a fixed label; tells nothing of the key.';

grant select, insert on master_key_checks to tenantry_service;
