//! Tenants that are created after the call, and the operations by which that is followed.

use std::{sync::Arc, time::Duration};

use diesel_async::SimpleAsyncConnection as _;
use futures_util::future::join_all;
use prost_reflect::prost::Message as _;
use serde_json::{Value, json};
use tenantry::{
    db::Scope,
    longrunning::{self, WaitOperationRequest, operation::Result as Outcome},
    mail::Mailer,
    operations::worker,
    pb,
    rpc::permit::POOL,
    server::Shared,
    start,
};
use tokio::{sync::watch, time::Instant};
use tonic::Status;
use tonic_types::{StatusExt as _, pb as told_pb};

use crate::app::{
    App, Caller, application, count, fields, nothing_of_it, product, rows, tenant, told,
};

fn later(tenant: pb::Tenant) -> pb::CreateTenantAsyncRequest {
    let entitlement = Some(nothing_of_it(tenant.contract_mode()));
    pb::CreateTenantAsyncRequest { tenant: Some(tenant), entitlement, ..Default::default() }
}

async fn schedule(caller: &Caller, tenant: pb::Tenant) -> Result<String, Status> {
    Ok(caller.tenants().create_tenant_async(later(tenant)).await?.into_inner().name)
}

async fn wait(caller: &Caller, name: &str) -> longrunning::Operation {
    let request = WaitOperationRequest { name: name.to_owned(), timeout: None };
    caller.operations().wait_operation(request).await.unwrap().into_inner()
}

async fn take(caller: &Caller, name: &str) -> Result<pb::CreateTenantResponse, Status> {
    let request = pb::TakeTenantResultRequest { operation: name.to_owned(), ..Default::default() };
    Ok(caller.tenants().take_tenant_result(request).await?.into_inner())
}

async fn get(caller: &Caller, name: &str) -> Result<Value, Status> {
    caller.call("GetOperation", json!({"name": name})).await
}

async fn state(caller: &Caller, name: &str) -> String {
    let state = get(caller, name).await.unwrap()["metadata"]["state"].clone();
    state.as_str().unwrap().trim_start_matches("OPERATION_STATE_").to_owned()
}

/// The refusal that an operation ended with, as a call would have got it.
fn error_of(operation: longrunning::Operation) -> Status {
    let Some(Outcome::Error(error)) = operation.result else { panic!("{operation:?}") };
    let details = error.encode_to_vec().into();
    Status::with_details(error.code.into(), error.message, details)
}

/// All that a refusal says, whichever order its metadata came in.
fn all_of(status: &Status) -> (Option<told_pb::ErrorInfo>, told_pb::Status) {
    let mut all = told_pb::Status::decode(status.details()).unwrap();
    let info = all.details.iter().position(|detail| detail.type_url.ends_with("ErrorInfo"));
    let info = info.map(|place| all.details.remove(place).value);
    (info.map(|info| told_pb::ErrorInfo::decode(&*info).unwrap()), all)
}

async fn until(what: &str, is_so: impl AsyncFn() -> bool) {
    let end = Instant::now() + Duration::from_secs(30);
    while !is_so().await {
        assert!(Instant::now() < end, "{what} did not come");
        tokio::task::yield_now().await;
    }
}

/// A client of a parent: whoever holds the parent's row keeps it from being created.
fn client(id: &str, parent: &str) -> pb::Tenant {
    pb::Tenant {
        r#type: pb::TenantType::Client.into(),
        parent_tenant_id: Some(parent.to_owned()),
        ..tenant(id)
    }
}

