//! What is wrong with a request is told by its field, changes nothing, and breaks nothing.

use std::collections::BTreeMap;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use prost_reflect::{
    DynamicMessage, FieldDescriptor, Kind, MapKey, MessageDescriptor, MethodDescriptor, Value,
    prost::Message as _,
};
use prost_types::{FieldMask, Struct, Timestamp, value::Kind as JsonKind};
use tenantry::{
    pb,
    rpc::permit::{Method, POOL},
};
use tonic::{Code, Status};

use crate::app::{App, fields, rows, tenant, told};

/// A request that is right but for what the test puts into it; it changes nothing.
fn good_request(method: &MethodDescriptor) -> DynamicMessage {
    let json = match method.name() {
        "CreateTenant" | "CreateTenantAsync" => {
            r#"{"tenant": {"name": "Foo", "description": "", "type": "TENANT_TYPE_PRODUCT",
                "organization_kind": "ORGANIZATION_KIND_ENTERPRISE"}}"#
        }
        "TakeTenantResult" => r#"{"operation": "operations/0199d3b0-0000-7000-8000-000000000000"}"#,
        "UpdateTenant" => r#"{"tenant": {"tenant_id": "foo"}}"#,
        "GetTenant" | "DeleteTenant" | "UndeleteTenant" | "ApproveTenant" | "UnlockTenant"
        | "MoveTenant" | "PromoteTenant" => r#"{"tenant_id": "foo"}"#,
        "RejectTenant" => r#"{"tenant_id": "foo", "reason": "doubtful"}"#,
        "CreateReseller" | "UpdateReseller" => r#"{"reseller": {"reseller_id": "north"}}"#,
        "DeleteReseller" => r#"{"reseller_id": "north"}"#,
        "CreateBackend" | "UpdateBackend" => {
            r#"{"backend": {"backend_id": "one", "external_name": "One"}}"#
        }
        "DeleteBackend" => r#"{"backend_id": "one"}"#,
        "CreateProduct" | "UpdateProduct" => {
            r#"{"product": {"product_code": "PHONE", "name": "Phones"}}"#
        }
        "DeleteProduct" => r#"{"product_code": "PHONE"}"#,
        "CreateTenantTemplate" | "UpdateTenantTemplate" => {
            r#"{"tenant_template": {"template_id": "gold"}}"#
        }
        "DeleteTenantTemplate" => r#"{"template_id": "gold"}"#,
        "CreateApplication" => {
            r#"{"application": {"application_id": "new", "name": "New", "environments": ["sod"]}}"#
        }
        "UpdateApplication" => r#"{"application": {"application_id": "new", "name": "New"}}"#,
        "GetApplication" | "DeleteApplication" => r#"{"application_id": "new"}"#,
        "RotateApplicationClientSecret" => r#"{"application_id": "new", "environment": "sod"}"#,
        "BatchCheckAuthorizations" => {
            r#"{"requests": [{"tenant_id": "foo", "application_id": "new", "environment": "sod"}]}"#
        }
        "CheckAuthorization" | "GrantAuthorization" => {
            r#"{"tenant_id": "foo", "application_id": "new", "environment": "sod"}"#
        }
        "GetAuthorization" => r#"{"authorization_id": "00000000-0000-0000-0000-000000000000"}"#,
        "RevokeAuthorization" => {
            r#"{"authorization_id": "00000000-0000-0000-0000-000000000000", "reason": "gone",
                "contact_email": "a@b.c"}"#
        }
        "RequestAuthorization" => {
            r#"{"application_id": "none", "customer_id": "x", "customer_name": "x", "contact_email": "a@b.c"}"#
        }
        "RequestAuthorizationUpdate" => {
            r#"{"authorization_id": "00000000-0000-0000-0000-000000000000", "on_behalf_of": "x",
                "contact_email": "a@b.c"}"#
        }
        "GetAuthorizationRequest"
        | "ApproveAuthorizationRequest"
        | "CancelAuthorizationRequest"
        | "ResendAuthorizationRequest" => {
            r#"{"authorization_request_id": "00000000-0000-0000-0000-000000000000"}"#
        }
        "DeclineAuthorizationRequest" => {
            r#"{"authorization_request_id": "00000000-0000-0000-0000-000000000000", "reason": "x"}"#
        }
        "VerifyApplicationClient" => r#"{"client_id": "x", "client_secret": "y"}"#,
        "UpdateIpAllowlist" => r#"{"enabled": false}"#,
        "TestIpAllowlist" => r#"{"ip": "192.0.2.1"}"#,
        "LockTenant" => r#"{"tenant_id": "foo", "mode": "LOCK_MODE_FULL", "reason": "unpaid"}"#,
        "CreateGroup" | "UpdateGroup" => r#"{"group": {"group_id": "new", "name": "New"}}"#,
        "GetGroup" | "DeleteGroup" => r#"{"group_id": "new"}"#,
        "UpdateServiceSettings" => r#"{"settings": [{"name": "mail", "enabled": true}]}"#,
        "RecordUsage" => {
            r#"{"usage_record": {"usage_type": "USAGE_TYPE_USERS",
                "aggregation_period": "AGGREGATION_PERIOD_DAILY",
                "start_time": "2026-11-22T00:00:00Z"}}"#
        }
        "ListUsage" => r#"{"filter": "start_time > \"2020-01-01T00:00:00Z\""}"#,
        "SetEntitlement" => {
            r#"{"entitlement": {"type": "ENTITLEMENT_TYPE_USERS", "quantity": 1,
                "contract_mode": "CONTRACT_MODE_PRODUCTION"}}"#
        }
        "PutEndUserAppData" => {
            r#"{"end_user_app_data": {"application_id": "app", "end_user_id": "jane", "data": {}}}"#
        }
        "DeleteEndUserAppData" => r#"{"application_id": "app", "end_user_id": "jane"}"#,
        "CreateAccount" => r#"{"account": {"account_id": "acme", "name": "Acme"}}"#,
        "UpdateAccount" => r#"{"account": {"account_id": "default", "name": "New"}}"#,
        "DeleteAccount" => r#"{"account_id": "idle"}"#,
        "CreateEnvironment" => r#"{"environment": {"environment_id": "dev", "name": "Dev"}}"#,
        "UpdateEnvironment" => r#"{"environment": {"environment_id": "sod", "name": "New"}}"#,
        "DeleteEnvironment" => r#"{"environment_id": "sod"}"#,
        "CreateDomain" => r#"{"domain": {"domain_id": "example.com"}}"#,
        "DeleteDomain" => r#"{"domain_id": "netaxis.be"}"#,
        "CreateApiKey" => r#"{"api_key": {"roles": ["auditor"]}}"#,
        "RevokeApiKey" => {
            r#"{"api_key_id": "00000000-0000-0000-0000-000000000000", "reason": "lost"}"#
        }
        "GetApiKey" | "RotateApiKey" => r#"{"api_key_id": "00000000-0000-0000-0000-000000000000"}"#,
        "UpdateApiKey" => {
            r#"{"api_key": {"api_key_id": "00000000-0000-0000-0000-000000000000", "name": "New"}}"#
        }
        "GetExternalKey" | "RotateExternalKey" => {
            r#"{"external_key_id": "00000000-0000-0000-0000-000000000000"}"#
        }
        "RevokeExternalKey" => {
            r#"{"external_key_id": "00000000-0000-0000-0000-000000000000", "reason": "lost"}"#
        }
        "UpdateExternalKey" => {
            r#"{"external_key": {"external_key_id": "00000000-0000-0000-0000-000000000000", "label": "x"}}"#
        }
        "CreateExternalKey" => {
            r#"{"external_key": {"app_key_id": "00000000000000000000000000000000", "label": "web",
                "environment": "sod"}}"#
        }
        "ImportKeys" => {
            r#"{"keys": [{"sha256": "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=", "external_key": {
                "app_key_id": "00000000000000000000000000000000", "label": "web", "environment": "sod"}}]}"#
        }
        "CreateInstallation" => {
            r#"{"installation": {"product_code": "PHONE", "package_code": "BASIC", "ttl_hours": 24}}"#
        }
        "UpdateInstallation" => r#"{"installation": {"installation_id": "i", "description": "x"}}"#,
        "GetInstallation" | "DeleteInstallation" | "CreateAppKey" => r#"{"installation_id": "i"}"#,
        "DeleteAppKey" => r#"{"app_key_id": "00000000000000000000000000000000"}"#,
        "GetKeyConfig" => {
            r#"{"app_key_id": "00000000000000000000000000000000", "environment": "sod"}"#
        }
        "UpdateKeyConfig" => {
            r#"{"key_config": {"app_key_id": "00000000000000000000000000000000", "environment": "sod",
                "config": {"billing": {"rate": 1}}}}"#
        }
        "UpdateOAuthClient" => r#"{"oauth_client": {"disabled": true}}"#,
        "VerifyKey" | "ListAuthorizedTenants" => r#"{"environment": "sod"}"#,
        "BatchVerifyKeys" => r#"{"requests": [{"environment": "sod"}]}"#,
        _ => "{}",
    };
    let mut json = serde_json::Deserializer::from_str(json);
    let mut request = DynamicMessage::deserialize(method.input(), &mut json).unwrap();
    if let Some(field) = method.input().get_field_by_name("validate_only") {
        request.set_field(&field, Value::Bool(true));
    }
    request
}

