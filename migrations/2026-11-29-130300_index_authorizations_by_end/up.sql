create index concurrently tenant_authorizations_end_idx on tenant_authorizations (valid_until)
    where valid_until is not null and state = 'ACTIVE';
