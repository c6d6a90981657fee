alter table api_keys add column description text not null default '';
comment on column api_keys.description is 'What the key is for.';
