//! What comes to be with a tenant: all of it, or nothing.

use futures_util::future::join_all;
use serde_json::{Value, json};
use tonic::Status;

use crate::app::{App, Caller, application, count, fields, product, rows, told};

fn request(id: &str) -> Value {
    json!({"tenant": {
        "tenant_id": id, "name": id, "description": "", "type": "TENANT_TYPE_PRODUCT",
        "organization_kind": "ORGANIZATION_KIND_ENTERPRISE",
    }})
}

fn oauth_client() -> Value {
    json!({
        "secret": "s3cret", "redirect_uri": "https://example.com/cb", "grants": ["password"],
        "disabled": false, "type": 2, "login_mode": "O_AUTH_LOGIN_MODE_URAC",
        "pin": {"PHONE": {"enabled": true}, "OTHER": {}},
    })
}

/// A request with everything that a request may have.
fn whole(id: &str) -> Value {
    let mut whole = request(id);
    whole["oauth_client"] = oauth_client();
    whole["application"] = application();
    whole["admin_user"] = json!({
        "user_id": "ann", "first_name": "Ann", "last_name": "Other", "email": "ann@example.com",
        "locale": "Klingon", "status": "INACTIVE",
    });
    whole["admin_api_application"] = json!({"name": "Portal", "description": "for Ann"});
    whole["entitlement"] = json!({"contract_mode": "CONTRACT_MODE_PRODUCTION", "quantity": 5});
    whole
}

/// A Tenantry with the product that [`application`] is of, and its root.
async fn start() -> (App, Caller) {
    let app = App::start().await;
    let root = app.as_root();
    root.call("CreateProduct", product()).await.unwrap();
    (app, root)
}

async fn create(caller: &Caller, request: Value) -> Result<Value, Status> {
    caller.call("CreateTenant", request).await
}

/// What is stored of the OAuth client of a tenant.
async fn stored(app: &App, id: &str, condition: &str) -> bool {
    let query = format!(
        "select count(*) as number from tenant_oauth_clients c \
         join tenants t on t.uid = c.tenant_uid where t.tenant_id = '{id}' and {condition}"
    );
    count(app, &query).await == 1
}

/// 1-19, 1-20, 1-23, 1-24, 1-25, 1-29, 3-04, 3-05, 3-06: the parts are answered, and each tells of itself.
#[tokio::test]
async fn everything_that_a_request_has_comes_to_be_with_the_tenant() {
    let (app, root) = start().await;

    let made = create(&root, whole("foo")).await.unwrap();

    let admin = &made["tenant"]["admin_user"];
    assert_eq!(
        (&admin["user_id"], &admin["locale"], &admin["status"]),
        (&json!("ann"), &json!("English"), &json!("ACTIVE"))
    );
    assert_eq!(root.get("foo").await.unwrap().admin_user.unwrap().email, "ann@example.com");
    let installation = &made["installation"];
    assert_eq!(installation["package"], "PHONE_BASIC");
    assert_eq!(installation["ttl_hours"], 24);
    let key = &made["external_key"];
    assert_eq!((&key["label"], &key["environment"]), (&json!("web"), &json!("production")));
    assert_eq!(key["expire_time"], Value::Null, "how long it is kept is not how long it is good");
    assert_eq!(key["app_key_id"].as_str().unwrap().len(), 32);
    let text = made["external_key_secret"].as_str().unwrap();
    assert!(text.starts_with("tk_production_"), "good in one environment: {text}");
    assert_eq!(made["oauth_client_secret"], Value::Null, "it was given, not generated");
    assert_eq!(made["admin_api_key"]["roles"], json!(["tenant-admin"]));
    assert_eq!(made["admin_api_key"]["description"], "for Ann");
    let own = app.as_key(made["admin_api_key_secret"].as_str().unwrap());
    assert_eq!(own.call("WhoAmI", json!({})).await.unwrap()["tenant_id"], "foo");
    let entitlements = own.call("ListEntitlements", json!({})).await.unwrap();
    assert_eq!(entitlements["entitlements"][0]["quantity"], "5");
    assert!(stored(&app, "foo", "c.pin = '{\"PHONE\": true}'").await, "1-19: the other is dropped");
    for kind in [
        "tenant.created",
        "oauth_client.created",
        "installation.created",
        "app_key.created",
        "external_key.created",
        "api_key.created",
        "entitlement.created",
    ] {
        let told = format!(
            "select count(*) as number from events where type = '{kind}' \
                            and (tenant_id = 'foo')"
        );
        assert_eq!(count(&app, &told).await, 1, "{kind}");
    }
    for secret in ["s3cret", text, made["admin_api_key_secret"].as_str().unwrap(), "region"] {
        let leak =
            format!("select count(*) as number from events where after::text like '%{secret}%'");
        assert_eq!(count(&app, &leak).await, 0, "events tell no secrets");
    }
}

