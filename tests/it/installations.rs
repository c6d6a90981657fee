//! What tenants run of products, and what the app keys of that say to services.

use serde_json::{Value, json};
use tenantry::pb;
use tonic::Status;

use crate::app::{App, Caller, application, count, fields, rows, tenant, told};

/// A Tenantry with a product of two packages and the tenants `foo` and `bar`, and who acts on them.
async fn start() -> (App, Caller, Caller) {
    let app = App::start().await;
    let package = |code: &str| json!({"package_code": code, "name": code});
    let product = json!({"product": {
        "product_code": "PHONE", "name": "Phones", "packages": [package("BASIC"), package("GOLD")],
    }});
    app.as_root().call("CreateProduct", product).await.unwrap();
    for id in ["foo", "bar"] {
        app.as_root().create(tenant(id)).await.unwrap();
    }
    let on = |id| app.as_root().with("x-tenant-id", id);
    let (on_foo, on_bar) = (on("foo"), on("bar"));
    (app, on_foo, on_bar)
}

fn phone() -> Value {
    json!({"product_code": "PHONE", "package_code": "BASIC", "ttl_hours": 24})
}

async fn install(caller: &Caller, installation: Value) -> Result<Value, Status> {
    let request = json!({"installation": installation});
    Ok(caller.call("CreateInstallation", request).await?["installation"].take())
}

/// An installation with an app key; answers the ids of both.
async fn installed(caller: &Caller) -> (String, String) {
    let installation = text(&install(caller, phone()).await.unwrap()["installation_id"]);
    let request = json!({"installation_id": installation});
    let app_key = caller.call("CreateAppKey", request).await.unwrap();
    (installation, text(&app_key["app_key"]["app_key_id"]))
}

fn text(value: &Value) -> String {
    value.as_str().unwrap().to_owned()
}

async fn list(caller: &Caller, method: &str, request: Value) -> (Vec<Value>, String) {
    let mut answer = caller.call(method, request).await.unwrap();
    let token = answer["next_page_token"].as_str().unwrap_or_default().to_owned();
    let rows = answer.as_object_mut().unwrap().values_mut().find(|value| value.is_array());
    (rows.map_or(Vec::new(), |rows| rows.as_array().unwrap().clone()), token)
}

async fn set(caller: &Caller, app_key: &str, environment: &str, config: Value) -> Value {
    let config = json!({"app_key_id": app_key, "environment": environment, "config": config});
    caller.call("UpdateKeyConfig", json!({"key_config": config})).await.unwrap()
}

async fn config(caller: &Caller, app_key: &str, environment: &str, service: &str) -> Value {
    let request =
        json!({"app_key_id": app_key, "environment": environment, "service_name": service});
    caller.call("GetKeyConfig", request).await.unwrap()["key_config"].take()
}

/// 1-20, 1-21, 1-22, 1-24, 1-45
#[tokio::test]
async fn an_installation_is_made_read_changed_and_deleted() {
    let (app, on_foo, on_bar) = start().await;
    let said = json!({"description": "Desks\nand halls", "product_code": "PHONE",
        "package_code": "PHONE_BASIC", "ttl_hours": 168});

    let made = install(&on_foo, said).await.unwrap();
    let id = text(&made["installation_id"]);
    let found = on_foo.call("GetInstallation", json!({"installation_id": id})).await.unwrap();
    let change = json!({"installation_id": id, "package_code": "PHONE_GOLD", "ttl_hours": 6});
    let changed = on_foo
        .call("UpdateInstallation", json!({"installation": change, "etag": made["etag"]}))
        .await
        .unwrap();
    let stale = json!({"installation": {"installation_id": id, "ttl_hours": 12}, "etag": "1"});
    let stale = on_foo.call("UpdateInstallation", stale).await.unwrap_err();
    let cleared = json!({"installation": {"installation_id": id}, "update_mask": "description"});
    let cleared = on_foo.call("UpdateInstallation", cleared).await.unwrap();
    let elsewhere = on_bar.call("GetInstallation", json!({"installation_id": id})).await;

    assert_eq!(found["installation"], made);
    // 1-21: the code of the product is not prefixed twice.
    assert_eq!((&made["package_code"], &made["package"]), (&json!("BASIC"), &json!("PHONE_BASIC")));
    let changed = &changed["installation"];
    assert_eq!(changed["package"], "PHONE_GOLD");
    assert_eq!((&changed["ttl_hours"], &changed["etag"]), (&json!(6), &json!("2")));
    assert_eq!(changed["description"], "Desks\nand halls");
    assert_eq!(told(&stale), "Aborted ETAG_MISMATCH");
    assert_eq!(cleared["installation"]["description"], Value::Null);
    assert_eq!(told(&elsewhere.unwrap_err()), "NotFound APPLICATION_NOT_FOUND");
    let gone = on_foo.call("DeleteInstallation", json!({"installation_id": id})).await.unwrap();
    assert_eq!(gone, json!({}));
    let again = on_foo.call("DeleteInstallation", json!({"installation_id": id})).await;
    assert_eq!(told(&again.unwrap_err()), "NotFound APPLICATION_NOT_FOUND");
    for (kind, number) in
        [("installation.created", 1), ("installation.updated", 2), ("installation.deleted", 1)]
    {
        let events = format!("select count(*) as number from events where type = '{kind}'");
        assert_eq!(count(&app, &events).await, number, "{kind}");
    }
}

