create table api_keys (
    route bigint not null,
    number bigint not null,
    scope text not null,
    account_id text,
    tenant_uid uuid,
    name text not null,
    roles text[] not null,
    environment text,
    reseller_id text,
    digest bytea not null,
    master_key_version smallint not null,
    expire_time timestamptz,
    created_by text not null,
    create_time timestamptz not null,
    revoke_time timestamptz,
    revoked_by text,
    revoke_reason text,
    version bigint not null,
    constraint api_keys_pkey primary key (route, number),
    constraint api_keys_account_id_fkey foreign key (account_id) references accounts (account_id),
    constraint api_keys_tenant_uid_fkey
        foreign key (tenant_uid) references tenants (uid) on delete cascade,
    constraint api_keys_environment_fkey
        foreign key (environment) references environments (environment_id),
    constraint api_keys_scope_check check (
        (scope = 'SYSTEM' and account_id is null and tenant_uid is null)
        or (scope = 'ACCOUNT' and account_id is not null and tenant_uid is null)
        or (scope = 'TENANT' and account_id is not null and tenant_uid is not null)
    ),
    constraint api_keys_name_check check (char_length(name) between 1 and 80),
    constraint api_keys_digest_check check (octet_length(digest) = 32)
);

comment on table api_keys is 'Keys with roles, of the system, an account or a tenant (4-15).';
comment on column api_keys.route is 'Leads from the text of a key to its owner: 0 for the system, else the first 64 bits of the tenant''s uid or of a hash of the account''s id.';
comment on column api_keys.number is 'Milliseconds since 1970 in the upper 48 bits, chance in the lower 16: keys of one owner lie in the order of their creation.';
comment on column api_keys.account_id is 'Null for a key of the system.';
comment on column api_keys.tenant_uid is 'Null unless the key is a tenant''s.';
comment on column api_keys.environment is 'Null: good in any environment.';
comment on column api_keys.reseller_id is 'Binds a key with the role reseller to the tenants of that reseller (2-30).';
comment on column api_keys.digest is 'HMAC under the master key of the SHA-256 of the secret; the secret itself is nowhere.';
comment on column api_keys.master_key_version is 'The version of the master key that the digest was made with.';
comment on column api_keys.revoke_time is 'A revoked key stays revoked; the row is kept for history.';
comment on column api_keys.version is 'Counts the changes of the row; the etag is made from it.';

create index api_keys_account_id_idx on api_keys (account_id) where account_id is not null;
create index api_keys_tenant_uid_idx on api_keys (tenant_uid) where tenant_uid is not null;
create index api_keys_environment_idx on api_keys (environment) where environment is not null;

alter table api_keys enable row level security;
alter table api_keys force row level security;

create policy api_keys_owner on api_keys to tenantry_owner
    using (true) with check (true);

create policy api_keys_system on api_keys to tenantry_service
    using ((select current_setting('tenantry.system', true)) = 'on')
    with check ((select current_setting('tenantry.system', true)) = 'on');

create policy api_keys_account on api_keys to tenantry_service
    using (account_id = (select nullif(current_setting('tenantry.account', true), '')))
    with check (account_id = (select nullif(current_setting('tenantry.account', true), '')));

create policy api_keys_of_tenant on api_keys to tenantry_service
    using (exists (select 1 from tenants where tenants.uid = api_keys.tenant_uid))
    with check (exists (select 1 from tenants where tenants.uid = api_keys.tenant_uid));

grant select, insert, update on api_keys to tenantry_service;

create policy api_keys_verifier on api_keys for select to tenantry_verifier
    using (true);

grant select (
    route, number, scope, account_id, tenant_uid, roles, environment, reseller_id,
    digest, master_key_version, expire_time, revoke_time
) on api_keys to tenantry_verifier;
