//! Which tenants authorize an application, how many, and what its account is told of them.

use std::{sync::Arc, time::Duration};

use chrono::TimeDelta;
use diesel::{QueryableByName, sql_query, sql_types::Text};
use diesel_async::{RunQueryDsl as _, SimpleAsyncConnection as _};
use futures_util::future::join_all;
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use serde_json::{Value, json};
use tenantry::{authorizations::expiry, db::Scope, pb, purge};
use tokio::time::{Instant, timeout};
use tonic::Status;

use crate::{
    app::{App, Caller, count, fields, rows, tenant, told},
    start::until,
};

/// Two accounts: `ours` with the tenants `foo` and `fee` and the application `crm`, and `theirs` with `bar` and the
/// applications `erp` and `pay`. Who lets whose application act is for the system to say.
struct World {
    app: App,
    root: Caller,
    ours: Caller,
    theirs: Caller,
}

impl World {
    async fn new() -> Self {
        let app = App::start().await;
        let (ours, theirs) = (app.account("ours").await, app.account("theirs").await);
        for (account, tenant_id) in [(&ours, "foo"), (&ours, "fee"), (&theirs, "bar")] {
            account.create(tenant(tenant_id)).await.unwrap();
        }
        for (account, application) in [(&ours, "crm"), (&theirs, "erp"), (&theirs, "pay")] {
            let new = json!({"application": {"application_id": application, "name": application,
                "environments": ["sod", "stage", "production"], "scopes": ["read"]}});
            account.call("CreateApplication", new).await.unwrap();
        }
        Self { root: app.as_root(), app, ours, theirs }
    }

    async fn key(&self, of: &Caller, role: &str) -> Caller {
        self.app.as_key(&of.create_key(&[role]).await)
    }

    async fn grant(&self, tenant_id: &str, application: &str, environment: &str) -> String {
        grant(&self.root, tenant_id, application, environment, json!({})).await.unwrap()
    }

    /// As [`World::grant`], until some hours from now.
    async fn grant_for(&self, hours: i64, tenant_id: &str, application: &str) -> String {
        let end = (self.app.shared.clock.now() + TimeDelta::hours(hours)).to_rfc3339();
        let more = json!({ "valid_until": end });
        grant(&self.root, tenant_id, application, "production", more).await.unwrap()
    }

    async fn revoke(&self, id: &str) {
        revoke(&self.root, id).await.unwrap();
    }

    /// What a publisher sees of a kind of events.
    async fn told(&self, caller: &Caller, kind: &str) -> Vec<Value> {
        let filter = format!("type = authorization.{kind}");
        let found = caller.call("ListEvents", json!({"filter": filter, "page_size": 1000})).await;
        list_of(found.unwrap(), "events")
    }
}

async fn grant(
    caller: &Caller,
    tenant_id: &str,
    application: &str,
    environment: &str,
    more: Value,
) -> Result<String, Status> {
    let mut request =
        json!({"tenant_id": tenant_id, "application_id": application, "environment": environment});
    request.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let granted = caller.call("GrantAuthorization", request).await?;
    Ok(granted["authorization"]["authorization_id"].as_str().unwrap().to_owned())
}

async fn revoke(caller: &Caller, id: &str) -> Result<Value, Status> {
    let request = json!({"authorization_id": id, "contact_email": "a@b.c", "reason": "moved on"});
    caller.call("RevokeAuthorization", request).await
}

fn list_of(mut answer: Value, field: &str) -> Vec<Value> {
    match answer[field].take() {
        Value::Array(list) => list,
        _ => Vec::new(),
    }
}

/// The environments with their counts, in order.
async fn counts(caller: &Caller, request: Value) -> Vec<(String, i64)> {
    let answer = caller.call("CountAuthorizedTenants", request).await.unwrap();
    let told = |count: Value| {
        let number = count["tenant_count"].as_str().unwrap_or("0").parse().unwrap();
        (count["environment"].as_str().unwrap().to_owned(), number)
    };
    list_of(answer, "counts").into_iter().map(told).collect()
}

/// How many there are in production.
async fn in_production(caller: &Caller, request: Value) -> i64 {
    let counts = counts(caller, request).await;
    counts.iter().find(|(environment, _)| environment == "production").unwrap().1
}

async fn list(caller: &Caller, more: Value) -> Result<Vec<Value>, Status> {
    let mut request = json!({"environment": "production"});
    request.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    Ok(list_of(caller.call("ListAuthorizedTenants", request).await?, "authorized_tenants"))
}

fn ids(found: &[Value]) -> Vec<&str> {
    found.iter().map(|it| it["tenant_id"].as_str().unwrap()).collect()
}

async fn listed(caller: &Caller, more: Value) -> Vec<String> {
    ids(&list(caller, more).await.unwrap()).into_iter().map(str::to_owned).collect()
}

/// Where what was booked is not what there is.
async fn differences(app: &App) -> i64 {
    let rows = "select count(*) as number from (
            select tenant_uid, publisher_account_id, place.application_id, environment,
                count(*) filter (where state = 'ACTIVE') as live,
                bool_or(state = 'REVOKED') as has_revoked
            from tenant_authorizations as had
            cross join lateral (values (''), (had.application_id)) as place (application_id)
            group by 1, 2, 3, 4
        ) as had
        full join authorized_tenants as booked
            using (tenant_uid, publisher_account_id, application_id, environment)
        where (had.live, had.has_revoked) is distinct from (booked.live, booked.has_revoked)";
    let sums = "select count(*) as number from (
            select publisher_account_id, application_id, environment, count(*) as tenants
            from authorized_tenants where live > 0 group by 1, 2, 3
        ) as had
        full join (
            select publisher_account_id, application_id, environment, sum(tenants) as tenants
            from authorized_tenant_counts group by 1, 2, 3
        ) as booked using (publisher_account_id, application_id, environment)
        where coalesce(had.tenants, 0) <> coalesce(booked.tenants, 0)";
    count(app, rows).await + count(app, sums).await
}

