alter table tenant_installations
    add column application_id text,
    add constraint tenant_installations_application_id_fkey
        foreign key (application_id) references application_ids (application_id);

comment on column tenant_installations.application_id is 'Whose keys they are: they are good only while the tenant authorizes it. Null where they are nobody''s.';

grant update (application_id) on tenant_installations to tenantry_service;
grant select (application_id) on tenant_installations to tenantry_verifier;
