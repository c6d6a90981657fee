//! The keys that clients of an installation send: made, listed, changed, rotated and revoked.

use chrono::TimeDelta;
use futures_util::future::join_all;
use serde_json::{Value, json};
use tenantry::pb;
use tonic::Status;

use crate::app::{App, Caller, count, fields, product, rows, tenant, told};

/// A Tenantry with the tenants `foo` and `bar`, and for each who acts on it and an app key of it.
async fn start() -> (App, (Caller, String), (Caller, String)) {
    let app = App::start().await;
    app.as_root().call("CreateProduct", product()).await.unwrap();
    let first = with_app_key(&app, "foo", "FOOFOO").await;
    let second = with_app_key(&app, "bar", "BARBAR").await;
    (app, first, second)
}

async fn with_app_key(app: &App, id: &str, code: &str) -> (Caller, String) {
    let root = app.as_root();
    let tenant = pb::Tenant { code: Some(code.into()), ..tenant(id) };
    root.create(tenant).await.unwrap();
    let caller = root.with("x-tenant-id", id);
    let app_key = app_key(&caller).await;
    (caller, app_key)
}

async fn app_key(caller: &Caller) -> String {
    let installation = json!({"product_code": "PHONE", "package_code": "BASIC", "ttl_hours": 24});
    let made = caller.call("CreateInstallation", json!({"installation": installation}));
    let made = made.await.unwrap();
    let request = json!({"installation_id": made["installation"]["installation_id"]});
    text(&caller.call("CreateAppKey", request).await.unwrap()["app_key"]["app_key_id"])
}

fn text(value: &Value) -> String {
    value.as_str().unwrap().to_owned()
}

fn web(app_key: &str) -> Value {
    json!({"app_key_id": app_key, "label": "web", "environment": "production"})
}

/// What is said of a key, with more.
fn with(mut key: Value, more: Value) -> Value {
    let Value::Object(more) = more else { panic!("{more} is no object") };
    key.as_object_mut().unwrap().extend(more);
    key
}

async fn create(caller: &Caller, key: Value) -> Result<Value, Status> {
    caller.call("CreateExternalKey", json!({"external_key": key})).await
}

async fn made(caller: &Caller, key: Value) -> Value {
    create(caller, key).await.unwrap()["external_key"].take()
}

async fn get(caller: &Caller, key: &Value) -> Result<Value, Status> {
    let request = json!({"external_key_id": key["external_key_id"]});
    Ok(caller.call("GetExternalKey", request).await?["external_key"].take())
}

/// Changes a key: what is present, or what the mask names.
async fn update(caller: &Caller, key: &Value, change: Value, mask: &str) -> Result<Value, Status> {
    let change = with(json!({"external_key_id": key["external_key_id"]}), change);
    let request = json!({"external_key": change, "update_mask": mask});
    Ok(caller.call("UpdateExternalKey", request).await?["external_key"].take())
}

/// The labels of the keys that a filter lists, in order.
async fn labels(caller: &Caller, filter: &str, order_by: &str) -> Vec<String> {
    let request = json!({"filter": filter, "order_by": order_by});
    let answer = caller.call("ListExternalKeys", request).await.unwrap();
    let keys = answer["external_keys"].as_array().cloned().unwrap_or_default();
    keys.iter().map(|key| text(&key["label"])).collect()
}

