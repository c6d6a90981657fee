create index concurrently tenant_external_ids_value_idx on tenant_external_ids (value);
