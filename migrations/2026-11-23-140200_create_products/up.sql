create table products (
    account_id text not null,
    product_code text not null,
    name text not null,
    description text not null,
    create_time timestamptz not null,
    update_time timestamptz not null,
    version bigint not null,
    constraint products_pkey primary key (account_id, product_code),
    constraint products_account_id_fkey foreign key (account_id) references accounts (account_id),
    constraint products_product_code_check check (product_code ~ '^[A-Za-z0-9]{4,64}$'),
    constraint products_name_check check (char_length(name) between 1 and 80)
);

comment on table products is 'What an account sells, and what installations are of (1-51).';
comment on column products.version is 'Counts the changes of the row and of its packages; the etag is made from it.';

alter table products enable row level security;
alter table products force row level security;

create policy products_owner on products to tenantry_owner
    using (true) with check (true);

create policy products_system on products to tenantry_service
    using ((select current_setting('tenantry.system', true)) = 'on')
    with check ((select current_setting('tenantry.system', true)) = 'on');

create policy products_account on products to tenantry_service
    using (account_id = (select nullif(current_setting('tenantry.account', true), '')))
    with check (account_id = (select nullif(current_setting('tenantry.account', true), '')));

-- Whoever acts on a tenant may read what the tenant's account has for it.
create policy products_of_account on products for select to tenantry_service
    using (account_id = (select account_of_scope()));

grant select, insert, update, delete on products to tenantry_service;

create table product_packages (
    account_id text not null,
    product_code text not null,
    package_code text not null,
    name text not null,
    description text not null,
    position integer not null,
    constraint product_packages_pkey primary key (account_id, product_code, package_code),
    constraint product_packages_product_fkey foreign key (account_id, product_code)
        references products (account_id, product_code) on delete cascade,
    constraint product_packages_package_code_check check (package_code ~ '^[A-Za-z0-9]{4,64}$'),
    constraint product_packages_name_check check (char_length(name) between 1 and 80)
);

comment on table product_packages is 'The forms in which products are sold (1-51).';
comment on column product_packages.package_code is 'Without the code of the product before it (1-21).';
comment on column product_packages.position is 'Place among the packages of the product, as they were given.';

alter table product_packages enable row level security;
alter table product_packages force row level security;

create policy product_packages_owner on product_packages to tenantry_owner
    using (true) with check (true);

create policy product_packages_system on product_packages to tenantry_service
    using ((select current_setting('tenantry.system', true)) = 'on')
    with check ((select current_setting('tenantry.system', true)) = 'on');

create policy product_packages_account on product_packages to tenantry_service
    using (account_id = (select nullif(current_setting('tenantry.account', true), '')))
    with check (account_id = (select nullif(current_setting('tenantry.account', true), '')));

-- Whoever acts on a tenant may read what the tenant's account has for it.
create policy product_packages_of_account on product_packages for select to tenantry_service
    using (account_id = (select account_of_scope()));

grant select, insert, update, delete on product_packages to tenantry_service;