/// Puts a text into the field of a request that a path leads to.
fn put(request: &mut DynamicMessage, path: &[FieldDescriptor], text: &str) {
    let (field, below) = path.split_first().unwrap();
    match below {
        [] if field.is_list() => {
            request.set_field(field, Value::List(vec![Value::String(text.to_owned())]));
        }
        [] => request.set_field(field, Value::String(text.to_owned())),
        [of_entry] if field.is_map() => {
            // The key, or the value beside a good key.
            let Kind::Message(entry) = field.kind() else { panic!("{field:?} is no map") };
            let value = match entry.map_entry_value_field().kind() {
                Kind::Message(inner) => Value::Message(DynamicMessage::new(inner)),
                _ => Value::String("v".into()),
            };
            let entry = match of_entry.name() {
                "key" => (MapKey::String(text.to_owned()), value),
                _ => (MapKey::String("k".into()), Value::String(text.to_owned())),
            };
            request.set_field(field, Value::Map([entry].into()));
        }
        below if field.is_list() => {
            let Kind::Message(inner) = field.kind() else { panic!("{field:?} holds no messages") };
            let mut element = DynamicMessage::new(inner);
            put(&mut element, below, text);
            request.set_field(field, Value::List(vec![Value::Message(element)]));
        }
        below => put(request.get_field_mut(field).as_message_mut().unwrap(), below, text),
    }
}

