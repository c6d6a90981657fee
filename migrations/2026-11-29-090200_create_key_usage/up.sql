create table key_usage (
    route bigint not null,
    number bigint not null,
    tenant_uid uuid,
    last_used_time timestamptz not null,
    constraint key_usage_pkey primary key (route, number),
    constraint key_usage_tenant_uid_fkey
        foreign key (tenant_uid) references tenants (uid) on delete cascade
) with (fillfactor = 70);

comment on table key_usage is 'When keys were used last. Written at most once a minute for a key, so that the keys themselves never are.';
comment on column key_usage.tenant_uid is 'Whose key it is; null for a key of the system or an account.';
comment on column key_usage.last_used_time is 'To the minute. No index has it: an update stays on its page.';

create index key_usage_tenant_uid_idx on key_usage (tenant_uid) where tenant_uid is not null;

alter table key_usage enable row level security;
alter table key_usage force row level security;

create policy key_usage_owner on key_usage to tenantry_owner
    using (true) with check (true);

create policy key_usage_meter on key_usage to tenantry_meter
    using (true) with check (true);
grant select, insert, update on key_usage to tenantry_meter;

create policy key_usage_of_key on key_usage to tenantry_service
    using (exists (select 1 from api_keys as key
            where key.route = key_usage.route and key.number = key_usage.number)
        or exists (select 1 from external_keys as key
            where key.route = key_usage.route and key.number = key_usage.number));
grant select, delete on key_usage to tenantry_service;

create policy key_usage_purger on key_usage to tenantry_purger
    using (exists (
        select 1 from tenant_tombstones
        where tenant_tombstones.tenant_uid = key_usage.tenant_uid
    ))
    with check (false);
grant select (tenant_uid, route, number), delete on key_usage to tenantry_purger;
