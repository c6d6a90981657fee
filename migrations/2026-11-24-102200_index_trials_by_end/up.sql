create index concurrently tenants_trial_expire_time_idx on tenants (trial_expire_time)
    where trial_expire_time is not null;
