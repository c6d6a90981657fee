//! As which OAuth client the users of a tenant sign in.

use serde_json::{Value, json};
use tenantry::pb;
use tonic::Status;

use crate::app::{App, Caller, count, fields, tenant, told};

async fn get(caller: &Caller) -> Value {
    caller.call("GetOAuthClient", json!({})).await.unwrap()["oauth_client"].take()
}

/// Changes what is present.
async fn update(caller: &Caller, client: Value) -> Result<Value, Status> {
    caller.call("UpdateOAuthClient", json!({"oauth_client": client})).await
}

/// Changes what a mask names.
async fn masked(caller: &Caller, client: Value, mask: &str) -> Result<Value, Status> {
    let request = json!({"oauth_client": client, "update_mask": mask});
    caller.call("UpdateOAuthClient", request).await
}

/// The tenant `foo`, whose OAuth client nothing is said of, and a caller that acts on it.
async fn start() -> (App, Caller) {
    let app = App::start().await;
    app.as_root().create(tenant("foo")).await.unwrap();
    let caller = app.as_root().with("x-tenant-id", "foo");
    (app, caller)
}

/// Whether what is stored of the secret of `foo` has come from this one.
async fn is_secret(app: &App, secret: &str) -> bool {
    use sha2::{Digest as _, Sha256};
    let master = &app.shared.master;
    let sha256 = Sha256::digest(secret).into();
    let digest = master.digest_of_sha256(master.current_version(), &sha256).unwrap();
    let digest = hex::encode(digest.as_bytes());
    let stored = format!(
        "select count(*) as number from tenant_oauth_clients where encode(secret_digest, 'hex') = '{digest}'"
    );
    count(app, &stored).await == 1
}

/// 1-14, 1-15: a client of which nothing was said is told as it is, and its secret never.
#[tokio::test]
async fn an_oauth_client_is_got_without_its_secret() {
    let (app, foo) = start().await;

    let client = get(&foo).await;

    assert_eq!(client["secret"], json!(null));
    assert_eq!((&client["disabled"], &client["type"]), (&json!(true), &json!(2)));
    assert_eq!(client["grants"], json!(["password", "refresh_token"]));
    let unnamed = app.as_root().call("GetOAuthClient", json!({})).await.unwrap_err();
    assert_eq!(told(&unnamed), "InvalidArgument INVALID_METADATA");
    let stranger = app.account("theirs").await.with("x-tenant-id", "foo");
    let hidden = stranger.call("GetOAuthClient", json!({})).await.unwrap_err();
    assert_eq!(told(&hidden), "NotFound TENANT_NOT_FOUND");
}

/// 1-17: an update changes what is present or what its mask names, each by the rules of its field.
#[tokio::test]
async fn an_update_of_an_oauth_client_changes_what_is_present_or_named() {
    let (app, foo) = start().await;

    let changed = update(
        &foo,
        json!({
            "secret": " kept as it is ", "redirect_uri": "https://example.com/cb",
            "disabled": false, "grants": ["client_credentials"],
        }),
    );
    let changed = changed.await.unwrap();

    let client = &changed["oauth_client"];
    assert_eq!(changed["secret"], json!(null), "it was given, not generated");
    assert_eq!(client["redirect_uri"], "https://example.com/cb");
    assert_eq!((&client["disabled"], &client["type"]), (&json!(false), &json!(2)));
    assert_eq!(client["grants"], json!(["client_credentials"]));
    assert_eq!((&client["etag"], &client["secret"]), (&json!("2"), &json!(null)));
    assert!(is_secret(&app, " kept as it is ").await, "it is not trimmed");
    assert_eq!(get(&foo).await, *client);

    let same = update(&foo, json!({"disabled": false})).await.unwrap();
    assert_eq!(same["oauth_client"]["etag"], "2", "nothing has changed");
    let cleared = masked(&foo, json!({"disabled": true}), "redirectUri").await.unwrap();
    assert_eq!(cleared["oauth_client"]["redirect_uri"], json!(null));
    assert_eq!(cleared["oauth_client"]["disabled"], false, "the mask does not name it");
    for (mask, field) in [
        ("secret", "oauth_client.secret"),
        ("grants", "oauth_client.grants"),
        ("disabled", "oauth_client.disabled"),
        ("type", "oauth_client.type"),
        ("loginMode", "oauth_client.login_mode"),
    ] {
        let refusal = masked(&foo, json!({}), mask).await.unwrap_err();
        assert_eq!(fields(&refusal), [field], "it cannot be cleared");
    }
    let unknown = masked(&foo, json!({}), "tenantUid").await.unwrap_err();
    assert_eq!(told(&unknown), "InvalidArgument IMMUTABLE_FIELD");
    let wrong = json!({
        "secret": "x".repeat(257), "redirect_uri": "/cb", "grants": ["No"], "type": 3,
        "pin": {"no code": {}},
    });
    let wrong = update(&foo, wrong).await.unwrap_err();
    assert_eq!(
        fields(&wrong),
        ["secret", "redirect_uri", "grants", "type", "pin"].map(|it| format!("oauth_client.{it}"))
    );
    let stale = json!({"oauth_client": {"disabled": true}, "etag": "1"});
    let stale = foo.call("UpdateOAuthClient", stale).await.unwrap_err();
    assert_eq!(told(&stale), "Aborted ETAG_MISMATCH");
    let missing = foo.call("UpdateOAuthClient", json!({})).await.unwrap_err();
    assert_eq!(fields(&missing), ["oauth_client"]);
}

