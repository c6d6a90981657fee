alter table events drop constraint events_early_check;
drop function event_id_at;
drop table event_partitions;
