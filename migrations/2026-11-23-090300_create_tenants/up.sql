create table tenants (
    uid uuid not null,
    account_id text not null,
    tenant_id text not null,
    code text not null,
    name text not null,
    description text not null,
    type text not null,
    organization_kind text not null,
    service_line text not null,
    parent_uid uuid,
    ancestors uuid[] not null,
    console boolean not null,
    tag text not null,
    state text not null,
    state_before_delete text,
    lock_mode text,
    contract_mode text not null,
    hostname text not null,
    default_domain text,
    support_email text not null,
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
    use_custom_routing_profile boolean not null,
    use_tenant_languages boolean not null,
    sp_idp boolean not null,
    profile jsonb,
    labels jsonb not null,
    created_by text not null,
    approve_time timestamptz,
    approved_by text,
    reject_time timestamptz,
    rejection_reason text,
    rejected_by text,
    delete_time timestamptz,
    deleted_by text,
    purge_time timestamptz,
    create_time timestamptz not null,
    update_time timestamptz not null,
    version bigint not null,
    constraint tenants_pkey primary key (uid),
    constraint tenants_account_id_fkey foreign key (account_id) references accounts (account_id),
    constraint tenants_parent_uid_fkey foreign key (parent_uid) references tenants (uid),
    constraint tenants_default_domain_fkey foreign key (default_domain) references domains (domain_id),
    constraint tenants_tenant_id_check check (tenant_id ~ '^[a-z0-9-]{1,30}$'),
    constraint tenants_code_check check (code ~ '^[A-Za-z0-9]{4,64}$'),
    constraint tenants_name_check check (char_length(name) between 1 and 80),
    constraint tenants_type_check check (type in ('PRODUCT', 'CLIENT')),
    constraint tenants_client_has_parent_check check (type <> 'CLIENT' or parent_uid is not null),
    constraint tenants_organization_kind_check
        check (organization_kind in ('ENTERPRISE', 'SERVICE_PROVIDER')),
    constraint tenants_service_line_check check (service_line in ('AUTHENTICATION', 'ISSUANCE')),
    constraint tenants_ancestors_check
        check (cardinality(ancestors) <= 4
            and (parent_uid is null) = (cardinality(ancestors) = 0)
            and (parent_uid is null or ancestors[cardinality(ancestors)] = parent_uid)),
    constraint tenants_state_check
        check (state in ('PENDING_APPROVAL', 'ACTIVE', 'REJECTED', 'DELETED')),
    constraint tenants_deleted_check
        check ((state = 'DELETED') = (state_before_delete is not null)
            and (state = 'DELETED') = (purge_time is not null)),
    constraint tenants_lock_mode_check check (lock_mode in ('READ_ONLY', 'FULL')),
    constraint tenants_contract_mode_check check (contract_mode in ('TRIAL', 'PRODUCTION')),
    constraint tenants_routing_profile_check
        check (not use_custom_routing_profile or organization_kind = 'SERVICE_PROVIDER')
);

comment on table tenants is 'One customer environment of the platform each.';
comment on column tenants.uid is 'UUIDv7 made by the service; first in every key of what a tenant owns.';
comment on column tenants.account_id is 'The organisation that operates the tenant.';
comment on column tenants.tenant_id is 'The id people use; claimed in tenant_directory, never given twice.';
comment on column tenants.code is 'Given or generated, immutable (1-03, 1-04); claimed in tenant_directory.';
comment on column tenants.type is 'Place in the product hierarchy (1-06).';
comment on column tenants.parent_uid is 'The tenant directly above; a CLIENT always has one.';
comment on column tenants.ancestors is 'From the root down to the parent; what a service provider''s sight and the depth limit rest on.';
comment on column tenants.console is 'Console tenants are a namespace of their own for names (1-08).';
comment on column tenants.state_before_delete is 'What undelete brings back.';
comment on column tenants.lock_mode is 'Null unless the tenant itself is locked.';
comment on column tenants.hostname is 'Empty where none; claimed in tenant_directory.';
comment on column tenants.default_domain is 'Null where none (2-05).';
comment on column tenants.reseller_id is 'The reseller that the tenant belongs to, within its account.';
comment on column tenants.profile is 'A JSON object of the caller''s own, replaced whole (1-13).';
comment on column tenants.labels is 'A JSON object of text values.';
comment on column tenants.approve_time is 'Each transition stamps its own time and actor; none is ever cleared (4-07).';
comment on column tenants.purge_time is 'Until then a deleted tenant can be undeleted.';
comment on column tenants.version is 'Counts the changes of the row; the etag is made from it.';

