create index concurrently events_position_idx on events (position, recorded_time, event_id);
