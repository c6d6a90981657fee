create table idempotency_records (
    credential_id uuid not null,
    account_id text not null,
    tenant_uid uuid not null,
    method text not null,
    request_id text not null,
    fingerprint bytea not null,
    answer bytea not null,
    expire_time timestamptz not null,
    constraint idempotency_records_pkey
        primary key (credential_id, account_id, tenant_uid, method, request_id),
    constraint idempotency_records_request_id_check check (char_length(request_id) between 1 and 128)
);

comment on table idempotency_records is 'What was answered to a mutation with a request_id, so that a repetition gets the same answer and has no second effect.';
comment on column idempotency_records.credential_id is 'The key that called.';
comment on column idempotency_records.account_id is 'The account of the call, empty where it had none.';
comment on column idempotency_records.tenant_uid is 'The tenant of the call, all zeros where it had none.';
comment on column idempotency_records.fingerprint is 'Keyed hash of the request without validate_only.';
comment on column idempotency_records.answer is 'The encoded answer, encrypted under a key made from the caller''s own secret and the request_id.';

create index idempotency_records_expire_time_idx on idempotency_records (expire_time);

alter table idempotency_records enable row level security;
alter table idempotency_records force row level security;

create policy idempotency_records_owner on idempotency_records to tenantry_owner
    using (true) with check (true);

create policy idempotency_records_credential on idempotency_records to tenantry_service
    using (credential_id = (select nullif(current_setting('tenantry.credential', true), '')::uuid))
    with check (credential_id = (select nullif(current_setting('tenantry.credential', true), '')::uuid));

grant select, insert, update on idempotency_records to tenantry_service;

create policy idempotency_records_worker on idempotency_records to tenantry_worker
    using (expire_time < now());

grant select (expire_time), delete on idempotency_records to tenantry_worker;