/// 1-20, 1-22, 1-45
#[tokio::test]
async fn what_is_wrong_with_an_installation_is_told_by_its_fields() {
    let (app, on_foo, _) = start().await;
    let id = text(&install(&on_foo, phone()).await.unwrap()["installation_id"]);
    let before = rows(&app).await;
    let wrong = json!({"description": "x".repeat(1_001), "product_code": "P", "package_code": "",
        "ttl_hours": 7});
    let unknown = json!({"product_code": "PHONE", "package_code": "NONE", "ttl_hours": 6});
    let update = async |change: Value, mask: &str| {
        let mut installation = json!({"installation_id": id});
        installation.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        let request = json!({"installation": installation, "update_mask": mask});
        on_foo.call("UpdateInstallation", request).await.unwrap_err()
    };

    let refused = install(&on_foo, wrong).await.unwrap_err();
    let unknown = install(&on_foo, unknown).await.unwrap_err();
    let package = update(json!({"package_code": "NONE"}), "").await;
    let ttl = update(json!({}), "ttlHours").await;
    let product = update(json!({"product_code": "OTHER"}), "").await;
    let named = update(json!({"product_code": "PHONE"}), "productCode").await;

    let mut named_fields = fields(&refused);
    named_fields.sort();
    assert_eq!(
        named_fields,
        ["description", "package_code", "product_code", "ttl_hours"]
            .map(|field| format!("installation.{field}"))
    );
    assert_eq!(told(&unknown), "NotFound PRODUCT_OR_PACKAGE_UNKNOWN");
    assert_eq!(told(&package), "NotFound PRODUCT_OR_PACKAGE_UNKNOWN");
    assert_eq!(fields(&ttl), ["installation.ttl_hours"]);
    assert_eq!(told(&product), "InvalidArgument IMMUTABLE_FIELD");
    assert_eq!(told(&named), "InvalidArgument IMMUTABLE_FIELD");
    assert_eq!(rows(&app).await, before);
}

