create table tenant_service_settings (
    tenant_uid uuid not null,
    name text not null,
    enabled boolean not null,
    constraint tenant_service_settings_pkey primary key (tenant_uid, name),
    constraint tenant_service_settings_tenant_uid_fkey
        foreign key (tenant_uid) references tenants (uid) on delete cascade,
    constraint tenant_service_settings_name_check check (name ~ '^[a-z0-9.-]{1,64}$')
);

comment on table tenant_service_settings is 'Which services of the platform are on for a tenant (4-14).';

alter table tenant_service_settings enable row level security;
alter table tenant_service_settings force row level security;

create policy tenant_service_settings_owner on tenant_service_settings to tenantry_owner
    using (true) with check (true);

create policy tenant_service_settings_of_tenant on tenant_service_settings
    for select to tenantry_service
    using (exists (select 1 from tenants where tenants.uid = tenant_service_settings.tenant_uid));

-- No tenant raises itself: what a scope sees of its own tenant it does not change.
create policy tenant_service_settings_from_above on tenant_service_settings to tenantry_service
    using (
        exists (select 1 from tenants where tenants.uid = tenant_service_settings.tenant_uid)
        and tenant_uid is distinct from
            (select nullif(current_setting('tenantry.tenant', true), '')::uuid)
        and tenant_uid is distinct from
            (select nullif(current_setting('tenantry.provider', true), '')::uuid)
    )
    with check (
        exists (select 1 from tenants where tenants.uid = tenant_service_settings.tenant_uid)
        and tenant_uid is distinct from
            (select nullif(current_setting('tenantry.tenant', true), '')::uuid)
        and tenant_uid is distinct from
            (select nullif(current_setting('tenantry.provider', true), '')::uuid)
    );

grant select, insert, update, delete on tenant_service_settings to tenantry_service;
