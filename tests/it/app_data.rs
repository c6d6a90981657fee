//! App data: what applications keep of end users, and what becomes of it with the tenant.

use chrono::TimeDelta;
use diesel_async::SimpleAsyncConnection as _;
use futures_util::future::join_all;
use serde_json::{Value, json};
use tenantry::{pb, purge};
use tonic::Status;

use crate::app::{App, Caller, count, fields, rows, tenant, told};

async fn put(caller: &Caller, application: &str, user: &str, data: Value) -> Result<Value, Status> {
    let document = json!({"application_id": application, "end_user_id": user, "data": data});
    let answer = caller.call("PutEndUserAppData", json!({"end_user_app_data": document})).await?;
    Ok(answer["end_user_app_data"].clone())
}

async fn delete(caller: &Caller, application: &str, user: &str) -> Result<Value, Status> {
    let name = json!({"application_id": application, "end_user_id": user});
    caller.call("DeleteEndUserAppData", name).await
}

/// The documents that a filter lists in an order, as `application/user`.
async fn list(caller: &Caller, filter: &str, order_by: &str) -> Result<Vec<String>, Status> {
    let request = json!({"filter": filter, "order_by": order_by});
    let answer = caller.call("ListEndUserAppData", request).await?;
    let documents = answer["end_user_app_data"].as_array().cloned().unwrap_or_default();
    let name = |document: &Value, field: &str| document[field].as_str().unwrap().to_owned();
    Ok(documents
        .iter()
        .map(|one| format!("{}/{}", name(one, "application_id"), name(one, "end_user_id")))
        .collect())
}

/// A Tenantry with a tenant, and who acts on that.
async fn with_tenant(id: &str) -> (App, Caller) {
    let app = App::start().await;
    app.as_root().create(tenant(id)).await.unwrap();
    let of_it = app.as_root().with("x-tenant-id", id);
    (app, of_it)
}

/// 2-27
#[tokio::test]
async fn what_is_kept_of_an_end_user_is_given_back_replaced_and_deleted() {
    let (app, of_foo) = with_tenant("foo").await;
    let key = app.as_key(&of_foo.create_key(&["tenant-admin"]).await);

    let first = put(&key, "crm", " jane@x ", json!({"theme": "dark", "pins": [1, 2]})).await;
    let first = first.unwrap();
    app.shared.clock.advance(TimeDelta::hours(1));
    let same = put(&key, "crm", "jane@x", json!({"theme": "dark", "pins": [1, 2]})).await.unwrap();
    let second = put(&key, "crm", "jane@x", json!({})).await.unwrap();
    let stale = json!({"end_user_app_data": {"application_id": "crm", "end_user_id": "jane@x",
        "data": {"a": 1}, "etag": first["etag"]}});
    let stale = key.call("PutEndUserAppData", stale).await.unwrap_err();
    let new = json!({"end_user_app_data": {"application_id": "crm", "end_user_id": "new",
        "data": {}}, "etag": "1"});
    let new = key.call("PutEndUserAppData", new).await.unwrap_err();

    assert_eq!(first["end_user_id"], "jane@x");
    assert_eq!(first["data"], json!({"theme": "dark", "pins": [1.0, 2.0]}));
    assert_eq!(same, first);
    assert_eq!(second["data"], json!({}));
    assert_eq!(second["create_time"], first["create_time"]);
    assert!(second["update_time"].as_str() > first["update_time"].as_str());
    assert_ne!(second["etag"], first["etag"]);
    assert_eq!(told(&stale), "Aborted ETAG_MISMATCH");
    assert_eq!(told(&new), "Aborted ETAG_MISMATCH");
    let listed = key.call("ListEndUserAppData", json!({})).await.unwrap();
    assert_eq!(listed["end_user_app_data"], json!([second]));
    let stale = json!({"application_id": "crm", "end_user_id": "jane@x", "etag": first["etag"]});
    let stale = key.call("DeleteEndUserAppData", stale).await.unwrap_err();
    assert_eq!(told(&stale), "Aborted ETAG_MISMATCH");
    delete(&key, "crm", "jane@x").await.unwrap();
    let gone = delete(&key, "crm", "jane@x").await.unwrap_err();
    assert_eq!(told(&gone), "NotFound APP_DATA_NOT_FOUND");
    assert_eq!(list(&key, "", "").await.unwrap(), [""; 0]);
}