/// 1-24
#[tokio::test]
async fn installations_and_app_keys_are_listed_by_filter_order_and_page() {
    let (_app, on_foo, on_bar) = start().await;
    let mut made = Vec::new();
    for (package, description) in [("BASIC", "one"), ("GOLD", "two"), ("BASIC", "three")] {
        let mut said = phone();
        (said["package_code"], said["description"]) = (package.into(), description.into());
        made.push(install(&on_foo, said).await.unwrap());
    }
    let mut app_keys = Vec::new();
    for installation in [&made[0], &made[0], &made[1]] {
        let request = json!({"installation_id": installation["installation_id"]});
        app_keys.push(on_foo.call("CreateAppKey", request).await.unwrap()["app_key"].take());
    }
    install(&on_bar, phone()).await.unwrap();

    let (all, _) = list(&on_foo, "ListInstallations", json!({})).await;
    let basic = json!({"filter": "package_code = BASIC", "order_by": "create_time desc"});
    let (basic, _) = list(&on_foo, "ListInstallations", basic).await;
    let (named, _) =
        list(&on_foo, "ListInstallations", json!({"filter": "description:\"WO\""})).await;
    let (first, token) =
        list(&on_foo, "ListInstallations", json!({"page_size": 2, "order_by": "product_code"}))
            .await;
    let (rest, end) =
        list(&on_foo, "ListInstallations", json!({"page_size": 2, "page_token": token})).await;
    let of_one = format!("installation_id = {}", text(&made[0]["installation_id"]));
    let (of_one, _) = list(&on_foo, "ListAppKeys", json!({"filter": of_one})).await;
    let (one, token) =
        list(&on_foo, "ListAppKeys", json!({"page_size": 1, "order_by": "app_key_id"})).await;
    let (others, _) = list(&on_foo, "ListAppKeys", json!({"page_token": token})).await;
    let wrong = on_foo.call("ListAppKeys", json!({"filter": "label = x"})).await.unwrap_err();

    assert_eq!(all, made);
    assert_eq!(basic, [made[2].clone(), made[0].clone()]);
    assert_eq!(named, [made[1].clone()]);
    assert_eq!((first.len(), rest.len(), &*end), (2, 1, ""));
    assert!(!first.contains(&rest[0]));
    assert_eq!(of_one, app_keys[..2]);
    assert_eq!((one.len(), others.len()), (1, 2));
    assert!(!others.contains(&one[0]));
    assert_eq!(told(&wrong), "InvalidArgument INVALID_FILTER");
    assert_eq!(list(&on_bar, "ListAppKeys", json!({})).await.0, [Value::Null; 0]);
}

/// 1-24, 1-25: nothing is left of what hung on it.
#[tokio::test]
async fn with_an_installation_its_app_keys_configurations_and_external_keys_go() {
    let (app, on_foo, on_bar) = start().await;
    let (other, kept) = installed(&on_bar).await;
    let (installation, first) = installed(&on_foo).await;
    let second = json!({"installation_id": installation, "config": {"stage": {"mail": {}}}});
    let second = on_foo.call("CreateAppKey", second).await.unwrap();
    let second = text(&second["app_key"]["app_key_id"]);
    for (caller, app_key) in [(&on_bar, &kept), (&on_foo, &first), (&on_foo, &second)] {
        set(caller, app_key, "production", json!({"billing": {"url": "x"}})).await;
        for label in ["one", "two"] {
            let key = json!({"app_key_id": app_key, "label": label, "environment": "stage",
                "credits": {"amount": 5}, "rate_limit": {"requests": 5, "window": "60s"}});
            caller.call("CreateExternalKey", json!({"external_key": key})).await.unwrap();
        }
    }
    for table in [
        "key_usage (route, number, tenant_uid, last_used_time) select \
            route, number, tenant_uid, now() from external_keys",
        "key_rate_windows (route, number, tenant_uid, limits_version, window_number, used, granted) \
            select route, number, tenant_uid, 1, 1, 1, 1 from external_keys",
    ] {
        let mut conn = app.superuser().await;
        let query = diesel::sql_query(format!("insert into {table}"));
        diesel_async::RunQueryDsl::execute(query, &mut conn).await.unwrap();
    }
    let before = rows(&app).await;

    let tried = json!({"installation_id": installation, "validate_only": true});
    let tried = on_foo.call("DeleteInstallation", tried).await.unwrap();
    let untouched = rows(&app).await;
    let one = on_foo.call("DeleteAppKey", json!({"app_key_id": first})).await.unwrap();
    let gone = on_foo.call("GetKeyConfig", json!({"app_key_id": first, "environment": "stage"}));
    let gone = gone.await.unwrap_err();
    let stale = json!({"installation_id": installation, "etag": "7"});
    let stale = on_foo.call("DeleteInstallation", stale).await.unwrap_err();
    let all = json!({"installation_id": installation});
    let all = on_foo.call("DeleteInstallation", all).await.unwrap();

    assert_eq!(tried, json!({"app_keys": 2, "external_keys": 4}));
    assert_eq!(untouched, before);
    assert_eq!(one, json!({"external_keys": 2}));
    assert_eq!(told(&gone), "NotFound KEY_NOT_FOUND");
    assert_eq!(told(&stale), "Aborted ETAG_MISMATCH");
    assert_eq!(all, json!({"app_keys": 1, "external_keys": 2}));
    let after = rows(&app).await;
    for (table, number) in [
        ("tenant_installations", 1),
        ("tenant_app_keys", 1),
        ("tenant_app_key_configs", 1),
        ("external_keys", 2),
        ("key_usage", 2),
        ("key_credits", 2),
        ("key_rate_windows", 2),
    ] {
        assert_eq!(after[table], number, "{table}");
    }
    on_bar.call("GetInstallation", json!({"installation_id": other})).await.unwrap();
}

