-- How often a key may be used: so many times in a window, and so many times at all until it is refilled.
alter table api_keys
    add column rate_requests bigint,
    add column rate_window_seconds integer,
    add column credits_amount bigint,
    add column credits_refill_amount bigint,
    add column credits_refill_seconds integer,
    add column limits_version bigint not null default 0;

alter table api_keys add constraint api_keys_limits_check check (
    (rate_requests is null) = (rate_window_seconds is null)
    and (credits_refill_amount is null) = (credits_refill_seconds is null)
    and (credits_refill_amount is null or credits_amount is not null)
    and rate_requests > 0 and rate_window_seconds > 0
    and credits_amount >= 0 and credits_refill_amount > 0
    and credits_refill_seconds > 0
) not valid;
alter table api_keys validate constraint api_keys_limits_check;

comment on column api_keys.rate_requests is 'How many verifications of a window find the key VALID; null: any number.';
comment on column api_keys.rate_window_seconds is 'How long a window is; windows begin at multiples of it since 1970.';
comment on column api_keys.credits_amount is 'How many uses there are, and up to how many refills go; null: any number.';
comment on column api_keys.credits_refill_amount is 'How many uses a refill adds; null: there are none.';
comment on column api_keys.credits_refill_seconds is 'How often it is refilled, counted from when credits were set.';
comment on column api_keys.limits_version is 'Counts how often the limits were set: what was handed out before counts for nothing.';

alter table external_keys
    add column rate_requests bigint,
    add column rate_window_seconds integer,
    add column credits_amount bigint,
    add column credits_refill_amount bigint,
    add column credits_refill_seconds integer,
    add column limits_version bigint not null default 0;

alter table external_keys add constraint external_keys_limits_check check (
    (rate_requests is null) = (rate_window_seconds is null)
    and (credits_refill_amount is null) = (credits_refill_seconds is null)
    and (credits_refill_amount is null or credits_amount is not null)
    and rate_requests > 0 and rate_window_seconds > 0
    and credits_amount >= 0 and credits_refill_amount > 0
    and credits_refill_seconds > 0
) not valid;
alter table external_keys validate constraint external_keys_limits_check;

comment on column external_keys.rate_requests is 'As in api_keys.';
comment on column external_keys.rate_window_seconds is 'As in api_keys.';
comment on column external_keys.credits_amount is 'As in api_keys.';
comment on column external_keys.credits_refill_amount is 'As in api_keys.';
comment on column external_keys.credits_refill_seconds is 'As in api_keys.';
comment on column external_keys.limits_version is 'As in api_keys.';

create table key_rate_windows (
    route bigint not null,
    number bigint not null,
    tenant_uid uuid,
    limits_version bigint not null,
    window_number bigint not null,
    used bigint not null,
    granted bigint not null,
    constraint key_rate_windows_pkey primary key (route, number),
    constraint key_rate_windows_tenant_uid_fkey
        foreign key (tenant_uid) references tenants (uid) on delete cascade
) with (fillfactor = 70);

comment on table key_rate_windows is 'How much of the newest window of a key was handed out to nodes, which take small portions of it.';
comment on column key_rate_windows.tenant_uid is 'Whose key it is; null for a key of the system or an account.';
comment on column key_rate_windows.limits_version is 'The limits that it counts against.';
comment on column key_rate_windows.window_number is 'Seconds since 1970, by the clock of the database, divided by the length of the window.';
comment on column key_rate_windows.used is 'How many uses of it were handed out.';
comment on column key_rate_windows.granted is 'How many of them the last time.';

create index key_rate_windows_tenant_uid_idx on key_rate_windows (tenant_uid) where tenant_uid is not null;

create table key_credits (
    route bigint not null,
    number bigint not null,
    tenant_uid uuid,
    limits_version bigint not null,
    remaining bigint not null,
    granted bigint not null,
    refill_time timestamptz not null,
    constraint key_credits_pkey primary key (route, number),
    constraint key_credits_tenant_uid_fkey
        foreign key (tenant_uid) references tenants (uid) on delete cascade,
    constraint key_credits_remaining_check check (remaining >= 0)
) with (fillfactor = 70);

comment on table key_credits is 'How many uses of a key are left that no node has taken a portion of.';
comment on column key_credits.tenant_uid is 'Whose key it is; null for a key of the system or an account.';
comment on column key_credits.limits_version is 'The limits that it counts against.';
comment on column key_credits.granted is 'How many uses were handed out the last time.';
comment on column key_credits.refill_time is 'Up to when refills are counted in remaining.';

create index key_credits_tenant_uid_idx on key_credits (tenant_uid) where tenant_uid is not null;

alter table key_rate_windows enable row level security;
alter table key_rate_windows force row level security;
alter table key_credits enable row level security;
alter table key_credits force row level security;

create policy key_rate_windows_owner on key_rate_windows to tenantry_owner
    using (true) with check (true);
create policy key_credits_owner on key_credits to tenantry_owner
    using (true) with check (true);

-- The meter hands out portions, of whichever key; what limits there are it is told by who knows the key.
create policy key_rate_windows_meter on key_rate_windows to tenantry_meter
    using (true) with check (true);
create policy key_credits_meter on key_credits to tenantry_meter
    using (true) with check (true);
grant select, insert, update on key_rate_windows to tenantry_meter;
grant select on key_credits to tenantry_meter;
grant update (remaining, granted, refill_time) on key_credits to tenantry_meter;

-- Who sees a key sees what is left of it, and sets it anew.
create policy key_credits_of_key on key_credits to tenantry_service
    using (exists (select 1 from api_keys as key
            where key.route = key_credits.route and key.number = key_credits.number)
        or exists (select 1 from external_keys as key
            where key.route = key_credits.route and key.number = key_credits.number))
    with check (exists (select 1 from api_keys as key
            where key.route = key_credits.route and key.number = key_credits.number
                and key.tenant_uid is not distinct from key_credits.tenant_uid)
        or exists (select 1 from external_keys as key
            where key.route = key_credits.route and key.number = key_credits.number
                and key.tenant_uid = key_credits.tenant_uid));
grant select, insert, update, delete on key_credits to tenantry_service;

create policy key_rate_windows_of_key on key_rate_windows to tenantry_service
    using (exists (select 1 from external_keys as key
            where key.route = key_rate_windows.route and key.number = key_rate_windows.number));
grant select (route, number, tenant_uid), delete on key_rate_windows to tenantry_service;

create policy key_rate_windows_purger on key_rate_windows to tenantry_purger
    using (exists (
        select 1 from tenant_tombstones
        where tenant_tombstones.tenant_uid = key_rate_windows.tenant_uid
    ))
    with check (false);
grant select (tenant_uid, route, number), delete on key_rate_windows to tenantry_purger;

create policy key_credits_purger on key_credits to tenantry_purger
    using (exists (
        select 1 from tenant_tombstones
        where tenant_tombstones.tenant_uid = key_credits.tenant_uid
    ))
    with check (false);
grant select (tenant_uid, route, number), delete on key_credits to tenantry_purger;
