//! What a key does not reach it neither sees nor changes, through any method.

use std::collections::BTreeMap;

use prost_reflect::{DynamicMessage, MethodDescriptor, prost::Message as _};
use serde_json::json;
use tenantry::{pb, rpc::permit::POOL};
use tonic::Status;

use crate::app::{App, Caller, fields, nothing_of_it, product, rows, tenant, told};

/// Two accounts, each with a service provider and a tenant below it, and keys of every kind.
struct World {
    app: App,
    /// Callers of the account `ours`, by the kind of their key.
    strangers: BTreeMap<&'static str, Caller>,
    /// The id of a key of the tenant `theirs-low`.
    their_key: String,
    /// Its text.
    their_secret: String,
    /// The name of an operation begun from `theirs-low`.
    their_operation: String,
    their_installation: String,
    their_app_key: String,
    their_external_key: String,
    their_external_secret: String,
    their_request: String,
    their_authorization: String,
    their_client: serde_json::Value,
}

async fn world() -> World {
    let app = App::start().await;
    let root = app.as_root();
    let mut strangers = BTreeMap::new();
    for account in ["ours", "theirs"] {
        let admin = app.account(account).await;
        let provider = pb::Tenant {
            organization_kind: pb::OrganizationKind::ServiceProvider.into(),
            ..tenant(&format!("{account}-high"))
        };
        admin.create(provider).await.unwrap();
        let below = pb::Tenant {
            parent_tenant_id: Some(format!("{account}-high")),
            default_domain: Some(format!("{account}.example.com")),
            code: Some(format!("CODE{}", account.to_uppercase())),
            hostname: Some(format!("{account}.example.org")),
            external_ids: [("1".to_owned(), format!("{account}-external"))].into(),
            ..tenant(&format!("{account}-low"))
        };
        let request = pb::CreateTenantRequest {
            tenant: Some(below),
            entitlement: Some(nothing_of_it(pb::ContractMode::Production)),
            auto_create_domain: Some(true),
            ..Default::default()
        };
        root.with("x-account-id", account).tenants().create_tenant(request).await.unwrap();
        let group = pb::Group {
            group_id: format!("{account}-group"),
            name: Some(format!("{account} group")),
            ..Default::default()
        };
        let request = pb::CreateGroupRequest { group: Some(group), ..Default::default() };
        let low = root.with("x-tenant-id", &format!("{account}-low"));
        low.tenants().create_group(request).await.unwrap();
        let setting =
            pb::ServiceSetting { name: format!("{account}.setting"), ..Default::default() };
        let request =
            pb::UpdateServiceSettingsRequest { settings: vec![setting], ..Default::default() };
        low.tenants().update_service_settings(request).await.unwrap();
        let usage = pb::UsageRecord {
            usage_type: pb::UsageType::Users.into(),
            aggregation_period: pb::AggregationPeriod::Daily.into(),
            start_time: Some("2026-11-22T00:00:00Z".parse().unwrap()),
            bundle_type: format!("{account} bundle"),
            ..Default::default()
        };
        let request = pb::RecordUsageRequest { usage_record: Some(usage), ..Default::default() };
        low.tenants().record_usage(request).await.unwrap();
        for tenant in ["high", "low"] {
            let entitlement = pb::Entitlement {
                r#type: pb::EntitlementType::Users.into(),
                quantity: Some(10),
                contract_mode: pb::ContractMode::Production.into(),
                contract_number: format!("{account}-contract"),
                ..Default::default()
            };
            let entitlement = Some(entitlement);
            let request = pb::SetEntitlementRequest { entitlement, ..Default::default() };
            let on_it = root.with("x-tenant-id", &format!("{account}-{tenant}"));
            on_it.tenants().set_entitlement(request).await.unwrap();
        }
        let document = json!({"application_id": format!("{account}-app"), "end_user_id": "jane",
            "data": {"of": account}});
        low.call("PutEndUserAppData", json!({"end_user_app_data": document})).await.unwrap();
        if account == "ours" {
            strangers.insert("account-admin", admin);
        }
    }
    for (kind, tenant, role) in [
        ("tenant-admin", "ours-low", "tenant-admin"),
        ("tenant-auditor", "ours-low", "auditor"),
        ("provider", "ours-high", "service-provider-admin"),
        ("tenant-management", "ours-low", "tenant-management"),
    ] {
        let key = root.with("x-tenant-id", tenant).create_key(&[role]).await;
        strangers.insert(kind, app.as_key(&key));
    }
    let north = json!({"reseller": {"reseller_id": "north"}});
    for account in ["ours", "theirs"] {
        root.with("x-account-id", account).call("CreateReseller", north.clone()).await.unwrap();
    }
    let reseller = pb::ApiKey {
        roles: vec!["reseller".into()],
        reseller_id: "north".into(),
        ..Default::default()
    };
    let request = pb::CreateApiKeyRequest { api_key: Some(reseller), ..Default::default() };
    let reseller = root.with("x-account-id", "ours").keys().create_api_key(request).await.unwrap();
    strangers.insert("reseller", app.as_key(&reseller.into_inner().secret));
    let request = pb::CreateApiKeyRequest {
        api_key: Some(pb::ApiKey { roles: vec!["tenant-admin".into()], ..Default::default() }),
        ..Default::default()
    };
    let theirs = root.with("x-tenant-id", "theirs-low").keys().create_api_key(request).await;
    let theirs = theirs.unwrap().into_inner();
    root.with("x-account-id", "theirs").call("CreateProduct", product()).await.unwrap();
    let published = json!({"application": {"application_id": "theirs-app", "name": "theirs",
        "environments": ["production"]}});
    let on_account = root.with("x-account-id", "theirs");
    let published = on_account.call("CreateApplication", published).await.unwrap();
    let granted = json!({"tenant_id": "theirs-low", "application_id": "theirs-app",
        "environment": "production"});
    let granted = on_account.call("GrantAuthorization", granted).await.unwrap();
    let asked = json!({"application": {"application_id": "theirs-asks", "name": "theirs",
        "environments": ["production"]}});
    on_account.call("CreateApplication", asked).await.unwrap();
    let asked = json!({"application_id": "theirs-asks", "customer_id": "theirs-low",
        "customer_name": "theirs", "contact_email": "theirs@b.c"});
    let asked = on_account.call("RequestAuthorization", asked).await.unwrap();
    let on_theirs = root.with("x-tenant-id", "theirs-low");
    let installation = json!({"installation": {"product_code": "PHONE", "package_code": "BASIC",
        "ttl_hours": 24, "description": "theirs"}});
    let installed = on_theirs.call("CreateInstallation", installation).await.unwrap();
    let app_key = json!({"installation_id": installed["installation"]["installation_id"],
        "config": {"production": {"theirs": {"key": "theirs"}}}});
    let app_key = on_theirs.call("CreateAppKey", app_key).await.unwrap();
    let made = json!({"external_key": {"app_key_id": app_key["app_key"]["app_key_id"],
        "label": "theirs", "environment": "production"}});
    let made = on_theirs.call("CreateExternalKey", made).await.unwrap();
    let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
    let later = pb::Tenant {
        r#type: pb::TenantType::Client.into(),
        parent_tenant_id: Some("theirs-high".into()),
        ..tenant("theirs-later")
    };
    let later = pb::CreateTenantAsyncRequest {
        tenant: Some(later),
        entitlement: Some(nothing_of_it(pb::ContractMode::Production)),
        ..Default::default()
    };
    let later = root.with("x-tenant-id", "theirs-low").tenants().create_tenant_async(later).await;
    let their_operation = later.unwrap().into_inner().name;
    World {
        app,
        strangers,
        their_key: theirs.api_key.unwrap().api_key_id,
        their_secret: theirs.secret,
        their_operation,
        their_installation: text(&installed["installation"]["installation_id"]),
        their_app_key: text(&made["external_key"]["app_key_id"]),
        their_external_key: text(&made["external_key"]["external_key_id"]),
        their_external_secret: text(&made["secret"]),
        their_request: text(&asked["authorization_request"]["authorization_request_id"]),
        their_authorization: text(&granted["authorization"]["authorization_id"]),
        their_client: json!({"client_id": published["clients"][0]["client_id"],
            "client_secret": published["clients"][0]["client_secret"]}),
    }
}