/// 1-26: a document for each environment, which is replaced as a whole and removed by an empty one.
#[tokio::test]
async fn what_an_app_key_says_is_kept_for_each_environment() {
    let (app, on_foo, _) = start().await;
    let (_, app_key) = installed(&on_foo).await;
    let unset = config(&on_foo, &app_key, "stage", "").await;

    let first = set(&on_foo, &app_key, "PRODUCTION", json!({"billing": {"url": "a"}})).await;
    set(&on_foo, &app_key, "stage", json!({"billing": {"url": "b"}})).await;
    let second = set(&on_foo, &app_key, "production", json!({"mail": {"tries": 3}})).await;
    let same = set(&on_foo, &app_key, "production", json!({"mail": {"tries": 3}})).await;
    let stale = json!({"etag": first["key_config"]["etag"], "key_config": {
        "app_key_id": app_key, "environment": "production", "config": {}}});
    let stale = on_foo.call("UpdateKeyConfig", stale).await.unwrap_err();
    let production = config(&on_foo, &app_key, "Production", "").await;
    let removed = set(&on_foo, &app_key, "production", json!({})).await;
    let other = config(&on_foo, &app_key, "stage", "").await;
    let anew = set(&on_foo, &app_key, "production", json!({"billing": {"url": "a"}})).await;

    assert_eq!(unset["config"], json!({}));
    assert_eq!((&unset["etag"], &unset["update_time"]), (&Value::Null, &Value::Null));
    assert_eq!(first["key_config"]["environment"], "production");
    assert!(!text(&first["revision"]).is_empty());
    assert_eq!(production["config"], json!({"mail": {"tries": 3.0}}));
    assert_eq!(production, second["key_config"]);
    assert_eq!(production, same["key_config"], "what is said already changes nothing");
    assert_eq!(told(&stale), "Aborted ETAG_MISMATCH");
    assert_eq!(
        removed["key_config"],
        json!({"app_key_id": app_key, "environment": "production",
        "config": {}})
    );
    assert_eq!(other["config"], json!({"billing": {"url": "b"}}));
    assert_ne!(anew["key_config"]["etag"], first["key_config"]["etag"], "no etag comes back");
    let documents = "select count(*) as number from tenant_app_key_configs";
    assert_eq!(count(&app, documents).await, 2);
    let told = "select count(*) as number from events where type = 'key_config.updated'";
    assert_eq!(count(&app, told).await, 5);
    let leaks = format!("{told} and (before::text || after::text) like '%url%'");
    assert_eq!(count(&app, &leaks).await, 0, "it may hold secrets");
    let whose =
        format!("{told} and resource_id = '{app_key}' and after ->> 'app_key_id' = '{app_key}'");
    assert_eq!(count(&app, &whose).await, 5);
}