/// 3-02: the states of an operation, what is told of it, and what comes of it.
#[tokio::test]
async fn a_tenant_is_created_after_the_call_as_it_would_have_been_by_it() {
    let app = App::start().await;
    let root = app.as_root();
    let asked = pb::Tenant { tag: Some("gold".into()), ..tenant("foo") };

    let name = schedule(&root, asked).await.unwrap();
    let scheduled = get(&root, &name).await.unwrap();
    let absent = root.get("foo").await.unwrap_err();
    app.work();
    wait(&root, &name).await;
    let completed = get(&root, &name).await.unwrap();
    let created = root.get("foo").await.unwrap();

    let metadata = &scheduled["metadata"];
    assert_eq!(metadata["@type"], "type.googleapis.com/tenantry.v1.CreateTenantMetadata");
    assert_eq!(metadata["state"], "OPERATION_STATE_SCHEDULED");
    assert_eq!(
        (&metadata["subject"], &metadata["tenant_id"]),
        (&json!("Tenant foo"), &json!("foo"))
    );
    assert!(metadata["init_time"].is_string() && metadata["processing_start_time"].is_null());
    assert!(scheduled["done"].is_null() && scheduled["response"].is_null());
    assert_eq!(told(&absent), "NotFound TENANT_NOT_FOUND");
    let metadata = &completed["metadata"];
    assert_eq!(metadata["state"], "OPERATION_STATE_COMPLETED");
    let times = ["init_time", "processing_start_time", "processing_end_time"];
    assert!(times.is_sorted_by_key(|time| metadata[*time].as_str().unwrap().to_owned()));
    assert_eq!(completed["done"], true);
    let named = json!({
        "@type": "type.googleapis.com/tenantry.v1.CreateTenantResponse",
        "tenant": {"tenant_id": "foo", "account_id": "default"},
    });
    assert_eq!(completed["response"], named);
    assert_eq!((created.tag(), created.state()), ("gold", pb::TenantState::Active));
    assert_eq!(take(&root, &name).await.unwrap().tenant, Some(created));
}

/// 3-02: same parameters and rules.
#[test]
fn both_ways_to_create_a_tenant_take_the_same() {
    let fields_of = |message: &str| {
        let message = POOL.get_message_by_name(message).unwrap();
        message
            .fields()
            .map(|field| (field.name().to_owned(), field.number(), format!("{:?}", field.kind())))
            .collect::<Vec<_>>()
    };

    let async_fields = fields_of("tenantry.v1.CreateTenantAsyncRequest");

    assert_eq!(async_fields, fields_of("tenantry.v1.CreateTenantRequest"));
}

/// 3-02: what can be known at once is refused at once, as CreateTenant does it.
#[tokio::test]
async fn what_create_tenant_would_refuse_is_refused_at_once_and_alike() {
    let app = App::start().await;
    let root = app.as_root();
    root.create(tenant("taken")).await.unwrap();
    let weak = app.as_key(&root.with("x-tenant-id", "taken").create_key(&["tenant-admin"]).await);
    let before = rows(&app).await;
    let attempts = [
        (&root, tenant("taken")),
        (&root, client("bar", "nobody")),
        (&root, pb::Tenant { name: None, hostname: Some("not a host".into()), ..tenant("No Id") }),
        (&root, pb::Tenant { default_domain: Some("nowhere.be".into()), ..tenant("bar") }),
        (&weak, tenant("bar")),
        (&app.anonymous(), tenant("bar")),
    ];

    for (caller, asked) in attempts {
        let caller = caller.with("x-correlation-id", "same");
        let at_once = schedule(&caller, asked.clone()).await.unwrap_err();
        let by_call = caller.create(asked).await.unwrap_err();

        assert_eq!(all_of(&at_once), all_of(&by_call));
    }
    assert_eq!(rows(&app).await, before);
}

#[tokio::test]
async fn validate_only_tells_of_an_operation_that_cannot_be_asked_for() {
    let app = App::start_working().await;
    let root = app.as_root();
    let before = rows(&app).await;
    let request = pb::CreateTenantAsyncRequest { validate_only: true, ..later(tenant("foo")) };

    let would_be = root.tenants().create_tenant_async(request).await.unwrap().into_inner();

    assert!(!would_be.done);
    assert_eq!(would_be.name, "");
    assert_eq!(rows(&app).await, before);
}

/// 3-02: the error of an operation is that of the call.
#[tokio::test]
async fn what_is_refused_later_fails_with_the_error_that_the_call_would_have_had() {
    let app = App::start().await;
    let root = app.as_root().with("x-correlation-id", "the-same");
    let name = schedule(&root, tenant("foo")).await.unwrap();
    root.create(tenant("foo")).await.unwrap();
    let by_call = root.create(tenant("foo")).await.unwrap_err();

    app.work();
    let operation = wait(&root, &name).await;

    assert_eq!(state(&root, &name).await, "FAILED");
    let error = error_of(operation);
    assert_eq!(told(&error), "AlreadyExists TENANT_ALREADY_EXISTS");
    assert_eq!(all_of(&error), all_of(&by_call));
    let none = take(&root, &name).await.unwrap_err();
    assert_eq!(told(&none), "FailedPrecondition INVALID_STATE_TRANSITION");
}

