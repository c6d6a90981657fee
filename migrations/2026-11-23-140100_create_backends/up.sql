create table backends (
    backend_id text not null,
    external_name text not null,
    create_time timestamptz not null,
    update_time timestamptz not null,
    version bigint not null,
    constraint backends_pkey primary key (backend_id),
    constraint backends_external_name_key unique (external_name),
    constraint backends_backend_id_check check (backend_id ~ '^[a-z0-9-]{1,30}$'),
    constraint backends_external_name_check check (char_length(external_name) between 1 and 80)
);

comment on table backends is 'Parts of the platform that tenants are placed on (2-20).';
comment on column backends.external_name is 'What others call it; unique too.';
comment on column backends.version is 'Counts the changes of the row; the etag is made from it.';

alter table backends enable row level security;
alter table backends force row level security;

create policy backends_owner on backends to tenantry_owner
    using (true) with check (true);

create policy backends_system on backends to tenantry_service
    using ((select current_setting('tenantry.system', true)) = 'on')
    with check ((select current_setting('tenantry.system', true)) = 'on');

grant select, insert, update, delete on backends to tenantry_service;

alter table tenants add column backend_id text;
comment on column tenants.backend_id is 'Where the tenant is placed; null: nowhere in particular (2-20).';
alter table tenants add constraint tenants_backend_id_fkey
    foreign key (backend_id) references backends (backend_id) not valid;
alter table tenants validate constraint tenants_backend_id_fkey;
create index tenants_backend_id_idx on tenants (backend_id) where backend_id is not null;
grant update (backend_id) on tenants to tenantry_service;
