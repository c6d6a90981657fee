alter table events
    drop column position,
    drop column recorded_time,
    drop column ancestors,
    drop column on_behalf_of;