/// 3-02: whoever may no more when it is tried creates nothing.
#[tokio::test]
async fn an_operation_has_the_rights_that_its_creators_key_has_when_it_is_tried() {
    let app = App::start().await;
    let root = app.as_root();
    let sql = |statement: String| {
        let app = &app;
        async move { app.superuser().await.batch_execute(&statement).await.unwrap() }
    };
    let provider = |id: &str| pb::Tenant {
        organization_kind: pb::OrganizationKind::ServiceProvider.into(),
        ..tenant(id)
    };
    let mut scheduled = Vec::new();
    for (how, expected) in [
        ("revoked", "Unauthenticated CREDENTIAL_INVALID"),
        ("weakened", "PermissionDenied PERMISSION_MISSING"),
        ("locked", "FailedPrecondition TENANT_LOCKED"),
        ("deleted", "FailedPrecondition TENANT_NOT_ACTIVE"),
    ] {
        root.create(provider(how)).await.unwrap();
        let of_it = root.with("x-tenant-id", how);
        let key = app.as_key(&of_it.create_key(&["service-provider-admin"]).await);
        let name = schedule(&key, tenant(&format!("by-{how}"))).await.unwrap();
        let uid = format!("(select uid from tenants where tenant_id = '{how}')");
        sql(match how {
            "revoked" => format!(
                "update api_keys set revoke_time = now(), revoked_by = 'x', revoke_reason = 'x' \
                 where tenant_uid = {uid}"
            ),
            "weakened" => {
                format!("update api_keys set roles = '{{auditor}}' where tenant_uid = {uid}")
            }
            "locked" => String::new(),
            _ => format!(
                "update tenants set state = 'DELETED', state_before_delete = 'ACTIVE', \
                 delete_time = now(), deleted_by = 'x', purge_time = now() where uid = {uid}"
            ),
        })
        .await;
        scheduled.push((how, name, expected));
    }
    let lock = json!({"tenant_id": "locked", "mode": "LOCK_MODE_FULL", "reason": "unpaid"});
    root.call("LockTenant", lock).await.unwrap();
    // Of what was changed behind its back the node does not hear.
    app.shared.keys.forget();

    app.work();

    for (how, name, expected) in scheduled {
        assert_eq!(told(&error_of(wait(&root, &name).await)), expected, "{how}");
        let absent = root.get(&format!("by-{how}")).await.unwrap_err();
        assert_eq!(told(&absent), "NotFound TENANT_NOT_FOUND", "{how}");
    }
}

/// 3-02: below the creator's own tenant, in its name and as part of its call.
#[tokio::test]
async fn an_operation_works_within_the_scope_and_in_the_name_of_its_creator() {
    let app = App::start_working().await;
    let root = app.as_root();
    let kind = pb::OrganizationKind::ServiceProvider.into();
    root.create(pb::Tenant { organization_kind: kind, ..tenant("high") }).await.unwrap();
    let key = root.with("x-tenant-id", "high").create_key(&["service-provider-admin"]).await;
    let provider = app.as_key(&key).with("x-correlation-id", "of-the-call");
    let who = provider.keys().who_am_i(pb::WhoAmIRequest {}).await.unwrap().into_inner();
    let actor = format!("api_key:{}", who.api_key.unwrap().api_key_id);
    let account = app.account("acme").await;
    let in_account = root.with("x-account-id", "acme");

    let below = schedule(&provider, tenant("below")).await.unwrap();
    wait(&provider, &below).await;
    let theirs = schedule(&in_account, tenant("theirs")).await.unwrap();
    wait(&account, &theirs).await;

    let below = root.get("below").await.unwrap();
    assert_eq!(below.parent_tenant_id(), "high");
    assert_eq!(below.status_details.unwrap().created_by, actor);
    let told = format!(
        "select count(*) as number from events where actor = '{actor}' \
         and correlation_id = 'of-the-call' \
         and type in ('operation.created', 'tenant.created', 'operation.completed')"
    );
    assert_eq!(count(&app, &told).await, 3);
    assert_eq!(root.get("theirs").await.unwrap().account_id, "acme");
}

