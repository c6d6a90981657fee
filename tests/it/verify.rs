//! Whether keys are good, and what that costs the database.

use diesel::sql_types::{BigInt, Text};
use diesel_async::SimpleAsyncConnection as _;
use futures_util::future::join_all;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tenantry::pb;

use crate::{
    app::{App, Caller, count, fields, product, tenant, told},
    start::until,
};

/// A tenant with an installation, and what is needed to make external keys of it.
struct Shop {
    app: App,
    admin: Caller,
    app_key_id: String,
}

impl Shop {
    async fn open() -> Self {
        // A machine that is busy for seconds must not make a node ask again what it knows.
        let app = App::start_with(|settings| {
            settings.keys.lease = std::time::Duration::from_mins(1);
        })
        .await;
        let root = app.as_root();
        root.create(tenant("shop")).await.unwrap();
        root.call("CreateProduct", product()).await.unwrap();
        let admin = root.with("x-tenant-id", "shop");
        let installation = json!({"installation":
            {"product_code": "PHONE", "package_code": "BASIC", "ttl_hours": 24}});
        let installed = admin.call("CreateInstallation", installation).await.unwrap();
        let id = &installed["installation"]["installation_id"];
        let config = json!({
            "production": {"commonFields": {"region": "eu"}, "billing": {"rate": 5}, "mail": {"from": "x"}},
        });
        let made = json!({"installation_id": id, "config": config});
        let made = admin.call("CreateAppKey", made).await.unwrap();
        let app_key_id = made["app_key"]["app_key_id"].as_str().unwrap().to_owned();
        Self { app, admin, app_key_id }
    }

    /// Makes an external key; answers its id and its text.
    async fn key(&self, more: Value) -> (String, String) {
        let mut key = json!({
            "app_key_id": self.app_key_id, "label": "web", "environment": "production",
        });
        key.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let made =
            self.admin.call("CreateExternalKey", json!({"external_key": key})).await.unwrap();
        let id = made["external_key"]["external_key_id"].as_str().unwrap().to_owned();
        (id, made["secret"].as_str().unwrap().to_owned())
    }

    async fn ask(&self, key: &str, more: Value) -> Value {
        let mut request = json!({"key": key, "environment": "production"});
        request.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        self.app.as_root().call("VerifyKey", request).await.unwrap()
    }

    async fn code(&self, key: &str, more: Value) -> String {
        let code = self.ask(key, more).await["code"].as_str().unwrap_or_default().to_owned();
        code.trim_start_matches("VERIFY_CODE_").to_owned()
    }
}

/// 1-39: all that there is to say of a good key.
#[tokio::test]
async fn an_external_key_verifies_with_all_that_it_hangs_on() {
    let shop = Shop::open().await;
    let end = "2199-01-01T00:00:00Z";
    let (id, key) = shop.key(json!({"expire_time": end})).await;
    let uid = shop.app.as_root().get("shop").await.unwrap().uid;

    let told = shop.ask(&key, json!({"service_name": "billing"})).await;

    assert_eq!(told["valid"], true, "{told}");
    assert_eq!(told["credential_kind"], "CREDENTIAL_KIND_EXTERNAL_KEY");
    assert_eq!(told["credential_id"], id);
    assert_eq!((&told["account_id"], &told["tenant_id"]), (&json!("default"), &json!("shop")));
    assert_eq!((&told["tenant_uid"], &told["environment"]), (&json!(uid), &json!("production")));
    assert_eq!((&told["app_key_id"], &told["expire_time"]), (&json!(shop.app_key_id), &json!(end)));
    for of_api_keys in ["roles", "permissions", "scopes", "read_only"] {
        assert!(told.get(of_api_keys).is_none(), "{of_api_keys}");
    }
    assert_eq!(told["product_code"], "PHONE");
    assert_eq!(told["package_code"], "BASIC");
    assert!(told["installation_id"].is_string() && told["revision"].is_string(), "{told}");
    // 1-27: what is for all, and what is for itself; nothing of the mailer.
    assert_eq!(told["config"], json!({"region": "eu", "billing": {"rate": 5.0}}));
    let other = shop.ask(&key, json!({})).await;
    assert_eq!(other["config"], json!({"region": "eu"}));
    // 1-22, 1-23: two times, and neither is the end of the key.
    let seconds = |ttl: &Value| ttl.as_str().unwrap().trim_end_matches('s').parse::<f64>().unwrap();
    assert!(seconds(&told["cache_ttl"]) <= 60.0, "{told}");
    assert!((seconds(&told["watched_cache_ttl"]) - 24.0 * 3600.0).abs() < 1.0, "{told}");
}

