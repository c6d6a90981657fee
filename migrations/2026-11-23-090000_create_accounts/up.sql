create table accounts (
    account_id text not null,
    name text not null,
    create_time timestamptz not null,
    update_time timestamptz not null,
    version bigint not null,
    constraint accounts_pkey primary key (account_id),
    constraint accounts_account_id_check check (account_id ~ '^[a-z0-9-]{1,30}$'),
    constraint accounts_name_check check (char_length(name) between 1 and 80)
);

comment on table accounts is 'The organisations that operate tenants and publish applications.';
comment on column accounts.account_id is 'Chosen by its creator, immutable.';
comment on column accounts.name is 'Display name.';
comment on column accounts.version is 'Counts the changes of the row; the etag is made from it.';

-- What a key of the system acts on when nothing names an account.
insert into accounts (account_id, name, create_time, update_time, version)
values ('default', 'Default', now(), now(), 1);

alter table accounts enable row level security;
alter table accounts force row level security;

create policy accounts_owner on accounts to tenantry_owner
    using (true) with check (true);

create policy accounts_system on accounts to tenantry_service
    using ((select current_setting('tenantry.system', true)) = 'on')
    with check ((select current_setting('tenantry.system', true)) = 'on');

create policy accounts_own_select on accounts for select to tenantry_service
    using (account_id = (select nullif(current_setting('tenantry.account', true), '')));

create policy accounts_own_update on accounts for update to tenantry_service
    using (account_id = (select nullif(current_setting('tenantry.account', true), '')))
    with check (account_id = (select nullif(current_setting('tenantry.account', true), '')));

grant select, insert, update, delete on accounts to tenantry_service;