/// The ways to the string fields of a request, of messages within it too.
fn ways(message: &MessageDescriptor, above: &[FieldDescriptor]) -> Vec<Vec<FieldDescriptor>> {
    let mut found = Vec::new();
    for field in message.fields() {
        let way = [above, std::slice::from_ref(&field)].concat();
        match field.kind() {
            Kind::String => found.push(way),
            // A Struct holds itself; its texts have a test of their own below.
            Kind::Message(inner) if !inner.full_name().starts_with("google.protobuf.Struct") => {
                found.extend(ways(&inner, &way));
            }
            _ => {}
        }
    }
    found
}

/// What may be there though it is no plain text: what the service sets and therefore ignores, what is
/// compared as it is, prose, texts that Tenantry gives back as they came, and a key that is asked about.
const TAKEN_AS_IT_IS: &[&str] = &[
    "uid",
    "lock",
    "effective_lock",
    "status_details",
    "created_by",
    "permissions",
    "revoked_by",
    "revoke_reason",
    "client_ids",
    "client_id",
    "actor",
    "client_secret",
    "api_key_id",
    "usage_id",
    "tenant_id",
    "entitlement_id",
    "etag",
    "locale",
    "status",
    "admin_user",
    "description",
    "additional_info",
    "external_ids",
    "key",
    "required_permissions",
    "required_scopes",
];

