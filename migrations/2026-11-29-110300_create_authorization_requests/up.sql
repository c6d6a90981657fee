create table authorization_requests (
    authorization_request_id uuid not null,
    kind text not null,
    application_id text not null,
    publisher_account_id text not null,
    environment text not null,
    customer_id text not null,
    customer_name text not null,
    contact_email text not null,
    additional_info text not null,
    on_behalf_of text not null,
    scopes text[] not null,
    run_as text not null,
    valid_until timestamptz,
    tenant_uid uuid,
    authorization_id uuid,
    state text not null,
    requested_by text not null,
    request_time timestamptz not null,
    expire_time timestamptz not null,
    generation integer not null,
    token_digest bytea not null,
    decided_by text,
    decider_name text,
    decide_time timestamptz,
    decline_reason text,
    update_time timestamptz not null,
    version bigint not null,
    constraint authorization_requests_pkey primary key (authorization_request_id),
    constraint authorization_requests_tenant_uid_fkey
        foreign key (tenant_uid) references tenants (uid) on delete set null,
    constraint authorization_requests_application_fkey
        foreign key (application_id, publisher_account_id)
        references application_ids (application_id, account_id),
    constraint authorization_requests_environment_fkey
        foreign key (environment) references environments (environment_id),
    constraint authorization_requests_kind_check check (kind in ('NEW', 'UPDATE')),
    constraint authorization_requests_run_as_check check (run_as in ('USER', 'SYSTEM')),
    constraint authorization_requests_state_check
        check (state in ('PENDING', 'APPROVED', 'DECLINED', 'EXPIRED', 'CANCELLED')),
    constraint authorization_requests_decided_check
        check ((decide_time is null) = (state in ('PENDING', 'EXPIRED'))),
    constraint authorization_requests_token_digest_check check (octet_length(token_digest) = 32)
);

comment on table authorization_requests is 'What accounts ask of tenants for their applications (0-10, 0-13), and what came of it.';
comment on column authorization_requests.kind is 'NEW where nothing was authorized; UPDATE of what is.';
comment on column authorization_requests.customer_id is 'As it was said: the id of a tenant, or one of its external ids.';
comment on column authorization_requests.run_as is 'As whom the application acted when it asked: a yes is to that.';
comment on column authorization_requests.tenant_uid is 'Null where the customer is unknown, has such a request by another name already, or was purged. Whoever asks is not told which.';
comment on column authorization_requests.authorization_id is 'The authorization that is to be changed, or came of it.';
comment on column authorization_requests.state is 'PENDING until it is decided on; one whose expire_time has passed is over.';
comment on column authorization_requests.generation is 'How often a link was made for it; only the last one is good.';
comment on column authorization_requests.token_digest is 'The SHA-256 of the secret in that link.';
comment on column authorization_requests.version is 'Counts the changes of the row; the etag is made from it.';

create unique index authorization_requests_token_digest_key on authorization_requests (token_digest);
create unique index authorization_requests_pending_key
    on authorization_requests (tenant_uid, application_id, environment, kind)
    where state = 'PENDING' and tenant_uid is not null;
create unique index authorization_requests_pending_customer_key
    on authorization_requests (application_id, environment, kind, customer_id)
    where state = 'PENDING';
create index authorization_requests_publisher_idx
    on authorization_requests (publisher_account_id, request_time, authorization_request_id);
create index authorization_requests_application_idx
    on authorization_requests (application_id, update_time);
create index authorization_requests_tenant_idx
    on authorization_requests (tenant_uid, request_time, authorization_request_id);
create index authorization_requests_authorization_idx on authorization_requests (authorization_id)
    where authorization_id is not null;
create index authorization_requests_environment_idx on authorization_requests (environment);
create index authorization_requests_end_idx on authorization_requests (expire_time) where state = 'PENDING';

alter table authorization_requests enable row level security;
alter table authorization_requests force row level security;

create policy authorization_requests_owner on authorization_requests to tenantry_owner
    using (true) with check (true);

