create table tenant_authorization_usage (
    tenant_uid uuid not null,
    authorization_id uuid not null,
    last_used_time timestamptz not null,
    constraint tenant_authorization_usage_pkey primary key (tenant_uid, authorization_id),
    constraint tenant_authorization_usage_authorization_fkey
        foreign key (tenant_uid, authorization_id)
        references tenant_authorizations (tenant_uid, authorization_id) on delete cascade
) with (fillfactor = 70);

comment on table tenant_authorization_usage is 'When what tenants authorize was used last (0-09). Written at most once a minute for an authorization, so that the authorizations themselves never are.';
comment on column tenant_authorization_usage.last_used_time is 'To the minute. No index has it: an update stays on its page.';

alter table tenant_authorization_usage enable row level security;
alter table tenant_authorization_usage force row level security;

create policy tenant_authorization_usage_owner on tenant_authorization_usage to tenantry_owner
    using (true) with check (true);

create policy tenant_authorization_usage_meter on tenant_authorization_usage to tenantry_meter
    using (true) with check (true);
grant select, insert, update on tenant_authorization_usage to tenantry_meter;

-- Whoever sees the authorization, from whichever side, sees whether it is used.
create policy tenant_authorization_usage_of_authorization on tenant_authorization_usage
    for select to tenantry_service
    using (exists (
        select 1 from tenant_authorizations as used
        where used.tenant_uid = tenant_authorization_usage.tenant_uid
            and used.authorization_id = tenant_authorization_usage.authorization_id
    ));
grant select on tenant_authorization_usage to tenantry_service;

create policy tenant_authorization_usage_purger on tenant_authorization_usage to tenantry_purger
    using (exists (
        select 1 from tenant_tombstones
        where tenant_tombstones.tenant_uid = tenant_authorization_usage.tenant_uid
    ))
    with check (false);
grant select (tenant_uid, authorization_id), delete on tenant_authorization_usage to tenantry_purger;
