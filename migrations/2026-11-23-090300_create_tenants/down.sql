drop policy domains_in_use on domains;
drop table tenants;
