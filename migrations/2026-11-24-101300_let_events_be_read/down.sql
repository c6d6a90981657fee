revoke select on events from tenantry_feed, tenantry_service;
drop policy events_feed on events;
drop policy events_provider on events;
drop policy events_tenant on events;
drop policy events_account on events;
drop policy events_system on events;
