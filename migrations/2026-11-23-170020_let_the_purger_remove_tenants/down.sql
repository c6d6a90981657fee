revoke select (event_id, tenant_uid), insert, update (before, after) on events from tenantry_purger;
drop policy events_purger_scrub on events;
drop policy events_purger_read on events;
drop policy events_purger_append on events;

revoke select (tenant_uid), delete on tenant_ip_allowlists from tenantry_purger;
drop policy tenant_ip_allowlists_purger on tenant_ip_allowlists;

revoke select (tenant_uid, type), delete on tenant_entitlements from tenantry_purger;
drop policy tenant_entitlements_purger on tenant_entitlements;

revoke select (tenant_uid, usage_id), delete on tenant_usage_records from tenantry_purger;
drop policy tenant_usage_records_purger on tenant_usage_records;

revoke select (tenant_uid, name), delete on tenant_service_settings from tenantry_purger;
drop policy tenant_service_settings_purger on tenant_service_settings;

revoke select (tenant_uid, group_id), delete on tenant_groups from tenantry_purger;
drop policy tenant_groups_purger on tenant_groups;

revoke select (tenant_uid, route, number), delete on api_keys from tenantry_purger;
drop policy api_keys_purger on api_keys;

revoke select (tenant_uid, key), delete on tenant_external_ids from tenantry_purger;
drop policy tenant_external_ids_purger on tenant_external_ids;

revoke select (kind, tenant_uid), delete on tenant_directory from tenantry_purger;
drop policy tenant_directory_purger on tenant_directory;

revoke select (tenant_uid) on tenant_end_user_app_data from tenantry_purger;
drop policy tenant_end_user_app_data_purger on tenant_end_user_app_data;

revoke select, insert, delete on tenant_tombstones from tenantry_purger;
drop policy tenant_tombstones_purger on tenant_tombstones;

revoke select (uid, account_id, tenant_id, parent_uid, ancestors, state, purge_time),
    update (purge_time), delete on tenants from tenantry_purger;
drop policy tenants_purger on tenants;

drop index tenants_purge_time_idx;
