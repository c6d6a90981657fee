create or replace function keep_event_partitions(at timestamptz, keep interval) returns integer
    language plpgsql security definer
    set search_path = public, pg_temp
    -- Whoever reads or writes events at the moment is not kept waiting behind this for long.
    set lock_timeout = '1s'
    as $$
declare
    week timestamptz;
    due text;
    dropped integer := 0;
begin
    if keep < interval '1 day' then
        raise 'events are kept for a day at least' using errcode = 'invalid_parameter_value';
    end if;
    -- One node at a time.
    lock table event_partitions in share row exclusive mode;
    for week in
        select generate_series(
            greatest(date_trunc('week', at at time zone 'UTC') at time zone 'UTC', max(until_time)),
            at + interval '4 weeks', interval '7 days')
        from event_partitions
    loop
        due := 'events_' || to_char(week at time zone 'UTC', 'IYYY"w"IW');
        execute format('create table %I (like events including defaults including constraints)', due);
        execute format('alter table %I enable row level security', due);
        execute format('alter table %I force row level security', due);
        execute format('create policy %I on %I to tenantry_owner using (true) with check (true)',
            due || '_owner', due);
        -- What came while there was no partition for it.
        execute format('with late as (delete from events_rest where event_id >= %L and event_id < %L returning *)
            insert into %I select * from late', event_id_at(week), event_id_at(week + interval '7 days'), due);
        execute format('alter table events attach partition %I for values from (%L) to (%L)',
            due, event_id_at(week), event_id_at(week + interval '7 days'));
        insert into event_partitions values (due, week, week + interval '7 days');
    end loop;
    for due in select partition from event_partitions where until_time <= at - keep loop
        execute format('drop table %I', due);
        delete from event_partitions where partition = due;
        dropped := dropped + 1;
    end loop;
    delete from events_rest where event_id < event_id_at(at - keep);
    return dropped;
end
$$;