/// 3-03: once, to its creator, with TENANTS:ADD.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_result_is_given_once_to_its_creator_however_many_ask() {
    let app = App::start().await;
    let root = app.as_root();
    let other = app.as_key(&root.create_key(&["system-admin"]).await);
    let viewer = app.as_key(&root.create_key(&["auditor"]).await);
    let name = schedule(&root, tenant("foo")).await.unwrap();
    let early = take(&root, &name).await.unwrap_err();
    app.work();
    wait(&viewer, &name).await;

    let by_other = take(&other, &name).await.unwrap_err();
    let by_viewer = take(&viewer, &name).await.unwrap_err();
    let only = pb::TakeTenantResultRequest {
        operation: name.clone(),
        validate_only: true,
        ..Default::default()
    };
    let looked_at = root.tenants().take_tenant_result(only).await.unwrap().into_inner();
    let tries = join_all((0..20).map(|_| take(&root, &name))).await;

    assert_eq!(told(&early), "FailedPrecondition INVALID_STATE_TRANSITION");
    assert_eq!(told(&by_other), "PermissionDenied PERMISSION_MISSING");
    assert_eq!(told(&by_viewer), "PermissionDenied PERMISSION_MISSING");
    let (taken, refused): (Vec<_>, Vec<_>) = tries.into_iter().partition(Result::is_ok);
    assert_eq!(taken.len(), 1);
    assert_eq!(taken[0].as_ref().unwrap().tenant, looked_at.tenant);
    for refusal in refused {
        assert_eq!(told(&refusal.unwrap_err()), "FailedPrecondition RESULT_ALREADY_CONSUMED");
    }
    assert_eq!(state(&root, &name).await, "COMPLETED");
}

#[tokio::test]
async fn a_request_id_makes_one_operation_and_gets_its_result_again() {
    let app = App::start_working().await;
    let root = app.as_root();
    let request =
        pb::CreateTenantAsyncRequest { request_id: "once".into(), ..later(tenant("foo")) };

    let first = root.tenants().create_tenant_async(request.clone()).await.unwrap().into_inner();
    wait(&root, &first.name).await;
    let again = root.tenants().create_tenant_async(request).await.unwrap().into_inner();
    let take = pb::TakeTenantResultRequest {
        operation: first.name.clone(),
        request_id: "take".into(),
        ..Default::default()
    };
    let result = root.tenants().take_tenant_result(take.clone()).await.unwrap().into_inner();
    let same = root.tenants().take_tenant_result(take).await.unwrap().into_inner();

    assert_eq!(again, first);
    assert_eq!(result, same);
    assert_eq!(count(&app, "select count(*) as number from operations").await, 1);
}

/// 3-03: neither those who follow an operation nor a dump of the database read what is its creator's.
#[tokio::test]
async fn what_an_operation_holds_is_read_by_nobody_else() {
    let app = App::start().await;
    let root = app.as_root();
    let secret = pb::Tenant { description: Some("unspeakable".into()), ..tenant("foo") };
    let name = schedule(&root, secret).await.unwrap();
    let shown = "select count(*) as number from operations o where o::text like '%'
                 || encode(convert_to('unspeakable', 'UTF8'), 'hex') || '%'
                 or o::text like '%unspeakable%'";
    let open = "select count(*) as number from operations
                where worker_key is not null or request is not null";
    let waiting = (count(&app, shown).await, count(&app, open).await);

    app.work();
    wait(&root, &name).await;
    let followed = get(&root, &name).await.unwrap().to_string();
    let listed = root.call("ListOperations", json!({})).await.unwrap().to_string();

    assert_eq!(waiting, (0, 1));
    assert_eq!((count(&app, shown).await, count(&app, open).await), (0, 0));
    assert!(!followed.contains("unspeakable") && !listed.contains("unspeakable"));
    assert_eq!(take(&root, &name).await.unwrap().tenant.unwrap().description(), "unspeakable");
    assert_eq!(count(&app, "select count(result) as number from operations").await, 0);
}

