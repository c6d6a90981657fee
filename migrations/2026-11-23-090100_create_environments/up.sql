create table environments (
    environment_id text not null,
    name text not null,
    position integer not null,
    create_time timestamptz not null,
    update_time timestamptz not null,
    version bigint not null,
    constraint environments_pkey primary key (environment_id),
    constraint environments_environment_id_check
        check (environment_id ~ '^[a-z0-9-]{1,30}$' and environment_id <> 'any'),
    constraint environments_name_check check (char_length(name) between 1 and 80)
);

comment on table environments is 'The ordered set of environments that keys and authorizations belong to (0-01).';
comment on column environments.environment_id is 'Chosen by its creator, immutable; part of the text of a key, hence never "any".';
comment on column environments.position is 'Place in every list that goes by environment, ascending.';
comment on column environments.version is 'Counts the changes of the row; the etag is made from it.';

insert into environments (environment_id, name, position, create_time, update_time, version)
values
    ('sod', 'SOD', 1, now(), now(), 1),
    ('stage', 'STAGE', 2, now(), now(), 1),
    ('production', 'PRODUCTION', 3, now(), now(), 1);

alter table environments enable row level security;
alter table environments force row level security;

create policy environments_owner on environments to tenantry_owner
    using (true) with check (true);

create policy environments_read on environments for select to tenantry_service
    using (true);

create policy environments_system on environments to tenantry_service
    using ((select current_setting('tenantry.system', true)) = 'on')
    with check ((select current_setting('tenantry.system', true)) = 'on');

grant select, insert, update, delete on environments to tenantry_service;
