//! Whether applications may act on tenants, what that costs the database, and how soon a no is heard everywhere.

use std::time::Duration;

use chrono::TimeDelta;
use diesel_async::SimpleAsyncConnection as _;
use futures_util::future::join_all;
use serde_json::{Value, json};
use tenantry::pb;
use tokio::time::Instant;
use tonic::{Code, Status};

use crate::{
    app::{App, Caller, count, fields, product, tenant, told},
    authorizations::{World, get, grant, list, revoke},
    fleet::{Proxy, slow_fleet},
    verify::counted,
};

fn of(more: &Value) -> Value {
    let mut request =
        json!({"tenant_id": "foo", "application_id": "crm", "environment": "production"});
    request.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    request
}

async fn try_ask(caller: &Caller, more: Value) -> Result<Value, Status> {
    caller.call("CheckAuthorization", of(&more)).await
}

async fn ask(caller: &Caller, more: Value) -> Value {
    try_ask(caller, more).await.unwrap()
}

fn code_of(answer: &Value) -> String {
    let code = answer["code"].as_str().unwrap_or_default();
    let code = code.trim_start_matches("CHECK_CODE_").trim_start_matches("VERIFY_CODE_");
    let says_yes = answer.get("allowed").or(answer.get("valid")).is_some();
    assert_eq!(says_yes, ["ALLOWED", "VALID"].contains(&code), "{answer}");
    code.to_owned()
}

async fn code(caller: &Caller, more: Value) -> String {
    code_of(&ask(caller, more).await)
}

/// How long an answer may be kept, in seconds.
fn kept(answer: &Value) -> f64 {
    answer["cache_ttl"].as_str().unwrap().trim_end_matches('s').parse().unwrap()
}

/// A world whose nodes do not lose their lease while the machine is busy for seconds.
async fn patient() -> World {
    let lease = |settings: &mut tenantry::config::Settings| {
        settings.keys.lease = Duration::from_mins(1);
    };
    World::of(App::start_with(lease).await).await
}

/// Waits until a node has heard of what was done before: the poll under way may have begun earlier.
async fn hears(node: &App) {
    let polls = node.shared.feed.polls() + 2;
    node.shared.feed.polled(polls, Instant::now() + Duration::from_secs(10)).await;
}

/// 0-12, 0-15, 0-18: nothing before it is granted, nothing after it is revoked, and each rule in between.
#[tokio::test]
async fn each_rule_of_a_check_has_its_code_in_the_order_of_the_checks() {
    let world = patient().await;
    let ours = &world.ours;
    let root = world.app.as_root();
    assert_eq!(code(ours, json!({})).await, "NOT_AUTHORIZED");
    let granted = grant(ours, json!({"scopes": ["read"]})).await.unwrap();
    let data = "select count(*) as number from tenants where state = 'ACTIVE'";
    let tenants = count(&world.app, data).await;

    let allowed = ask(ours, json!({"scopes": ["read"], "environment": "Production"})).await;
    assert_eq!(code_of(&allowed), "ALLOWED");
    assert_eq!(allowed["authorization_id"], granted["authorization_id"]);
    assert!(kept(&allowed) > 0.0 && kept(&allowed) <= 60.0, "{allowed}");
    assert!(allowed["revision"].is_string());
    for absent in ["missing_scopes", "valid_until", "checks", "read_only"] {
        assert!(allowed.get(absent).is_none(), "{absent}");
    }
    assert_eq!(code(ours, json!({"environment": "sod"})).await, "NOT_AUTHORIZED");
    assert_eq!(code(ours, json!({"application_id": "nothing"})).await, "NOT_AUTHORIZED");
    let more = ask(ours, json!({"scopes": ["write", "read", "admin"]})).await;
    assert_eq!(code_of(&more), "INSUFFICIENT_SCOPE");
    assert_eq!(more["missing_scopes"], json!(["write", "admin"]));

    let lock = |mode| json!({"tenant_id": "foo", "mode": mode, "reason": "unpaid"});
    root.call("LockTenant", lock("LOCK_MODE_READ_ONLY")).await.unwrap();
    let reading = ask(ours, json!({})).await;
    assert_eq!((code_of(&reading), &reading["read_only"]), ("ALLOWED".into(), &json!(true)));
    root.call("LockTenant", lock("LOCK_MODE_FULL")).await.unwrap();
    let locked = ask(ours, json!({"scopes": ["write"]})).await;
    assert_eq!(code_of(&locked), "TENANT_LOCKED");
    assert!(locked.get("read_only").is_none(), "{locked}");
    ours.call("DeleteTenant", json!({"tenant_id": "foo"})).await.unwrap();
    let gone = ask(ours, json!({"scopes": ["write"], "explain": true})).await;
    assert_eq!(code_of(&gone), "TENANT_INACTIVE");
    let checks = gone["checks"].as_array().unwrap();
    let said = |check: &Value| (check["check"].clone(), check.get("passed").is_some());
    assert_eq!(
        checks.iter().map(said).collect::<Vec<_>>(),
        [("authorization", true), ("tenant", false), ("lock", false), ("scopes", false)]
            .map(|(check, passed)| (json!(check), passed))
    );
    assert!(checks.iter().all(|check| check["message"].is_string()));
    ours.call("UndeleteTenant", json!({"tenant_id": "foo"})).await.unwrap();
    root.call("UnlockTenant", json!({"tenant_id": "foo"})).await.unwrap();
    assert_eq!(code(ours, json!({})).await, "ALLOWED");

    revoke(ours, &granted["authorization_id"], json!({})).await.unwrap();
    let revoked = ask(ours, json!({"scopes": ["write"], "explain": true})).await;
    assert_eq!(code_of(&revoked), "REVOKED");
    assert_eq!(revoked["checks"].as_array().unwrap().len(), 1, "nothing else is told");
    assert_eq!(revoked["authorization_id"], granted["authorization_id"]);
    assert_eq!(count(&world.app, data).await, tenants, "it is all there still");
}

