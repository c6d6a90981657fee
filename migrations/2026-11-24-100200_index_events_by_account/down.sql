drop index concurrently events_account_id_idx;
