drop index concurrently events_resource_id_idx;