/// What the slots say, whether or not the time of some is over.
async fn booked(app: &App) -> i64 {
    let query = "select coalesce(sum(tenants), 0)::bigint as number from authorized_tenant_counts";
    count(app, query).await
}

/// 0-02: one number for each environment, in their order, zeros included.
#[tokio::test]
async fn tenants_are_counted_in_each_environment_in_their_order_zeros_included() {
    let world = World::new().await;
    let of_erp = json!({"application_id": "erp"});
    let none = counts(&world.theirs, of_erp.clone()).await;
    let first = json!({"environment": {"environment_id": "dev", "name": "Dev", "position": 0}});
    world.root.call("CreateEnvironment", first).await.unwrap();

    world.grant("foo", "erp", "production").await;
    world.grant("foo", "erp", "sod").await;
    let of_bar = world.grant("bar", "erp", "production").await;
    world.grant("bar", "pay", "stage").await;
    let both = counts(&world.theirs, of_erp.clone()).await;
    world.revoke(&of_bar).await;
    world.revoke(&of_bar).await;
    let one = counts(&world.theirs, of_erp).await;

    let told = |counts: &[(&str, i64)]| {
        counts.iter().map(|(id, number)| ((*id).to_owned(), *number)).collect::<Vec<_>>()
    };
    assert_eq!(none, told(&[("sod", 0), ("stage", 0), ("production", 0)]));
    assert_eq!(both, told(&[("dev", 0), ("sod", 1), ("stage", 0), ("production", 2)]));
    assert_eq!(one, told(&[("dev", 0), ("sod", 1), ("stage", 0), ("production", 1)]));
    assert_eq!(differences(&world.app).await, 0);
}

/// 0-03: a tenant counts once for an account, as long as it authorizes any of its applications.
#[tokio::test]
async fn a_tenant_counts_once_for_an_account_however_many_of_its_applications_it_authorizes() {
    let world = World::new().await;
    let erp = world.grant("foo", "erp", "production").await;
    let pay = world.grant("foo", "pay", "production").await;
    world.grant("foo", "crm", "production").await;
    let of_theirs = json!({"account_id": "theirs"});

    for (caller, request) in [
        (&world.theirs, json!({})),
        (&world.theirs, of_theirs.clone()),
        (&world.root, of_theirs.clone()),
        (&world.root.with("x-account-id", "theirs"), json!({})),
    ] {
        assert_eq!(in_production(caller, request).await, 1);
    }
    for application in ["erp", "pay"] {
        let of_one = json!({ "application_id": application });
        assert_eq!(in_production(&world.theirs, of_one).await, 1);
    }
    world.revoke(&erp).await;
    let one_left = in_production(&world.theirs, json!({})).await;
    world.revoke(&pay).await;
    let none_left = in_production(&world.theirs, json!({})).await;

    assert_eq!((one_left, none_left), (1, 0));
    assert_eq!(in_production(&world.root, json!({})).await, 0, "of the account `default`");
    assert_eq!(in_production(&world.ours, json!({})).await, 1);
    assert_eq!(differences(&world.app).await, 0);
}

/// However many change what tenants authorize at once, the counters are what a full count finds, and none of the
/// changes waits for another in a circle.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_storm_the_counters_are_what_a_full_count_finds() {
    const TASKS: u64 = 12;
    const STEPS: usize = 20;
    let world = Arc::new(World::new().await);
    let tenants = ["foo", "fee", "bar", "t0", "t1", "t2"];
    for id in &tenants[3..] {
        world.ours.create(tenant(id)).await.unwrap();
    }
    for end in [1, 2, 3] {
        let hours = TimeDelta::hours(end);
        for application in ["erp", "pay", "crm"] {
            let end = (world.app.shared.clock.now() + hours).to_rfc3339();
            let more = json!({ "valid_until": end });
            let tenant_id = tenants[usize::try_from(hours.num_hours()).unwrap()];
            grant(&world.root, tenant_id, application, "sod", more).await.unwrap();
        }
    }

    let storm = (0..TASKS).map(|task| {
        let world = world.clone();
        tokio::spawn(async move {
            let mut chance = StdRng::seed_from_u64(task);
            let mut granted = Vec::new();
            let mut refused = Vec::new();
            for step in 0..STEPS {
                let tenant_id = tenants[chance.random_range(0..tenants.len())];
                let application = ["erp", "pay", "crm"][chance.random_range(0..3)];
                let environment = ["sod", "production"][chance.random_range(0..2)];
                let done = match chance.random_range(0..8) {
                    0 if task == 0 && step > STEPS / 2 => {
                        let gone = json!({"tenant_id": tenant_id, "expunge": true});
                        world.root.call("DeleteTenant", gone).await.map(drop)
                    }
                    0 => {
                        world.app.shared.clock.advance(TimeDelta::minutes(10));
                        expiry::round(&world.app.shared).await.unwrap();
                        Ok(())
                    }
                    1..=3 if !granted.is_empty() => {
                        let id: String = granted.swap_remove(chance.random_range(0..granted.len()));
                        revoke(&world.root, &id).await.map(drop)
                    }
                    kind => {
                        let end = world.app.shared.clock.now() + TimeDelta::minutes(15);
                        let more = match kind {
                            7 => json!({"valid_until": end.to_rfc3339()}),
                            _ => json!({}),
                        };
                        grant(&world.root, tenant_id, application, environment, more)
                            .await
                            .map(|id| granted.push(id))
                    }
                };
                refused.extend(done.err().map(|status| told(&status)));
            }
            refused
        })
    });
    let refused = join_all(storm).await.into_iter().flat_map(Result::unwrap).collect::<Vec<_>>();

    for told in refused {
        let is_expected = [
            "AlreadyExists AUTHORIZATION_EXISTS",
            "NotFound TENANT_NOT_FOUND",
            "NotFound AUTHORIZATION_NOT_FOUND",
            // The clock went on while it was granted.
            "InvalidArgument INVALID_FIELD",
        ]
        .contains(&&*told);
        assert!(is_expected, "{told}");
    }
    assert_eq!(differences(&world.app).await, 0);
    for (caller, account) in [(&world.ours, "ours"), (&world.theirs, "theirs")] {
        let now = world.app.shared.clock.now().to_rfc3339();
        for environment in ["sod", "production"] {
            let query = format!(
                "select count(distinct tenant_uid) as number from tenant_authorizations
                 where publisher_account_id = '{account}' and environment = '{environment}'
                     and state = 'ACTIVE' and (valid_until is null or valid_until > '{now}')"
            );
            let all = count(&world.app, &query).await;
            let counts = counts(caller, json!({})).await;
            assert!(counts.contains(&(environment.to_owned(), all)), "{counts:?} {all}");
        }
    }
}

