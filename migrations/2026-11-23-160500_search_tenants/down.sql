drop function search_tenants;
