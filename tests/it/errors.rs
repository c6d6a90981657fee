//! Every reason that the protos promise, produced by a real call, with all that it carries.

use std::collections::{BTreeMap, BTreeSet};

use diesel_async::SimpleAsyncConnection as _;
use serde_json::json;
use tenantry::pb;
use tonic::Status;
use tonic_types::StatusExt as _;

use crate::app::{App, Caller, tenant, told};

/// The reasons that other tests produce, since each needs a state of its own.
const ELSEWHERE: &[(&str, &str)] = &[
    ("UNSPECIFIED", "no error has it"),
    ("INTERNAL", "a bug: no call may produce it"),
    ("CANCELLED", "nobody is left to be told; see mutations::calls_that_are_cancelled_…"),
    ("CONTENDED", "needs a deadlock that lasts; see the table in src/error.rs"),
    ("DATABASE_UNAVAILABLE", "a_database_that_is_away_is_told_as_such"),
    ("OVERLOADED", "a_pool_whose_connections_are_all_taken_is_told_as_such"),
    ("DEADLINE_EXCEEDED", "metadata::a_deadline_reaches_the_database_…"),
    ("MESSAGE_TOO_LARGE", "bad_input::a_message_above_the_limit_…"),
    ("INVALID_MESSAGE", "bad_input::what_is_no_message_at_all_…"),
    ("KEY_ALREADY_EXISTS", "import::a_hash_that_is_another_keys_ends_the_stream_…"),
    ("CURSOR_EXPIRED", "events::events_go_by_whole_weeks_and_cursors_with_them"),
    ("WATCHER_TOO_SLOW", "events::a_caller_that_does_not_read_is_cut_off_…"),
    ("TOO_MANY_WATCHERS", "events::a_thousand_watchers_…"),
    ("TENANT_MOVED", "events::a_stream_ends_with_the_right_to_it"),
    ("METHOD_UNKNOWN", "contract::a_method_that_does_not_exist_…"),
];

async fn delete(caller: &Caller, id: &str, etag: &str) -> Status {
    let request =
        pb::DeleteTenantRequest { tenant_id: id.into(), etag: etag.into(), ..Default::default() };
    caller.tenants().delete_tenant(request).await.unwrap_err()
}

async fn create_key(caller: &Caller, key: pb::ApiKey) -> Result<pb::CreateApiKeyResponse, Status> {
    let request = pb::CreateApiKeyRequest { api_key: Some(key), ..Default::default() };
    Ok(caller.keys().create_api_key(request).await?.into_inner())
}

async fn list(caller: &Caller, request: pb::ListTenantsRequest) -> Status {
    caller.tenants().list_tenants(request).await.unwrap_err()
}

fn client(id: &str, parent: Option<&str>) -> pb::Tenant {
    pb::Tenant {
        r#type: pb::TenantType::Client.into(),
        parent_tenant_id: parent.map(str::to_owned),
        ..tenant(id)
    }
}