/// 1-14, 1-20, 1-21, 1-22, 1-25, 1-26, 1-29, 1-30, 1-33, 1-36, 1-37, 3-04, 3-06, 3-07, 3-08
#[tokio::test]
async fn where_one_part_is_refused_nothing_of_the_request_exists() {
    let (app, root) = start().await;
    let before = rows(&app).await;
    let wrong = |path: &str, value: Value| {
        let mut request = whole("foo");
        let place = request.pointer_mut(path);
        match (place, value) {
            (Some(place), Value::Null) => {
                *place = Value::Null;
            }
            (Some(place), value) => *place = value,
            (None, value) => {
                let (parent, field) = path.rsplit_once('/').unwrap();
                request.pointer_mut(parent).unwrap()[field] = value;
            }
        }
        request
    };
    let key = "/application/app_key/ext_key";
    let cases = [
        // All but `pin` is required.
        ("/oauth_client/secret".to_owned(), json!(null), "oauth_client.secret"),
        ("/oauth_client/redirect_uri".into(), json!(""), "oauth_client.redirect_uri"),
        ("/oauth_client/redirect_uri".into(), json!("nowhere"), "oauth_client.redirect_uri"),
        ("/oauth_client/grants".into(), json!([]), "oauth_client.grants"),
        ("/oauth_client/disabled".into(), json!(null), "oauth_client.disabled"),
        ("/oauth_client/type".into(), json!(null), "oauth_client.type"),
        ("/oauth_client/type".into(), json!(0), "oauth_client.type"),
        ("/oauth_client/login_mode".into(), json!(null), "oauth_client.login_mode"),
        ("/application/product_code".into(), json!(""), "application.product_code"),
        ("/application/package_code".into(), json!("x"), "application.package_code"),
        ("/application/ttl_hours".into(), json!(0), "application.ttl_hours"),
        ("/application/ttl_hours".into(), json!(7), "application.ttl_hours"),
        ("/application/app_key".into(), json!(null), "application.app_key"),
        ("/application/app_key/config".into(), json!(null), "application.app_key.config"),
        (
            "/application/app_key/config".into(),
            json!({"production": 1}),
            "application.app_key.config",
        ),
        ("/application/app_key/ext_key".into(), json!(null), "application.app_key.ext_key"),
        (format!("{key}/label"), json!(""), "application.app_key.ext_key.label"),
        (format!("{key}/env"), json!(""), "application.app_key.ext_key.env"),
        (format!("{key}/exp_date"), json!("2020-01-01"), "application.app_key.ext_key.exp_date"),
        (format!("{key}/geo"), json!({"allow": ["x"]}), "application.app_key.ext_key.geo.allow[0]"),
        (
            format!("{key}/geo"),
            json!({"deny": ["1.2.3.4/40"]}),
            "application.app_key.ext_key.geo.deny[0]",
        ),
        (
            format!("{key}/device"),
            json!({"allow": [{"major": {"min": "9", "max": "8"}}]}),
            "application.app_key.ext_key.device.allow[0].major",
        ),
        ("/admin_user/user_id".into(), json!(""), "admin_user.user_id"),
        ("/admin_user/email".into(), json!("x"), "admin_user.email"),
        ("/admin_api_application/name".into(), json!(""), "admin_api_application.name"),
        (
            "/admin_api_application/roles".into(),
            json!(["system-admin"]),
            "admin_api_application.roles",
        ),
        (
            "/admin_api_application/sp_role_id".into(),
            json!("1"),
            "admin_api_application.sp_role_id",
        ),
        ("/entitlement/contract_mode".into(), json!(null), "entitlement.contract_mode"),
        ("/entitlement/quantity".into(), json!(null), "entitlement.quantity"),
        ("/entitlement/start_time".into(), json!("2099-01-01T00:00:00Z"), "entitlement.start_time"),
    ];
    for (path, value, field) in cases {
        let what = format!("{path} {value}");
        let refused = create(&root, wrong(&path, value)).await.expect_err(&what);
        assert_eq!(fields(&refused), [field], "{what}");
        let reason =
            if field.ends_with("sp_role_id") { "SP_ROLE_NOT_SUPPORTED" } else { "INVALID_FIELD" };
        assert_eq!(told(&refused), format!("InvalidArgument {reason}"), "{what}");
    }
    // What only the database knows.
    let unknown = [
        ("/application/package_code", "NONE", "NotFound PRODUCT_OR_PACKAGE_UNKNOWN"),
        ("/application/product_code", "NONE", "NotFound PRODUCT_OR_PACKAGE_UNKNOWN"),
        ("/application/app_key/ext_key/env", "none", "NotFound ENVIRONMENT_NOT_FOUND"),
    ];
    for (path, value, reason) in unknown {
        let refused = create(&root, wrong(path, json!(value))).await.unwrap_err();
        assert_eq!(told(&refused), reason);
    }
    let config = wrong("/application/app_key/config", json!({"none": {}}));
    assert_eq!(told(&create(&root, config).await.unwrap_err()), "NotFound ENVIRONMENT_NOT_FOUND");
    // All at once, the tenant's own too.
    let mut request = whole("foo");
    request["tenant"]["name"] = "".into();
    request["oauth_client"]["type"] = 9.into();
    request["admin_user"]["user_id"] = "".into();
    let refused = create(&root, request).await.unwrap_err();
    assert_eq!(fields(&refused), ["tenant.name", "oauth_client.type", "admin_user.user_id"]);

    assert_eq!(rows(&app).await, before);
    // The control: as it is, the request is right.
    create(&root, whole("foo")).await.unwrap();
}

