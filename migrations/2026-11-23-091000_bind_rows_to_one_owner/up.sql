-- A row names its owner twice, by account and by tenant, and each kind of scope looked at one of them:
-- within its own account a statement could have written a key that speaks for a tenant of another, or
-- an event into another's log. The foreign keys do not help, for they see behind the policies.

drop policy api_keys_account on api_keys;
create policy api_keys_account on api_keys to tenantry_service
    using (account_id = (select nullif(current_setting('tenantry.account', true), '')))
    with check (account_id = (select nullif(current_setting('tenantry.account', true), ''))
        and (tenant_uid is null
            or exists (select 1 from tenants where tenants.uid = api_keys.tenant_uid)));

drop policy api_keys_of_tenant on api_keys;
create policy api_keys_of_tenant on api_keys to tenantry_service
    using (exists (select 1 from tenants where tenants.uid = api_keys.tenant_uid))
    with check (exists (
        select 1 from tenants
        where tenants.uid = api_keys.tenant_uid and tenants.account_id = api_keys.account_id
    ));

drop policy events_append on events;
create policy events_append on events for insert to tenantry_service
    with check (
        (account_id is null and tenant_uid is null)
        or (select current_setting('tenantry.system', true)) = 'on'
        or (tenant_uid is null
            and account_id = (select nullif(current_setting('tenantry.account', true), '')))
        or exists (
            select 1 from tenants
            where tenants.uid = events.tenant_uid and tenants.account_id = events.account_id
        )
    );
