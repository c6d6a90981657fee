create table tenant_usage_records (
    tenant_uid uuid not null,
    usage_id uuid not null,
    usage_type text not null,
    aggregation_period text not null,
    start_time timestamptz not null,
    end_time timestamptz not null,
    count bigint not null,
    trial boolean not null,
    bundle_type text not null,
    constraint tenant_usage_records_pkey primary key (tenant_uid, usage_id),
    constraint tenant_usage_records_period_key
        unique (tenant_uid, usage_type, aggregation_period, start_time),
    constraint tenant_usage_records_tenant_uid_fkey
        foreign key (tenant_uid) references tenants (uid) on delete cascade,
    constraint tenant_usage_records_usage_type_check
        check (usage_type in ('USERS', 'AUTHENTICATIONS', 'IDPROOFING', 'ISSUANCE')),
    constraint tenant_usage_records_period_check check (
        case aggregation_period
            when 'DAILY' then
                start_time = date_trunc('day', start_time, 'UTC')
                and end_time = start_time + interval '24 hours'
            when 'WEEKLY' then
                start_time = date_trunc('week', start_time, 'UTC')
                and end_time = start_time + interval '168 hours'
            when 'MONTHLY' then
                start_time = date_trunc('month', start_time, 'UTC')
                and end_time = (start_time at time zone 'UTC' + interval '1 month') at time zone 'UTC'
            else false
        end
    ),
    constraint tenant_usage_records_count_check check (count >= 0)
);

comment on table tenant_usage_records is 'How much of the platform a tenant used in a period (3-21).';
comment on column tenant_usage_records.usage_id is 'UUIDv7 made by the service.';
comment on column tenant_usage_records.start_time is 'The start of a UTC day, of a week from Monday, or of a month: periods of one kind have either one start or nothing in common, so that they never overlap.';
comment on column tenant_usage_records.bundle_type is 'What was bought with it; empty where none.';

create index tenant_usage_records_start_time_idx on tenant_usage_records (start_time, usage_id);

alter table tenant_usage_records enable row level security;
alter table tenant_usage_records force row level security;

create policy tenant_usage_records_owner on tenant_usage_records to tenantry_owner
    using (true) with check (true);

create policy tenant_usage_records_of_tenant on tenant_usage_records
    for select to tenantry_service
    using (exists (select 1 from tenants where tenants.uid = tenant_usage_records.tenant_uid));

-- No tenant says itself what it used: a scope records for the tenants below its own.
create policy tenant_usage_records_from_above on tenant_usage_records
    for insert to tenantry_service
    with check (
        exists (select 1 from tenants where tenants.uid = tenant_usage_records.tenant_uid)
        and tenant_uid is distinct from
            (select nullif(current_setting('tenantry.tenant', true), '')::uuid)
        and tenant_uid is distinct from
            (select nullif(current_setting('tenantry.provider', true), '')::uuid)
    );

grant select, insert on tenant_usage_records to tenantry_service;