/// Fields of records that only answers fill: what a request has in them is not looked at.
const OUTPUT_ONLY: [&str; 11] = [
    "api_key.account_id",
    "api_key.environment",
    "external_key.external_key_id",
    "external_key.app_key_id",
    "external_key.installation_id",
    "external_key.package_code",
    "external_key.product_code",
    "installation.installation_id",
    "installation.package",
    "installation.package_code",
    "installation.product_code",
];

#[tokio::test]
async fn no_text_in_any_field_of_any_request_breaks_anything() {
    let app = App::start().await;
    let root = app.as_root();
    root.create(tenant("foo")).await.unwrap();
    let on_foo = root.with("x-tenant-id", "foo");
    let before = rows(&app).await;
    let long = "x".repeat(1_000_000);
    let texts = ["\0", "a\u{1}b", "a\u{7f}", "line\nbreak", &long];
    let mut tried = 0;
    let mut wrong = BTreeMap::<String, String>::new();

    for service in POOL.services() {
        for method in service.methods() {
            let path = format!("/{}/{}", service.full_name(), method.name());
            // What acts on a tenant is asked of one, so that nothing is refused for the want of it.
            let asks = Method::find(&path).unwrap();
            let of_tenant = asks.acts_on_tenant || asks.acts_on_tenant_or_account;
            let caller = if of_tenant { &on_foo } else { &root };
            for way in ways(&method.input(), &[]) {
                let name = way.iter().map(FieldDescriptor::name).collect::<Vec<_>>().join(".");
                for text in texts {
                    let mut request = good_request(&method);
                    put(&mut request, &way, text);

                    let answer = caller.raw(&path, request.encode_to_vec()).await;

                    tried += 1;
                    let shown: String = text.chars().take(8).collect();
                    let what = format!("{} {name} {shown:?}", method.name());
                    let mut parts = way.iter().map(FieldDescriptor::name);
                    let is_taken = method.name() == "LookupTenant"
                        || OUTPUT_ONLY.contains(&name.trim_start_matches("keys."))
                        || parts.any(|part| TAKEN_AS_IT_IS.contains(&part));
                    match answer {
                        Err(status) if status.code() == Code::InvalidArgument => {
                            assert!(status.message().len() < 2_000, "{what}: a short message");
                            // Of a list there is one, the first.
                            let named = fields(&status);
                            let named = named.iter().map(|field| field.replace("[0]", ""));
                            let named = named.collect::<Vec<_>>();
                            // Its neighbours in a list of messages are empty, hence refused too.
                            let is_named = named.iter().any(|field| {
                                let field = field.replace("[0]", "");
                                name.starts_with(&field) || field.starts_with(&name)
                            });
                            if !is_named && !is_taken {
                                wrong.insert(what, format!("{named:?}"));
                            }
                        }
                        answer => {
                            let told = answer.map_or_else(|status| told(&status), |_| "OK".into());
                            let is_expected = told == "OK"
                                || told.starts_with("NotFound")
                                || told == "Aborted ETAG_MISMATCH";
                            if !is_expected || !is_taken {
                                wrong.insert(what, told);
                            }
                        }
                    }
                }
            }
        }
    }

    assert!(tried > 400, "the walk finds the fields: {tried}");
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert_eq!(rows(&app).await, before);
}

#[tokio::test]
async fn what_is_no_message_at_all_is_the_callers_fault() {
    let app = App::start().await;
    let path = "/tenantry.v1.TenantService/CreateTenant";
    // A field cut short, a wire type that there is not, a text that is no UTF-8, a wrong type.
    for bytes in [&b"\x0a\xff"[..], b"\x0f", b"\x0a\x04\x0a\x02\xff\xfe", b"\x08\x01"] {
        let refusal = app.as_root().raw(path, bytes.to_vec()).await.unwrap_err();

        assert_eq!(told(&refusal), "InvalidArgument INVALID_MESSAGE", "{bytes:?}");
    }
}

