alter table api_keys add column backend_ids text[] not null default '{}';
comment on column api_keys.backend_ids is 'On which backends the role multi-backend-admin places tenants (2-23).';
alter table api_keys add constraint api_keys_backend_ids_check
    check (cardinality(backend_ids) = 0 or 'multi-backend-admin' = any (roles)) not valid;
alter table api_keys validate constraint api_keys_backend_ids_check;
create index api_keys_backend_ids_idx on api_keys using gin (backend_ids)
    where cardinality(backend_ids) > 0;
grant select (backend_ids) on api_keys to tenantry_verifier;
