drop table tenant_usage_records;