/// 2-27
#[tokio::test]
async fn everything_that_is_wrong_with_app_data_is_told_at_once() {
    let (app, of_foo) = with_tenant("foo").await;
    let before = rows(&app).await;

    let wrong = json!({"end_user_app_data": {"application_id": "No Id", "end_user_id": " "},
        "request_id": "no spaces"});
    let wrong = of_foo.call("PutEndUserAppData", wrong).await.unwrap_err();
    let large = put(&of_foo, "crm", "jane", json!({"x": "x".repeat(65 << 10)})).await.unwrap_err();
    let nothing = of_foo.call("PutEndUserAppData", json!({})).await.unwrap_err();
    let unnamed = of_foo.call("DeleteEndUserAppData", json!({})).await.unwrap_err();
    let excluded = json!({"tenant_id": "foo", "excluded_app_ids": ["crm", "No Id", ""]});
    let excluded = of_foo.call("DeleteTenant", excluded).await.unwrap_err();
    let many = json!({"tenant_id": "foo", "excluded_app_ids": vec!["crm"; 101]});
    let many = of_foo.call("DeleteTenant", many).await.unwrap_err();

    for (refusal, named) in [
        (
            wrong,
            &[
                "request_id",
                "end_user_app_data.application_id",
                "end_user_app_data.end_user_id",
                "end_user_app_data.data",
            ][..],
        ),
        (large, &["end_user_app_data.data"]),
        (nothing, &["end_user_app_data"]),
        (unnamed, &["application_id", "end_user_id"]),
        (excluded, &["excluded_app_ids[1]", "excluded_app_ids[2]"]),
        (many, &["excluded_app_ids"]),
    ] {
        assert_eq!(told(&refusal), "InvalidArgument INVALID_FIELD");
        assert_eq!(fields(&refusal), named);
    }
    assert_eq!(rows(&app).await, before);
}

/// 2-27
#[tokio::test]
async fn app_data_is_found_by_application_and_by_end_user_page_by_page() {
    let (_app, of_foo) = with_tenant("foo").await;
    for (application, user) in [("b", "2"), ("a", "2"), ("a", "1"), ("b", "1"), ("b", "3")] {
        put(&of_foo, application, user, json!({})).await.unwrap();
    }
    for (filter, order, found) in [
        ("", "", &["a/1", "a/2", "b/1", "b/2", "b/3"][..]),
        ("", "application_id desc", &["b/1", "b/2", "b/3", "a/1", "a/2"]),
        ("", "end_user_id", &["a/1", "b/1", "a/2", "b/2", "b/3"]),
        ("application_id = b", "end_user_id desc", &["b/3", "b/2", "b/1"]),
        ("end_user_id = 2", "", &["a/2", "b/2"]),
        ("NOT application_id = b AND end_user_id = 1", "", &["a/1"]),
        ("update_time < \"2020-01-01T00:00:00Z\"", "", &[]),
    ] {
        assert_eq!(list(&of_foo, filter, order).await.unwrap(), found, "{filter} {order}");
        let mut paged = Vec::new();
        let mut token = String::new();
        loop {
            let request = pb::ListEndUserAppDataRequest {
                page_size: 2,
                page_token: token,
                filter: filter.into(),
                order_by: order.into(),
            };
            let page = of_foo.tenants().list_end_user_app_data(request).await.unwrap();
            let page = page.into_inner();
            let names = page.end_user_app_data.iter();
            paged.extend(names.map(|one| format!("{}/{}", one.application_id, one.end_user_id)));
            token = page.next_page_token;
            if token.is_empty() {
                break;
            }
        }
        assert_eq!(paged, found, "{filter} {order}");
    }
    let refusal = list(&of_foo, "data = 1", "").await.unwrap_err();
    assert_eq!(told(&refusal), "InvalidArgument INVALID_FILTER");
}

/// 2-27: clients take messages of up to 4 MiB.
#[tokio::test]
async fn a_page_of_large_documents_is_cut_to_what_clients_take() {
    let (_app, of_foo) = with_tenant("foo").await;
    let large = json!({"text": "x".repeat(64_000)});
    join_all((0..70).map(|number| {
        let (of_foo, large) = (of_foo.clone(), large.clone());
        async move { put(&of_foo, "crm", &format!("{number:02}"), large).await.unwrap() }
    }))
    .await;

    let request = pb::ListEndUserAppDataRequest { page_size: 1_000, ..Default::default() };
    let first = of_foo.tenants().list_end_user_app_data(request).await.unwrap().into_inner();
    let page_token = first.next_page_token;
    let request =
        pb::ListEndUserAppDataRequest { page_size: 1_000, page_token, ..Default::default() };
    let second = of_foo.tenants().list_end_user_app_data(request).await.unwrap().into_inner();

    let number = first.end_user_app_data.len();
    assert!(number < 70, "{number}");
    assert_eq!(number + second.end_user_app_data.len(), 70);
    assert_eq!(second.next_page_token, "");
}

