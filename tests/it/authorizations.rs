//! Authorizations: which application a tenant lets act on it, seen and ended from both of its sides.

use chrono::TimeDelta;
use futures_util::future::join_all;
use serde_json::{Value, json};
use tonic::Status;

use crate::app::{App, Caller, count, fields, rows, tenant, told};

/// Two accounts: `ours` with the tenant `foo` and the application `crm`, and `theirs` with `bar` and `erp`.
pub struct World {
    pub app: App,
    pub ours: Caller,
    pub theirs: Caller,
}

impl World {
    pub async fn new() -> Self {
        Self::of(App::start().await).await
    }

    pub async fn of(app: App) -> Self {
        let (ours, theirs) = (app.account("ours").await, app.account("theirs").await);
        for (account, tenant_id, application) in [(&ours, "foo", "crm"), (&theirs, "bar", "erp")] {
            account.create(tenant(tenant_id)).await.unwrap();
            let new = json!({"application": {"application_id": application, "name": application,
                "environments": ["sod", "production"], "scopes": ["read", "write"]}});
            account.call("CreateApplication", new).await.unwrap();
        }
        Self { app, ours, theirs }
    }

    pub async fn key(&self, of: &Caller, role: &str) -> Caller {
        self.app.as_key(&of.create_key(&[role]).await)
    }
}

pub async fn grant(caller: &Caller, more: Value) -> Result<Value, Status> {
    let mut request =
        json!({"tenant_id": "foo", "application_id": "crm", "environment": "Production"});
    request.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    Ok(caller.call("GrantAuthorization", request).await?["authorization"].take())
}

pub async fn get(caller: &Caller, id: &Value) -> Result<Value, Status> {
    let answer = caller.call("GetAuthorization", json!({"authorization_id": id})).await;
    Ok(answer?["authorization"].take())
}

pub async fn revoke(caller: &Caller, id: &Value, more: Value) -> Result<Value, Status> {
    let mut request =
        json!({"authorization_id": id, "contact_email": "boss@foo.example", "reason": "moved on"});
    request.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    Ok(caller.call("RevokeAuthorization", request).await?["authorization"].take())
}

pub async fn list(caller: &Caller, request: Value) -> Vec<Value> {
    let answer = caller.call("ListAuthorizations", request).await.unwrap();
    answer.get("authorizations").and_then(Value::as_array).cloned().unwrap_or_default()
}

fn ids(found: &[Value]) -> Vec<&Value> {
    found.iter().map(|it| &it["authorization_id"]).collect()
}

/// 0-08, 0-21: an operator grants what was agreed; who, with whom, when and until when is kept.
#[tokio::test]
async fn an_operator_grants_what_was_agreed_with_the_tenant() {
    let world = World::new().await;
    let end = "2199-01-01T00:00:00Z";
    let by = json!({"name": "Jo", "email": "jo@foo.example"});

    let some = json!({"scopes": ["write"], "valid_until": end, "authorized_by": by});
    let granted = grant(&world.ours, some).await.unwrap();
    let all = grant(&world.ours, json!({"environment": "sod"})).await.unwrap();

    assert_eq!(granted["state"], "AUTHORIZATION_STATE_ACTIVE");
    assert_eq!((&granted["tenant_id"], &granted["application_id"]), (&json!("foo"), &json!("crm")));
    assert_eq!(granted["environment"], "production");
    assert_eq!(granted["granted_scopes"], json!(["write"]));
    assert_eq!(
        (&granted["valid_until"], &granted["publisher_account_id"]),
        (&json!(end), &json!("ours"))
    );
    assert_eq!(granted["valid_from"], granted["grant_time"]);
    let by = &granted["authorized_by"];
    assert_eq!((&by["name"], &by["email"]), (&json!("Jo"), &json!("jo@foo.example")));
    assert_eq!(by["path"], "CONSENT_PATH_OPERATOR");
    assert!(by["actor"].as_str().unwrap().starts_with("api_key:"));
    assert_eq!(all["granted_scopes"], json!(["read", "write"]), "all that it asks for");
    assert!(all.get("valid_until").is_none());
    assert_eq!(get(&world.ours, &granted["authorization_id"]).await.unwrap(), granted);
}

