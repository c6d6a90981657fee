-- What a tenant authorized goes with it. Before it goes, the accounts of the applications are told so.
create policy authorized_tenants_purger on authorized_tenants to tenantry_purger
    using (exists (
        select 1 from tenant_tombstones
        where tenant_tombstones.tenant_uid = authorized_tenants.tenant_uid
    ))
    with check (false);

grant select (tenant_uid, publisher_account_id, application_id, environment), delete
    on authorized_tenants to tenantry_purger;

grant select (tenant_id, application_id, publisher_account_id, environment, state, valid_until)
    on tenant_authorizations to tenantry_purger;

create policy events_purger_to_publishers on events for insert to tenantry_purger
    with check (type = 'authorization.tenant_purged' and actor = 'system'
        and resource_type = 'authorization' and tenant_uid is null);
