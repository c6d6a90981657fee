//! Applications: what accounts publish, and as which clients they prove themselves.

use chrono::TimeDelta;
use diesel_async::SimpleAsyncConnection as _;
use futures_util::future::join_all;
use serde_json::{Value, json};
use tonic::Status;

use crate::app::{App, Caller, count, fields, tenant, told};

fn application(id: &str) -> Value {
    json!({
        "application_id": id, "name": " Reports ", "description": "Makes reports.\nDaily.",
        "homepage_url": "https://example.com/reports", "run_as": "RUN_AS_SYSTEM",
        "environments": ["Production", "sod"], "scopes": ["read", "write:all"],
    })
}

async fn create(caller: &Caller, application: Value) -> Result<Value, Status> {
    caller.call("CreateApplication", json!({ "application": application })).await
}

async fn get(caller: &Caller, id: &str) -> Result<Value, Status> {
    Ok(caller.call("GetApplication", json!({"application_id": id})).await?["application"].take())
}

async fn update(caller: &Caller, application: Value, mask: &str) -> Result<Value, Status> {
    let request = json!({"application": application, "update_mask": mask});
    caller.call("UpdateApplication", request).await
}

async fn list(caller: &Caller, request: Value) -> (Vec<String>, String) {
    let answer = caller.call("ListApplications", request).await.unwrap();
    let found = answer.get("applications").and_then(Value::as_array).cloned().unwrap_or_default();
    let id = |it: &Value| it["application_id"].as_str().unwrap().to_owned();
    let token = answer.get("next_page_token").and_then(Value::as_str).unwrap_or_default();
    (found.iter().map(id).collect(), token.to_owned())
}

/// Whether a client secret is good: the id of its application and its environment.
async fn prove(caller: &Caller, client: &Value) -> Option<(String, String)> {
    let request =
        json!({"client_id": client["client_id"], "client_secret": client["client_secret"]});
    let answer = caller.call("VerifyApplicationClient", request).await.unwrap();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    if answer.get("valid") != Some(&json!(true)) {
        assert_eq!(answer, json!({}), "nothing is told of what is not proved");
        return None;
    }
    Some((text(&answer["application"]["application_id"]), text(&answer["environment"])))
}

/// 0-26, 0-01: another client in each environment, in the order of those; its secret shown once.
#[tokio::test]
async fn an_application_is_published_with_another_client_in_each_environment() {
    let app = App::start().await;
    let root = app.as_root();

    let made = create(&root, application("reports")).await.unwrap();

    let told = &made["application"];
    assert_eq!((&told["name"], &told["account_id"]), (&json!("Reports"), &json!("default")));
    assert_eq!(told["environments"], json!(["sod", "production"]));
    assert_eq!((&told["run_as"], &told["etag"]), (&json!("RUN_AS_SYSTEM"), &json!("1")));
    assert_eq!(told["scopes"], json!(["read", "write:all"]));
    assert_eq!(get(&root, "reports").await.unwrap(), *told);
    let clients = made["clients"].as_array().unwrap();
    assert_eq!(clients.len(), 2);
    for (client, environment) in clients.iter().zip(["sod", "production"]) {
        assert_eq!(client["environment"], environment);
        assert_eq!(client["client_id"], told["client_ids"][environment]);
        let proved = prove(&root, client).await.unwrap();
        assert_eq!(proved, ("reports".to_owned(), environment.to_owned()));
    }
    assert_ne!(clients[0]["client_id"], clients[1]["client_id"]);
    let swapped =
        json!({"client_id": clients[0]["client_id"], "client_secret": clients[1]["client_secret"]});
    assert_eq!(prove(&root, &swapped).await, None, "a secret proves its own client alone");
    let nobody = json!({"client_id": "\0", "client_secret": "x".repeat(1_000)});
    assert_eq!(prove(&root, &nobody).await, None);
    let secret = clients[0]["client_secret"].as_str().unwrap();
    let kept = "select count(*) as number from application_clients c, events e
        where c::text || e::text like '%";
    assert_eq!(count(&app, &format!("{kept}{secret}%'")).await, 0, "it is nowhere in clear");
}

