create table application_ids (
    application_id text not null,
    account_id text not null,
    constraint application_ids_pkey primary key (application_id),
    constraint application_ids_account_id_key unique (account_id, application_id)
);

comment on table application_ids is 'The ids of all applications that there ever were: who trusts one must not meet another under its id.';
comment on column application_ids.account_id is 'Whose it was. No foreign key: it outlives the account.';

create table applications (
    application_id text not null,
    account_id text not null,
    name text not null,
    description text not null,
    homepage_url text not null,
    run_as text not null,
    scopes text[] not null,
    create_time timestamptz not null,
    update_time timestamptz not null,
    version bigint not null,
    constraint applications_pkey primary key (application_id),
    constraint applications_application_id_fkey
        foreign key (application_id, account_id) references application_ids (application_id, account_id),
    constraint applications_account_id_fkey foreign key (account_id) references accounts (account_id),
    constraint applications_application_id_check check (application_id ~ '^[a-z0-9-]{1,30}$'),
    constraint applications_name_check check (char_length(name) between 1 and 80),
    constraint applications_run_as_check check (run_as in ('USER', 'SYSTEM')),
    constraint applications_scopes_check check (cardinality(scopes) <= 100)
);

comment on table applications is 'What accounts publish, and what tenants authorize (0-26).';
comment on column applications.scopes is 'What it asks for, in the order in which it was said.';
comment on column applications.version is 'Counts the changes of the row and of its clients; the etag is made from it.';

create index applications_account_id_idx on applications (account_id, application_id);

create table application_clients (
    application_id text not null,
    environment text not null,
    client_id text not null,
    secret_digest bytea not null,
    master_key_version smallint not null,
    old_secret_digest bytea,
    old_master_key_version smallint,
    old_end_time timestamptz,
    constraint application_clients_pkey primary key (application_id, environment),
    constraint application_clients_application_id_fkey
        foreign key (application_id) references applications (application_id) on delete cascade,
    constraint application_clients_environment_fkey
        foreign key (environment) references environments (environment_id),
    constraint application_clients_client_id_check check (client_id ~ '^[0-9a-f]{32}$'),
    constraint application_clients_secret_digest_check check (octet_length(secret_digest) = 32),
    constraint application_clients_old_check check (
        (old_secret_digest is null) = (old_master_key_version is null)
        and (old_secret_digest is null) = (old_end_time is null)
        and octet_length(old_secret_digest) = 32
    )
);

comment on table application_clients is 'In which environments applications are published, and as which client each proves itself there (0-26).';
comment on column application_clients.secret_digest is 'HMAC under the master key of the SHA-256 of the secret; the secret itself is nowhere.';
comment on column application_clients.old_secret_digest is 'That of the secret before it, until old_end_time.';

create unique index application_clients_client_id_key on application_clients (client_id);
create index application_clients_environment_idx on application_clients (environment, application_id);

alter table application_ids enable row level security;
alter table application_ids force row level security;
alter table applications enable row level security;
alter table applications force row level security;
alter table application_clients enable row level security;
alter table application_clients force row level security;

create policy application_ids_owner on application_ids to tenantry_owner
    using (true) with check (true);
create policy applications_owner on applications to tenantry_owner
    using (true) with check (true);
create policy application_clients_owner on application_clients to tenantry_owner
    using (true) with check (true);

-- Claimed, and never given back: whose an id was is the business of that account alone.
create policy application_ids_system on application_ids to tenantry_service
    using ((select current_setting('tenantry.system', true)) = 'on')
    with check ((select current_setting('tenantry.system', true)) = 'on');

create policy application_ids_account on application_ids to tenantry_service
    using (account_id = (select nullif(current_setting('tenantry.account', true), '')))
    with check (account_id = (select nullif(current_setting('tenantry.account', true), '')));

grant select, insert on application_ids to tenantry_service;

create policy applications_system on applications to tenantry_service
    using ((select current_setting('tenantry.system', true)) = 'on')
    with check ((select current_setting('tenantry.system', true)) = 'on');

create policy applications_account on applications to tenantry_service
    using (account_id = (select nullif(current_setting('tenantry.account', true), '')))
    with check (account_id = (select nullif(current_setting('tenantry.account', true), '')));

-- Whoever acts on a tenant may read what the tenant's account publishes.
create policy applications_of_account on applications for select to tenantry_service
    using (account_id = (select account_of_scope()));

grant select, insert, delete on applications to tenantry_service;
grant update (name, description, homepage_url, run_as, scopes, update_time, version)
    on applications to tenantry_service;

create policy application_clients_system on application_clients to tenantry_service
    using ((select current_setting('tenantry.system', true)) = 'on')
    with check ((select current_setting('tenantry.system', true)) = 'on');

create policy application_clients_account on application_clients to tenantry_service
    using (exists (
        select 1 from applications
        where applications.application_id = application_clients.application_id
            and applications.account_id = (select nullif(current_setting('tenantry.account', true), ''))
    ))
    with check (exists (
        select 1 from applications
        where applications.application_id = application_clients.application_id
            and applications.account_id = (select nullif(current_setting('tenantry.account', true), ''))
    ));

create policy application_clients_of_application on application_clients for select to tenantry_service
    using (exists (
        select 1 from applications
        where applications.application_id = application_clients.application_id
    ));

grant select, insert, delete on application_clients to tenantry_service;
grant update (
    secret_digest, master_key_version, old_secret_digest, old_master_key_version, old_end_time
) on application_clients to tenantry_service;