#[tokio::test]
async fn a_message_above_the_limit_is_refused_as_such_and_the_connection_lives_on() {
    let app = App::start().await;
    let large = "x".repeat(5 << 20);

    let refusal = app.as_root().create(pb::Tenant { name: Some(large), ..tenant("foo") }).await;

    assert_eq!(told(&refusal.unwrap_err()), "ResourceExhausted MESSAGE_TOO_LARGE");
    app.as_root().create(tenant("foo")).await.unwrap();
}

#[tokio::test]
async fn everything_that_is_wrong_with_a_request_is_told_at_once() {
    let app = App::start().await;
    let wrong = pb::Tenant {
        tenant_id: "Not An Id".into(),
        code: Some("?".into()),
        name: Some("x".repeat(1_000_000)),
        r#type: 99,
        support_email: Some("nobody".into()),
        contact: Some(pb::Contact { email: "at@".into(), ..Default::default() }),
        default_domain: Some("-".into()),
        hostname: Some("not a host".into()),
        ..Default::default()
    };

    let refusal = app.as_root().create(wrong).await.unwrap_err();

    assert_eq!(told(&refusal), "InvalidArgument INVALID_FIELD");
    let mut named = fields(&refusal);
    named.sort();
    assert_eq!(
        named,
        [
            "tenant.code",
            "tenant.contact.email",
            "tenant.default_domain",
            "tenant.description",
            "tenant.hostname",
            "tenant.name",
            "tenant.organization_kind",
            "tenant.support_email",
            "tenant.tenant_id",
            "tenant.type",
        ]
    );
    assert!(refusal.message().len() < 3_000, "{}", refusal.message());
}

fn list(filter: &str, order_by: &str) -> pb::ListTenantsRequest {
    pb::ListTenantsRequest {
        filter: filter.to_owned(),
        order_by: order_by.to_owned(),
        ..Default::default()
    }
}

async fn refused(app: &App, request: pb::ListTenantsRequest) -> Status {
    app.as_root().tenants().list_tenants(request).await.unwrap_err()
}

#[tokio::test]
async fn a_page_has_a_size_that_is_not_negative() {
    let app = App::start().await;

    let refusal = refused(&app, pb::ListTenantsRequest { page_size: -1, ..list("", "") }).await;

    assert_eq!(told(&refusal), "InvalidArgument INVALID_FIELD");
    assert_eq!(fields(&refusal), ["page_size"]);
}

