//! The second wall: what Postgres lets each role and scope see and change, whatever the service asks.
//!
//! Everything here is raw SQL through the service's own login, as if every `WHERE` had been forgotten.

use std::{collections::BTreeMap, time::Duration};

use diesel::{
    QueryableByName, sql_query,
    sql_types::{BigInt, Text},
};
use diesel_async::{AsyncPgConnection, RunQueryDsl, SimpleAsyncConnection as _};
use serde_json::json;
use tenantry::{
    db::{Role, Scope, Transaction},
    error::Error,
    pb,
};
use tokio::time::Instant;
use uuid::Uuid;

use crate::app::{App, application, count, product, tenant};

#[derive(QueryableByName)]
struct Line {
    #[diesel(sql_type = Text)]
    text: String,
}

#[derive(QueryableByName)]
struct Named {
    #[diesel(sql_type = Text)]
    tenant_id: String,
    #[diesel(sql_type = diesel::sql_types::Uuid)]
    uid: Uuid,
}

#[derive(QueryableByName)]
struct Number {
    #[diesel(sql_type = BigInt)]
    number: i64,
}

async fn lines(conn: &mut AsyncPgConnection, query: &str) -> Result<Vec<String>, Error> {
    let lines: Vec<Line> = sql_query(query).load(conn).await?;
    Ok(lines.into_iter().map(|line| line.text).collect())
}

async fn rows_of(conn: &mut AsyncPgConnection, table: &str) -> Result<i64, Error> {
    let query = format!("select count(*) as number from {table}");
    Ok(sql_query(query).get_result::<Number>(conn).await?.number)
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(20)
}

/// Two accounts; in each a service provider, a tenant below it, one of a reseller; keys of each.
struct World {
    app: App,
    uids: BTreeMap<String, Uuid>,
}

impl World {
    async fn new() -> Self {
        let app = App::start().await;
        for account in ["a", "b"] {
            let admin = app.account(account).await;
            let high = pb::Tenant {
                organization_kind: pb::OrganizationKind::ServiceProvider.into(),
                ..tenant(&format!("{account}-high"))
            };
            admin.create(high).await.unwrap();
            admin.call("CreateProduct", product()).await.unwrap();
            let published = json!({"application": {"application_id": format!("{account}-app"),
                "name": "App", "environments": ["sod", "production"]}});
            admin.call("CreateApplication", published).await.unwrap();
            let id = format!("{account}-low");
            let low = json!({
                "tenant": {
                    "tenant_id": id, "name": id, "description": "", "type": "TENANT_TYPE_PRODUCT",
                    "organization_kind": "ORGANIZATION_KIND_ENTERPRISE",
                    "parent_tenant_id": format!("{account}-high"), "external_ids": {"1": "x"},
                },
                "entitlement": {"contract_mode": "CONTRACT_MODE_PRODUCTION", "quantity": 0},
                "application": application(),
            });
            admin.call("CreateTenant", low).await.unwrap();
            admin.create(tenant(&format!("{account}-sold"))).await.unwrap();
            let reseller = json!({"reseller": {"reseller_id": "north"}});
            admin.call("CreateReseller", reseller).await.unwrap();
            for id in ["high", "low", "sold"] {
                let id = format!("{account}-{id}");
                let on_it = app.as_root().with("x-tenant-id", &id);
                on_it.create_key(&["tenant-admin"]).await;
                let group = pb::Group {
                    name: Some("Group".into()),
                    reseller_id: Some("north".into()),
                    ..Default::default()
                };
                let group = pb::CreateGroupRequest { group: Some(group), ..Default::default() };
                on_it.tenants().create_group(group).await.unwrap();
                let setting = pb::ServiceSetting { name: "mail".into(), enabled: true };
                let settings = pb::UpdateServiceSettingsRequest {
                    settings: vec![setting],
                    ..Default::default()
                };
                on_it.tenants().update_service_settings(settings).await.unwrap();
                let usage = pb::UsageRecord {
                    usage_type: pb::UsageType::Users.into(),
                    aggregation_period: pb::AggregationPeriod::Daily.into(),
                    start_time: Some("2026-11-22T00:00:00Z".parse().unwrap()),
                    ..Default::default()
                };
                let usage =
                    pb::RecordUsageRequest { usage_record: Some(usage), ..Default::default() };
                on_it.tenants().record_usage(usage).await.unwrap();
                let entitlement = pb::Entitlement {
                    r#type: pb::EntitlementType::Users.into(),
                    quantity: Some(10),
                    contract_mode: pb::ContractMode::Production.into(),
                    ..Default::default()
                };
                let entitlement = Some(entitlement);
                let set = pb::SetEntitlementRequest { entitlement, ..Default::default() };
                on_it.tenants().set_entitlement(set).await.unwrap();
                on_it.call("UpdateIpAllowlist", json!({"enabled": false})).await.unwrap();
                let grant =
                    json!({"application_id": format!("{account}-app"), "environment": "sod"});
                on_it.call("GrantAuthorization", grant).await.unwrap();
                let ask = json!({"application_id": format!("{account}-app"), "customer_id": id,
                    "customer_name": "Customer", "contact_email": "a@b.c"});
                admin.call("RequestAuthorization", ask).await.unwrap();
                let later = json!({
                    "tenant": {
                        "name": "Later", "description": "", "type": "TENANT_TYPE_PRODUCT",
                        "organization_kind": "ORGANIZATION_KIND_ENTERPRISE",
                        "parent_tenant_id": format!("{account}-high"),
                    },
                    "entitlement": {"contract_mode": "CONTRACT_MODE_PRODUCTION", "quantity": 0},
                });
                on_it.call("CreateTenantAsync", later).await.unwrap();
                let document = json!({"application_id": "app", "end_user_id": "jane", "data": {}});
                let put = json!({"end_user_app_data": document});
                on_it.call("PutEndUserAppData", put).await.unwrap();
            }
        }
        let mut superuser = app.superuser().await;
        superuser
            .batch_execute(
                "update tenants set reseller_id = 'north' where tenant_id like '%-sold';
                 insert into key_usage select route, number, tenant_uid, now() from external_keys;
                 insert into tenant_authorization_usage
                     select tenant_uid, authorization_id, now() from tenant_authorizations;
                 insert into key_rate_windows
                     select route, number, tenant_uid, 1, 1, 1, 1 from external_keys;
                 insert into key_credits
                     select route, number, tenant_uid, 1, 1, 1, now() from external_keys;
                 insert into imported_keys
                     select digest, master_key_version, route, number, tenant_uid from external_keys",
            )
            .await
            .unwrap();
        let named: Vec<Named> =
            sql_query("select tenant_id, uid from tenants").load(&mut superuser).await.unwrap();
        let uids = named.into_iter().map(|row| (row.tenant_id, row.uid)).collect();
        Self { app, uids }
    }

