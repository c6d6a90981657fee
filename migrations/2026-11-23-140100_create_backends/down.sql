alter table tenants drop column backend_id;
drop table backends;
