//! The one path of every change: once, with its event, or not at all.

use diesel::{
    QueryableByName, sql_query,
    sql_types::{BigInt, Nullable, Text},
};
use diesel_async::RunQueryDsl;
use futures_util::future::join_all;
use serde_json::json;
use tenantry::pb;

use crate::app::{App, Caller, count, fields, product, rows, tenant, told};

fn create(tenant: pb::Tenant, request_id: &str) -> pb::CreateTenantRequest {
    pb::CreateTenantRequest {
        tenant: Some(tenant),
        request_id: request_id.to_owned(),
        ..Default::default()
    }
}

async fn try_to_create(
    caller: &Caller,
    request: &pb::CreateTenantRequest,
) -> Result<pb::Tenant, tonic::Status> {
    let answer = caller.tenants().create_tenant(request.clone()).await?;
    Ok(answer.into_inner().tenant.unwrap())
}

#[derive(QueryableByName, Debug, PartialEq, Eq)]
struct Told {
    #[diesel(sql_type = Text)]
    r#type: String,
    #[diesel(sql_type = Text)]
    actor: String,
    #[diesel(sql_type = Text)]
    correlation_id: String,
    #[diesel(sql_type = Nullable<Text>)]
    before: Option<String>,
    #[diesel(sql_type = Nullable<Text>)]
    after: Option<String>,
}

/// What was told since some number of events.
async fn events(app: &App, skip: i64) -> Vec<Told> {
    sql_query(
        "select type, actor, correlation_id, before::text as before, after::text as after \
         from events order by event_id offset $1",
    )
    .bind::<BigInt, _>(skip)
    .load(&mut app.superuser().await)
    .await
    .unwrap()
}

