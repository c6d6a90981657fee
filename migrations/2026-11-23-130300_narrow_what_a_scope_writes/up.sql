-- What no method does, no statement of the service may do either: give a tenant to another account, put
-- it below a tenant of another account, delete it, let a tenant's key hold the role of the system, or
-- write what belongs to the system from outside a call.

create unique index tenants_account_id_uid_key on tenants (account_id, uid);
drop index tenants_account_id_uid_idx;
alter table tenants add constraint tenants_parent_of_account_fkey
    foreign key (account_id, parent_uid) references tenants (account_id, uid) not valid;
alter table tenants validate constraint tenants_parent_of_account_fkey;
alter table tenants drop constraint tenants_parent_uid_fkey;

revoke update, delete on tenants from tenantry_service;
do $$
begin
    execute (
        select format('grant update (%s) on tenants to tenantry_service',
            string_agg(quote_ident(column_name), ', '))
        from information_schema.columns
        where table_schema = current_schema() and table_name = 'tenants'
            and column_name not in ('uid', 'account_id', 'create_time', 'created_by')
    );
end
$$;

alter table api_keys add constraint api_keys_system_admin_check
    check (scope = 'SYSTEM' or not ('system-admin' = any (roles))) not valid;
alter table api_keys validate constraint api_keys_system_admin_check;

drop policy domains_auto_create on domains;
create policy domains_auto_create on domains for insert to tenantry_service
    with check ((select nullif(current_setting('tenantry.credential', true), '')) is not null);

drop policy events_append on events;
create policy events_append on events for insert to tenantry_service
    with check (
        (select current_setting('tenantry.system', true)) = 'on'
        or (account_id is null and tenant_uid is null
            and actor = 'api_key:' || (select nullif(current_setting('tenantry.credential', true), '')))
        or (tenant_uid is null
            and account_id = (select nullif(current_setting('tenantry.account', true), '')))
        or exists (
            select 1 from tenants
            where tenants.uid = events.tenant_uid and tenants.account_id = events.account_id
        )
    );

alter table master_key_checks enable row level security;
alter table master_key_checks force row level security;
create policy master_key_checks_owner on master_key_checks to tenantry_owner
    using (true) with check (true);
create policy master_key_checks_read on master_key_checks for select to tenantry_service
    using (true);
create policy master_key_checks_system on master_key_checks for insert to tenantry_service
    with check ((select current_setting('tenantry.system', true)) = 'on');