    async fn within(&self, scope: &Scope) -> Transaction {
        self.app.shared.database.begin(scope, None, soon()).await.unwrap()
    }

    /// Each scope with the tenants that it is to see.
    fn scopes(&self) -> Vec<(Scope, Vec<&'static str>)> {
        let uid = |id: &str| self.uids[id];
        let reseller = Scope::Reseller { account: "a".into(), reseller: "north".into() };
        vec![
            (Scope::System, vec!["a-high", "a-low", "a-sold", "b-high", "b-low", "b-sold"]),
            (Scope::Account("a".into()), vec!["a-high", "a-low", "a-sold"]),
            (Scope::Tenant(uid("a-low")), vec!["a-low"]),
            (Scope::Tenants(vec![uid("a-low"), uid("b-low")]), vec!["a-low", "b-low"]),
            (Scope::Tenants(vec![]), vec![]),
            (Scope::Provider(uid("a-high")), vec!["a-high", "a-low"]),
            (Scope::Provider(uid("a-low")), vec!["a-low"]),
            (reseller, vec!["a-sold"]),
            (Scope::Publisher("a".into()), vec![]),
            (Scope::Account("nobody".into()), vec![]),
            (Scope::Account(String::new()), vec![]),
            (Scope::Tenant(Uuid::nil()), vec![]),
        ]
    }
}

const IDS: &str = "select tenant_id as text from tenants order by tenant_id";

#[tokio::test]
async fn each_scope_sees_its_own_rows_of_every_table_and_no_others() {
    let world = World::new().await;
    let mut superuser = world.app.superuser().await;
    // All that tenants own. Partitions are read as their whole, and the record of a repeatable request
    // belongs to the key that made it. A tombstone is of a tenant that is gone.
    let tables = "
        select table_name::text as text from information_schema.columns
        where table_schema = 'public' and column_name = 'tenant_uid'
          and table_name not in ('idempotency_records', 'tenant_tombstones')
          and table_name not like 'events\\_%'";
    let tables = lines(&mut superuser, tables).await.unwrap();
    assert!(tables.len() > 10, "{tables:?}");
    for (scope, seen) in world.scopes() {
        let mut within = world.within(&scope).await;

        assert_eq!(lines(within.conn(), IDS).await.unwrap(), seen, "{scope:?}");
        for table in &tables {
            let query = format!(
                "select distinct t.tenant_id as text from {table} own \
                 join tenants t on t.uid = own.tenant_uid order by 1"
            );
            let all = lines(&mut superuser, &query).await.unwrap();
            let of = |account: &str| all.iter().any(|id| id.starts_with(account));
            assert!(of("a-") && of("b-"), "the world has rows of {table}: {all:?}");
            // A reseller sees its tenants, and neither what others are about to make of them nor
            // what has become of them. Events are gathered for no list of tenants.
            let none = matches!(
                (&**table, &scope),
                ("operations" | "events", Scope::Reseller { .. }) | ("events", Scope::Tenants(_))
            );
            let is_seen = |id: &&String| seen.contains(&id.as_str()) && !none;
            let expected = all.iter().filter(is_seen).collect::<Vec<_>>();
            let found = lines(within.conn(), &query).await.unwrap();
            assert_eq!(found.iter().collect::<Vec<_>>(), expected, "{scope:?} {table}");
        }
        within.rollback().await.unwrap();
    }
}

/// 2-30
#[tokio::test]
async fn a_reseller_sees_no_group_of_another_even_in_a_tenant_of_its_own() {
    let world = World::new().await;
    let mut superuser = world.app.superuser().await;
    let of_another = "update tenant_groups set reseller_id = null";
    superuser.batch_execute(of_another).await.unwrap();
    let reseller = Scope::Reseller { account: "a".into(), reseller: "north".into() };

    let mut within = world.within(&reseller).await;

    assert_eq!(lines(within.conn(), IDS).await.unwrap(), ["a-sold"]);
    assert_eq!(rows_of(within.conn(), "tenant_groups").await.unwrap(), 0);
    within.rollback().await.unwrap();
}

/// The search looks behind the policies, so it must say by itself what they say.
#[tokio::test]
async fn a_search_tells_of_no_tenant_beyond_the_scope() {
    let world = World::new().await;
    for (scope, seen) in world.scopes() {
        let searches = matches!(scope, Scope::System | Scope::Account(_) | Scope::Provider(_));
        for (field, pattern) in [
            ("name", "%"),
            ("tenant_id", "%-%"),
            ("code", "%"),
            ("keyword", "%"),
            ("external_ids", "%"),
            ("name", "b-high"),
            ("tenant_id", "b-%"),
            // What is none of its fields, or pretends to be more than a text.
            ("description", "%"),
            ("admin_user", "%"),
            ("uid is not null or name", "%"),
            ("name", "%' or '1' = '1"),
        ] {
            let mut within = world.within(&scope).await;
            let query = "
                select tenant_id as text from unnest(search_tenants(array[$1], array['1'], array[$2], 100)) uid
                join tenants using (uid) order by 1";
            let all = "select count(*) as number from
                unnest(search_tenants(array[$1], array['1'], array[$2], 100)) uid";

            let found: Vec<Line> = sql_query(query)
                .bind::<Text, _>(field)
                .bind::<Text, _>(pattern)
                .load(within.conn())
                .await
                .unwrap();
            let number = sql_query(all)
                .bind::<Text, _>(field)
                .bind::<Text, _>(pattern)
                .get_result::<Number>(within.conn())
                .await
                .unwrap()
                .number;

            let found = found.iter().map(|line| &*line.text).collect::<Vec<_>>();
            let what = format!("{scope:?} {field} {pattern}");
            assert_eq!(usize::try_from(number).unwrap(), found.len(), "none is hidden: {what}");
            assert!(found.iter().all(|id| seen.contains(id)), "{what}: {found:?}");
            if field == "name" && pattern == "%" {
                assert_eq!(found, if searches { seen.clone() } else { Vec::new() }, "{what}");
            }
            within.rollback().await.unwrap();
        }
    }
}

