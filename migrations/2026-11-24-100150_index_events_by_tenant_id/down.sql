drop index concurrently events_tenant_id_idx;