/// 4-15, 4-16: of an API key its owner, its roles and what those grant.
#[tokio::test]
async fn an_api_key_verifies_with_its_owner_and_its_rights() {
    let shop = Shop::open().await;
    let end = "2199-01-01T00:00:00Z";
    let new = json!({"roles": ["tenant-management"], "environment": "stage", "expire_time": end});
    let made = shop.admin.call("CreateApiKey", json!({ "api_key": new })).await.unwrap();
    let uid = shop.app.as_root().get("shop").await.unwrap().uid;

    let told = shop.ask(made["secret"].as_str().unwrap(), json!({"environment": "stage"})).await;

    let known = json!({
        "valid": true, "code": "VERIFY_CODE_VALID", "account_id": "default", "tenant_id": "shop",
        "tenant_uid": uid, "environment": "stage", "credential_kind": "CREDENTIAL_KIND_API_KEY",
        "credential_id": made["api_key"]["api_key_id"], "roles": ["tenant-management"],
        "permissions": made["api_key"]["permissions"], "expire_time": end,
        "cache_ttl": told["cache_ttl"], "revision": told["revision"],
    });
    assert_eq!(told, known);
}

/// What the metadata names narrows what a verifier finds, whatever its own reach.
#[tokio::test]
async fn a_key_of_another_tenant_than_the_metadata_names_is_not_there() {
    let shop = Shop::open().await;
    let root = shop.app.as_root();
    root.create(tenant("other")).await.unwrap();
    let (_, key) = shop.key(json!({})).await;
    let verifier = root.with("x-account-id", "default").create_key(&["key-verifier"]).await;

    for caller in [root, shop.app.as_key(&verifier)] {
        for (named, code) in [("shop", "VERIFY_CODE_VALID"), ("other", "VERIFY_CODE_NOT_FOUND")] {
            let caller = caller.with("x-tenant-id", named);
            let asked = json!({"key": key, "environment": "production"});
            let told = caller.call("VerifyKey", asked.clone()).await.unwrap();
            let batch = caller.call("BatchVerifyKeys", json!({"requests": [asked]})).await.unwrap();
            assert_eq!(
                (&told["code"], &batch["responses"][0]["code"]),
                (&json!(code), &json!(code))
            );
        }
    }
}

/// A revision that the database has not come to is told as that, with the place of who asks for it.
#[tokio::test]
async fn a_revision_ahead_of_the_database_is_no_outage() {
    let shop = Shop::open().await;
    let (_, key) = shop.key(json!({})).await;
    let asked =
        |revision: &str| json!({"key": key, "environment": "production", "min_revision": revision});
    let batch = json!({"requests": [asked(""), asked("99999999:99999999:")]});
    let root = shop.app.as_root();

    let one = root.call("VerifyKey", asked("99999999:99999999:")).await.unwrap_err();
    let one_of_many = root.call("BatchVerifyKeys", batch).await.unwrap_err();

    for (refusal, field) in [(one, "min_revision"), (one_of_many, "requests[1].min_revision")] {
        assert_eq!(told(&refusal), "Unavailable REVISION_AHEAD");
        assert!(refusal.message().starts_with(field), "{}", refusal.message());
    }
}

