create index concurrently events_correlation_id_idx on events (correlation_id, event_id);