#[tokio::test]
async fn a_page_token_serves_the_list_it_came_from_and_no_other() {
    let app = App::start().await;
    let root = app.as_root();
    for id in ["a", "b", "c"] {
        root.create(tenant(id)).await.unwrap();
    }
    let first = pb::ListTenantsRequest { page_size: 1, ..list("tenant_id:\"\"", "name") };
    let first = root.tenants().list_tenants(first).await;
    let first = match first {
        Ok(first) => first.into_inner(),
        Err(status) => panic!("{status:?}"),
    };
    let token = first.next_page_token;
    assert!(!token.is_empty());
    let environments =
        pb::ListEnvironmentsRequest { page_token: token.clone(), ..Default::default() };

    let mut cut = token.clone();
    cut.pop();
    let mut tampered = token.clone();
    tampered.replace_range(..1, if token.starts_with('A') { "B" } else { "A" });
    let page = |page_token: &str, filter: &str, order_by: &str| pb::ListTenantsRequest {
        page_token: page_token.to_owned(),
        ..list(filter, order_by)
    };
    let by_time = pb::ListTenantsRequest { page_size: 1, ..page("", "", "create_time") };
    let by_time = root.tenants().list_tenants(by_time).await.unwrap().into_inner().next_page_token;
    let decoded = URL_SAFE_NO_PAD.decode(by_time).unwrap();
    let mut decoded: serde_json::Value = serde_json::from_slice(&decoded).unwrap();
    decoded["place"]["value"] = "-300000000000000000".into();
    let early = URL_SAFE_NO_PAD.encode(decoded.to_string());
    let wrong = [
        ("another filter", page(&token, "tenant_id:\"a\"", "name")),
        ("another order", page(&token, "tenant_id:\"\"", "name desc")),
        ("cut short", page(&cut, "tenant_id:\"\"", "name")),
        ("tampered with", page(&tampered, "tenant_id:\"\"", "name")),
        ("garbage", page("not a token", "tenant_id:\"\"", "name")),
        ("a time before all times", page(&early, "", "create_time")),
    ];
    for (what, request) in wrong {
        let refusal = refused(&app, request).await;
        assert_eq!(told(&refusal), "InvalidArgument INVALID_PAGE_TOKEN", "{what}");
        assert_eq!(fields(&refusal), ["page_token"], "{what}");
    }
    let other_list = root.directory().list_environments(environments).await.unwrap_err();
    assert_eq!(told(&other_list), "InvalidArgument INVALID_PAGE_TOKEN");
    let right = page(&token, "tenant_id:\"\"", "name");
    assert_eq!(root.tenants().list_tenants(right).await.unwrap().into_inner().tenants.len(), 2);
}

/// 3-17, 3-18: whatever is no filter or order of the list.
#[tokio::test]
async fn a_filter_or_an_order_that_is_not_one_is_refused_by_what_is_wrong_with_it() {
    let app = App::start().await;
    let deep = "NOT ".repeat(10_000) + "name = \"a\"";
    let long = format!("name = \"{}\"", "x".repeat(101));
    let many = vec!["name = \"a\""; 10_000].join(" AND ");
    let filters = [
        ("labels.\"a\0b\" = x", "labels"),
        ("external_ids.'\0' != x", "external_ids"),
        ("colour = \"red\"", "colour"),
        ("name ~ \"a\"", "operators"),
        ("name = \"a", "name"),
        ("name", "name"),
        ("= \"a\"", "="),
        ("locked = \"maybe\"", "locked"),
        ("create_time > \"yesterday\"", "create_time"),
        ("type = \"BANANA\"", "type"),
        ("name = \"a\" OR name = \"b\"", "OR"),
        (&*long, "100"),
        (&*deep, ""),
        (&*many, ""),
    ];
    for (filter, named) in filters {
        let refusal = refused(&app, list(filter, "")).await;

        let shown: String = filter.chars().take(40).collect();
        assert_eq!(told(&refusal), "InvalidArgument INVALID_FILTER", "{shown}");
        assert_eq!(fields(&refusal), ["filter"], "{shown}");
        assert!(refusal.message().contains(named), "{shown}: {}", refusal.message());
    }
    for order_by in [
        "colour",
        "tag",
        "code",
        "state",
        "update_time",
        "effective_locked",
        "name sideways",
        "name,",
        "name desc desc",
        "name, name",
    ] {
        let refusal = refused(&app, list("", order_by)).await;

        assert_eq!(told(&refusal), "InvalidArgument INVALID_FILTER", "{order_by}");
        assert_eq!(fields(&refusal), ["order_by"], "{order_by}");
    }
}

