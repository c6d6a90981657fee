drop table tenant_entitlements;
