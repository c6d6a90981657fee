drop policy events_of_providers on events;
drop policy resellers_auto_create on resellers;
