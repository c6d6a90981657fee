create table tenant_oauth_clients (
    tenant_uid uuid not null,
    secret_digest bytea not null,
    master_key_version smallint not null,
    redirect_uri text not null,
    grants text[] not null,
    disabled boolean not null,
    type smallint not null,
    login_mode text not null,
    pin jsonb not null,
    create_time timestamptz not null,
    update_time timestamptz not null,
    version bigint not null,
    constraint tenant_oauth_clients_pkey primary key (tenant_uid),
    constraint tenant_oauth_clients_tenant_uid_fkey
        foreign key (tenant_uid) references tenants (uid) on delete cascade,
    constraint tenant_oauth_clients_secret_digest_check check (octet_length(secret_digest) = 32),
    constraint tenant_oauth_clients_grants_check check (cardinality(grants) > 0),
    constraint tenant_oauth_clients_type_check check (type in (0, 1, 2)),
    constraint tenant_oauth_clients_login_mode_check check (login_mode in ('URAC', 'OAUTH')),
    constraint tenant_oauth_clients_pin_check
        check (jsonb_typeof(pin) = 'object' and (login_mode = 'URAC' or pin = '{}'))
);

comment on table tenant_oauth_clients is 'As which OAuth client a tenant''s users sign in, one for each tenant (1-14).';
comment on column tenant_oauth_clients.secret_digest is 'HMAC under the master key of the SHA-256 of the secret; the secret itself is nowhere.';
comment on column tenant_oauth_clients.pin is 'For which products a PIN is asked, by product code (1-19).';
comment on column tenant_oauth_clients.version is 'Counts the changes of the row; the etag is made from it.';

alter table tenant_oauth_clients enable row level security;
alter table tenant_oauth_clients force row level security;

create policy tenant_oauth_clients_owner on tenant_oauth_clients to tenantry_owner
    using (true) with check (true);

create policy tenant_oauth_clients_of_tenant on tenant_oauth_clients to tenantry_service
    using (exists (select 1 from tenants where tenants.uid = tenant_oauth_clients.tenant_uid))
    with check (exists (select 1 from tenants where tenants.uid = tenant_oauth_clients.tenant_uid));

grant select, insert on tenant_oauth_clients to tenantry_service;
