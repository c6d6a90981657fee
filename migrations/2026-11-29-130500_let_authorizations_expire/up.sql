-- Time alone ends an authorization; somebody has to mark it and to tell of it.
create policy tenant_authorizations_expiry on tenant_authorizations for select to tenantry_expiry
    using (valid_until is not null);

create policy tenant_authorizations_expire on tenant_authorizations for update to tenantry_expiry
    using (valid_until is not null and state = 'ACTIVE')
    with check (state = 'EXPIRED');

grant select (tenant_uid, authorization_id, tenant_id, application_id, publisher_account_id, environment, state, valid_until),
    update (state) on tenant_authorizations to tenantry_expiry;

create policy events_expired on events for insert to tenantry_expiry
    with check (type = 'authorization.expired' and actor = 'system' and resource_type = 'authorization');
