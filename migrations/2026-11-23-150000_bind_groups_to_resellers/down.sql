drop index tenant_groups_reseller_idx;
alter table tenant_groups drop constraint tenant_groups_reseller_fkey;
alter table tenant_groups drop constraint tenant_groups_reseller_account_fkey;
alter table tenant_groups drop column reseller_account_id;
