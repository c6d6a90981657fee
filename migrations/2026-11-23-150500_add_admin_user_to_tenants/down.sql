alter table tenants drop constraint tenants_admin_user_check;
alter table tenants drop column admin_user;
