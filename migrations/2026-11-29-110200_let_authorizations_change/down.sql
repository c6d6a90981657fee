revoke update (granted_scopes, valid_until, path, authorizer_name, authorizer_email, authorizer)
    on tenant_authorizations from tenantry_service;
alter table tenant_authorizations drop column requested_scopes;