/// 1-25, 1-29
#[tokio::test]
async fn what_is_said_of_an_external_key_is_given_back() {
    let (app, (on_foo, app_key), (on_bar, _)) = start().await;
    let more = json!({
        "environment": "PRODUCTION",
        "expire_time": "2199-01-01T00:00:00Z",
        "device": {"deny": [{"family": "Chrome", "major": {"max": "12"}, "os": {"family": "Win"}}]},
        "geo": {"allow": ["10.0.0.0/8"], "deny": ["10.1.0.0/16"]},
        "enabled": false,
        "rate_limit": {"requests": "10", "window": "60s"},
        "credits": {"amount": "100", "refill_amount": "5", "refill_interval": "3600s"},
    });

    let answer = create(&on_foo, with(web(&app_key), more.clone())).await.unwrap();
    let plain = made(&on_foo, web(&app_key)).await;

    let key = &answer["external_key"];
    for field in ["expire_time", "device", "geo", "rate_limit"] {
        assert_eq!(key[field], more[field], "{field}");
    }
    assert_eq!(key["credits"], with(more["credits"].clone(), json!({"remaining": "100"})));
    assert_eq!((&key["environment"], &key["enabled"]), (&json!("production"), &json!(false)));
    assert_eq!(key["state"], "EXTERNAL_KEY_STATE_DISABLED");
    assert_eq!((&key["tenant_id"], &key["product_code"]), (&json!("foo"), &json!("PHONE")));
    assert_eq!((&key["package_code"], &key["app_key_id"]), (&json!("BASIC"), &json!(app_key)));
    assert!(text(&answer["secret"]).starts_with("tk_production_"));
    assert_eq!(get(&on_foo, key).await.unwrap(), *key);
    assert_eq!(get(&app.as_root(), key).await.unwrap(), *key, "within reach without a tenant");
    assert_eq!(plain["state"], "EXTERNAL_KEY_STATE_ACTIVE");
    for absent in ["expire_time", "device", "geo", "rate_limit", "credits", "last_used_time"] {
        assert_eq!(plain[absent], Value::Null, "{absent}");
    }
    assert_eq!(plain["enabled"], true);
    let elsewhere = get(&on_bar, key).await.unwrap_err();
    assert_eq!(told(&elsewhere), "NotFound KEY_NOT_FOUND");
}

/// 1-29, 1-30, 1-33, 1-36, 1-37
#[tokio::test]
async fn what_is_wrong_with_an_external_key_is_told_by_its_fields() {
    let (app, (on_foo, app_key), (on_bar, _)) = start().await;
    let before = rows(&app).await;

    for (more, field) in [
        (json!({"app_key_id": "x"}), "app_key_id"),
        (json!({"label": " "}), "label"),
        (json!({"environment": ""}), "environment"),
        (json!({"expire_time": "2020-01-01T00:00:00Z"}), "expire_time"),
        (json!({"exp_date": "2020-01-01"}), "exp_date"),
        (json!({"exp_date": "2199-01-01", "expire_time": "2199-01-01T00:00:00Z"}), "exp_date"),
        (json!({"geo": {"deny": ["x"]}}), "geo.deny[0]"),
        (
            json!({"device": {"allow": [{"major": {"equals": "x"}}]}}),
            "device.allow[0].major.equals",
        ),
        (json!({"rate_limit": {"requests": 0, "window": "1s"}}), "rate_limit.requests"),
        (json!({"credits": {"amount": -1}}), "credits.amount"),
    ] {
        let refused = create(&on_foo, with(web(&app_key), more)).await.unwrap_err();
        assert_eq!(fields(&refused), [format!("external_key.{field}")]);
    }
    let nowhere = with(web(&app_key), json!({"environment": "none"}));
    let nowhere = create(&on_foo, nowhere).await.unwrap_err();
    let elsewhere = create(&on_bar, web(&app_key)).await.unwrap_err();

    assert_eq!(told(&nowhere), "NotFound ENVIRONMENT_NOT_FOUND");
    assert_eq!(told(&elsewhere), "NotFound KEY_NOT_FOUND");
    assert_eq!(rows(&app).await, before);
}

/// 1-30: the given day is the last one.
#[tokio::test]
async fn an_external_key_is_good_until_the_end_of_its_last_day() {
    let (app, (on_foo, app_key), _) = start().await;
    let today = app.shared.clock.now().date_naive();
    let key = made(&on_foo, with(web(&app_key), json!({"exp_date": today.to_string()}))).await;

    let still = get(&on_foo, &key).await.unwrap();
    app.shared.clock.advance(TimeDelta::days(1));
    let over = get(&on_foo, &key).await.unwrap();

    let tomorrow = today.succ_opt().unwrap();
    assert_eq!(key["expire_time"], format!("{tomorrow}T00:00:00Z"));
    assert_eq!(still["state"], "EXTERNAL_KEY_STATE_ACTIVE");
    assert_eq!(over["state"], "EXTERNAL_KEY_STATE_EXPIRED");
}

