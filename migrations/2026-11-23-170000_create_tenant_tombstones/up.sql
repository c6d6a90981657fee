create table tenant_tombstones (
    tenant_uid uuid not null,
    tenant_id text not null,
    account_id text not null,
    ancestors uuid[] not null,
    purge_begin_time timestamptz not null,
    constraint tenant_tombstones_pkey primary key (tenant_uid),
    constraint tenant_tombstones_account_id_fkey foreign key (account_id) references accounts (account_id)
);

comment on table tenant_tombstones is 'Tenants whose purge has begun, and those purged of which app data is left: who may still reach that.';
comment on column tenant_tombstones.tenant_uid is 'No foreign key: it outlives the row in tenants.';
comment on column tenant_tombstones.tenant_id is 'The id that people use, which stays claimed in tenant_directory.';
comment on column tenant_tombstones.ancestors is 'As in tenants: what a service provider''s sight rests on; kept when a tenant above is moved.';
comment on column tenant_tombstones.purge_begin_time is 'From here on there is no way back, whatever a node''s clock says.';

create index tenant_tombstones_tenant_id_idx on tenant_tombstones (tenant_id);
create index tenant_tombstones_account_id_idx on tenant_tombstones (account_id);

alter table tenant_tombstones enable row level security;
alter table tenant_tombstones force row level security;

create policy tenant_tombstones_owner on tenant_tombstones to tenantry_owner
    using (true) with check (true);

-- For those above the tenant alone: it has no keys any more.
create policy tenant_tombstones_system on tenant_tombstones to tenantry_service
    using ((select current_setting('tenantry.system', true)) = 'on')
    with check ((select current_setting('tenantry.system', true)) = 'on');

create policy tenant_tombstones_account on tenant_tombstones to tenantry_service
    using (account_id = (select nullif(current_setting('tenantry.account', true), '')))
    with check (account_id = (select nullif(current_setting('tenantry.account', true), '')));

create policy tenant_tombstones_provider on tenant_tombstones to tenantry_service
    using (ancestors @> array[(select nullif(current_setting('tenantry.provider', true), '')::uuid)])
    with check (ancestors @> array[(select nullif(current_setting('tenantry.provider', true), '')::uuid)]);

grant select, update (ancestors), delete on tenant_tombstones to tenantry_service;
