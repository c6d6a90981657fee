revoke select (backend_ids) on api_keys from tenantry_verifier;
drop index api_keys_backend_ids_idx;
alter table api_keys drop constraint api_keys_backend_ids_check;
alter table api_keys drop column backend_ids;
