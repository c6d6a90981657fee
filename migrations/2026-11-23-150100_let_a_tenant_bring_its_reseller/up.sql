-- Where the operator has it so, a tenant's reseller is made along with the tenant (2-16): also by a
-- service provider, which is bound to no account but acts within one.

create policy resellers_auto_create on resellers for insert to tenantry_service
    with check ((select nullif(current_setting('tenantry.provider', true), '')) is not null
        and account_id = (select account_of_scope()));

create policy events_of_providers on events for insert to tenantry_service
    with check ((select nullif(current_setting('tenantry.provider', true), '')) is not null
        and tenant_uid is null and type = 'reseller.created'
        and account_id = (select account_of_scope()));
