-- The account of an application is told what becomes of the tenants that authorize it, whichever account those are
-- of. What it is told names the tenant by its id alone, so that neither the tenant's own keys nor those above it
-- are told the same a second time.
--
-- The case keeps the ids of other resources from being read as what they are not.
create policy events_to_publishers on events for insert to tenantry_service
    with check (case
        when tenant_uid is null and resource_type = 'authorization' then exists (
            select 1 from tenant_authorizations
            where tenant_authorizations.authorization_id = events.resource_id::uuid
                and tenant_authorizations.publisher_account_id = events.account_id
                and tenant_authorizations.tenant_id = events.tenant_id
        )
        else false
    end);

-- How a tenant stands, and all below it, for whoever acts on it: what of that binds from above its scope, and
-- which are below, under a policy no index tells.
create function authorizations_below(of_tenant uuid, at timestamptz)
    returns table (
        tenant_uid uuid,
        tenant_id text,
        is_deleted boolean,
        authorization_id uuid,
        application_id text,
        publisher_account_id text,
        environment text,
        suspended boolean,
        resume_time timestamptz
    )
    language sql stable security definer set search_path = public, pg_temp
    as $$
        with seen as (
            select uid from tenants
            where uid = of_tenant and (
                current_setting('tenantry.system', true) = 'on'
                or account_id = nullif(current_setting('tenantry.account', true), '')
                or uid = nullif(current_setting('tenantry.tenant', true), '')::uuid
                or uid = nullif(current_setting('tenantry.provider', true), '')::uuid
                or ancestors @> array[nullif(current_setting('tenantry.provider', true), '')::uuid]
            )
        ), below as (
            select uid, state, ancestors from tenants where uid = of_tenant
            union all
            select uid, state, ancestors from tenants where ancestors @> array[of_tenant]
        )
        select
            below.uid,
            had.tenant_id,
            below.state = 'DELETED',
            had.authorization_id,
            had.application_id,
            had.publisher_account_id,
            had.environment,
            locks.number > 0,
            locks.last_end
        from below
        join tenant_authorizations as had on had.tenant_uid = below.uid
        cross join lateral (
            select
                count(*) as number,
                -- One without an end lasts longest.
                case when count(*) = count(unlock_time) then max(unlock_time) end as last_end
            from tenants as locked
            where locked.uid = any (below.ancestors || below.uid)
                and locked.lock_mode is not null
                and (locked.unlock_time is null or locked.unlock_time > at)
        ) as locks
        where exists (select 1 from seen)
            and had.state = 'ACTIVE'
            and (had.valid_until is null or had.valid_until > at)
    $$;

comment on function authorizations_below is 'The authorizations of a tenant within the scope, and of all below it, that are good at a time, each with the locks that bind its tenant.';

revoke execute on function authorizations_below from public;
grant execute on function authorizations_below to tenantry_service;