/// What time alone ends is over at that time, whatever a node knows, and is not kept beyond it.
#[tokio::test]
async fn an_authorization_allows_until_its_time_is_over() {
    let world = patient().await;
    let (ours, clock) = (&world.ours, &world.app.shared.clock);
    let end = (clock.now() + TimeDelta::seconds(10)).to_rfc3339();
    let first = grant(ours, json!({"valid_until": end})).await.unwrap();

    let before = ask(ours, json!({})).await;
    clock.advance(TimeDelta::seconds(11));
    let after = ask(ours, json!({})).await;

    assert_eq!((code_of(&before), code_of(&after)), ("ALLOWED".into(), "EXPIRED".into()));
    assert!(kept(&before) <= 10.0, "{before}");
    assert_eq!(before["valid_until"], first["valid_until"]);
    assert_eq!(after["authorization_id"], first["authorization_id"]);
    let second = grant(ours, json!({})).await.unwrap();
    let again = ask(ours, json!({})).await;
    assert_eq!(again["authorization_id"], second["authorization_id"], "the one that is good");
    assert_eq!(code_of(&again), "ALLOWED");
    // A trial ends by itself too.
    let trial = json!({"tenant": {"tenant_id": "trial", "name": "t", "description": "",
        "type": "TENANT_TYPE_PRODUCT", "organization_kind": "ORGANIZATION_KIND_ENTERPRISE",
        "contract_mode": "CONTRACT_MODE_TRIAL"}});
    ours.call("CreateTenant", trial).await.unwrap();
    grant(ours, json!({"tenant_id": "trial"})).await.unwrap();
    assert_eq!(code(ours, json!({"tenant_id": "trial"})).await, "ALLOWED");
    clock.advance(TimeDelta::days(61));
    assert_eq!(code(ours, json!({"tenant_id": "trial"})).await, "TENANT_INACTIVE");
}