/// 2-27: events outlive what they tell of, so they do not hold it.
#[tokio::test]
async fn events_tell_that_app_data_changed_and_never_what_is_in_it() {
    let (app, of_foo) = with_tenant("foo").await;

    put(&of_foo, "crm", "jane", json!({"secret": "of jane"})).await.unwrap();
    put(&of_foo, "crm", "jane", json!({"secret": "of jane", "more": 1})).await.unwrap();
    delete(&of_foo, "crm", "jane").await.unwrap();

    let told = "select count(*) as number from events where resource_type = 'end_user_app_data'";
    assert_eq!(count(&app, told).await, 3);
    let of_whom = format!("{told} and coalesce(after, before) ->> 'end_user_id' = 'jane'");
    assert_eq!(count(&app, &of_whom).await, 3);
    let known = "select count(*) as number from events e where e::text like '%of jane%'";
    assert_eq!(count(&app, known).await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_concurrent_puts_of_one_document_each_counts_and_one_is_the_first() {
    let (app, of_foo) = with_tenant("foo").await;

    let kept = join_all((0..20).map(|number| {
        let of_foo = of_foo.clone();
        async move { put(&of_foo, "crm", "jane", json!({ "number": number })).await }
    }))
    .await;

    let mut etags: Vec<u32> = kept
        .into_iter()
        .map(|kept| kept.unwrap()["etag"].as_str().unwrap().parse().unwrap())
        .collect();
    etags.sort_unstable();
    assert_eq!(etags, (1..=20).collect::<Vec<_>>());
    let first = "select count(*) as number from events where type = 'end_user_app_data.created'";
    assert_eq!(count(&app, first).await, 1);
}

/// 2-25, 2-27
#[tokio::test]
async fn a_deletion_takes_all_app_data_for_good_but_that_of_excluded_applications() {
    let (app, of_foo) = with_tenant("foo").await;
    app.as_root().create(tenant("bar")).await.unwrap();
    let of_bar = app.as_root().with("x-tenant-id", "bar");
    for (application, user) in [("crm", "1"), ("crm", "2"), ("mail", "1"), ("kept", "1")] {
        put(&of_foo, application, user, json!({})).await.unwrap();
        put(&of_bar, application, user, json!({})).await.unwrap();
    }
    let before = rows(&app).await;
    let request = json!({"tenant_id": "foo", "excluded_app_ids": ["kept", "unknown"]});
    let mut only = request.clone();
    only["validate_only"] = true.into();

    let would = app.as_root().call("DeleteTenant", only).await.unwrap();
    let untouched = rows(&app).await;
    let did = app.as_root().call("DeleteTenant", request).await.unwrap();
    let left = list(&of_foo, "", "").await.unwrap();
    let late = put(&of_foo, "crm", "1", json!({})).await.unwrap_err();
    app.as_root().undelete("foo").await.unwrap();

    assert_eq!(untouched, before);
    assert_eq!(would["deleted_app_data"], did["deleted_app_data"]);
    let gone = json!([{"application_id": "crm", "document_count": "2"},
        {"application_id": "mail", "document_count": "1"}]);
    assert_eq!(did["deleted_app_data"], gone);
    assert_eq!(left, ["kept/1"]);
    assert_eq!(told(&late), "FailedPrecondition TENANT_NOT_ACTIVE");
    assert_eq!(list(&of_foo, "", "").await.unwrap(), ["kept/1"], "it does not come back");
    assert_eq!(list(&of_bar, "", "").await.unwrap().len(), 4, "nothing of others went");
    let told = "select count(*) as number from events where type = 'end_user_app_data.cleared'";
    assert_eq!(count(&app, told).await, 2, "one of each application");
}

/// 2-27
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_document_is_added_around_the_deletion_of_its_tenant() {
    let app = App::start().await;
    let root = app.as_root();
    for round in 0..10 {
        let id = format!("t{round}");
        root.create(tenant(&id)).await.unwrap();
        let of_it = root.with("x-tenant-id", &id);

        let (put, deleted) = tokio::join!(put(&of_it, "crm", "jane", json!({})), root.delete(&id));

        deleted.unwrap();
        if let Err(refusal) = put {
            assert_eq!(told(&refusal), "FailedPrecondition TENANT_NOT_ACTIVE");
        }
        assert_eq!(list(&of_it, "", "").await.unwrap(), [""; 0]);
    }
}

/// A service provider `high` in the account `acme` with a tenant `low` below it that was purged, of which
/// the data of the application `kept` is left.
async fn with_remains() -> (App, Caller) {
    let app = App::start().await;
    let acme = app.account("acme").await;
    let organization_kind = pb::OrganizationKind::ServiceProvider.into();
    acme.create(pb::Tenant { organization_kind, ..tenant("high") }).await.unwrap();
    acme.create(pb::Tenant { parent_tenant_id: Some("high".into()), ..tenant("low") })
        .await
        .unwrap();
    let of_low = acme.with("x-tenant-id", "low");
    for (application, user) in [("kept", "1"), ("kept", "2"), ("crm", "1")] {
        put(&of_low, application, user, json!({"of": "low"})).await.unwrap();
    }
    let request = json!({"tenant_id": "low", "excluded_app_ids": ["kept"]});
    acme.call("DeleteTenant", request).await.unwrap();
    app.shared.clock.advance(TimeDelta::days(31));
    assert_eq!(purge::round(&app.shared).await.unwrap(), 1);
    (app, of_low)
}

/// 2-27
#[tokio::test]
async fn what_was_excluded_outlives_the_purge_for_callers_above_the_tenant() {
    let (app, of_low) = with_remains().await;
    let root = app.as_root();
    let high = app.as_key(&root.with("x-tenant-id", "high").create_key(&["auditor"]).await);
    let stranger = app.account("other").await;

    for above in [&of_low, &root.with("x-tenant-id", "low"), &high.with("x-tenant-id", "low")] {
        assert_eq!(list(above, "", "").await.unwrap(), ["kept/1", "kept/2"]);
        let get = above.get("").await.unwrap_err();
        assert_eq!(told(&get), "NotFound TENANT_NOT_FOUND", "to all else it does not exist");
    }
    let foreign = list(&stranger.with("x-tenant-id", "low"), "", "").await.unwrap_err();
    assert_eq!(told(&foreign), "NotFound TENANT_NOT_FOUND");
    let late = put(&of_low, "kept", "1", json!({})).await.unwrap_err();
    assert_eq!(told(&late), "NotFound TENANT_NOT_FOUND");
    let in_use = json!({"account_id": "acme"});
    let in_use = root.call("DeleteAccount", in_use).await.unwrap_err();
    assert_eq!(told(&in_use), "FailedPrecondition RECORD_IN_USE");

    delete(&of_low, "kept", "1").await.unwrap();
    let missing = delete(&of_low, "crm", "1").await.unwrap_err();
    assert_eq!(told(&missing), "NotFound APP_DATA_NOT_FOUND");
    delete(&of_low, "kept", "2").await.unwrap();
    let nothing = list(&of_low, "", "").await.unwrap_err();
    assert_eq!(told(&nothing), "NotFound TENANT_NOT_FOUND", "nothing is left to reach");
    let left = "select count(*) as number from tenant_tombstones";
    assert_eq!(count(&app, left).await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_deletions_of_the_last_documents_leave_no_tombstone() {
    let (app, of_low) = with_remains().await;

    // Neither can look for what is left, and so end, before the other has begun.
    let mut holder = app.superuser().await;
    holder.batch_execute("begin; lock table tenant_tombstones in share mode").await.unwrap();
    let waiting = "select count(*) as number from pg_stat_activity \
                   where datname = current_database() and wait_event_type = 'Lock'";
    let release = async {
        while count(&app, waiting).await < 2 {
            tokio::task::yield_now().await;
        }
        holder.batch_execute("rollback").await.unwrap();
    };

    let (one, two, ()) =
        tokio::join!(delete(&of_low, "kept", "1"), delete(&of_low, "kept", "2"), release);

    one.unwrap();
    two.unwrap();
    assert_eq!(count(&app, "select count(*) as number from tenant_tombstones").await, 0);
}

/// 2-27: who is above is decided by the tree as it is.
#[tokio::test]
async fn what_is_left_of_a_purged_tenant_moves_with_the_tenants_above_it() {
    let (app, of_low) = with_remains().await;
    let root = app.as_root();
    let acme = root.with("x-account-id", "acme");
    let organization_kind = pb::OrganizationKind::ServiceProvider.into();
    acme.create(pb::Tenant { organization_kind, ..tenant("top") }).await.unwrap();
    let top = app.as_key(&root.with("x-tenant-id", "top").create_key(&["auditor"]).await);
    let top = top.with("x-tenant-id", "low");

    let before = list(&top, "", "").await.unwrap_err();
    let under = json!({"tenant_id": "high", "parent_tenant_id": "top"});
    root.call("MoveTenant", under).await.unwrap();
    let during = list(&top, "", "").await.unwrap();
    let out = json!({"tenant_id": "high", "parent_tenant_id": ""});
    root.call("MoveTenant", out).await.unwrap();
    let after = list(&top, "", "").await.unwrap_err();

    assert_eq!(told(&before), "NotFound TENANT_NOT_FOUND");
    assert_eq!(during, ["kept/1", "kept/2"]);
    assert_eq!(told(&after), "NotFound TENANT_NOT_FOUND");
    assert_eq!(list(&of_low, "", "").await.unwrap().len(), 2);
}