/// 1-34, 1-35, 1-36, 1-37: each rule by itself, over the wire.
#[tokio::test]
async fn each_rule_of_an_external_key_has_its_code() {
    let shop = Shop::open().await;
    let (id, key) = shop
        .key(json!({
            "geo": {"allow": ["192.0.2.0/24"], "deny": ["192.0.2.7"]},
            "device": {"allow": [{"family": "Chrome", "major": {"min": "100"}}]},
        }))
        .await;
    let chrome = "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) \
                  Chrome/120.0.6099.71 Safari/537.36";
    let from = |ip: &str, version: &str| json!({"client_ip": ip, "device": {"family": "chrome", "version": version}});

    assert_eq!(shop.code(&key, from("192.0.2.1", "120.1")).await, "VALID");
    assert_eq!(
        shop.code(&key, json!({"client_ip": "::ffff:192.0.2.1", "user_agent": chrome})).await,
        "VALID"
    );
    assert_eq!(shop.code(&key, from("192.0.2.7", "120.1")).await, "GEO_FORBIDDEN");
    assert_eq!(shop.code(&key, from("10.0.0.1", "120.1")).await, "GEO_FORBIDDEN");
    assert_eq!(shop.code(&key, json!({})).await, "GEO_FORBIDDEN", "no address is given");
    assert_eq!(shop.code(&key, from("192.0.2.1", "99")).await, "DEVICE_FORBIDDEN");
    assert_eq!(shop.code(&key, json!({"client_ip": "192.0.2.1"})).await, "DEVICE_FORBIDDEN");
    let mut elsewhere = from("192.0.2.1", "120.1");
    elsewhere["environment"] = "stage".into();
    assert_eq!(shop.code(&key, elsewhere).await, "WRONG_ENVIRONMENT");
    let (_, strict) = shop
        .key(json!({"geo": {"deny": ["192.0.2.7"]},
            "device": {"deny": [{"family": "Firefox"}], "allow": [{"os": {"family": "Windows"}}]}}))
        .await;
    let on = |family: &str, os: &str| json!({"client_ip": "10.0.0.1", "device": {"family": family, "os_family": os}});
    assert_eq!(shop.code(&strict, on("Chrome", "windows")).await, "VALID", "from anywhere else");
    assert_eq!(shop.code(&strict, on("firefox", "Windows")).await, "DEVICE_FORBIDDEN");
    assert_eq!(shop.code(&strict, on("Chrome", "Linux")).await, "DEVICE_FORBIDDEN");
    let why = shop.ask(&strict, {
        let mut asked = on("Chrome", "Linux");
        asked["explain"] = true.into();
        asked
    });
    let why = why.await["checks"].to_string();
    assert!(why.contains("asked for chrome on linux"), "{why}");
    let asks = |what: &str, value: Value| {
        let mut asked = from("192.0.2.1", "120.1");
        asked[what] = value;
        asked
    };
    assert_eq!(
        shop.code(&key, asks("required_permissions", json!(["KEYS:VIEW"]))).await,
        "INSUFFICIENT_PERMISSION"
    );
    assert_eq!(
        shop.code(&key, asks("required_scopes", json!(["read"]))).await,
        "INSUFFICIENT_SCOPE"
    );
    assert_eq!(shop.code(&key, asks("application_id", json!("crm"))).await, "NOT_AUTHORIZED");
    let update = |more: Value| {
        let mut key = json!({"external_key_id": id});
        key.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        json!({"external_key": key})
    };
    shop.admin.call("UpdateExternalKey", update(json!({"enabled": false}))).await.unwrap();
    assert_eq!(shop.code(&key, from("192.0.2.1", "120.1")).await, "DISABLED");
    shop.admin.call("UpdateExternalKey", update(json!({"enabled": true}))).await.unwrap();
    let day = (shop.app.shared.clock.now() + chrono::TimeDelta::days(1)).format("%Y-%m-%d");
    let ends = update(json!({"exp_date": day.to_string()}));
    shop.admin.call("UpdateExternalKey", ends).await.unwrap();
    assert_eq!(shop.code(&key, from("192.0.2.1", "120.1")).await, "VALID");
    shop.app.shared.clock.advance(chrono::TimeDelta::days(3));
    assert_eq!(shop.code(&key, from("192.0.2.1", "120.1")).await, "EXPIRED");
}

/// Every check is told, in order, with its outcome; what is wrong with a request is told by its place.
#[tokio::test]
async fn explain_lists_every_check_and_a_wrong_request_is_told_by_its_fields() {
    let shop = Shop::open().await;
    let (_, key) = shop.key(json!({"geo": {"deny": ["0.0.0.0/0"]}})).await;

    let explained = shop.ask(&key, json!({"explain": true, "environment": "stage"})).await;

    let checks = explained["checks"].as_array().unwrap();
    let names = checks.iter().map(|check| check["check"].as_str().unwrap()).collect::<Vec<_>>();
    let order = [
        "found",
        "revoked",
        "enabled",
        "expired",
        "environment",
        "tenant",
        "lock",
        "ip",
        "geo_deny",
        "geo_allow",
        "device_deny",
        "device_allow",
        "authorization",
        "permissions",
        "scopes",
        "rate",
        "credits",
    ];
    assert_eq!(names, order);
    let failed = checks.iter().filter(|check| check.get("passed").is_none());
    let failed = failed.map(|check| check["check"].as_str().unwrap()).collect::<Vec<_>>();
    assert_eq!(failed, ["environment", "geo_deny"]);
    let wrong = json!({"requests": [
        {"key": key, "environment": "production"},
        {"key": key, "environment": "No!", "client_ip": "here", "min_revision": "now"},
        {"key": key},
    ]});
    let wrong = shop.app.as_root().call("BatchVerifyKeys", wrong).await.unwrap_err();
    assert_eq!(
        fields(&wrong),
        [
            "requests[1].environment",
            "requests[1].client_ip",
            "requests[1].min_revision",
            "requests[2].environment",
        ]
    );
    let beyond = json!({"key": key, "environment": "sod", "min_revision": "999999999"});
    let beyond = shop.app.as_root().call("VerifyKey", beyond).await.unwrap_err();
    assert_eq!(told(&beyond), "Unavailable REVISION_AHEAD");
}