/// 1-31: what is left out stays, the end of the key above all.
#[tokio::test]
async fn an_update_changes_what_its_mask_names_and_nothing_else() {
    let (_app, (on_foo, app_key), _) = start().await;
    let more = json!({"exp_date": "2198-12-31", "geo": {"allow": ["10.0.0.0/8"]},
        "rate_limit": {"requests": "10", "window": "60s"}});
    let key = made(&on_foo, with(web(&app_key), more)).await;

    let renamed = update(&on_foo, &key, json!({"label": "kiosk"}), "").await.unwrap();
    let ignored = json!({"label": "desk", "expire_time": "2190-01-01T00:00:00Z"});
    let named = update(&on_foo, &key, ignored, "label").await.unwrap();
    let moved = update(&on_foo, &key, json!({"environment": "STAGE"}), "").await.unwrap();
    let sooner = update(&on_foo, &key, json!({"exp_date": "2150-01-31"}), "").await.unwrap();
    let endless = update(&on_foo, &key, json!({}), "expireTime,geo").await.unwrap();
    let disabled = update(&on_foo, &key, json!({"enabled": false}), "").await.unwrap();
    let same = update(&on_foo, &key, json!({"enabled": false}), "enabled").await.unwrap();

    assert_eq!(renamed["label"], "kiosk");
    for field in ["expire_time", "geo", "rate_limit", "environment", "enabled"] {
        assert_eq!(renamed[field], key[field], "{field} was left out");
    }
    assert_eq!((&named["label"], &named["expire_time"]), (&json!("desk"), &key["expire_time"]));
    assert_eq!(moved["environment"], "stage");
    assert_eq!(sooner["expire_time"], "2150-02-01T00:00:00Z");
    assert_eq!((&endless["expire_time"], &endless["geo"]), (&Value::Null, &Value::Null));
    assert_eq!(endless["rate_limit"], key["rate_limit"]);
    assert_eq!(disabled["state"], "EXTERNAL_KEY_STATE_DISABLED");
    assert_eq!((&disabled["etag"], &same["etag"]), (&json!("7"), &json!("7")));
    assert_eq!(get(&on_foo, &key).await.unwrap(), same);
}

/// 1-31, 1-33
#[tokio::test]
async fn an_update_that_is_wrong_is_refused_as_a_whole() {
    let (app, (on_foo, app_key), (on_bar, _)) = start().await;
    let key = made(&on_foo, web(&app_key)).await;
    let refused =
        async |change: Value, mask: &str| update(&on_foo, &key, change, mask).await.unwrap_err();

    for (change, mask, named) in [
        (json!({}), "label", "label"),
        (json!({}), "environment", "environment"),
        (json!({"exp_date": "2020-01-01"}), "", "exp_date"),
        (json!({"exp_date": "2199-01-01", "expire_time": "2199-01-01T00:00:00Z"}), "", "exp_date"),
        (json!({"geo": {"allow": ["x"]}, "label": "new"}), "", "geo.allow[0]"),
    ] {
        let refusal = refused(change, mask).await;
        assert_eq!(fields(&refusal), [format!("external_key.{named}")]);
    }
    for (change, mask) in [
        (json!({}), "secret"),
        (json!({"app_key_id": app_key}), "appKeyId"),
        (json!({"app_key_id": "0".repeat(32)}), ""),
    ] {
        assert_eq!(told(&refused(change, mask).await), "InvalidArgument IMMUTABLE_FIELD");
    }
    let nowhere = refused(json!({"environment": "none", "label": "new"}), "").await;
    let elsewhere = update(&on_bar, &key, json!({"label": "new"}), "").await.unwrap_err();
    let stale = json!({"external_key": {"external_key_id": key["external_key_id"], "label": "new"},
        "etag": "2"});
    let stale = on_foo.call("UpdateExternalKey", stale).await.unwrap_err();

    assert_eq!(told(&nowhere), "NotFound ENVIRONMENT_NOT_FOUND");
    assert_eq!(told(&elsewhere), "NotFound KEY_NOT_FOUND");
    assert_eq!(told(&stale), "Aborted ETAG_MISMATCH");
    assert_eq!(get(&on_foo, &key).await.unwrap(), key);
    let told = "select count(*) as number from events where type = 'external_key.updated'";
    assert_eq!(count(&app, told).await, 0);
}