/// 1-14
#[tokio::test]
async fn an_oauth_client_is_stored_as_it_was_sent_but_for_its_secret() {
    let (app, root) = start().await;
    let mut one = request("one");
    one["oauth_client"] = json!({
        "secret": " s3cret ", "redirect_uri": " https://one.example.com/cb?x=1 ",
        "grants": ["refresh_token", "password", "refresh_token"], "disabled": false, "type": 1,
        "login_mode": "O_AUTH_LOGIN_MODE_URAC", "pin": {"PHONE": {"enabled": false}},
    });
    let mut two = request("two");
    two["oauth_client"] = json!({
        "secret": " s3cret ", "redirect_uri": "myapp://callback/x",
        "grants": ["authorization_code"], "disabled": true, "type": 2,
        "login_mode": "O_AUTH_LOGIN_MODE_OAUTH", "pin": {"PHONE": {"enabled": true}},
    });

    create(&root, one).await.unwrap();
    create(&root, two).await.unwrap();

    let one = "c.type = 1 and c.login_mode = 'URAC' and not c.disabled \
               and c.redirect_uri = 'https://one.example.com/cb?x=1' \
               and c.grants = array['refresh_token', 'password'] \
               and c.pin = '{\"PHONE\": false}'";
    let two = "c.type = 2 and c.login_mode = 'OAUTH' and c.disabled \
               and c.redirect_uri = 'myapp://callback/x' \
               and c.grants = array['authorization_code'] and c.pin = '{}'";
    // Neither in the clear nor in a form that a guess could be compared with.
    let no_secret = "octet_length(c.secret_digest) = 32 and c.secret_digest <> sha256(' s3cret ') \
                     and c.secret_digest <> sha256('s3cret') and c::text not like '%s3cret%' \
                     and position('s3cret'::bytea in c.secret_digest) = 0";
    assert!(stored(&app, "one", one).await);
    assert!(stored(&app, "two", two).await);
    for id in ["one", "two"] {
        assert!(stored(&app, id, no_secret).await, "{id}");
    }
}