#[tokio::test]
async fn a_search_fails_or_gives_up_alike_whatever_is_hidden() {
    let world = World::new().await;
    let within = async |scope: &Scope, call: &str| {
        let mut within = world.within(scope).await;
        let query = format!("select coalesce(({call})::text, 'many') as text");
        let answer = lines(within.conn(), &query).await.map_err(|error| error.to_string());
        within.rollback().await.unwrap();
        answer
    };
    let account = Scope::Account("a".into());

    // As many as the account has, and one fewer; the other account has as many again.
    let three = within(&account, "search_tenants('{name}', '{\"\"}', '{%}', 3)").await.unwrap();
    let two = within(&account, "search_tenants('{name}', '{\"\"}', '{%}', 2)").await.unwrap();
    // A pattern that is an error only where a text fits the rest of it.
    let lone =
        |start: &str| format!("search_tenants(array['name'], array[''], array['{start}\\'], 9)");
    let theirs = within(&account, &lone("b-high")).await.unwrap_err();
    let nobodys = within(&account, &lone("zzz")).await.unwrap_err();

    assert_eq!(three[0].matches(',').count(), 2, "{three:?}");
    assert_eq!(two, ["many"]);
    assert_eq!(theirs, nobodys);
    let database = &world.app.shared.database;
    for role in [Role::Verifier, Role::Worker] {
        let mut within = database.begin_as(role, soon()).await.unwrap();
        let search = "select search_tenants('{}', '{}', '{}', 9)";
        assert!(sql_query(search).execute(within.conn()).await.is_err(), "{role:?}");
        within.rollback().await.unwrap();
    }
}

#[tokio::test]
async fn no_row_is_counted_that_belongs_to_a_hidden_tenant() {
    let world = World::new().await;
    for (scope, seen) in world.scopes() {
        let mut within = world.within(&scope).await;
        for table in [
            "tenant_directory",
            "tenant_external_ids",
            "api_keys",
            "tenant_groups",
            "tenant_service_settings",
            "tenant_usage_records",
            "tenant_entitlements",
            "tenant_end_user_app_data",
        ] {
            let owned = format!("{table} where tenant_uid is not null");
            let of_seen = format!(
                "{table} c join tenants t on t.uid = c.tenant_uid where t.tenant_id = any('{{{}}}')",
                seen.join(",")
            );

            let visible = rows_of(within.conn(), &owned).await.unwrap();

            assert_eq!(
                visible,
                rows_of(within.conn(), &of_seen).await.unwrap(),
                "{scope:?} {table}"
            );
            assert_eq!(
                visible == 0,
                seen.is_empty()
                    || (table == "tenant_external_ids"
                        && !seen.iter().any(|id| id.ends_with("-low"))),
                "{scope:?} {table}"
            );
        }
        within.rollback().await.unwrap();
    }
}

#[tokio::test]
async fn each_scope_changes_its_own_rows_and_no_others() {
    let world = World::new().await;
    for (scope, seen) in world.scopes() {
        let mut within = world.within(&scope).await;

        let updated = sql_query("update tenants set tag = 'touched'").execute(within.conn()).await;

        // A scope for reads alone is refused as a whole.
        match (&scope, updated) {
            (Scope::Tenants(_), updated) => assert!(updated.is_err(), "{scope:?}"),
            (_, updated) => assert_eq!(updated.unwrap(), seen.len(), "{scope:?}"),
        }
        within.rollback().await.unwrap();
    }
}

#[tokio::test]
async fn no_row_can_be_moved_or_written_out_of_a_scope() {
    let world = World::new().await;
    let (low, theirs) = (world.uids["a-low"], world.uids["b-low"]);
    let external = format!(
        "insert into tenant_external_ids (tenant_uid, key, value) values ('{theirs}', '2', 'x')"
    );
    let claim = format!(
        "insert into tenant_directory (kind, key, tenant_uid) values ('HOSTNAME', 'x', '{theirs}')"
    );
    let event = format!(
        "insert into events (event_id, type, method, account_id, tenant_uid, resource_type, \
         resource_id, actor, correlation_id, event_time) values \
         (gen_random_uuid(), 'a.b', 'm', 'b', '{theirs}', 'r', 'i', 'a', 'c', now())"
    );
    let attempts = [
        ("a tenant into another account", "update tenants set account_id = 'b'".to_owned()),
        (
            "a tenant below one of another account",
            format!(
                "update tenants set parent_uid = '{theirs}', ancestors = array['{theirs}'::uuid] \
                 where uid = '{low}'"
            ),
        ),
        ("a tenant away", format!("delete from tenants where uid = '{low}'")),
        ("a role of the system", "update api_keys set roles = '{system-admin}'".to_owned()),
        ("a master key", "insert into master_key_checks values (9, '', now())".to_owned()),
        (
            "an event of the system",
            event
                .replace("'b', '{theirs}'", "null, null")
                .replace(&format!("'b', '{theirs}'"), "null, null"),
        ),
        ("a domain outside of a call", "insert into domains values ('x.be', now(), 1)".to_owned()),
        ("an external id of another tenant", external),
        ("a claim of another tenant", claim),
        ("an event of another tenant", event),
        (
            "a key into another account",
            "update api_keys set account_id = 'b', tenant_uid = null, scope = 'ACCOUNT'".to_owned(),
        ),
    ];
    for scope in [Scope::Tenant(low), Scope::Account("a".into()), Scope::Provider(low)] {
        for (what, statement) in &attempts {
            let mut within = world.within(&scope).await;

            let done = sql_query(statement).execute(within.conn()).await;

            assert!(done.is_err(), "{scope:?}: {what}: {done:?}");
            within.rollback().await.unwrap();
        }
    }
}

