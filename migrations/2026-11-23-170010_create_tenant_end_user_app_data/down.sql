drop policy events_append on events;
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
    );

drop table tenant_end_user_app_data;