#[tokio::test]
async fn whoever_waits_is_answered_in_time_with_the_latest_state() {
    let app = App::start().await;
    let root = app.as_root();
    let name = schedule(&root, tenant("foo")).await.unwrap();
    let start = Instant::now();

    let at_once = json!({"name": name, "timeout": "0s"});
    let at_once = root.call("WaitOperation", at_once).await.unwrap();
    let soon = root.call("WaitOperation", json!({"name": name, "timeout": "0.1s"})).await.unwrap();
    let hurried = root.with("grpc-timeout", "600m");
    let hurried = hurried.call("WaitOperation", json!({"name": name})).await.unwrap();
    let negative = json!({"name": name, "timeout": "-1s"});
    let negative = root.call("WaitOperation", negative).await.unwrap_err();

    for answer in [at_once, soon, hurried] {
        assert_eq!(answer["metadata"]["state"], "OPERATION_STATE_SCHEDULED");
    }
    assert_eq!(fields(&negative), ["timeout"]);
    assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
}

/// A node beside the one that is called: it shares the database with it, and nothing else.
fn another_node(app: &App) -> Arc<Shared> {
    let Shared { database, master, clock, settings, .. } = &*app.shared;
    let (mailer, clock) = (Mailer::new(settings).unwrap(), clock.clone());
    let node = Shared::new(database.clone(), master.clone(), clock, settings.clone(), mailer);
    Arc::new(node.unwrap())
}

#[tokio::test]
async fn whoever_waits_hears_of_what_another_node_has_done() {
    let app = App::start().await;
    let root = app.as_root();
    let name = schedule(&root, tenant("foo")).await.unwrap();
    let (_stop, stopped) = watch::channel(false);

    let waiting = {
        let (caller, name) = (root.clone(), name.clone());
        tokio::spawn(async move { wait(&caller, &name).await })
    };
    tokio::task::yield_now().await;

    tokio::spawn(worker::work(another_node(&app), stopped));

    assert!(waiting.await.unwrap().done);
}

/// 3-02: exactly one tenant and one end for each, however many nodes there are.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_many_nodes_one_works_on_an_operation() {
    let app = App::start().await;
    let root = app.as_root();
    let mut nameless = tenant("x");
    nameless.tenant_id.clear();
    let asked = (0..30).map(|number| {
        let name = Some(format!("Nameless {number}"));
        schedule(&root, pb::Tenant { name, ..nameless.clone() })
    });
    let names = join_all(asked).await;
    let (_stop, stopped) = watch::channel(false);

    for _ in 0..4 {
        tokio::spawn(worker::work(another_node(&app), stopped.clone()));
    }

    for name in names {
        let operation = wait(&root, &name.unwrap()).await;
        assert!(matches!(operation.result, Some(Outcome::Response(_))), "{operation:?}");
    }
    assert_eq!(count(&app, "select count(*) as number from tenants").await, 30);
    for kind in ["operation.created", "tenant.created", "operation.completed"] {
        let told = format!("select count(*) as number from events where type = '{kind}'");
        assert_eq!(count(&app, &told).await, 30, "{kind}");
    }
}

/// 3-02: what a worker has begun and not done is done by another.
#[tokio::test]
async fn a_worker_that_stops_leaves_what_it_is_at_to_the_next() {
    let app = App::start_with(|settings| settings.shutdown.drain = Duration::from_millis(10)).await;
    let root = app.as_root();
    root.create(tenant("parent")).await.unwrap();
    let name = schedule(&root, client("child", "parent")).await.unwrap();
    let mut held = app.superuser().await;
    held.batch_execute("begin; select 1 from tenants for update").await.unwrap();
    let worker = app.work();
    until("the work", async || state(&root, &name).await == "PROCESSING").await;

    app.rest();
    worker.await.unwrap();
    let left = state(&root, &name).await;
    held.batch_execute("rollback").await.unwrap();
    app.shared.clock.advance(chrono::TimeDelta::seconds(5));
    app.work();
    wait(&root, &name).await;

    assert_eq!(left, "PROCESSING");
    assert_eq!(state(&root, &name).await, "COMPLETED");
    assert_eq!(root.get("child").await.unwrap().parent_tenant_id(), "parent");
}

