-- Whoever changes an authorization counts it anew, whichever side it is on, and so in rows that it does not see.
-- The function, run as the owner, believes nothing that it is told but where to look: it counts what there is,
-- and moves the counters by the difference. Called in vain, it changes nothing.
--
-- First it holds the rows of the tenants, in their order, so that what others did before is seen by the count;
-- then it moves the counters, in their order. These are the last locks of a transaction: whoever called this
-- holds no new row afterwards that others may want.
create function book_authorizations(
    of_tenants uuid[], of_publishers text[], of_applications text[], in_environments text[]
)
    returns void
    language plpgsql volatile security definer
    set search_path = public, pg_temp
    -- Every row is found by its key, whatever the statistics say.
    set enable_seqscan = off
    set enable_hashjoin = off
    set enable_mergejoin = off
    as $$
begin
    insert into authorized_tenants (
        tenant_uid, publisher_account_id, application_id, environment, tenant_id, live, has_revoked
    )
    select distinct
        said.tenant_uid,
        said.publisher_account_id,
        place.application_id,
        said.environment,
        tenants.tenant_id,
        0,
        false
    from unnest(of_tenants, of_publishers, of_applications, in_environments)
        as said (tenant_uid, publisher_account_id, application_id, environment)
    cross join lateral (values (''), (said.application_id)) as place (application_id)
    join tenants on tenants.uid = said.tenant_uid
    where exists (
        select 1 from tenant_authorizations
        where tenant_authorizations.tenant_uid = said.tenant_uid
            and tenant_authorizations.publisher_account_id = said.publisher_account_id
            and tenant_authorizations.application_id = said.application_id
            and tenant_authorizations.environment = said.environment
    )
    order by 1, 2, 3, 4
    on conflict do nothing;

    perform 1
    from authorized_tenants as held
    where (held.tenant_uid, held.publisher_account_id, held.application_id, held.environment) in (
        select said.tenant_uid, said.publisher_account_id, place.application_id, said.environment
        from unnest(of_tenants, of_publishers, of_applications, in_environments)
            as said (tenant_uid, publisher_account_id, application_id, environment)
        cross join lateral (values (''), (said.application_id)) as place (application_id)
    )
    order by held.tenant_uid, held.publisher_account_id, held.application_id, held.environment
    for update;

    -- A statement of its own: its snapshot sees what those did who had to be waited for.
    with counted as (
        select held.*, found.live as live_now, found.has_revoked as has_revoked_now
        from authorized_tenants as held
        cross join lateral (
            select
                count(*) filter (where had.state = 'ACTIVE')::integer as live,
                coalesce(bool_or(had.state = 'REVOKED'), false) as has_revoked
            from tenant_authorizations as had
            where had.tenant_uid = held.tenant_uid
                and had.publisher_account_id = held.publisher_account_id
                and had.environment = held.environment
                and held.application_id in ('', had.application_id)
        ) as found
        where (held.tenant_uid, held.publisher_account_id, held.application_id, held.environment) in (
            select said.tenant_uid, said.publisher_account_id, place.application_id, said.environment
            from unnest(of_tenants, of_publishers, of_applications, in_environments)
                as said (tenant_uid, publisher_account_id, application_id, environment)
            cross join lateral (values (''), (said.application_id)) as place (application_id)
        )
    ), changed as (
        update authorized_tenants as held
        set live = counted.live_now, has_revoked = counted.has_revoked_now
        from counted
        where held.tenant_uid = counted.tenant_uid
            and held.publisher_account_id = counted.publisher_account_id
            and held.application_id = counted.application_id
            and held.environment = counted.environment
            and (held.live, held.has_revoked) <> (counted.live_now, counted.has_revoked_now)
    ), moves as (
        select
            publisher_account_id,
            application_id,
            environment,
            get_byte(uuid_send(tenant_uid), 15) % 32 as slot,
            sum((live_now > 0)::integer - (live > 0)::integer) as tenants
        from counted
        group by 1, 2, 3, 4
        having sum((live_now > 0)::integer - (live > 0)::integer) <> 0
    )
    insert into authorized_tenant_counts as counter (
        publisher_account_id, application_id, environment, slot, tenants
    )
    select publisher_account_id, application_id, environment, slot, tenants
    from moves
    order by 1, 2, 3, 4
    on conflict (publisher_account_id, application_id, environment, slot)
        do update set tenants = counter.tenants + excluded.tenants;
end
$$;

comment on function book_authorizations is 'Counts anew which of these tenants authorize these applications, and any of their accounts, in these environments.';

revoke execute on function book_authorizations from public;
grant execute on function book_authorizations to tenantry_service, tenantry_expiry, tenantry_purger;
