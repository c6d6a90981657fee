create index concurrently api_keys_expire_time_idx on api_keys (expire_time) where expire_time is not null and revoke_time is null;