#[tokio::test]
async fn many_keys_are_verified_by_one_call_each_for_itself() {
    let shop = Shop::open().await;
    let keys = join_all((0..50).map(|_| shop.key(json!({})))).await;
    let revoke = json!({"external_key_id": keys[7].0, "reason": "lost"});
    shop.admin.call("RevokeExternalKey", revoke).await.unwrap();
    let mut requests = keys
        .iter()
        .map(|(_, key)| json!({"key": key, "environment": "production"}))
        .collect::<Vec<_>>();
    requests.push(json!({"key": "nonsense", "environment": "production"}));

    let answer =
        shop.app.as_root().call("BatchVerifyKeys", json!({"requests": requests})).await.unwrap();

    let codes = answer["responses"].as_array().unwrap();
    assert_eq!(codes.len(), 51);
    for (place, one) in codes.iter().enumerate() {
        let expected = match place {
            7 => "VERIFY_CODE_REVOKED",
            50 => "VERIFY_CODE_NOT_FOUND",
            _ => "VERIFY_CODE_VALID",
        };
        assert_eq!(one["code"], expected, "{place}");
    }
    let none =
        shop.app.as_root().call("BatchVerifyKeys", json!({"requests": []})).await.unwrap_err();
    let many = vec![json!({"key": "x", "environment": "sod"}); 101];
    let many =
        shop.app.as_root().call("BatchVerifyKeys", json!({"requests": many})).await.unwrap_err();
    for refusal in [none, many] {
        assert_eq!(told(&refusal), "InvalidArgument INVALID_FIELD");
        assert_eq!(fields(&refusal), ["requests"]);
    }
}

/// A node that hears of nothing reads for each call, and what it read for a batch is not old when it answers.
#[tokio::test]
async fn a_key_that_is_revoked_while_a_batch_waits_is_not_told_as_valid() {
    let shop = Shop::open().await;
    let (_, limited) = shop.key(json!({"credits": {"amount": "7"}})).await;
    let (id, free) = shop.key(json!({})).await;
    let node = shop.app.node(None, |_| {}).await;
    node.deafen();
    node.shared.keys.lose();
    let mut holder = shop.app.superuser().await;
    holder.batch_execute("begin; select from key_credits for update").await.unwrap();
    let requests = [&free, &limited].map(|key| json!({"key": key, "environment": "production"}));
    let root = node.as_root();
    let batch = tokio::spawn(async move {
        root.call("BatchVerifyKeys", json!({"requests": requests})).await.unwrap()
    });
    let waiting = "select count(*) as number from pg_stat_activity \
                   where datname = current_database() and wait_event_type = 'Lock'";
    until("a wait for the use", async || count(&shop.app, waiting).await > 0).await;

    let revoke = json!({"external_key_id": id, "reason": "stolen"});
    shop.admin.call("RevokeExternalKey", revoke).await.unwrap();
    holder.batch_execute("rollback").await.unwrap();

    let answer = batch.await.unwrap();
    assert_eq!(answer["responses"][0]["code"], "VERIFY_CODE_REVOKED");
    assert_eq!(answer["responses"][1]["code"], "VERIFY_CODE_VALID");
}

/// Both secrets are good for a while, then one; a revocation ends both at once.
#[tokio::test]
async fn a_rotated_key_verifies_with_both_secrets_until_the_overlap_ends() {
    let shop = Shop::open().await;
    let (id, old) = shop.key(json!({})).await;

    let rotated = json!({"external_key_id": id, "overlap": "3600s"});
    let rotated = shop.admin.call("RotateExternalKey", rotated).await.unwrap();
    let new = rotated["secret"].as_str().unwrap();

    for key in [&*old, new] {
        let told = shop.ask(key, json!({})).await;
        assert_eq!((&told["valid"], &told["credential_id"]), (&json!(true), &json!(id)));
    }
    shop.app.shared.clock.advance(chrono::TimeDelta::hours(2));
    assert_eq!(shop.code(&old, json!({})).await, "NOT_FOUND");
    assert_eq!(shop.code(new, json!({})).await, "VALID");
    let again = json!({"external_key_id": id, "overlap": "3600s"});
    let newest = shop.admin.call("RotateExternalKey", again).await.unwrap();
    let newest = newest["secret"].as_str().unwrap();
    shop.admin
        .call("RevokeExternalKey", json!({"external_key_id": id, "reason": "lost"}))
        .await
        .unwrap();
    for key in [new, newest] {
        assert_eq!(shop.code(key, json!({})).await, "REVOKED");
    }
}

