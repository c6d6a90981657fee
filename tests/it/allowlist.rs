//! From where API keys work.

use chrono::{DateTime, TimeDelta};
use serde_json::{Value, json};
use tonic::Status;

use crate::app::{App, Caller, fields, tenant, told};

async fn update(caller: &Caller, request: Value) -> Result<Value, Status> {
    Ok(caller.call("UpdateIpAllowlist", request).await?["ip_allowlist"].take())
}

async fn get(caller: &Caller) -> Value {
    caller.call("GetIpAllowlist", json!({})).await.unwrap()["ip_allowlist"].take()
}

/// The addresses of the tests themselves.
fn here() -> Value {
    json!([{"name": "here", "cidr": "127.0.0.0/8"}])
}

fn elsewhere() -> Value {
    json!([{"name": "elsewhere", "start": "192.0.2.1", "end": "192.0.2.9"}])
}

/// 4-05: with either role that reads and changes a tenant.
#[tokio::test]
async fn the_administrators_of_a_tenant_read_and_replace_its_list() {
    let app = App::start().await;
    app.as_root().create(tenant("foo")).await.unwrap();
    let on_foo = app.as_root().with("x-tenant-id", "foo");
    for role in ["tenant-admin", "tenant-management"] {
        let own = app.as_key(&on_foo.create_key(&[role]).await);

        let replaced = update(&own, json!({"enabled": true, "rules": here()})).await.unwrap();

        assert_eq!(replaced["rules"][0]["name"], "here", "{role}");
        assert_eq!(get(&own).await, replaced, "{role}");
        let elsewhere = own.call("TestIpAllowlist", json!({"ip": "192.0.2.1"})).await.unwrap();
        assert_eq!(elsewhere, json!({"enabled": true}), "{role}");
    }
    let weak = app.as_key(&on_foo.create_key(&["key-verifier"]).await);
    for (method, request) in
        [("GetIpAllowlist", json!({})), ("UpdateIpAllowlist", json!({"enabled": false}))]
    {
        let refusal = weak.call(method, request).await.unwrap_err();
        assert_eq!(told(&refusal), "PermissionDenied PERMISSION_MISSING", "{method}");
    }
}

async fn key_of(app: &App, tenant: &str) -> Caller {
    app.as_key(&app.as_root().with("x-tenant-id", tenant).create_key(&["tenant-admin"]).await)
}

/// 4-10, 4-11, 4-12: replaced whole, dated by the server, kept where it is not enabled.
#[tokio::test]
async fn a_list_is_replaced_whole_and_says_when() {
    let app = App::start().await;
    app.as_root().create(tenant("foo")).await.unwrap();
    let own = key_of(&app, "foo").await;
    let root = app.as_root().with("x-tenant-id", "foo");

    let never = get(&own).await;
    let rules = json!([
        {"name": " office ", "cidr": "2001:db8::/32"},
        {"name": "vpn", "start": "::ffff:192.0.2.1", "end": "192.0.2.9"},
    ]);
    let first = update(&own, json!({"enabled": false, "rules": rules})).await.unwrap();
    let etag = first["etag"].clone();
    app.shared.clock.advance(TimeDelta::hours(1));
    let second = update(&own, json!({"enabled": false, "etag": etag})).await.unwrap();
    let stale = update(&own, json!({"enabled": false, "etag": etag})).await.unwrap_err();

    assert_eq!(never, json!({}));
    assert_eq!(
        first["rules"],
        json!([
            {"name": "office", "start": "2001:db8::", "end": "2001:db8:ffff:ffff:ffff:ffff:ffff:ffff"},
            {"name": "vpn", "start": "192.0.2.1", "end": "192.0.2.9"},
        ])
    );
    let at = |list: &Value| {
        let time = list["last_updated"].as_str().unwrap();
        DateTime::parse_from_rfc3339(time).unwrap()
    };
    assert!(at(&second) - at(&first) >= TimeDelta::hours(1), "each replacement is dated");
    assert!(second.get("rules").is_none());
    assert_eq!(get(&root).await, second);
    assert_eq!(told(&stale), "Aborted ETAG_MISMATCH");
}

