drop function hold_tenants_of_account;
alter table accounts
    drop constraint accounts_max_tenants_check,
    drop column max_tenants,
    drop column tenant_creation_approval_required;