/// Two end what one tenant authorizes of one account, at once: the second to count waits for the first, and counts what
/// that has left.
#[tokio::test]
async fn who_counts_sees_what_those_did_who_had_to_be_waited_for() {
    let world = World::new().await;
    let erp = world.grant("foo", "erp", "production").await;
    let pay = world.grant("foo", "pay", "production").await;
    let uid = world.root.get("foo").await.unwrap().uid;
    // Both have come as far as that when they begin to count.
    let mut holder = world.app.superuser().await;
    let hold = "begin; select 1 from authorized_tenants where application_id = '' for update";
    holder.batch_execute(hold).await.unwrap();

    let ends = [(erp, "erp"), (pay, "pay")].map(|(id, application)| {
        let (app, uid) = (&world.app, &uid);
        async move {
            let end = format!(
                "begin;
                 update tenant_authorizations set state = 'EXPIRED' where authorization_id = '{id}';
                 select book_authorizations(array['{uid}']::uuid[], '{{theirs}}', '{{{application}}}',
                     '{{production}}');
                 commit"
            );
            app.superuser().await.batch_execute(&end).await.unwrap();
        }
    });
    let waits = "select count(*) as number from pg_stat_activity
        where datname = current_database() and wait_event_type = 'Lock'";
    let release = async {
        until("both wait", async || count(&world.app, waits).await == 2).await;
        holder.batch_execute("commit").await.unwrap();
    };
    tokio::join!(join_all(ends), release);

    assert_eq!(in_production(&world.theirs, json!({})).await, 0);
    assert_eq!(differences(&world.app).await, 0);
}

/// What is over by time counts no more from that moment on, whether or not somebody has noted that.
#[tokio::test]
async fn what_is_over_is_not_counted_before_anybody_has_marked_it_nor_after() {
    let world = World::new().await;
    let (app, theirs) = (&world.app, &world.theirs);
    let erp = world.grant_for(1, "foo", "erp").await;
    world.grant_for(3, "foo", "pay").await;
    world.grant_for(1, "bar", "erp").await;
    let numbers = async || {
        let of_erp = in_production(theirs, json!({"application_id": "erp"})).await;
        (of_erp, in_production(theirs, json!({})).await)
    };

    let at_first = (numbers().await, booked(app).await);
    app.shared.clock.advance(TimeDelta::hours(2));
    let unmarked = (numbers().await, booked(app).await);
    let marked = expiry::round(&app.shared).await.unwrap();
    let after = (numbers().await, booked(app).await);
    let again = expiry::round(&app.shared).await.unwrap();

    // The slots of erp, of pay, and of the account.
    assert_eq!(at_first, ((2, 2), 2 + 1 + 2));
    assert_eq!(unmarked, ((0, 1), 2 + 1 + 2));
    assert_eq!((marked, again), (2, 0));
    assert_eq!(after, ((0, 1), 1 + 1));
    assert_eq!(differences(app).await, 0);
    let found = list(theirs, json!({"filter": "authorization_state = EXPIRED"})).await.unwrap();
    assert_eq!(ids(&found), ["bar"], "foo has another that is good");
    let of_erp = json!({"filter": "authorization_state = EXPIRED", "application_id": "erp"});
    assert_eq!(listed(theirs, of_erp).await, ["bar", "foo"]);
    world.revoke(&erp).await;
    assert_eq!(numbers().await, (0, 1), "it did not count any more");
    app.shared.clock.advance(TimeDelta::hours(2));
    world.grant("foo", "pay", "production").await;
    assert_eq!(numbers().await, (0, 1), "another took the place");
    assert_eq!(differences(app).await, 0);
}

