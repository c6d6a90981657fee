drop table tenant_directory;
