-- The verifier finds what a tenant lets an application do by the id of the tenant, whichever that is, and sees no
-- more of it than a verdict needs.
create policy tenant_directory_verifier on tenant_directory for select to tenantry_verifier
    using (kind = 'TENANT_ID');
grant select (kind, key, tenant_uid) on tenant_directory to tenantry_verifier;

create policy tenant_authorizations_verifier on tenant_authorizations for select to tenantry_verifier
    using (true);
grant select (
    tenant_uid, authorization_id, application_id, publisher_account_id, environment, state, granted_scopes,
    grant_time, valid_until
) on tenant_authorizations to tenantry_verifier;