/// A deleted tenant can come back, with what it authorizes; it counts until it is purged.
#[tokio::test]
async fn a_deleted_tenant_counts_until_it_is_purged_or_expunged() {
    let world = World::new().await;
    let (app, theirs) = (&world.app, &world.theirs);
    for tenant_id in ["foo", "bar"] {
        world.grant(tenant_id, "erp", "production").await;
        world.grant(tenant_id, "pay", "production").await;
    }
    world.root.delete("foo").await.unwrap();

    let deleted = in_production(theirs, json!({})).await;
    let found = list(theirs, json!({})).await.unwrap();
    app.shared.clock.advance(TimeDelta::days(31));
    let purged = purge::round(&app.shared).await.unwrap();
    let after = in_production(theirs, json!({})).await;
    let gone = json!({"tenant_id": "bar", "expunge": true});
    world.root.call("DeleteTenant", gone).await.unwrap();

    assert_eq!((deleted, purged, after), (2, 1, 1));
    assert_eq!(ids(&found), ["bar", "foo"]);
    assert_eq!(found[0]["state"], "TENANT_STATE_ACTIVE");
    assert_eq!(found[1]["state"], "TENANT_STATE_DELETED");
    assert_eq!(in_production(theirs, json!({})).await, 0);
    assert_eq!(listed(theirs, json!({})).await, [""; 0]);
    assert_eq!(booked(app).await, 0);
    assert_eq!(differences(app).await, 0);
}

#[tokio::test]
async fn a_rehearsal_moves_no_counter() {
    let world = World::new().await;
    let granted = world.grant("foo", "erp", "production").await;
    let only = json!({"validate_only": true});
    let (before, was) = (rows(&world.app).await, booked(&world.app).await);

    grant(&world.root, "bar", "erp", "production", only.clone()).await.unwrap();
    let request = json!({"authorization_id": granted, "contact_email": "a@b.c", "reason": "over",
        "validate_only": true});
    world.root.call("RevokeAuthorization", request).await.unwrap();
    let gone = json!({"tenant_id": "foo", "expunge": true, "validate_only": true});
    world.root.call("DeleteTenant", gone).await.unwrap();

    assert_eq!(rows(&world.app).await, before);
    assert_eq!(booked(&world.app).await, was);
    assert_eq!(in_production(&world.theirs, json!({})).await, 1);
}

/// Who authorizes an application is the business of its account, and of the system.
#[tokio::test]
async fn who_authorizes_what_is_told_to_its_publisher_alone() {
    let world = World::new().await;
    world.grant("foo", "erp", "production").await;
    let (app, root) = (&world.app, &world.root);
    let on_foo = root.with("x-tenant-id", "foo");
    let (admin, auditor) =
        (world.key(&on_foo, "tenant-admin").await, world.key(&on_foo, "auditor").await);
    let publisher = world.key(&root.with("x-account-id", "theirs"), "app-publisher").await;
    let our_publisher = world.key(&root.with("x-account-id", "ours"), "app-publisher").await;
    let verifier = world.key(&root.with("x-account-id", "theirs"), "key-verifier").await;
    let (of_erp, of_theirs) = (json!({"application_id": "erp"}), json!({"account_id": "theirs"}));
    let missing = "PermissionDenied PERMISSION_MISSING";

    for caller in [root, &world.theirs, &publisher] {
        assert_eq!(in_production(caller, of_erp.clone()).await, 1);
        assert_eq!(in_production(caller, of_theirs.clone()).await, 1);
        assert_eq!(listed(caller, of_erp.clone()).await, ["foo"]);
        assert_eq!(listed(caller, of_theirs.clone()).await, ["foo"]);
    }
    for (caller, request, expected) in [
        (&world.ours, &of_erp, "NotFound APPLICATION_NOT_FOUND"),
        (&our_publisher, &of_erp, "NotFound APPLICATION_NOT_FOUND"),
        (&world.theirs, &json!({"application_id": "none"}), "NotFound APPLICATION_NOT_FOUND"),
        (&world.ours, &of_theirs, "PermissionDenied TENANT_MISMATCH"),
        (&our_publisher, &of_theirs, "PermissionDenied TENANT_MISMATCH"),
        (root, &json!({"account_id": "nobody"}), "NotFound ACCOUNT_NOT_FOUND"),
        (&admin, &of_erp, missing),
        (&admin, &json!({}), missing),
        (&auditor, &of_erp, missing),
        (&verifier, &of_erp, missing),
        (&app.anonymous(), &of_erp, "Unauthenticated CREDENTIAL_INVALID"),
    ] {
        let counted = caller.call("CountAuthorizedTenants", request.clone()).await.unwrap_err();
        let found = list(caller, request.clone()).await.unwrap_err();
        assert_eq!(told(&counted), expected, "{request}");
        assert_eq!(told(&found), expected, "{request}");
    }
    let both = json!({"application_id": "erp", "account_id": "theirs"});
    let counted = root.call("CountAuthorizedTenants", both.clone()).await.unwrap_err();
    assert_eq!(fields(&counted), ["account_id"]);
    assert_eq!(fields(&list(root, both).await.unwrap_err()), ["account_id"]);
    let nowhere = list(&world.theirs, json!({"environment": ""})).await.unwrap_err();
    assert_eq!(fields(&nowhere), ["environment"]);
    let moon = list(&world.theirs, json!({"environment": "moon"})).await.unwrap_err();
    assert_eq!(told(&moon), "NotFound ENVIRONMENT_NOT_FOUND");
}

/// What the metadata names narrows both.
#[tokio::test]
async fn of_a_tenant_that_the_metadata_names_that_tenant_alone_is_told() {
    let world = World::new().await;
    world.grant("foo", "erp", "production").await;
    world.grant("bar", "erp", "production").await;
    let ended = world.grant("bar", "pay", "sod").await;
    world.revoke(&ended).await;
    let (on_bar, on_fee) =
        (world.theirs.with("x-tenant-id", "bar"), world.root.with("x-tenant-id", "fee"));

    let counted = counts(&on_bar, json!({})).await;

    assert_eq!(counted.iter().map(|(_, number)| *number).collect::<Vec<_>>(), [0, 0, 1]);
    assert_eq!(listed(&on_bar, json!({})).await, ["bar"]);
    assert_eq!(listed(&on_bar, json!({"environment": "SOD"})).await, ["bar"], "once is enough");
    assert_eq!(in_production(&on_fee, json!({"application_id": "erp"})).await, 0);
    assert_eq!(listed(&on_fee, json!({"application_id": "erp"})).await, [""; 0]);
}

