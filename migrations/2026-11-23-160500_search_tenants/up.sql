-- Under a policy, Postgres asks no index about `like`: the operator might tell of rows that the policy
-- hides. This function looks where no policy stands, as the owner, says itself what is within the scope
-- of the transaction, and answers nothing but uids. The service then reads those under its policies, so
-- that this narrows a search down and never decides it.
--
-- Several conditions must all hold. Null where it does not know: beyond `at_most`, which bounds the work,
-- and in other scopes.
create function search_tenants(fields text[], keys text[], patterns text[], at_most integer)
    returns uuid[]
    language plpgsql stable security definer
    set search_path = public, pg_temp
    -- What is not found through an index is better read in the order of the list.
    set enable_seqscan = off
    -- A pattern of which every third tenant is one must still fit.
    set work_mem = '16MB'
    as $$
declare
    within text := case
        when current_setting('tenantry.system', true) = 'on' then 'true'
        when current_setting('tenantry.account', true) <> ''
            then format('account_id = %L', current_setting('tenantry.account'))
        when current_setting('tenantry.provider', true) <> ''
            then format('(uid = %1$L or ancestors @> array[%1$L::uuid])', current_setting('tenantry.provider'))
    end;
    conditions text;
    found uuid[];
begin
    -- Such a pattern is an error only for texts that fit the rest of it, hidden ones too.
    if exists (select from unnest(patterns) as pattern where pattern ~ '(^|[^\\])(\\\\)*\\$') then
        raise 'a pattern ends in a lone backslash' using errcode = 'invalid_escape_sequence';
    end if;
    select string_agg(
        case
            when field in ('tenant_id', 'name', 'code', 'hostname', 'tag')
                then format('%I ilike %L', field, pattern)
            when field = 'keyword'
                then format('(name ilike %1$L or code ilike %1$L)', pattern)
            when field = 'external_ids'
                then format(
                    'uid in (select tenant_uid from tenant_external_ids where key = %L and value ilike %L)',
                    key, pattern)
            else 'false'
        end, ' and ')
    into conditions
    from unnest(fields, keys, patterns) as term (field, key, pattern);
    if within is null then
        return null;
    end if;
    -- Planned anew each time: which index is best is a question of the pattern.
    execute format(
        'select array(select uid from tenants where %s and %s limit %s)',
        within, coalesce(conditions, 'true'), at_most + 1)
    into found;
    return case when cardinality(found) <= at_most then found end;
end
$$;

comment on function search_tenants is 'Which tenants within the scope have such texts, in any case of letters; null where they are more than that.';

revoke execute on function search_tenants from public;
grant execute on function search_tenants to tenantry_service;
