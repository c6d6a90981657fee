drop table authorized_tenants;
