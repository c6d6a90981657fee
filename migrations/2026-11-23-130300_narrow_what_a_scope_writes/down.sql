drop policy master_key_checks_system on master_key_checks;
drop policy master_key_checks_read on master_key_checks;
drop policy master_key_checks_owner on master_key_checks;
alter table master_key_checks no force row level security;
alter table master_key_checks disable row level security;

drop policy events_append on events;
create policy events_append on events for insert to tenantry_service
    with check (
        (account_id is null and tenant_uid is null)
        or (select current_setting('tenantry.system', true)) = 'on'
        or (tenant_uid is null
            and account_id = (select nullif(current_setting('tenantry.account', true), '')))
        or exists (
            select 1 from tenants
            where tenants.uid = events.tenant_uid and tenants.account_id = events.account_id
        )
    );

drop policy domains_auto_create on domains;
create policy domains_auto_create on domains for insert to tenantry_service
    with check (true);

alter table api_keys drop constraint api_keys_system_admin_check;

do $$
begin
    execute (
        select format('revoke update (%s) on tenants from tenantry_service',
            string_agg(quote_ident(column_name), ', '))
        from information_schema.columns
        where table_schema = current_schema() and table_name = 'tenants'
    );
end
$$;
grant update, delete on tenants to tenantry_service;

alter table tenants add constraint tenants_parent_uid_fkey
    foreign key (parent_uid) references tenants (uid) not valid;
alter table tenants validate constraint tenants_parent_uid_fkey;
alter table tenants drop constraint tenants_parent_of_account_fkey;
create index tenants_account_id_uid_idx on tenants (account_id, uid);
drop index tenants_account_id_uid_key;
