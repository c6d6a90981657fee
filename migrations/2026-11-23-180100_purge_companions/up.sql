-- What CreateTenant brought with a tenant goes with it as the rest does, some at a time.

create policy external_keys_purger on external_keys to tenantry_purger
    using (exists (
        select 1 from tenant_tombstones
        where tenant_tombstones.tenant_uid = external_keys.tenant_uid
    ))
    with check (false);

grant select (tenant_uid, route, number), delete on external_keys to tenantry_purger;

create policy tenant_app_key_configs_purger on tenant_app_key_configs to tenantry_purger
    using (exists (
        select 1 from tenant_tombstones
        where tenant_tombstones.tenant_uid = tenant_app_key_configs.tenant_uid
    ))
    with check (false);

grant select (tenant_uid, app_key_id, environment), delete on tenant_app_key_configs to tenantry_purger;

create policy tenant_app_keys_purger on tenant_app_keys to tenantry_purger
    using (exists (
        select 1 from tenant_tombstones
        where tenant_tombstones.tenant_uid = tenant_app_keys.tenant_uid
    ))
    with check (false);

grant select (tenant_uid, app_key_id), delete on tenant_app_keys to tenantry_purger;

create policy tenant_installations_purger on tenant_installations to tenantry_purger
    using (exists (
        select 1 from tenant_tombstones
        where tenant_tombstones.tenant_uid = tenant_installations.tenant_uid
    ))
    with check (false);

grant select (tenant_uid, installation_id), delete on tenant_installations to tenantry_purger;

create policy tenant_oauth_clients_purger on tenant_oauth_clients to tenantry_purger
    using (exists (
        select 1 from tenant_tombstones
        where tenant_tombstones.tenant_uid = tenant_oauth_clients.tenant_uid
    ))
    with check (false);

grant select (tenant_uid), delete on tenant_oauth_clients to tenantry_purger;

create policy operations_purger on operations to tenantry_purger
    using (exists (
        select 1 from tenant_tombstones
        where tenant_tombstones.tenant_uid = operations.tenant_uid
    ))
    with check (false);

grant select (tenant_uid, operation_id), delete on operations to tenantry_purger;