/// Both sides see it; to everybody else it is as what was never granted, to the letter.
#[tokio::test]
async fn an_authorization_is_checked_from_both_of_its_sides_and_by_nobody_else() {
    let world = World::new().await;
    let root = world.app.as_root();
    let on_foo = root.with("x-tenant-id", "foo");
    let in_account = |account| root.with("x-account-id", account);
    let admin = world.key(&on_foo, "tenant-admin").await;
    let verifier = world.key(&on_foo, "key-verifier").await;
    let our_verifier = world.key(&in_account("ours"), "key-verifier").await;
    let publisher = world.key(&in_account("theirs"), "app-publisher").await;
    let our_publisher = world.key(&in_account("ours"), "app-publisher").await;
    let bars = world.key(&root.with("x-tenant-id", "bar"), "tenant-admin").await;
    grant(&root, json!({"application_id": "erp"})).await.unwrap();
    grant(&world.ours, json!({})).await.unwrap();
    let plain = |mut answer: Value| {
        answer.as_object_mut().unwrap().remove("revision").unwrap();
        answer
    };

    for (what, caller, own, abroad) in [
        ("system", &root, true, true),
        ("the tenant's account", &world.ours, true, true),
        ("its verifier", &our_verifier, true, true),
        ("the tenant", &admin, true, true),
        ("the tenant's verifier", &verifier, true, true),
        ("the publisher's account", &world.theirs, false, true),
        ("the publisher", &publisher, false, true),
        ("our publisher", &our_publisher, true, false),
        ("another tenant", &bars, false, false),
        ("the system for an account", &in_account("theirs"), false, true),
    ] {
        for (application, seen) in [("crm", own), ("erp", abroad)] {
            let asked = json!({"application_id": application, "explain": true});
            let answer = ask(caller, asked).await;

            let expected = if seen { "ALLOWED" } else { "NOT_AUTHORIZED" };
            assert_eq!(code_of(&answer), expected, "{what} {application}");
            if !seen {
                let never = json!({"application_id": "never", "explain": true});
                assert_eq!(plain(answer), plain(ask(caller, never).await), "{what}");
            }
        }
    }
    let default = json!({"tenant_id": ""});
    assert_eq!(code(&admin, default.clone()).await, "ALLOWED", "the tenant of the key");
    assert_eq!(code(&on_foo, default.clone()).await, "ALLOWED", "the tenant of the metadata");
    let on_bar = root.with("x-tenant-id", "bar");
    assert_eq!(code(&on_bar, default.clone()).await, "NOT_AUTHORIZED");
    let two = try_ask(&on_bar, json!({})).await.unwrap_err();
    assert_eq!(told(&two), "PermissionDenied TENANT_MISMATCH");
    let none = try_ask(&world.ours, default).await.unwrap_err();
    assert_eq!(fields(&none), ["tenant_id"]);
    let weak = world.key(&on_foo, "auditor").await;
    let weak = try_ask(&weak, json!({})).await.unwrap_err();
    assert_eq!(told(&weak), "PermissionDenied PERMISSION_MISSING");
    let bound = json!({"api_key": {"roles": ["key-verifier"], "environment": "sod"}});
    let bound = on_foo.call("CreateApiKey", bound).await.unwrap();
    let bound = world.app.as_key(bound["secret"].as_str().unwrap());
    let elsewhere = try_ask(&bound, json!({})).await.unwrap_err();
    assert_eq!(told(&elsewhere), "PermissionDenied PERMISSION_MISSING");
    assert_eq!(code(&bound, json!({"environment": "SOD"})).await, "NOT_AUTHORIZED");
}

#[tokio::test]
async fn many_authorizations_are_checked_by_one_call_each_for_itself() {
    let world = World::new().await;
    let ours = &world.ours;
    grant(ours, json!({"scopes": ["read"]})).await.unwrap();

    let asked = [json!({}), json!({"scopes": ["write"]}), json!({"environment": "sod"}), json!({})];
    let batch = json!({"requests": asked.map(|one| of(&one))});
    let answer = ours.call("BatchCheckAuthorizations", batch).await.unwrap();

    let codes = answer["responses"].as_array().unwrap().iter().map(code_of).collect::<Vec<_>>();
    assert_eq!(codes, ["ALLOWED", "INSUFFICIENT_SCOPE", "NOT_AUTHORIZED", "ALLOWED"]);
    let none = ours.call("BatchCheckAuthorizations", json!({"requests": []})).await.unwrap_err();
    let many = json!({"requests": vec![of(&json!({})); 101]});
    let many = ours.call("BatchCheckAuthorizations", many).await.unwrap_err();
    for refusal in [none, many] {
        assert_eq!(fields(&refusal), ["requests"]);
    }
    let scopes = vec!["read"; 101];
    let wrong = json!({"requests": [
        of(&json!({})),
        {"tenant_id": "Foo", "application_id": "", "environment": "No!", "scopes": ["a b", "read"],
            "min_revision": "now"},
        of(&json!({"scopes": scopes})),
    ]});
    let wrong = ours.call("BatchCheckAuthorizations", wrong).await.unwrap_err();
    assert_eq!(
        fields(&wrong),
        [
            "requests[1].tenant_id",
            "requests[1].application_id",
            "requests[1].environment",
            "requests[1].scopes[0]",
            "requests[1].min_revision",
            "requests[2].scopes",
        ]
    );
    let ahead = of(&json!({"min_revision": "99999999:99999999:"}));
    let batch = json!({"requests": [of(&json!({})), ahead]});
    let ahead = ours.call("BatchCheckAuthorizations", batch).await.unwrap_err();
    assert_eq!(told(&ahead), "Unavailable REVISION_AHEAD");
    assert!(ahead.message().starts_with("requests[1].min_revision"), "{}", ahead.message());
}

