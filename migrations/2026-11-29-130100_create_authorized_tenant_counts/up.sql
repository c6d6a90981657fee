create table authorized_tenant_counts (
    publisher_account_id text not null,
    application_id text not null,
    environment text not null,
    slot integer not null,
    tenants bigint not null,
    constraint authorized_tenant_counts_pkey primary key (publisher_account_id, application_id, environment, slot),
    constraint authorized_tenant_counts_slot_check check (slot between 0 and 31)
) with (fillfactor = 50);

comment on table authorized_tenant_counts is 'How many tenants authorize an application, or any of an account, in an environment (0-02, 0-03): the sum of the slots, less those whose time is over and that nobody has marked yet.';
comment on column authorized_tenant_counts.application_id is 'Empty: any application of the account.';
comment on column authorized_tenant_counts.slot is 'Which tenants it counts, by the last byte of their uid: so that changes of several tenants seldom wait for each other.';

insert into authorized_tenant_counts (publisher_account_id, application_id, environment, slot, tenants)
select
    publisher_account_id,
    application_id,
    environment,
    get_byte(uuid_send(tenant_uid), 15) % 32,
    count(*)
from authorized_tenants
where live > 0
group by 1, 2, 3, 4;

alter table authorized_tenant_counts enable row level security;
alter table authorized_tenant_counts force row level security;

create policy authorized_tenant_counts_owner on authorized_tenant_counts to tenantry_owner
    using (true) with check (true);

create policy authorized_tenant_counts_system on authorized_tenant_counts for select to tenantry_service
    using ((select current_setting('tenantry.system', true)) = 'on');

create policy authorized_tenant_counts_publisher on authorized_tenant_counts for select to tenantry_service
    using (publisher_account_id = (select coalesce(
        nullif(current_setting('tenantry.account', true), ''),
        nullif(current_setting('tenantry.publisher', true), ''))));

grant select on authorized_tenant_counts to tenantry_service;
