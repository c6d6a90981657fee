create table tenant_ip_allowlists (
    tenant_uid uuid not null,
    enabled boolean not null,
    rules jsonb not null,
    update_time timestamptz not null,
    version bigint not null,
    constraint tenant_ip_allowlists_pkey primary key (tenant_uid),
    constraint tenant_ip_allowlists_tenant_uid_fkey
        foreign key (tenant_uid) references tenants (uid) on delete cascade
);

comment on table tenant_ip_allowlists is 'From where the API keys of a tenant work (4-10); no row: from anywhere.';
comment on column tenant_ip_allowlists.enabled is 'Whether the rules bind; if not, they are kept and ignored (4-12).';
comment on column tenant_ip_allowlists.rules is 'An array of {"name", "start", "end"}: inclusive ranges of IP addresses, IPv4 or IPv6.';
comment on column tenant_ip_allowlists.version is 'Counts the changes of the row; the etag is made from it.';

alter table tenant_ip_allowlists enable row level security;
alter table tenant_ip_allowlists force row level security;

create policy tenant_ip_allowlists_owner on tenant_ip_allowlists to tenantry_owner
    using (true) with check (true);

create policy tenant_ip_allowlists_of_tenant on tenant_ip_allowlists to tenantry_service
    using (exists (select 1 from tenants where tenants.uid = tenant_ip_allowlists.tenant_uid))
    with check (exists (select 1 from tenants where tenants.uid = tenant_ip_allowlists.tenant_uid));

create policy tenant_ip_allowlists_verifier on tenant_ip_allowlists for select to tenantry_verifier
    using (true);

grant select, insert, update on tenant_ip_allowlists to tenantry_service;
grant select (tenant_uid, enabled, rules) on tenant_ip_allowlists to tenantry_verifier;

create table account_ip_allowlists (
    account_id text not null,
    enabled boolean not null,
    rules jsonb not null,
    update_time timestamptz not null,
    version bigint not null,
    constraint account_ip_allowlists_pkey primary key (account_id),
    constraint account_ip_allowlists_account_id_fkey
        foreign key (account_id) references accounts (account_id) on delete cascade
);

comment on table account_ip_allowlists is 'From where the API keys of an account itself work (4-13); no row: from anywhere.';
comment on column account_ip_allowlists.enabled is 'Whether the rules bind; if not, they are kept and ignored (4-12).';
comment on column account_ip_allowlists.rules is 'As in tenant_ip_allowlists.';
comment on column account_ip_allowlists.version is 'Counts the changes of the row; the etag is made from it.';

alter table account_ip_allowlists enable row level security;
alter table account_ip_allowlists force row level security;

create policy account_ip_allowlists_owner on account_ip_allowlists to tenantry_owner
    using (true) with check (true);

create policy account_ip_allowlists_system on account_ip_allowlists to tenantry_service
    using ((select current_setting('tenantry.system', true)) = 'on')
    with check ((select current_setting('tenantry.system', true)) = 'on');

create policy account_ip_allowlists_account on account_ip_allowlists to tenantry_service
    using (account_id = (select nullif(current_setting('tenantry.account', true), '')))
    with check (account_id = (select nullif(current_setting('tenantry.account', true), '')));

create policy account_ip_allowlists_verifier on account_ip_allowlists for select to tenantry_verifier
    using (true);

grant select, insert, update on account_ip_allowlists to tenantry_service;
grant select (account_id, enabled, rules) on account_ip_allowlists to tenantry_verifier;
