alter table tenants add column admin_user jsonb;
alter table tenants add constraint tenants_admin_user_check
    check (jsonb_typeof(admin_user) = 'object') not valid;
alter table tenants validate constraint tenants_admin_user_check;
comment on column tenants.admin_user is 'The first administrator as a JSON object; null where none was named (3-04).';
grant update (admin_user) on tenants to tenantry_service;
