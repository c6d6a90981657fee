drop function authorizations_below;
drop policy events_to_publishers on events;
