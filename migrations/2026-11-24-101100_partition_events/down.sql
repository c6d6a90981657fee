-- The first partition may have been dropped meanwhile.
do $$
begin
    if to_regclass('events_early') is null then
        create table events_early (like events including defaults including indexes including comments);
    else
        alter table events detach partition events_early;
    end if;
end
$$;
insert into events_early select * from events;
drop table events;

alter table events_early rename to events;
alter index events_early_pkey rename to events_pkey;
alter index events_early_tenant_uid_idx rename to events_tenant_uid_idx;
alter index events_early_tenant_id_idx rename to events_tenant_id_idx;
alter index events_early_position_idx rename to events_position_idx;
alter index events_early_account_id_idx rename to events_account_id_idx;
alter index events_early_resource_id_idx rename to events_resource_id_idx;
alter index events_early_actor_idx rename to events_actor_idx;
alter index events_early_correlation_id_idx rename to events_correlation_id_idx;

delete from event_partitions where partition <> 'events_early';
insert into event_partitions values ('events_early', '-infinity', 'epoch')
    on conflict (partition) do nothing;
update event_partitions
    set until_time = greatest(until_time,
        date_trunc('week', now() at time zone 'UTC') at time zone 'UTC' + interval '5 weeks');
do $$
begin
    execute format('alter table events add constraint events_early_check check (event_id < %L) not valid',
        event_id_at((select until_time from event_partitions)));
end
$$;

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

grant insert on events to tenantry_service, tenantry_operator, tenantry_purger;
grant select (event_id, tenant_uid), update (before, after) on events to tenantry_purger;
