drop index api_keys_reseller_idx;
alter table api_keys drop constraint api_keys_reseller_fkey;
alter table tenants drop constraint tenants_reseller_fkey;
drop table resellers;
