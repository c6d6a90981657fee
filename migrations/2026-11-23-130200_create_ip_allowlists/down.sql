drop table account_ip_allowlists;
drop table tenant_ip_allowlists;