/// 0-04, 0-05, 0-06: from an application those of that application, from its account all; each with what is shown.
#[tokio::test]
async fn tenants_are_listed_by_where_one_comes_from_with_their_names() {
    let world = World::new().await;
    world.grant("foo", "erp", "production").await;
    world.grant("bar", "pay", "production").await;
    world.grant("fee", "erp", "sod").await;
    world.grant("fee", "crm", "production").await;

    let of_erp = list(&world.theirs, json!({"application_id": "erp"})).await.unwrap();
    let in_sod = json!({"application_id": "erp", "environment": "sod"});

    let shown = json!({"tenant_id": "foo", "name": "Tenant foo", "state": "TENANT_STATE_ACTIVE",
        "authorization_state": "AUTHORIZATION_STATE_ACTIVE"});
    assert_eq!(of_erp, [shown]);
    assert_eq!(listed(&world.theirs, in_sod).await, ["fee"], "the application stays");
    assert_eq!(listed(&world.theirs, json!({})).await, ["bar", "foo"]);
    assert_eq!(listed(&world.ours, json!({})).await, ["fee"]);
    let renamed = pb::Tenant {
        tenant_id: "foo".into(),
        name: Some("Foo & Sons".into()),
        ..Default::default()
    };
    world.ours.update(renamed).await.unwrap();
    let of_erp = list(&world.theirs, json!({"application_id": "erp"})).await.unwrap();
    assert_eq!(of_erp[0]["name"], "Foo & Sons");
}

/// 0-16, 0-17: what was revoked stays visible, and marks the tenant, be another one good by now.
#[tokio::test]
async fn a_tenant_that_has_revoked_is_marked_and_stays_listed() {
    let world = World::new().await;
    for tenant_id in ["foo", "fee"] {
        let granted = world.grant(tenant_id, "erp", "production").await;
        world.revoke(&granted).await;
    }
    world.grant("foo", "erp", "production").await;
    world.grant("bar", "erp", "production").await;
    world.grant("fee", "pay", "production").await;
    let of_erp = async |filter: &str| {
        listed(&world.theirs, json!({"application_id": "erp", "filter": filter})).await
    };
    let of_all = async |filter: &str| listed(&world.theirs, json!({ "filter": filter })).await;

    assert_eq!(of_erp("").await, ["bar", "fee", "foo"]);
    assert_eq!(of_erp("has_revoked = true").await, ["fee", "foo"]);
    assert_eq!(of_erp("has_revoked = false").await, ["bar"]);
    assert_eq!(of_erp("NOT has_revoked = true").await, ["bar"]);
    assert_eq!(of_erp("authorization_state = ACTIVE").await, ["bar", "foo"]);
    assert_eq!(of_erp("authorization_state = AUTHORIZATION_STATE_REVOKED").await, ["fee"]);
    assert_eq!(of_erp("authorization_state != REVOKED").await, ["bar", "foo"]);
    assert_eq!(of_erp("authorization_state = EXPIRED").await, [""; 0]);
    assert_eq!(of_all("authorization_state = ACTIVE").await, ["bar", "fee", "foo"]);
    assert_eq!(of_all("has_revoked = true").await, ["fee", "foo"]);
    let found = list(&world.theirs, json!({"application_id": "erp"})).await.unwrap();
    let marks = found.iter().map(|it| it.get("has_revoked").is_some()).collect::<Vec<_>>();
    assert_eq!(marks, [false, true, true]);
}

/// 0-07: found by id and by name, by all that a text can be asked, page by page in either direction.
#[tokio::test]
async fn authorized_tenants_are_found_by_id_and_by_name_page_by_page() {
    let world = World::new().await;
    let name = |id: &str, name: &str| pb::Tenant { name: Some(name.into()), ..tenant(id) };
    for (id, its_name) in [
        ("acme", "Acme Bakery"),
        ("acme-2", "ACME Steel"),
        ("ten-percent", "10% of_all \\ and more"),
        ("short", "Q"),
    ] {
        world.ours.create(name(id, its_name)).await.unwrap();
        world.grant(id, "erp", "production").await;
    }
    // Of another account, with the same name, and it authorizes nothing of theirs.
    world.ours.create(name("hidden", "Acme Hidden")).await.unwrap();
    world.grant("hidden", "crm", "production").await;
    let found = async |filter: &str| listed(&world.theirs, json!({ "filter": filter })).await;

    assert_eq!(found("name:acme").await, ["acme", "acme-2"]);
    assert_eq!(found("name = \"Acme*\"").await, ["acme"]);
    assert_eq!(found("name = \"Acme Bakery\"").await, ["acme"]);
    assert_eq!(found("name = \"*Steel\" AND tenant_id:acme").await, ["acme-2"]);
    assert_eq!(found("name != \"Q\" AND NOT name:acme").await, ["ten-percent"]);
    assert_eq!(found("name:\"0% OF_\"").await, ["ten-percent"]);
    assert_eq!(found("name:\"\\\\ and\"").await, ["ten-percent"]);
    assert_eq!(found("name = Q").await, ["short"]);
    assert_eq!(found("name:hidden").await, [""; 0]);
    assert_eq!(found("tenant_id = hidden").await, [""; 0]);
    assert_eq!(found("tenant_id = acme").await, ["acme"]);
    assert_eq!(found("tenant_id = \"acme*\"").await, ["acme", "acme-2"]);
    assert_eq!(found("tenant_id:CME").await, ["acme", "acme-2"]);
    let hidden = listed(&world.ours, json!({"filter": "name:acme"})).await;
    assert_eq!(hidden, ["hidden"]);

    let all = ["acme", "acme-2", "short", "ten-percent"];
    for (order, expected) in [
        ("tenant_id", all.to_vec()),
        ("tenant_id desc", all.iter().rev().copied().collect::<Vec<_>>()),
    ] {
        let (mut walked, mut token) = (Vec::new(), String::new());
        loop {
            let request = json!({"environment": "production", "page_size": 1, "order_by": order,
                "page_token": token});
            let page = world.theirs.call("ListAuthorizedTenants", request).await.unwrap();
            token = page["next_page_token"].as_str().unwrap_or_default().to_owned();
            walked.extend(list_of(page, "authorized_tenants"));
            if token.is_empty() {
                break;
            }
        }
        assert_eq!(ids(&walked), expected);
    }
    let page = json!({"environment": "production", "page_size": 1});
    let page = world.theirs.call("ListAuthorizedTenants", page).await.unwrap();
    let elsewhere = json!({"page_token": page["next_page_token"], "application_id": "erp"});
    let refusal = list(&world.theirs, elsewhere).await.unwrap_err();
    assert_eq!(told(&refusal), "InvalidArgument INVALID_PAGE_TOKEN");
    for filter in ["state = ACTIVE", "name > x", "has_revoked != true"] {
        let refusal = list(&world.theirs, json!({ "filter": filter })).await.unwrap_err();
        assert_eq!(told(&refusal), "InvalidArgument INVALID_FILTER", "{filter}");
    }
}