#[tokio::test]
async fn what_is_wrong_with_an_application_is_told_at_once() {
    let app = App::start().await;
    let root = app.as_root();
    let wrong = json!({
        "application_id": "No Id", "name": " ", "homepage_url": "javascript:alert(1)",
        "environments": ["sod", "SOD", "a b"], "scopes": ["a b", "read", "read"],
    });

    let refused = create(&root, wrong).await.unwrap_err();
    let nowhere = create(&root, json!({"name": "x"})).await.unwrap_err();
    let unknown = json!({"name": "x", "environments": ["moon"]});
    let unknown = create(&root, unknown).await.unwrap_err();
    let nobodys = json!({"name": "x", "environments": ["sod"], "account_id": "nobody"});
    let nobodys = create(&root, nobodys).await.unwrap_err();

    assert_eq!(
        fields(&refused),
        [
            "application.application_id",
            "application.name",
            "application.homepage_url",
            "application.environments[1]",
            "application.environments[2]",
            "application.scopes[0]",
            "application.scopes[2]",
        ]
    );
    assert_eq!(fields(&nowhere), ["application.environments"]);
    assert_eq!(told(&unknown), "NotFound ENVIRONMENT_NOT_FOUND");
    assert_eq!(told(&nobodys), "NotFound ACCOUNT_NOT_FOUND");
    assert_eq!(count(&app, "select count(*) as number from application_ids").await, 0);
}

/// 0-26: what is changed is in effect at once, and what is published anew has another client.
#[tokio::test]
async fn an_application_is_changed_field_by_field_and_environment_by_environment() {
    let app = App::start().await;
    let root = app.as_root();
    let made = create(&root, application("reports")).await.unwrap();
    let (sod, production) = (&made["clients"][0], &made["clients"][1]);

    let named = json!({"application_id": "reports", "name": "New", "scopes": ["read"]});
    let named = update(&root, named, "").await.unwrap();
    assert_eq!(named["application"]["name"], "New");
    assert_eq!(named["application"]["description"], made["application"]["description"]);
    assert_eq!(named["application"]["scopes"], json!(["read"]));
    assert!(named.get("clients").is_none(), "nothing new");

    let moved = json!({"application_id": "reports", "environments": ["stage", "production"]});
    let moved = update(&root, moved, "environments").await.unwrap();
    assert_eq!(moved["application"]["environments"], json!(["stage", "production"]));
    assert_eq!(moved["clients"].as_array().unwrap().len(), 1);
    assert_eq!(prove(&root, &moved["clients"][0]).await.unwrap().1, "stage");
    assert_eq!(prove(&root, production).await.unwrap().1, "production", "it stays as it is");
    assert_eq!(prove(&root, sod).await, None);

    let back = json!({"application_id": "reports", "environments": ["sod", "stage", "production"]});
    let back = update(&root, back, "environments").await.unwrap();
    assert_ne!(back["clients"][0]["client_id"], sod["client_id"]);
    assert_eq!(prove(&root, sod).await, None);

    let same = back["application"].clone();
    let same = update(&root, same, "").await.unwrap();
    assert_eq!(same["application"], back["application"], "nothing has changed");
    let cleared = json!({"application_id": "reports"});
    let cleared = update(&root, cleared, "scopes,homepageUrl,runAs").await.unwrap();
    let cleared = &cleared["application"];
    assert!(cleared.get("scopes").is_none() && cleared["homepage_url"] == "");
    assert_eq!(cleared["run_as"], "RUN_AS_USER");
    let stale = json!({"application_id": "reports", "name": "x", "etag": "1"});
    assert_eq!(told(&update(&root, stale, "").await.unwrap_err()), "Aborted ETAG_MISMATCH");
    let fixed = json!({"application_id": "reports", "client_ids": {"sod": "x"}});
    update(&root, fixed, "clientIds").await.unwrap();
    app.account("other").await;
    let given = json!({"application_id": "reports", "account_id": "other"});
    let given = update(&root, given, "").await.unwrap_err();
    assert_eq!(told(&given), "InvalidArgument IMMUTABLE_FIELD");
    let unknown = json!({"application_id": "reports"});
    let unknown = update(&root, unknown, "secret").await.unwrap_err();
    assert_eq!(told(&unknown), "InvalidArgument IMMUTABLE_FIELD");
    let nameless = update(&root, json!({"application_id": "reports"}), "name").await.unwrap_err();
    assert_eq!(fields(&nameless), ["application.name"]);
}

