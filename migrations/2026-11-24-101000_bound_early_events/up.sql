-- What makes the table of events a partition of all events later on, checked while changes go on. Its end
-- lies weeks ahead: until then new events are early ones too.
create table event_partitions (
    partition text not null,
    from_time timestamptz not null,
    until_time timestamptz not null,
    constraint event_partitions_pkey primary key (partition),
    constraint event_partitions_until_time_check check (until_time > from_time)
);

comment on table event_partitions is 'Which events lie in which partition, by the time in their ids: what is before the first one was dropped.';

alter table event_partitions enable row level security;
alter table event_partitions force row level security;

create policy event_partitions_owner on event_partitions to tenantry_owner
    using (true) with check (true);

create policy event_partitions_service on event_partitions for select to tenantry_service
    using (true);

grant select on event_partitions to tenantry_service;

create function event_id_at(at timestamptz) returns uuid
    language sql immutable strict
    as $$
    select (lpad(to_hex(floor(extract(epoch from greatest(at, 'epoch')) * 1000)::bigint), 12, '0')
        || repeat('0', 20))::uuid
$$;

comment on function event_id_at is 'The lowest id that an event of this time can have.';

do $$
declare
    until timestamptz := date_trunc('week', now() at time zone 'UTC') at time zone 'UTC' + interval '5 weeks';
begin
    insert into event_partitions values ('events_early', '-infinity', until);
    execute format('alter table events add constraint events_early_check check (event_id < %L) not valid',
        event_id_at(until));
end
$$;

alter table events validate constraint events_early_check;
