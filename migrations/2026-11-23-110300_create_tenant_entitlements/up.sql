create table tenant_entitlements (
    tenant_uid uuid not null,
    type text not null,
    entitlement_id uuid not null,
    status text not null,
    quantity bigint not null,
    contract_mode text not null,
    contract_number text not null,
    start_time timestamptz not null,
    end_time timestamptz,
    service_bundles text[] not null,
    create_time timestamptz not null,
    update_time timestamptz not null,
    version bigint not null,
    constraint tenant_entitlements_pkey primary key (tenant_uid, type),
    constraint tenant_entitlements_tenant_uid_fkey
        foreign key (tenant_uid) references tenants (uid) on delete cascade,
    constraint tenant_entitlements_type_check check (type in ('USERS', 'TRANSACTIONS')),
    constraint tenant_entitlements_status_check
        check (status in ('ACTIVE', 'INACTIVE', 'TERMINATED')),
    constraint tenant_entitlements_quantity_check check (quantity >= 0),
    constraint tenant_entitlements_contract_mode_check
        check (contract_mode in ('TRIAL', 'PRODUCTION')),
    constraint tenant_entitlements_end_time_check check (end_time > start_time)
);

comment on table tenant_entitlements is 'How much of the platform a tenant may use, one row for each type (3-11).';
comment on column tenant_entitlements.entitlement_id is 'UUIDv7 made by the service.';
comment on column tenant_entitlements.quantity is 'What the direct children of a service provider hold of it together is never more (3-08).';
comment on column tenant_entitlements.end_time is 'Null: no end.';
comment on column tenant_entitlements.service_bundles is 'What an ISSUANCE tenant may issue (3-09).';
comment on column tenant_entitlements.version is 'Counts the changes of the row; the etag is made from it.';

alter table tenant_entitlements enable row level security;
alter table tenant_entitlements force row level security;

create policy tenant_entitlements_owner on tenant_entitlements to tenantry_owner
    using (true) with check (true);

create policy tenant_entitlements_of_tenant on tenant_entitlements
    for select to tenantry_service
    using (exists (select 1 from tenants where tenants.uid = tenant_entitlements.tenant_uid));

-- No tenant raises itself. A service provider holds its own row while it gives to those below it, which
-- takes the right to update it: it is the row as it would be after the change that is refused.
create policy tenant_entitlements_added_from_above on tenant_entitlements
    for insert to tenantry_service
    with check (
        exists (select 1 from tenants where tenants.uid = tenant_entitlements.tenant_uid)
        and tenant_uid is distinct from
            (select nullif(current_setting('tenantry.tenant', true), '')::uuid)
        and tenant_uid is distinct from
            (select nullif(current_setting('tenantry.provider', true), '')::uuid)
    );

create policy tenant_entitlements_changed_from_above on tenant_entitlements
    for update to tenantry_service
    using (exists (select 1 from tenants where tenants.uid = tenant_entitlements.tenant_uid))
    with check (
        exists (select 1 from tenants where tenants.uid = tenant_entitlements.tenant_uid)
        and tenant_uid is distinct from
            (select nullif(current_setting('tenantry.tenant', true), '')::uuid)
        and tenant_uid is distinct from
            (select nullif(current_setting('tenantry.provider', true), '')::uuid)
    );

grant select, insert, update on tenant_entitlements to tenantry_service;