/// Methods on what the tenant of the call owns: their requests name nobody, so the metadata must.
const OF_THE_CALL: &[&str] = &["GetIpAllowlist", "UpdateIpAllowlist", "TestIpAllowlist"];

/// What somebody would send who is after what belongs to the account `theirs`.
///
/// A method that is missing here fails the test below: each new one says how it could be abused.
fn attacks(world: &World, method: &MethodDescriptor) -> Vec<String> {
    let key = &world.their_key;
    let operation = &world.their_operation;
    let installation = &world.their_installation;
    let (app_key, external_key) = (&world.their_app_key, &world.their_external_key);
    let named = |json: &str| vec![json.to_owned()];
    match method.name() {
        "GetTenant" | "DeleteTenant" | "UndeleteTenant" | "ApproveTenant" | "UnlockTenant"
        | "PromoteTenant" => {
            vec![r#"{"tenant_id": "theirs-low"}"#.into(), r#"{"tenant_id": "theirs-high"}"#.into()]
        }
        "UpdateIpAllowlist" => named(r#"{"enabled": false}"#),
        "TestIpAllowlist" => named(r#"{"ip": "192.0.2.1"}"#),
        "RejectTenant" => named(r#"{"tenant_id": "theirs-low", "reason": "sabotage"}"#),
        "LockTenant" => {
            named(r#"{"tenant_id": "theirs-low", "mode": "LOCK_MODE_FULL", "reason": "sabotage"}"#)
        }
        "MoveTenant" => [
            r#"{"tenant_id": "theirs-low", "parent_tenant_id": ""}"#,
            r#"{"tenant_id": "theirs-low", "parent_tenant_id": "ours-high"}"#,
            r#"{"tenant_id": "ours-low", "parent_tenant_id": "theirs-high"}"#,
        ]
        .map(str::to_owned)
        .into(),
        "UpdateTenant" => named(r#"{"tenant": {"tenant_id": "theirs-low", "tag": "owned"}}"#),
        "GetOperation" | "WaitOperation" | "CancelOperation" | "DeleteOperation" => {
            vec![format!(r#"{{"name": "{operation}"}}"#)]
        }
        "ListEvents" => [
            "{}",
            r#"{"filter": "tenant_id = theirs-low"}"#,
            r#"{"filter": "account_id = theirs"}"#,
            r#"{"filter": "NOT tenant_id = ours-low", "order_by": "event_time desc"}"#,
        ]
        .map(str::to_owned)
        .into(),
        "WatchEvents" => vec!["{}".into(), r#"{"tenant_id": "theirs-low"}"#.into()],
        "ListOperations" => vec!["{}".into(), r#"{"filter": "done = false"}"#.into()],
        "TakeTenantResult" => vec![format!(r#"{{"operation": "{operation}"}}"#)],
        "CreateTenant" | "CreateTenantAsync" => [
            "account_id\": \"theirs",
            "parent_tenant_id\": \"theirs-high",
        ]
        .iter()
        .map(|target| {
            format!(
                r#"{{"tenant": {{"name": "n", "description": "", "type": "TENANT_TYPE_CLIENT",
                    "organization_kind": "ORGANIZATION_KIND_ENTERPRISE", "{target}"}}}}"#
            )
        })
        .collect(),
        "LookupTenant" => [
            r#"{"code": "CODETHEIRS"}"#,
            r#"{"hostname": "theirs.example.org"}"#,
            r#"{"external_id": {"key": "1", "value": "theirs-external"}}"#,
        ]
        .map(str::to_owned)
        .into(),
        "ListTenants" => [
            "{}",
            r#"{"show_deleted": true}"#,
            r#"{"filter": "tenant_id = \"theirs-low\""}"#,
            r#"{"filter": "NOT tenant_id = \"x\""}"#,
            r#"{"filter": "parent_tenant_id = \"theirs-high\""}"#,
            r#"{"filter": "external_ids.1 = \"theirs-external\""}"#,
        ]
        .map(str::to_owned)
        .into(),
        "CreateGroup" => {
            named(r#"{"group": {"group_id": "new", "name": "New"}, "validate_only": true}"#)
        }
        "GetGroup" | "DeleteGroup" => named(r#"{"group_id": "theirs-group"}"#),
        "UpdateGroup" => named(r#"{"group": {"group_id": "theirs-group", "name": "owned"}}"#),
        "ListGroups" => {
            vec!["{}".into(), r#"{"filter": "group_id = \"theirs-group\""}"#.into()]
        }
        "ListServiceSettings" => {
            vec!["{}".into(), r#"{"filter": "name = \"theirs.setting\""}"#.into()]
        }
        "ListEntitlements" => vec!["{}".into(), r#"{"filter": "type = USERS"}"#.into()],
        "UpdateServiceSettings" => named(
            r#"{"settings": [{"name": "mail", "enabled": true}], "remove_others": true,
                "validate_only": true}"#,
        ),
        "RecordUsage" => named(
            r#"{"usage_record": {"usage_type": "USAGE_TYPE_USERS",
                "aggregation_period": "AGGREGATION_PERIOD_DAILY",
                "start_time": "2026-11-21T00:00:00Z"}, "validate_only": true}"#,
        ),
        "ListUsage" => [
            r#"{"filter": "start_time > \"2020-01-01T00:00:00Z\""}"#,
            r#"{"filter": "start_time > \"2020-01-01T00:00:00Z\" AND tenant_id = theirs-low"}"#,
            r#"{"filter": "start_time > \"2020-01-01T00:00:00Z\" AND NOT end_time < \"2020-01-01T00:00:00Z\""}"#,
        ]
        .map(str::to_owned)
        .into(),
        "SetEntitlement" => named(
            r#"{"entitlement": {"type": "ENTITLEMENT_TYPE_USERS", "quantity": 1,
                "contract_mode": "CONTRACT_MODE_PRODUCTION"}, "validate_only": true}"#,
        ),
        "PutEndUserAppData" => named(
            r#"{"end_user_app_data": {"application_id": "app", "end_user_id": "jane",
                "data": {"owned": true}}, "validate_only": true}"#,
        ),
        "ListEndUserAppData" => {
            vec!["{}".into(), r#"{"filter": "application_id = \"theirs-app\""}"#.into()]
        }
        "DeleteEndUserAppData" => {
            named(r#"{"application_id": "theirs-app", "end_user_id": "jane"}"#)
        }
        "GetAccount" | "DeleteAccount" => named(r#"{"account_id": "theirs"}"#),
        "UpdateAccount" => named(r#"{"account": {"account_id": "theirs", "name": "owned"}}"#),
        "CreateAccount" => named(r#"{"account": {"account_id": "new", "name": "New"}}"#),
        "ListAccounts"
        | "ListDomains"
        | "ListApiKeys"
        | "ListResellers"
        | "ListBackends"
        | "ListProducts"
        | "ListApplications"
        | "ListTenantTemplates" => {
            vec!["{}".into(), r#"{"filter": "NOT create_time < \"2000-01-01T00:00:00Z\""}"#.into()]
        }
        "CreateReseller" => {
            named(r#"{"reseller": {"reseller_id": "new", "account_id": "theirs"}}"#)
        }
        "UpdateReseller" => named(
            r#"{"reseller": {"reseller_id": "north", "account_id": "theirs", "external_name": "x"}}"#,
        ),
        "GetReseller" | "DeleteReseller" => {
            named(r#"{"reseller_id": "north", "account_id": "theirs"}"#)
        }
        "CreateBackend" | "UpdateBackend" => {
            named(r#"{"backend": {"backend_id": "one", "external_name": "x"}}"#)
        }
        "GetBackend" | "DeleteBackend" => named(r#"{"backend_id": "one"}"#),
        "CreateProduct" | "UpdateProduct" => {
            named(r#"{"product": {"product_code": "PHONE", "name": "x", "account_id": "theirs"}}"#)
        }
        "GetProduct" | "DeleteProduct" => {
            named(r#"{"product_code": "PHONE", "account_id": "theirs"}"#)
        }
        "CreateTenantTemplate" | "UpdateTenantTemplate" => {
            named(r#"{"tenant_template": {"template_id": "gold", "account_id": "theirs"}}"#)
        }
        "GetTenantTemplate" | "DeleteTenantTemplate" => {
            named(r#"{"template_id": "gold", "account_id": "theirs"}"#)
        }
        "CreateApplication" => named(
            r#"{"application": {"name": "x", "environments": ["sod"], "account_id": "theirs"}}"#,
        ),
        "UpdateApplication" => {
            named(r#"{"application": {"application_id": "theirs-app", "name": "owned"}}"#)
        }
        "GetApplication" | "DeleteApplication" => named(r#"{"application_id": "theirs-app"}"#),
        "RotateApplicationClientSecret" => {
            named(r#"{"application_id": "theirs-app", "environment": "production"}"#)
        }
        "GrantAuthorization" => ["theirs-low", "ours-low"]
            .map(|tenant| {
                format!(
                    r#"{{"tenant_id": "{tenant}", "application_id": "theirs-app", "environment": "sod"}}"#
                )
            })
            .into(),
        "GetAuthorization" => {
            vec![format!(r#"{{"authorization_id": "{}"}}"#, world.their_authorization)]
        }
        "RequestAuthorization" => vec![
            r#"{"application_id": "theirs-app", "customer_id": "ours-low", "customer_name": "x",
                "contact_email": "a@b.c"}"#
                .to_owned(),
        ],
        "RequestAuthorizationUpdate" => vec![format!(
            r#"{{"authorization_id": "{}", "on_behalf_of": "x", "contact_email": "a@b.c"}}"#,
            world.their_authorization
        )],
        "GetAuthorizationRequest"
        | "ApproveAuthorizationRequest"
        | "CancelAuthorizationRequest"
        | "ResendAuthorizationRequest" => {
            vec![format!(r#"{{"authorization_request_id": "{}"}}"#, world.their_request)]
        }
        "DeclineAuthorizationRequest" => vec![format!(
            r#"{{"authorization_request_id": "{}", "reason": "sabotage"}}"#,
            world.their_request
        )],
        "ListAuthorizationRequests" => {
            vec!["{}".into(), r#"{"filter": "customer_id = \"theirs-low\""}"#.into()]
        }
        "RevokeAuthorization" => vec![format!(
            r#"{{"authorization_id": "{}", "contact_email": "a@b.c", "reason": "sabotage"}}"#,
            world.their_authorization
        )],
        "CheckAuthorization" => named(
            r#"{"tenant_id": "theirs-low", "application_id": "theirs-app", "environment": "production",
                "explain": true}"#,
        ),
        "BatchCheckAuthorizations" => named(
            r#"{"requests": [{"tenant_id": "theirs-low", "application_id": "theirs-app",
                "environment": "production", "explain": true}]}"#,
        ),
        "ListAuthorizations" => {
            vec!["{}".into(), r#"{"filter": "tenant_id = \"theirs-low\""}"#.into()]
        }
        "CountAuthorizedTenants" => {
            [r#"{"application_id": "theirs-app"}"#, r#"{"account_id": "theirs"}"#].map(str::to_owned).into()
        }
        "ListAuthorizedTenants" => [
            r#"{"environment": "production"}"#,
            r#"{"environment": "production", "application_id": "theirs-app"}"#,
            r#"{"environment": "production", "account_id": "theirs"}"#,
            r#"{"environment": "production", "filter": "tenant_id = \"theirs-low\""}"#,
            r#"{"environment": "production", "filter": "name:\"theirs\""}"#,
        ]
        .map(str::to_owned)
        .into(),
        "VerifyApplicationClient" => vec![world.their_client.to_string()],
        "GetDomain" | "DeleteDomain" => named(r#"{"domain_id": "theirs.example.com"}"#),
        "CreateDomain" => named(r#"{"domain": {"domain_id": "new.example.com"}}"#),
        "GetEnvironment" | "DeleteEnvironment" => named(r#"{"environment_id": "sod"}"#),
        "CreateEnvironment" => named(r#"{"environment": {"environment_id": "x", "name": "X"}}"#),
        "UpdateEnvironment" => {
            named(r#"{"environment": {"environment_id": "sod", "name": "owned"}}"#)
        }
        "CreateApiKey" => [
            r#""scope": "API_KEY_SCOPE_SYSTEM""#,
            r#""account_id": "theirs""#,
            r#""tenant_id": "theirs-low""#,
            r#""scope": "API_KEY_SCOPE_SYSTEM", "account_id": "theirs""#,
        ]
        .map(|target| format!(r#"{{"api_key": {{"roles": ["auditor"], {target}}}}}"#))
        .into(),
        "RevokeApiKey" => {
            vec![format!(r#"{{"api_key_id": "{key}", "reason": "sabotage"}}"#)]
        }
        "GetApiKey" | "RotateApiKey" => vec![format!(r#"{{"api_key_id": "{key}"}}"#)],
        "UpdateApiKey" => {
            vec![format!(r#"{{"api_key": {{"api_key_id": "{key}", "enabled": false}}}}"#)]
        }
        "VerifyKey" => [&world.their_secret, &world.their_external_secret]
            .map(|key| format!(r#"{{"key": "{key}", "environment": "production"}}"#))
            .into(),
        "BatchVerifyKeys" => vec![format!(
            r#"{{"requests": [{{"key": "{}", "environment": "production", "explain": true}}]}}"#,
            world.their_external_secret
        )],
        "CreateInstallation" => named(
            r#"{"installation": {"product_code": "PHONE", "package_code": "BASIC", "ttl_hours": 24},
                "validate_only": true}"#,
        ),
        "GetInstallation" | "DeleteInstallation" => vec![format!(r#"{{"installation_id": "{installation}"}}"#)],
        "CreateAppKey" => {
            vec![format!(r#"{{"installation_id": "{installation}", "config": {{"sod": {{}}}}}}"#)]
        }
        "UpdateInstallation" => vec![format!(
            r#"{{"installation": {{"installation_id": "{installation}", "description": "owned"}}}}"#
        )],
        "ListInstallations" => {
            vec!["{}".into(), r#"{"filter": "description:\"theirs\""}"#.into()]
        }
        "ListAppKeys" => {
            vec!["{}".into(), format!(r#"{{"filter": "app_key_id = \"{app_key}\""}}"#)]
        }
        "DeleteAppKey" => vec![format!(r#"{{"app_key_id": "{app_key}"}}"#)],
        "GetKeyConfig" => {
            vec![format!(r#"{{"app_key_id": "{app_key}", "environment": "production"}}"#)]
        }
        "UpdateKeyConfig" => vec![format!(
            r#"{{"key_config": {{"app_key_id": "{app_key}", "environment": "production", "config": {{}}}}}}"#
        )],
        "CreateExternalKey" => vec![format!(
            r#"{{"external_key": {{"app_key_id": "{app_key}", "label": "x", "environment": "sod"}}}}"#
        )],
        "GetExternalKey" | "RotateExternalKey" => {
            vec![format!(r#"{{"external_key_id": "{external_key}"}}"#)]
        }
        "UpdateExternalKey" => vec![format!(
            r#"{{"external_key": {{"external_key_id": "{external_key}", "label": "owned"}}}}"#
        )],
        "RevokeExternalKey" => {
            vec![format!(r#"{{"external_key_id": "{external_key}", "reason": "sabotage"}}"#)]
        }
        "ListExternalKeys" => [
            "{}",
            r#"{"filter": "tenant_id = \"theirs-low\""}"#,
            r#"{"filter": "NOT tenant_code = \"x\" AND product_code = \"PHONE\""}"#,
        ]
        .map(str::to_owned)
        .into(),
        "ImportKeys" => vec![format!(
            r#"{{"keys": [{{"sha256": "{}", "external_key": {{"app_key_id": "{app_key}", "label": "x",
                "environment": "sod"}}}}]}}"#,
            "A".repeat(43) + "="
        )],
        "UpdateOAuthClient" => {
            named(r#"{"oauth_client": {"disabled": false}, "validate_only": true}"#)
        }
        "RotateOAuthClientSecret" => named(r#"{"validate_only": true}"#),
        // They concern nobody's data, or whosever the metadata names.
        "GetOAuthClient" | "GetIpAllowlist" | "WhoAmI" | "ListRoles" | "ListEnvironments" => named("{}"),
        unknown => panic!("say how {unknown} could be abused"),
    }
}

fn message(method: &MethodDescriptor, json: &str) -> Vec<u8> {
    let mut json = serde_json::Deserializer::from_str(json);
    DynamicMessage::deserialize(method.input(), &mut json).unwrap().encode_to_vec()
}

/// All records as a superuser sees them, but for what calls leave behind by being made.
async fn everything(app: &App) -> Vec<String> {
    #[derive(diesel::QueryableByName)]
    struct Row {
        #[diesel(sql_type = diesel::sql_types::Text)]
        text: String,
    }
    let query = "select t::text as text from tenants t union all select a::text from accounts a
        union all select k::text from api_keys k union all select d::text from domains d
        union all select e::text from environments e union all select g::text from tenant_groups g
        union all select s::text from tenant_service_settings s
        union all select u::text from tenant_usage_records u
        union all select n::text from tenant_entitlements n
        union all select o::text from operations o
        union all select p::text from tenant_end_user_app_data p
        union all select a::text from applications a
        union all select c::text from application_clients c
        union all select g::text from tenant_authorizations g
        union all select a::text from authorized_tenants a
        union all select c::text from authorized_tenant_counts c
        order by 1";
    let rows: Vec<Row> =
        diesel_async::RunQueryDsl::load(diesel::sql_query(query), &mut app.superuser().await)
            .await
            .unwrap();
    rows.into_iter().map(|row| row.text).collect()
}

#[tokio::test]
async fn no_method_shows_or_changes_what_belongs_to_somebody_else() {
    let world = world().await;
    let app = &world.app;
    let records = everything(app).await;
    let before = rows(app).await;
    let mut refused = 0;

    for (kind, stranger) in &world.strangers {
        for (caller, is_named) in [
            (stranger.clone(), false),
            (stranger.with("x-account-id", "theirs"), true),
            (stranger.with("x-tenant-id", "theirs-low"), true),
        ] {
            for service in POOL.services() {
                for method in service.methods() {
                    let path = format!("/{}/{}", service.full_name(), method.name());
                    let names_nobody = OF_THE_CALL.contains(&method.name());
                    if names_nobody && !is_named {
                        continue;
                    }
                    for json in attacks(&world, &method) {
                        let what = format!("{kind} {} {json}", method.name());

                        match caller.raw(&path, message(&method, &json)).await {
                            Ok(answer) => {
                                let answer =
                                    DynamicMessage::decode(method.output(), &*answer).unwrap();
                                let text = answer.to_string();
                                assert!(!text.contains("theirs"), "{what}: {text}");
                                assert!(!text.contains(&world.their_key), "{what}: {text}");
                            }
                            Err(status) => {
                                let told = told(&status);
                                let is_closed = told.starts_with("NotFound")
                                    || told.starts_with("PermissionDenied")
                                    || told == "InvalidArgument PARENT_REQUIRED"
                                    || fields(&status) == ["x-tenant-id"];
                                assert!(is_closed, "{what}: {told} {}", status.message());
                                // What there is is refused as what there is not.
                                assert!(!told.contains("ALREADY_EXISTS"), "{what}: {told}");
                                refused += 1;
                            }
                        }
                    }
                }
            }
        }
    }

    assert!(refused > 300, "{refused}");
    assert_eq!(everything(app).await, records);
    assert_eq!(rows(app).await, before);
}

/// The positive control: the very same requests are answered to whom it belongs.
#[tokio::test]
async fn whom_it_belongs_to_sees_it() {
    let world = world().await;
    let theirs = world.app.as_key(&world.their_secret);
    let root = world.app.as_root();

    assert_eq!(theirs.get("").await.unwrap().tenant_id, "theirs-low");
    assert_eq!(theirs.list("", "").await.unwrap(), ["theirs-low"]);
    assert_eq!(root.get("theirs-low").await.unwrap().tenant_id, "theirs-low");
    let provider = &world.strangers["provider"];
    assert_eq!(provider.list("", "tenant_id").await.unwrap(), ["ours-high", "ours-low"]);
    let account = &world.strangers["account-admin"];
    assert_eq!(account.list("", "tenant_id").await.unwrap(), ["ours-high", "ours-low"]);
}

/// 4-04: another tenant in the metadata than the key's own.
#[tokio::test]
async fn metadata_that_contradicts_the_key_is_a_mismatch() {
    let world = world().await;
    let own = &world.strangers["tenant-admin"];

    for caller in [
        own.with("x-tenant-id", "theirs-low"),
        own.with("x-tenant-id", "nobody"),
        own.with("x-tenant-id", "ours-high"),
        own.with("x-account-id", "theirs"),
    ] {
        let refusal = caller.get("").await.unwrap_err();
        assert_eq!(told(&refusal), "PermissionDenied TENANT_MISMATCH");
    }
    let two = world.app.as_root().with("x-tenant-id", "ours-low").get("ours-high").await;
    assert_eq!(told(&two.unwrap_err()), "PermissionDenied TENANT_MISMATCH");
    own.with("x-tenant-id", "ours-low").with("x-account-id", "ours").get("").await.unwrap();
}

/// 3-26: a service provider's admin and an auditor reach below, others do not.
#[tokio::test]
async fn only_a_provider_and_an_auditor_reach_below_their_own_tenant() {
    let world = world().await;
    let root = world.app.as_root();
    for (role, reaches) in [
        ("service-provider-admin", true),
        ("auditor", true),
        ("tenant-admin", false),
        ("tenant-management", false),
    ] {
        let key = root.with("x-tenant-id", "ours-high").create_key(&[role]).await;
        let caller = world.app.as_key(&key);

        let below = caller.get("ours-low").await;

        assert_eq!(below.is_ok(), reaches, "{role}");
        if let Err(status) = below {
            assert_eq!(told(&status), "NotFound TENANT_NOT_FOUND", "{role}");
        }
        let named = caller.with("x-tenant-id", "ours-low").get("").await;
        assert_eq!(named.is_ok(), reaches, "{role}");
    }
}

/// Below what is above: no tenant raises itself.
#[tokio::test]
async fn a_tenants_own_key_changes_of_its_record_only_what_is_its_own_to_say() {
    const OWN: &[&str] = &[
        "name",
        "description",
        "tag",
        "address",
        "contact",
        "support_email",
        "profile",
        "labels",
        "use_tenant_languages",
    ];
    let world = world().await;
    let own = &world.strangers["tenant-admin"];
    let descriptor = POOL.get_message_by_name("tenantry.v1.Tenant").unwrap();
    let stored = own.get("").await.unwrap();
    let values: BTreeMap<&str, &str> = [
        ("name", r#""New""#),
        ("description", r#""new""#),
        ("tag", r#""new""#),
        ("address", r#"{"locality": "Brussels"}"#),
        ("contact", r#"{"name": "New"}"#),
        ("support_email", r#""new@example.com""#),
        ("profile", r#"{"new": 1}"#),
        ("labels", r#"{"new": "1"}"#),
        ("use_tenant_languages", "true"),
        ("tenant_id", r#""other""#),
        ("account_id", r#""theirs""#),
        ("code", r#""OTHER""#),
        ("type", r#""TENANT_TYPE_CLIENT""#),
        ("organization_kind", r#""ORGANIZATION_KIND_SERVICE_PROVIDER""#),
        ("service_line", r#""SERVICE_LINE_ISSUANCE""#),
        ("parent_tenant_id", r#""theirs-high""#),
        ("console", "true"),
        ("contract_mode", r#""CONTRACT_MODE_TRIAL""#),
        ("hostname", r#""other.example.org""#),
        ("default_domain", r#""theirs.example.com""#),
        ("external_ids", r#"{"1": "other"}"#),
        ("use_custom_routing_profile", "true"),
        ("sp_idp", "true"),
        ("protected", "true"),
        ("reseller_id", r#""other""#),
        ("backend_id", r#""other""#),
    ]
    .into();

    for field in descriptor.fields() {
        let name = field.name();
        let Some(value) = values.get(name) else {
            // Sent or not, the service sets these itself.
            assert!(
                ["uid", "state", "lock", "effective_lock", "admin_user", "status_details", "etag"]
                    .contains(&name)
                    || name.ends_with("_time"),
                "say what happens to {name}"
            );
            continue;
        };
        let json = format!(r#"{{"tenant": {{"{name}": {value}}}}}"#);
        let update = POOL
            .get_service_by_name("tenantry.v1.TenantService")
            .unwrap()
            .methods()
            .find(|method| method.name() == "UpdateTenant")
            .unwrap();

        let answer =
            own.raw("/tenantry.v1.TenantService/UpdateTenant", message(&update, &json)).await;

        match answer {
            Ok(_) => assert!(OWN.contains(&name), "{name} was raised"),
            Err(status) => {
                assert!(!OWN.contains(&name), "{name}: {status:?}");
                let told = told(&status);
                assert!(
                    told.starts_with("PermissionDenied")
                        || told.starts_with("NotFound")
                        || told.starts_with("InvalidArgument"),
                    "{name}: {told}"
                );
            }
        }
    }
    let now = own.get("").await.unwrap();
    assert_eq!(now.name(), "New");
    assert_eq!(
        (now.hostname(), now.default_domain(), now.contract_mode()),
        (stored.hostname(), stored.default_domain(), stored.contract_mode())
    );
}

async fn try_key(caller: &Caller, key: pb::ApiKey) -> Result<pb::ApiKey, Status> {
    let request = pb::CreateApiKeyRequest { api_key: Some(key), ..Default::default() };
    Ok(caller.keys().create_api_key(request).await?.into_inner().api_key.unwrap())
}

/// 4-15: what a key grants lies within what its creator may do.
#[tokio::test]
async fn no_key_makes_a_key_that_may_more_than_itself() {
    let world = world().await;
    let roles = world.app.as_root().keys().list_roles(pb::ListRolesRequest::default()).await;
    let roles = roles.unwrap().into_inner().roles;
    let permissions =
        |id: &str| roles.iter().find(|role| role.role_id == id).unwrap().permissions.clone();

    for (kind, own_role) in [("account-admin", "account-admin"), ("tenant-admin", "tenant-admin")] {
        let caller = &world.strangers[kind];
        let own = permissions(own_role);
        for role in &roles {
            let key = pb::ApiKey {
                roles: vec![role.role_id.clone()],
                reseller_id: if role.role_id == "reseller" {
                    "north".into()
                } else {
                    String::new()
                },
                ..Default::default()
            };
            let Ok(made) = try_key(caller, key).await else { continue };
            let more: Vec<_> =
                made.permissions.iter().filter(|granted| !own.contains(granted)).collect();
            assert!(more.is_empty(), "{kind} made {}, with {more:?}", role.role_id);
            assert_eq!(made.account_id, "ours");
        }
        let bound = pb::ApiKey {
            roles: vec![own_role.into()],
            environment: "sod".into(),
            ..Default::default()
        };
        let request = pb::CreateApiKeyRequest { api_key: Some(bound), ..Default::default() };
        let bound = caller.keys().create_api_key(request).await.unwrap().into_inner().secret;
        for (environment, may) in [("sod", true), ("production", false), ("", false)] {
            let key = pb::ApiKey {
                roles: vec!["key-verifier".into()],
                environment: environment.into(),
                ..Default::default()
            };
            let made = try_key(&world.app.as_key(&bound), key).await;
            assert_eq!(made.is_ok(), may, "{kind}: from sod to {environment:?}");
        }
        for wider in [pb::ApiKeyScope::System, pb::ApiKeyScope::Account] {
            let key = pb::ApiKey {
                roles: vec!["key-verifier".into()],
                scope: wider.into(),
                ..Default::default()
            };
            let made = try_key(caller, key).await;
            let may = kind == "account-admin" && wider == pb::ApiKeyScope::Account;
            assert_eq!(made.is_ok(), may, "{kind} {wider:?} {made:?}");
        }
    }
}

#[tokio::test]
async fn a_page_token_of_somebody_else_shows_nothing_of_theirs() {
    let world = world().await;
    let request = pb::ListTenantsRequest { page_size: 1, ..Default::default() };
    let page = world.app.as_root().tenants().list_tenants(request).await.unwrap().into_inner();

    let request = pb::ListTenantsRequest { page_token: page.next_page_token, ..Default::default() };
    let answer = world.strangers["tenant-admin"].tenants().list_tenants(request).await;

    match answer {
        Ok(answer) => {
            for tenant in answer.into_inner().tenants {
                assert_eq!(tenant.tenant_id, "ours-low");
            }
        }
        Err(status) => assert_eq!(fields(&status), ["page_token"]),
    }
}

#[tokio::test]
async fn a_stored_answer_is_not_replayed_to_another_key() {
    let world = world().await;
    let request = pb::CreateApiKeyRequest {
        api_key: Some(pb::ApiKey { roles: vec!["tenant-management".into()], ..Default::default() }),
        request_id: "same".into(),
        ..Default::default()
    };
    let first = &world.strangers["tenant-admin"];
    let second = world.app.as_root().with("x-tenant-id", "ours-low");
    let second = world.app.as_key(&second.create_key(&["tenant-admin"]).await);

    let one = first.keys().create_api_key(request.clone()).await.unwrap().into_inner();
    let two = second.keys().create_api_key(request).await.unwrap().into_inner();

    assert_ne!(one.secret, two.secret);
}

/// 1-46: nor does it through a deleted tenant's keys.
#[tokio::test]
async fn keys_of_a_deleted_tenant_rest_until_it_is_back() {
    let world = world().await;
    let own = &world.strangers["tenant-admin"];
    let root = world.app.as_root();

    let delete = json!({"tenant_id": "ours-low", "delete_even_if_non_empty": true});
    root.call("DeleteTenant", delete).await.unwrap();
    let refusal = own.get("").await.unwrap_err();
    root.undelete("ours-low").await.unwrap();

    assert_eq!(told(&refusal), "FailedPrecondition TENANT_NOT_ACTIVE");
    own.get("").await.unwrap();
}

#[tokio::test]
async fn a_revoked_key_is_refused_from_the_next_call_on() {
    let world = world().await;
    let theirs = world.app.as_key(&world.their_secret);
    theirs.get("").await.unwrap();
    let request = pb::RevokeApiKeyRequest {
        api_key_id: world.their_key.clone(),
        reason: "lost".into(),
        ..Default::default()
    };

    world.app.as_root().keys().revoke_api_key(request).await.unwrap();

    assert_eq!(told(&theirs.get("").await.unwrap_err()), "Unauthenticated CREDENTIAL_INVALID");
}
