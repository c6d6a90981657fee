//! What travels beside a request: who calls, for whom, under which id, until when.

use std::time::{Duration, Instant};

use axum::body::{Body, Bytes};
use diesel_async::SimpleAsyncConnection as _;
use serde_json::json;
use tenantry::pb;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use crate::{
    app::{App, Caller, count, fields, tenant, told},
    web::{EMPTY, GRPC_WEB, http, http2},
};

async fn who_am_i(caller: &Caller) -> Result<tonic::Response<pb::WhoAmIResponse>, Status> {
    caller.keys().who_am_i(pb::WhoAmIRequest {}).await
}

/// 4-02: given or made, and on every answer.
#[tokio::test]
async fn a_correlation_id_is_on_every_answer_and_in_every_error() {
    let app = App::start().await;
    let given = app.as_root().with("x-correlation-id", "order-4711");

    let answer = who_am_i(&given).await.unwrap();
    let made = who_am_i(&app.as_root()).await.unwrap();
    let refusal = given.get("unknown").await.unwrap_err();
    let anonymous = app.anonymous().with("x-correlation-id", "order-4711");
    let unauthenticated = who_am_i(&anonymous).await.unwrap_err();

    assert_eq!(answer.metadata().get("x-correlation-id").unwrap(), "order-4711");
    let made = made.metadata().get("x-correlation-id").unwrap().to_str().unwrap().to_owned();
    assert!(made.parse::<uuid::Uuid>().is_ok(), "{made}");
    for status in [refusal, unauthenticated] {
        assert_eq!(status.metadata().get("x-correlation-id").unwrap(), "order-4711");
        let details = status.get_error_details();
        assert_eq!(details.request_info().unwrap().request_id, "order-4711");
    }
}

#[tokio::test]
async fn metadata_of_the_wrong_form_is_refused_by_its_key() {
    let app = App::start().await;
    app.as_root().create(tenant("foo")).await.unwrap();
    let long = "a".repeat(129);
    let cases = [
        ("x-correlation-id", "with space"),
        ("x-correlation-id", ""),
        ("x-correlation-id", &long),
        ("x-tenant-id", "Not An Id"),
        ("x-tenant-id", ""),
        ("x-account-id", "../default"),
        ("x-account-id", &long),
        ("grpc-timeout", "soon"),
        ("grpc-timeout", "123456789S"),
    ];
    for (key, value) in cases {
        let refusal = who_am_i(&app.as_root().with(key, value)).await.unwrap_err();

        assert_eq!(told(&refusal), "InvalidArgument INVALID_METADATA", "{key}: {value:?}");
        assert_eq!(fields(&refusal), [key], "{value:?}");
        assert!(refusal.metadata().contains_key("x-correlation-id"));
    }
}

#[tokio::test]
async fn metadata_that_is_there_twice_is_refused_by_its_key() {
    let app = App::start().await;
    app.as_root().create(tenant("foo")).await.unwrap();
    for (key, value) in [
        ("x-tenant-id", "foo"),
        ("x-account-id", "default"),
        ("x-correlation-id", "one"),
        ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
    ] {
        who_am_i(&app.as_root().with(key, value)).await.unwrap();
        let refusal = who_am_i(&app.as_root().with(key, value).with(key, value)).await.unwrap_err();

        assert_eq!(told(&refusal), "InvalidArgument INVALID_METADATA", "{key}");
        assert_eq!(fields(&refusal), [key]);
    }
    let two_keys = app.as_root().with("authorization", &format!("Bearer {}", app.root));
    assert_eq!(fields(&who_am_i(&two_keys).await.unwrap_err()), ["authorization"]);
}

