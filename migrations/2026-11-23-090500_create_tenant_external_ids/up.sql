create table tenant_external_ids (
    tenant_uid uuid not null,
    key text not null,
    value text not null,
    constraint tenant_external_ids_pkey primary key (tenant_uid, key),
    constraint tenant_external_ids_tenant_uid_fkey
        foreign key (tenant_uid) references tenants (uid) on delete cascade,
    constraint tenant_external_ids_key_check check (key ~ '^[A-Za-z0-9_-]{1,64}$'),
    constraint tenant_external_ids_value_check check (char_length(value) <= 256)
);

comment on table tenant_external_ids is 'Ids that others gave to a tenant; no logic of ours, hence not unique (2-10).';
comment on column tenant_external_ids.key is 'Whose id it is; "1" to "4" are the four of the telephony platform.';
comment on column tenant_external_ids.value is 'Opaque, may be empty; an empty one is never found by look-up.';

create index tenant_external_ids_key_value_idx on tenant_external_ids (key, value);

alter table tenant_external_ids enable row level security;
alter table tenant_external_ids force row level security;

create policy tenant_external_ids_owner on tenant_external_ids to tenantry_owner
    using (true) with check (true);

create policy tenant_external_ids_of_tenant on tenant_external_ids to tenantry_service
    using (exists (select 1 from tenants where tenants.uid = tenant_external_ids.tenant_uid))
    with check (exists (select 1 from tenants where tenants.uid = tenant_external_ids.tenant_uid));

grant select, insert, update, delete on tenant_external_ids to tenantry_service;
