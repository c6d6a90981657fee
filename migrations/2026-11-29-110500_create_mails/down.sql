drop function count_mails;
drop policy environments_mailer on environments;
revoke select (environment_id, name) on environments from tenantry_mailer;
drop policy accounts_mailer on accounts;
revoke select (account_id, name) on accounts from tenantry_mailer;
drop policy applications_mailer on applications;
revoke select (application_id, name, homepage_url) on applications from tenantry_mailer;
drop policy tenants_mailer on tenants;
revoke select (uid, name, state, contact_email, support_email, admin_user)
    on tenants from tenantry_mailer;
drop policy tenant_authorizations_mailer on tenant_authorizations;
revoke select (tenant_uid, authorization_id, application_id, publisher_account_id, environment, granted_scopes,
        state, valid_until, revoke_time, revoke_reason, revoke_contact)
    on tenant_authorizations from tenantry_mailer;
drop table mails;
drop policy authorization_requests_mailer on authorization_requests;
revoke select (authorization_request_id, kind, application_id, publisher_account_id, environment, contact_email,
        additional_info, on_behalf_of, scopes, run_as, valid_until, tenant_uid, authorization_id, state, expire_time,
        generation)
    on authorization_requests from tenantry_mailer;
