create index concurrently events_actor_idx on events (actor, event_id);