/// 4-03: whatever is wrong with a key, the answer is the same.
#[tokio::test]
async fn a_key_that_is_not_good_is_refused_without_a_hint() {
    let app = App::start().await;
    let root = app.as_root();
    let revoked = root.create_key(&["auditor"]).await;
    let id = who_am_i(&app.as_key(&revoked)).await.unwrap().into_inner();
    let request = pb::RevokeApiKeyRequest {
        api_key_id: id.api_key.unwrap().api_key_id,
        reason: "lost".into(),
        ..Default::default()
    };
    root.keys().revoke_api_key(request).await.unwrap();
    let expiring = pb::CreateApiKeyRequest {
        api_key: Some(pb::ApiKey {
            roles: vec!["auditor".into()],
            expire_time: Some(prost_types::Timestamp {
                seconds: (app.shared.clock.now() + chrono::TimeDelta::minutes(1)).timestamp(),
                nanos: 0,
            }),
            ..Default::default()
        }),
        ..Default::default()
    };
    let expired = root.keys().create_api_key(expiring).await.unwrap().into_inner().secret;
    who_am_i(&app.as_key(&expired)).await.unwrap();
    app.shared.clock.advance(chrono::TimeDelta::minutes(2));
    let (head, tail) = app.root.split_at(20);
    let flipped = format!("{head}{}{}", if tail.starts_with('a') { "b" } else { "a" }, &tail[1..]);

    let refused = [
        app.anonymous(),
        app.anonymous().with("authorization", ""),
        app.anonymous().with("authorization", "Bearer"),
        app.anonymous().with("authorization", "Bearer "),
        app.anonymous().with("authorization", &format!("Basic {}", app.root)),
        app.anonymous().with("authorization", &app.root),
        app.as_key("tk_any_nonsense"),
        app.as_key(&app.root[..app.root.len() - 1]),
        app.as_key(&flipped),
        app.as_key(&revoked),
        app.as_key(&expired),
    ];
    let mut messages = Vec::new();
    for caller in refused {
        let refusal = who_am_i(&caller).await.unwrap_err();
        assert_eq!(told(&refusal), "Unauthenticated CREDENTIAL_INVALID");
        messages.push(refusal.message().to_owned());
    }
    messages.dedup();
    assert_eq!(messages.len(), 1);
    let lower_case = app.anonymous().with("authorization", &format!("bearer  {} ", app.root));
    who_am_i(&lower_case).await.unwrap();
}

/// 4-01: to the letter, where the operator wants it so.
#[tokio::test]
async fn strict_metadata_asks_for_account_and_tenant_where_a_call_acts_on_a_tenant() {
    let app = App::start_with(|settings| settings.strict_metadata = true).await;
    let root = app.as_root();
    let new = root.with("x-account-id", "default");
    new.create(tenant("foo")).await.unwrap();

    let refusal = root.get("foo").await.unwrap_err();
    let half = root.with("x-tenant-id", "foo").get("").await.unwrap_err();
    let whole = root.with("x-tenant-id", "foo").with("x-account-id", "default").get("").await;

    assert_eq!(told(&refusal), "InvalidArgument INVALID_METADATA");
    assert_eq!(fields(&refusal), ["x-account-id", "x-tenant-id"]);
    let nobody = app.anonymous().get("foo").await.unwrap_err();
    assert_eq!(told(&nobody), "Unauthenticated CREDENTIAL_INVALID", "whoever it is comes first");
    assert_eq!(fields(&half), ["x-account-id"]);
    assert_eq!(whole.unwrap().tenant_id, "foo");
}

/// 4-01, 4-10, 4-11: where a call acts on a tenant or an account, its key says which it has to name.
#[tokio::test]
async fn strict_metadata_asks_for_the_tenant_of_an_allowlist_where_the_key_has_one() {
    let app = App::start_with(|settings| settings.strict_metadata = true).await;
    let root = app.as_root();
    root.with("x-account-id", "default").create(tenant("foo")).await.unwrap();
    let own = app.as_key(&root.with("x-tenant-id", "foo").create_key(&["tenant-admin"]).await);
    for (method, request) in [
        ("GetIpAllowlist", json!({})),
        ("UpdateIpAllowlist", json!({"enabled": false})),
        ("TestIpAllowlist", json!({"ip": "192.0.2.1"})),
    ] {
        let call = async |caller: &Caller| caller.call(method, request.clone()).await;
        let missing = async |caller: &Caller| {
            let refusal = call(caller).await.unwrap_err();
            assert_eq!(told(&refusal), "InvalidArgument INVALID_METADATA", "{method}");
            fields(&refusal)
        };
        let on_account = root.with("x-account-id", "default");
        let in_account = own.with("x-account-id", "default");

        assert_eq!(missing(&own).await, ["x-account-id", "x-tenant-id"], "{method}");
        assert_eq!(missing(&in_account).await, ["x-tenant-id"], "{method}");
        assert_eq!(missing(&own.with("x-tenant-id", "foo")).await, ["x-account-id"], "{method}");
        assert_eq!(missing(&root).await, ["x-account-id"], "{method}");
        assert_eq!(missing(&root.with("x-tenant-id", "foo")).await, ["x-account-id"], "{method}");
        call(&in_account.with("x-tenant-id", "foo")).await.unwrap();
        call(&on_account).await.unwrap();
        call(&on_account.with("x-tenant-id", "foo")).await.unwrap();
    }
}