/// None where it is known, one where it is not, and one for a thousand who ask at the same time; so too for a key that
/// is asked about together with an application.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_check_costs_the_database_nothing_or_one_statement() {
    let world = patient().await;
    let (app, ours) = (&world.app, &world.ours);
    let mut conn = app.superuser().await;
    conn.batch_execute("create extension if not exists pg_stat_statements").await.unwrap();
    let new = |number| {
        json!({"application": {"application_id": format!("app-{number}"), "name": "x",
            "environments": ["production"], "scopes": ["read"]}})
    };
    let app_of = |number| json!({"application_id": format!("app-{number}"), "scopes": ["read"]});
    for number in 0..5 {
        ours.call("CreateApplication", new(number)).await.unwrap();
        grant(ours, json!({"application_id": format!("app-{number}")})).await.unwrap();
    }
    hears(app).await;
    // The caller's own key, and an authorization before: the statement is prepared on both connections.
    join_all((0..2).map(|number| ask(ours, app_of(number)))).await;
    assert_eq!(code(ours, app_of(1)).await, "ALLOWED");
    assert_eq!(code(ours, json!({"application_id": "never"})).await, "NOT_AUTHORIZED");

    let ((), warm) = counted(app, async {
        // First: that it is not there is known for two seconds only.
        assert_eq!(code(ours, json!({"application_id": "never"})).await, "NOT_AUTHORIZED");
        for _ in 0..100 {
            assert_eq!(code(ours, app_of(0)).await, "ALLOWED");
        }
    })
    .await;
    let (_, cold) = counted(app, ask(ours, app_of(2))).await;
    let (codes, crowd) = counted(app, join_all((0..1000).map(|_| code(ours, app_of(3))))).await;
    let verify = json!({"key": app.root, "environment": "production"});
    ours.call("VerifyKey", verify).await.unwrap();
    let key = world.key(&app.as_root().with("x-tenant-id", "foo"), "tenant-admin").await;
    assert_eq!(code(&key, app_of(0)).await, "ALLOWED");

    assert!(codes.iter().all(|code| code == "ALLOWED"));
    assert_eq!((warm, cold, crowd), (0, 1, 1));
}

/// Of several that are missing, all are read by one statement.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_reads_all_that_it_misses_at_once() {
    let world = patient().await;
    let (app, ours) = (&world.app, &world.ours);
    let mut conn = app.superuser().await;
    conn.batch_execute("create extension if not exists pg_stat_statements").await.unwrap();
    for environment in ["sod", "production"] {
        grant(ours, json!({ "environment": environment })).await.unwrap();
    }
    hears(app).await;
    assert_eq!(code(ours, json!({"application_id": "never"})).await, "NOT_AUTHORIZED");
    let asked = ["sod", "production", "stage"];
    let batch = json!({"requests": asked.map(|it| of(&json!({ "environment": it })))});

    let (answer, statements) = counted(app, ours.call("BatchCheckAuthorizations", batch)).await;

    let answer = answer.unwrap();
    let codes = answer["responses"].as_array().unwrap().iter().map(code_of).collect::<Vec<_>>();
    assert_eq!(codes, ["ALLOWED", "ALLOWED", "NOT_AUTHORIZED"]);
    // One for the first, and one for those that came while it ran.
    assert!((1..=2).contains(&statements), "{statements}");
}

/// 0-15: when the answer to a revocation is there, no node allows anything any more.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_node_allows_anything_after_a_revocation_with_wait_has_returned() {
    let (app, second, third) = slow_fleet().await;
    let world = World::of(app).await;
    let ours = &world.ours;
    let others = [second.as_root(), third.as_root()];
    // A tenant each: what happens to one drops nothing that is known of another.
    let mut granted = Vec::new();
    for number in 0..10 {
        let id = format!("t{number}");
        ours.create(tenant(&id)).await.unwrap();
        granted.push((id.clone(), grant(ours, json!({ "tenant_id": id })).await.unwrap()));
    }
    tokio::join!(hears(&world.app), hears(&second), hears(&third));
    let mut allowed_without_wait = 0;
    for (number, (tenant_id, granted)) in granted.iter().enumerate() {
        let asked = json!({ "tenant_id": tenant_id });
        for node in others.iter().chain([ours]) {
            assert_eq!(code(node, asked.clone()).await, "ALLOWED");
        }
        let waits = number % 2 == 0;

        let request = json!({"authorization_id": granted["authorization_id"],
            "contact_email": "boss@foo.example", "reason": "moved on", "wait": waits});
        let answer = ours.call("RevokeAuthorization", request).await.unwrap();

        let seen = join_all(others.iter().map(|other| code(other, asked.clone()))).await;
        assert_eq!(code(ours, asked).await, "REVOKED", "here it is in effect at once");
        assert!(answer["revision"].is_string());
        if waits {
            assert_eq!(answer["confirmed"], true, "{answer}");
            assert_eq!(seen, ["REVOKED", "REVOKED"]);
        } else {
            assert!(answer.get("confirmed").is_none(), "{answer}");
            allowed_without_wait += seen.iter().filter(|code| *code == "ALLOWED").count();
            let fresh = json!({"tenant_id": tenant_id, "min_revision": answer["revision"]});
            assert_eq!(code(&others[0], fresh).await, "REVOKED", "not older than it is asked for");
        }
    }
    // The control: without waiting, they did allow some.
    assert!(allowed_without_wait > 0, "the fleet is too fast to prove anything");
}