/// Keys of another product go on working here, found by the hash of their text.
#[tokio::test]
async fn an_imported_key_verifies_by_its_old_text() {
    let shop = Shop::open().await;
    let text = "0b1f8e7c-legacy-key-of-another-product";
    assert_eq!(shop.code(text, json!({})).await, "NOT_FOUND");
    let sha256 = Sha256::digest(text);
    let imported = pb::ImportKeysRequest {
        keys: vec![pb::ImportedKey {
            sha256: sha256.to_vec(),
            external_key: Some(pb::ExternalKey {
                app_key_id: shop.app_key_id.clone(),
                label: "old".into(),
                environment: "production".into(),
                ..Default::default()
            }),
        }],
        ..Default::default()
    };
    let stream = tokio_stream::iter([imported]);
    let mut answers = shop.admin.keys().import_keys(stream).await.unwrap().into_inner();
    let mut id = String::new();
    while let Some(answer) = answers.message().await.unwrap() {
        id = answer.external_key_ids.first().cloned().unwrap_or(id);
    }

    let told = shop.ask(text, json!({"service_name": "billing"})).await;

    assert_eq!((&told["valid"], &told["credential_id"]), (&json!(true), &json!(id)), "{told}");
    let rotated = json!({"external_key_id": id, "overlap": "3600s"});
    let rotated = shop.admin.call("RotateExternalKey", rotated).await.unwrap();
    assert_eq!(shop.code(text, json!({})).await, "VALID", "while the overlap lasts");
    assert_eq!(shop.code(rotated["secret"].as_str().unwrap(), json!({})).await, "VALID");
    shop.admin
        .call("RevokeExternalKey", json!({"external_key_id": id, "reason": "lost"}))
        .await
        .unwrap();
    assert_eq!(shop.code(text, json!({})).await, "REVOKED");
}

/// A limit is exact, says when to come back, and is used by nothing but a VALID answer.
#[tokio::test]
async fn a_key_is_used_as_often_as_its_limits_say() {
    let shop = Shop::open().await;
    let (id, key) = shop.key(json!({"rate_limit": {"requests": "10", "window": "2592000s"}})).await;
    for _ in 0..5 {
        assert_eq!(shop.code(&key, json!({"environment": "stage"})).await, "WRONG_ENVIRONMENT");
    }

    let codes = join_all((0..30).map(|_| shop.code(&key, json!({})))).await;

    assert_eq!(codes.iter().filter(|code| *code == "VALID").count(), 10, "{codes:?}");
    assert!(codes.iter().all(|code| code == "VALID" || code == "RATE_LIMITED"), "{codes:?}");
    let told = shop.ask(&key, json!({"explain": true})).await;
    assert!(told["retry_after"].is_string() && told["cache_ttl"] == "0s", "{told}");
    let (_, counted) = shop.key(json!({"credits": {"amount": "7"}})).await;
    let codes = join_all((0..20).map(|_| shop.code(&counted, json!({})))).await;
    assert_eq!(codes.iter().filter(|code| *code == "VALID").count(), 7, "{codes:?}");
    assert!(codes.iter().all(|code| code == "VALID" || code == "USAGE_EXCEEDED"), "{codes:?}");
    // Setting a limit begins it anew.
    let more = json!({"external_key": {"external_key_id": id,
        "rate_limit": {"requests": "3", "window": "2592000s"}}});
    shop.admin.call("UpdateExternalKey", more).await.unwrap();
    let codes = join_all((0..9).map(|_| shop.code(&key, json!({})))).await;
    assert_eq!(codes.iter().filter(|code| *code == "VALID").count(), 3, "{codes:?}");
}

