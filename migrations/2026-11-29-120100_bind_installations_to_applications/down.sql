alter table tenant_installations drop column application_id;
