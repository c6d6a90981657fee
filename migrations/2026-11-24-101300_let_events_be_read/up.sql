create policy events_system on events for select to tenantry_service
    using ((select current_setting('tenantry.system', true)) = 'on');

create policy events_account on events for select to tenantry_service
    using (account_id = (select nullif(current_setting('tenantry.account', true), '')));

create policy events_tenant on events for select to tenantry_service
    using (tenant_uid = (select nullif(current_setting('tenantry.tenant', true), '')::uuid));

-- Whoever was above a tenant when it happened.
create policy events_provider on events for select to tenantry_service
    using (tenant_uid = (select nullif(current_setting('tenantry.provider', true), '')::uuid)
        or ancestors @> array[(select nullif(current_setting('tenantry.provider', true), '')::uuid)]);

grant select on events to tenantry_service;

-- The feed reads what happened, whomever it concerns; who is told of it is decided for each watcher.
create policy events_feed on events for select to tenantry_feed
    using (true);

grant select on events to tenantry_feed;