#[tokio::test]
async fn a_mask_names_fields_that_there_are_and_that_can_change() {
    let app = App::start().await;
    let root = app.as_root();
    let stored = root.create(tenant("foo")).await.unwrap();
    let before = rows(&app).await;
    let new = pb::Tenant {
        tenant_id: "foo".into(),
        name: Some("New".into()),
        code: Some("CHANGED".into()),
        r#type: pb::TenantType::Client.into(),
        ..Default::default()
    };
    let many = vec!["name"; 10_000];
    let many_unknown = vec!["colour"; 10_000];
    let masks: [(&[&str], &str); 9] = [
        (&["*"], "code"),
        (&many_unknown, "colour"),
        (&["name", "colour"], "colour"),
        (&["code"], "code"),
        (&["type"], "type"),
        (&["name.first"], "name.first"),
        (&["contact.shoe_size"], "contact.shoe_size"),
        (&[""], ""),
        (&["NAME"], "NAME"),
    ];
    for (mask, named) in masks {
        let refusal = root.update_paths(new.clone(), mask).await.unwrap_err();

        assert_eq!(told(&refusal), "InvalidArgument IMMUTABLE_FIELD", "{mask:?}");
        assert!(refusal.message().contains(named), "{mask:?}: {}", refusal.message());
    }

    assert_eq!(root.get("foo").await.unwrap(), stored);
    assert_eq!(rows(&app).await, before);
    root.update_paths(new, &many).await.unwrap();
}

