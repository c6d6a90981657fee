create index concurrently tenant_authorizations_publisher_end_idx
    on tenant_authorizations (publisher_account_id, valid_until)
    where valid_until is not null and state = 'ACTIVE';
