create table tenant_end_user_app_data (
    tenant_uid uuid not null,
    application_id text not null,
    end_user_id text not null,
    data jsonb not null,
    create_time timestamptz not null,
    update_time timestamptz not null,
    version bigint not null,
    constraint tenant_end_user_app_data_pkey primary key (tenant_uid, application_id, end_user_id),
    constraint tenant_end_user_app_data_application_id_check
        check (application_id ~ '^[a-z0-9-]{1,30}$'),
    constraint tenant_end_user_app_data_end_user_id_check
        check (char_length(end_user_id) between 1 and 128),
    constraint tenant_end_user_app_data_data_check check (jsonb_typeof(data) = 'object')
);

comment on table tenant_end_user_app_data is 'What applications keep of the end users of a tenant, one document for each (2-27).';
comment on column tenant_end_user_app_data.tenant_uid is 'No foreign key: what a deletion leaves of excluded applications outlives the tenant.';
comment on column tenant_end_user_app_data.end_user_id is 'Opaque; the application''s own.';
comment on column tenant_end_user_app_data.version is 'Counts the changes of the row; the etag is made from it.';

create index tenant_end_user_app_data_end_user_id_idx
    on tenant_end_user_app_data (tenant_uid, end_user_id, application_id);

alter table tenant_end_user_app_data enable row level security;
alter table tenant_end_user_app_data force row level security;

create policy tenant_end_user_app_data_owner on tenant_end_user_app_data to tenantry_owner
    using (true) with check (true);

-- Of a purged tenant, what is left is read and deleted; nothing is added.
create policy tenant_end_user_app_data_of_tenant on tenant_end_user_app_data to tenantry_service
    using (
        exists (select 1 from tenants where tenants.uid = tenant_end_user_app_data.tenant_uid)
        or exists (
            select 1 from tenant_tombstones
            where tenant_tombstones.tenant_uid = tenant_end_user_app_data.tenant_uid
        )
    )
    with check (
        exists (select 1 from tenants where tenants.uid = tenant_end_user_app_data.tenant_uid)
    );

grant select, insert, update, delete on tenant_end_user_app_data to tenantry_service;

-- Its deletion is told of as every other is.
drop policy events_append on events;
create policy events_append on events for insert to tenantry_service
    with check (
        (select current_setting('tenantry.system', true)) = 'on'
        or (account_id is null and tenant_uid is null
            and actor = 'api_key:' || (select nullif(current_setting('tenantry.credential', true), '')))
        or (tenant_uid is null
            and account_id = (select nullif(current_setting('tenantry.account', true), '')))
        or exists (
            select 1 from tenants
            where tenants.uid = events.tenant_uid and tenants.account_id = events.account_id
        )
        or exists (
            select 1 from tenant_tombstones
            where tenant_tombstones.tenant_uid = events.tenant_uid
                and tenant_tombstones.account_id = events.account_id
        )
    );