create policy authorization_requests_system on authorization_requests to tenantry_service
    using ((select current_setting('tenantry.system', true)) = 'on')
    with check ((select current_setting('tenantry.system', true)) = 'on');

create policy authorization_requests_of_publisher on authorization_requests for select to tenantry_service
    using (publisher_account_id = (select coalesce(
        nullif(current_setting('tenantry.account', true), ''),
        nullif(current_setting('tenantry.publisher', true), ''))));
-- Whoever asks does not decide.
create policy authorization_requests_asked on authorization_requests for insert to tenantry_service
    with check (state = 'PENDING' and publisher_account_id = (select coalesce(
        nullif(current_setting('tenantry.account', true), ''),
        nullif(current_setting('tenantry.publisher', true), ''))));
create policy authorization_requests_taken_back on authorization_requests for update to tenantry_service
    using (publisher_account_id = (select coalesce(
        nullif(current_setting('tenantry.account', true), ''),
        nullif(current_setting('tenantry.publisher', true), ''))))
    with check (state in ('PENDING', 'CANCELLED', 'EXPIRED') and publisher_account_id = (select coalesce(
        nullif(current_setting('tenantry.account', true), ''),
        nullif(current_setting('tenantry.publisher', true), ''))));

create policy authorization_requests_of_tenant on authorization_requests to tenantry_service
    using (exists (select 1 from tenants where tenants.uid = authorization_requests.tenant_uid))
    with check (exists (select 1 from tenants where tenants.uid = authorization_requests.tenant_uid));

grant select, insert on authorization_requests to tenantry_service;
-- What was asked for, by whom and of whom, never changes.
grant update (
    authorization_id, state, expire_time, generation, token_digest, decided_by, decider_name, decide_time,
    decline_reason, update_time, version
) on authorization_requests to tenantry_service;

-- Tells of requests, without the tenant that they reach or do not reach.
create policy events_publisher on events for insert to tenantry_service
    with check (tenant_uid is null and resource_type = 'authorization_request'
        and account_id = (select nullif(current_setting('tenantry.publisher', true), '')));

-- What a tenant decides is told to whoever asked.
create policy events_of_requests on events for insert to tenantry_service
    with check (tenant_uid is null and resource_type = 'authorization_request' and exists (
        select 1 from authorization_requests as request
        where request.authorization_request_id::text = events.resource_id
            and request.publisher_account_id = events.account_id
    ));

-- Marks what nobody decided on in time.
create policy authorization_requests_expiry on authorization_requests to tenantry_expiry
    using (state in ('PENDING', 'EXPIRED')) with check (state = 'EXPIRED');
grant select on authorization_requests to tenantry_expiry;
grant update (state, update_time, version) on authorization_requests to tenantry_expiry;

create policy tenant_authorizations_requested on tenant_authorizations for select to tenantry_expiry
    using (true);
create policy tenant_authorizations_unrequest on tenant_authorizations for update to tenantry_expiry
    using (requested_scopes <> '{}') with check (requested_scopes = '{}');
grant select (tenant_uid, authorization_id, version) on tenant_authorizations to tenantry_expiry;
grant update (requested_scopes, update_time, version) on tenant_authorizations to tenantry_expiry;

create policy events_expiry_of_requests on events for insert to tenantry_expiry
    with check (type = 'authorization_request.expired' and actor = 'system');

-- A request stays with whoever asked, as one that reaches nobody does; what it tells of people of the tenant goes.
create policy authorization_requests_purger on authorization_requests for select to tenantry_purger
    using (exists (
        select 1 from tenant_tombstones
        where tenant_tombstones.tenant_uid = authorization_requests.tenant_uid
    ));
create policy authorization_requests_scrub on authorization_requests for update to tenantry_purger
    using (exists (
        select 1 from tenant_tombstones
        where tenant_tombstones.tenant_uid = authorization_requests.tenant_uid
    ))
    with check (decided_by is null and decider_name is null);
grant select (tenant_uid), update (decided_by, decider_name) on authorization_requests to tenantry_purger;