#[tokio::test]
async fn setting_limits_begins_them_anew() {
    let (app, (on_foo, app_key), _) = start().await;
    let limits = json!({"rate_limit": {"requests": "10", "window": "60s"},
        "credits": {"amount": "100"}});
    let key = made(&on_foo, with(web(&app_key), limits)).await;
    let use_up = async || {
        let mut conn = app.superuser().await;
        let query = diesel::sql_query("update key_credits set remaining = 7, granted = 3");
        diesel_async::RunQueryDsl::execute(query, &mut conn).await.unwrap();
    };
    let stored = async |what: &str| {
        let query = format!(
            "select count(*) as number from external_keys k \
            left join key_credits c using (route, number) where {what}"
        );
        count(&app, &query).await == 1
    };

    use_up().await;
    let used = get(&on_foo, &key).await.unwrap();
    let renamed = update(&on_foo, &key, json!({"label": "desk"}), "").await.unwrap();
    assert!(stored("c.remaining = 7 and c.limits_version = 1 and k.limits_version = 1").await);
    let faster = json!({"rate_limit": {"requests": "20", "window": "60s"}});
    let faster = update(&on_foo, &key, faster, "").await.unwrap();
    assert!(
        stored(
            "c.remaining = 100 and c.granted = 0 and c.limits_version = 2 \
        and k.limits_version = 2 and k.rate_requests = 20"
        )
        .await
    );
    let free = update(&on_foo, &key, json!({}), "rateLimit,credits").await.unwrap();

    assert_eq!(used["credits"]["remaining"], "7");
    assert_eq!(renamed["credits"]["remaining"], "7", "only what sets limits begins them anew");
    assert_eq!(faster["credits"]["remaining"], "100");
    assert_eq!((&free["rate_limit"], &free["credits"]), (&Value::Null, &Value::Null));
    assert!(stored("c.remaining is null and k.limits_version = 3").await);
}

#[tokio::test]
async fn a_rotated_key_has_a_new_secret_and_its_old_one_for_a_while() {
    let (app, (on_foo, app_key), (on_bar, _)) = start().await;
    let first = create(&on_foo, web(&app_key)).await.unwrap();
    let id = &first["external_key"]["external_key_id"];
    let digests = "select count(distinct d)::bigint as number from external_keys, \
                   lateral (values (digest), (old_digest)) as v (d)";

    let rotated = on_foo.call("RotateExternalKey", json!({"external_key_id": id})).await.unwrap();
    assert_eq!(count(&app, digests).await, 2);
    let now = app.shared.clock.now();
    let at_once = json!({"external_key_id": id, "overlap": "0s"});
    let at_once = on_foo.call("RotateExternalKey", at_once).await.unwrap();
    assert_eq!(count(&app, digests).await, 1);
    let long = json!({"external_key_id": id, "overlap": "2592000s"});
    let long = on_foo.call("RotateExternalKey", long).await.unwrap();

    let key = &rotated["key"];
    assert_eq!(key["external_key_id"], *id);
    assert_eq!(key["state"], "EXTERNAL_KEY_STATE_ROTATING");
    let end = text(&key["overlap_end_time"]).parse::<chrono::DateTime<chrono::Utc>>().unwrap();
    assert!((end - now - TimeDelta::days(1)).abs() < TimeDelta::minutes(1), "{end}");
    assert!(text(&rotated["secret"]).starts_with("tk_production_"));
    assert_ne!(rotated["secret"], first["secret"]);
    assert!(!text(&rotated["revision"]).is_empty());
    assert_eq!(at_once["key"]["state"], "EXTERNAL_KEY_STATE_ACTIVE");
    assert_eq!(at_once["key"]["overlap_end_time"], Value::Null);
    assert_eq!(long["key"]["state"], "EXTERNAL_KEY_STATE_ROTATING");
    app.shared.clock.advance(TimeDelta::days(30));
    let over = get(&on_foo, &first["external_key"]).await.unwrap();
    assert_eq!(over["state"], "EXTERNAL_KEY_STATE_ACTIVE");
    for overlap in ["-1s", "2592001s"] {
        let wrong = json!({"external_key_id": id, "overlap": overlap});
        let wrong = on_foo.call("RotateExternalKey", wrong).await.unwrap_err();
        assert_eq!(fields(&wrong), ["overlap"]);
    }
    let elsewhere = on_bar.call("RotateExternalKey", json!({"external_key_id": id})).await;
    assert_eq!(told(&elsewhere.unwrap_err()), "NotFound KEY_NOT_FOUND");
    let stale = json!({"external_key_id": id, "etag": "1"});
    let stale = on_foo.call("RotateExternalKey", stale).await.unwrap_err();
    assert_eq!(told(&stale), "Aborted ETAG_MISMATCH");
}

