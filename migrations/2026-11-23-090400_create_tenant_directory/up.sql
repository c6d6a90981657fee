create table tenant_directory (
    kind text not null,
    key text not null,
    tenant_uid uuid not null,
    create_time timestamptz not null,
    constraint tenant_directory_pkey primary key (kind, key),
    constraint tenant_directory_kind_check check (kind in ('TENANT_ID', 'CODE', 'HOSTNAME', 'NAME'))
);

comment on table tenant_directory is 'What must be unique across tenants, keyed by itself: a claim is taken by inserting it.';
comment on column tenant_directory.kind is 'TENANT_ID claims stay for ever; CODE and HOSTNAME until purge; NAME (1-05) as long as it is the name of a tenant that was created without a code.';
comment on column tenant_directory.key is 'The id, code or hostname; for NAME the account, the console namespace and the name.';
comment on column tenant_directory.tenant_uid is 'Who holds the claim. No foreign key: a claim may outlive its tenant, and is distributed by its own key.';

create index tenant_directory_tenant_uid_idx on tenant_directory (tenant_uid);

alter table tenant_directory enable row level security;
alter table tenant_directory force row level security;

create policy tenant_directory_owner on tenant_directory to tenantry_owner
    using (true) with check (true);

-- Seen and changed by whoever sees the tenant: the policies of tenants apply within the subquery.
create policy tenant_directory_of_tenant on tenant_directory to tenantry_service
    using (exists (select 1 from tenants where tenants.uid = tenant_directory.tenant_uid))
    with check (exists (select 1 from tenants where tenants.uid = tenant_directory.tenant_uid));

grant select, insert, delete on tenant_directory to tenantry_service;
