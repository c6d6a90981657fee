create table authorized_tenants (
    tenant_uid uuid not null,
    publisher_account_id text not null,
    application_id text not null,
    environment text not null,
    tenant_id text not null,
    live integer not null,
    has_revoked boolean not null,
    constraint authorized_tenants_pkey primary key (tenant_uid, publisher_account_id, application_id, environment),
    constraint authorized_tenants_tenant_uid_fkey
        foreign key (tenant_uid) references tenants (uid) on delete cascade,
    constraint authorized_tenants_live_check check (live >= 0)
);

comment on table authorized_tenants is 'Which tenants authorize an application, or any of an account, in an environment, or once did (0-02, 0-03): a row for the application and one for its account, kept by book_authorizations.';
comment on column authorized_tenants.application_id is 'Empty: any application of the account.';
comment on column authorized_tenants.tenant_id is 'That of the tenant, by which the rows are listed.';
comment on column authorized_tenants.live is 'How many of its authorizations are stored as live; the time of some of these may be over.';
comment on column authorized_tenants.has_revoked is 'Whether at least one was revoked (0-17).';

insert into authorized_tenants (
    tenant_uid, publisher_account_id, application_id, environment, tenant_id, live, has_revoked
)
select
    tenant_uid,
    publisher_account_id,
    place.application_id,
    environment,
    tenant_id,
    count(*) filter (where state = 'ACTIVE'),
    bool_or(state = 'REVOKED')
from tenant_authorizations
cross join lateral (values (''), (tenant_authorizations.application_id)) as place (application_id)
group by tenant_uid, publisher_account_id, place.application_id, environment, tenant_id;

create index authorized_tenants_tenant_id_idx
    on authorized_tenants (publisher_account_id, application_id, environment, tenant_id);

alter table authorized_tenants enable row level security;
alter table authorized_tenants force row level security;

create policy authorized_tenants_owner on authorized_tenants to tenantry_owner
    using (true) with check (true);

-- For whoever lists them, nobody has to look at tenants.
create policy authorized_tenants_of_publisher on authorized_tenants for select to tenantry_service
    using ((select current_setting('tenantry.system', true)) = 'on'
        or publisher_account_id = (select coalesce(
            nullif(current_setting('tenantry.account', true), ''),
            nullif(current_setting('tenantry.publisher', true), ''))));

create policy authorized_tenants_of_tenant on authorized_tenants for select to tenantry_service
    using (exists (select 1 from tenants where tenants.uid = authorized_tenants.tenant_uid));

grant select on authorized_tenants to tenantry_service;