#[tokio::test]
async fn an_external_key_is_revoked_once_and_for_good() {
    let (app, (on_foo, app_key), (on_bar, _)) = start().await;
    let key = made(&on_foo, web(&app_key)).await;
    let id = &key["external_key_id"];
    on_foo.call("RotateExternalKey", json!({"external_key_id": id})).await.unwrap();
    let revoke = json!({"external_key_id": id, "reason": "lost"});

    let elsewhere = on_bar.call("RevokeExternalKey", revoke.clone()).await.unwrap_err();
    let unsaid = on_foo.call("RevokeExternalKey", json!({"external_key_id": id})).await;
    let revoked = on_foo.call("RevokeExternalKey", revoke).await.unwrap();
    let again = json!({"external_key_id": id, "reason": "twice"});
    let again = on_foo.call("RevokeExternalKey", again).await.unwrap();
    let rotated = on_foo.call("RotateExternalKey", json!({"external_key_id": id})).await;
    let updated = update(&on_foo, &key, json!({"label": "desk"}), "").await;

    assert_eq!(told(&elsewhere), "NotFound KEY_NOT_FOUND");
    assert_eq!(fields(&unsaid.unwrap_err()), ["reason"]);
    assert_eq!(revoked["key"]["state"], "EXTERNAL_KEY_STATE_REVOKED");
    assert_eq!(revoked["key"]["revoke_reason"], "lost");
    assert!(text(&revoked["key"]["revoked_by"]).starts_with("api_key:"));
    assert!(!text(&revoked["revision"]).is_empty());
    assert_eq!(again["key"], revoked["key"]);
    for refused in [rotated, updated] {
        assert_eq!(told(&refused.unwrap_err()), "FailedPrecondition INVALID_STATE_TRANSITION");
    }
    let told = "select count(*) as number from events where type = 'external_key.revoked'";
    assert_eq!(count(&app, told).await, 1);
}

