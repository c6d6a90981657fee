drop table tenant_groups;
