drop table tenant_service_settings;