/// 1-41: of a product in an environment for many tenants.
#[tokio::test]
async fn external_keys_of_many_tenants_are_listed_by_what_they_hang_on() {
    let (app, (on_foo, foo_key), (on_bar, bar_key)) = start().await;
    app.account("acme").await;
    let acme = app.as_root().with("x-account-id", "acme");
    acme.call("CreateProduct", product()).await.unwrap();
    acme.create(tenant("far")).await.unwrap();
    let far = acme.with("x-tenant-id", "far");
    let far_key = app_key(&far).await;
    for (caller, app_key, label, more) in [
        (&on_foo, &foo_key, "foo-web", json!({})),
        (&on_foo, &foo_key, "foo-stage", json!({"environment": "stage"})),
        (&on_foo, &foo_key, "foo-off", json!({"enabled": false})),
        (&on_bar, &bar_key, "bar-web", json!({"expire_time": "2199-01-01T00:00:00Z"})),
        (&on_bar, &bar_key, "bar-old", json!({})),
        (&far, &far_key, "far-web", json!({})),
    ] {
        made(caller, with(with(web(app_key), json!({"label": label})), more)).await;
    }
    let ids = on_bar.call("ListExternalKeys", json!({"filter": "label = bar-old"})).await.unwrap();
    let id = &ids["external_keys"][0]["external_key_id"];
    let revoke = json!({"external_key_id": id, "reason": "old"});
    on_bar.call("RevokeExternalKey", revoke).await.unwrap();
    let ids = on_foo.call("ListExternalKeys", json!({"filter": "label = foo-web"})).await.unwrap();
    let id = &ids["external_keys"][0]["external_key_id"];
    on_foo.call("RotateExternalKey", json!({"external_key_id": id})).await.unwrap();
    {
        let mut conn = app.superuser().await;
        let used = diesel::sql_query(
            "insert into key_usage (route, number, tenant_uid, last_used_time) \
             select route, number, tenant_uid, '2026-11-02' from external_keys where label = 'foo-off'",
        );
        diesel_async::RunQueryDsl::execute(used, &mut conn).await.unwrap();
    }
    let account = app.as_root().with("x-account-id", "default");
    let installation = text(&ids["external_keys"][0]["installation_id"]);

    for (filter, found) in [
        ("product_code = PHONE AND environment = production", "bar-old bar-web foo-off foo-web"),
        ("product_code != PHONE", ""),
        ("package_code = BASIC AND tenant_code = BARBAR", "bar-old bar-web"),
        ("tenant_code = FOO*", "foo-off foo-stage foo-web"),
        ("NOT tenant_id = foo", "bar-old bar-web"),
        (&format!("installation_id = {installation} AND label:\"WEB\""), "foo-web"),
        (&format!("app_key_id = {bar_key}"), "bar-old bar-web"),
        ("state = ACTIVE", "bar-web foo-stage"),
        ("state = ROTATING", "foo-web"),
        ("state = EXTERNAL_KEY_STATE_DISABLED", "foo-off"),
        ("state = EXPIRED", ""),
        ("state != REVOKED", "bar-web foo-off foo-stage foo-web"),
        ("expire_time < 2200-01-01T00:00:00Z", "bar-web"),
        ("NOT expire_time < 2200-01-01T00:00:00Z", "bar-old foo-off foo-stage foo-web"),
        ("last_used_time < 2026-11-03T00:00:00Z", "foo-off"),
        ("NOT last_used_time >= 2026-11-01T00:00:00Z", "bar-old bar-web foo-stage foo-web"),
    ] {
        let found = found.split_whitespace().collect::<Vec<_>>();
        assert_eq!(labels(&account, filter, "label").await, found, "{filter}");
    }
    let used = on_foo.call("ListExternalKeys", json!({"filter": "label = foo-off"})).await.unwrap();
    assert_eq!(used["external_keys"][0]["last_used_time"], "2026-11-02T00:00:00Z");
    assert_eq!(labels(&app.as_root(), "", "").await.len(), 6, "a key of the system sees all");
    assert_eq!(labels(&on_foo, "", "").await, ["foo-web", "foo-stage", "foo-off"]);
    assert_eq!(labels(&on_foo, "tenant_id = bar", "").await, [""; 0]);
    app.shared.clock.advance(TimeDelta::days(70_000));
    assert_eq!(labels(&account, "state = EXPIRED", "").await, ["bar-web"]);
    for wrong in ["secret = x", "state > ACTIVE", "product_code < a"] {
        let refused = on_foo.call("ListExternalKeys", json!({"filter": wrong})).await.unwrap_err();
        assert_eq!(told(&refused), "InvalidArgument INVALID_FILTER", "{wrong}");
    }
}

#[tokio::test]
async fn pages_of_external_keys_make_up_the_whole_list_in_its_order() {
    let (app, (on_foo, foo_key), (on_bar, bar_key)) = start().await;
    for (number, label) in ["c", "a", "b", "a", "d"].into_iter().enumerate() {
        let (caller, app_key) =
            if number % 2 == 0 { (&on_foo, &foo_key) } else { (&on_bar, &bar_key) };
        made(caller, with(web(app_key), json!({"label": label}))).await;
    }
    let root = app.as_root();

    for order in ["", "create_time desc", "label", "label desc"] {
        let whole = labels(&root, "", order).await;
        for size in 1..=3 {
            let (mut paged, mut token) = (Vec::new(), String::new());
            loop {
                let request = json!({"page_size": size, "order_by": order, "page_token": token});
                let answer = root.call("ListExternalKeys", request).await.unwrap();
                let keys = answer["external_keys"].as_array().unwrap();
                paged.extend(keys.iter().map(|key| text(&key["label"])));
                token = answer["next_page_token"].as_str().unwrap_or_default().to_owned();
                if token.is_empty() {
                    break;
                }
            }
            assert_eq!(paged, whole, "{order} {size}");
        }
    }
    let sorted = labels(&root, "", "label").await;
    assert_eq!(sorted, ["a", "a", "b", "c", "d"]);
}

