drop table tenant_oauth_clients;
