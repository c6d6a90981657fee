-- The purger removes what is left of a tenant when its time is over, and what an expunged one said of
-- people. It reads what tells rows apart and nothing of what is in them. A tombstone begins a purge, and is
-- made for a deleted tenant only: everything else here asks for it.

create index tenants_purge_time_idx on tenants (purge_time, uid) where purge_time is not null;

-- It holds the row that it removes, which takes the right to update it: no row passes the check.
create policy tenants_purger on tenants to tenantry_purger
    using (state = 'DELETED')
    with check (false);

grant select (uid, account_id, tenant_id, parent_uid, ancestors, state, purge_time),
    update (purge_time), delete on tenants to tenantry_purger;

create policy tenant_tombstones_purger on tenant_tombstones to tenantry_purger
    using (true)
    with check (exists (select 1 from tenants where tenants.uid = tenant_tombstones.tenant_uid));

grant select, insert, delete on tenant_tombstones to tenantry_purger;

-- Whether any is left; the purger cannot remove it.
create policy tenant_end_user_app_data_purger on tenant_end_user_app_data
    for select to tenantry_purger
    using (exists (
        select 1 from tenant_tombstones
        where tenant_tombstones.tenant_uid = tenant_end_user_app_data.tenant_uid
    ));

grant select (tenant_uid) on tenant_end_user_app_data to tenantry_purger;

-- The tenant_id stays claimed for ever.
create policy tenant_directory_purger on tenant_directory to tenantry_purger
    using (kind <> 'TENANT_ID' and exists (
        select 1 from tenant_tombstones
        where tenant_tombstones.tenant_uid = tenant_directory.tenant_uid
    ))
    with check (false);

grant select (kind, tenant_uid), delete on tenant_directory to tenantry_purger;

create policy tenant_external_ids_purger on tenant_external_ids to tenantry_purger
    using (exists (
        select 1 from tenant_tombstones
        where tenant_tombstones.tenant_uid = tenant_external_ids.tenant_uid
    ))
    with check (false);

grant select (tenant_uid, key), delete on tenant_external_ids to tenantry_purger;

create policy api_keys_purger on api_keys to tenantry_purger
    using (exists (
        select 1 from tenant_tombstones
        where tenant_tombstones.tenant_uid = api_keys.tenant_uid
    ))
    with check (false);

grant select (tenant_uid, route, number), delete on api_keys to tenantry_purger;

create policy tenant_groups_purger on tenant_groups to tenantry_purger
    using (exists (
        select 1 from tenant_tombstones
        where tenant_tombstones.tenant_uid = tenant_groups.tenant_uid
    ))
    with check (false);

grant select (tenant_uid, group_id), delete on tenant_groups to tenantry_purger;

create policy tenant_service_settings_purger on tenant_service_settings to tenantry_purger
    using (exists (
        select 1 from tenant_tombstones
        where tenant_tombstones.tenant_uid = tenant_service_settings.tenant_uid
    ))
    with check (false);

grant select (tenant_uid, name), delete on tenant_service_settings to tenantry_purger;

create policy tenant_usage_records_purger on tenant_usage_records to tenantry_purger
    using (exists (
        select 1 from tenant_tombstones
        where tenant_tombstones.tenant_uid = tenant_usage_records.tenant_uid
    ))
    with check (false);

grant select (tenant_uid, usage_id), delete on tenant_usage_records to tenantry_purger;

create policy tenant_entitlements_purger on tenant_entitlements to tenantry_purger
    using (exists (
        select 1 from tenant_tombstones
        where tenant_tombstones.tenant_uid = tenant_entitlements.tenant_uid
    ))
    with check (false);

grant select (tenant_uid, type), delete on tenant_entitlements to tenantry_purger;

create policy tenant_ip_allowlists_purger on tenant_ip_allowlists to tenantry_purger
    using (exists (
        select 1 from tenant_tombstones
        where tenant_tombstones.tenant_uid = tenant_ip_allowlists.tenant_uid
    ))
    with check (false);

grant select (tenant_uid), delete on tenant_ip_allowlists to tenantry_purger;

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

grant select (event_id, tenant_uid), insert, update (before, after) on events to tenantry_purger;
