create table tenant_installations (
    tenant_uid uuid not null,
    installation_id text not null,
    account_id text not null,
    description text not null,
    product_code text not null,
    package_code text not null,
    ttl_hours smallint not null,
    create_time timestamptz not null,
    update_time timestamptz not null,
    version bigint not null,
    constraint tenant_installations_pkey primary key (tenant_uid, installation_id),
    constraint tenant_installations_tenant_fkey
        foreign key (account_id, tenant_uid) references tenants (account_id, uid) on delete cascade,
    constraint tenant_installations_package_fkey
        foreign key (account_id, product_code, package_code)
        references product_packages (account_id, product_code, package_code),
    constraint tenant_installations_installation_id_check
        check (installation_id ~ '^[a-z0-9-]{1,30}$'),
    constraint tenant_installations_ttl_hours_check
        check (ttl_hours in (6, 12, 24, 48, 72, 96, 120, 144, 168))
);

comment on table tenant_installations is 'What tenants run of products (1-20); holds app keys.';
comment on column tenant_installations.installation_id is 'Generated, immutable; unique within the tenant.';
comment on column tenant_installations.account_id is 'The account of the tenant: the product is one of it.';
comment on column tenant_installations.package_code is 'Without the code of the product before it (1-21).';
comment on column tenant_installations.ttl_hours is 'How long verifiers may keep what a key resolves to (1-22, 1-23); never when a key ends.';
comment on column tenant_installations.version is 'Counts the changes of the row; the etag is made from it.';

create index tenant_installations_package_idx
    on tenant_installations (account_id, product_code, package_code);

alter table tenant_installations enable row level security;
alter table tenant_installations force row level security;

create policy tenant_installations_owner on tenant_installations to tenantry_owner
    using (true) with check (true);

create policy tenant_installations_of_tenant on tenant_installations to tenantry_service
    using (exists (select 1 from tenants where tenants.uid = tenant_installations.tenant_uid))
    with check (exists (select 1 from tenants where tenants.uid = tenant_installations.tenant_uid));

grant select, insert on tenant_installations to tenantry_service;

create table tenant_app_keys (
    tenant_uid uuid not null,
    app_key_id text not null,
    installation_id text not null,
    create_time timestamptz not null,
    constraint tenant_app_keys_pkey primary key (tenant_uid, app_key_id),
    constraint tenant_app_keys_installation_fkey foreign key (tenant_uid, installation_id)
        references tenant_installations (tenant_uid, installation_id) on delete cascade,
    constraint tenant_app_keys_app_key_id_check check (app_key_id ~ '^[0-9a-f]{32}$')
);

comment on table tenant_app_keys is 'The internal keys of installations (1-25): what external keys are of.';
comment on column tenant_app_keys.app_key_id is '16 random bytes as hexadecimal digits. An id, not a secret.';

create index tenant_app_keys_installation_idx on tenant_app_keys (tenant_uid, installation_id);

alter table tenant_app_keys enable row level security;
alter table tenant_app_keys force row level security;

create policy tenant_app_keys_owner on tenant_app_keys to tenantry_owner
    using (true) with check (true);

create policy tenant_app_keys_of_tenant on tenant_app_keys to tenantry_service
    using (exists (select 1 from tenants where tenants.uid = tenant_app_keys.tenant_uid))
    with check (exists (select 1 from tenants where tenants.uid = tenant_app_keys.tenant_uid));

grant select, insert on tenant_app_keys to tenantry_service;

create table tenant_app_key_configs (
    tenant_uid uuid not null,
    app_key_id text not null,
    environment text not null,
    config jsonb not null,
    update_time timestamptz not null,
    version bigint not null,
    constraint tenant_app_key_configs_pkey primary key (tenant_uid, app_key_id, environment),
    constraint tenant_app_key_configs_app_key_fkey foreign key (tenant_uid, app_key_id)
        references tenant_app_keys (tenant_uid, app_key_id) on delete cascade,
    constraint tenant_app_key_configs_environment_fkey
        foreign key (environment) references environments (environment_id),
    constraint tenant_app_key_configs_config_check check (jsonb_typeof(config) = 'object')
);

comment on table tenant_app_key_configs is 'What an app key says to services, a document for each environment (1-26).';
comment on column tenant_app_key_configs.config is 'By the name of the service; "commonFields" for all of them.';

create index tenant_app_key_configs_environment_idx on tenant_app_key_configs (environment);

alter table tenant_app_key_configs enable row level security;
alter table tenant_app_key_configs force row level security;

create policy tenant_app_key_configs_owner on tenant_app_key_configs to tenantry_owner
    using (true) with check (true);

create policy tenant_app_key_configs_of_tenant on tenant_app_key_configs to tenantry_service
    using (exists (select 1 from tenants where tenants.uid = tenant_app_key_configs.tenant_uid))
    with check (exists (select 1 from tenants where tenants.uid = tenant_app_key_configs.tenant_uid));

grant select, insert on tenant_app_key_configs to tenantry_service;

create table external_keys (
    route bigint not null,
    number bigint not null,
    tenant_uid uuid not null,
    app_key_id text not null,
    label text not null,
    environment text not null,
    expire_time timestamptz,
    device jsonb,
    geo jsonb,
    enabled boolean not null,
    digest bytea not null,
    master_key_version smallint not null,
    created_by text not null,
    create_time timestamptz not null,
    update_time timestamptz not null,
    revoke_time timestamptz,
    revoked_by text,
    revoke_reason text,
    version bigint not null,
    constraint external_keys_pkey primary key (route, number),
    constraint external_keys_app_key_fkey foreign key (tenant_uid, app_key_id)
        references tenant_app_keys (tenant_uid, app_key_id) on delete cascade,
    constraint external_keys_environment_fkey
        foreign key (environment) references environments (environment_id),
    constraint external_keys_label_check check (char_length(label) between 1 and 80),
    constraint external_keys_digest_check check (octet_length(digest) = 32),
    constraint external_keys_revoke_check check ((revoke_time is null) = (revoked_by is null))
);

comment on table external_keys is 'The keys that clients of an installation send (1-25, 1-29).';
comment on column external_keys.route is 'The first 64 bits of the tenant''s uid: what the text of a key leads to.';
comment on column external_keys.number is 'Milliseconds since 1970 in the upper 48 bits, chance in the lower 16.';
comment on column external_keys.environment is 'The only one that the key is good in (1-29).';
comment on column external_keys.expire_time is 'The end of its last day, in UTC; null: never (1-30).';
comment on column external_keys.device is 'A DeviceRules as JSON; null: any device (1-37).';
comment on column external_keys.geo is 'A GeoRules as JSON; null: from anywhere (1-36).';
comment on column external_keys.digest is 'HMAC under the master key of the SHA-256 of the secret; the secret itself is nowhere.';
comment on column external_keys.version is 'Counts the changes of the row; the etag is made from it.';

create index external_keys_app_key_idx on external_keys (tenant_uid, app_key_id);
create index external_keys_environment_idx on external_keys (environment);

alter table external_keys enable row level security;
alter table external_keys force row level security;

create policy external_keys_owner on external_keys to tenantry_owner
    using (true) with check (true);

create policy external_keys_of_tenant on external_keys to tenantry_service
    using (exists (select 1 from tenants where tenants.uid = external_keys.tenant_uid))
    with check (exists (select 1 from tenants where tenants.uid = external_keys.tenant_uid));

grant select, insert on external_keys to tenantry_service;
