drop table tenant_templates;
