create index concurrently tenants_texts_idx on tenants using gin (
    account_id,
    tenant_id gin_trgm_ops,
    name gin_trgm_ops,
    code gin_trgm_ops,
    hostname gin_trgm_ops,
    tag gin_trgm_ops
) with (gin_pending_list_limit = 512);
