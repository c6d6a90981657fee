create index concurrently tenants_account_id_create_time_idx on tenants (account_id, create_time, uid);
