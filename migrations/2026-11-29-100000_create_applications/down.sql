drop table application_clients;
drop table applications;
drop table application_ids;