#[derive(QueryableByName)]
struct Line {
    #[diesel(sql_type = Text)]
    text: String,
}

/// What looks behind the policies says by itself whom it tells of, and what counts believes nobody.
#[tokio::test]
async fn the_functions_tell_of_no_tenant_that_authorizes_nothing_of_the_scope() {
    let world = World::new().await;
    world.grant("foo", "erp", "production").await;
    world.grant("fee", "crm", "production").await;
    let uid = async |id: &str| world.root.get(id).await.unwrap().uid;
    let (foo, fee) = (uid("foo").await, uid("fee").await);
    let scopes = [
        (Scope::System, "Tenant foo", "Tenant fee", true),
        (Scope::Account("theirs".into()), "Tenant foo", "-", true),
        (Scope::Publisher("theirs".into()), "Tenant foo", "-", true),
        (Scope::Account("ours".into()), "-", "Tenant fee", false),
        (Scope::Publisher("ours".into()), "-", "Tenant fee", false),
        (Scope::Tenant(foo.parse().unwrap()), "-", "-", false),
        (Scope::Provider(foo.parse().unwrap()), "-", "-", false),
        (Scope::Account(String::new()), "-", "-", false),
    ];
    let made_up = format!(
        "select book_authorizations(array['{fee}']::uuid[], '{{theirs}}', '{{erp}}', '{{production}}')::text as text"
    );

    for (scope, of_foo, of_fee, sees_erp) in scopes {
        let deadline = Instant::now() + Duration::from_secs(20);
        let mut within = world.app.shared.database.begin(&scope, None, deadline).await.unwrap();
        let mut ask = async |query: String| {
            let lines: Vec<Line> = sql_query(query).load(within.conn()).await.unwrap();
            lines.into_iter().map(|line| line.text).collect::<Vec<_>>()
        };
        ask(made_up.clone()).await;
        for (uid, expected) in [(&foo, of_foo), (&fee, of_fee)] {
            let name = format!("select coalesce(name_of_authorized_tenant('{uid}'), '-') as text");
            assert_eq!(ask(name).await, [expected], "{scope:?}");
        }
        let of_erp =
            format!("'theirs', 'erp', 'production', array['{foo}', '{fee}']::uuid[], now()");
        let told = ask(format!("select name as text from tell_authorized_tenants({of_erp})")).await;
        let expected = if sees_erp { vec!["Tenant foo".to_owned()] } else { Vec::new() };
        assert_eq!(told, expected, "{scope:?}");
        let search = "select coalesce(search_authorized_tenants('theirs', 'erp', 'production', '{name}', '{%}', 9)::text,
            'many') as text";
        let expected = if sees_erp { format!("{{{foo}}}") } else { "many".to_owned() };
        assert_eq!(ask(search.to_owned()).await, [expected], "{scope:?}");
        let sums = "select coalesce(sum(tenants), 0)::text as text from authorized_tenant_counts
            where publisher_account_id = 'theirs'";
        assert_eq!(ask(sums.to_owned()).await, [if sees_erp { "2" } else { "0" }], "{scope:?}");
        within.rollback().await.unwrap();
    }
}

