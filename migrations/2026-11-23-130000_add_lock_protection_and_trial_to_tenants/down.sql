drop function locked_tenants;
drop function account_of_scope;
drop function locks_above;
drop index tenants_locked_idx;
alter table tenants
    drop constraint tenants_trial_check,
    drop constraint tenants_lock_check;
revoke select (unlock_time, trial_expire_time) on tenants from tenantry_verifier;
alter table tenants
    drop column trial_expire_time,
    drop column protected,
    drop column unlock_time,
    drop column locked_by,
    drop column lock_time,
    drop column lock_reason;
comment on column tenants.lock_mode is 'Null unless the tenant itself is locked.';
