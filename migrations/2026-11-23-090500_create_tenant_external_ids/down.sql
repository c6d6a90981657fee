drop table tenant_external_ids;
