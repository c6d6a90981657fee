drop policy events_expired on events;
revoke select (tenant_uid, authorization_id, tenant_id, application_id, publisher_account_id, environment, state, valid_until),
    update (state) on tenant_authorizations from tenantry_expiry;
drop policy tenant_authorizations_expire on tenant_authorizations;
drop policy tenant_authorizations_expiry on tenant_authorizations;