/// What was not there is remembered for a moment, and no longer than until it is granted.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_missing_is_allowed_as_soon_as_it_is_granted() {
    let world = World::new().await;
    let second = world.app.node(None, |_| {}).await;
    let other = second.as_root();
    for _ in 0..5 {
        for node in [&world.ours, &other] {
            assert_ne!(code(node, json!({})).await, "ALLOWED");
        }

        let granted = grant(&world.ours, json!({})).await.unwrap();
        let here = code(&world.ours, json!({})).await;
        hears(&second).await;
        let there = code(&other, json!({})).await;

        assert_eq!((here, there), ("ALLOWED".into(), "ALLOWED".into()));
        revoke(&world.ours, &granted["authorization_id"], json!({})).await.unwrap();
        hears(&second).await;
    }
    let new = json!({"application": {"application_id": "late", "name": "x",
        "environments": ["production"]}});
    let late = json!({"application_id": "late"});
    assert_eq!(code(&other, late.clone()).await, "NOT_AUTHORIZED");
    world.ours.call("CreateApplication", new).await.unwrap();
    grant(&world.ours, late.clone()).await.unwrap();
    hears(&second).await;
    assert_eq!(code(&other, late).await, "ALLOWED");
}

/// 3-22: what happens to a tenant, or to one above it, holds for what it authorizes, on every node.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_happens_to_a_tenant_and_above_it_is_heard_of_on_other_nodes() {
    let world = World::new().await;
    let second = world.app.node(None, |_| {}).await;
    let (root, other) = (world.app.as_root().with("x-account-id", "ours"), second.as_root());
    let high = pb::Tenant {
        organization_kind: pb::OrganizationKind::ServiceProvider.into(),
        ..tenant("high")
    };
    root.create(high).await.unwrap();
    root.create(pb::Tenant { parent_tenant_id: Some("high".into()), ..tenant("low") })
        .await
        .unwrap();
    grant(&root, json!({"tenant_id": "low"})).await.unwrap();
    hears(&second).await;
    let seen = async || code(&other, json!({"tenant_id": "low"})).await;
    assert_eq!(seen().await, "ALLOWED");

    let lock = json!({"tenant_id": "high", "mode": "LOCK_MODE_FULL", "reason": "unpaid"});
    for (method, request, expected) in [
        ("LockTenant", lock, "TENANT_LOCKED"),
        ("UnlockTenant", json!({"tenant_id": "high"}), "ALLOWED"),
        ("DeleteTenant", json!({"tenant_id": "low"}), "TENANT_INACTIVE"),
        ("UndeleteTenant", json!({"tenant_id": "low"}), "ALLOWED"),
    ] {
        root.call(method, request).await.unwrap();
        hears(&second).await;
        assert_eq!(seen().await, expected, "{method}");
    }
}

/// A node that hears nothing allows nothing past its lease, and the one who waits is told of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_is_cut_off_allows_nothing_past_its_lease() {
    let lease = Duration::from_millis(1500);
    let leased = |settings: &mut tenantry::config::Settings| settings.keys.lease = lease;
    let world = World::of(App::start_with(leased).await).await;
    let proxy = Proxy::before(&world.app).await;
    let node = world.app.node(Some(&proxy.url), leased).await;
    let other = node.as_root();
    let granted = grant(&world.ours, json!({})).await.unwrap();
    hears(&node).await;
    assert_eq!(code(&other, json!({})).await, "ALLOWED");

    proxy.cut();
    let within = code(&other, json!({})).await;
    let request = json!({"authorization_id": granted["authorization_id"],
        "contact_email": "boss@foo.example", "reason": "moved on", "wait": true});
    let answer = world.ours.call("RevokeAuthorization", request).await.unwrap();
    let after = try_ask(&other, json!({})).await.unwrap_err();

    assert_eq!(within, "ALLOWED", "within its lease it trusts what it knows");
    assert!(answer.get("confirmed").is_none(), "{answer}");
    assert_eq!(answer["silent_node_ids"].as_array().unwrap().len(), 1, "{answer}");
    assert_eq!(after.code(), Code::Unavailable, "{after}");
    proxy.heal();
    node.follows().await;
    assert_eq!(code(&other, json!({})).await, "REVOKED");
}

/// An installation of `foo`, bound to an application or not, and an external key of it for an environment.
async fn installed(world: &World, application_id: &str, environment: &str) -> (Value, String) {
    let admin = world.app.as_root().with("x-tenant-id", "foo");
    let installation = json!({"installation": {"product_code": "PHONE", "package_code": "BASIC",
        "ttl_hours": 24, "application_id": application_id}});
    let made = admin.call("CreateInstallation", installation).await.unwrap();
    let made = made["installation"].clone();
    let named = json!({"installation_id": made["installation_id"]});
    let app_key = admin.call("CreateAppKey", named).await.unwrap();
    let key = json!({"external_key": {"app_key_id": app_key["app_key"]["app_key_id"],
        "label": "web", "environment": environment}});
    let key = admin.call("CreateExternalKey", key).await.unwrap();
    (made, key["secret"].as_str().unwrap().to_owned())
}