#[tokio::test]
async fn what_stands_against_a_grant_is_told() {
    let world = World::new().await;
    let (app, ours) = (&world.app, &world.ours);
    let root = app.as_root();
    let tenants_own = world.key(&root.with("x-tenant-id", "foo"), "tenant-admin").await;
    let before = rows(app).await;

    let wrong = json!({"environment": "No!", "scopes": ["a b", "read", "read"],
        "valid_until": "2020-01-01T00:00:00Z", "authorized_by": {"email": "nowhere"}});
    let wrong = grant(ours, wrong).await.unwrap_err();
    assert_eq!(
        fields(&wrong),
        ["environment", "scopes[0]", "scopes[2]", "valid_until", "authorized_by.email"]
    );
    let beyond = grant(ours, json!({"scopes": ["read", "admin"]})).await.unwrap_err();
    assert_eq!(fields(&beyond), ["scopes[1]"]);
    let many = (0..101).map(|number| format!("s{number}")).collect::<Vec<_>>();
    let many = grant(ours, json!({ "scopes": many })).await.unwrap_err();
    assert_eq!(fields(&many), ["scopes"]);
    for (caller, more, expected) in [
        (ours, json!({"environment": "stage"}), "FailedPrecondition ENVIRONMENT_NOT_PUBLISHED"),
        (ours, json!({"environment": "moon"}), "NotFound ENVIRONMENT_NOT_FOUND"),
        (ours, json!({"application_id": "erp"}), "NotFound APPLICATION_NOT_FOUND"),
        (ours, json!({"tenant_id": "bar"}), "NotFound TENANT_NOT_FOUND"),
        (&world.theirs, json!({}), "NotFound TENANT_NOT_FOUND"),
        (&tenants_own, json!({}), "PermissionDenied PERMISSION_MISSING"),
        (&root, json!({"tenant_id": ""}), "InvalidArgument INVALID_FIELD"),
    ] {
        let refusal = grant(caller, more.clone()).await.unwrap_err();
        assert_eq!(told(&refusal), expected, "{more}");
    }
    let rehearsed = grant(ours, json!({"validate_only": true})).await.unwrap();
    assert_eq!(rehearsed["state"], "AUTHORIZATION_STATE_ACTIVE");
    assert_eq!(rows(app).await, before, "nothing came of any of this");
    ours.call("DeleteTenant", json!({"tenant_id": "foo"})).await.unwrap();
    let deleted = grant(ours, json!({})).await.unwrap_err();
    assert_eq!(told(&deleted), "FailedPrecondition TENANT_NOT_ACTIVE");
}

/// 0-14, 0-15, 0-16: it ends for good, with who, why and whom that was agreed with; nothing else is touched.
#[tokio::test]
async fn a_revoked_authorization_stays_visible_and_can_be_granted_anew() {
    let world = World::new().await;
    let first = grant(&world.ours, json!({})).await.unwrap();
    let id = &first["authorization_id"];
    let again = grant(&world.ours, json!({})).await.unwrap_err();
    assert_eq!(told(&again), "AlreadyExists AUTHORIZATION_EXISTS");
    let before = rows(&world.app).await;

    let wrong = json!({"contact_email": "", "reason": " "});
    assert_eq!(
        fields(&revoke(&world.ours, id, wrong).await.unwrap_err()),
        ["contact_email", "reason"]
    );
    let stale = revoke(&world.ours, id, json!({"etag": "9"})).await.unwrap_err();
    assert_eq!(told(&stale), "Aborted ETAG_MISMATCH");
    let revoked = revoke(&world.ours, id, json!({})).await.unwrap();
    let twice = revoke(&world.ours, id, json!({"reason": "another"})).await.unwrap();

    assert_eq!(revoked["state"], "AUTHORIZATION_STATE_REVOKED");
    assert_eq!(revoked["revoke_reason"], "moved on");
    assert_eq!(revoked["revoke_contact"], "boss@foo.example");
    assert!(revoked["revoked_by"].as_str().unwrap().starts_with("api_key:"));
    assert_eq!(twice, revoked, "the first word is the last");
    let mut after = rows(&world.app).await;
    // But the event, and the mail that tells of it.
    *after.get_mut("events").unwrap() -= 1;
    *after.get_mut("mails").unwrap() -= 1;
    assert_eq!(after, before, "no row of the tenant is gone");
    let second = grant(&world.ours, json!({})).await.unwrap();
    let found = list(&world.ours, json!({})).await;
    assert_eq!(ids(&found), [id, &second["authorization_id"]]);
}

