create table tenant_groups (
    tenant_uid uuid not null,
    group_id text not null,
    name text not null,
    user_limit integer,
    user_count integer not null,
    default_domain text,
    cli_name text not null,
    cli_phone_number text not null,
    location_dialing_code text not null,
    time_zone text not null,
    contact_name text not null,
    contact_phone_number text not null,
    contact_email text not null,
    address_street_address text not null,
    address_extended_address text not null,
    address_locality text not null,
    address_region text not null,
    address_post_code text not null,
    address_country text not null,
    reseller_id text,
    create_time timestamptz not null,
    update_time timestamptz not null,
    version bigint not null,
    constraint tenant_groups_pkey primary key (tenant_uid, group_id),
    constraint tenant_groups_name_key unique (tenant_uid, name),
    constraint tenant_groups_tenant_uid_fkey
        foreign key (tenant_uid) references tenants (uid) on delete cascade,
    constraint tenant_groups_default_domain_fkey
        foreign key (default_domain) references domains (domain_id),
    constraint tenant_groups_group_id_check check (group_id ~ '^[a-z0-9-]{1,30}$'),
    constraint tenant_groups_name_check check (char_length(name) between 1 and 80),
    constraint tenant_groups_user_limit_check check (user_limit >= 0),
    constraint tenant_groups_user_count_check
        check (user_count >= 0 and (user_limit is null or user_count <= user_limit)),
    constraint tenant_groups_reseller_id_check check (reseller_id ~ '^[a-z0-9-]{1,30}$')
);

comment on table tenant_groups is 'The groups of users within a tenant, each of exactly one (2-32).';
comment on column tenant_groups.group_id is 'Given or generated, immutable; unique within the tenant.';
comment on column tenant_groups.user_limit is 'Null: no limit.';
comment on column tenant_groups.default_domain is 'Null where none.';
comment on column tenant_groups.time_zone is 'A name of the IANA time zone database, or empty.';
comment on column tenant_groups.reseller_id is 'Null where none; a reseller sees the groups with its own.';
comment on column tenant_groups.version is 'Counts the changes of the row; the etag is made from it.';

create index tenant_groups_default_domain_idx on tenant_groups (default_domain)
    where default_domain is not null;

alter table tenant_groups enable row level security;
alter table tenant_groups force row level security;

create policy tenant_groups_owner on tenant_groups to tenantry_owner
    using (true) with check (true);

-- Of the tenants that it sees, a reseller sees its own groups only.
create policy tenant_groups_of_tenant on tenant_groups to tenantry_service
    using (
        exists (select 1 from tenants where tenants.uid = tenant_groups.tenant_uid)
        and ((select nullif(current_setting('tenantry.reseller', true), '')) is null
            or reseller_id = (select nullif(current_setting('tenantry.reseller', true), '')))
    )
    with check (
        exists (select 1 from tenants where tenants.uid = tenant_groups.tenant_uid)
        and ((select nullif(current_setting('tenantry.reseller', true), '')) is null
            or reseller_id = (select nullif(current_setting('tenantry.reseller', true), '')))
    );

grant select, insert, update, delete on tenant_groups to tenantry_service;
