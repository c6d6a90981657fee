create table resellers (
    account_id text not null,
    reseller_id text not null,
    external_name text not null,
    extra_data jsonb,
    create_time timestamptz not null,
    update_time timestamptz not null,
    version bigint not null,
    constraint resellers_pkey primary key (account_id, reseller_id),
    constraint resellers_account_id_fkey foreign key (account_id) references accounts (account_id),
    constraint resellers_reseller_id_check check (reseller_id ~ '^[a-z0-9-]{1,30}$'),
    constraint resellers_external_name_check check (char_length(external_name) <= 80)
);

comment on table resellers is 'Who sells the tenants of an account on (2-31).';
comment on column resellers.external_name is 'What others call it; may be empty.';
comment on column resellers.extra_data is 'A JSON object of the caller''s own, replaced whole.';
comment on column resellers.version is 'Counts the changes of the row; the etag is made from it.';

alter table resellers enable row level security;
alter table resellers force row level security;

create policy resellers_owner on resellers to tenantry_owner
    using (true) with check (true);

create policy resellers_system on resellers to tenantry_service
    using ((select current_setting('tenantry.system', true)) = 'on')
    with check ((select current_setting('tenantry.system', true)) = 'on');

create policy resellers_account on resellers to tenantry_service
    using (account_id = (select nullif(current_setting('tenantry.account', true), '')))
    with check (account_id = (select nullif(current_setting('tenantry.account', true), '')));

-- Whoever acts on a tenant may read what the tenant's account has for it.
create policy resellers_of_account on resellers for select to tenantry_service
    using (account_id = (select account_of_scope())
        and reseller_id = coalesce(
            (select nullif(current_setting('tenantry.reseller', true), '')), reseller_id));

grant select, insert, update, delete on resellers to tenantry_service;

-- What belonged to a reseller before there were resellers; any short text could be the id of one.
update api_keys set reseller_id = 'was-' || left(md5(reseller_id), 26)
where reseller_id !~ '^[a-z0-9-]{1,30}$';
insert into resellers (account_id, reseller_id, external_name, create_time, update_time, version)
select account_id, reseller_id, reseller_id, now(), now(), 1 from tenants where reseller_id is not null
union
select account_id, reseller_id, reseller_id, now(), now(), 1 from api_keys where reseller_id is not null;

alter table tenants add constraint tenants_reseller_fkey
    foreign key (account_id, reseller_id) references resellers (account_id, reseller_id) not valid;
alter table tenants validate constraint tenants_reseller_fkey;
alter table api_keys add constraint api_keys_reseller_fkey
    foreign key (account_id, reseller_id) references resellers (account_id, reseller_id) not valid;
alter table api_keys validate constraint api_keys_reseller_fkey;
create index api_keys_reseller_idx on api_keys (account_id, reseller_id) where reseller_id is not null;