async fn number_of_events(app: &App) -> i64 {
    count(app, "select count(*) as number from events").await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_concurrent_tries_of_one_request_have_one_effect_and_one_answer() {
    let app = App::start().await;
    let root = app.as_root();
    let before = number_of_events(&app).await;
    // Without an id: each try that took effect would make a tenant of its own.
    let mut nameless = tenant("x");
    nameless.tenant_id.clear();
    let request = create(nameless, "one");

    let answers = join_all((0..100).map(|_| try_to_create(&root, &request))).await;

    let first = answers[0].as_ref().unwrap();
    assert!(!first.tenant_id.is_empty());
    for answer in &answers {
        assert_eq!(answer.as_ref().unwrap(), first);
    }
    assert_eq!(count(&app, "select count(*) as number from tenants").await, 1);
    assert_eq!(number_of_events(&app).await - before, 1);
}

#[tokio::test]
async fn one_request_id_for_two_bodies_is_a_conflict_and_changes_nothing() {
    let app = App::start().await;
    let root = app.as_root();
    try_to_create(&root, &create(tenant("one"), "same")).await.unwrap();
    let before = rows(&app).await;

    let refusal = try_to_create(&root, &create(tenant("two"), "same")).await.unwrap_err();

    assert_eq!(told(&refusal), "FailedPrecondition IDEMPOTENCY_CONFLICT");
    assert!(refusal.message().contains("same"), "{}", refusal.message());
    assert_eq!(rows(&app).await, before);
}

#[tokio::test]
async fn a_request_id_belongs_to_its_caller_its_tenant_and_its_method() {
    let app = App::start().await;
    let root = app.as_root();
    let other = app.as_key(&root.create_key(&["system-admin"]).await);
    for id in ["a", "b"] {
        root.create(tenant(id)).await.unwrap();
    }

    try_to_create(&root, &create(tenant("mine"), "same")).await.unwrap();
    try_to_create(&other, &create(tenant("theirs"), "same")).await.unwrap();
    let request = pb::DeleteTenantRequest {
        tenant_id: "mine".into(),
        request_id: "same".into(),
        ..Default::default()
    };
    root.tenants().delete_tenant(request).await.unwrap();
    for id in ["a", "b"] {
        let request = pb::CreateApiKeyRequest {
            api_key: Some(pb::ApiKey {
                roles: vec!["tenant-admin".to_owned()],
                ..Default::default()
            }),
            request_id: "same".into(),
            ..Default::default()
        };
        let key = root.with("x-tenant-id", id).keys().create_api_key(request).await.unwrap();
        assert_eq!(key.into_inner().api_key.unwrap().tenant_id, id);
    }
}

#[tokio::test]
async fn a_repeated_request_gets_the_same_secret_and_the_database_does_not_have_it() {
    let app = App::start().await;
    let root = app.as_root();
    let request = pb::CreateApiKeyRequest {
        api_key: Some(pb::ApiKey { roles: vec!["auditor".to_owned()], ..Default::default() }),
        request_id: "key".into(),
        ..Default::default()
    };

    let first = root.keys().create_api_key(request.clone()).await.unwrap().into_inner();
    let again = root.keys().create_api_key(request.clone()).await.unwrap().into_inner();

    assert_eq!(first, again);
    let only = pb::CreateApiKeyRequest { validate_only: true, ..request };
    let only = root.keys().create_api_key(only).await.unwrap().into_inner();
    assert_eq!((only.api_key, &*only.secret), (first.api_key.clone(), ""), "told in earnest alone");
    app.as_key(&again.secret).keys().who_am_i(pb::WhoAmIRequest {}).await.unwrap();
    let secret_part = first.secret.rsplit('_').nth(1).unwrap();
    let hidden = format!(
        "select count(*) as number from idempotency_records \
         where position(convert_to('{secret_part}', 'UTF8') in answer) > 0"
    );
    assert_eq!(count(&app, &hidden).await, 0);
    assert_eq!(count(&app, "select count(*) as number from idempotency_records").await, 1);
}

#[tokio::test]
async fn an_answer_is_kept_for_a_day_and_then_forgotten() {
    let app = App::start().await;
    let root = app.as_root();
    let mut nameless = tenant("x");
    nameless.tenant_id.clear();
    let request = create(nameless.clone(), "daily");

    let first = try_to_create(&root, &request).await.unwrap();
    app.shared.clock.advance(chrono::TimeDelta::hours(23));
    let same = try_to_create(&root, &request).await.unwrap();
    app.shared.clock.advance(chrono::TimeDelta::hours(2));
    let refusal = try_to_create(&root, &request).await.unwrap_err();
    let renamed = pb::Tenant { name: Some("Another".into()), ..nameless };
    let another = try_to_create(&root, &create(renamed, "daily")).await.unwrap();

    assert_eq!(same, first);
    assert_eq!(told(&refusal), "AlreadyExists TENANT_ALREADY_EXISTS", "a new try, not a replay");
    assert_ne!(another.tenant_id, first.tenant_id);
}

#[tokio::test]
async fn what_was_refused_may_be_tried_again_under_the_same_request_id() {
    let app = App::start().await;
    let root = app.as_root();
    let with_domain = pb::Tenant { default_domain: Some("netaxis.be".into()), ..tenant("foo") };
    let request = create(with_domain, "patient");

    let refusal = try_to_create(&root, &request).await.unwrap_err();
    let domain = pb::Domain { domain_id: "netaxis.be".into(), ..Default::default() };
    let domain = pb::CreateDomainRequest { domain: Some(domain), ..Default::default() };
    root.directory().create_domain(domain).await.unwrap();
    try_to_create(&root, &request).await.unwrap();

    assert_eq!(told(&refusal), "NotFound DOMAIN_NOT_FOUND");
}

#[tokio::test]
async fn a_request_id_of_the_wrong_form_is_refused_by_name() {
    let app = App::start().await;
    let long = "x".repeat(129);

    for id in ["with space", "tab\t", "nul\0", "ünicode", &long] {
        let refusal = try_to_create(&app.as_root(), &create(tenant("foo"), id)).await.unwrap_err();

        assert_eq!(told(&refusal), "InvalidArgument INVALID_FIELD", "{id:?}");
        assert_eq!(fields(&refusal), ["request_id"], "{id:?}");
    }
    assert_eq!(count(&app, "select count(*) as number from tenants").await, 0);
}

#[tokio::test]
async fn validate_only_answers_what_would_be_and_leaves_nothing() {
    let app = App::start().await;
    let root = app.as_root();
    root.create(tenant("foo")).await.unwrap();
    let stored = root.get("foo").await.unwrap();
    let before = rows(&app).await;
    let only = |request_id: &str| (request_id.to_owned(), true);

    let (request_id, validate_only) = only("create");
    let request = pb::CreateTenantRequest {
        tenant: Some(pb::Tenant { default_domain: Some("netaxis.be".into()), ..tenant("bar") }),
        auto_create_domain: Some(true),
        request_id,
        validate_only,
        ..Default::default()
    };
    let created = root.tenants().create_tenant(request).await.unwrap().into_inner();
    let (request_id, validate_only) = only("update");
    let request = pb::UpdateTenantRequest {
        tenant: Some(pb::Tenant {
            tenant_id: "foo".into(),
            support_email: Some("new@enterprise.be".into()),
            ..Default::default()
        }),
        request_id,
        validate_only,
        ..Default::default()
    };
    let updated = root.tenants().update_tenant(request).await.unwrap().into_inner();
    let (request_id, validate_only) = only("delete");
    let request = pb::DeleteTenantRequest {
        tenant_id: "foo".into(),
        request_id,
        validate_only,
        ..Default::default()
    };
    let deleted = root.tenants().delete_tenant(request).await.unwrap().into_inner();
    let (request_id, validate_only) = only("key");
    let request = pb::CreateApiKeyRequest {
        api_key: Some(pb::ApiKey { roles: vec!["auditor".to_owned()], ..Default::default() }),
        request_id,
        validate_only,
    };
    let key = root.keys().create_api_key(request).await.unwrap().into_inner();

    assert_eq!(created.tenant.unwrap().tenant_id, "bar");
    assert_eq!(updated.tenant.unwrap().support_email(), "new@enterprise.be");
    assert_eq!(deleted.tenant.unwrap().state(), pb::TenantState::Deleted);
    assert_eq!(key.secret, "", "a secret that was never stored is of no use");
    assert_eq!(rows(&app).await, before);
    assert_eq!(root.get("foo").await.unwrap(), stored);
}

#[tokio::test]
async fn validate_only_checks_what_the_change_itself_would() {
    let app = App::start().await;
    let root = app.as_root();
    root.create(tenant("foo")).await.unwrap();

    let taken = pb::CreateTenantRequest {
        tenant: Some(tenant("foo")),
        validate_only: true,
        ..Default::default()
    };
    let taken = root.tenants().create_tenant(taken).await.unwrap_err();
    let stale = pb::DeleteTenantRequest {
        tenant_id: "foo".into(),
        etag: "17".into(),
        validate_only: true,
        ..Default::default()
    };
    let stale = root.tenants().delete_tenant(stale).await.unwrap_err();

    assert_eq!(told(&taken), "AlreadyExists TENANT_ALREADY_EXISTS");
    assert_eq!(told(&stale), "Aborted ETAG_MISMATCH");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_concurrent_changes_of_one_read_exactly_one_wins() {
    let app = App::start().await;
    let root = app.as_root();
    let read = root.create(tenant("foo")).await.unwrap();

    let changes = join_all((0..20).map(|number| {
        let request = pb::UpdateTenantRequest {
            tenant: Some(pb::Tenant {
                tenant_id: "foo".into(),
                tag: Some(format!("try {number}")),
                ..Default::default()
            }),
            etag: read.etag.clone(),
            ..Default::default()
        };
        let mut client = root.tenants();
        async move { client.update_tenant(request).await }
    }))
    .await;

    let (won, lost): (Vec<_>, Vec<_>) = changes.into_iter().partition(Result::is_ok);
    assert_eq!(won.len(), 1);
    for refusal in lost {
        assert_eq!(told(&refusal.unwrap_err()), "Aborted ETAG_MISMATCH");
    }
    let stored = root.get("foo").await.unwrap();
    assert_eq!(Some(stored), won.into_iter().next().unwrap().unwrap().into_inner().tenant);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_concurrent_creates_of_one_id_code_hostname_or_name_exactly_one_wins() {
    let app = App::start().await;
    let root = app.as_root();
    let with = |change: fn(&mut pb::Tenant, usize)| {
        move |number: usize| {
            let mut tenant = tenant(&format!("t{number}"));
            change(&mut tenant, number);
            tenant
        }
    };
    let kinds: [Box<dyn Fn(usize) -> pb::Tenant>; 4] = [
        Box::new(with(|tenant, number| {
            tenant.tenant_id = "same".into();
            tenant.name = Some(format!("By id {number}"));
        })),
        Box::new(with(|tenant, number| {
            tenant.tenant_id = format!("code-{number}");
            tenant.code = Some("SAME".into());
        })),
        Box::new(with(|tenant, number| {
            tenant.tenant_id = format!("host-{number}");
            tenant.code = Some(format!("HOST{number}"));
            tenant.hostname = Some("same.example.com".into());
        })),
        Box::new(with(|tenant, number| {
            tenant.tenant_id = format!("name-{number}");
            tenant.name = Some("Same".into());
        })),
    ];

    for kind in kinds {
        let answers = join_all((0..50).map(|number| root.create(kind(number)))).await;

        let (won, lost): (Vec<_>, Vec<_>) = answers.into_iter().partition(Result::is_ok);
        assert_eq!(won.len(), 1, "{lost:?}");
        for refusal in lost {
            assert_eq!(told(&refusal.unwrap_err()), "AlreadyExists TENANT_ALREADY_EXISTS");
        }
    }
    assert_eq!(count(&app, "select count(*) as number from tenants").await, 4);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_parent_is_never_deleted_from_under_a_new_child() {
    let app = App::start().await;
    let root = app.as_root();
    for round in 0..10 {
        let parent = format!("parent-{round}");
        let child = format!("child-{round}");
        root.create(tenant(&parent)).await.unwrap();
        let new = pb::Tenant {
            r#type: pb::TenantType::Client.into(),
            parent_tenant_id: Some(parent.clone()),
            ..tenant(&child)
        };

        let (created, deleted) = tokio::join!(root.create(new), root.delete(&parent));

        assert!(created.is_ok() != deleted.is_ok(), "{created:?} {deleted:?}");
    }
}

/// Creates a tenant after the call, and waits for it; answers the name of the operation.
async fn create_later(caller: &Caller, id: &str) -> String {
    let request = pb::CreateTenantAsyncRequest { tenant: Some(tenant(id)), ..Default::default() };
    let operation = caller.tenants().create_tenant_async(request).await.unwrap().into_inner();
    let done = caller.call("WaitOperation", json!({"name": operation.name})).await.unwrap();
    assert_eq!(done["metadata"]["state"], "OPERATION_STATE_COMPLETED", "{done}");
    operation.name
}

/// The correlation id of what there has to be before a change can be made.
const PREPARED: &str = "prepared";

/// Makes one change of what a tenant runs, in that tenant; answers the type of the event that it is to tell.
async fn change_of_keys(method: &str, owner: &Caller) -> &'static str {
    let before = owner.with_instead("x-correlation-id", PREPARED);
    // Of the account of the tenant, where it may be there already.
    let _ = before.call("CreateProduct", product()).await;
    let new = json!({"installation":
        {"product_code": "PHONE", "package_code": "BASIC", "ttl_hours": 24}});
    if method == "CreateInstallation" {
        owner.call(method, new).await.unwrap();
        return "installation.created";
    }
    let installed = before.call("CreateInstallation", new).await.unwrap();
    let installation_id = &installed["installation"]["installation_id"];
    let made = json!({"installation_id": installation_id});
    let made = before.call("CreateAppKey", made).await.unwrap();
    let app_key_id = &made["app_key"]["app_key_id"];
    let key = json!({"external_key":
        {"app_key_id": app_key_id, "label": "web", "environment": "sod"}});
    let of_key = async || {
        let made = before.call("CreateExternalKey", key.clone()).await.unwrap();
        made["external_key"]["external_key_id"].clone()
    };
    let (kind, request) = match method {
        "UpdateInstallation" => (
            "installation.updated",
            json!({"installation": {"installation_id": installation_id, "description": "new"}}),
        ),
        "DeleteInstallation" => {
            ("installation.deleted", json!({"installation_id": installation_id}))
        }
        "CreateAppKey" => ("app_key.created", json!({"installation_id": installation_id})),
        "DeleteAppKey" => ("app_key.deleted", json!({"app_key_id": app_key_id})),
        "UpdateKeyConfig" => (
            "key_config.updated",
            json!({"key_config":
                {"app_key_id": app_key_id, "environment": "sod", "config": {"mail": {}}}}),
        ),
        "CreateExternalKey" => ("external_key.created", key.clone()),
        "UpdateExternalKey" => (
            "external_key.updated",
            json!({"external_key": {"external_key_id": of_key().await, "label": "new"}}),
        ),
        "RotateExternalKey" => ("external_key.rotated", json!({"external_key_id": of_key().await})),
        "RevokeExternalKey" => {
            ("external_key.revoked", json!({"external_key_id": of_key().await, "reason": "lost"}))
        }
        "UpdateOAuthClient" => (
            "oauth_client.updated",
            json!({"oauth_client":
                {"redirect_uri": format!("https://example.com/{}", rand::random::<u32>())}}),
        ),
        "RotateOAuthClientSecret" => ("oauth_client.rotated", json!({})),
        "ImportKeys" => {
            let request = pb::ImportKeysRequest {
                keys: vec![pb::ImportedKey {
                    sha256: (0..32).map(|_| rand::random()).collect(),
                    external_key: Some(pb::ExternalKey {
                        app_key_id: app_key_id.as_str().unwrap().to_owned(),
                        label: "old".into(),
                        environment: "sod".into(),
                        ..Default::default()
                    }),
                }],
                ..Default::default()
            };
            let stream = tokio_stream::iter([request]);
            let mut answers = owner.keys().import_keys(stream).await.unwrap().into_inner();
            while answers.message().await.unwrap().is_some() {}
            return "external_key.imported";
        }
        unknown => panic!("say which event {unknown} tells"),
    };
    owner.call(method, request).await.unwrap();
    kind
}

/// Makes one change by a method; answers the type of the event that it is to tell.
///
/// A method that is missing here fails the test below: each new one says what it tells.
/// Where `root` names an account, `own` names the one called `id` instead.
async fn change_by(method: &str, root: &Caller, own: &Caller, id: &str) -> &'static str {
    let mut tenants = root.tenants();
    let mut directory = root.directory();
    // What a tenant owns, in a tenant that is there.
    let mut owned = root.with("x-tenant-id", "owner").tenants();
    let group = pb::Group { group_id: id.into(), name: Some(id.into()), ..Default::default() };
    let new_group = pb::CreateGroupRequest { group: Some(group.clone()), ..Default::default() };
    let new_account = pb::CreateAccountRequest {
        account: Some(pb::Account {
            account_id: id.into(),
            name: Some(id.into()),
            ..Default::default()
        }),
        ..Default::default()
    };
    let new_environment = pb::CreateEnvironmentRequest {
        environment: Some(pb::Environment {
            environment_id: id.into(),
            name: Some(id.into()),
            ..Default::default()
        }),
        ..Default::default()
    };
    let new_domain = pb::CreateDomainRequest {
        domain: Some(pb::Domain { domain_id: format!("{id}.be"), ..Default::default() }),
        ..Default::default()
    };
    match method {
        "CreateTenant" => {
            root.create(tenant(id)).await.unwrap();
            "tenant.created"
        }
        "CreateTenantAsync" => {
            create_later(root, id).await;
            "operation.completed"
        }
        "TakeTenantResult" => {
            let operation = create_later(root, id).await;
            root.call(method, json!({"operation": operation})).await.unwrap();
            "operation.result_taken"
        }
        "UpdateTenant" => {
            root.create(tenant(id)).await.unwrap();
            let tag = Some("new".into());
            root.update(pb::Tenant { tenant_id: id.into(), tag, ..Default::default() })
                .await
                .unwrap();
            "tenant.updated"
        }
        "DeleteTenant" => {
            root.create(tenant(id)).await.unwrap();
            root.delete(id).await.unwrap();
            "tenant.deleted"
        }
        "UndeleteTenant" => {
            root.create(tenant(id)).await.unwrap();
            root.delete(id).await.unwrap();
            let request = pb::UndeleteTenantRequest { tenant_id: id.into(), ..Default::default() };
            tenants.undelete_tenant(request).await.unwrap();
            "tenant.undeleted"
        }
        "ApproveTenant" | "RejectTenant" => {
            let account =
                json!({"account_id": "default", "tenant_creation_approval_required": true});
            root.call("UpdateAccount", json!({"account": account})).await.unwrap();
            root.create(tenant(id)).await.unwrap();
            let account =
                json!({"account_id": "default", "tenant_creation_approval_required": false});
            root.call("UpdateAccount", json!({"account": account})).await.unwrap();
            if method == "ApproveTenant" {
                root.call(method, json!({"tenant_id": id})).await.unwrap();
                "tenant.approved"
            } else {
                let request = json!({"tenant_id": id, "reason": "doubtful"});
                root.call(method, request).await.unwrap();
                "tenant.rejected"
            }
        }
        "LockTenant" | "UnlockTenant" => {
            root.create(tenant(id)).await.unwrap();
            let lock = json!({"tenant_id": id, "mode": "LOCK_MODE_FULL", "reason": "unpaid"});
            root.call("LockTenant", lock).await.unwrap();
            if method == "LockTenant" {
                "tenant.locked"
            } else {
                root.call(method, json!({"tenant_id": id})).await.unwrap();
                "tenant.unlocked"
            }
        }
        "MoveTenant" | "PromoteTenant" => {
            root.create(tenant(id)).await.unwrap();
            let high = format!("{id}-high");
            root.create(tenant(&high)).await.unwrap();
            root.call("PromoteTenant", json!({"tenant_id": high})).await.unwrap();
            if method == "PromoteTenant" {
                "tenant.promoted"
            } else {
                let request = json!({"tenant_id": id, "parent_tenant_id": high});
                root.call(method, request).await.unwrap();
                "tenant.moved"
            }
        }
        "UpdateIpAllowlist" => {
            root.create(tenant(id)).await.unwrap();
            let of_it = root.with("x-tenant-id", id);
            of_it.call(method, json!({"enabled": false})).await.unwrap();
            "ip_allowlist.updated"
        }
        "CreateGroup" => {
            owned.create_group(new_group).await.unwrap();
            "group.created"
        }
        "UpdateGroup" => {
            owned.create_group(new_group).await.unwrap();
            let group = Some(pb::Group { user_limit: Some(1), ..group });
            let request = pb::UpdateGroupRequest { group, ..Default::default() };
            owned.update_group(request).await.unwrap();
            "group.updated"
        }
        "DeleteGroup" => {
            owned.create_group(new_group).await.unwrap();
            let request = pb::DeleteGroupRequest { group_id: id.into(), ..Default::default() };
            owned.delete_group(request).await.unwrap();
            "group.deleted"
        }
        "UpdateServiceSettings" => {
            let setting = pb::ServiceSetting { name: id.into(), enabled: true };
            let request =
                pb::UpdateServiceSettingsRequest { settings: vec![setting], ..Default::default() };
            owned.update_service_settings(request).await.unwrap();
            "service_settings.updated"
        }
        "RecordUsage" => {
            let usage_type = match id.split('-').next() {
                Some("plain") => pb::UsageType::Users,
                _ => pb::UsageType::Issuance,
            };
            let usage_record = pb::UsageRecord {
                usage_type: usage_type.into(),
                aggregation_period: pb::AggregationPeriod::Daily.into(),
                start_time: Some("2026-11-22T00:00:00Z".parse().unwrap()),
                ..Default::default()
            };
            let request =
                pb::RecordUsageRequest { usage_record: Some(usage_record), ..Default::default() };
            owned.record_usage(request).await.unwrap();
            "usage_record.created"
        }
        "SetEntitlement" => {
            let entitlement_type = match id.split('-').next() {
                Some("plain") => pb::EntitlementType::Users,
                _ => pb::EntitlementType::Transactions,
            };
            let entitlement = pb::Entitlement {
                r#type: entitlement_type.into(),
                quantity: Some(10),
                contract_mode: pb::ContractMode::Production.into(),
                ..Default::default()
            };
            let entitlement = Some(entitlement);
            let request = pb::SetEntitlementRequest { entitlement, ..Default::default() };
            owned.set_entitlement(request).await.unwrap();
            "entitlement.created"
        }
        "PutEndUserAppData" | "DeleteEndUserAppData" => {
            let of_owner = root.with("x-tenant-id", "owner");
            let document = json!({"application_id": "app", "end_user_id": id, "data": {}});
            let put = json!({"end_user_app_data": document});
            of_owner.call("PutEndUserAppData", put).await.unwrap();
            if method == "PutEndUserAppData" {
                "end_user_app_data.created"
            } else {
                let name = json!({"application_id": "app", "end_user_id": id});
                of_owner.call(method, name).await.unwrap();
                "end_user_app_data.deleted"
            }
        }
        "CreateAccount" => {
            directory.create_account(new_account).await.unwrap();
            "account.created"
        }
        "UpdateAccount" => {
            directory.create_account(new_account).await.unwrap();
            let account = pb::Account {
                account_id: id.into(),
                name: Some("new".into()),
                ..Default::default()
            };
            let request = pb::UpdateAccountRequest { account: Some(account), ..Default::default() };
            own.directory().update_account(request).await.unwrap();
            "account.updated"
        }
        "DeleteAccount" => {
            directory.create_account(new_account).await.unwrap();
            let request = pb::DeleteAccountRequest { account_id: id.into(), ..Default::default() };
            own.directory().delete_account(request).await.unwrap();
            "account.deleted"
        }
        "CreateEnvironment" => {
            directory.create_environment(new_environment).await.unwrap();
            "environment.created"
        }
        "UpdateEnvironment" => {
            directory.create_environment(new_environment).await.unwrap();
            let environment = pb::Environment {
                environment_id: id.into(),
                name: Some("new".into()),
                ..Default::default()
            };
            let request = pb::UpdateEnvironmentRequest {
                environment: Some(environment),
                ..Default::default()
            };
            directory.update_environment(request).await.unwrap();
            "environment.updated"
        }
        "DeleteEnvironment" => {
            directory.create_environment(new_environment).await.unwrap();
            let request =
                pb::DeleteEnvironmentRequest { environment_id: id.into(), ..Default::default() };
            directory.delete_environment(request).await.unwrap();
            "environment.deleted"
        }
        "CreateDomain" => {
            directory.create_domain(new_domain).await.unwrap();
            "domain.created"
        }
        "DeleteDomain" => {
            directory.create_domain(new_domain).await.unwrap();
            let request =
                pb::DeleteDomainRequest { domain_id: format!("{id}.be"), ..Default::default() };
            directory.delete_domain(request).await.unwrap();
            "domain.deleted"
        }
        "CreateApiKey" => {
            root.create_key(&["auditor"]).await;
            "api_key.created"
        }
        "UpdateApiKey" | "RotateApiKey" => {
            let new = json!({"api_key": {"roles": ["auditor"]}});
            let made = root.call("CreateApiKey", new).await.unwrap();
            let key_id = &made["api_key"]["api_key_id"];
            if method == "RotateApiKey" {
                root.call(method, json!({"api_key_id": key_id})).await.unwrap();
                return "api_key.rotated";
            }
            let update = json!({"api_key": {"api_key_id": key_id, "name": "new"}});
            root.call(method, update).await.unwrap();
            "api_key.updated"
        }
        "CreateInstallation"
        | "UpdateInstallation"
        | "DeleteInstallation"
        | "CreateAppKey"
        | "DeleteAppKey"
        | "UpdateKeyConfig"
        | "CreateExternalKey"
        | "UpdateExternalKey"
        | "RotateExternalKey"
        | "RevokeExternalKey"
        | "UpdateOAuthClient"
        | "RotateOAuthClientSecret"
        | "ImportKeys" => change_of_keys(method, &root.with("x-tenant-id", "owner")).await,
        "RevokeApiKey" => {
            let api_key =
                Some(pb::ApiKey { roles: vec!["auditor".to_owned()], ..Default::default() });
            let request = pb::CreateApiKeyRequest { api_key, ..Default::default() };
            let key = root.keys().create_api_key(request).await.unwrap().into_inner().api_key;
            let request = pb::RevokeApiKeyRequest {
                api_key_id: key.unwrap().api_key_id,
                reason: "found in a repository".into(),
                ..Default::default()
            };
            root.keys().revoke_api_key(request).await.unwrap();
            "api_key.revoked"
        }
        "CreateApplication"
        | "UpdateApplication"
        | "DeleteApplication"
        | "RotateApplicationClientSecret" => {
            let prepared = root.with_instead("x-correlation-id", PREPARED);
            let caller = if method == "CreateApplication" { root } else { &prepared };
            let new = json!({"application": {"application_id": id, "name": "One", "environments": ["sod"]}});
            caller.call("CreateApplication", new).await.unwrap();
            let named = json!({"application_id": id});
            let (request, told) = match method {
                "UpdateApplication" => {
                    let changed = json!({"application": {"application_id": id, "name": "Two"}});
                    (changed, "application.updated")
                }
                "DeleteApplication" => (named, "application.deleted"),
                "RotateApplicationClientSecret" => {
                    let of = json!({"application_id": id, "environment": "sod"});
                    (of, "application.rotated")
                }
                _ => return "application.created",
            };
            root.call(method, request).await.unwrap();
            told
        }
        "RequestAuthorization"
        | "ApproveAuthorizationRequest"
        | "DeclineAuthorizationRequest"
        | "CancelAuthorizationRequest"
        | "ResendAuthorizationRequest" => {
            let prepared = root.with_instead("x-correlation-id", PREPARED);
            let new = json!({"application":
                {"application_id": id, "name": "One", "environments": ["production"]}});
            prepared.call("CreateApplication", new).await.unwrap();
            let ask = json!({"application_id": id, "customer_id": "owner", "customer_name": "Owner",
                "contact_email": "a@b.c"});
            if method == "RequestAuthorization" {
                root.call(method, ask).await.unwrap();
                return "authorization_request.created";
            }
            // By another key: none answers for whom it asks.
            let role = if id.starts_with("plain") { "system-admin" } else { "account-admin" };
            let another = prepared.call("CreateApiKey", json!({"api_key": {"roles": [role]}}));
            let another = another.await.unwrap();
            let another = format!("Bearer {}", another["secret"].as_str().unwrap());
            let another = prepared.with_instead("authorization", &another);
            let asked = another.call("RequestAuthorization", ask).await.unwrap();
            let id = &asked["authorization_request"]["authorization_request_id"];
            let mut named = json!({ "authorization_request_id": id });
            let told = match method {
                "ApproveAuthorizationRequest" => "authorization_request.approved",
                "CancelAuthorizationRequest" => "authorization_request.cancelled",
                "ResendAuthorizationRequest" => "authorization_request.resent",
                _ => {
                    named["reason"] = "no".into();
                    "authorization_request.declined"
                }
            };
            root.call(method, named).await.unwrap();
            told
        }
        "RequestAuthorizationUpdate" => {
            let prepared = root.with_instead("x-correlation-id", PREPARED);
            let new = json!({"application": {"application_id": id, "name": "One",
                "environments": ["sod"], "scopes": ["read", "write"]}});
            prepared.call("CreateApplication", new).await.unwrap();
            let grant = json!({"tenant_id": "owner", "application_id": id, "environment": "sod"});
            let granted = prepared.call("GrantAuthorization", grant).await.unwrap();
            let less = json!({"authorization_id": granted["authorization"]["authorization_id"],
                "on_behalf_of": "Owner", "contact_email": "a@b.c", "scopes": ["read"]});
            root.call(method, less).await.unwrap();
            "authorization.updated"
        }
        "GrantAuthorization" | "RevokeAuthorization" => {
            let prepared = root.with_instead("x-correlation-id", PREPARED);
            let new = json!({"application": {"application_id": id, "name": "One", "environments": ["sod"]}});
            prepared.call("CreateApplication", new).await.unwrap();
            let grant = json!({"tenant_id": "owner", "application_id": id, "environment": "sod"});
            if method == "GrantAuthorization" {
                root.call(method, grant).await.unwrap();
                return "authorization.granted";
            }
            let granted = prepared.call("GrantAuthorization", grant).await.unwrap();
            let authorization_id = &granted["authorization"]["authorization_id"];
            let revoke = json!({"authorization_id": authorization_id, "reason": "over",
                "contact_email": "a@b.c"});
            root.call(method, revoke).await.unwrap();
            "authorization.revoked"
        }
        "CreateReseller"
        | "UpdateReseller"
        | "DeleteReseller"
        | "CreateBackend"
        | "UpdateBackend"
        | "DeleteBackend"
        | "CreateProduct"
        | "UpdateProduct"
        | "DeleteProduct"
        | "CreateTenantTemplate"
        | "UpdateTenantTemplate"
        | "DeleteTenantTemplate" => {
            let (verb, kind) = method.split_at(6);
            let code = id.replace('-', "");
            let (record, key, id, new, changed) = match kind {
                "Reseller" => {
                    ("reseller", "reseller_id", id, json!({}), json!({"external_name": "n"}))
                }
                "Backend" => (
                    "backend",
                    "backend_id",
                    id,
                    json!({"external_name": id}),
                    json!({"external_name": format!("{id} two")}),
                ),
                "Product" => (
                    "product",
                    "product_code",
                    &*code,
                    json!({"name": "one"}),
                    json!({"name": "two"}),
                ),
                _ => (
                    "tenant_template",
                    "template_id",
                    id,
                    json!({}),
                    json!({"defaults": {"tag": "gold"}}),
                ),
            };
            let with_id = |mut more: serde_json::Value| {
                more[key] = id.into();
                json!({ record: more })
            };
            root.call(&format!("Create{kind}"), with_id(new)).await.unwrap();
            match verb {
                "Update" => {
                    root.call(method, with_id(changed)).await.unwrap();
                }
                "Delete" => {
                    root.call(method, json!({ key: id })).await.unwrap();
                }
                _ => {}
            }
            let past = format!("{record}.{}d", verb.to_lowercase());
            Box::leak(past.into_boxed_str())
        }
        unknown => panic!("say which event {unknown} tells"),
    }
}

#[tokio::test]
async fn each_change_tells_exactly_one_event_with_who_why_before_and_after() {
    let app = App::start_working().await;
    let who = app.as_root().keys().who_am_i(pb::WhoAmIRequest {}).await.unwrap().into_inner();
    let actor = format!("api_key:{}", who.api_key.unwrap().api_key_id);
    let methods = tenantry::rpc::permit::POOL
        .services()
        .flat_map(|service| service.methods().collect::<Vec<_>>())
        .filter(|method| method.input().get_field_by_name("request_id").is_some())
        .collect::<Vec<_>>();
    assert!(methods.len() >= 14, "the walk finds the methods");
    app.as_root().create(tenant("owner")).await.unwrap();

    // With an account too: a key of the system may always name one.
    for (kind, root) in
        [("plain", app.as_root()), ("named", app.as_root().with("x-account-id", "default"))]
    {
        for (number, method) in methods.iter().enumerate() {
            let reason = format!("{kind}-{}", method.name());
            let id = format!("{kind}-{number}");
            let own = match kind {
                "plain" => app.as_root(),
                _ => app.as_root().with("x-account-id", &id),
            };
            let own = own.with("x-correlation-id", &reason);
            let root = root.with("x-correlation-id", &reason);
            let start = number_of_events(&app).await;

            let kind = change_by(method.name(), &root, &own, &id).await;

            let mut told = events(&app, start).await;
            told.retain(|event| event.correlation_id != PREPARED);
            let last = told.last().unwrap_or_else(|| panic!("{reason} tells nothing"));
            let of_kind = told.iter().filter(|event| event.r#type == kind).count();
            assert_eq!((of_kind, &*last.r#type), (1, kind), "{reason}");
            assert_eq!((&last.actor, &last.correlation_id), (&actor, &reason));
            let is_new =
                [".created", ".imported", ".granted"].iter().any(|end| kind.ends_with(end));
            assert_eq!(last.before.is_none(), is_new, "{reason}: {last:?}");
            // What was soft-deleted or revoked is still there.
            let is_gone = kind.ends_with(".deleted") && kind != "tenant.deleted";
            assert_eq!(last.after.is_none(), is_gone, "{reason}: {last:?}");
            let text = format!("{:?} {:?}", last.before, last.after);
            assert!(!text.contains("tk_") && !text.contains("tcs_"), "{text}");
            // An update, delete or undelete first creates what it changes: that is one event more.
            let expected = if last.before.is_none() { 1 } else { told.len() };
            assert_eq!(told.len(), expected, "{reason}: {told:?}");
        }
    }
}

#[tokio::test]
async fn what_changes_nothing_or_is_refused_tells_nothing() {
    let app = App::start().await;
    let root = app.as_root();
    root.create(pb::Tenant { tag: Some("same".into()), ..tenant("foo") }).await.unwrap();
    let start = number_of_events(&app).await;

    let same =
        pb::Tenant { tenant_id: "foo".into(), tag: Some("same".into()), ..Default::default() };
    root.update(same).await.unwrap();
    root.undelete("foo").await.unwrap_err();
    root.create(tenant("foo")).await.unwrap_err();

    assert_eq!(events(&app, start).await, []);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_that_are_cancelled_leave_no_transaction_open() {
    let app = App::start().await;
    let root = app.as_root();
    root.create(tenant("foo")).await.unwrap();
    let mut finished = 0;
    // Of more at a time that it did not come to, the edge would end the connection.
    for numbers in [0..20, 20..40, 40..60] {
        let calls = numbers.map(|number| {
            let caller = root.clone();
            async move {
                let call = caller.create(tenant(&format!("cancelled-{number}")));
                let patience = std::time::Duration::from_micros(150 * number);
                tokio::time::timeout(patience, call).await.is_ok()
            }
        });
        finished += join_all(calls).await.into_iter().filter(|is_finished| *is_finished).count();
        // Whoever waited for a lock of theirs would wait for ever.
        root.update(pb::Tenant {
            tenant_id: "foo".into(),
            tag: Some("still there".into()),
            ..Default::default()
        })
        .await
        .unwrap();
    }

    assert!(finished < 60, "none was cancelled: nothing was tested");
    let open = "select count(*) as number from pg_stat_activity \
                where datname = current_database() and state like 'idle in transaction%'";
    let start = std::time::Instant::now();
    while count(&app, open).await > 0 {
        assert!(start.elapsed().as_secs() < 20, "a transaction was left open");
        tokio::task::yield_now().await;
    }
    let half = "select count(*) as number from tenants t where not exists \
                (select 1 from events e where e.tenant_uid = t.uid)";
    assert_eq!(count(&app, half).await, 0, "a change without its event");
}

/// The answer is encrypted under the secret that the request came with: another one of the same key is told so.
#[tokio::test]
async fn a_request_id_that_was_sent_with_another_secret_of_the_key_is_refused_as_used() {
    let app = App::start().await;
    let root = app.as_root();
    let made = json!({"api_key": {"roles": ["system-admin"]}});
    let made = root.call("CreateApiKey", made).await.unwrap();
    let first = app.as_key(made["secret"].as_str().unwrap());
    let request = create(tenant("foo"), "once");
    let created = try_to_create(&first, &request).await.unwrap();
    let rotate = json!({"api_key_id": made["api_key"]["api_key_id"]});
    let rotated = root.call("RotateApiKey", rotate).await.unwrap();
    let second = app.as_key(rotated["secret"].as_str().unwrap());

    let refused = try_to_create(&second, &request).await.unwrap_err();
    let repeated = try_to_create(&first, &request).await.unwrap();

    assert_eq!(told(&refused), "FailedPrecondition IDEMPOTENCY_CONFLICT");
    assert!(refused.message().contains("another secret"), "{}", refused.message());
    assert_eq!(repeated, created);
}