#[tokio::test]
async fn a_caller_of_another_account_finds_nothing() {
    let (app, (on_foo, app_key), _) = start().await;
    let key = made(&on_foo, web(&app_key)).await;
    let id = &key["external_key_id"];
    let acme = app.account("acme").await;
    acme.call("CreateProduct", product()).await.unwrap();
    acme.create(tenant("far")).await.unwrap();
    let on_far = acme.with("x-tenant-id", "far");
    let before = rows(&app).await;

    assert_eq!(told(&get(&acme, &key).await.unwrap_err()), "NotFound KEY_NOT_FOUND");
    assert_eq!(labels(&acme, "", "").await, [""; 0]);
    for (method, request) in [
        ("GetExternalKey", json!({"external_key_id": id})),
        ("CreateExternalKey", json!({"external_key": web(&app_key)})),
        ("UpdateExternalKey", json!({"external_key": {"external_key_id": id, "label": "mine"}})),
        ("RotateExternalKey", json!({"external_key_id": id})),
        ("RevokeExternalKey", json!({"external_key_id": id, "reason": "mine"})),
        ("GetKeyConfig", json!({"app_key_id": app_key, "environment": "stage"})),
        (
            "UpdateKeyConfig",
            json!({"key_config": {
            "app_key_id": app_key, "environment": "stage", "config": {}}}),
        ),
        ("DeleteAppKey", json!({"app_key_id": app_key})),
    ] {
        let refused = on_far.call(method, request.clone()).await.unwrap_err();
        assert_eq!(told(&refused), "NotFound KEY_NOT_FOUND", "{method}");
        let tenant = acme.with("x-tenant-id", "foo").call(method, request).await.unwrap_err();
        assert_eq!(told(&tenant), "NotFound TENANT_NOT_FOUND", "{method}");
    }
    for method in ["GetInstallation", "DeleteInstallation", "CreateAppKey"] {
        let request = json!({"installation_id": key["installation_id"]});
        let refused = on_far.call(method, request).await.unwrap_err();
        assert_eq!(told(&refused), "NotFound APPLICATION_NOT_FOUND", "{method}");
    }
    assert_eq!(rows(&app).await, before);
}

/// 1-26: nobody's change is lost.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_fifty_keys_and_configurations_made_at_once_all_survive() {
    let (app, (on_foo, first), _) = start().await;
    let second = {
        let key = made(&on_foo, web(&first)).await;
        let request = json!({"installation_id": key["installation_id"]});
        text(&on_foo.call("CreateAppKey", request).await.unwrap()["app_key"]["app_key_id"])
    };
    let app_keys = [&first, &second];
    let keys = (0..50).map(|number| {
        let app_key = app_keys[number % 2];
        create(&on_foo, with(web(app_key), json!({"label": format!("key-{number}")})))
    });
    let configs = (0..50).map(|number| {
        let environment = ["sod", "stage", "production"][number % 3];
        let config = json!({"app_key_id": app_keys[number % 2], "environment": environment,
            "config": {"billing": {"of": environment, "to": app_keys[number % 2]}}});
        on_foo.call("UpdateKeyConfig", json!({"key_config": config}))
    });

    let (keys, configs) = tokio::join!(join_all(keys), join_all(configs));

    let secrets = keys
        .into_iter()
        .map(|key| text(&key.unwrap()["secret"]))
        .collect::<std::collections::BTreeSet<_>>();
    assert_eq!(secrets.len(), 50);
    for config in configs {
        config.unwrap();
    }
    assert_eq!(count(&app, "select count(*) as number from external_keys").await, 51);
    let right = "select count(*) as number from tenant_app_key_configs \
        where config = jsonb_build_object('billing', \
            jsonb_build_object('of', environment, 'to', app_key_id))";
    assert_eq!(count(&app, right).await, 6);
    let told = "select count(*) as number from events where type = 'external_key.created'";
    assert_eq!(count(&app, told).await, 51);
}

/// A deletion takes with it what is added at the same time, or what is added finds nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_left_of_keys_that_are_made_while_their_installation_goes() {
    let (app, (on_foo, app_key), _) = start().await;
    let key = made(&on_foo, with(web(&app_key), json!({"credits": {"amount": 1}}))).await;
    let makes =
        (0..20).map(|_| create(&on_foo, with(web(&app_key), json!({"credits": {"amount": 1}}))));
    let changes =
        (0..20).map(|amount| update(&on_foo, &key, json!({"credits": {"amount": amount}}), ""));
    let delete = json!({"installation_id": key["installation_id"]});

    let (makes, changes, deleted) =
        tokio::join!(join_all(makes), join_all(changes), on_foo.call("DeleteInstallation", delete));

    deleted.unwrap();
    for refused in makes.into_iter().chain(changes).filter_map(Result::err) {
        assert_eq!(told(&refused), "NotFound KEY_NOT_FOUND");
    }
    let condition = "where tenant_uid = (select uid from tenants where tenant_id = 'foo')";
    for table in ["tenant_app_keys", "external_keys", "key_credits"] {
        let left = format!("select count(*) as number from {table} {condition}");
        assert_eq!(count(&app, &left).await, 0, "{table}");
    }
}