async fn verify(caller: &Caller, key: &str, more: Value) -> Value {
    let mut request = json!({"key": key, "environment": "production"});
    request.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    caller.call("VerifyKey", request).await.unwrap()
}

/// 0-12: a key of an application is good while its tenant authorizes the application, in the environment of the key,
/// and has its scopes.
#[tokio::test]
async fn a_key_of_a_bound_installation_verifies_while_its_application_is_authorized() {
    let world = patient().await;
    let root = world.app.as_root();
    root.with("x-account-id", "ours").call("CreateProduct", product()).await.unwrap();
    let (installation, key) = installed(&world, "crm", "production").await;
    let (_, sod) = installed(&world, "crm", "sod").await;
    assert_eq!(installation["application_id"], "crm");
    let seen = async |more: Value| code_of(&verify(&root, &key, more).await);
    assert_eq!(seen(json!({})).await, "NOT_AUTHORIZED");

    let granted = grant(&world.ours, json!({"scopes": ["read"]})).await.unwrap();
    // From here on it is kept what is read.
    hears(&world.app).await;

    let told = verify(&root, &key, json!({"required_scopes": ["read"]})).await;
    assert_eq!(code_of(&told), "VALID");
    assert_eq!((&told["scopes"], &told["application_id"]), (&json!(["read"]), &json!("crm")));
    assert_eq!(seen(json!({"application_id": "crm"})).await, "VALID");
    assert_eq!(seen(json!({"application_id": "erp"})).await, "NOT_AUTHORIZED");
    assert_eq!(seen(json!({"required_scopes": ["read", "write"]})).await, "INSUFFICIENT_SCOPE");
    let in_sod = verify(&root, &sod, json!({"environment": "sod", "explain": true})).await;
    assert_eq!(code_of(&in_sod), "NOT_AUTHORIZED", "consent is per environment");
    assert!(in_sod.get("scopes").is_none(), "{in_sod}");
    let why = in_sod["checks"].to_string();
    assert!(why.contains("the application \\\"crm\\\" of the key is not authorized"), "{why}");
    revoke(&world.ours, &granted["authorization_id"], json!({})).await.unwrap();
    assert_eq!(seen(json!({})).await, "NOT_AUTHORIZED");
    let end = (world.app.shared.clock.now() + TimeDelta::seconds(30)).to_rfc3339();
    grant(&world.ours, json!({"valid_until": end})).await.unwrap();
    let told = verify(&root, &key, json!({})).await;
    let watched = told["watched_cache_ttl"].as_str().unwrap().trim_end_matches('s');
    assert!(watched.parse::<f64>().unwrap() <= 30.0, "{told}");
    world.app.shared.clock.advance(TimeDelta::seconds(31));
    assert_eq!(seen(json!({})).await, "NOT_AUTHORIZED");
    // Whoever may change the installation may take it from the application.
    let admin = root.with("x-tenant-id", "foo");
    let unbound = json!({"installation": {"installation_id": installation["installation_id"]},
        "update_mask": "applicationId"});
    let unbound = admin.call("UpdateInstallation", unbound).await.unwrap();
    assert!(unbound["installation"].get("application_id").is_none(), "{unbound}");
    assert_eq!(seen(json!({})).await, "VALID");
}

/// Keys that are not of an application verify for one that their tenant authorizes.
#[tokio::test]
async fn any_key_of_a_tenant_verifies_for_an_application_that_the_tenant_authorizes() {
    let world = patient().await;
    let root = world.app.as_root();
    root.with("x-account-id", "ours").call("CreateProduct", product()).await.unwrap();
    let (_, external) = installed(&world, "", "production").await;
    let api = root.with("x-tenant-id", "foo").create_key(&["tenant-admin"]).await;
    let of_account = root.with("x-account-id", "ours").create_key(&["account-admin"]).await;
    let asked = |scope: &str| json!({"application_id": "crm", "required_scopes": [scope]});
    for key in [&external, &api, &of_account] {
        assert_eq!(code_of(&verify(&root, key, json!({})).await), "VALID");
        assert_eq!(code_of(&verify(&root, key, asked("read")).await), "NOT_AUTHORIZED");
    }

    let granted = grant(&world.ours, json!({"scopes": ["read"]})).await.unwrap();

    for key in [&external, &api] {
        let told = verify(&root, key, asked("read")).await;
        assert_eq!((code_of(&told), &told["scopes"]), ("VALID".into(), &json!(["read"])));
        assert!(told["revision"].is_string() && kept(&told) > 0.0, "{told}");
        assert_eq!(code_of(&verify(&root, key, asked("write")).await), "INSUFFICIENT_SCOPE");
        let without = verify(&root, key, json!({"required_scopes": ["read"]})).await;
        assert_eq!(code_of(&without), "INSUFFICIENT_SCOPE", "no application, no scopes");
        let fresh = json!({"application_id": "crm", "min_revision": told["revision"]});
        assert_eq!(code_of(&verify(&root, key, fresh).await), "VALID");
    }
    let no_tenant = verify(&root, &of_account, asked("read")).await;
    assert_eq!(code_of(&no_tenant), "NOT_AUTHORIZED", "of no tenant");
    let nonsense = verify(&root, &api, json!({"application_id": "No application!"})).await;
    assert_eq!(code_of(&nonsense), "NOT_AUTHORIZED");
    revoke(&world.ours, &granted["authorization_id"], json!({})).await.unwrap();
    for key in [&external, &api] {
        assert_eq!(code_of(&verify(&root, key, asked("read")).await), "NOT_AUTHORIZED");
    }
}