/// 0-24: the account of an application hears of what becomes of tenants of other accounts, and no more of them than
/// that; those hear what they always did, once.
#[tokio::test]
async fn the_account_of_an_application_is_told_what_becomes_of_tenants_that_authorize_it() {
    let world = World::new().await;
    let root = &world.root;
    let by = json!({"authorized_by": {"name": "Jane", "email": "jane@foo.example"}});
    let id = grant(root, "foo", "erp", "production", by).await.unwrap();
    let lock = json!({"tenant_id": "foo", "mode": "LOCK_MODE_FULL", "reason": "Jane did not pay"});
    root.call("LockTenant", lock).await.unwrap();
    root.call("UnlockTenant", json!({"tenant_id": "foo"})).await.unwrap();
    root.delete("foo").await.unwrap();
    root.undelete("foo").await.unwrap();
    let ended = world.grant("foo", "pay", "production").await;
    world.revoke(&ended).await;
    let gone = json!({"tenant_id": "foo", "expunge": true});
    root.call("DeleteTenant", gone).await.unwrap();
    let all = async |caller: &Caller| {
        let request = json!({"filter": "tenant_id = foo", "page_size": 1000});
        let mut found = list_of(caller.call("ListEvents", request).await.unwrap(), "events");
        found.sort_by_key(|event| event["event_time"].to_string());
        found
    };

    let told = all(&world.theirs).await;

    let kinds = told.iter().map(|it| it["type"].as_str().unwrap()).collect::<Vec<_>>();
    let expected = [
        "authorization.granted",
        "authorization.tenant_suspended",
        "authorization.tenant_resumed",
        "authorization.tenant_deleted",
        "authorization.tenant_undeleted",
        "authorization.granted",
        "authorization.revoked",
        "authorization.tenant_expunged",
    ];
    assert_eq!(kinds, expected);
    for event in &told {
        assert_eq!((&event["account_id"], &event["tenant_id"]), (&json!("theirs"), &json!("foo")));
        assert!(event.get("tenant_uid").is_none(), "{event}");
        assert_eq!(event["resource_type"], "authorization");
        let text = event.to_string().to_lowercase();
        assert!(!text.contains("jane") && !text.contains("moved on"), "{event}");
        let of = if event["resource_id"] == *id { "erp" } else { "pay" };
        let part = event["after"].as_object().unwrap().values().next().unwrap();
        assert_eq!(
            (&part["application_id"], &part["environment"]),
            (&json!(of), &json!("production"))
        );
    }
    assert_eq!(told[1]["after"]["tenant_standing"]["suspended"], true);
    assert!(told[2]["after"]["tenant_standing"].get("suspended").is_none());
    assert_eq!(told[6]["after"]["authorization"]["state"], "AUTHORIZATION_STATE_REVOKED");
    let by_root = all(&world.ours).await;
    let own = by_root.iter().filter(|it| it["type"] == "authorization.granted").count();
    assert_eq!(own, 2, "once for each");
    assert!(by_root.iter().all(|it| it["account_id"] == "ours"));
    assert!(by_root.iter().any(|it| it["type"] == "tenant.locked"));
    let orphans = "select count(*) as number from events where tenant_id = 'foo'
        and (before is not null or after is not null) and tenant_uid is not null";
    assert_eq!(count(&world.app, orphans).await, 0, "what is told of the tenant is emptied");
}

/// 0-24: who watches is told at once.
#[tokio::test]
async fn who_watches_as_a_publisher_is_told_of_a_lock_on_a_tenant_of_another_account() {
    let world = World::new().await;
    world.grant("foo", "erp", "production").await;
    let types = vec!["authorization.tenant_suspended".to_owned()];
    let request = pb::WatchEventsRequest { types, ..Default::default() };
    let stream = async |caller: &Caller| {
        caller.events().watch_events(request.clone()).await.unwrap().into_inner()
    };
    let (mut theirs, mut ours) = (stream(&world.theirs).await, stream(&world.ours).await);
    for begun in [&mut theirs, &mut ours] {
        assert!(begun.message().await.unwrap().unwrap().checkpoint);
    }

    let lock = json!({"tenant_id": "foo", "mode": "LOCK_MODE_READ_ONLY", "reason": "unpaid"});
    world.root.call("LockTenant", lock).await.unwrap();

    let told = async {
        loop {
            let answer = theirs.message().await.unwrap().unwrap();
            if let [event, ..] = &*answer.events {
                return event.tenant_id.clone();
            }
        }
    };
    assert_eq!(timeout(Duration::from_secs(40), told).await.unwrap(), "foo");
    let told_ours = timeout(Duration::from_millis(300), async {
        loop {
            if !ours.message().await.unwrap().unwrap().events.is_empty() {
                return;
            }
        }
    });
    assert!(told_ours.await.is_err(), "it is no application of theirs");
}

