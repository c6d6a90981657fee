drop table authorized_tenant_counts;