#[tokio::test]
async fn secrets_of_external_keys_are_told_once_and_stored_nowhere() {
    let (app, (on_foo, app_key), _) = start().await;
    let before = rows(&app).await;
    let once = json!({"external_key": web(&app_key), "request_id": "once"});
    let tried = with(once.clone(), json!({"validate_only": true}));

    let tried = on_foo.call("CreateExternalKey", tried).await.unwrap();
    assert_eq!(rows(&app).await, before);
    let first = on_foo.call("CreateExternalKey", once.clone()).await.unwrap();
    let again = on_foo.call("CreateExternalKey", once.clone()).await.unwrap();
    let after = with(once, json!({"validate_only": true}));
    let after = on_foo.call("CreateExternalKey", after).await.unwrap();
    let id = &first["external_key"]["external_key_id"];
    let rotate = json!({"external_key_id": id, "request_id": "rotate"});
    let only = json!({"external_key_id": id, "validate_only": true});
    let only = on_foo.call("RotateExternalKey", only).await.unwrap();
    let rotated = on_foo.call("RotateExternalKey", rotate.clone()).await.unwrap();
    let repeated = on_foo.call("RotateExternalKey", rotate).await.unwrap();
    let revoke = json!({"external_key_id": id, "reason": "x", "validate_only": true, "wait": true});
    on_foo.call("RevokeExternalKey", revoke).await.unwrap();

    assert_eq!(tried["external_key"]["label"], "web");
    for silent in [&tried, &after, &only] {
        assert_eq!(silent["secret"], Value::Null);
    }
    assert_eq!(first, again);
    assert_eq!(rotated, repeated);
    assert_eq!(count(&app, "select count(*) as number from external_keys").await, 1);
    assert_eq!(get(&on_foo, &first["external_key"]).await.unwrap(), rotated["key"]);
    for text in [text(&first["secret"]), text(&rotated["secret"])] {
        let secret = text.split('_').nth(3).unwrap();
        for table in ["external_keys", "events", "idempotency_records"] {
            let leaks = format!(
                "select count(*) as number from {table} t where t::text like '%{secret}%' \
                 or t::text like '%' || encode('{secret}', 'hex') || '%'"
            );
            assert_eq!(count(&app, &leaks).await, 0, "{table}");
        }
    }
    let digests = "select count(*) as number from events, external_keys k \
        where type like 'external_key.%' and (before::text || after::text) like '%digest%'";
    assert_eq!(count(&app, digests).await, 0);
    let told = "select count(*) as number from events where type like 'external_key.%' \
                and resource_id = ";
    assert_eq!(count(&app, &format!("{told}'{}'", text(id))).await, 2);
}

/// 1-30: the last day that there is has an end too, and what has none is refused, not broken off.
#[tokio::test]
async fn a_key_may_end_with_the_last_day_of_the_calendar() {
    let (_app, (on_foo, app_key), _) = start().await;
    let new = |date: &str| {
        json!({"external_key":
        {"app_key_id": app_key, "label": date, "environment": "production", "exp_date": date}})
    };

    let made = on_foo.call("CreateExternalKey", new("9999-12-31")).await.unwrap();
    let beyond = on_foo.call("CreateExternalKey", new("+10000-01-01")).await.unwrap_err();
    let odd = pb::ExternalKey {
        app_key_id: app_key.clone(),
        label: "odd".into(),
        environment: "production".into(),
        expire_time: Some(prost_types::Timestamp {
            seconds: 253_402_300_799,
            nanos: 1_000_000_000,
        }),
        ..Default::default()
    };
    let odd = pb::CreateExternalKeyRequest { external_key: Some(odd), ..Default::default() };
    let odd = on_foo.keys().create_external_key(odd).await.unwrap_err();

    assert_eq!(made["external_key"]["expire_time"], "9999-12-31T23:59:59.999999Z");
    assert_eq!(fields(&beyond), ["external_key.exp_date"]);
    assert_eq!(fields(&odd), ["external_key.expire_time"]);
}
