create table tenant_templates (
    account_id text not null,
    template_id text not null,
    category text not null,
    defaults jsonb not null,
    create_time timestamptz not null,
    update_time timestamptz not null,
    version bigint not null,
    constraint tenant_templates_pkey primary key (account_id, template_id),
    constraint tenant_templates_account_id_fkey foreign key (account_id) references accounts (account_id),
    constraint tenant_templates_template_id_check check (template_id ~ '^[a-z0-9-]{1,30}$'),
    constraint tenant_templates_category_check check (category = 'tenant')
);

comment on table tenant_templates is 'What new tenants have unless their creator says otherwise (2-18).';
comment on column tenant_templates.defaults is 'A Tenant as JSON, with the names of the proto; only what is a default is in it.';
comment on column tenant_templates.version is 'Counts the changes of the row; the etag is made from it.';

alter table tenant_templates enable row level security;
alter table tenant_templates force row level security;

create policy tenant_templates_owner on tenant_templates to tenantry_owner
    using (true) with check (true);

create policy tenant_templates_system on tenant_templates to tenantry_service
    using ((select current_setting('tenantry.system', true)) = 'on')
    with check ((select current_setting('tenantry.system', true)) = 'on');

create policy tenant_templates_account on tenant_templates to tenantry_service
    using (account_id = (select nullif(current_setting('tenantry.account', true), '')))
    with check (account_id = (select nullif(current_setting('tenantry.account', true), '')));

-- Whoever acts on a tenant may read what the tenant's account has for it.
create policy tenant_templates_of_account on tenant_templates for select to tenantry_service
    using (account_id = (select account_of_scope()));

grant select, insert, update, delete on tenant_templates to tenantry_service;