/// What is over by time is told as such, needs nobody to end it, and is in nobody's way.
#[tokio::test]
async fn an_authorization_expires_by_itself_and_another_takes_its_place() {
    let world = World::new().await;
    let end = (world.app.shared.clock.now() + TimeDelta::hours(1)).to_rfc3339();
    let first = grant(&world.ours, json!({"valid_until": end})).await.unwrap();
    let id = &first["authorization_id"];
    world.app.shared.clock.advance(TimeDelta::hours(2));

    let over = get(&world.ours, id).await.unwrap();
    let second = grant(&world.ours, json!({})).await.unwrap();

    assert_eq!(over["state"], "AUTHORIZATION_STATE_EXPIRED");
    assert_eq!(get(&world.ours, id).await.unwrap(), over, "nothing of it has changed");
    let of_state = async |state: &str| {
        let filter = format!("state = {state}");
        list(&world.ours, json!({ "filter": filter })).await
    };
    assert_eq!(ids(&of_state("EXPIRED").await), [id]);
    assert_eq!(ids(&of_state("ACTIVE").await), [&second["authorization_id"]]);
    assert_eq!(ids(&of_state("REVOKED").await), [&json!(null); 0]);
    let revoked = revoke(&world.ours, id, json!({})).await.unwrap();
    assert_eq!(revoked["state"], "AUTHORIZATION_STATE_REVOKED", "it can still be said that it is");
}

/// The system lets an application of one account act on a tenant of another: both accounts see it, and either ends it.
#[tokio::test]
async fn an_authorization_is_seen_and_ended_from_both_of_its_sides() {
    let world = World::new().await;
    let root = world.app.as_root();
    let on_foo = root.with("x-tenant-id", "foo");
    let (admin, auditor) =
        (world.key(&on_foo, "tenant-admin").await, world.key(&on_foo, "auditor").await);
    let publisher = world.key(&root.with("x-account-id", "theirs"), "app-publisher").await;
    let our_publisher = world.key(&root.with("x-account-id", "ours"), "app-publisher").await;
    let bars = world.key(&root.with("x-tenant-id", "bar"), "tenant-admin").await;
    let abroad = grant(&root, json!({"application_id": "erp"})).await.unwrap();
    let own = grant(&world.ours, json!({})).await.unwrap();
    let (abroad, own) = (&abroad["authorization_id"], &own["authorization_id"]);

    for (caller, seen, hidden) in [
        (&root, vec![abroad, own], vec![]),
        (&world.ours, vec![abroad, own], vec![]),
        (&admin, vec![abroad, own], vec![]),
        (&auditor, vec![abroad, own], vec![]),
        (&world.theirs, vec![abroad], vec![own]),
        (&publisher, vec![abroad], vec![own]),
        (&our_publisher, vec![own], vec![abroad]),
        (&bars, vec![], vec![abroad, own]),
    ] {
        assert_eq!(ids(&list(caller, json!({})).await), seen);
        for id in seen {
            get(caller, id).await.unwrap();
        }
        for id in hidden {
            let shown = get(caller, id).await.unwrap_err();
            assert_eq!(told(&shown), "NotFound AUTHORIZATION_NOT_FOUND");
            let ended = revoke(caller, id, json!({})).await.unwrap_err();
            assert_eq!(told(&ended), "NotFound AUTHORIZATION_NOT_FOUND");
        }
    }
    let refused = revoke(&auditor, own, json!({})).await.unwrap_err();
    assert_eq!(told(&refused), "PermissionDenied PERMISSION_MISSING");
    revoke(&publisher, abroad, json!({})).await.unwrap();
    revoke(&admin, own, json!({})).await.unwrap();
    let told_of = "select count(*) as number from events
        where type = 'authorization.revoked' and account_id = 'ours' and tenant_id = 'foo'";
    assert_eq!(count(&world.app, told_of).await, 2, "the tenant's side hears of both");
}