/// 4-12: every wrong rule at once, by its place; nothing changes.
#[tokio::test]
async fn a_wrong_list_is_refused_by_all_that_is_wrong_with_it() {
    let app = App::start().await;
    app.as_root().create(tenant("foo")).await.unwrap();
    let own = key_of(&app, "foo").await;
    let many = vec![json!({"name": "n", "cidr": "192.0.2.1"}); 501];

    let absent = update(&own, json!({"rules": here()})).await.unwrap_err();
    let wrong = json!({"rules": [
        {"name": "", "cidr": "10.0.0.0/8"},
        {"name": "down", "start": "192.0.2.9", "end": "192.0.2.1"},
        {"name": "mixed", "start": "192.0.2.9", "end": "::1"},
        {"name": "nothing"},
    ]});
    let wrong = update(&own, wrong).await.unwrap_err();
    let many = update(&own, json!({"enabled": false, "rules": many})).await.unwrap_err();
    let no_address = own.call("TestIpAllowlist", json!({"ip": "host"})).await.unwrap_err();

    assert_eq!(fields(&absent), ["enabled"]);
    assert_eq!(
        fields(&wrong),
        [
            "enabled",
            "rules[0].name",
            "rules[1].start",
            "rules[2].end",
            "rules[3].start",
            "rules[3].end"
        ]
    );
    assert_eq!(fields(&many), ["rules"]);
    assert_eq!(fields(&no_address), ["ip"]);
    assert_eq!(get(&own).await, json!({}));
}

/// 4-12: five hundred rules, each with a name of up to eighty characters.
#[tokio::test]
async fn a_list_has_up_to_five_hundred_rules_with_names_of_up_to_eighty_characters() {
    let app = App::start().await;
    app.as_root().create(tenant("foo")).await.unwrap();
    let own = key_of(&app, "foo").await;
    let rules = |number: usize, length: usize| {
        let rule = json!({"name": "ä".repeat(length), "cidr": "192.0.2.1"});
        json!({"enabled": false, "rules": vec![rule; number]})
    };

    let most = update(&own, rules(500, 80)).await.unwrap();
    let many = update(&own, rules(501, 80)).await.unwrap_err();
    let long = update(&own, rules(1, 81)).await.unwrap_err();

    assert_eq!(most["rules"].as_array().unwrap().len(), 500);
    assert_eq!(get(&own).await, most);
    assert_eq!(told(&many), "InvalidArgument INVALID_FIELD");
    assert_eq!(fields(&many), ["rules"]);
    assert_eq!(told(&long), "InvalidArgument INVALID_FIELD");
    assert_eq!(fields(&long), ["rules[0].name"]);
}

/// 4-10, 4-12: on every call, for the keys of the tenant and nobody else's.
#[tokio::test]
async fn an_enabled_list_binds_every_call_with_a_key_of_the_tenant() {
    let app = App::start().await;
    let root = app.as_root();
    for id in ["foo", "bar"] {
        root.create(tenant(id)).await.unwrap();
    }
    let (own, other) = (key_of(&app, "foo").await, key_of(&app, "bar").await);
    let of_foo = root.with("x-tenant-id", "foo");

    update(&own, json!({"enabled": true, "rules": here()})).await.unwrap();
    own.get("").await.unwrap();
    update(&of_foo, json!({"enabled": true, "rules": elsewhere()})).await.unwrap();

    for method in ["GetTenant", "WhoAmI", "ListTenants", "GetIpAllowlist"] {
        let refusal = own.call(method, json!({})).await.unwrap_err();
        assert_eq!(told(&refusal), "PermissionDenied IP_NOT_ALLOWED", "{method}");
    }
    let metadata = own.get("").await.unwrap_err();
    let metadata = tonic_types::StatusExt::get_error_details(&metadata);
    assert_eq!(metadata.error_info().unwrap().metadata["ip"], "127.0.0.1");
    other.get("").await.unwrap();
    of_foo.get("").await.unwrap();
    update(&of_foo, json!({"enabled": false, "rules": elsewhere()})).await.unwrap();
    own.get("").await.unwrap();
    update(&of_foo, json!({"enabled": true})).await.unwrap();
    assert_eq!(told(&own.get("").await.unwrap_err()), "PermissionDenied IP_NOT_ALLOWED");
}

/// 4-13: the list of an account binds the keys of that account, not those of its tenants.
#[tokio::test]
async fn the_list_of_an_account_binds_its_own_keys() {
    let app = App::start().await;
    let admin = app.account("acme").await;
    let root = app.as_root().with("x-account-id", "acme");
    admin.create(tenant("foo")).await.unwrap();
    let own = key_of(&app, "foo").await;

    let lockout = update(&admin, json!({"enabled": true, "rules": elsewhere()})).await.unwrap_err();
    update(&root, json!({"enabled": true, "rules": elsewhere()})).await.unwrap();

    assert_eq!(told(&lockout), "FailedPrecondition LOCKOUT_RISK");
    let refusal = admin.get("foo").await.unwrap_err();
    assert_eq!(told(&refusal), "PermissionDenied IP_NOT_ALLOWED");
    own.get("").await.unwrap();
    assert_eq!(get(&root).await["enabled"], true);
    assert_eq!(get(&app.as_root().with("x-tenant-id", "foo")).await, json!({}));
    let nobody = app.as_root().call("GetIpAllowlist", json!({})).await.unwrap_err();
    assert_eq!(told(&nobody), "InvalidArgument INVALID_METADATA");
}

