revoke update (
    secret_digest, master_key_version, redirect_uri, grants, disabled, type, login_mode, pin, update_time, version
) on tenant_oauth_clients from tenantry_service;
revoke update (
    label, environment, expire_time, device, geo, enabled, digest, master_key_version, old_digest,
    old_master_key_version, old_end_time, update_time, revoke_time, revoked_by, revoke_reason, rate_requests,
    rate_window_seconds, credits_amount, credits_refill_amount, credits_refill_seconds, limits_version, version
), delete on external_keys from tenantry_service;
revoke update (config, update_time, version), delete on tenant_app_key_configs from tenantry_service;
revoke delete on tenant_app_keys from tenantry_service;
revoke update (description, package_code, ttl_hours, update_time, version), delete
    on tenant_installations from tenantry_service;
