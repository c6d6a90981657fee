alter table accounts
    add column tenant_creation_approval_required boolean not null default false,
    add column max_tenants integer;

alter table accounts add constraint accounts_max_tenants_check check (max_tenants >= 0) not valid;
alter table accounts validate constraint accounts_max_tenants_check;

comment on column accounts.tenant_creation_approval_required is 'Whether new tenants wait for approval (4-08).';
comment on column accounts.max_tenants is 'How many tenants it may have that are not deleted; null: no limit (4-18).';

-- Whoever adds a tenant to an account must know how many it has, and sees perhaps only some of them.
-- The account is held, so that no two add the last one; keys of foreign rows stay possible.
create function hold_tenants_of_account(held text) returns bigint
    language sql volatile security definer set search_path = public, pg_temp
    as $$
        select 1 from accounts
        where account_id = held
            and (current_setting('tenantry.system', true) = 'on' or held = account_of_scope())
        for no key update;
        select count(*) from tenants
        where account_id = held and state <> 'DELETED'
            and (current_setting('tenantry.system', true) = 'on' or held = account_of_scope());
    $$;

comment on function hold_tenants_of_account is 'Counts the tenants of an account that are not deleted, and keeps others from counting until the transaction ends.';

revoke execute on function hold_tenants_of_account from public;
grant execute on function hold_tenants_of_account to tenantry_service;
