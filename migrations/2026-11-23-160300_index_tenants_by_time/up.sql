create index concurrently tenants_create_time_idx on tenants (create_time, uid);
