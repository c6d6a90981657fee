-- What was the table becomes the first partition as it is: nothing is copied and, since its constraint was
-- checked before, nothing is read.
alter table events rename to events_early;
alter index events_pkey rename to events_early_pkey;
alter index events_tenant_uid_idx rename to events_early_tenant_uid_idx;
alter index events_tenant_id_idx rename to events_early_tenant_id_idx;
alter index events_position_idx rename to events_early_position_idx;
alter index events_account_id_idx rename to events_early_account_id_idx;
alter index events_resource_id_idx rename to events_early_resource_id_idx;
alter index events_actor_idx rename to events_early_actor_idx;
alter index events_correlation_id_idx rename to events_early_correlation_id_idx;

drop policy events_append on events_early;
drop policy events_of_providers on events_early;
drop policy events_operator on events_early;
drop policy events_purger_append on events_early;
drop policy events_purger_read on events_early;
drop policy events_purger_scrub on events_early;
revoke all on events_early from tenantry_service, tenantry_operator, tenantry_purger;

create table events (
    like events_early including defaults including comments,
    constraint events_pkey primary key (event_id),
    constraint events_type_check check (type ~ '^[a-z_]+\.[a-z_]+$')
) partition by range (event_id);

comment on table events is 'Audit log and change feed: one row for each change, written in the transaction of the change. A partition for each week, by the time in the id.';

create index events_tenant_uid_idx on events (tenant_uid, event_id) where tenant_uid is not null;
create index events_tenant_id_idx on events (tenant_id, event_id) where tenant_id is not null;
create index events_position_idx on events (position, recorded_time, event_id);
create index events_account_id_idx on events (account_id, event_id) where account_id is not null;
create index events_resource_id_idx on events (resource_id, event_id);
create index events_actor_idx on events (actor, event_id);
create index events_correlation_id_idx on events (correlation_id, event_id);

alter table events enable row level security;
alter table events force row level security;

create policy events_owner on events to tenantry_owner
    using (true) with check (true);

-- Append only: the service may write events within its scope and can neither change nor delete one.
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

create policy events_of_providers on events for insert to tenantry_service
    with check ((select nullif(current_setting('tenantry.provider', true), '')) is not null
        and tenant_uid is null and type = 'reseller.created'
        and account_id = (select account_of_scope()));

create policy events_operator on events for insert to tenantry_operator
    with check (resource_type = 'operation' and type = 'operation.failed');

-- It tells of purges alone, and of what was told before it can empty the payloads alone.
create policy events_purger_append on events for insert to tenantry_purger
    with check (type = 'tenant.purged' and actor = 'system' and exists (
        select 1 from tenant_tombstones
        where tenant_tombstones.tenant_uid = events.tenant_uid
            and tenant_tombstones.account_id = events.account_id
    ));

create policy events_purger_read on events for select to tenantry_purger
    using (exists (
        select 1 from tenant_tombstones
        where tenant_tombstones.tenant_uid = events.tenant_uid
    ));

create policy events_purger_scrub on events for update to tenantry_purger
    using (exists (
        select 1 from tenant_tombstones
        where tenant_tombstones.tenant_uid = events.tenant_uid
    ))
    with check (before is null and after is null);

-- Where an event stands in the feed says the database alone.
grant insert (event_id, type, method, account_id, tenant_uid, tenant_id, ancestors, resource_type, resource_id,
        actor, on_behalf_of, correlation_id, before, after, event_time)
    on events to tenantry_service, tenantry_operator, tenantry_purger;
grant select (event_id, tenant_uid), update (before, after) on events to tenantry_purger;

do $$
declare
    until timestamptz := (select until_time from event_partitions where partition = 'events_early');
begin
    execute format('alter table events attach partition events_early for values from (minvalue) to (%L)',
        event_id_at(until));
end
$$;

alter table events_early drop constraint events_early_check;

-- What has no partition, because nobody made one in time, is kept all the same.
create table events_rest partition of events default;

alter table events_rest enable row level security;
alter table events_rest force row level security;

create policy events_rest_owner on events_rest to tenantry_owner
    using (true) with check (true);
