drop policy events_append on events;
create policy events_append on events for insert to tenantry_service
    with check (
        (account_id is null and tenant_uid is null)
        or (select current_setting('tenantry.system', true)) = 'on'
        or account_id = (select nullif(current_setting('tenantry.account', true), ''))
        or exists (select 1 from tenants where tenants.uid = events.tenant_uid)
    );

drop policy api_keys_of_tenant on api_keys;
create policy api_keys_of_tenant on api_keys to tenantry_service
    using (exists (select 1 from tenants where tenants.uid = api_keys.tenant_uid))
    with check (exists (select 1 from tenants where tenants.uid = api_keys.tenant_uid));

drop policy api_keys_account on api_keys;
create policy api_keys_account on api_keys to tenantry_service
    using (account_id = (select nullif(current_setting('tenantry.account', true), '')))
    with check (account_id = (select nullif(current_setting('tenantry.account', true), '')));
