-- Whether a key is good at all, and the secret that it had before the one it has: still good for a while.
alter table api_keys
    add column enabled boolean not null default true,
    add column old_digest bytea,
    add column old_master_key_version smallint,
    add column old_end_time timestamptz;

alter table api_keys add constraint api_keys_old_check check (
    (old_digest is null and old_master_key_version is null and old_end_time is null)
    or (octet_length(old_digest) = 32 and old_master_key_version is not null and old_end_time is not null)
) not valid;
alter table api_keys validate constraint api_keys_old_check;

comment on column api_keys.enabled is 'Whether the key is good at all; unlike a revoked key it can be enabled again.';
comment on column api_keys.old_digest is 'What digest was before the last rotation; good until old_end_time.';
comment on column api_keys.old_master_key_version is 'The version of the master key that old_digest was made with.';
comment on column api_keys.old_end_time is 'The end of the overlap of the last rotation.';

alter table external_keys
    add column old_digest bytea,
    add column old_master_key_version smallint,
    add column old_end_time timestamptz;

alter table external_keys add constraint external_keys_old_check check (
    (old_digest is null and old_master_key_version is null and old_end_time is null)
    or (octet_length(old_digest) = 32 and old_master_key_version is not null and old_end_time is not null)
) not valid;
alter table external_keys validate constraint external_keys_old_check;

comment on column external_keys.old_digest is 'What digest was before the last rotation; good until old_end_time.';
comment on column external_keys.old_master_key_version is 'The version of the master key that old_digest was made with.';
comment on column external_keys.old_end_time is 'The end of the overlap of the last rotation.';
