create index concurrently events_tenant_id_idx on events (tenant_id, event_id) where tenant_id is not null;
