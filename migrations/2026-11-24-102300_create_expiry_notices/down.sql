revoke select (tenant_uid, ancestors) on tenant_tombstones from tenantry_operator;
drop policy tenant_tombstones_operator on tenant_tombstones;
revoke select (uid, ancestors) on tenants from tenantry_operator;
drop policy tenants_operator on tenants;

revoke insert (event_id, type, method, account_id, tenant_uid, tenant_id, ancestors, resource_type, resource_id,
        actor, on_behalf_of, correlation_id, before, after, event_time)
    on events from tenantry_expiry;
drop policy events_expiry on events;

revoke select (uid, tenant_id, account_id, ancestors, state, trial_expire_time, create_time)
    on tenants from tenantry_expiry;
drop policy tenants_expiry on tenants;

revoke select (route, number, tenant_uid, expire_time, create_time, revoke_time)
    on external_keys from tenantry_expiry;
drop policy external_keys_expiry on external_keys;

revoke select (route, number, account_id, tenant_uid, expire_time, create_time, revoke_time)
    on api_keys from tenantry_expiry;
drop policy api_keys_expiry on api_keys;

drop table expiry_notices;