#[tokio::test]
async fn what_cannot_be_done_again_and_again_fails_in_the_end() {
    let app = App::start_with(|settings| settings.statement_timeout = Duration::from_millis(300));
    let app = app.await;
    let root = app.as_root();
    root.create(tenant("parent")).await.unwrap();
    let name = schedule(&root, client("child", "parent")).await.unwrap();
    let mut held = app.superuser().await;
    held.batch_execute("update operations set attempts = 9").await.unwrap();
    held.batch_execute("begin; select 1 from tenants for update").await.unwrap();

    app.work();
    let ended = wait(&root, &name).await;

    assert_eq!(told(&error_of(ended)), "DeadlineExceeded DEADLINE_EXCEEDED");
}

#[tokio::test]
async fn what_stops_its_worker_again_and_again_fails_in_the_end() {
    let app = App::start().await;
    let root = app.as_root();
    let name = schedule(&root, tenant("foo")).await.unwrap();
    let begun = "update operations set state = 'PROCESSING', attempts = 10,
                 processing_start_time = '2026-01-01Z', attempt_time = '2026-01-01Z'";
    app.superuser().await.batch_execute(begun).await.unwrap();

    app.work();

    assert_eq!(told(&error_of(wait(&root, &name).await)), "Internal INTERNAL");
    assert_eq!(root.list("", "").await.unwrap(), [""; 0]);
}

/// 3-02: cancelled before it is done, it leaves no tenant.
#[tokio::test]
async fn what_is_not_done_can_be_cancelled_and_what_is_done_deleted() {
    let app = App::start().await;
    let root = app.as_root();
    let name = schedule(&root, tenant("cancelled")).await.unwrap();
    let named = json!({"name": name});

    let early = root.call("DeleteOperation", named.clone()).await.unwrap_err();
    root.call("CancelOperation", named.clone()).await.unwrap();
    root.call("CancelOperation", named.clone()).await.unwrap();
    app.work();
    let done = schedule(&root, tenant("done")).await.unwrap();
    wait(&root, &done).await;
    root.call("CancelOperation", json!({"name": done})).await.unwrap();

    assert_eq!(told(&early), "FailedPrecondition INVALID_STATE_TRANSITION");
    let cancelled = wait(&root, &name).await;
    assert_eq!(state(&root, &name).await, "CANCELLED");
    assert_eq!(told(&error_of(cancelled)), "Cancelled CANCELLED");
    assert_eq!(state(&root, &done).await, "COMPLETED");
    assert_eq!(root.list("", "").await.unwrap(), ["done"]);
    let told_once = "select count(*) as number from events where type = 'operation.cancelled'";
    assert_eq!(count(&app, told_once).await, 1);
    root.call("DeleteOperation", named.clone()).await.unwrap();
    let gone = root.call("DeleteOperation", named).await.unwrap_err();
    assert_eq!(told(&gone), "NotFound OPERATION_NOT_FOUND");
}

/// 3-03: the status needs TENANTS:VIEW.
#[tokio::test]
async fn operations_are_listed_page_by_page_as_a_filter_says() {
    let app = App::start().await;
    let root = app.as_root();
    let mut names = Vec::new();
    for id in ["one", "two", "three"] {
        names.push(schedule(&root, tenant(id)).await.unwrap());
    }
    root.call("CancelOperation", json!({"name": names[1]})).await.unwrap();
    let listed = async |request: Value| {
        let answer = root.call("ListOperations", request).await.unwrap();
        let operations = answer["operations"].as_array().cloned().unwrap_or_default();
        let names = operations.iter().map(|one| one["name"].as_str().unwrap().to_owned());
        (names.collect::<Vec<_>>(), answer["next_page_token"].clone())
    };

    let (first, token) = listed(json!({"page_size": 2, "name": "operations"})).await;
    let (second, last) = listed(json!({"page_token": token, "name": "operations"})).await;

    assert_eq!((first, second), (names[..2].to_vec(), names[2..].to_vec()));
    assert!(last.is_null());
    for (filter, expected) in [
        ("done = true", &names[1..2]),
        ("state = CANCELLED", &names[1..2]),
        ("state != OPERATION_STATE_CANCELLED AND tenant_id = three", &names[2..]),
        ("NOT tenant_id = one AND done = false", &names[2..]),
        ("init_time < \"2020-01-01T00:00:00Z\"", &[]),
    ] {
        assert_eq!(listed(json!({"filter": filter})).await.0, expected, "{filter}");
    }
    for (wrong, field) in [
        (json!({"filter": "colour = 1"}), "filter"),
        (json!({"name": "operations/x"}), "name"),
        (json!({"page_size": -1}), "page_size"),
        (json!({"return_partial_success": true}), "return_partial_success"),
    ] {
        let refusal = root.call("ListOperations", wrong).await.unwrap_err();
        assert_eq!(fields(&refusal), [field]);
    }
    for wrong in ["", "operations", "operations/", "operations/x", "tenants/foo"] {
        let refusal = get(&root, wrong).await.unwrap_err();
        assert_eq!(fields(&refusal), ["name"], "{wrong:?}");
    }
}