create index tenants_account_id_uid_idx on tenants (account_id, uid);
create index tenants_account_id_name_idx on tenants (account_id, name);
create index tenants_parent_uid_idx on tenants (parent_uid) where parent_uid is not null;
create index tenants_ancestors_idx on tenants using gin (ancestors);
create index tenants_default_domain_idx on tenants (default_domain) where default_domain is not null;
create index tenants_reseller_idx on tenants (account_id, reseller_id) where reseller_id is not null;

alter table tenants enable row level security;
alter table tenants force row level security;

create policy tenants_owner on tenants to tenantry_owner
    using (true) with check (true);

-- One policy for each kind of scope. A setting that is absent reads as NULL before its first use in a
-- session and as '' afterwards; both must admit nothing, hence nullif.
create policy tenants_system on tenants to tenantry_service
    using ((select current_setting('tenantry.system', true)) = 'on')
    with check ((select current_setting('tenantry.system', true)) = 'on');

create policy tenants_account on tenants to tenantry_service
    using (account_id = (select nullif(current_setting('tenantry.account', true), '')))
    with check (account_id = (select nullif(current_setting('tenantry.account', true), '')));

create policy tenants_tenant on tenants to tenantry_service
    using (uid = (select nullif(current_setting('tenantry.tenant', true), '')::uuid))
    with check (uid = (select nullif(current_setting('tenantry.tenant', true), '')::uuid));

create policy tenants_listed on tenants to tenantry_service
    using (uid = any ((select nullif(current_setting('tenantry.tenants', true), '')::uuid[])::uuid[]))
    with check (false);

create policy tenants_provider on tenants to tenantry_service
    using (uid = (select nullif(current_setting('tenantry.provider', true), '')::uuid)
        or ancestors @> array[(select nullif(current_setting('tenantry.provider', true), '')::uuid)])
    with check (uid = (select nullif(current_setting('tenantry.provider', true), '')::uuid)
        or ancestors @> array[(select nullif(current_setting('tenantry.provider', true), '')::uuid)]);

create policy tenants_reseller on tenants to tenantry_service
    using (account_id = (select nullif(current_setting('tenantry.reseller_account', true), ''))
        and reseller_id = (select nullif(current_setting('tenantry.reseller', true), '')))
    with check (account_id = (select nullif(current_setting('tenantry.reseller_account', true), ''))
        and reseller_id = (select nullif(current_setting('tenantry.reseller', true), '')));

grant select, insert, update, delete on tenants to tenantry_service;

-- The verifier resolves keys of any tenant, and sees no more of a tenant than a verdict needs.
create policy tenants_verifier on tenants for select to tenantry_verifier
    using (true);

grant select (uid, tenant_id, account_id, ancestors, state, lock_mode) on tenants to tenantry_verifier;

-- A domain is seen by whoever sees a tenant that has it.
create policy domains_in_use on domains for select to tenantry_service
    using (exists (select 1 from tenants where tenants.default_domain = domains.domain_id));

-- An account is seen by whoever sees a tenant of it.
create policy accounts_of_tenants on accounts for select to tenantry_service
    using (exists (select 1 from tenants where tenants.account_id = accounts.account_id));