/// 4-17: environments are worlds of their own.
#[tokio::test]
async fn a_key_that_is_bound_to_an_environment_has_no_say_in_others() {
    let shop = Shop::open().await;
    let bound = json!({"api_key": {"roles": ["tenant-admin"], "environment": "Stage"}});
    let bound = shop.admin.call("CreateApiKey", bound).await.unwrap();
    let bound = shop.app.as_key(bound["secret"].as_str().unwrap());
    let (id, _) = shop.key(json!({})).await;
    let (other, _) = shop.key(json!({"environment": "stage"})).await;
    let installations = shop.admin.call("ListInstallations", json!({})).await.unwrap();
    let installation = &installations["installations"][0]["installation_id"];
    let app_key = &shop.app_key_id;
    let new = |environment: &str| json!({"external_key": {"app_key_id": app_key, "label": "x", "environment": environment}});
    let config = |environment: &str| json!({"key_config": {"app_key_id": app_key, "environment": environment, "config": {}}});
    let any = shop.admin.call("CreateApiKey", json!({"api_key": {"roles": ["auditor"]}})).await;
    let any = any.unwrap()["api_key"]["api_key_id"].clone();

    for (method, request) in [
        ("CreateExternalKey", new("production")),
        ("UpdateExternalKey", json!({"external_key": {"external_key_id": id, "label": "y"}})),
        (
            "UpdateExternalKey",
            json!({"external_key":
            {"external_key_id": other, "environment": "production"}}),
        ),
        ("RotateExternalKey", json!({"external_key_id": id})),
        ("RevokeExternalKey", json!({"external_key_id": id, "reason": "x"})),
        ("GetKeyConfig", json!({"app_key_id": app_key, "environment": "production"})),
        ("UpdateKeyConfig", config("production")),
        ("DeleteAppKey", json!({"app_key_id": app_key})),
        (
            "UpdateInstallation",
            json!({"installation": {"installation_id": installation, "ttl_hours": 6}}),
        ),
        ("DeleteInstallation", json!({"installation_id": installation})),
        ("UpdateOAuthClient", json!({"oauth_client": {"disabled": true}})),
        ("RotateOAuthClientSecret", json!({})),
        ("RevokeApiKey", json!({"api_key_id": any, "reason": "x"})),
    ] {
        let refusal = bound.call(method, request).await.unwrap_err();
        assert_eq!(told(&refusal), "PermissionDenied PERMISSION_MISSING", "{method}");
        assert!(refusal.message().contains("stage"), "{}", refusal.message());
    }
    let verifier = json!({"api_key": {"roles": ["key-verifier"], "environment": "stage"}});
    let verifier = shop.app.as_root().call("CreateApiKey", verifier).await.unwrap();
    let verifier = shop.app.as_key(verifier["secret"].as_str().unwrap());
    let asked = |environment: &str| json!({"key": "nonsense", "environment": environment});
    let batch = json!({"requests": [asked("stage"), asked("production")]});
    for refusal in [
        verifier.call("VerifyKey", asked("production")).await.unwrap_err(),
        verifier.call("BatchVerifyKeys", batch).await.unwrap_err(),
    ] {
        assert_eq!(told(&refusal), "PermissionDenied PERMISSION_MISSING");
    }
    verifier.call("VerifyKey", asked("Stage")).await.unwrap();
    bound.call("CreateExternalKey", new("stage")).await.unwrap();
    bound.call("UpdateKeyConfig", config("stage")).await.unwrap();
    bound.call("RotateExternalKey", json!({"external_key_id": other})).await.unwrap();
}

/// 4-15: what a key that ends gives away, or wakes, ends no later than it does.
#[tokio::test]
async fn a_key_that_ends_neither_issues_nor_enables_what_lasts_longer() {
    let shop = Shop::open().await;
    let (id, _) = shop.key(json!({"enabled": false})).await;
    let end = "2199-01-01T00:00:00Z";
    let ends = json!({"api_key": {"roles": ["tenant-admin"], "expire_time": end}});
    let ends = shop.admin.call("CreateApiKey", ends).await.unwrap();
    let ends = shop.app.as_key(ends["secret"].as_str().unwrap());
    let new = |end: Value| {
        json!({"external_key": {"app_key_id": shop.app_key_id, "label": "x",
        "environment": "production", "expire_time": end}})
    };
    let change = |change: Value| {
        let mut key = change;
        key["external_key_id"] = id.clone().into();
        json!({"external_key": key})
    };

    for (method, request) in [
        ("CreateExternalKey", new(Value::Null)),
        ("CreateExternalKey", new(json!("2199-01-02T00:00:00Z"))),
        ("UpdateExternalKey", change(json!({"enabled": true}))),
        ("UpdateExternalKey", change(json!({"expire_time": "2199-01-02T00:00:00Z"}))),
        ("RotateExternalKey", json!({"external_key_id": id})),
        ("UpdateOAuthClient", json!({"oauth_client": {"secret": "new"}})),
        ("RotateOAuthClientSecret", json!({})),
    ] {
        let refusal = ends.call(method, request.clone()).await.unwrap_err();
        assert_eq!(told(&refusal), "PermissionDenied PERMISSION_MISSING", "{method} {request}");
    }
    ends.call("CreateExternalKey", new(json!(end))).await.unwrap();
    ends.call("UpdateExternalKey", change(json!({"label": "y"}))).await.unwrap();
    let both = change(json!({"enabled": true, "expire_time": end}));
    ends.call("UpdateExternalKey", both).await.unwrap();
}

/// 3-22: whoever only tells whether keys are good goes on under a lock that lets one read.
#[tokio::test]
async fn a_tenants_own_verifier_goes_on_under_a_lock_that_lets_one_read() {
    let shop = Shop::open().await;
    let (_, key) = shop.key(json!({})).await;
    let verifier = shop.app.as_key(&shop.admin.create_key(&["key-verifier"]).await);
    let lock = json!({"tenant_id": "shop", "mode": "LOCK_MODE_READ_ONLY", "reason": "unpaid"});
    shop.app.as_root().call("LockTenant", lock).await.unwrap();

    let asked = json!({"key": key, "environment": "PRODUCTION"});
    let answer = verifier.call("VerifyKey", asked).await.unwrap();

    assert_eq!((&answer["valid"], &answer["read_only"]), (&json!(true), &json!(true)), "{answer}");
}