/// 1-26, 1-28: what is inherited is not said; the rest of what gateways know is kept as it is.
#[tokio::test]
async fn what_is_to_be_inherited_is_dropped_from_a_configuration_and_the_rest_is_kept() {
    let (_app, on_foo, _) = start().await;
    let (installation, app_key) = installed(&on_foo).await;
    let packages = json!({"local": {"PHONE": {"default": "PHONE_BASIC", "users": []}}});
    let said = json!({
        "SOAJS": {"THROTTLING": {"publicAPIStrategy": "null", "privateAPIStrategy": "--inherit--"}},
        "gateway": {"throttling": {"billing": "--inherit--"}, "networkPackages": packages},
        "billing": {"url": "null", "urls": [{"version": "1", "url": "x"}],
            "SOAJS": {"THROTTLING": {"publicAPIStrategy": "null", "privateAPIStrategy": "--inherit--"}}},
        "mail": {"SOAJS": {"THROTTLING": {"publicAPIStrategy": "--inherit--"}}},
    });
    let settled = json!({
        "SOAJS": {"THROTTLING": {"publicAPIStrategy": null}},
        "gateway": {"networkPackages": packages},
        "billing": {"url": "null", "urls": [{"version": "1", "url": "x"}],
            "SOAJS": {"THROTTLING": {"publicAPIStrategy": null}}},
        "mail": {},
    });

    set(&on_foo, &app_key, "stage", said.clone()).await;
    let updated = config(&on_foo, &app_key, "stage", "").await;
    let request = json!({"installation_id": installation, "config": {"stage": said}});
    let created = on_foo.call("CreateAppKey", request).await.unwrap();
    let created = config(&on_foo, &text(&created["app_key"]["app_key_id"]), "stage", "").await;

    assert_eq!(updated["config"], settled);
    assert_eq!(created["config"], settled);
}

/// 1-27
#[tokio::test]
async fn a_service_is_told_what_is_for_all_and_its_own_section_alone() {
    let (_app, on_foo, _) = start().await;
    let (_, app_key) = installed(&on_foo).await;
    let said = json!({"commonFields": {"region": "eu", "billing": "overridden"},
        "billing": {"url": "b"}, "mail": {"password": "secret"}});
    set(&on_foo, &app_key, "production", said.clone()).await;

    let billing = config(&on_foo, &app_key, "production", "billing").await;
    let none = config(&on_foo, &app_key, "production", "none").await;
    let elsewhere = config(&on_foo, &app_key, "stage", "billing").await;

    assert_eq!(billing["config"], json!({"region": "eu", "billing": {"url": "b"}}));
    assert_eq!(none["config"], said["commonFields"]);
    assert_eq!(elsewhere["config"], json!({}));
}

/// 1-25, 1-26, 1-33
#[tokio::test]
async fn what_is_wrong_with_a_configuration_is_told_by_its_fields() {
    let (app, on_foo, on_bar) = start().await;
    let (installation, app_key) = installed(&on_foo).await;
    let before = rows(&app).await;
    let update = async |caller: &Caller, config: Value| {
        caller.call("UpdateKeyConfig", json!({"key_config": config})).await.unwrap_err()
    };
    let of = |environment: &str, config: Value| json!({"app_key_id": app_key, "environment": environment, "config": config});

    for (config, named) in [
        (json!({}), vec!["key_config.app_key_id", "key_config.config", "key_config.environment"]),
        (of("No Id", json!({})), vec!["key_config.environment"]),
        (of("stage", json!({"billing": "x"})), vec!["key_config.config"]),
        (of("stage", json!({"billing": {"x": "x".repeat(70_000)}})), vec!["key_config.config"]),
    ] {
        let refused = update(&on_foo, config).await;
        let mut fields = fields(&refused);
        fields.sort();
        assert_eq!(fields, named);
    }
    let nowhere = update(&on_foo, of("none", json!({}))).await;
    let elsewhere = update(&on_bar, of("stage", json!({}))).await;
    let read = json!({"app_key_id": app_key, "environment": "none"});
    let read = on_foo.call("GetKeyConfig", read).await.unwrap_err();
    let create = async |config: Value| {
        let request = json!({"installation_id": installation, "config": config});
        on_foo.call("CreateAppKey", request).await.unwrap_err()
    };
    let environment = create(json!({"none": {}})).await;
    let section = create(json!({"stage": {"billing": 1}})).await;
    let unknown = json!({"installation_id": "i-none"});
    let unknown = on_foo.call("CreateAppKey", unknown).await.unwrap_err();

    assert_eq!(told(&nowhere), "NotFound ENVIRONMENT_NOT_FOUND");
    assert_eq!(told(&elsewhere), "NotFound KEY_NOT_FOUND");
    assert_eq!(told(&read), "NotFound ENVIRONMENT_NOT_FOUND");
    assert_eq!(told(&environment), "NotFound ENVIRONMENT_NOT_FOUND");
    assert_eq!(fields(&section), ["config"]);
    assert_eq!(told(&unknown), "NotFound APPLICATION_NOT_FOUND");
    assert_eq!(rows(&app).await, before);
}

