create table tenant_authorizations (
    tenant_uid uuid not null,
    authorization_id uuid not null,
    tenant_id text not null,
    application_id text not null,
    publisher_account_id text not null,
    environment text not null,
    state text not null,
    granted_scopes text[] not null,
    path text not null,
    authorizer_name text not null,
    authorizer_email text not null,
    authorizer text not null,
    grant_time timestamptz not null,
    valid_until timestamptz,
    revoke_time timestamptz,
    revoked_by text,
    revoke_reason text,
    revoke_contact text,
    update_time timestamptz not null,
    version bigint not null,
    constraint tenant_authorizations_pkey primary key (tenant_uid, authorization_id),
    constraint tenant_authorizations_tenant_uid_fkey
        foreign key (tenant_uid) references tenants (uid) on delete cascade,
    constraint tenant_authorizations_application_fkey
        foreign key (application_id, publisher_account_id)
        references application_ids (application_id, account_id),
    constraint tenant_authorizations_environment_fkey
        foreign key (environment) references environments (environment_id),
    constraint tenant_authorizations_state_check check (state in ('ACTIVE', 'REVOKED', 'EXPIRED')),
    constraint tenant_authorizations_path_check check (path in ('OPERATOR', 'TENANT_ADMIN')),
    constraint tenant_authorizations_valid_until_check check (valid_until > grant_time),
    constraint tenant_authorizations_revoked_check check (
        (state = 'REVOKED') = (revoke_time is not null)
        and (revoke_time is null) = (revoked_by is null)
        and (revoke_time is null) = (revoke_reason is null)
        and (revoke_time is null) = (revoke_contact is null)
    )
);

comment on table tenant_authorizations is 'Which application a tenant lets act on it in which environment, and which it once did: nothing goes but with the tenant (0-16).';
comment on column tenant_authorizations.tenant_id is 'That of the tenant, for the account of the application, which does not see tenants of other accounts.';
comment on column tenant_authorizations.application_id is 'It outlives the application, whose id is never given twice.';
comment on column tenant_authorizations.publisher_account_id is 'The account of the application, which sees the row as the tenant does.';
comment on column tenant_authorizations.state is 'ACTIVE until it is revoked, or another takes the place of one whose time is over; the first of these is told by valid_until.';
comment on column tenant_authorizations.granted_scopes is 'What the application may do, in the order in which it was granted.';
comment on column tenant_authorizations.path is 'Who decided: an operator of the platform, or an administrator of the tenant (0-21).';
comment on column tenant_authorizations.authorizer is 'The key, or whoever else, that granted it (0-19).';
comment on column tenant_authorizations.version is 'Counts the changes of the row; the etag is made from it.';

create unique index tenant_authorizations_authorization_id_key on tenant_authorizations (authorization_id);
create unique index tenant_authorizations_live_key
    on tenant_authorizations (tenant_uid, application_id, environment) where state = 'ACTIVE';
create index tenant_authorizations_application_idx
    on tenant_authorizations (application_id, environment, tenant_uid);
create index tenant_authorizations_publisher_idx
    on tenant_authorizations (publisher_account_id, grant_time, authorization_id);
create index tenant_authorizations_environment_idx on tenant_authorizations (environment, tenant_uid);

alter table tenant_authorizations enable row level security;
alter table tenant_authorizations force row level security;

create policy tenant_authorizations_owner on tenant_authorizations to tenantry_owner
    using (true) with check (true);

create policy tenant_authorizations_of_tenant on tenant_authorizations to tenantry_service
    using (exists (select 1 from tenants where tenants.uid = tenant_authorizations.tenant_uid))
    with check (exists (select 1 from tenants where tenants.uid = tenant_authorizations.tenant_uid));

-- The account of the application sees what tenants of whichever account let it do.
create policy tenant_authorizations_of_publisher on tenant_authorizations for select to tenantry_service
    using (publisher_account_id = (select coalesce(
        nullif(current_setting('tenantry.account', true), ''),
        nullif(current_setting('tenantry.publisher', true), ''))));

grant select, insert on tenant_authorizations to tenantry_service;
-- Who let whom do what, and where, never changes.
grant update (state, revoke_time, revoked_by, revoke_reason, revoke_contact, update_time, version)
    on tenant_authorizations to tenantry_service;

create policy tenant_authorizations_purger on tenant_authorizations to tenantry_purger
    using (exists (
        select 1 from tenant_tombstones
        where tenant_tombstones.tenant_uid = tenant_authorizations.tenant_uid
    ))
    with check (false);
grant select (tenant_uid, authorization_id), delete on tenant_authorizations to tenantry_purger;
