revoke insert on events from tenantry_operator;
drop policy events_operator on events;
drop table operations;
