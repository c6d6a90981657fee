drop policy events_expiry_of_requests on events;
drop policy tenant_authorizations_unrequest on tenant_authorizations;
drop policy tenant_authorizations_requested on tenant_authorizations;
revoke select (tenant_uid, authorization_id, version), update (requested_scopes, update_time, version)
    on tenant_authorizations from tenantry_expiry;
drop policy events_of_requests on events;
drop policy events_publisher on events;
drop table authorization_requests;