/// A key whose installation is bound costs no more than others.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_of_a_bound_installation_costs_nothing_or_one_statement() {
    let world = patient().await;
    let (app, root) = (&world.app, world.app.as_root());
    let mut conn = app.superuser().await;
    conn.batch_execute("create extension if not exists pg_stat_statements").await.unwrap();
    root.with("x-account-id", "ours").call("CreateProduct", product()).await.unwrap();
    let (_, first) = installed(&world, "crm", "production").await;
    let (_, second) = installed(&world, "crm", "production").await;
    grant(&world.ours, json!({})).await.unwrap();
    hears(app).await;
    join_all((0..2).map(|_| verify(&root, &first, json!({})))).await;
    let asked = json!({"application_id": "crm", "required_scopes": ["read"]});
    assert_eq!(code_of(&verify(&root, &first, asked.clone()).await), "VALID");

    let ((), warm) = counted(app, async {
        for _ in 0..20 {
            assert_eq!(code_of(&verify(&root, &first, asked.clone()).await), "VALID");
        }
    })
    .await;
    let (cold, statements) = counted(app, verify(&root, &second, asked.clone())).await;

    assert_eq!(code_of(&cold), "VALID");
    assert_eq!((warm, statements), (0, 1));
}

/// An installation is bound to what the caller reaches or the tenant has authorized, and to nothing else.
#[tokio::test]
async fn an_installation_is_bound_to_an_application_that_is_known_to_the_caller() {
    let world = World::new().await;
    let root = world.app.as_root();
    root.with("x-account-id", "ours").call("CreateProduct", product()).await.unwrap();
    let admin = world.key(&root.with("x-tenant-id", "foo"), "tenant-admin").await;
    let new = |application_id: &str| {
        json!({"installation": {"product_code": "PHONE", "package_code": "BASIC", "ttl_hours": 24,
            "application_id": application_id}})
    };
    let (installation, _) = installed(&world, "", "production").await;
    let bind = |application_id: &str| {
        json!({"installation": {"installation_id": installation["installation_id"],
            "application_id": application_id}})
    };

    for (method, request) in [
        ("CreateInstallation", new("erp")),
        ("CreateInstallation", new("nothing")),
        ("UpdateInstallation", bind("erp")),
    ] {
        let refusal = admin.call(method, request).await.unwrap_err();
        assert_eq!(told(&refusal), "NotFound APPLICATION_NOT_FOUND", "{method}");
    }
    for (method, request) in
        [("CreateInstallation", new("No!")), ("UpdateInstallation", bind("No!"))]
    {
        let refusal = admin.call(method, request).await.unwrap_err();
        assert_eq!(fields(&refusal), ["installation.application_id"], "{method}");
    }
    let bound = admin.call("UpdateInstallation", bind("crm")).await.unwrap();
    assert_eq!(bound["installation"]["application_id"], "crm");
    // Of another account, but known to the tenant.
    grant(&root, json!({"application_id": "erp"})).await.unwrap();
    let bound = admin.call("UpdateInstallation", bind("erp")).await.unwrap();
    assert_eq!(bound["installation"]["application_id"], "erp");
    admin.call("CreateInstallation", new("erp")).await.unwrap();
}