/// 0-26: a secret that is lost is replaced; the client stays who it is.
#[tokio::test]
async fn a_client_secret_is_rotated_with_an_overlap_or_at_once() {
    let app = App::start().await;
    let root = app.as_root();
    let made = create(&root, application("reports")).await.unwrap();
    let first = made["clients"][1].clone();
    let rotate = async |more: Value| {
        let mut request = json!({"application_id": "reports", "environment": "Production"});
        request.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        root.call("RotateApplicationClientSecret", request).await
    };

    let rehearsed = rotate(json!({"validate_only": true})).await.unwrap();
    assert!(rehearsed["client"].get("client_secret").is_none());
    let second = rotate(json!({"request_id": "once"})).await.unwrap();
    let again = rotate(json!({"request_id": "once"})).await.unwrap();
    assert_eq!(again, second, "the same answer, its secret too");
    let second = &second["client"];
    assert_eq!(second["client_id"], first["client_id"]);
    assert!(prove(&root, &first).await.is_some() && prove(&root, second).await.is_some());
    app.shared.clock.advance(TimeDelta::hours(25));
    assert!(prove(&root, &first).await.is_none() && prove(&root, second).await.is_some());
    let third = rotate(json!({"overlap": "0s"})).await.unwrap();
    assert!(prove(&root, second).await.is_none(), "it ends at once");
    assert!(prove(&root, &third["client"]).await.is_some());

    let elsewhere = json!({"application_id": "reports", "environment": "stage"});
    let elsewhere = root.call("RotateApplicationClientSecret", elsewhere).await.unwrap_err();
    assert_eq!(told(&elsewhere), "FailedPrecondition ENVIRONMENT_NOT_PUBLISHED");
    let long = rotate(json!({"overlap": "2592001s"})).await.unwrap_err();
    assert_eq!(fields(&long), ["overlap"]);
}

#[tokio::test]
async fn the_id_of_a_deleted_application_is_never_given_again() {
    let app = App::start().await;
    let (root, other) = (app.as_root(), app.account("other").await);
    let made = create(&root, application("reports")).await.unwrap();
    let generated = create(&root, json!({"name": "x", "environments": ["sod"]})).await.unwrap();
    assert!(generated["application"]["application_id"].as_str().unwrap().starts_with("a-"));

    let delete = json!({"application_id": "reports"});
    root.call("DeleteApplication", delete.clone()).await.unwrap();

    assert_eq!(prove(&root, &made["clients"][0]).await, None);
    for refusal in [
        get(&root, "reports").await.unwrap_err(),
        root.call("DeleteApplication", delete).await.unwrap_err(),
    ] {
        assert_eq!(told(&refusal), "NotFound APPLICATION_NOT_FOUND");
    }
    for caller in [&root, &other] {
        let again = create(caller, application("reports")).await.unwrap_err();
        assert_eq!(told(&again), "AlreadyExists APPLICATION_ALREADY_EXISTS");
        assert!(again.message().contains("never given twice"), "{}", again.message());
    }
}