/// 1-25, 1-26
#[tokio::test]
async fn a_configuration_is_stored_as_a_document_for_each_environment_and_may_be_empty() {
    let (app, root) = start().await;
    let with = |id: &str, config: Value| {
        let mut request = whole(id);
        request["application"]["app_key"]["config"] = config;
        request
    };
    let production = json!({"commonFields": {"region": "eu"}, "billing": {"url": "a", "tries": 3}});
    let stage = json!({"billing": {"url": "b"}});
    let config = json!({"PRODUCTION": production, "stage": stage});

    create(&root, with("foo", config)).await.unwrap();
    let empty = create(&root, with("bar", json!({}))).await.unwrap();

    let documents = |id: &str, condition: &str| {
        format!(
            "select count(*) as number from tenant_app_key_configs c \
             join tenant_app_keys k using (tenant_uid, app_key_id) \
             join tenants t on t.uid = c.tenant_uid where t.tenant_id = '{id}' and {condition}"
        )
    };
    for (environment, config) in [("production", production), ("stage", stage)] {
        let this = format!("c.environment = '{environment}' and c.config = '{config}'");
        assert_eq!(count(&app, &documents("foo", &this)).await, 1, "{environment}");
    }
    assert_eq!(count(&app, &documents("foo", "true")).await, 2);
    assert_eq!(count(&app, &documents("bar", "true")).await, 0);
    assert_eq!(empty["external_key"]["app_key_id"].as_str().unwrap().len(), 32);
}

/// 1-21, 1-30, 1-29: what may be written in more than one way.
#[tokio::test]
async fn codes_environments_and_days_are_understood_as_they_are_written_elsewhere() {
    let (app, root) = start().await;
    let mut request = whole("foo");
    request["application"]["package_code"] = "PHONE_BASIC".into();
    request["application"]["app_key"]["config"] = json!({"PRODUCTION": {}, "stage": {}});
    let key = &mut request["application"]["app_key"]["ext_key"];
    key["env"] = "PRODUCTION".into();
    key["exp_date"] = "2030-01-31".into();
    key["geo"] = json!({"allow": ["10.0.0.0/8", "192.0.2.1", "2001:db8::/32"], "deny": []});
    key["device"] =
        json!({"deny": [{"family": "*", "major": {"max": "12"}, "os": {"family": "Win"}}]});
    let expected = (key["geo"]["allow"].clone(), key["device"]["deny"].clone());

    let made = create(&root, request).await.unwrap();

    let (installation, key) = (&made["installation"], &made["external_key"]);
    assert_eq!(
        (&installation["package_code"], &installation["package"]),
        (&json!("BASIC"), &json!("PHONE_BASIC"))
    );
    assert_eq!(key["environment"], "production");
    assert_eq!(key["expire_time"], "2030-02-01T00:00:00Z");
    assert_eq!(
        (key["geo"]["allow"].clone(), key["device"]["deny"][0]["os"]["family"].clone()),
        (expected.0, json!("Win"))
    );
    let columns = "select count(*) as number from external_keys \
        where geo -> 'allow' = '[\"10.0.0.0/8\", \"192.0.2.1\", \"2001:db8::/32\"]' \
        and device -> 'deny' = \
            '[{\"family\": \"*\", \"major\": {\"max\": \"12\"}, \"os\": {\"family\": \"Win\"}}]'";
    assert_eq!(count(&app, columns).await, 1);
}

/// 1-15, 1-16
#[tokio::test]
async fn an_oauth_client_of_which_nothing_is_said_is_disabled_and_one_without_a_secret_gets_one() {
    let (app, root) = start().await;

    let unsaid = create(&root, request("unsaid")).await.unwrap();
    let mut empty = request("empty");
    empty["oauth_client"] = oauth_client();
    empty["oauth_client"]["secret"] = "".into();
    let empty = create(&root, empty).await.unwrap();
    let mut given = request("given");
    given["oauth_client"] = oauth_client();
    let given = create(&root, given).await.unwrap();

    let version = |made: &Value| {
        let secret = made["oauth_client_secret"].as_str()?;
        Some(secret.parse::<uuid::Uuid>().unwrap().get_version_num())
    };
    assert_eq!((version(&unsaid), version(&empty), version(&given)), (Some(4), Some(4), None));
    assert_ne!(unsaid["oauth_client_secret"], empty["oauth_client_secret"]);
    let default = "c.disabled and c.type = 2 and c.login_mode = 'URAC' and c.redirect_uri = '' \
                   and c.grants = array['password', 'refresh_token']";
    assert!(stored(&app, "unsaid", default).await);
    assert!(stored(&app, "empty", "not c.disabled and c.grants = array['password']").await);
}