#[derive(diesel::QueryableByName)]
struct Statement {
    #[diesel(sql_type = Text)]
    query: String,
    #[diesel(sql_type = BigInt)]
    calls: i64,
}

/// What was asked of the test's own database since it was looked last, by anybody but the feed and this test:
/// as Postgres counts it.
async fn statements(app: &App) -> Vec<Statement> {
    let mut conn = app.superuser().await;
    // A statement is counted when it ends, which is after its rows were sent and before its connection is idle.
    let busy =
        "do $$ begin while exists (select from pg_stat_activity where datname = current_database()
            and pid <> pg_backend_pid() and usename = 'tenantry' and state = 'active'
            and query like '%with asked as%') loop
            perform pg_stat_clear_snapshot(), pg_sleep(0.005); end loop; end $$";
    conn.batch_execute(busy).await.unwrap();
    let query = "select query, calls from pg_stat_statements
        where dbid = (select oid from pg_database where datname = current_database())
            and userid not in (select oid from pg_roles where rolname in ('tenantry_feed', 'tenantry_root'))
            and query not like '%tenantry_feed%'";
    diesel_async::RunQueryDsl::load(diesel::sql_query(query), &mut conn).await.unwrap()
}

pub async fn counted<T>(app: &App, act: impl Future<Output = T>) -> (T, i64) {
    let reset = "select pg_stat_statements_reset(0,
        (select oid from pg_database where datname = current_database()), 0)";
    let mut conn = app.superuser().await;
    conn.batch_execute(reset).await.unwrap();
    let done = act.await;
    // What the feed's connection does before and after it takes on its role is the feed's too. A connection that is
    // new is prepared once.
    let all = statements(app).await;
    let own = |statement: &&Statement| {
        let text = statement.query.to_lowercase();
        !["begin", "commit", "rollback"].contains(&&*text) && !text.starts_with("set ")
    };
    for statement in all.iter().filter(own) {
        println!("{} x {}", statement.calls, statement.query.lines().next().unwrap_or_default());
    }
    (done, all.iter().filter(own).map(|statement| statement.calls).sum())
}

/// None where the key is known, none for what was never a key, one for a key that is not known, and one for a
/// thousand who ask for it at the same time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_verification_costs_the_database_nothing_or_one_statement() {
    let shop = Shop::open().await;
    let mut conn = shop.app.superuser().await;
    conn.batch_execute("create extension if not exists pg_stat_statements").await.unwrap();
    let mut keys = Vec::new();
    for _ in 0..4 {
        keys.push(shop.key(json!({})).await.1);
    }
    // The verifier's own key, and a key before: the statement is prepared on both connections.
    join_all((0..2).map(|_| shop.code(&keys[0], json!({})))).await;
    assert_eq!(shop.code(&keys[1], json!({})).await, "VALID");

    let ((), warm) = counted(&shop.app, async {
        for _ in 0..100 {
            assert_eq!(shop.code(&keys[0], json!({})).await, "VALID");
        }
    })
    .await;
    let (_, cold) = counted(&shop.app, shop.code(&keys[2], json!({}))).await;
    let (codes, crowd) =
        counted(&shop.app, join_all((0..1000).map(|_| shop.code(&keys[3], json!({}))))).await;
    let ((), forged) = counted(&shop.app, async {
        let key = &keys[0];
        for place in 5..key.len() {
            let mut guess = key.clone().into_bytes();
            guess[place] = if guess[place] == b'A' { b'B' } else { b'A' };
            let guess = String::from_utf8(guess).unwrap();
            let code = shop.code(&guess, json!({})).await;
            assert_eq!(code, "NOT_FOUND", "{place}");
        }
    })
    .await;

    assert!(codes.iter().all(|code| code == "VALID"));
    assert_eq!((warm, cold, crowd, forged), (0, 1, 1, 0));
}