/// No tenant raises itself: what it sees of its own, and only that, it does not write.
#[tokio::test]
async fn a_scope_gives_nothing_to_its_own_tenant() {
    let world = World::new().await;
    let (high, low) = (world.uids["a-high"], world.uids["a-low"]);
    let raise = |uid: Uuid| {
        [
            format!("update tenant_entitlements set quantity = 1000 where tenant_uid = '{uid}'"),
            format!(
                "insert into tenant_entitlements values ('{uid}', 'TRANSACTIONS', \
                 gen_random_uuid(), 'ACTIVE', 1, 'PRODUCTION', '', now(), null, '{{}}', now(), \
                 now(), 1)"
            ),
            format!("insert into tenant_service_settings values ('{uid}', 'more', true)"),
            format!(
                "insert into tenant_usage_records values ('{uid}', gen_random_uuid(), 'ISSUANCE', \
                 'DAILY', '2026-11-22Z', '2026-11-23Z', 1, false, '')"
            ),
        ]
    };
    let silent = |uid: Uuid| {
        [
            format!(
                "update tenant_service_settings set enabled = false where tenant_uid = '{uid}'"
            ),
            format!("delete from tenant_service_settings where tenant_uid = '{uid}'"),
        ]
    };
    for (scope, own) in [(Scope::Tenant(low), low), (Scope::Provider(high), high)] {
        for statement in raise(own) {
            let mut within = world.within(&scope).await;
            let done = sql_query(&statement).execute(within.conn()).await;
            let refusal = done.expect_err(&statement).to_string();
            assert!(refusal.contains("row-level security"), "{scope:?} {statement}: {refusal}");
            within.rollback().await.unwrap();
        }
        for statement in silent(own) {
            let mut within = world.within(&scope).await;
            let done = sql_query(&statement).execute(within.conn()).await;
            assert_eq!(done.unwrap(), 0, "{scope:?} {statement}");
            within.rollback().await.unwrap();
        }
    }
    // The positive control: to a tenant below it, a provider does all of that.
    for statement in raise(low).into_iter().chain(silent(low)) {
        let mut within = world.within(&Scope::Provider(high)).await;
        let done = sql_query(&statement).execute(within.conn()).await;
        assert_eq!(done.unwrap(), 1, "{statement}");
        within.rollback().await.unwrap();
    }
}

/// A row names its owner by account and by tenant: both must be within the scope, and one owner.
#[tokio::test]
async fn no_row_belongs_half_to_somebody_else() {
    let world = World::new().await;
    let (low, theirs) = (world.uids["a-low"], world.uids["b-low"]);
    let event = |account: &str, tenant: Uuid| {
        format!(
            "insert into events (event_id, type, method, account_id, tenant_uid, resource_type, \
             resource_id, actor, correlation_id, event_time) values \
             (gen_random_uuid(), 'a.b', 'm', {account}, '{tenant}', 'r', 'i', 'a', 'c', now())"
        )
    };
    let of_low = "where tenant_uid is not null";
    let attempts = [
        format!("update api_keys set tenant_uid = '{theirs}' {of_low}"),
        format!("update api_keys set account_id = 'b' {of_low}"),
        event("'a'", theirs),
        event("'b'", low),
        event("null", low),
    ];
    for scope in [Scope::Tenant(low), Scope::Account("a".into()), Scope::Provider(low)] {
        for statement in &attempts {
            let mut within = world.within(&scope).await;

            let done = sql_query(statement).execute(within.conn()).await;

            let refusal = done.expect_err(statement).to_string();
            assert!(refusal.contains("row-level security"), "{scope:?}: {statement}: {refusal}");
            within.rollback().await.unwrap();
        }
        let mut within = world.within(&scope).await;
        sql_query(event("'a'", low)).execute(within.conn()).await.unwrap();
        within.rollback().await.unwrap();
    }
}

#[tokio::test]
async fn no_statement_makes_a_read_that_is_gathered_for_several_tenants_write() {
    let world = World::new().await;
    for statement in [
        "update tenants set name = 'x'",
        "set transaction read write",
        "select set_config('transaction_read_only', 'off', true)",
    ] {
        let mut within = world.within(&Scope::Tenants(vec![world.uids["a-low"]])).await;

        let refusal = within.conn().batch_execute(statement).await.unwrap_err().to_string();

        let told = ["read-only transaction", "must be set before any query"];
        assert!(told.iter().any(|text| refusal.contains(text)), "{statement}: {refusal}");
        within.rollback().await.unwrap();
    }
}

#[tokio::test]
async fn a_transaction_that_is_dropped_half_way_leaves_nothing() {
    let world = World::new().await;
    let open = "select count(*) as number from pg_stat_activity \
                where datname = current_database() and state like 'idle in transaction%'";
    let mut within = world.within(&Scope::System).await;
    within.conn().batch_execute("update tenants set name = 'gone'").await.unwrap();
    assert_eq!(count(&world.app, open).await, 1, "the count sees it");

    drop(within);

    let end = soon();
    while count(&world.app, open).await > 0 {
        assert!(Instant::now() < end, "the transaction was left open");
        tokio::task::yield_now().await;
    }
    let changed = "select count(*) as number from tenants where name = 'gone'";
    assert_eq!(count(&world.app, changed).await, 0);
}