/// 1-12
#[tokio::test]
async fn a_client_has_a_copy_of_the_oauth_client_of_its_parent_unless_it_says_another() {
    let (app, root) = start().await;
    create(&root, whole("main")).await.unwrap();
    let below = |id: &str| {
        let mut request = request(id);
        request["tenant"]["type"] = "TENANT_TYPE_CLIENT".into();
        request["tenant"]["parent_tenant_id"] = "main".into();
        request
    };

    let heir = create(&root, below("heir")).await.unwrap();
    let mut other = below("other");
    other["oauth_client"] = oauth_client();
    other["oauth_client"]["redirect_uri"] = "https://other.example.com".into();
    create(&root, other).await.unwrap();

    assert_eq!(heir["oauth_client_secret"], Value::Null);
    let same = "(c.secret_digest, c.redirect_uri, c.grants, c.disabled, c.pin) = \
                (select p.secret_digest, p.redirect_uri, p.grants, p.disabled, p.pin \
                 from tenant_oauth_clients p join tenants m on m.uid = p.tenant_uid \
                 where m.tenant_id = 'main')";
    assert!(stored(&app, "heir", same).await);
    assert!(stored(&app, "other", "c.redirect_uri = 'https://other.example.com'").await);
}

/// 3-06, 3-01: a provider's key creates below the provider. Whoever may create a tenant may make its first
/// key; not one that outlives its creator's.
#[tokio::test]
async fn a_provider_makes_the_first_key_of_a_tenant_below_it_which_ends_with_its_own() {
    let (app, root) = start().await;
    let mut provider = request("provider");
    provider["tenant"]["organization_kind"] = "ORGANIZATION_KIND_SERVICE_PROVIDER".into();
    provider["entitlement"] = json!({"contract_mode": "CONTRACT_MODE_PRODUCTION", "quantity": 5});
    create(&root, provider).await.unwrap();
    let end = "2030-01-01T00:00:00Z";
    let key = json!({"api_key": {
        "roles": ["service-provider-admin"], "environment": "production", "expire_time": end,
    }});
    let key = root.with("x-tenant-id", "provider").call("CreateApiKey", key).await.unwrap();
    let admin = app.as_key(key["secret"].as_str().unwrap());

    let made = create(&admin, whole("below")).await.unwrap();

    assert_eq!(made["tenant"]["parent_tenant_id"], "provider");
    let key = &made["admin_api_key"];
    assert_eq!((&key["environment"], &key["expire_time"]), (&json!("production"), &json!(end)));
    let own = app.as_key(made["admin_api_key_secret"].as_str().unwrap());
    assert_eq!(own.get("").await.unwrap().tenant_id, "below");
    let weaker = root.with("x-tenant-id", "provider").create_key(&["tenant-admin"]).await;
    let refused = create(&app.as_key(&weaker), whole("other")).await.unwrap_err();
    assert_eq!(told(&refused), "PermissionDenied PERMISSION_MISSING");
}

/// 3-07, 3-08, 3-14
#[tokio::test]
async fn below_a_provider_a_tenant_says_what_it_is_entitled_to() {
    let (_app, root) = start().await;
    let mut provider = request("provider");
    provider["tenant"]["organization_kind"] = "ORGANIZATION_KIND_SERVICE_PROVIDER".into();
    provider["entitlement"] = json!({"contract_mode": "CONTRACT_MODE_TRIAL", "quantity": 5});
    let provider = create(&root, provider).await.unwrap();
    let below = |id: &str, mode: &str, quantity: i32| {
        let mut request = request(id);
        request["tenant"]["parent_tenant_id"] = "provider".into();
        request["entitlement"] = json!({"contract_mode": mode, "quantity": quantity});
        request
    };
    let mut without = request("one");
    without["tenant"]["parent_tenant_id"] = "provider".into();

    let without = create(&root, without).await.unwrap_err();
    let productive = create(&root, below("one", "CONTRACT_MODE_PRODUCTION", 1)).await.unwrap_err();
    let much = create(&root, below("one", "CONTRACT_MODE_TRIAL", 6)).await.unwrap_err();
    let one = create(&root, below("one", "CONTRACT_MODE_TRIAL", 5)).await.unwrap();

    assert_eq!(provider["tenant"]["contract_mode"], "CONTRACT_MODE_TRIAL");
    assert_eq!(fields(&without), ["entitlement"]);
    assert_eq!(told(&productive), "FailedPrecondition CONTRACT_MODE_NOT_ALLOWED");
    assert_eq!(told(&much), "ResourceExhausted ENTITLEMENT_EXCEEDED");
    assert_eq!(one["tenant"]["contract_mode"], "CONTRACT_MODE_TRIAL");
}

