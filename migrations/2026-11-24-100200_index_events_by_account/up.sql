create index concurrently events_account_id_idx on events (account_id, event_id) where account_id is not null;
