drop table tenant_tombstones;