/// 1-17, 1-18: type 0 is from server to server, which goes with OAuth alone.
#[tokio::test]
async fn type_0_is_refused_together_with_the_login_mode_urac() {
    let (_app, foo) = start().await;

    let conflict = update(&foo, json!({"type": 0})).await.unwrap_err();
    let both = json!({"type": 0, "login_mode": "O_AUTH_LOGIN_MODE_OAUTH"});
    let server = update(&foo, both).await.unwrap();
    let back = update(&foo, json!({"login_mode": "O_AUTH_LOGIN_MODE_URAC"})).await.unwrap_err();

    for refusal in [&conflict, &back] {
        assert_eq!(told(refusal), "FailedPrecondition OAUTH_TYPE_CONFLICT");
    }
    assert_eq!(server["oauth_client"]["type"], 0);
    let users = json!({"type": 1, "login_mode": "O_AUTH_LOGIN_MODE_URAC"});
    assert_eq!(update(&foo, users).await.unwrap()["oauth_client"]["type"], 1);
}

/// 1-19: a PIN is asked where users sign in with URAC, and nowhere else.
#[tokio::test]
async fn pins_are_kept_with_urac_only_and_only_those_that_say_whether() {
    let (_app, foo) = start().await;
    let pins = json!({"PHONE": {"enabled": true}, "MAIL": {"enabled": false}, "OTHER": {}});

    let kept = update(&foo, json!({"pin": pins})).await.unwrap();
    let away = update(&foo, json!({"login_mode": "O_AUTH_LOGIN_MODE_OAUTH"})).await.unwrap();
    let beside = update(&foo, json!({"pin": pins})).await.unwrap();
    let back = update(&foo, json!({"login_mode": "O_AUTH_LOGIN_MODE_URAC"})).await.unwrap();

    let expected = json!({"PHONE": {"enabled": true}, "MAIL": {"enabled": false}});
    assert_eq!(kept["oauth_client"]["pin"], expected);
    for gone in [away, beside, back] {
        assert_eq!(gone["oauth_client"]["pin"], json!(null));
    }
    update(&foo, json!({"pin": pins})).await.unwrap();
    let cleared = masked(&foo, json!({}), "pin").await.unwrap();
    assert_eq!(cleared["oauth_client"]["pin"], json!(null));
}

/// 1-14, 1-16: a secret that is generated is answered once, and no secret is ever read again.
#[tokio::test]
async fn a_generated_secret_of_an_oauth_client_is_answered_once() {
    let (app, foo) = start().await;
    let empty = json!({"oauth_client": {"secret": ""}, "request_id": "once"});

    let made = foo.call("UpdateOAuthClient", empty.clone()).await.unwrap();
    let again = foo.call("UpdateOAuthClient", empty).await.unwrap();
    let made = made["secret"].as_str().unwrap();
    assert!(is_secret(&app, made).await);
    assert_eq!(again["secret"], made, "who repeats the request gets the same");
    let rehearsed = json!({"oauth_client": {"secret": ""}, "validate_only": true});
    let rehearsed = foo.call("UpdateOAuthClient", rehearsed).await.unwrap();
    assert_eq!(rehearsed["secret"], json!(null));
    let rehearsed = json!({"validate_only": true});
    let rehearsed = foo.call("RotateOAuthClientSecret", rehearsed).await.unwrap();
    assert_eq!(rehearsed["secret"], json!(null));
    assert!(is_secret(&app, made).await, "nothing has changed");

    let rotated = foo.call("RotateOAuthClientSecret", json!({"etag": "2"})).await.unwrap();
    let rotated_secret = rotated["secret"].as_str().unwrap();
    assert!(rotated_secret != made && is_secret(&app, rotated_secret).await);
    assert_eq!(rotated["oauth_client"]["etag"], "3");
    let stale = foo.call("RotateOAuthClientSecret", json!({"etag": "2"})).await.unwrap_err();
    assert_eq!(told(&stale), "Aborted ETAG_MISMATCH");
    let told = "select count(*) as number from events \
                where type in ('oauth_client.updated', 'oauth_client.rotated') \
                    and tenant_id = 'foo' and before is not null and after is not null";
    assert_eq!(count(&app, told).await, 2);
    for secret in [made, rotated_secret] {
        let found =
            format!("select count(*) as number from events e where e::text like '%{secret}%'");
        assert_eq!(count(&app, &found).await, 0);
    }
    let digests = "select count(*) as number from events e, tenant_oauth_clients c \
                   where e::text like '%' || encode(c.secret_digest, 'hex') || '%'";
    assert_eq!(count(&app, digests).await, 0);
}

/// 1-46: what a protected tenant signs in as is not changed from beside it.
#[tokio::test]
async fn the_oauth_client_of_a_protected_tenant_is_changed_by_its_own_and_its_protectors() {
    let app = App::start().await;
    let ours = app.account("ours").await.with("x-tenant-id", "foo");
    let root = app.as_root().with("x-account-id", "ours");
    root.create(pb::Tenant { protected: Some(true), ..tenant("foo") }).await.unwrap();

    for refusal in [
        update(&ours, json!({"disabled": false})).await.unwrap_err(),
        ours.call("RotateOAuthClientSecret", json!({})).await.unwrap_err(),
    ] {
        assert_eq!(told(&refusal), "FailedPrecondition RECORD_PROTECTED");
    }
    let foo = root.with("x-tenant-id", "foo");
    update(&foo, json!({"disabled": false})).await.unwrap();
}
