drop table tenant_authorizations;
