alter table tenants
    add column lock_reason text,
    add column lock_time timestamptz,
    add column locked_by text,
    add column unlock_time timestamptz,
    add column protected boolean not null default false,
    add column trial_expire_time timestamptz;

comment on column tenants.lock_mode is 'Null unless the tenant itself is locked; what is locked above it is computed, never copied (3-22).';
comment on column tenants.lock_time is 'When the lock was set; the five columns of a lock come and go together, but for the end.';
comment on column tenants.unlock_time is 'When the lock ends by itself; null: not before it is unlocked.';
comment on column tenants.protected is 'Whether only a protected caller may change or delete it (1-46).';
comment on column tenants.trial_expire_time is 'When its keys stop because the trial is over; null for PRODUCTION (3-14).';

update tenants set trial_expire_time = create_time + interval '60 days' where contract_mode = 'TRIAL';

alter table tenants add constraint tenants_lock_check
    check ((lock_mode is null) = (lock_time is null)
        and (lock_mode is null) = (lock_reason is null)
        and (lock_mode is null) = (locked_by is null)
        and (lock_mode is not null or unlock_time is null)) not valid;
alter table tenants validate constraint tenants_lock_check;
alter table tenants add constraint tenants_trial_check
    check ((contract_mode = 'TRIAL') = (trial_expire_time is not null)) not valid;
alter table tenants validate constraint tenants_trial_check;

create index tenants_locked_idx on tenants (uid) where lock_mode is not null;

grant select (unlock_time, trial_expire_time) on tenants to tenantry_verifier;

-- Whoever sees a tenant is told whether a lock above binds it, and by which mode until when, but sees
-- nothing else of the tenants above. Policies cannot say "this column of those rows"; these two
-- functions, run as the owner, can.
create function locks_above(of_tenants uuid[], at timestamptz)
    returns table (tenant_uid uuid, mode text, unlock_time timestamptz)
    language sql stable security definer set search_path = public, pg_temp
    as $$
        select tenants.uid, above.lock_mode, above.unlock_time
        from tenants
        join tenants above on above.uid = any (tenants.ancestors)
        where tenants.uid = any (of_tenants)
            and above.lock_mode is not null
            and (above.unlock_time is null or above.unlock_time > at)
    $$;

create function account_of_scope() returns text
    language sql stable security definer set search_path = public, pg_temp
    as $$
        select coalesce(
            nullif(current_setting('tenantry.account', true), ''),
            nullif(current_setting('tenantry.reseller_account', true), ''),
            (select account_id from tenants where uid = coalesce(
                nullif(current_setting('tenantry.tenant', true), ''),
                nullif(current_setting('tenantry.provider', true), ''))::uuid))
    $$;

create function locked_tenants(at timestamptz) returns setof uuid
    language sql stable security definer set search_path = public, pg_temp
    as $$
        select tenants.uid
        from tenants
        where lock_mode is not null and (unlock_time is null or unlock_time > at)
            and (current_setting('tenantry.system', true) = 'on'
                or account_id = (select account_of_scope()))
    $$;

comment on function locks_above is 'The locks above tenants that are in force at a time: what binds them besides their own.';
comment on function account_of_scope is 'The account that the scope of the transaction lies in; null for the system, and without a scope.';
comment on function locked_tenants is 'The tenants of the scope''s account that are locked themselves at a time: where the filter effective_locked starts.';

revoke execute on function locks_above, locked_tenants, account_of_scope from public;
grant execute on function locks_above, locked_tenants, account_of_scope to tenantry_service;