/// 0-04: an account sees its own applications, and its tenants' auditors read them.
#[tokio::test]
async fn an_account_keeps_its_applications_to_itself() {
    let app = App::start().await;
    let root = app.as_root();
    let (ours, theirs) = (app.account("ours").await, app.account("theirs").await);
    ours.create(tenant("foo")).await.unwrap();
    let made = create(&ours, application("ours-app")).await.unwrap();
    create(&theirs, application("theirs-app")).await.unwrap();
    let publisher = root.with("x-account-id", "ours").create_key(&["app-publisher"]).await;
    let publisher = app.as_key(&publisher);
    let auditor = app.as_key(&root.with("x-tenant-id", "foo").create_key(&["auditor"]).await);
    let verifier = root.with("x-account-id", "theirs").create_key(&["key-verifier"]).await;
    let verifier = app.as_key(&verifier);

    for caller in [&ours, &publisher, &auditor] {
        assert_eq!(list(caller, json!({})).await.0, ["ours-app"]);
        get(caller, "ours-app").await.unwrap();
        let refusal = get(caller, "theirs-app").await.unwrap_err();
        assert_eq!(told(&refusal), "NotFound APPLICATION_NOT_FOUND");
    }
    for caller in [&ours, &publisher] {
        let named = json!({"application_id": "theirs-app", "name": "owned"});
        let refusal = update(caller, named, "").await.unwrap_err();
        assert_eq!(told(&refusal), "NotFound APPLICATION_NOT_FOUND");
    }
    let written = update(&auditor, json!({"application_id": "ours-app", "name": "x"}), "").await;
    assert_eq!(told(&written.unwrap_err()), "PermissionDenied PERMISSION_MISSING");
    assert_eq!(list(&root, json!({})).await.0, ["ours-app", "theirs-app"]);
    assert_eq!(prove(&verifier, &made["clients"][0]).await, None, "out of its reach");
    update(&publisher, json!({"application_id": "ours-app", "name": "Mine"}), "").await.unwrap();
}

#[tokio::test]
async fn applications_are_listed_by_what_is_said_of_them_page_by_page() {
    let app = App::start().await;
    let root = app.as_root();
    for (id, name, environments) in [
        ("c", "One", json!(["sod"])),
        ("a", "Two", json!(["production"])),
        ("b", "One", json!(["sod"])),
    ] {
        let new = json!({"application_id": id, "name": name, "environments": environments});
        create(&root, new).await.unwrap();
    }
    let ids = async |filter: &str, order: &str| {
        list(&root, json!({"filter": filter, "order_by": order})).await.0
    };

    assert_eq!(ids("", "").await, ["a", "b", "c"]);
    assert_eq!(ids("", "name desc").await, ["a", "b", "c"]);
    assert_eq!(ids("", "name").await, ["b", "c", "a"]);
    assert_eq!(ids("", "create_time").await, ["c", "a", "b"]);
    assert_eq!(ids("environment = \"SOD\"", "").await, ["b", "c"]);
    assert_eq!(ids("NOT environment = \"sod\" AND name = \"T*\"", "").await, ["a"]);
    assert_eq!(ids("run_as = SYSTEM", "").await, [""; 0]);
    assert_eq!(ids("account_id = \"default\" AND application_id != \"b\"", "").await, ["a", "c"]);
    let (first, token) = list(&root, json!({"page_size": 2, "order_by": "name"})).await;
    let rest = list(&root, json!({"page_size": 2, "page_token": token})).await;
    assert_eq!((first, rest), (vec!["b".into(), "c".into()], (vec!["a".into()], String::new())));
}

/// The claim on an id, not a look before, tells who was first.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_many_who_want_one_id_at_once_one_gets_it() {
    let app = App::start().await;
    let root = app.as_root();

    let made = join_all((0..20).map(|_| create(&root, application("reports")))).await;

    assert_eq!(made.iter().filter(|made| made.is_ok()).count(), 1);
    for refusal in made.into_iter().filter_map(Result::err) {
        assert_eq!(told(&refusal), "AlreadyExists APPLICATION_ALREADY_EXISTS");
    }
    assert_eq!(count(&app, "select count(*) as number from application_clients").await, 2);
}

/// An environment in which something is published is in use, and so is an account that publishes.
#[tokio::test]
async fn what_applications_hang_on_cannot_be_deleted() {
    let app = App::start().await;
    let other = app.account("other").await;
    create(&other, application("reports")).await.unwrap();
    let root = app.as_root();

    let environment = root.call("DeleteEnvironment", json!({"environment_id": "sod"})).await;
    let account = json!({"account_id": "other"});
    let account = root.call("DeleteAccount", account).await;

    for refusal in [environment.unwrap_err(), account.unwrap_err()] {
        assert_eq!(told(&refusal), "FailedPrecondition RECORD_IN_USE");
        assert!(refusal.message().contains("applications"), "{}", refusal.message());
    }
}

