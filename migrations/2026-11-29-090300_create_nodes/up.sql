create table nodes (
    node_id uuid not null,
    lease_milliseconds bigint not null,
    applied text not null,
    renew_time timestamptz not null,
    constraint nodes_pkey primary key (node_id),
    constraint nodes_lease_milliseconds_check check (lease_milliseconds > 0)
);

comment on table nodes is 'The nodes that answer from what they know, and up to where each has applied what happened.';
comment on column nodes.node_id is 'Made anew whenever a node begins to know anything.';
comment on column nodes.lease_milliseconds is 'For how long after the beginning of a poll the node trusts what it knows.';
comment on column nodes.applied is 'A pg_snapshot: everything that it sees was applied.';
comment on column nodes.renew_time is 'When the node last said that it is there, by the clock of the database.';

alter table nodes enable row level security;
alter table nodes force row level security;

create policy nodes_owner on nodes to tenantry_owner
    using (true) with check (true);

create policy nodes_feed on nodes to tenantry_feed
    using (true) with check (true);
grant select, insert, update, delete on nodes to tenantry_feed;

-- Whoever waits for a revocation to be in effect everywhere looks where it is not yet.
create policy nodes_service on nodes for select to tenantry_service
    using (true);
grant select on nodes to tenantry_service;