/// Makes one call for each reason; answers what was refused and how.
async fn refusals(app: &App) -> Vec<(&'static str, Status)> {
    let root = app.as_root();
    let mut told = Vec::new();
    for id in ["foo", "parent", "gone"] {
        root.create(tenant(id)).await.unwrap();
    }
    root.create(client("child", Some("parent"))).await.unwrap();
    root.delete("gone").await.unwrap();
    let own = root.with("x-tenant-id", "foo").create_key(&["tenant-admin"]).await;
    let own = app.as_key(&own);
    // The key of a service provider's admin may delete, but not its own tenant.
    let provider = pb::Tenant {
        organization_kind: pb::OrganizationKind::ServiceProvider.into(),
        ..tenant("provider")
    };
    root.create(provider).await.unwrap();
    let provider =
        root.with("x-tenant-id", "provider").create_key(&["service-provider-admin"]).await;
    let provider = app.as_key(&provider);

    let mut add = |reason, status| told.push((reason, status));
    add("INVALID_FIELD", root.create(tenant("No Id")).await.unwrap_err());
    let code =
        pb::Tenant { code: Some("OTHER".into()), tenant_id: "foo".into(), ..Default::default() };
    add("IMMUTABLE_FIELD", root.update(code).await.unwrap_err());
    let filter = pb::ListTenantsRequest { filter: "colour = 1".into(), ..Default::default() };
    add("INVALID_FILTER", list(&root, filter).await);
    let token = pb::ListTenantsRequest { page_token: "garbage".into(), ..Default::default() };
    add("INVALID_PAGE_TOKEN", list(&root, token).await);
    add("INVALID_METADATA", root.with("x-tenant-id", "No Id").get("foo").await.unwrap_err());
    add("CREDENTIAL_INVALID", app.anonymous().get("foo").await.unwrap_err());
    add("PERMISSION_MISSING", delete(&own, "foo", "").await);
    add("TENANT_MISMATCH", own.with("x-tenant-id", "parent").get("").await.unwrap_err());
    add("TENANT_NOT_FOUND", root.get("nobody").await.unwrap_err());
    add("TENANT_ALREADY_EXISTS", root.create(tenant("foo")).await.unwrap_err());
    add("PARENT_REQUIRED", root.create(client("orphan", None)).await.unwrap_err());
    add("PARENT_NOT_FOUND", root.create(client("orphan", Some("nobody"))).await.unwrap_err());
    add("ACCOUNT_NOT_FOUND", root.with("x-account-id", "nobody").get("foo").await.unwrap_err());
    let account =
        pb::Account { account_id: "default".into(), name: Some("D".into()), ..Default::default() };
    let account = pb::CreateAccountRequest { account: Some(account), ..Default::default() };
    add("ACCOUNT_ALREADY_EXISTS", root.directory().create_account(account).await.unwrap_err());
    let environment = pb::GetEnvironmentRequest { environment_id: "moon".into() };
    add("ENVIRONMENT_NOT_FOUND", root.directory().get_environment(environment).await.unwrap_err());
    let environment = pb::Environment {
        environment_id: "sod".into(),
        name: Some("S".into()),
        ..Default::default()
    };
    let environment =
        pb::CreateEnvironmentRequest { environment: Some(environment), ..Default::default() };
    let refusal = root.directory().create_environment(environment).await.unwrap_err();
    add("ENVIRONMENT_ALREADY_EXISTS", refusal);
    let domain = pb::GetDomainRequest { domain_id: "nowhere.be".into() };
    add("DOMAIN_NOT_FOUND", root.directory().get_domain(domain).await.unwrap_err());
    let domain = pb::CreateDomainRequest {
        domain: Some(pb::Domain { domain_id: "netaxis.be".into(), ..Default::default() }),
        ..Default::default()
    };
    root.directory().create_domain(domain.clone()).await.unwrap();
    add("DOMAIN_ALREADY_EXISTS", root.directory().create_domain(domain).await.unwrap_err());
    let key = pb::RevokeApiKeyRequest {
        api_key_id: uuid::Uuid::nil().to_string(),
        reason: "lost".into(),
        ..Default::default()
    };
    add("KEY_NOT_FOUND", root.keys().revoke_api_key(key).await.unwrap_err());
    let account = pb::DeleteAccountRequest { account_id: "default".into(), ..Default::default() };
    add("RECORD_IN_USE", root.directory().delete_account(account).await.unwrap_err());
    add("HAS_CHILD_TENANTS", delete(&root, "parent", "").await);
    add("CANNOT_DELETE_SELF", delete(&provider, "provider", "").await);
    let gone =
        pb::Tenant { tenant_id: "gone".into(), tag: Some("new".into()), ..Default::default() };
    add("TENANT_NOT_ACTIVE", root.update(gone).await.unwrap_err());
    add("INVALID_STATE_TRANSITION", delete(&root, "gone", "").await);
    let trial = pb::Tenant {
        tenant_id: "foo".into(),
        contract_mode: pb::ContractMode::Trial.into(),
        ..Default::default()
    };
    add("CONTRACT_MODE_NOT_ALLOWED", root.update(trial).await.unwrap_err());
    let external = pb::ExternalId { key: "1".into(), value: "same".into() };
    for id in ["twin-1", "twin-2"] {
        let ids = [("1".to_owned(), "same".to_owned())].into();
        root.create(pb::Tenant { external_ids: ids, ..tenant(id) }).await.unwrap();
    }
    let lookup = pb::LookupTenantRequest {
        selector: Some(pb::lookup_tenant_request::Selector::ExternalId(external)),
    };
    add("AMBIGUOUS", root.tenants().lookup_tenant(lookup).await.unwrap_err());
    let who = root.keys().who_am_i(pb::WhoAmIRequest {}).await.unwrap().into_inner();
    let last = pb::RevokeApiKeyRequest {
        api_key_id: who.api_key.unwrap().api_key_id,
        reason: "lost".into(),
        ..Default::default()
    };
    add("LAST_ADMIN_KEY", root.keys().revoke_api_key(last).await.unwrap_err());
    let of_full = root.with("x-tenant-id", "parent");
    let group = json!({"group": {"group_id": "one", "name": "One"}});
    of_full.call("CreateGroup", group).await.unwrap();
    root.delete("child").await.unwrap();
    add("TENANT_NOT_EMPTY", delete(&root, "parent", "").await);
    add("SERVICE_PROVIDER_NOT_DELETABLE", delete(&root, "provider", "").await);
    let lock = json!({"tenant_id": "foo", "mode": "LOCK_MODE_FULL", "reason": "unpaid"});
    root.call("LockTenant", lock).await.unwrap();
    add("TENANT_LOCKED", own.get("").await.unwrap_err());
    root.call("UnlockTenant", json!({"tenant_id": "foo"})).await.unwrap();
    let of_foo = root.with("x-tenant-id", "foo");
    let allowlist = json!({"enabled": true, "rules": [{"name": "elsewhere", "cidr": "192.0.2.1"}]});
    add("LOCKOUT_RISK", own.call("UpdateIpAllowlist", allowlist.clone()).await.unwrap_err());
    of_foo.call("UpdateIpAllowlist", allowlist).await.unwrap();
    add("IP_NOT_ALLOWED", own.get("").await.unwrap_err());
    of_foo.call("UpdateIpAllowlist", json!({"enabled": false})).await.unwrap();
    let installation = json!({"installation_id": "nowhere"});
    add("APPLICATION_NOT_FOUND", own.call("GetInstallation", installation).await.unwrap_err());
    let new =
        json!({"application": {"application_id": "app", "name": "App", "environments": ["sod"]}});
    root.call("CreateApplication", new.clone()).await.unwrap();
    add("APPLICATION_ALREADY_EXISTS", root.call("CreateApplication", new).await.unwrap_err());
    let elsewhere = json!({"application_id": "app", "environment": "production"});
    let elsewhere = root.call("RotateApplicationClientSecret", elsewhere).await.unwrap_err();
    add("ENVIRONMENT_NOT_PUBLISHED", elsewhere);
    requests(app, &mut add).await;
    let claimed = "insert into application_ids select 'x-' || number, 'default' from generate_series(1, 10000) number";
    app.superuser().await.batch_execute(claimed).await.unwrap();
    let more = json!({"application": {"name": "App", "environments": ["sod"]}});
    let more = root.call("CreateApplication", more).await.unwrap_err();
    add("APPLICATION_LIMIT_EXCEEDED", more);
    let granted = json!({"tenant_id": "foo", "application_id": "app", "environment": "sod"});
    root.call("GrantAuthorization", granted.clone()).await.unwrap();
    add("AUTHORIZATION_EXISTS", root.call("GrantAuthorization", granted).await.unwrap_err());
    let nowhere = json!({"authorization_id": "00000000-0000-0000-0000-000000000000"});
    add("AUTHORIZATION_NOT_FOUND", root.call("GetAuthorization", nowhere).await.unwrap_err());
    let ahead =
        json!({"key": app.root, "environment": "sod", "min_revision": "99999999:99999999:"});
    add("REVISION_AHEAD", root.call("VerifyKey", ahead).await.unwrap_err());
    let server = json!({"oauth_client": {"type": 0}});
    add("OAUTH_TYPE_CONFLICT", own.call("UpdateOAuthClient", server).await.unwrap_err());
    for (kind, record) in [
        ("Reseller", json!({"reseller_id": "north"})),
        ("Backend", json!({"backend_id": "north", "external_name": "North"})),
        ("Product", json!({"product_code": "NORTH", "name": "North"})),
        ("TenantTemplate", json!({"template_id": "north"})),
    ] {
        let name = kind.replace("TenantT", "tenant_t").to_lowercase();
        let id = ["reseller_id", "backend_id", "product_code", "template_id"]
            .into_iter()
            .find(|id| record.get(id).is_some())
            .unwrap();
        let get = format!("Get{kind}");
        let missing = root.call(&get, json!({ id: record[id] })).await.unwrap_err();
        let new = json!({ name: record });
        root.call(&format!("Create{kind}"), new.clone()).await.unwrap();
        let again = root.call(&format!("Create{kind}"), new).await.unwrap_err();
        let (not_found, exists) = match kind {
            "Reseller" => ("RESELLER_NOT_FOUND", "RESELLER_ALREADY_EXISTS"),
            "Backend" => ("BACKEND_NOT_FOUND", "BACKEND_ALREADY_EXISTS"),
            "Product" => ("PRODUCT_OR_PACKAGE_UNKNOWN", "PRODUCT_ALREADY_EXISTS"),
            _ => ("TEMPLATE_NOT_FOUND", "TEMPLATE_ALREADY_EXISTS"),
        };
        add(not_found, missing);
        add(exists, again);
    }
    let request = json!({
        "tenant": {
            "name": "x", "description": "", "type": "TENANT_TYPE_PRODUCT",
            "organization_kind": "ORGANIZATION_KIND_ENTERPRISE",
        },
        "admin_api_application": {"name": "x", "sp_role_id": "1"},
    });
    let of_provider = root.call("CreateTenant", request).await.unwrap_err();
    add("SP_ROLE_NOT_SUPPORTED", of_provider);
    let placed = |id: &str| json!({"tenant": {"tenant_id": "there", "backend_id": id}});
    root.create(tenant("there")).await.unwrap();
    add("NO_BACKEND_AVAILABLE", root.call("UpdateTenant", placed("none")).await.unwrap_err());
    let admin = root.with("x-account-id", "default").create_key(&["account-admin"]).await;
    let above = app.as_key(&admin).call("UpdateTenant", placed("north")).await.unwrap_err();
    add("UNAUTHORIZED_PARAMETER_FOR_USER_LEVEL", above);
    root.create(pb::Tenant { protected: Some(true), ..tenant("protected") }).await.unwrap();
    let admin =
        app.as_key(&root.with("x-account-id", "default").create_key(&["account-admin"]).await);
    add("RECORD_PROTECTED", delete(&admin, "protected", "").await);
    root.directory().create_account(account_with_limit("full", 0)).await.unwrap();
    let full = root.with("x-account-id", "full").create(tenant("too-many")).await;
    add("TENANT_LIMIT_EXCEEDED", full.unwrap_err());
    add("ETAG_MISMATCH", delete(&root, "foo", "4711").await);
    let once = |id: &str| pb::CreateTenantRequest {
        tenant: Some(tenant(id)),
        request_id: "once".into(),
        ..Default::default()
    };
    root.tenants().create_tenant(once("once")).await.unwrap();
    add("IDEMPOTENCY_CONFLICT", root.tenants().create_tenant(once("twice")).await.unwrap_err());
    let group = pb::GetGroupRequest { group_id: "nobody".into() };
    add("GROUP_NOT_FOUND", own.tenants().get_group(group).await.unwrap_err());
    let group = pb::Group { group_id: "g".into(), name: Some("G".into()), ..Default::default() };
    let group = pb::CreateGroupRequest { group: Some(group), ..Default::default() };
    own.tenants().create_group(group.clone()).await.unwrap();
    add("GROUP_ALREADY_EXISTS", own.tenants().create_group(group).await.unwrap_err());
    let document = json!({"application_id": "app", "end_user_id": "nobody"});
    add("APP_DATA_NOT_FOUND", own.call("DeleteEndUserAppData", document).await.unwrap_err());
    let usage = pb::UsageRecord {
        usage_type: pb::UsageType::Users.into(),
        aggregation_period: pb::AggregationPeriod::Daily.into(),
        start_time: Some("2026-11-22T00:00:00Z".parse().unwrap()),
        ..Default::default()
    };
    let usage = pb::RecordUsageRequest { usage_record: Some(usage), ..Default::default() };
    of_foo.tenants().record_usage(usage.clone()).await.unwrap();
    add("USAGE_ALREADY_RECORDED", of_foo.tenants().record_usage(usage).await.unwrap_err());
    let entitlement = pb::Entitlement {
        r#type: pb::EntitlementType::Users.into(),
        quantity: Some(1),
        contract_mode: pb::ContractMode::Production.into(),
        ..Default::default()
    };
    let set = pb::SetEntitlementRequest { entitlement: Some(entitlement), ..Default::default() };
    let below = pb::Tenant { parent_tenant_id: Some("provider".into()), ..tenant("below") };
    root.create(below).await.unwrap();
    let below = root.with("x-tenant-id", "below");
    add("ENTITLEMENT_EXCEEDED", below.tenants().set_entitlement(set.clone()).await.unwrap_err());
    let issuer = pb::Tenant { service_line: pb::ServiceLine::Issuance.into(), ..tenant("issuer") };
    root.create(issuer).await.unwrap();
    let issuer = root.with("x-tenant-id", "issuer");
    add("ISSUANCE_BUNDLE_INVALID", issuer.tenants().set_entitlement(set).await.unwrap_err());
    let missing = json!({"name": "operations/0199d3b0-0000-7000-8000-000000000000"});
    add("OPERATION_NOT_FOUND", root.call("GetOperation", missing).await.unwrap_err());
    let later =
        pb::CreateTenantAsyncRequest { tenant: Some(tenant("later")), ..Default::default() };
    let later = root.tenants().create_tenant_async(later).await.unwrap().into_inner().name;
    root.call("WaitOperation", json!({"name": later})).await.unwrap();
    root.call("TakeTenantResult", json!({"operation": later})).await.unwrap();
    let again = root.call("TakeTenantResult", json!({"operation": later})).await.unwrap_err();
    add("RESULT_ALREADY_CONSUMED", again);
    let weak = create_key(&own, pb::ApiKey { roles: vec!["auditor".into()], ..Default::default() });
    add("PERMISSION_MISSING", weak.await.unwrap_err());
    told
}

