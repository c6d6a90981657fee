create table imported_keys (
    digest bytea not null,
    master_key_version smallint not null,
    route bigint not null,
    number bigint not null,
    tenant_uid uuid not null,
    constraint imported_keys_pkey primary key (digest),
    constraint imported_keys_external_key_fkey
        foreign key (route, number) references external_keys (route, number) on delete cascade,
    constraint imported_keys_tenant_uid_fkey
        foreign key (tenant_uid) references tenants (uid) on delete cascade,
    constraint imported_keys_digest_check check (octet_length(digest) = 32)
);

comment on table imported_keys is 'Keys that were made elsewhere: their texts lead to no row, so they are found by what is stored of them.';
comment on column imported_keys.digest is 'HMAC under the master key of the SHA-256 of the whole text.';
comment on column imported_keys.master_key_version is 'The version of the master key that the digest was made with.';

create unique index imported_keys_external_key_key on imported_keys (route, number);
create index imported_keys_tenant_uid_idx on imported_keys (tenant_uid);

alter table imported_keys enable row level security;
alter table imported_keys force row level security;

create policy imported_keys_owner on imported_keys to tenantry_owner
    using (true) with check (true);

create policy imported_keys_of_tenant on imported_keys to tenantry_service
    using (exists (select 1 from tenants where tenants.uid = imported_keys.tenant_uid))
    with check (exists (select 1 from tenants where tenants.uid = imported_keys.tenant_uid));
grant select, insert on imported_keys to tenantry_service;

create policy imported_keys_verifier on imported_keys for select to tenantry_verifier
    using (true);
grant select (digest, route, number) on imported_keys to tenantry_verifier;

create policy imported_keys_purger on imported_keys to tenantry_purger
    using (exists (
        select 1 from tenant_tombstones
        where tenant_tombstones.tenant_uid = imported_keys.tenant_uid
    ))
    with check (false);
grant select (tenant_uid, digest), delete on imported_keys to tenantry_purger;
