drop policy tenant_authorizations_verifier on tenant_authorizations;
revoke select (
    tenant_uid, authorization_id, application_id, publisher_account_id, environment, state, granted_scopes,
    grant_time, valid_until
) on tenant_authorizations from tenantry_verifier;

drop policy tenant_directory_verifier on tenant_directory;
revoke select (kind, key, tenant_uid) on tenant_directory from tenantry_verifier;
