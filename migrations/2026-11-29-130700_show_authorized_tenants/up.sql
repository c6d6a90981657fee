-- The account of an application reads the names of the tenants that authorize it, or once did, and of those alone:
-- it does not see tenants of other accounts. These functions, run as the owner, look behind the policy of tenants
-- and say by themselves whose applications the scope may ask about, as the policies of authorized_tenants do.

create function tell_authorized_tenants(
    of_publisher text, of_application text, in_environment text, of_tenants uuid[], at timestamptz
)
    returns table (tenant_uid uuid, name text, state text, is_live boolean)
    language sql stable security definer set search_path = public, pg_temp
    as $$
        select
            tenants.uid,
            tenants.name,
            tenants.state,
            authorized.live > 0 and exists (
                select 1 from tenant_authorizations as had
                where had.tenant_uid = authorized.tenant_uid
                    and had.publisher_account_id = authorized.publisher_account_id
                    and had.environment = authorized.environment
                    and authorized.application_id in ('', had.application_id)
                    and had.state = 'ACTIVE'
                    and (had.valid_until is null or had.valid_until > at)
            )
        from authorized_tenants as authorized
        join tenants on tenants.uid = authorized.tenant_uid
        where authorized.tenant_uid = any (of_tenants)
            and authorized.publisher_account_id = of_publisher
            and authorized.application_id = of_application
            and authorized.environment = in_environment
            and (current_setting('tenantry.system', true) = 'on' or of_publisher = coalesce(
                nullif(current_setting('tenantry.account', true), ''),
                nullif(current_setting('tenantry.publisher', true), '')))
    $$;

create function name_of_authorized_tenant(of_tenant uuid) returns text
    language sql stable security definer set search_path = public, pg_temp
    as $$
        select name from tenants
        where uid = of_tenant and exists (
            select 1 from authorized_tenants
            where authorized_tenants.tenant_uid = of_tenant
                and (current_setting('tenantry.system', true) = 'on'
                    or authorized_tenants.publisher_account_id = coalesce(
                        nullif(current_setting('tenantry.account', true), ''),
                        nullif(current_setting('tenantry.publisher', true), '')))
        )
    $$;

-- As search_tenants: it narrows a list down and decides nothing, and no text comes out of it.
create function search_authorized_tenants(
    of_publisher text,
    of_application text,
    in_environment text,
    fields text[],
    patterns text[],
    at_most integer
)
    returns uuid[]
    language plpgsql stable security definer
    set search_path = public, pg_temp
    set enable_seqscan = off
    set work_mem = '16MB'
    as $$
declare
    conditions text;
    found uuid[];
begin
    -- Such a pattern is an error only for texts that fit the rest of it, hidden ones too.
    if exists (select from unnest(patterns) as pattern where pattern ~ '(^|[^\\])(\\\\)*\\$') then
        raise 'a pattern ends in a lone backslash' using errcode = 'invalid_escape_sequence';
    end if;
    if current_setting('tenantry.system', true) is distinct from 'on'
        and of_publisher is distinct from coalesce(
            nullif(current_setting('tenantry.account', true), ''),
            nullif(current_setting('tenantry.publisher', true), ''))
    then
        return null;
    end if;
    select string_agg(
        case when field in ('tenant_id', 'name') then format('tenants.%I ilike %L', field, pattern) else 'false' end,
        ' and ')
    into conditions
    from unnest(fields, patterns) as term (field, pattern);
    execute format(
        'select array(
            select tenants.uid
            from authorized_tenants as authorized
            join tenants on tenants.uid = authorized.tenant_uid
            where authorized.publisher_account_id = %L and authorized.application_id = %L
                and authorized.environment = %L and %s
            limit %s)',
        of_publisher, of_application, in_environment, coalesce(conditions, 'true'), at_most + 1)
    into found;
    return case when cardinality(found) <= at_most then found end;
end
$$;

comment on function tell_authorized_tenants is 'What the account of an application is shown of some tenants: the name, the state, and whether one of their authorizations is good at a time.';
comment on function name_of_authorized_tenant is 'The name of a tenant that authorizes an application of the scope''s account, or once did; else null.';
comment on function search_authorized_tenants is 'Which tenants that authorize an application have such texts, in any case of letters; null where they are more than that.';

revoke execute on function tell_authorized_tenants, name_of_authorized_tenant, search_authorized_tenants from public;
grant execute on function tell_authorized_tenants, name_of_authorized_tenant, search_authorized_tenants
    to tenantry_service;

-- Which applications those are, and that they ever were.
create policy application_ids_publisher on application_ids for select to tenantry_service
    using (account_id = (select nullif(current_setting('tenantry.publisher', true), '')));