/// That there is no such key is true of a state of the database, as everything else that is answered.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_that_is_not_there_is_missed_at_min_revision_or_later() {
    let shop = Shop::open().await;
    let (_, key) = shop.key(json!({})).await;
    shop.admin.call("DeleteAppKey", json!({"app_key_id": shop.app_key_id})).await.unwrap();
    let made = shop.admin.call("CreateApiKey", json!({"api_key": {"roles": ["auditor"]}}));
    let made = made.await.unwrap();
    let revoke = json!({"api_key_id": made["api_key"]["api_key_id"], "reason": "test"});
    let revoked = shop.admin.call("RevokeApiKey", revoke).await.unwrap();
    let reached = revoked["revision"].as_str().unwrap();
    let beyond = (reached.parse::<u64>().unwrap() + 1_000_000).to_string();
    let ask = async |min_revision: &str| {
        let request = pb::VerifyKeyRequest {
            key: key.clone(),
            environment: "production".into(),
            min_revision: min_revision.into(),
            ..Default::default()
        };
        shop.admin.keys().verify_key(request).await
    };

    let missed = ask(reached).await.unwrap().into_inner();
    let early = ask(&beyond).await.unwrap_err();

    assert_eq!(missed.code(), pb::VerifyCode::NotFound);
    assert!(missed.revision.contains(':'), "the state that it is missing in: {missed:?}");
    assert_eq!(early.code(), tonic::Code::Unavailable, "{early:?}");
}

/// A key that is not there any more is asked for once, not each time that somebody tries it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_that_is_gone_is_asked_for_once_in_a_while() {
    let shop = Shop::open().await;
    let mut conn = shop.app.superuser().await;
    conn.batch_execute("create extension if not exists pg_stat_statements").await.unwrap();
    let (_, key) = shop.key(json!({})).await;
    shop.admin.call("DeleteAppKey", json!({"app_key_id": shop.app_key_id})).await.unwrap();
    // Until the feed has told of that, nothing is kept that was read. What is confirmed later comes after it.
    let other = json!({"api_key": {"roles": ["auditor"]}});
    let other = shop.admin.call("CreateApiKey", other).await.unwrap();
    let id = &other["api_key"]["api_key_id"];
    let revoke = json!({"api_key_id": id, "reason": "test", "wait": true});
    assert_eq!(shop.admin.call("RevokeApiKey", revoke).await.unwrap()["confirmed"], true);

    let (codes, asked) =
        counted(&shop.app, join_all((0..200).map(|_| shop.code(&key, json!({}))))).await;

    assert!(codes.iter().all(|code| code == "NOT_FOUND"));
    assert_eq!(asked, 1);
}

/// 1-24, 4-15: of a deleted tenant nothing is made, changed or taken away but the right of keys, so that it comes
/// back as it was.
#[tokio::test]
async fn nothing_but_revocation_happens_to_the_keys_of_a_deleted_tenant() {
    let shop = Shop::open().await;
    let (admin, app_key) = (&shop.admin, &shop.app_key_id);
    let (id, key) = shop.key(json!({})).await;
    let made = json!({"api_key": {"roles": ["tenant-admin"]}});
    let made = admin.call("CreateApiKey", made).await.unwrap();
    let own_key = &made["api_key"]["api_key_id"];
    let installations = admin.call("ListInstallations", json!({})).await.unwrap();
    let installation = &installations["installations"][0]["installation_id"];
    shop.app.as_root().call("DeleteTenant", json!({"tenant_id": "shop"})).await.unwrap();

    for (method, request) in [
        (
            "CreateInstallation",
            json!({"installation":
            {"product_code": "PHONE", "package_code": "BASIC", "ttl_hours": 24}}),
        ),
        (
            "UpdateInstallation",
            json!({"installation": {"installation_id": installation, "ttl_hours": 6}}),
        ),
        ("DeleteInstallation", json!({"installation_id": installation})),
        ("CreateAppKey", json!({"installation_id": installation})),
        ("DeleteAppKey", json!({"app_key_id": app_key})),
        (
            "UpdateKeyConfig",
            json!({"key_config":
            {"app_key_id": app_key, "environment": "sod", "config": {}}}),
        ),
        (
            "CreateExternalKey",
            json!({"external_key":
            {"app_key_id": app_key, "label": "x", "environment": "sod"}}),
        ),
        ("UpdateExternalKey", json!({"external_key": {"external_key_id": id, "label": "x"}})),
        ("RotateExternalKey", json!({"external_key_id": id})),
        ("CreateApiKey", json!({"api_key": {"roles": ["tenant-admin"]}})),
        ("UpdateApiKey", json!({"api_key": {"api_key_id": own_key, "name": "x"}})),
        ("RotateApiKey", json!({"api_key_id": own_key})),
        ("UpdateOAuthClient", json!({"oauth_client": {"disabled": true}})),
        ("RotateOAuthClientSecret", json!({})),
    ] {
        let refusal = admin.call(method, request).await.unwrap_err();
        assert_eq!(told(&refusal), "FailedPrecondition TENANT_NOT_ACTIVE", "{method}");
    }
    let revoke = json!({"api_key_id": own_key, "reason": "stolen"});
    admin.call("RevokeApiKey", revoke).await.unwrap();
    shop.app.as_root().call("UndeleteTenant", json!({"tenant_id": "shop"})).await.unwrap();
    assert_eq!(shop.code(&key, json!({})).await, "VALID");
}