/// 2-30, 3-26: what of whom is seen, by the methods and by the policies of the table.
#[tokio::test]
async fn an_operation_is_seen_within_its_account_and_from_its_tenant_upwards() {
    let app = App::start().await;
    let root = app.as_root();
    let (ours, theirs) = (app.account("ours").await, app.account("theirs").await);
    let kind = pb::OrganizationKind::ServiceProvider.into();
    ours.create(pb::Tenant { organization_kind: kind, ..tenant("high") }).await.unwrap();
    let below = pb::Tenant { parent_tenant_id: Some("high".into()), ..tenant("low") };
    let low = ours.create(below).await.unwrap();
    ours.create(tenant("beside")).await.unwrap();
    ours.call("CreateReseller", json!({"reseller": {"reseller_id": "north"}})).await.unwrap();
    let key = async |tenant: &str, role: &str| {
        app.as_key(&root.with("x-tenant-id", tenant).create_key(&[role]).await)
    };
    let high_admin = key("high", "service-provider-admin").await;
    let reseller = pb::ApiKey {
        roles: vec!["reseller".into()],
        reseller_id: "north".into(),
        ..Default::default()
    };
    let reseller = pb::CreateApiKeyRequest { api_key: Some(reseller), ..Default::default() };
    let of_ours = root.with("x-account-id", "ours");
    let reseller = of_ours.keys().create_api_key(reseller).await.unwrap().into_inner();
    let from_low = ours.with("x-tenant-id", "low");
    let name = schedule(&from_low, client("new", "high")).await.unwrap();
    let unbound = schedule(&ours, tenant("unbound")).await.unwrap();
    app.superuser().await.batch_execute("update tenants set reseller_id = 'north'").await.unwrap();

    for (what, caller, sees) in [
        ("system", root.clone(), (true, true)),
        ("account", ours, (true, true)),
        ("its tenant", key("low", "tenant-admin").await, (true, false)),
        ("the tenant above", high_admin, (true, false)),
        (
            "a tenant above that does not reach below",
            key("high", "tenant-admin").await,
            (false, false),
        ),
        ("a tenant beside", key("beside", "auditor").await, (false, false)),
        ("another account", theirs, (false, false)),
        ("a reseller", app.as_key(&reseller.secret), (false, false)),
    ] {
        let seen = (get(&caller, &name).await, get(&caller, &unbound).await);
        for (seen, expected) in [(seen.0, sees.0), (seen.1, sees.1)] {
            match seen {
                Ok(_) => assert!(expected, "{what}"),
                Err(status) => {
                    assert_eq!(
                        (&*told(&status), expected),
                        ("NotFound OPERATION_NOT_FOUND", false)
                    );
                }
            }
        }
        let listed = caller.call("ListOperations", json!({})).await.unwrap();
        let number = listed["operations"].as_array().map_or(0, Vec::len);
        assert_eq!(number, usize::from(sees.0) + usize::from(sees.1), "{what}");
    }
    let low = low.uid.parse().unwrap();
    for (scope, rows) in [
        (Scope::System, 2),
        (Scope::Account("ours".into()), 2),
        (Scope::Account("theirs".into()), 0),
        (Scope::Tenant(low), 1),
        (Scope::Reseller { account: "ours".into(), reseller: "north".into() }, 0),
        (Scope::Publisher("ours".into()), 0),
    ] {
        let soon = Instant::now() + Duration::from_secs(20);
        let mut within = app.shared.database.begin(&scope, None, soon).await.unwrap();
        let all = diesel::sql_query("select 1 from operations");
        let found = diesel_async::RunQueryDsl::execute(all, within.conn()).await.unwrap();
        assert_eq!(found, rows, "{scope:?}");
        let forged = "insert into operations select gen_random_uuid(), account_id, tenant_uid,
            tenant_of_call, names_tenant, names_account, gen_random_uuid(), correlation_id, state,
            subject, tenant_id, attempts, attempt_time, init_time, processing_start_time, processing_end_time,
            error, creator_key, worker_key, request, result, take_time, expire_time from operations";
        let forged = diesel::sql_query(forged);
        let forged = diesel_async::RunQueryDsl::execute(forged, within.conn()).await;
        assert!(rows == 0 || forged.is_err(), "{scope:?}: in the name of another");
        within.rollback().await.unwrap();
    }
}