/// 4-12: nobody shuts themselves out by mistake, and nobody enables a list that cannot work.
#[tokio::test]
async fn a_list_that_would_shut_its_caller_out_needs_force() {
    let app = App::start().await;
    app.as_root().create(tenant("foo")).await.unwrap();
    let own = key_of(&app, "foo").await;
    let shut_out = || json!({"enabled": true, "rules": elsewhere()});

    let risk = update(&own, shut_out()).await.unwrap_err();
    let proxied = own.with("x-forwarded-for", "127.0.0.9");
    let unknown = update(&proxied, json!({"enabled": true, "rules": here()})).await.unwrap_err();
    update(&proxied, json!({"enabled": false, "rules": here()})).await.unwrap();
    update(&own, json!({"enabled": true, "rules": elsewhere(), "force": true})).await.unwrap();

    for refusal in [risk, unknown] {
        assert_eq!(told(&refusal), "FailedPrecondition LOCKOUT_RISK");
        assert!(refusal.message().contains("force"), "{}", refusal.message());
    }
    let refusal = own.get("").await.unwrap_err();
    assert_eq!(told(&refusal), "PermissionDenied IP_NOT_ALLOWED");
}

/// 4-10: behind a proxy that is trusted, the address that it calls for.
#[tokio::test]
async fn behind_a_trusted_proxy_the_address_of_the_client_counts() {
    let app = App::start_with(|settings| {
        settings.trusted_proxies = vec!["127.0.0.1".parse().unwrap()];
    })
    .await;
    app.as_root().create(tenant("foo")).await.unwrap();
    let own = key_of(&app, "foo").await.with("x-forwarded-for", "192.0.2.5");

    update(&own, json!({"enabled": true, "rules": elsewhere()})).await.unwrap();

    own.get("").await.unwrap();
    let other = key_of(&app, "foo").await.with("x-forwarded-for", "192.0.2.5, 198.51.100.1");
    let refusal = other.get("").await.unwrap_err();
    assert_eq!(told(&refusal), "PermissionDenied IP_NOT_ALLOWED");
}

/// 4-10: also where somebody else asks whether the key is good; a missing address is refused.
#[tokio::test]
async fn a_verdict_regards_the_list_and_the_address_of_the_bearer() {
    let app = App::start().await;
    let root = app.as_root();
    root.create(tenant("foo")).await.unwrap();
    let of_foo = root.with("x-tenant-id", "foo");
    let secret = of_foo.create_key(&["tenant-admin"]).await;
    let code = async |ip: &str| {
        let request = json!({"key": secret, "environment": "sod", "client_ip": ip});
        root.call("VerifyKey", request).await.unwrap()["code"].take()
    };
    assert_eq!(code("").await, "VERIFY_CODE_VALID");

    update(&of_foo, json!({"enabled": true, "rules": elsewhere()})).await.unwrap();

    assert_eq!(code("192.0.2.5").await, "VERIFY_CODE_VALID");
    assert_eq!(code("::ffff:192.0.2.5").await, "VERIFY_CODE_VALID");
    assert_eq!(code("192.0.2.10").await, "VERIFY_CODE_IP_FORBIDDEN");
    assert_eq!(code("").await, "VERIFY_CODE_IP_FORBIDDEN");
    let nonsense = json!({"key": secret, "environment": "sod", "client_ip": "host"});
    let nonsense = root.call("VerifyKey", nonsense).await.unwrap_err();
    assert_eq!(fields(&nonsense), ["client_ip"]);
}

/// 4-12: what the list makes of an address can be asked before it is enabled, and after.
#[tokio::test]
async fn an_address_can_be_tested_against_the_list() {
    let app = App::start().await;
    app.as_root().create(tenant("foo")).await.unwrap();
    let root = app.as_root().with("x-tenant-id", "foo");
    let test = async |ip: &str| root.call("TestIpAllowlist", json!({"ip": ip})).await.unwrap();
    let rules = json!([
        {"name": "wide", "cidr": "192.0.2.0/24"},
        {"name": "narrow", "cidr": "192.0.2.7"},
    ]);
    update(&root, json!({"enabled": false, "rules": rules})).await.unwrap();
    assert_eq!(test("198.51.100.1").await, json!({"allowed": true}));

    update(&root, json!({"enabled": true, "rules": rules})).await.unwrap();

    let covered = json!({"allowed": true, "enabled": true, "matching_rules": ["wide", "narrow"]});
    assert_eq!(test("192.0.2.7").await, covered);
    assert_eq!(test("198.51.100.1").await, json!({"enabled": true}));
}
