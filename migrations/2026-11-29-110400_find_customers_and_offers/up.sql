-- Whoever asks sees no tenant, and whoever is asked sees no application of another account. What each needs of the
-- other is told by these functions and nothing besides.

create function find_customer(customer text) returns uuid
    language sql stable security definer set search_path = public, pg_temp
    as $$
        -- The id of a tenant is its own; anybody may give anything as an external id.
        with named as (
            select tenants.uid
            from tenant_directory
            join tenants on tenants.uid = tenant_directory.tenant_uid
            where tenant_directory.kind = 'TENANT_ID' and tenant_directory.key = customer
                and tenants.state <> 'DELETED'
        ), referred as (
            select distinct tenants.uid
            from tenant_external_ids
            join tenants on tenants.uid = tenant_external_ids.tenant_uid
            where tenant_external_ids.value = customer and customer <> '' and tenants.state <> 'DELETED'
                and not exists (
                    select 1 from tenant_directory
                    where tenant_directory.kind = 'TENANT_ID' and tenant_directory.key = customer
                )
        )
        select coalesce(
            (select uid from named),
            (select case when count(*) = 1 then (array_agg(uid))[1] end from referred))
        where current_setting('tenantry.system', true) = 'on'
            or nullif(current_setting('tenantry.account', true), '') is not null
            or nullif(current_setting('tenantry.publisher', true), '') is not null
    $$;

comment on function find_customer is 'The tenant that has this id, else the one that has this external id; null where none has it, or more than one. For whoever publishes.';

create function offer_of(application text, in_environment text)
    returns table (account_id text, account_name text, name text, description text, homepage_url text, run_as text,
        scopes text[], is_published boolean)
    language sql volatile security definer set search_path = public, pg_temp
    as $$
        select applications.account_id, accounts.name, applications.name, applications.description,
            applications.homepage_url, applications.run_as, applications.scopes,
            exists (
                select 1 from application_clients
                where application_clients.application_id = applications.application_id
                    and application_clients.environment = in_environment
            )
        from applications
        join accounts on accounts.account_id = applications.account_id
        where applications.application_id = application
        for share of applications
    $$;

comment on function offer_of is 'What an application tells those whom it asks. It stays so until the transaction ends.';

create function find_consent(digest bytea)
    returns table (authorization_request_id uuid, tenant_uid uuid, tenant_id text, account_id text)
    language sql stable security definer set search_path = public, pg_temp
    as $$
        select request.authorization_request_id, tenants.uid, tenants.tenant_id, tenants.account_id
        from authorization_requests as request
        join tenants on tenants.uid = request.tenant_uid
        where request.token_digest = digest
    $$;

comment on function find_consent is 'Where the link leads whose secret has this SHA-256: to a request, and the tenant that is asked.';

revoke execute on function find_customer, offer_of, find_consent from public;
grant execute on function find_customer, offer_of, find_consent to tenantry_service;