#[tokio::test]
async fn an_operation_that_is_done_is_kept_as_long_as_the_setting_says() {
    let app = App::start_with(|settings| settings.operations.retention = Duration::from_millis(1));
    let app = app.await;
    let root = app.as_root();
    let done = schedule(&root, tenant("foo")).await.unwrap();
    root.call("CancelOperation", json!({"name": done})).await.unwrap();
    let waits = schedule(&root, tenant("foo")).await.unwrap();

    until("the end", async || {
        start::sweep_once(&app.shared).await.unwrap();
        get(&root, &done).await.is_err()
    })
    .await;

    assert_eq!(state(&root, &waits).await, "SCHEDULED");
}

#[tokio::test]
async fn operations_ask_for_a_key_as_all_methods_do() {
    let app = App::start().await;
    let nobody = app.anonymous();
    let unknown =
        nobody.raw("/google.longrunning.Operations/Nothing", Vec::new()).await.unwrap_err();

    let refusal = nobody.call("ListOperations", json!({})).await.unwrap_err();

    assert_eq!(told(&refusal), "Unauthenticated CREDENTIAL_INVALID");
    assert!(refusal.get_error_details().request_info().is_some());
    assert_eq!(told(&unknown), "Unimplemented METHOD_UNKNOWN");
}

/// 3-03: what is told once is told to whoever takes the result, and neither before nor elsewhere.
#[tokio::test]
async fn the_secrets_of_what_comes_with_a_tenant_are_in_the_result_and_nowhere_else() {
    let app = App::start().await;
    let root = app.as_root();
    root.call("CreateProduct", product()).await.unwrap();
    let request = json!({
        "tenant": {
            "tenant_id": "foo", "name": "Foo", "description": "", "type": "TENANT_TYPE_PRODUCT",
            "organization_kind": "ORGANIZATION_KIND_ENTERPRISE",
        },
        "application": application(),
        "admin_api_application": {"name": "Portal"},
    });
    let before = count(&app, "select count(*) as number from external_keys").await;

    let scheduled = root.call("CreateTenantAsync", request).await.unwrap();
    let rehearsed = count(&app, "select count(*) as number from external_keys").await;
    let name = scheduled["name"].as_str().unwrap();
    app.work();
    wait(&root, name).await;
    let followed = get(&root, name).await.unwrap().to_string();
    let taken = take(&root, name).await.unwrap();

    assert_eq!((before, rehearsed), (0, 0));
    let secrets =
        [&taken.external_key_secret, &taken.admin_api_key_secret, &taken.oauth_client_secret];
    for secret in secrets {
        assert!(secret.len() >= 36, "{secret}");
        assert!(!followed.contains(secret.as_str()));
        let leak =
            format!("select count(*) as number from events where events::text like '%{secret}%'");
        assert_eq!(count(&app, &leak).await, 0);
    }
    let own = app.as_key(&taken.admin_api_key_secret);
    assert_eq!(own.get("").await.unwrap().tenant_id, "foo");
}
