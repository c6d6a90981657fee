drop index concurrently events_actor_idx;