fn account_with_limit(id: &str, max_tenants: i32) -> pb::CreateAccountRequest {
    let account = pb::Account {
        account_id: id.into(),
        name: Some(id.into()),
        max_tenants: Some(max_tenants),
        ..Default::default()
    };
    pb::CreateAccountRequest { account: Some(account), ..Default::default() }
}

/// What stands against asking customers.
async fn requests(app: &App, add: &mut impl FnMut(&'static str, Status)) {
    let root = app.as_root();
    let asking = json!({"application": {"application_id": "asking", "name": "Asking",
        "environments": ["sod", "production"], "scopes": ["read"]}});
    root.call("CreateApplication", asking).await.unwrap();
    let ask = |environment: &str| {
        json!({"application_id": "asking", "environment": environment, "customer_id": "foo",
            "customer_name": "Foo", "contact_email": "a@b.c"})
    };
    let elsewhere = root.call("RequestAuthorization", ask("sod")).await.unwrap_err();
    add("ENVIRONMENT_NOT_REQUESTABLE", elsewhere);
    let pending = root.call("RequestAuthorization", ask("production")).await.unwrap();
    let again = root.call("RequestAuthorization", ask("production")).await.unwrap_err();
    add("REQUEST_ALREADY_PENDING", again);
    let id = &pending["authorization_request"]["authorization_request_id"];
    let named = json!({ "authorization_request_id": id });
    for _ in 0..4 {
        root.call("ResendAuthorizationRequest", named.clone()).await.unwrap();
    }
    let sixth = root.call("ResendAuthorizationRequest", named.clone()).await.unwrap_err();
    add("MAIL_LIMIT_EXCEEDED", sixth);
    root.call("CancelAuthorizationRequest", named.clone()).await.unwrap();
    let over = root.call("CancelAuthorizationRequest", named).await.unwrap_err();
    add("REQUEST_NOT_PENDING", over);
    let changed = json!({"application_id": "asking", "customer_id": "foo", "customer_name": "Foo",
        "contact_email": "a@b.c", "scopes": ["read"]});
    let another = root.create_key(&["system-admin"]).await;
    app.shared.clock.advance(chrono::TimeDelta::days(1));
    let changed = app.as_key(&another).call("RequestAuthorization", changed).await.unwrap();
    let less = json!({"application": {"application_id": "asking"}, "update_mask": "scopes"});
    root.call("UpdateApplication", less).await.unwrap();
    let id = &changed["authorization_request"]["authorization_request_id"];
    let changed = root
        .call("ApproveAuthorizationRequest", json!({ "authorization_request_id": id }))
        .await
        .unwrap_err();
    add("APPLICATION_CHANGED", changed);
    let more = json!({"application": {"application_id": "asking", "scopes": ["read"]}});
    root.call("UpdateApplication", more).await.unwrap();
    let nowhere = json!({"authorization_request_id": "00000000-0000-0000-0000-000000000000"});
    let nowhere = root.call("GetAuthorizationRequest", nowhere).await.unwrap_err();
    add("AUTHORIZATION_REQUEST_NOT_FOUND", nowhere);
    let granted = json!({"tenant_id": "foo", "application_id": "asking", "environment": "sod"});
    let granted = root.call("GrantAuthorization", granted).await.unwrap();
    let id = &granted["authorization"]["authorization_id"];
    let revoke = json!({"authorization_id": id, "contact_email": "a@b.c", "reason": "over"});
    root.call("RevokeAuthorization", revoke).await.unwrap();
    let update = json!({"authorization_id": id, "on_behalf_of": "Foo", "contact_email": "a@b.c",
        "scopes": ["read"]});
    let update = root.call("RequestAuthorizationUpdate", update).await.unwrap_err();
    add("AUTHORIZATION_NOT_ACTIVE", update);
}

#[tokio::test]
async fn every_reason_is_produced_with_its_code_and_all_that_errors_carry() {
    let app = App::start_working().await;
    let code_of = |reason: &str| match reason {
        "CREDENTIAL_INVALID" => "Unauthenticated",
        "REVISION_AHEAD" => "Unavailable",
        "PERMISSION_MISSING"
        | "UNAUTHORIZED_PARAMETER_FOR_USER_LEVEL"
        | "TENANT_MISMATCH"
        | "IP_NOT_ALLOWED" => "PermissionDenied",
        "PRODUCT_OR_PACKAGE_UNKNOWN" => "NotFound",
        reason if reason.ends_with("_NOT_FOUND") => "NotFound",
        reason if reason.ends_with("_ALREADY_EXISTS") => "AlreadyExists",
        reason if reason.starts_with("INVALID_") && reason != "INVALID_STATE_TRANSITION" => {
            "InvalidArgument"
        }
        "IMMUTABLE_FIELD"
        | "SP_ROLE_NOT_SUPPORTED"
        | "PARENT_REQUIRED"
        | "ISSUANCE_BUNDLE_INVALID" => "InvalidArgument",
        "USAGE_ALREADY_RECORDED" | "AUTHORIZATION_EXISTS" | "REQUEST_ALREADY_PENDING" => {
            "AlreadyExists"
        }
        "ENTITLEMENT_EXCEEDED"
        | "TENANT_LIMIT_EXCEEDED"
        | "APPLICATION_LIMIT_EXCEEDED"
        | "MAIL_LIMIT_EXCEEDED" => "ResourceExhausted",
        "ETAG_MISMATCH" => "Aborted",
        _ => "FailedPrecondition",
    };
    let legacy: BTreeMap<&str, &str> = [
        ("TENANT_NOT_FOUND", "450"),
        ("TENANT_ALREADY_EXISTS", "451"),
        ("PARENT_REQUIRED", "452"),
        ("OAUTH_TYPE_CONFLICT", "459"),
        ("APPLICATION_NOT_FOUND", "472"),
        ("PARENT_NOT_FOUND", "453"),
        ("CANNOT_DELETE_SELF", "462"),
        ("KEY_NOT_FOUND", "473"),
        ("RECORD_PROTECTED", "500"),
        ("PRODUCT_OR_PACKAGE_UNKNOWN", "460"),
        ("RESELLER_ALREADY_EXISTS", "11"),
        ("ENVIRONMENT_NOT_FOUND", "501"),
        ("UNAUTHORIZED_PARAMETER_FOR_USER_LEVEL", "58"),
        ("NO_BACKEND_AVAILABLE", "61"),
    ]
    .into();

    let mut produced = BTreeSet::new();
    for (reason, status) in Box::pin(refusals(&app)).await {
        assert_eq!(told(&status), format!("{} {reason}", code_of(reason)), "{status:?}");
        let details = status.get_error_details();
        let info = details.error_info().unwrap();
        assert_eq!(info.domain, "tenantry");
        assert_eq!(
            info.metadata.get("legacy_code").map(String::as_str),
            legacy.get(reason).copied(),
            "{reason}"
        );
        let correlation_id = status.metadata().get("x-correlation-id").unwrap();
        assert_eq!(details.request_info().unwrap().request_id, correlation_id.to_str().unwrap());
        let has_fields = details.bad_request().is_some();
        assert_eq!(has_fields, status.code() == tonic::Code::InvalidArgument, "{reason}");
        let has_quota = details.quota_failure().is_some();
        assert_eq!(has_quota, status.code() == tonic::Code::ResourceExhausted, "{reason}");
        if status.code() == tonic::Code::FailedPrecondition && reason != "IDEMPOTENCY_CONFLICT" {
            assert!(details.precondition_failure().is_some(), "{reason}");
        }
        assert!(!status.message().is_empty() && status.message().len() < 500, "{reason}");
        produced.insert(reason);
    }

    let elsewhere: BTreeSet<&str> = ELSEWHERE.iter().map(|(reason, _)| *reason).collect();
    let promised = tenantry::rpc::permit::POOL
        .get_enum_by_name("tenantry.v1.ErrorReason")
        .unwrap()
        .values()
        .map(|value| value.name().trim_start_matches("ERROR_REASON_").to_owned())
        .collect::<BTreeSet<_>>();
    let shown: BTreeSet<String> =
        produced.union(&elsewhere).map(|reason| (*reason).to_owned()).collect();
    assert_eq!(shown, promised);
}

#[tokio::test]
async fn a_database_that_is_away_is_told_as_such_and_found_again() {
    let app = App::start().await;
    app.as_root().create(tenant("foo")).await.unwrap();
    let database = app.database();
    let mut admin = app.cluster_admin().await;
    let away = format!(
        "alter database {database} allow_connections false; \
         select pg_terminate_backend(pid) from pg_stat_activity where datname = '{database}'"
    );

    admin.batch_execute(&away).await.unwrap();
    let refusal = app.as_root().get("foo").await.unwrap_err();
    let back = format!("alter database {database} allow_connections true");
    admin.batch_execute(&back).await.unwrap();

    assert_eq!(told(&refusal), "Unavailable DATABASE_UNAVAILABLE");
    assert!(refusal.get_error_details().retry_info().is_some());
    assert!(!refusal.message().contains(&database), "nothing of the inside: {}", refusal.message());
    app.as_root().get("foo").await.unwrap();
}

#[tokio::test]
async fn a_pool_whose_connections_are_all_taken_is_told_as_such() {
    let app = App::start_with(|settings| {
        settings.pool.size = 1;
        settings.statement_timeout = std::time::Duration::from_secs(20);
    })
    .await;
    app.as_root().create(tenant("foo")).await.unwrap();
    let mut holder = app.superuser().await;
    holder.batch_execute("begin; lock table tenants in access exclusive mode").await.unwrap();

    let first = tokio::spawn({
        let root = app.as_root();
        async move { root.get("foo").await }
    });
    // The only connection is taken once its statement waits.
    let waiting = "select count(*) as number from pg_stat_activity \
                   where datname = current_database() and wait_event_type = 'Lock'";
    while crate::app::count(&app, waiting).await == 0 {
        tokio::task::yield_now().await;
    }
    let refusal = app.as_root().get("foo").await.unwrap_err();
    holder.batch_execute("rollback").await.unwrap();

    assert_eq!(told(&refusal), "Unavailable OVERLOADED");
    assert!(refusal.get_error_details().retry_info().is_some());
    first.await.unwrap().unwrap();
}