/// What nobody waits for any more does not run on, whatever its timeout.
#[tokio::test]
async fn a_statement_that_is_dropped_is_cancelled() {
    let world = World::new().await;
    let running = "select count(*) as number from pg_stat_activity where state = 'active' \
                   and query like '%pg_sleep(600)%' and pid <> pg_backend_pid()";
    let mut within = world.within(&Scope::System).await;
    let sleep = "set local statement_timeout = 0; select pg_sleep(600)";
    let sleeps = within.conn().batch_execute(sleep);
    tokio::select! {
        done = sleeps => panic!("it sleeps: {done:?}"),
        () = async { while count(&world.app, running).await == 0 {} } => {}
    }

    drop(within);

    let end = soon();
    while count(&world.app, running).await > 0 {
        assert!(Instant::now() < end, "the statement runs on");
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn without_a_scope_there_is_nothing_not_even_after_one_was_set() {
    let world = World::new().await;
    let url = world.app.service_url().await;
    let mut conn = tenantry::db::connect(&url).await.unwrap();
    let uid = world.uids["a-low"];

    // As the login itself: it has taken on no role, so it has no right at all.
    assert!(rows_of(&mut conn, "tenants").await.is_err());
    conn.batch_execute("begin; set local role tenantry_service").await.unwrap();
    assert_eq!(rows_of(&mut conn, "tenants").await.unwrap(), 0, "fresh");
    conn.batch_execute("commit").await.unwrap();
    for end in ["commit", "rollback"] {
        conn.batch_execute("begin; set local role tenantry_service").await.unwrap();
        let set = format!("select set_config('tenantry.tenant', '{uid}', true)");
        conn.batch_execute(&set).await.unwrap();
        assert_eq!(rows_of(&mut conn, "tenants").await.unwrap(), 1, "the positive control");
        conn.batch_execute(end).await.unwrap();

        // What was set is '' from now on and not NULL, which must be no error either.
        conn.batch_execute("begin; set local role tenantry_service").await.unwrap();
        for table in ["tenants", "tenant_directory", "api_keys", "tenant_external_ids", "accounts"]
        {
            assert_eq!(rows_of(&mut conn, table).await.unwrap(), 0, "{table} after {end}");
        }
        conn.batch_execute("rollback").await.unwrap();
        assert!(rows_of(&mut conn, "tenants").await.is_err(), "the role went with it");
    }
}

#[tokio::test]
async fn one_connection_serves_one_scope_after_the_other_and_never_mixes_them() {
    let app = App::start_with(|settings| settings.pool.size = 1).await;
    for account in ["a", "b"] {
        let admin = app.account(account).await;
        admin.create(tenant(&format!("of-{account}"))).await.unwrap();
    }
    let backends = "select count(distinct pid) as number from pg_stat_activity \
                    where datname = current_database() and usename = 'tenantry'";
    for round in 0..3 {
        for account in ["a", "b"] {
            let scope = Scope::Account(account.into());
            let mut within = app.shared.database.begin(&scope, None, soon()).await.unwrap();
            let seen = lines(within.conn(), IDS).await.unwrap();
            assert_eq!(seen, [format!("of-{account}")], "round {round}");
            if round == 1 { within.rollback().await } else { within.commit().await }.unwrap();
        }
    }
    // Besides: that of the feed, and one or two that resolve keys.
    let others = count(&app, backends).await - 1;
    assert!((2..=3).contains(&others), "it was one connection: {others}");

    // Dropped half-way: the next one finds no trace.
    let mut dropped =
        app.shared.database.begin(&Scope::Account("a".into()), None, soon()).await.unwrap();
    sql_query("update tenants set tag = 'lost'").execute(dropped.conn()).await.unwrap();
    drop(dropped);
    let scope = Scope::Account("b".into());
    let mut within = app.shared.database.begin(&scope, None, soon()).await.unwrap();
    assert_eq!(lines(within.conn(), IDS).await.unwrap(), ["of-b"]);
    within.commit().await.unwrap();
    assert_eq!(count(&app, "select count(*) as number from tenants where tag = 'lost'").await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_scopes_on_fresh_and_shared_connections_never_mix() {
    let app = App::start_with(|settings| settings.pool.size = 4).await;
    let mut callers = Vec::new();
    for account in ["a", "b", "c"] {
        let admin = app.account(account).await;
        admin.create(tenant(&format!("of-{account}"))).await.unwrap();
        callers.push((format!("of-{account}"), admin));
    }

    let calls = (0..300).map(|number| {
        let (expected, caller) = callers[number % 3].clone();
        async move { (caller.list("", "").await.unwrap(), expected) }
    });

    for (seen, expected) in futures_util::future::join_all(calls).await {
        assert_eq!(seen, [expected]);
    }
}

/// The positive control: were a policy missing, the tests above would see it.
#[tokio::test]
async fn a_policy_that_is_too_wide_would_be_seen() {
    let world = World::new().await;
    let mut superuser = world.app.superuser().await;
    superuser
        .batch_execute("create policy leak on tenants for select to tenantry_service using (true)")
        .await
        .unwrap();

    let mut within = world.within(&Scope::Tenant(world.uids["a-low"])).await;

    assert_eq!(lines(within.conn(), IDS).await.unwrap().len(), 6);
    within.rollback().await.unwrap();
}

#[tokio::test]
async fn the_roles_of_the_service_own_nothing_and_stand_above_no_policy() {
    let app = App::start().await;
    let mut superuser = app.superuser().await;

    let mighty = "select rolname::text as text from pg_roles
        where rolname like 'tenantry%' and rolname not in ('tenantry_root')
          and (rolsuper or rolbypassrls or rolreplication
               or (rolcreaterole and rolname <> 'tenantry_migrator') or rolcreatedb)";
    let owned = "select relname::text as text from pg_class
        where relnamespace = 'public'::regnamespace
          and relowner::regrole::text <> 'tenantry_owner'
          and relname not in ('__diesel_schema_migrations', '__diesel_schema_migrations_pkey')";
    let inherits =
        "select rolname::text as text from pg_roles where rolname = 'tenantry' and rolinherit";
    let unprotected = "select relname::text as text from pg_class c
        where relnamespace = 'public'::regnamespace and relkind in ('r', 'p')
          and not (relrowsecurity and relforcerowsecurity
                   and exists (select 1 from pg_policy where polrelid = c.oid))
        order by 1";

    assert_eq!(lines(&mut superuser, mighty).await.unwrap(), [""; 0]);
    assert_eq!(lines(&mut superuser, owned).await.unwrap(), [""; 0]);
    assert_eq!(lines(&mut superuser, inherits).await.unwrap(), [""; 0]);
    // Which schema it is belongs to nobody.
    let unprotected = lines(&mut superuser, unprotected).await.unwrap();
    assert_eq!(unprotected, ["__diesel_schema_migrations"]);
}

/// What each role may do to each table; a new table or right shows up here.
#[tokio::test]
async fn each_role_has_the_rights_of_its_job_and_no_others() {
    let app = App::start().await;
    let query = "
        select format('%s %s %s', replace(grantee, 'tenantry_', ''), table_name,
                      string_agg(lower(privilege_type), ' ' order by privilege_type)) as text
        from information_schema.role_table_grants
        where table_schema = 'public' and grantee like 'tenantry%' and grantee <> 'tenantry_owner'
          and grantee <> 'tenantry_migrator'
        group by grantee, table_name
        union all
        select format('%s %s(%s) %s', replace(grantee, 'tenantry_', ''), table_name,
                      string_agg(column_name, ',' order by column_name), lower(privilege_type))
        from information_schema.column_privileges c
        where table_schema = 'public' and grantee in
              ('tenantry_verifier', 'tenantry_worker', 'tenantry_operator', 'tenantry_purger',
               'tenantry_expiry', 'tenantry_feed', 'tenantry_mailer')
          and not exists (select 1 from information_schema.role_table_grants t
              where t.grantee = c.grantee and t.table_name = c.table_name
                and t.privilege_type = c.privilege_type)
        group by grantee, table_name, privilege_type
        order by 1";

    let rights = lines(&mut app.superuser().await, query).await.unwrap();

    assert_eq!(
        rights,
        [
            "expiry api_keys(account_id,create_time,expire_time,number,revoke_time,route,tenant_uid) select",
            "expiry authorization_requests select",
            "expiry authorization_requests(state,update_time,version) update",
            "expiry events(account_id,actor,after,ancestors,before,correlation_id,event_id,event_time,\
             method,on_behalf_of,resource_id,resource_type,tenant_id,tenant_uid,type) insert",
            "expiry expiry_notices delete insert select",
            "expiry external_keys(create_time,expire_time,number,revoke_time,route,tenant_uid) select",
            "expiry tenant_authorizations(application_id,authorization_id,environment,publisher_account_id,\
             state,tenant_id,tenant_uid,valid_until,version) select",
            "expiry tenant_authorizations(requested_scopes,state,update_time,version) update",
            "expiry tenants(account_id,ancestors,create_time,state,tenant_id,trial_expire_time,uid) select",
            "feed events select",
            "feed nodes delete insert select update",
            "mailer accounts(account_id,name) select",
            "mailer applications(application_id,name) select",
            "mailer authorization_requests(additional_info,application_id,authorization_id,\
             authorization_request_id,contact_email,environment,expire_time,generation,kind,on_behalf_of,\
             publisher_account_id,run_as,scopes,state,tenant_uid,valid_until) select",
            "mailer environments(environment_id,name) select",
            "mailer mails delete select",
            "mailer mails(attempts,next_attempt_time,outcome,recipients,state,update_time) update",
            "mailer tenant_authorizations(application_id,authorization_id,environment,granted_scopes,\
             publisher_account_id,revoke_contact,revoke_reason,revoke_time,state,tenant_uid,valid_until) \
             select",
            "mailer tenants(admin_user,contact_email,name,state,support_email,uid) select",
            "meter key_credits select",
            "meter key_rate_windows insert select update",
            "meter key_usage insert select update",
            "meter tenant_authorization_usage insert select update",
            "operator events(account_id,actor,after,ancestors,before,correlation_id,event_id,event_time,\
             method,on_behalf_of,resource_id,resource_type,tenant_id,tenant_uid,type) insert",
            "operator operations select",
            "operator operations(attempt_time,attempts,error,expire_time,processing_end_time,\
             processing_start_time,request,result,state,take_time,tenant_id,worker_key) update",
            "operator tenant_tombstones(ancestors,tenant_uid) select",
            "operator tenants(ancestors,uid) select",
            "purger api_keys delete",
            "purger api_keys(number,route,tenant_uid) select",
            "purger authorization_requests(decided_by,decider_name) update",
            "purger authorization_requests(tenant_uid) select",
            "purger authorized_tenants delete",
            "purger authorized_tenants(application_id,environment,publisher_account_id,tenant_uid) select",
            "purger events(account_id,actor,after,ancestors,before,correlation_id,event_id,event_time,\
             method,on_behalf_of,resource_id,resource_type,tenant_id,tenant_uid,type) insert",
            "purger events(after,before) update",
            "purger events(event_id,tenant_uid) select",
            "purger external_keys delete",
            "purger external_keys(number,route,tenant_uid) select",
            "purger imported_keys delete",
            "purger imported_keys(digest,tenant_uid) select",
            "purger key_credits delete",
            "purger key_credits(number,route,tenant_uid) select",
            "purger key_rate_windows delete",
            "purger key_rate_windows(number,route,tenant_uid) select",
            "purger key_usage delete",
            "purger key_usage(number,route,tenant_uid) select",
            "purger mails delete",
            "purger mails(mail_id,tenant_uid) select",
            "purger operations delete",
            "purger operations(operation_id,tenant_uid) select",
            "purger tenant_app_key_configs delete",
            "purger tenant_app_key_configs(app_key_id,environment,tenant_uid) select",
            "purger tenant_app_keys delete",
            "purger tenant_app_keys(app_key_id,tenant_uid) select",
            "purger tenant_authorization_usage delete",
            "purger tenant_authorization_usage(authorization_id,tenant_uid) select",
            "purger tenant_authorizations delete",
            "purger tenant_authorizations(application_id,authorization_id,environment,publisher_account_id,\
             state,tenant_id,tenant_uid,valid_until) select",
            "purger tenant_directory delete",
            "purger tenant_directory(kind,tenant_uid) select",
            "purger tenant_end_user_app_data(tenant_uid) select",
            "purger tenant_entitlements delete",
            "purger tenant_entitlements(tenant_uid,type) select",
            "purger tenant_external_ids delete",
            "purger tenant_external_ids(key,tenant_uid) select",
            "purger tenant_groups delete",
            "purger tenant_groups(group_id,tenant_uid) select",
            "purger tenant_installations delete",
            "purger tenant_installations(installation_id,tenant_uid) select",
            "purger tenant_ip_allowlists delete",
            "purger tenant_ip_allowlists(tenant_uid) select",
            "purger tenant_oauth_clients delete",
            "purger tenant_oauth_clients(tenant_uid) select",
            "purger tenant_service_settings delete",
            "purger tenant_service_settings(name,tenant_uid) select",
            "purger tenant_tombstones delete insert select",
            "purger tenant_usage_records delete",
            "purger tenant_usage_records(tenant_uid,usage_id) select",
            "purger tenants delete",
            "purger tenants(account_id,ancestors,parent_uid,purge_time,state,tenant_id,uid) select",
            "purger tenants(purge_time) update",
            "service __diesel_schema_migrations select",
            "service account_ip_allowlists insert select update",
            "service accounts delete insert select update",
            "service api_keys insert select update",
            "service application_clients delete insert select",
            "service application_ids insert select",
            "service applications delete insert select",
            "service authorization_requests insert select",
            "service authorized_tenant_counts select",
            "service authorized_tenants select",
            "service backends delete insert select update",
            "service domains delete insert select",
            "service environments delete insert select update",
            "service event_partitions select",
            "service events select",
            "service external_keys delete insert select",
            "service idempotency_records insert select update",
            "service imported_keys insert select",
            "service key_credits delete insert select update",
            "service key_rate_windows delete",
            "service key_usage delete select",
            "service mails insert select",
            "service master_key_checks insert select",
            "service nodes select",
            "service operations delete insert select",
            "service product_packages delete insert select update",
            "service products delete insert select update",
            "service resellers delete insert select update",
            "service tenant_app_key_configs delete insert select",
            "service tenant_app_keys delete insert select",
            "service tenant_authorization_usage select",
            "service tenant_authorizations insert select",
            "service tenant_directory delete insert select",
            "service tenant_end_user_app_data delete insert select update",
            "service tenant_entitlements insert select update",
            "service tenant_external_ids delete insert select update",
            "service tenant_groups delete insert select update",
            "service tenant_installations delete insert select",
            "service tenant_ip_allowlists insert select update",
            "service tenant_oauth_clients insert select",
            "service tenant_service_settings delete insert select update",
            "service tenant_templates delete insert select update",
            "service tenant_tombstones delete select",
            "service tenant_usage_records insert select",
            "service tenants insert select",
            "verifier account_ip_allowlists(account_id,enabled,rules) select",
            "verifier api_keys(account_id,backend_ids,credits_amount,credits_refill_amount,\
             credits_refill_seconds,digest,enabled,environment,expire_time,limits_version,\
             master_key_version,number,old_digest,old_end_time,old_master_key_version,rate_requests,\
             rate_window_seconds,reseller_id,revoke_time,roles,route,scope,tenant_uid) select",
            "verifier external_keys(app_key_id,credits_amount,credits_refill_amount,credits_refill_seconds,\
             device,digest,enabled,environment,expire_time,geo,limits_version,master_key_version,number,\
             old_digest,old_end_time,old_master_key_version,rate_requests,rate_window_seconds,revoke_time,\
             route,tenant_uid) select",
            "verifier imported_keys(digest,number,route) select",
            "verifier tenant_app_key_configs(app_key_id,config,environment,tenant_uid) select",
            "verifier tenant_app_keys(app_key_id,installation_id,tenant_uid) select",
            "verifier tenant_authorizations(application_id,authorization_id,environment,grant_time,\
             granted_scopes,publisher_account_id,state,tenant_uid,valid_until) select",
            "verifier tenant_directory(key,kind,tenant_uid) select",
            "verifier tenant_installations(application_id,installation_id,package_code,product_code,\
             tenant_uid,ttl_hours) select",
            "verifier tenant_ip_allowlists(enabled,rules,tenant_uid) select",
            "verifier tenants(account_id,ancestors,lock_mode,state,tenant_id,trial_expire_time,uid,\
             unlock_time) select",
            "worker idempotency_records delete",
            "worker idempotency_records(expire_time) select",
            "worker operations delete",
            "worker operations(expire_time) select",
        ]
    );
}

#[tokio::test]
async fn what_happened_can_be_added_to_and_never_be_changed_or_taken_back() {
    let world = World::new().await;
    for statement in [
        "update events set actor = 'nobody'",
        "delete from events",
        "truncate events",
        "insert into events (event_id, type, method, resource_type, resource_id, actor, correlation_id, \
         event_time, position) values (gen_random_uuid(), 'tenant.created', 'm', 'tenant', 'i', 'a', 'c', \
         now(), 1)",
        "select 1 from events_early",
        "select 1 from events_rest",
        "update event_partitions set until_time = now()",
        "select keep_event_partitions(now(), interval '1 day')",
    ] {
        let mut within = world.within(&Scope::System).await;
        assert!(sql_query(statement).execute(within.conn()).await.is_err(), "{statement}");
        within.rollback().await.unwrap();
    }
}

#[tokio::test]
async fn each_role_of_a_single_job_can_do_that_and_nothing_else() {
    let world = World::new().await;
    let attempts = [
        (Role::Verifier, "select name from tenants"),
        (Role::Verifier, "select name from api_keys"),
        (Role::Verifier, "update api_keys set revoke_time = null"),
        (Role::Verifier, "select authorizer_email from tenant_authorizations"),
        (Role::Verifier, "update tenant_authorizations set state = 'ACTIVE'"),
        (Role::Verifier, "select 1 from events"),
        (Role::Verifier, "select 1 from idempotency_records"),
        (Role::Worker, "select 1 from tenants"),
        (Role::Worker, "select 1 from api_keys"),
        (Role::Worker, "select answer from idempotency_records"),
        (Role::Worker, "update idempotency_records set expire_time = now()"),
        (Role::Worker, "select result from operations"),
        (Role::Worker, "update operations set expire_time = now()"),
        (Role::Operator, "select name from tenants"),
        (Role::Operator, "select 1 from api_keys"),
        (Role::Operator, "select 1 from events"),
        (Role::Operator, "select 1 from idempotency_records"),
        (Role::Operator, "delete from operations"),
        (Role::Operator, "update operations set credential_id = gen_random_uuid()"),
        (
            Role::Operator,
            "insert into events (event_id, type, method, resource_type, resource_id, actor, \
             correlation_id, event_time) values (gen_random_uuid(), 'tenant.created', 'm', 'tenant', \
             'i', 'a', 'c', now())",
        ),
        (Role::Feed, "select 1 from tenants"),
        (Role::Feed, "select 1 from api_keys"),
        (Role::Feed, "update events set actor = 'nobody'"),
        (Role::Feed, "delete from events"),
        (Role::Expiry, "select name from tenants"),
        (Role::Expiry, "select digest from api_keys"),
        (Role::Expiry, "select digest from external_keys"),
        (Role::Expiry, "select authorizer_email from tenant_authorizations"),
        (Role::Expiry, "update tenant_authorizations set valid_until = null"),
        (Role::Expiry, "select 1 from events"),
        (
            Role::Expiry,
            "insert into events (event_id, type, method, resource_type, resource_id, actor, \
             correlation_id, event_time) values (gen_random_uuid(), 'api_key.revoked', 'm', 'api_key', \
             'i', 'system', 'c', now())",
        ),
        (Role::Purger, "select name from tenants"),
        (Role::Purger, "update tenants set state = 'ACTIVE'"),
        (Role::Purger, "select authorizer_email from tenant_authorizations"),
        (Role::Purger, "update authorized_tenants set live = 0"),
        (Role::Purger, "select digest from api_keys"),
        (Role::Purger, "select before from events"),
        (Role::Purger, "delete from events"),
        (Role::Purger, "select data from tenant_end_user_app_data"),
        (Role::Purger, "delete from tenant_end_user_app_data"),
        (Role::Purger, "select 1 from accounts"),
        (Role::Purger, "select 1 from idempotency_records"),
        (
            Role::Purger,
            "insert into tenant_tombstones select uid, 'a-low', 'a', '{}', now() \
             from (values (gen_random_uuid())) as v (uid)",
        ),
    ];
    for (role, statement) in attempts {
        let mut within = world.app.shared.database.begin_as(role, soon()).await.unwrap();
        let done = sql_query(statement).execute(within.conn()).await;
        assert!(done.is_err(), "{role:?} {statement}");
        within.rollback().await.unwrap();
    }
    let database = &world.app.shared.database;
    let mut verifier = database.begin_as(Role::Verifier, soon()).await.unwrap();
    assert!(rows_of(verifier.conn(), "(select digest from api_keys) k").await.unwrap() > 6);
    verifier.commit().await.unwrap();
    let mut worker = database.begin_as(Role::Worker, soon()).await.unwrap();
    let delete = "delete from idempotency_records where expire_time < now()";
    sql_query(delete).execute(worker.conn()).await.unwrap();
    worker.commit().await.unwrap();
}

#[tokio::test]
async fn no_statement_runs_beyond_the_deadline_of_its_transaction() {
    let app = App::start().await;
    let deadline = Instant::now() + Duration::from_millis(300);
    let mut within = app.shared.database.begin(&Scope::System, None, deadline).await.unwrap();

    let slept = sql_query("select pg_sleep(30)").execute(within.conn()).await;

    assert!(matches!(Error::from(slept.unwrap_err()), Error::DeadlineExceeded));
    assert!(deadline.elapsed() < Duration::from_secs(10));
    within.rollback().await.unwrap();
    let late = app.shared.database.begin(&Scope::System, None, Instant::now()).await;
    assert!(matches!(late, Err(Error::DeadlineExceeded)));
}

/// 4-07: the role that removes tenants removes those that are deleted, and nothing of any other.
#[tokio::test]
async fn the_purger_removes_only_what_is_left_of_deleted_tenants() {
    let world = World::new().await;
    let root = world.app.as_root();
    let gone = world.uids["b-sold"];
    let delete = json!({"tenant_id": "b-sold", "delete_even_if_non_empty": true});
    root.call("DeleteTenant", delete).await.unwrap();
    let mut within = world.app.shared.database.begin_as(Role::Purger, soon()).await.unwrap();

    let of_others = "delete from tenant_entitlements";
    assert_eq!(sql_query(of_others).execute(within.conn()).await.unwrap(), 0, "none has begun");
    sql_query(begun_of(gone)).execute(within.conn()).await.unwrap();
    assert_eq!(sql_query(of_others).execute(within.conn()).await.unwrap(), 1);
    let claims = "delete from tenant_directory";
    assert_eq!(sql_query(claims).execute(within.conn()).await.unwrap(), 2, "all but its id");
    assert_eq!(rows_of(within.conn(), "tenants").await.unwrap(), 1);
    let all = "delete from tenants";
    assert_eq!(sql_query(all).execute(within.conn()).await.unwrap(), 1);
    within.rollback().await.unwrap();

    for (what, statement) in [
        ("a deleted tenant back", "update tenants set purge_time = null".to_owned()),
        ("an event", "update events set before = '{}'".to_owned()),
        (
            "an event of another kind",
            format!(
                "insert into events (event_id, type, method, account_id, tenant_uid, \
                 resource_type, resource_id, actor, correlation_id, event_time) values \
                 (gen_random_uuid(), 'tenant.created', 'm', 'b', '{gone}', 'r', 'i', 'system', \
                 'c', now())"
            ),
        ),
        (
            "a living tenant away",
            format!(
                "insert into tenant_tombstones values ('{}', 'a-low', 'a', '{{}}', now())",
                world.uids["a-low"]
            ),
        ),
    ] {
        let mut within = world.app.shared.database.begin_as(Role::Purger, soon()).await.unwrap();
        sql_query(begun_of(gone)).execute(within.conn()).await.unwrap();

        let done = sql_query(&statement).execute(within.conn()).await;

        let refusal = done.expect_err(what).to_string();
        assert!(refusal.contains("row-level security"), "{what}: {refusal}");
        within.rollback().await.unwrap();
    }
}

fn begun_of(uid: Uuid) -> String {
    format!(
        "insert into tenant_tombstones select uid, tenant_id, account_id, ancestors, now() \
         from tenants where uid = '{uid}'"
    )
}
