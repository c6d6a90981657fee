alter table tenant_authorizations add column requested_scopes text[] not null default '{}';

comment on column tenant_authorizations.requested_scopes is 'What the application asks for besides, until its tenant says yes or no (0-22).';

-- By what a tenant says yes to later.
grant update (granted_scopes, requested_scopes, valid_until, path, authorizer_name, authorizer_email, authorizer)
    on tenant_authorizations to tenantry_service;
