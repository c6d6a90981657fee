drop policy accounts_of_tenants on accounts;
drop policy domains_in_use on domains;
drop table tenants;
