-- The reseller of a group is one of the account of its tenant, and stays there while the group has it.

alter table tenant_groups add column reseller_account_id text;
comment on column tenant_groups.reseller_account_id is 'The account of the tenant, where the group has a reseller: the first half of the reseller''s key.';

insert into resellers (account_id, reseller_id, external_name, create_time, update_time, version)
select distinct tenants.account_id, tenant_groups.reseller_id, tenant_groups.reseller_id, now(), now(), 1
from tenant_groups
join tenants on tenants.uid = tenant_groups.tenant_uid
where tenant_groups.reseller_id is not null
on conflict do nothing;

update tenant_groups set reseller_account_id = tenants.account_id
from tenants
where tenants.uid = tenant_groups.tenant_uid and tenant_groups.reseller_id is not null;

alter table tenant_groups add constraint tenant_groups_reseller_account_fkey
    foreign key (reseller_account_id, tenant_uid) references tenants (account_id, uid)
    on delete cascade not valid;
alter table tenant_groups validate constraint tenant_groups_reseller_account_fkey;
alter table tenant_groups add constraint tenant_groups_reseller_fkey
    foreign key (reseller_account_id, reseller_id) references resellers (account_id, reseller_id) not valid;
alter table tenant_groups validate constraint tenant_groups_reseller_fkey;
create index tenant_groups_reseller_idx on tenant_groups (reseller_account_id, reseller_id)
    where reseller_id is not null;
