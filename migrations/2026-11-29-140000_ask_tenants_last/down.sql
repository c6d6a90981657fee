drop policy authorization_requests_decided on authorization_requests;
drop policy authorization_requests_of_tenant_added on authorization_requests;
drop policy authorization_requests_seen on authorization_requests;

create policy authorization_requests_of_publisher on authorization_requests for select to tenantry_service
    using (publisher_account_id = (select coalesce(
        nullif(current_setting('tenantry.account', true), ''),
        nullif(current_setting('tenantry.publisher', true), ''))));

create policy authorization_requests_of_tenant on authorization_requests to tenantry_service
    using (exists (select 1 from tenants where tenants.uid = authorization_requests.tenant_uid))
    with check (exists (select 1 from tenants where tenants.uid = authorization_requests.tenant_uid));

drop policy authorized_tenants_seen on authorized_tenants;

create policy authorized_tenants_of_publisher on authorized_tenants for select to tenantry_service
    using ((select current_setting('tenantry.system', true)) = 'on'
        or publisher_account_id = (select coalesce(
            nullif(current_setting('tenantry.account', true), ''),
            nullif(current_setting('tenantry.publisher', true), ''))));

create policy authorized_tenants_of_tenant on authorized_tenants for select to tenantry_service
    using (exists (select 1 from tenants where tenants.uid = authorized_tenants.tenant_uid));

drop policy tenant_authorizations_changed on tenant_authorizations;
drop policy tenant_authorizations_added on tenant_authorizations;
drop policy tenant_authorizations_seen on tenant_authorizations;

create policy tenant_authorizations_of_tenant on tenant_authorizations to tenantry_service
    using (exists (select 1 from tenants where tenants.uid = tenant_authorizations.tenant_uid))
    with check (exists (select 1 from tenants where tenants.uid = tenant_authorizations.tenant_uid));

create policy tenant_authorizations_of_publisher on tenant_authorizations for select to tenantry_service
    using (publisher_account_id = (select coalesce(
        nullif(current_setting('tenantry.account', true), ''),
        nullif(current_setting('tenantry.publisher', true), ''))));