/// 4-15, 4-17: a key has no say beyond its environment, and gives away nothing that outlasts it.
#[tokio::test]
async fn a_key_that_is_bound_or_ends_gives_away_no_client_beyond_that() {
    let app = App::start().await;
    let root = app.as_root();
    let made = create(&root, application("reports")).await.unwrap();
    let key = async |more: Value| {
        let mut key = json!({"roles": ["account-admin"], "account_id": "default"});
        key.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let made = root.call("CreateApiKey", json!({ "api_key": key })).await.unwrap();
        app.as_key(made["secret"].as_str().unwrap())
    };
    let bound = key(json!({"environment": "sod"})).await;
    let ends = key(json!({"expire_time": "2199-01-01T00:00:00Z"})).await;
    let new =
        |environment: &str| json!({"application": {"name": "x", "environments": [environment]}});
    let published = |environments: &[&str]| json!({"application": {"application_id": "reports", "environments": environments}});
    let of = |environment: &str| json!({"application_id": "reports", "environment": environment});

    for (caller, method, request) in [
        (&bound, "CreateApplication", new("production")),
        (&bound, "UpdateApplication", published(&["sod"])),
        (&bound, "UpdateApplication", published(&["sod", "stage", "production"])),
        (
            &bound,
            "UpdateApplication",
            json!({"application": {"application_id": "reports", "name": "y"}}),
        ),
        (&bound, "DeleteApplication", json!({"application_id": "reports"})),
        (&bound, "RotateApplicationClientSecret", of("production")),
        (&ends, "CreateApplication", new("sod")),
        (&ends, "UpdateApplication", published(&["sod", "stage", "production"])),
        (&ends, "RotateApplicationClientSecret", of("sod")),
    ] {
        let refusal = caller.call(method, request.clone()).await.unwrap_err();
        assert_eq!(told(&refusal), "PermissionDenied PERMISSION_MISSING", "{method} {request}");
    }
    bound.call("CreateApplication", new("sod")).await.unwrap();
    bound.call("RotateApplicationClientSecret", of("sod")).await.unwrap();
    let named = json!({"application": {"application_id": "reports", "name": "Named"}});
    ends.call("UpdateApplication", named).await.unwrap();
    assert!(prove(&bound, &made["clients"][0]).await.is_some());
    assert!(prove(&bound, &made["clients"][1]).await.is_none(), "of production it learns nothing");
}

/// Whoever publishes an application may ask whether somebody is its client; a rehearsal shows nobody's secret.
#[tokio::test]
async fn a_publisher_proves_its_clients_and_a_rehearsal_shows_no_secret() {
    let app = App::start().await;
    let root = app.as_root();
    let publisher = root.with("x-account-id", "default").create_key(&["app-publisher"]).await;
    let publisher = app.as_key(&publisher);
    let new = json!({"application": application("reports"), "request_id": "once"});
    let made = publisher.call("CreateApplication", new.clone()).await.unwrap();

    let mut rehearsed = new;
    rehearsed["validate_only"] = true.into();
    let rehearsed = publisher.call("CreateApplication", rehearsed).await.unwrap();

    assert!(prove(&publisher, &made["clients"][0]).await.is_some());
    assert_eq!(rehearsed["application"], made["application"], "the same request");
    assert!(rehearsed["clients"][0].get("client_secret").is_none(), "{rehearsed}");
}

/// Who publishes once is somebody to tenants of other accounts: nobody else comes to be that.
#[tokio::test]
async fn the_id_of_an_account_that_published_is_not_given_to_another() {
    let app = App::start().await;
    let (root, other) = (app.as_root(), app.account("other").await);
    create(&other, application("reports")).await.unwrap();
    other.call("DeleteApplication", json!({"application_id": "reports"})).await.unwrap();
    let keys = "update api_keys set revoke_time = now(), revoked_by = 'x', revoke_reason = 'x'
        where account_id = 'other'; delete from api_keys where account_id = 'other'";
    app.superuser().await.batch_execute(keys).await.unwrap();
    root.call("DeleteAccount", json!({"account_id": "other"})).await.unwrap();

    let again = json!({"account": {"account_id": "other", "name": "Another"}});
    let refusal = root.call("CreateAccount", again).await.unwrap_err();

    assert_eq!(told(&refusal), "AlreadyExists ACCOUNT_ALREADY_EXISTS");
}
