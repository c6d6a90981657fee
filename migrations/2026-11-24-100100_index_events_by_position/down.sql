drop index concurrently events_position_idx;
