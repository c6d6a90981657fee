create index concurrently tenant_external_ids_texts_idx on tenant_external_ids using gin (
    value gin_trgm_ops
) with (gin_pending_list_limit = 512);
