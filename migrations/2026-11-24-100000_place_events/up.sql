-- Constant defaults first, which cost no rewrite: what is there already gets one place, in the order of
-- its ids. Then what new rows get.
alter table events
    add column position bigint not null default pg_current_xact_id()::text::bigint,
    add column recorded_time timestamptz not null default now(),
    add column ancestors uuid[],
    add column on_behalf_of text;

-- Who waits for a lock of another change tells of its own after that has ended, and sees then at least
-- its transaction as ended: so the later change has the higher position, or the same and a later time.
-- And nobody who has not ended yet will have a position below the oldest running transaction.
alter table events
    alter column position
        set default greatest(pg_current_xact_id(), pg_snapshot_xmax(pg_current_snapshot()))::text::bigint,
    alter column recorded_time
        set default clock_timestamp();

comment on column events.position is 'First part of the order in which events are told: the higher of the transaction that wrote the row, and the first that had not begun by then.';
comment on column events.recorded_time is 'Second part of that order, by the clock of the database; the id of the event is the third.';
comment on column events.ancestors is 'The tenants above the one concerned, at that time; of a move, those before it too. Null where no tenant is concerned.';
comment on column events.on_behalf_of is 'For whom the actor did it, where it was not for itself.';