/// 0-18: consent is per environment, for keys too.
#[tokio::test]
async fn a_key_of_one_environment_has_no_say_in_what_is_authorized_in_another() {
    let world = World::new().await;
    let bound = json!({"api_key": {"roles": ["account-admin"], "environment": "sod"}});
    let bound = world.ours.call("CreateApiKey", bound).await.unwrap();
    let bound = world.app.as_key(bound["secret"].as_str().unwrap());
    let production = grant(&world.ours, json!({})).await.unwrap();

    let granted = grant(&bound, json!({})).await.unwrap_err();
    let ended = revoke(&bound, &production["authorization_id"], json!({})).await.unwrap_err();

    for refusal in [granted, ended] {
        assert_eq!(told(&refusal), "PermissionDenied PERMISSION_MISSING");
        assert!(refusal.message().contains("sod"), "{}", refusal.message());
    }
    grant(&bound, json!({"environment": "sod"})).await.unwrap();
}

/// What tenants authorize is not taken from under them.
#[tokio::test]
async fn an_application_leaves_no_environment_in_which_a_tenant_authorizes_it() {
    let world = World::new().await;
    let granted = grant(&world.app.as_root(), json!({"application_id": "erp"})).await.unwrap();
    let fewer = json!({"application": {"application_id": "erp", "environments": ["sod"]}});
    let delete = json!({"application_id": "erp"});

    for (method, request) in [("UpdateApplication", &fewer), ("DeleteApplication", &delete)] {
        let refusal = world.theirs.call(method, request.clone()).await.unwrap_err();
        assert_eq!(told(&refusal), "FailedPrecondition RECORD_IN_USE", "{method}");
    }
    let id = &granted["authorization_id"];
    revoke(&world.theirs, id, json!({})).await.unwrap();
    world.theirs.call("UpdateApplication", fewer).await.unwrap();
    world.theirs.call("DeleteApplication", delete).await.unwrap();
    let kept = get(&world.ours, id).await.unwrap();
    assert_eq!(kept["application_id"], "erp", "what once was stays visible");
}

/// At most one is live, however many operators grant at once, and none is granted past its application.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_many_grants_at_once_one_is_live() {
    let world = World::new().await;

    let granted = join_all((0..20).map(|_| grant(&world.ours, json!({})))).await;
    let delete = world.ours.call("DeleteApplication", json!({"application_id": "crm"}));
    let sod = (0..10).map(|_| grant(&world.ours, json!({"environment": "sod"})));
    let (deleted, _) = tokio::join!(delete, join_all(sod));

    assert_eq!(granted.iter().filter(|granted| granted.is_ok()).count(), 1);
    for refusal in granted.into_iter().filter_map(Result::err) {
        assert_eq!(told(&refusal), "AlreadyExists AUTHORIZATION_EXISTS");
    }
    assert_eq!(told(&deleted.unwrap_err()), "FailedPrecondition RECORD_IN_USE");
    let live = "select count(*) as number from tenant_authorizations where state = 'ACTIVE'";
    assert_eq!(count(&world.app, live).await, 2);
}

