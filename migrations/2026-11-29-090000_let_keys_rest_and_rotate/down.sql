alter table external_keys
    drop column old_digest,
    drop column old_master_key_version,
    drop column old_end_time;

alter table api_keys
    drop column enabled,
    drop column old_digest,
    drop column old_master_key_version,
    drop column old_end_time;
