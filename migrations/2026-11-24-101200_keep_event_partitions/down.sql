drop function keep_event_partitions;