/// 3-22, 4-03, 4-12: of all that stands against a call, the first answers, in the order that the proto tells.
#[tokio::test]
async fn what_stands_against_a_call_is_told_in_the_order_of_the_proto() {
    let app = App::start().await;
    let root = app.as_root();
    root.create(tenant("foo")).await.unwrap();
    let on_foo = root.with("x-tenant-id", "foo");
    let key = app.as_key(&on_foo.create_key(&["key-verifier"]).await);
    let elsewhere = json!([{"name": "elsewhere", "cidr": "192.0.2.0/24"}]);
    let list = json!({"enabled": true, "rules": elsewhere});
    on_foo.call("UpdateIpAllowlist", list).await.unwrap();
    let lock = json!({"mode": "LOCK_MODE_FULL", "reason": "unpaid"});
    on_foo.call("LockTenant", lock).await.unwrap();
    root.delete("foo").await.unwrap();
    let refusal = async |caller: &Caller| {
        told(
            &caller
                .call("UpdateTenant", json!({"tenant": {"support_email": "?"}}))
                .await
                .unwrap_err(),
        )
    };

    let other = key.with("x-tenant-id", "other");
    assert_eq!(refusal(&other).await, "PermissionDenied TENANT_MISMATCH");
    assert_eq!(refusal(&key).await, "PermissionDenied IP_NOT_ALLOWED");
    on_foo.call("UpdateIpAllowlist", json!({"enabled": false})).await.unwrap();
    assert_eq!(refusal(&key).await, "FailedPrecondition TENANT_NOT_ACTIVE");
    root.undelete("foo").await.unwrap();
    assert_eq!(refusal(&key).await, "FailedPrecondition TENANT_LOCKED");
    on_foo.call("UnlockTenant", json!({})).await.unwrap();
    assert_eq!(refusal(&key).await, "PermissionDenied PERMISSION_MISSING");
    let able = app.as_key(&on_foo.create_key(&["tenant-admin"]).await);
    assert_eq!(refusal(&able).await, "InvalidArgument INVALID_FIELD");
}

#[tokio::test]
async fn the_tenant_of_a_call_is_told_in_its_answer() {
    let app = App::start().await;
    let root = app.as_root();
    root.create(tenant("foo")).await.unwrap();
    let key = app.as_key(&root.with("x-tenant-id", "foo").create_key(&["tenant-admin"]).await);

    let answer = who_am_i(&key).await.unwrap();
    let named = who_am_i(&root.with("x-tenant-id", "foo")).await.unwrap();

    for answer in [answer, named] {
        assert_eq!(answer.metadata().get("x-tenant-id").unwrap(), "foo");
        assert_eq!(answer.into_inner().tenant_id, "foo");
    }
    assert!(who_am_i(&root).await.unwrap().metadata().get("x-tenant-id").is_none());
    // Of refusals too.
    let refused = key.delete("foo").await.unwrap_err();
    assert_eq!(told(&refused), "PermissionDenied PERMISSION_MISSING");
    assert_eq!(refused.metadata().get("x-tenant-id").unwrap(), "foo");
}

/// Calls with a deadline and answers what comes back. Not by tonic's client, whose own timer would
/// answer first.
async fn late(app: &App, method: &str, timeout: &str, message: &impl prost::Message) -> String {
    let bearer = format!("Bearer {}", app.root);
    let headers = [GRPC_WEB, ("authorization", &*bearer), ("grpc-timeout", timeout)];
    let message = message.encode_to_vec();
    let length = u32::try_from(message.len()).unwrap().to_be_bytes();
    let framed = [&[0], &length[..], &message].concat();
    let path = format!("/tenantry.v1.TenantService/{method}");
    http(app, "POST", &path, &headers, &framed).await.replace(": ", ":")
}

