create table domains (
    domain_id text not null,
    create_time timestamptz not null,
    version bigint not null,
    constraint domains_pkey primary key (domain_id),
    constraint domains_domain_id_check
        check (domain_id = lower(domain_id) and char_length(domain_id) between 1 and 80)
);

comment on table domains is 'The DNS domains at system level that tenants may have as their default (2-05, 2-19).';
comment on column domains.domain_id is 'The DNS name itself, in lower case.';
comment on column domains.version is 'Counts the changes of the row; the etag is made from it.';

alter table domains enable row level security;
alter table domains force row level security;

create policy domains_owner on domains to tenantry_owner
    using (true) with check (true);

create policy domains_system on domains to tenantry_service
    using ((select current_setting('tenantry.system', true)) = 'on')
    with check ((select current_setting('tenantry.system', true)) = 'on');

-- A tenant may bring its domain with it (2-19), whoever creates the tenant.
create policy domains_auto_create on domains for insert to tenantry_service
    with check (true);

grant select, insert, delete on domains to tenantry_service;