/// 1-46: what a protected tenant runs is changed by its own keys and its protectors alone.
#[tokio::test]
async fn what_a_protected_tenant_runs_is_its_own_and_its_protectors() {
    let (app, _, _) = start().await;
    let protected = pb::Tenant { protected: Some(true), ..tenant("high") };
    app.as_root().create(protected).await.unwrap();
    let on_high = app.as_root().with("x-tenant-id", "high");
    let own = app.as_key(&on_high.create_key(&["tenant-admin"]).await);
    let admin = app.as_root().with("x-account-id", "default").create_key(&["account-admin"]).await;
    let admin = app.as_key(&admin);
    let (installation, app_key) = installed(&on_high).await;
    let key = json!({"app_key_id": app_key, "label": "web", "environment": "stage"});
    let made = own.call("CreateExternalKey", json!({"external_key": key})).await.unwrap();
    let id = &made["external_key"]["external_key_id"];
    let before = rows(&app).await;

    for (method, request) in [
        ("CreateInstallation", json!({"installation": phone()})),
        ("UpdateInstallation", json!({"installation": {"installation_id": installation}})),
        ("DeleteInstallation", json!({"installation_id": installation})),
        ("CreateAppKey", json!({"installation_id": installation})),
        ("DeleteAppKey", json!({"app_key_id": app_key})),
        (
            "UpdateKeyConfig",
            json!({"key_config": {
            "app_key_id": app_key, "environment": "stage", "config": {}}}),
        ),
        ("CreateExternalKey", json!({"external_key": key})),
        ("UpdateExternalKey", json!({"external_key": {"external_key_id": id, "enabled": false}})),
        ("RotateExternalKey", json!({"external_key_id": id})),
        ("RevokeExternalKey", json!({"external_key_id": id, "reason": "sabotage"})),
    ] {
        let refused = admin.with("x-tenant-id", "high").call(method, request).await.unwrap_err();
        assert_eq!(told(&refused), "FailedPrecondition RECORD_PROTECTED", "{method}");
    }

    assert_eq!(rows(&app).await, before);
    admin
        .with("x-tenant-id", "foo")
        .call("CreateInstallation", json!({"installation": phone()}))
        .await
        .unwrap();
    let revoke = json!({"external_key_id": id, "reason": "done"});
    own.call("RevokeExternalKey", revoke).await.unwrap();
    own.call("DeleteInstallation", json!({"installation_id": installation})).await.unwrap();
}

/// 1-20: what comes with a tenant is what is read and changed later.
#[tokio::test]
async fn what_was_installed_with_a_tenant_is_found_and_changed() {
    let (app, _, _) = start().await;
    let request = json!({"tenant": {"tenant_id": "new", "name": "New", "description": "",
        "type": "TENANT_TYPE_PRODUCT", "organization_kind": "ORGANIZATION_KIND_ENTERPRISE"},
        "application": application()});
    let made = app.as_root().call("CreateTenant", request).await.unwrap();
    let on_new = app.as_root().with("x-tenant-id", "new");

    let (installations, _) = list(&on_new, "ListInstallations", json!({})).await;
    let (keys, _) = list(&on_new, "ListExternalKeys", json!({})).await;
    let app_key = text(&made["external_key"]["app_key_id"]);
    let said = config(&on_new, &app_key, "production", "").await;
    let change = json!({"key_config": {"app_key_id": app_key, "environment": "production",
        "config": {}}, "etag": said["etag"]});
    on_new.call("UpdateKeyConfig", change).await.unwrap();

    assert_eq!(installations, [made["installation"].clone()]);
    assert_eq!(keys, [made["external_key"].clone()]);
    assert_eq!(said["config"], json!({"commonFields": {"region": "eu"}}));
}