/// 0-09: both sides see whether an application uses what it may.
#[tokio::test]
async fn an_authorization_tells_when_it_was_used_last_and_whether_it_is_in_use() {
    let world = World::new().await;
    let (app, ours, root) = (&world.app, &world.ours, world.app.as_root());
    let clock = &app.shared.clock;
    root.with("x-account-id", "ours").call("CreateProduct", product()).await.unwrap();
    let granted = grant(ours, json!({"scopes": ["read"]})).await.unwrap();
    let sod = grant(ours, json!({"environment": "sod"})).await.unwrap();
    let abroad = grant(&root, json!({"application_id": "erp"})).await.unwrap();
    let ids = [&granted, &sod, &abroad].map(|it| it["authorization_id"].clone());
    let flush = async || app.shared.authorization_usage.flush(&app.shared.database).await.unwrap();
    let minute = |time: chrono::DateTime<chrono::Utc>| {
        let minute = time.timestamp() / 60 * 60;
        chrono::DateTime::from_timestamp(minute, 0).unwrap().to_rfc3339().replace("+00:00", "Z")
    };

    // What is refused is no use.
    assert_eq!(code(ours, json!({"scopes": ["write"]})).await, "INSUFFICIENT_SCOPE");
    assert_eq!(flush().await, 0);
    let unused = get(ours, &ids[0]).await.unwrap();
    assert!(unused.get("last_used_time").is_none() && unused.get("active").is_none(), "{unused}");
    let first = clock.now();
    for _ in 0..20 {
        assert_eq!(code(ours, json!({})).await, "ALLOWED");
    }
    assert_eq!(code(&world.theirs, json!({"application_id": "erp"})).await, "ALLOWED");
    assert!(flush().await <= 2 + usize::from(clock.now() - first > TimeDelta::seconds(50)));
    assert_eq!(flush().await, 0, "once a minute");

    let used = get(ours, &ids[0]).await.unwrap();
    assert!(
        [minute(first), minute(clock.now())]
            .contains(&used["last_used_time"].as_str().unwrap().to_owned())
    );
    assert_eq!(used["active"], true);
    let seen = get(&world.theirs, &ids[2]).await.unwrap();
    assert_eq!(seen["active"], true, "the publisher's account sees it too");
    let publisher = world.key(&root.with("x-account-id", "theirs"), "app-publisher").await;
    assert_eq!(get(&publisher, &ids[2]).await.unwrap()["active"], true);
    let of_usage = async |filter: &str| {
        let found = list(ours, json!({ "filter": filter })).await;
        found.iter().map(|it| it["authorization_id"].clone()).collect::<Vec<_>>()
    };
    assert_eq!(
        of_usage("last_used_time > \"2020-01-01T00:00:00Z\"").await,
        [ids[0].clone(), ids[2].clone()]
    );
    assert_eq!(of_usage("NOT last_used_time > \"2020-01-01T00:00:00Z\"").await, [ids[1].clone()]);
    assert_eq!(of_usage("last_used_time < \"2020-01-01T00:00:00Z\"").await, [json!(null); 0]);
    clock.advance(TimeDelta::days(31));
    let idle = get(ours, &ids[0]).await.unwrap();
    assert!(idle["last_used_time"].is_string() && idle.get("active").is_none(), "{idle}");
    // A key that is good by it is a use as well, be it one of the application or not.
    let (_, bound) = installed(&world, "crm", "production").await;
    assert_eq!(code_of(&verify(&root, &bound, json!({})).await), "VALID");
    assert_eq!(flush().await, 1);
    assert_eq!(get(ours, &ids[0]).await.unwrap()["active"], true);
    clock.advance(TimeDelta::days(31));
    let api = root.with("x-tenant-id", "foo").create_key(&["tenant-admin"]).await;
    let asked = json!({"application_id": "crm"});
    assert_eq!(code_of(&verify(&root, &api, asked).await), "VALID");
    assert_eq!(flush().await, 1);
    assert_eq!(get(ours, &ids[0]).await.unwrap()["active"], true);
    let revoked = revoke(ours, &ids[0], json!({})).await.unwrap();
    assert!(revoked["last_used_time"].is_string(), "{revoked}");
    assert!(revoked.get("active").is_none(), "it is not good any more");
}

/// What was used goes with its tenant, and nobody's uses wait for it.
#[tokio::test]
async fn what_was_used_of_a_tenant_that_is_gone_is_left_out() {
    let world = World::new().await;
    let (app, ours) = (&world.app, &world.ours);
    grant(ours, json!({})).await.unwrap();
    grant(&world.theirs, json!({"tenant_id": "bar", "application_id": "erp"})).await.unwrap();
    assert_eq!(code(ours, json!({})).await, "ALLOWED");
    let bar = json!({"tenant_id": "bar", "application_id": "erp"});
    assert_eq!(code(&world.theirs, bar).await, "ALLOWED");

    let expunge = json!({"tenant_id": "foo", "expunge": true});
    ours.call("DeleteTenant", expunge).await.unwrap();
    let written = app.shared.authorization_usage.flush(&app.shared.database).await.unwrap();

    assert_eq!(written, 1);
    let rows = "select count(*) as number from tenant_authorization_usage";
    assert_eq!(count(app, rows).await, 1);
    assert_eq!(code(&app.as_root(), json!({})).await, "NOT_AUTHORIZED");
}