#[tokio::test]
async fn a_deadline_reaches_the_database_and_ends_the_statement_that_waits() {
    let app = App::start().await;
    app.as_root().create(tenant("foo")).await.unwrap();
    let mut holder = app.superuser().await;
    holder.batch_execute("begin; lock table tenants in access exclusive mode").await.unwrap();
    let request = pb::UpdateTenantRequest {
        tenant: Some(pb::Tenant {
            tenant_id: "foo".into(),
            tag: Some("late".into()),
            ..Default::default()
        }),
        ..Default::default()
    };

    let answer = late(&app, "UpdateTenant", "400m", &request).await;

    assert!(answer.contains("grpc-status:4"), "{answer}");
    assert!(answer.contains("grpc-status-details-bin"), "{answer}");
    assert!(answer.contains("x-correlation-id"), "{answer}");
    let waiting = "select count(*) as number from pg_stat_activity \
                   where datname = current_database() and wait_event_type = 'Lock'";
    let start = Instant::now();
    while count(&app, waiting).await > 0 {
        // Without the deadline the service's own limit would end it, after 5 seconds.
        assert!(start.elapsed() < Duration::from_secs(3), "the statement waits on");
        tokio::task::yield_now().await;
    }
    holder.batch_execute("rollback").await.unwrap();
    assert_eq!(app.as_root().get("foo").await.unwrap().tag(), "");
}

#[tokio::test]
async fn a_deadline_that_has_passed_changes_nothing() {
    let app = App::start().await;
    let request = pb::CreateTenantRequest { tenant: Some(tenant("foo")), ..Default::default() };

    let answer = late(&app, "CreateTenant", "1n", &request).await;

    assert!(answer.contains("grpc-status:4"), "{answer}");
    assert_eq!(count(&app, "select count(*) as number from tenants").await, 0);
}

#[tokio::test]
async fn metadata_without_end_is_refused_and_the_service_lives_on() {
    let app = App::start().await;
    let much = app.as_root().with("x-note", &"n".repeat(1_000_000));

    let refusal = who_am_i(&much).await.unwrap_err();

    assert_ne!(refusal.code(), Code::Ok);
    who_am_i(&app.as_root()).await.unwrap();
}

/// A call acts with the rights that its key has when its message has come, however long that takes.
#[tokio::test]
async fn a_message_that_is_held_back_does_not_outlive_the_rights_of_its_key() {
    let app = App::start().await;
    let root = app.as_root();
    let mut sender = http2(&app).await;
    let mut answers = Vec::new();

    for revokes in [false, true] {
        let made = json!({"api_key": {"roles": ["auditor"]}});
        let made = root.call("CreateApiKey", made).await.unwrap();
        let key = made["secret"].as_str().unwrap();
        let (message, held_back) = mpsc::channel::<Result<Bytes, std::io::Error>>(1);
        let call = |body: Body| {
            http::Request::post("http://localhost/tenantry.v1.KeyService/WhoAmI")
                .header("content-type", "application/grpc")
                .header("authorization", format!("Bearer {key}"))
                .body(body)
                .unwrap()
        };
        let slow = sender.send_request(call(Body::from_stream(ReceiverStream::new(held_back))));
        // Of the same connection, and later: by its answer the other one was admitted.
        sender.send_request(call(Body::from(EMPTY))).await.unwrap();
        if revokes {
            let id = &made["api_key"]["api_key_id"];
            let revoke = json!({"api_key_id": id, "reason": "stolen", "wait": true});
            root.call("RevokeApiKey", revoke).await.unwrap();
        }
        message.send(Ok(Bytes::from_static(EMPTY))).await.unwrap();
        drop(message);
        let answer = slow.await.unwrap();
        answers.push(answer.headers().get("grpc-status").cloned());
    }

    assert_eq!(answers, [None, Some("16".parse().unwrap())], "what is done is told at the end");
}

#[tokio::test]
async fn a_message_that_never_ends_is_refused_when_it_is_too_large() {
    let app = App::start().await;
    let mut sender = http2(&app).await;
    let (message, sent) = mpsc::channel::<Result<Bytes, std::io::Error>>(1);
    let request = http::Request::post("http://localhost/tenantry.v1.KeyService/WhoAmI")
        .header("content-type", "application/grpc")
        .header("authorization", format!("Bearer {}", app.root))
        .body(Body::from_stream(ReceiverStream::new(sent)))
        .unwrap();
    let answer = sender.send_request(request);
    let sending = tokio::spawn(async move {
        while message.send(Ok(Bytes::from_static(&[0; 16 << 10]))).await.is_ok() {}
    });

    let answer = answer.await.unwrap();

    assert_eq!(answer.headers()["grpc-status"], "8");
    sending.await.unwrap();
}
