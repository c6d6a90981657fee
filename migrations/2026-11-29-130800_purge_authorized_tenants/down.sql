drop policy events_purger_to_publishers on events;
revoke select (tenant_id, application_id, publisher_account_id, environment, state, valid_until)
    on tenant_authorizations from tenantry_purger;
revoke select (tenant_uid, publisher_account_id, application_id, environment), delete
    on authorized_tenants from tenantry_purger;
drop policy authorized_tenants_purger on authorized_tenants;