/// 3-08: fifty at once against a quantity that fits ten.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_fifty_tenants_created_at_once_exactly_as_many_are_as_the_provider_has_for() {
    let (app, root) = start().await;
    let mut provider = request("provider");
    provider["tenant"]["organization_kind"] = "ORGANIZATION_KIND_SERVICE_PROVIDER".into();
    provider["entitlement"] = json!({"contract_mode": "CONTRACT_MODE_PRODUCTION", "quantity": 20});
    create(&root, provider).await.unwrap();

    let tries = (0..50).map(|number| {
        let mut request = request(&format!("t-{number}"));
        request["tenant"]["parent_tenant_id"] = "provider".into();
        request["entitlement"] =
            json!({"contract_mode": "CONTRACT_MODE_PRODUCTION", "quantity": 2});
        create(&root, request)
    });
    let (made, refused): (Vec<_>, Vec<_>) =
        join_all(tries).await.into_iter().partition(Result::is_ok);

    assert_eq!(made.len(), 10);
    for refused in refused {
        assert_eq!(told(&refused.unwrap_err()), "ResourceExhausted ENTITLEMENT_EXCEEDED");
    }
    let below = "select count(*) as number from tenants where parent_uid is not null";
    assert_eq!(count(&app, below).await, 10);
    let held = "select coalesce(sum(quantity), 0)::bigint as number from tenant_entitlements e \
                join tenants t on t.uid = e.tenant_uid where t.parent_uid is not null";
    assert_eq!(count(&app, held).await, 20);
}

#[tokio::test]
async fn secrets_are_told_to_whoever_repeats_the_request_and_to_nobody_who_only_tries_it() {
    let (app, root) = start().await;
    let before = rows(&app).await;
    let mut request = whole("foo");
    request["request_id"] = "once".into();
    request["oauth_client"]["secret"] = "".into();
    let mut tried = request.clone();
    tried["validate_only"] = true.into();

    let tried = create(&root, tried).await.unwrap();
    let nothing = rows(&app).await;
    let first = create(&root, request.clone()).await.unwrap();
    let again = create(&root, request).await.unwrap();

    assert_eq!(nothing, before);
    for secret in ["external_key_secret", "admin_api_key_secret", "oauth_client_secret"] {
        assert_eq!(tried[secret], Value::Null, "{secret}");
        assert!(first[secret].as_str().unwrap().len() >= 36, "{secret}");
    }
    assert_eq!(tried["installation"]["package"], "PHONE_BASIC");
    assert_eq!(first, again);
    assert_eq!(count(&app, "select count(*) as number from external_keys").await, 1);
}

/// 1-51: a product that is installed stays.
#[tokio::test]
async fn a_package_or_environment_that_a_tenant_uses_is_not_deleted() {
    let (_app, root) = start().await;
    create(&root, whole("foo")).await.unwrap();

    let product = root.call("DeleteProduct", json!({"product_code": "PHONE"})).await.unwrap_err();
    let package = json!({"product": {"product_code": "PHONE"}, "update_mask": "packages"});
    let package = root.call("UpdateProduct", package).await.unwrap_err();
    let environment = json!({"environment_id": "production"});
    let environment = root.call("DeleteEnvironment", environment).await.unwrap_err();

    for refused in [product, package, environment] {
        assert_eq!(told(&refused), "FailedPrecondition RECORD_IN_USE");
    }
}
