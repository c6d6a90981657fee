create table events (
    event_id uuid not null,
    transaction_id xid8 not null default pg_current_xact_id(),
    type text not null,
    method text not null,
    account_id text,
    tenant_uid uuid,
    tenant_id text,
    resource_type text not null,
    resource_id text not null,
    actor text not null,
    correlation_id text not null,
    before jsonb,
    after jsonb,
    event_time timestamptz not null,
    constraint events_pkey primary key (event_id),
    constraint events_type_check check (type ~ '^[a-z_]+\.[a-z_]+$')
);

comment on table events is 'Audit log and change feed: one row for each change, written in the transaction of the change.';
comment on column events.event_id is 'UUIDv7 made by the service.';
comment on column events.transaction_id is 'The transaction that wrote the row: what the feed compares with a snapshot, so that a late commit is not skipped.';
comment on column events.type is 'Resource and what happened to it, such as tenant.created.';
comment on column events.method is 'The RPC that changed it, such as tenantry.v1.TenantService/CreateTenant.';
comment on column events.account_id is 'Null for what belongs to the system.';
comment on column events.tenant_uid is 'Null where no tenant is concerned. No foreign key: events outlive what they tell of.';
comment on column events.tenant_id is 'The same tenant by the id that people use.';
comment on column events.actor is 'The key that called, as "api_key:" and its id; "system" for the service itself.';
comment on column events.before is 'The resource before the change, without secrets; null when it was created.';
comment on column events.after is 'The resource after the change, without secrets; null when it is gone.';

create index events_tenant_uid_idx on events (tenant_uid, event_id) where tenant_uid is not null;

alter table events enable row level security;
alter table events force row level security;

create policy events_owner on events to tenantry_owner
    using (true) with check (true);

-- Append only: the service may write events within its scope and can neither change nor delete one.
create policy events_append on events for insert to tenantry_service
    with check (
        (account_id is null and tenant_uid is null)
        or (select current_setting('tenantry.system', true)) = 'on'
        or account_id = (select nullif(current_setting('tenantry.account', true), ''))
        or exists (select 1 from tenants where tenants.uid = events.tenant_uid)
    );

grant insert on events to tenantry_service;