#[tokio::test]
async fn authorizations_are_listed_by_what_is_said_of_them_page_by_page() {
    let world = World::new().await;
    let root = world.app.as_root();
    let mut made = Vec::new();
    for more in [
        json!({}),
        json!({"environment": "sod", "valid_until": "2199-01-01T00:00:00Z"}),
        json!({"tenant_id": "bar", "application_id": "erp"}),
    ] {
        made.push(grant(&root, more).await.unwrap()["authorization_id"].take());
    }
    revoke(&root, &made[0], json!({})).await.unwrap();
    let found = async |filter: &str| {
        let found = list(&root, json!({ "filter": filter })).await;
        let place = |it: &Value| made.iter().position(|id| *id == it["authorization_id"]).unwrap();
        found.iter().map(place).collect::<Vec<_>>()
    };

    assert_eq!(found("").await, [0, 1, 2]);
    assert_eq!(found("tenant_id = \"foo\"").await, [0, 1]);
    assert_eq!(found("application_id = \"erp\"").await, [2]);
    assert_eq!(found("environment = \"SOD\"").await, [1]);
    assert_eq!(found("NOT state = AUTHORIZATION_STATE_REVOKED").await, [1, 2]);
    assert_eq!(found("valid_until < \"2200-01-01T00:00:00Z\"").await, [1]);
    assert_eq!(found("NOT valid_until < \"2200-01-01T00:00:00Z\"").await, [0, 2]);
    assert_eq!(found("revoke_time > \"2020-01-01T00:00:00Z\"").await, [0]);
    let on_bar = list(&root.with("x-tenant-id", "bar"), json!({})).await;
    assert_eq!(ids(&on_bar), [&made[2]]);
    let descending = list(&root, json!({"order_by": "grant_time desc", "page_size": 2})).await;
    assert_eq!(ids(&descending), [&made[2], &made[1]]);
    let page = json!({"page_size": 2});
    let first = root.call("ListAuthorizations", page).await.unwrap();
    let rest = json!({"page_size": 2, "page_token": first["next_page_token"]});
    assert_eq!(ids(&list(&root, rest).await), [&made[2]]);
}

/// 1-46: the tenant's side of a protected tenant is its own; the account of the application goes as it comes.
#[tokio::test]
async fn what_a_protected_tenant_authorizes_ends_by_itself_its_protectors_or_the_publisher() {
    let world = World::new().await;
    let root = world.app.as_root();
    let protect = json!({"tenant": {"tenant_id": "foo", "protected": true}});
    root.call("UpdateTenant", protect).await.unwrap();
    let own = world.key(&root.with("x-tenant-id", "foo"), "tenant-admin").await;
    let abroad = json!({"application_id": "erp"});

    let refused = grant(&world.ours, json!({})).await.unwrap_err();
    assert_eq!(told(&refused), "FailedPrecondition RECORD_PROTECTED");
    for ender in [&own, &root, &world.theirs] {
        let granted = grant(&root, abroad.clone()).await.unwrap();
        let id = &granted["authorization_id"];
        let refused = revoke(&world.ours, id, json!({})).await.unwrap_err();
        assert_eq!(told(&refused), "FailedPrecondition RECORD_PROTECTED");
        revoke(ender, id, json!({})).await.unwrap();
    }
}

/// What the metadata names narrows a call, whatever its key reaches.
#[tokio::test]
async fn an_authorization_of_another_tenant_than_the_metadata_names_is_not_there() {
    let world = World::new().await;
    let root = world.app.as_root();
    let granted = grant(&root, json!({})).await.unwrap();
    let id = &granted["authorization_id"];
    let on_bar = root.with("x-tenant-id", "bar");

    let shown = get(&on_bar, id).await.unwrap_err();
    let ended = revoke(&on_bar, id, json!({})).await.unwrap_err();

    for refusal in [shown, ended] {
        assert_eq!(told(&refusal), "NotFound AUTHORIZATION_NOT_FOUND");
    }
    get(&root.with("x-tenant-id", "foo"), id).await.unwrap();
}
