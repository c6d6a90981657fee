drop policy tenant_app_key_configs_verifier on tenant_app_key_configs;
revoke select (tenant_uid, app_key_id, environment, config) on tenant_app_key_configs from tenantry_verifier;

drop policy tenant_installations_verifier on tenant_installations;
revoke select (tenant_uid, installation_id, product_code, package_code, ttl_hours)
    on tenant_installations from tenantry_verifier;

drop policy tenant_app_keys_verifier on tenant_app_keys;
revoke select (tenant_uid, app_key_id, installation_id) on tenant_app_keys from tenantry_verifier;

drop policy external_keys_verifier on external_keys;
revoke select (
    route, number, tenant_uid, app_key_id, environment, expire_time, device, geo, enabled, digest,
    master_key_version, old_digest, old_master_key_version, old_end_time, revoke_time, rate_requests,
    rate_window_seconds, credits_amount, credits_refill_amount, credits_refill_seconds, limits_version
) on external_keys from tenantry_verifier;

revoke select (
    enabled, old_digest, old_master_key_version, old_end_time, rate_requests, rate_window_seconds,
    credits_amount, credits_refill_amount, credits_refill_seconds, limits_version
) on api_keys from tenantry_verifier;
