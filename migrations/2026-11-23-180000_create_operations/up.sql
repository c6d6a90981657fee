create table operations (
    operation_id uuid not null,
    account_id text not null,
    tenant_uid uuid,
    tenant_of_call text,
    names_tenant boolean not null,
    names_account text,
    credential_id uuid not null,
    correlation_id text not null,
    state text not null,
    subject text not null,
    tenant_id text,
    attempts integer not null,
    attempt_time timestamptz,
    init_time timestamptz not null,
    processing_start_time timestamptz,
    processing_end_time timestamptz,
    error bytea,
    creator_key bytea not null,
    worker_key bytea,
    request bytea,
    result bytea,
    take_time timestamptz,
    expire_time timestamptz,
    constraint operations_pkey primary key (operation_id),
    constraint operations_account_id_fkey
        foreign key (account_id) references accounts (account_id) on delete cascade,
    constraint operations_tenant_uid_fkey
        foreign key (tenant_uid) references tenants (uid) on delete cascade,
    constraint operations_state_check
        check (state in ('SCHEDULED', 'PROCESSING', 'COMPLETED', 'FAILED', 'CANCELLED')),
    constraint operations_tenant_check
        check ((tenant_uid is null) = (tenant_of_call is null)
            and (tenant_uid is not null or not names_tenant)),
    constraint operations_end_check
        check ((state in ('SCHEDULED', 'PROCESSING')) = (processing_end_time is null)
            and (processing_end_time is null) = (expire_time is null)),
    constraint operations_request_check
        check ((processing_end_time is null) = (request is not null)
            and (request is null) = (worker_key is null)),
    constraint operations_error_check
        check ((state in ('FAILED', 'CANCELLED')) = (error is not null)),
    constraint operations_result_check
        check ((state = 'COMPLETED' and take_time is null) = (result is not null)
            and (state = 'COMPLETED' or take_time is null))
);

comment on table operations is 'What goes on after the call that asked for it: tenants that are created by CreateTenantAsync (3-02).';
comment on column operations.operation_id is 'UUIDv7, so that the order is that of their making.';
comment on column operations.account_id is 'The account of the tenant to be.';
comment on column operations.tenant_uid is 'The tenant of the call, which is not the tenant to be; null where it had none.';
comment on column operations.tenant_of_call is 'The same tenant by its id.';
comment on column operations.names_tenant is 'Whether the call named it in its metadata.';
comment on column operations.names_account is 'The account that a key of the system named in its metadata.';
comment on column operations.credential_id is 'The key that called: its rights count, and it alone takes the result.';
comment on column operations.subject is 'The name of the tenant to be.';
comment on column operations.tenant_id is 'The id of the tenant to be; null while it is not known.';
comment on column operations.attempts is 'How often work on it was begun.';
comment on column operations.attempt_time is 'When work on it was begun last; others leave it alone for a while.';
comment on column operations.error is 'Why there is no tenant: an encoded google.rpc.Status.';
comment on column operations.creator_key is 'The key of request and result, encrypted under one made from the caller''s own secret.';
comment on column operations.worker_key is 'The same key, encrypted under the master key until the operation is done.';
comment on column operations.request is 'The encrypted request, until the operation is done.';
comment on column operations.result is 'The encrypted answer, until it is taken.';
comment on column operations.take_time is 'When the result was taken.';
comment on column operations.expire_time is 'When it is forgotten; null until it is done.';

create index operations_account_id_idx on operations (account_id, operation_id);
create index operations_tenant_uid_idx on operations (tenant_uid) where tenant_uid is not null;
create index operations_open_idx on operations (attempts, operation_id)
    where state in ('SCHEDULED', 'PROCESSING');
create index operations_expire_time_idx on operations (expire_time) where expire_time is not null;

alter table operations enable row level security;
alter table operations force row level security;

create policy operations_owner on operations to tenantry_owner
    using (true) with check (true);

create policy operations_system on operations to tenantry_service
    using ((select current_setting('tenantry.system', true)) = 'on')
    with check ((select current_setting('tenantry.system', true)) = 'on');

create policy operations_account on operations to tenantry_service
    using (account_id = (select nullif(current_setting('tenantry.account', true), '')))
    with check (account_id = (select nullif(current_setting('tenantry.account', true), ''))
        and (tenant_uid is null or exists (
            select 1 from tenants
            where tenants.uid = operations.tenant_uid and tenants.account_id = operations.account_id
        )));

-- A reseller sees tenants, and not what becomes of them for others.
create policy operations_of_tenant on operations to tenantry_service
    using ((select nullif(current_setting('tenantry.reseller', true), '')) is null
        and exists (
            select 1 from tenants
            where tenants.uid = operations.tenant_uid and tenants.account_id = operations.account_id
        ))
    with check ((select nullif(current_setting('tenantry.reseller', true), '')) is null
        and exists (
            select 1 from tenants
            where tenants.uid = operations.tenant_uid and tenants.account_id = operations.account_id
        ));

-- Nobody asks in the name of another.
create policy operations_creator on operations as restrictive for insert to tenantry_service
    with check (credential_id = (select nullif(current_setting('tenantry.credential', true), '')::uuid));

grant select, insert, delete on operations to tenantry_service;
grant update (
    state, tenant_id, processing_end_time, error, worker_key, request, result, take_time, expire_time
) on operations to tenantry_service;

-- It works on what is not done, whoever asked for it, and says of it that it failed: that it is completed
-- is said in the scope of whoever asked, together with the tenant.
create policy operations_operator on operations for select to tenantry_operator
    using (state in ('SCHEDULED', 'PROCESSING', 'FAILED'));
create policy operations_operator_work on operations for update to tenantry_operator
    using (state in ('SCHEDULED', 'PROCESSING'))
    with check (state in ('PROCESSING', 'FAILED'));

grant select on operations to tenantry_operator;
grant update (
    state, tenant_id, attempts, attempt_time, processing_start_time, processing_end_time, error,
    worker_key, request, result, take_time, expire_time
) on operations to tenantry_operator;

create policy events_operator on events for insert to tenantry_operator
    with check (resource_type = 'operation' and type = 'operation.failed');

grant insert on events to tenantry_operator;

create policy operations_worker on operations to tenantry_worker
    using (expire_time < now());

grant select (expire_time), delete on operations to tenantry_worker;
