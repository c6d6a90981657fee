create table expiry_notices (
    resource_type text not null,
    resource text not null,
    expire_time timestamptz not null,
    days_ahead integer not null,
    notice_time timestamptz not null,
    constraint expiry_notices_pkey primary key (resource_type, resource, expire_time, days_ahead),
    constraint expiry_notices_days_ahead_check check (days_ahead in (1, 7, 30))
);

comment on table expiry_notices is 'What was told ahead of the end of keys and trials, so that it is told once.';
comment on column expiry_notices.resource is 'Its primary key, as text.';

create index expiry_notices_expire_time_idx on expiry_notices (expire_time);

alter table expiry_notices enable row level security;
alter table expiry_notices force row level security;

create policy expiry_notices_owner on expiry_notices to tenantry_owner
    using (true) with check (true);

create policy expiry_notices_expiry on expiry_notices to tenantry_expiry
    using (true) with check (true);

grant select, insert, delete on expiry_notices to tenantry_expiry;

create policy api_keys_expiry on api_keys for select to tenantry_expiry
    using (expire_time is not null and revoke_time is null);

grant select (route, number, account_id, tenant_uid, expire_time, create_time, revoke_time)
    on api_keys to tenantry_expiry;

create policy external_keys_expiry on external_keys for select to tenantry_expiry
    using (expire_time is not null and revoke_time is null);

grant select (route, number, tenant_uid, expire_time, create_time, revoke_time)
    on external_keys to tenantry_expiry;

create policy tenants_expiry on tenants for select to tenantry_expiry
    using (true);

grant select (uid, tenant_id, account_id, ancestors, state, trial_expire_time, create_time)
    on tenants to tenantry_expiry;

create policy events_expiry on events for insert to tenantry_expiry
    with check (type in ('api_key.expiring', 'external_key.expiring', 'tenant.expiring') and actor = 'system');

grant insert (event_id, type, method, account_id, tenant_uid, tenant_id, ancestors, resource_type, resource_id,
        actor, on_behalf_of, correlation_id, before, after, event_time)
    on events to tenantry_expiry;

-- Who is above the tenant of an operation that failed is a part of what is told of it.
create policy tenants_operator on tenants for select to tenantry_operator
    using (true);

grant select (uid, ancestors) on tenants to tenantry_operator;

create policy tenant_tombstones_operator on tenant_tombstones for select to tenantry_operator
    using (true);

grant select (tenant_uid, ancestors) on tenant_tombstones to tenantry_operator;