/// 1-03, 1-06, 2-03: what a tenant is from its creation.
#[tokio::test]
async fn a_change_of_what_cannot_change_is_refused_by_its_field() {
    let app = App::start().await;
    let root = app.as_root();
    let stored = root.create(tenant("foo")).await.unwrap();
    let same = pb::Tenant { tenant_id: "foo".into(), ..Default::default() };
    let changes = [
        ("tenant.code", pb::Tenant { code: Some("OTHER".into()), ..same.clone() }),
        ("tenant.type", pb::Tenant { r#type: pb::TenantType::Client.into(), ..same.clone() }),
        (
            "tenant.organization_kind",
            pb::Tenant {
                organization_kind: pb::OrganizationKind::ServiceProvider.into(),
                ..same.clone()
            },
        ),
        ("tenant.account_id", pb::Tenant { account_id: "other".into(), ..same.clone() }),
        ("tenant.parent_tenant_id", pb::Tenant { parent_tenant_id: Some("foo".into()), ..same }),
    ];
    for (field, change) in changes {
        let refusal = root.update(change).await.unwrap_err();

        assert_eq!(told(&refusal), "InvalidArgument IMMUTABLE_FIELD", "{field}");
        assert_eq!(fields(&refusal), [field]);
    }
    assert_eq!(root.update(stored.clone()).await.unwrap(), stored, "what is equal passes");
}

/// 1-13: any object, within limits.
#[tokio::test]
async fn a_profile_is_an_object_within_its_limits() {
    let app = App::start().await;
    let root = app.as_root();
    let text = |text: &str| prost_types::Value { kind: Some(JsonKind::StringValue(text.into())) };
    let object = |key: &str, value| Struct { fields: [(key.to_owned(), value)].into() };
    let mut deep = text("bottom");
    for _ in 0..80 {
        deep = prost_types::Value { kind: Some(JsonKind::StructValue(object("k", deep))) };
    }
    let number = |number| prost_types::Value { kind: Some(JsonKind::NumberValue(number)) };
    let profiles = [
        ("too large", object("k", text(&"x".repeat(65 << 10)))),
        ("too deep", object("k", deep)),
        ("a NUL", object("k", text("a\0b"))),
        ("a NUL in a name", object("k\0", text("a"))),
        ("not a number", object("k", number(f64::NAN))),
    ];
    for (what, profile) in profiles {
        let new = pb::Tenant { profile: Some(profile), ..tenant("foo") };
        let refusal = root.create(new).await.unwrap_err();

        assert_eq!(refusal.code(), Code::InvalidArgument, "{what}: {refusal:?}");
    }
    root.create(pb::Tenant { profile: Some(object("k", number(1.5))), ..tenant("foo") })
        .await
        .unwrap();
    // Counted in bytes of its JSON, `{"k":"…"}`, of which a letter may have two.
    let of_bytes = |bytes: usize| {
        let mut inside = "ä".repeat((bytes - 8) / 2);
        inside.push_str(&"x".repeat(bytes % 2));
        pb::Tenant { profile: Some(object("k", text(&inside))), ..Default::default() }
    };
    let foo = |tenant: pb::Tenant| pb::Tenant { tenant_id: "foo".into(), ..tenant };
    let more = root.update(foo(of_bytes(65_537))).await.unwrap_err();
    let all = root.update(foo(of_bytes(65_536))).await.unwrap();
    let new = pb::Tenant { profile: of_bytes(65_536).profile, ..tenant("bar") };
    let created = root.create(new).await.unwrap();
    assert_eq!(fields(&more), ["tenant.profile"]);
    assert_eq!(all.profile, of_bytes(65_536).profile);
    assert_eq!(created.profile, all.profile);
}

/// 1-13: nothing of the one before is left, by whichever mask.
#[tokio::test]
async fn a_profile_is_replaced_as_a_whole() {
    let app = App::start().await;
    let root = app.as_root();
    let profile = |key: &str| {
        let value = prost_types::Value { kind: Some(JsonKind::BoolValue(true)) };
        Some(Struct { fields: [(key.to_owned(), value)].into() })
    };
    root.create(pb::Tenant { profile: profile("a"), ..tenant("foo") }).await.unwrap();
    let of_key = |key: &str| pb::Tenant {
        tenant_id: "foo".into(),
        profile: profile(key),
        ..Default::default()
    };

    let by_presence = root.update(of_key("b")).await.unwrap();
    let by_path = root.update_paths(of_key("c"), &["profile"]).await.unwrap();

    assert_eq!(by_presence.profile, profile("b"));
    assert_eq!(by_path.profile, profile("c"));
    assert_eq!(root.get("foo").await.unwrap(), by_path);
}

#[tokio::test]
async fn a_time_that_there_is_not_is_refused() {
    let app = App::start().await;
    for (seconds, nanos) in
        [(i64::MAX, 0), (i64::MIN, 0), (4_000_000_000, -1), (4_000_000_000, 1_000_000_000), (0, 0)]
    {
        let request = pb::CreateApiKeyRequest {
            api_key: Some(pb::ApiKey {
                roles: vec!["auditor".into()],
                expire_time: Some(Timestamp { seconds, nanos }),
                ..Default::default()
            }),
            ..Default::default()
        };

        let refusal = app.as_root().keys().create_api_key(request).await.unwrap_err();

        assert_eq!(told(&refusal), "InvalidArgument INVALID_FIELD", "{seconds} {nanos}");
        assert_eq!(fields(&refusal), ["api_key.expire_time"], "{seconds} {nanos}");
    }
}

#[tokio::test]
async fn labels_and_external_ids_have_limits() {
    let app = App::start().await;
    let many: BTreeMap<String, String> =
        (0..1_000).map(|number| (format!("k{number}"), "v".into())).collect();
    let long: BTreeMap<String, String> = [("k".into(), "v".repeat(10_000))].into();
    for (field, new) in [
        ("tenant.labels", pb::Tenant { labels: many.clone(), ..tenant("foo") }),
        ("tenant.labels", pb::Tenant { labels: long.clone(), ..tenant("foo") }),
        ("tenant.external_ids", pb::Tenant { external_ids: many, ..tenant("foo") }),
        ("tenant.external_ids", pb::Tenant { external_ids: long, ..tenant("foo") }),
    ] {
        let refusal = app.as_root().create(new).await.unwrap_err();

        assert_eq!(told(&refusal), "InvalidArgument INVALID_FIELD");
        assert!(fields(&refusal)[0].starts_with(field), "{:?}", fields(&refusal));
    }
}

#[tokio::test]
async fn a_mask_may_be_empty_and_a_request_may_not() {
    let app = App::start().await;
    let root = app.as_root();
    root.create(tenant("foo")).await.unwrap();
    let nothing = pb::UpdateTenantRequest {
        update_mask: Some(FieldMask { paths: vec![] }),
        ..Default::default()
    };

    let refusal = root.tenants().update_tenant(nothing).await.unwrap_err();

    assert_eq!(refusal.code(), Code::InvalidArgument);
    assert!(fields(&refusal)[0].starts_with("tenant"), "{:?}", fields(&refusal));
}
