create index concurrently events_resource_id_idx on events (resource_id, event_id);
