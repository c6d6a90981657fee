-- Tenants $2 to $3 (exclusive) of the seed $1, with their accounts, claims and external ids.
--
-- Ten tenants in a row are a block of one account: a root, products and their clients. In every fourth
-- block the root is a service provider and has the products below it. The first tenant is a large provider
-- besides, below which stand roots of other blocks of its account. A few accounts are large and many small.
with chances as (
    select
        $1::bigint as seed,
        number,
        number / 10 as block,
        number % 10 as place,
        pg_temp.uid_of($1, number) as uid,
        timestamptz '2020-01-01 00:00:00+00' + number * interval '1 second' as create_time,
        -- Nine digits or fewer that tell seeds apart too.
        to_hex($1 * 100000000 + number) as code,
        number < 10 or pg_temp.pick($1, number / 10, 'kind', 4) = 0 as of_provider,
        case when number < 10 then 0 else
            floor(1000 * power(pg_temp.pick($1, number / 10, 'account', 1000000) / 1e6, 4))::bigint
        end as account,
        (array['Al', 'Ber', 'Cor', 'Dan', 'El', 'Fal', 'Gran', 'Hel', 'Ind', 'Jor', 'Kal', 'Lun', 'Mar',
            'Nor', 'Or', 'Pel', 'Quan', 'Ros', 'Sol', 'Tri', 'Ul', 'Ver', 'Wes', 'Xan', 'Yor', 'Zen'])
            [1 + pg_temp.pick($1, number, 'first', 26)] as first,
        (array['ba', 'cen', 'dar', 'fex', 'gon', 'ham', 'ith', 'jan', 'kor', 'lix', 'mon', 'nova', 'pax',
            'quor', 'rix', 'stad', 'tec', 'vern', 'wood', 'zia'])
            [1 + pg_temp.pick($1, number, 'second', 20)] as second,
        (array['tel', 'net', 'line', 'works', 'soft', 'gate', 'land', 'mark', 'corp', 'voice', '', '', '',
            '', '', ''])
            [1 + pg_temp.pick($1, number, 'third', 16)] as third,
        (array['Logistics', 'Insurance', 'Bakery', 'Engineering', 'Hotels', 'Pharma', 'Textiles', 'Energy',
            'Consulting', 'Motors', 'Dental', 'Foods', 'Media', 'Shipping', 'Optik', 'Bücher', 'Ärztehaus',
            'Travel', 'Capital', 'Robotics', 'Gardens', 'Security', 'Printing', 'Steel', 'Kliniken'])
            [1 + pg_temp.pick($1, number, 'trade', 25)] as trade,
        (array['GmbH', 'Ltd', 'Inc', 'SA', 'AG', 'BV', 'AB', '& Sons', 'Group', '(100%)'])
            [1 + pg_temp.pick($1, number, 'form', 10)] as form
    from generate_series($2::bigint, $3::bigint - 1) as number
), places as (
    select
        chances.*,
        'load-' || lpad(account::text, 4, '0') as account_id,
        lower(first || second || third) as word,
        case
            when place in (1, 4, 7) and of_provider then number - place
            when place in (2, 3, 5, 6, 8, 9) then number - (place - 1) % 3
            when place = 0 and number > 0 and account = 0 and block % 10 = 3 then 0
        end as parent,
        array_remove(array[
            case when number > 0 and account = 0 and block % 10 = 3 and (of_provider or place = 0)
                then pg_temp.uid_of(seed, 0) end,
            case when of_provider and place > 0 then pg_temp.uid_of(seed, number - place) end,
            case when place in (2, 3, 5, 6, 8, 9) then pg_temp.uid_of(seed, number - (place - 1) % 3) end
        ], null) as ancestors
    from chances
), made as (
    select
        places.*,
        left(word, 14) || '-' || code as tenant_id,
        first || second || third || ' ' || trade || ' ' || form as name,
        case when pg_temp.pick(seed, number, 'hostname', 10) < 7
            then word || '-' || code || '.example.com' else ''
        end as hostname,
        pg_temp.pick(seed, number, 'trial', 10) = 0 as on_trial
    from places
), new_accounts as (
    insert into accounts (account_id, name, create_time, update_time, version)
    select distinct account_id, 'Load test ' || account, timestamptz '2020-01-01 00:00:00+00',
        timestamptz '2020-01-01 00:00:00+00', 1
    from made
    on conflict do nothing
), new_tenants as (
    insert into tenants (
        uid, account_id, tenant_id, code, name, description, type, organization_kind, service_line,
        parent_uid, ancestors, console, tag, state, contract_mode, trial_expire_time, hostname,
        support_email, contact_name, contact_phone_number, contact_email, address_street_address,
        address_extended_address, address_locality, address_region, address_post_code, address_country,
        use_custom_routing_profile, use_tenant_languages, sp_idp, labels, created_by, approve_time,
        approved_by, create_time, update_time, version
    )
    select
        uid, account_id, tenant_id, upper(code), name, 'A tenant for load tests',
        case when place in (2, 3, 5, 6, 8, 9) then 'CLIENT' else 'PRODUCT' end,
        case when place = 0 and of_provider then 'SERVICE_PROVIDER' else 'ENTERPRISE' end,
        case when pg_temp.pick(seed, number, 'line', 5) = 0 then 'ISSUANCE' else 'AUTHENTICATION' end,
        pg_temp.uid_of(seed, parent), ancestors, false,
        (array['gold', 'silver', '', ''])[1 + pg_temp.pick(seed, number, 'tag', 4)],
        'ACTIVE',
        case when on_trial then 'TRIAL' else 'PRODUCTION' end,
        case when on_trial then create_time + interval '60 days' end,
        hostname,
        'support@' || word || '.example', '', '', '', number % 200 || ' Main Street', '',
        (array['Brussels', 'Zürich', 'Łódź', 'Porto', 'Oslo'])[1 + pg_temp.pick(seed, number, 'town', 5)],
        '', lpad((number % 10000)::text, 4, '0'), '',
        false, false, false,
        jsonb_build_object('tier', (array['one', 'two', 'three'])[1 + number % 3]),
        'tenantry seed ' || seed, create_time, 'tenantry seed ' || seed, create_time, create_time, 1
    from made
), new_claims as (
    insert into tenant_directory (kind, key, tenant_uid, create_time)
    select 'TENANT_ID', tenant_id, uid, create_time from made
    union all
    select 'CODE', upper(code), uid, create_time from made
    union all
    select 'HOSTNAME', hostname, uid, create_time from made where hostname <> ''
)
insert into tenant_external_ids (tenant_uid, key, value)
select uid, '1', 'C-' || lpad(number::text, 8, '0') from made where number % 5 < 3
union all
select uid, 'erp', substr(md5(seed || 'erp' || number), 1, 12) from made where number % 5 = 0