/// 0-24: the tenants' own side is told by its own events, so that nothing is told it twice.
#[tokio::test]
async fn nobody_is_told_the_same_twice() {
    let world = World::new().await;
    let (root, ours) = (&world.root, &world.ours);
    let admin = world.key(&root.with("x-tenant-id", "foo"), "tenant-admin").await;
    let own = world.grant_for(1, "foo", "crm").await;
    let abroad = world.grant_for(1, "foo", "erp").await;
    world.app.shared.clock.advance(TimeDelta::hours(2));
    expiry::round(&world.app.shared).await.unwrap();
    let abroad_again = world.grant_for(1, "foo", "erp").await;
    world.app.shared.clock.advance(TimeDelta::hours(2));
    // In the way of the next one.
    world.grant("foo", "erp", "production").await;
    expiry::round(&world.app.shared).await.unwrap();
    let told = async |caller: &Caller, kind: &str| {
        let told = world.told(caller, kind).await;
        told.iter().map(|it| it["resource_id"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };

    for caller in [ours, &admin] {
        assert_eq!(told(caller, "granted").await.len(), 4);
        let mut expired = told(caller, "expired").await;
        expired.sort();
        let mut all = vec![own.clone(), abroad.clone(), abroad_again.clone()];
        all.sort();
        assert_eq!(expired, all);
    }
    assert_eq!(told(&world.theirs, "granted").await.len(), 3);
    assert_eq!(told(&world.theirs, "expired").await, [abroad, abroad_again]);
    world.grant("foo", "crm", "production").await;
    let lock = json!({"tenant_id": "foo", "mode": "LOCK_MODE_READ_ONLY", "reason": "unpaid"});
    root.call("LockTenant", lock).await.unwrap();
    assert_eq!(told(ours, "tenant_suspended").await.len(), 1, "of its own application");
    assert_eq!(told(&world.theirs, "tenant_suspended").await.len(), 1);
    assert_eq!(told(&admin, "tenant_suspended").await, [""; 0]);
}

/// 0-24: a lock reaches all below; what is told is how a tenant stands after it, with all that binds it.
#[tokio::test]
async fn publishers_are_told_how_each_tenant_below_stands_when_a_lock_changes() {
    let world = World::new().await;
    let root = &world.root;
    let high = pb::Tenant {
        organization_kind: pb::OrganizationKind::ServiceProvider.into(),
        ..tenant("high")
    };
    world.ours.create(high).await.unwrap();
    for number in 0..5 {
        let below = pb::Tenant {
            parent_tenant_id: Some("high".into()),
            ..tenant(&format!("low-{number}"))
        };
        world.ours.create(below).await.unwrap();
        world.grant(&format!("low-{number}"), "erp", "production").await;
    }
    let ended = world.grant("low-0", "pay", "production").await;
    world.revoke(&ended).await;
    let provider = world.key(&root.with("x-tenant-id", "high"), "service-provider-admin").await;
    root.delete("low-4").await.unwrap();
    let clock = &world.app.shared.clock;
    let end = clock.now() + TimeDelta::hours(5);
    let lock = |id: &str, end: Option<String>| json!({"tenant_id": id, "mode": "LOCK_MODE_FULL", "reason": "unpaid", "unlock_time": end});
    let last = async |kind: &str, tenant_id: &str| {
        let told = world.told(&world.theirs, kind).await;
        let of = told.into_iter().filter(|it| it["tenant_id"] == *tenant_id);
        of.map(|mut it| it["after"]["tenant_standing"].take()).collect::<Vec<_>>()
    };

    root.call("LockTenant", lock("high", Some(end.to_rfc3339()))).await.unwrap();
    let all = world.told(&world.theirs, "tenant_suspended").await;
    world.ours.call("LockTenant", lock("low-0", None)).await.unwrap();
    root.call("UnlockTenant", json!({"tenant_id": "high"})).await.unwrap();
    let resumed = world.told(&world.theirs, "tenant_resumed").await;
    root.call("UnlockTenant", json!({"tenant_id": "low-0"})).await.unwrap();
    provider.call("LockTenant", lock("low-3", None)).await.unwrap();

    let mut told = ids(&all);
    told.sort_unstable();
    assert_eq!(
        told,
        ["low-0", "low-1", "low-2", "low-3"],
        "neither what ended nor what is deleted"
    );
    let until = |standing: &Value| standing.get("resume_time").is_some();
    let suspended = last("tenant_suspended", "low-0").await;
    assert_eq!(suspended.iter().map(until).collect::<Vec<_>>(), [true, false, false]);
    let mut told = ids(&resumed);
    told.sort_unstable();
    assert_eq!(told, ["low-1", "low-2", "low-3"], "one is still locked by itself");
    assert_eq!(last("tenant_resumed", "low-0").await.len(), 1);
    let suspended_again = last("tenant_suspended", "low-3").await;
    assert_eq!(suspended_again.iter().map(until).collect::<Vec<_>>(), [true, false]);
    let resume_time = suspended[0]["resume_time"].as_str().unwrap();
    let resume_time = chrono::DateTime::parse_from_rfc3339(resume_time).unwrap();
    assert_eq!(resume_time, end);
}

/// 0-24: a tenant that is moved below one that is locked is suspended, and resumed when it is moved away.
#[tokio::test]
async fn publishers_are_told_when_a_move_suspends_a_tenant_or_resumes_it() {
    let world = World::new().await;
    let root = &world.root;
    let high = pb::Tenant {
        organization_kind: pb::OrganizationKind::ServiceProvider.into(),
        ..tenant("high")
    };
    world.ours.create(high).await.unwrap();
    world.grant("foo", "erp", "production").await;
    let lock = json!({"tenant_id": "high", "mode": "LOCK_MODE_FULL", "reason": "unpaid"});
    let to = async |parent: &str| {
        let request = json!({"tenant_id": "foo", "parent_tenant_id": parent});
        root.call("MoveTenant", request).await.unwrap();
    };
    let numbers = async || {
        let suspended = world.told(&world.theirs, "tenant_suspended").await.len();
        (suspended, world.told(&world.theirs, "tenant_resumed").await.len())
    };

    to("high").await;
    to("").await;
    let free = numbers().await;
    root.call("LockTenant", lock).await.unwrap();
    to("high").await;
    let below = numbers().await;
    to("").await;

    assert_eq!((free, below, numbers().await), ((0, 0), (1, 0), (1, 1)));
}

/// 0-24: a purge is told once, by which there is no way back.
#[tokio::test]
async fn publishers_are_told_once_that_a_tenant_is_purged() {
    let world = World::new().await;
    world.grant("foo", "erp", "production").await;
    world.grant("foo", "pay", "sod").await;
    let ended = world.grant("foo", "pay", "production").await;
    world.revoke(&ended).await;
    world.root.delete("foo").await.unwrap();

    world.app.shared.clock.advance(TimeDelta::days(31));
    purge::round(&world.app.shared).await.unwrap();
    purge::round(&world.app.shared).await.unwrap();

    let told = world.told(&world.theirs, "tenant_purged").await;
    assert_eq!(ids(&told), ["foo", "foo"]);
    assert!(told.iter().all(|it| it["actor"] == "system" && it["account_id"] == "theirs"));
}
