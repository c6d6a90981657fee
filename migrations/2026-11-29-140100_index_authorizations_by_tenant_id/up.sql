create index concurrently tenant_authorizations_tenant_id_idx
    on tenant_authorizations (tenant_id, grant_time, authorization_id);
