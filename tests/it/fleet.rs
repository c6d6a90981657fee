//! Several nodes on one database: what one of them changes is in effect on all of them, within a bound.
//!
//! Each promise has a positive control beside it: the same without what keeps it, which must break it.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use futures_util::future::join_all;
use serde_json::{Value, json};
use tenantry::pb::{self, VerifyCode};
use tokio::{
    net::{UnixListener, UnixStream},
    sync::watch,
    time::Instant,
};
use tonic::{Code, Status};

use crate::app::{App, Caller, application, product, tenant, told};

/// Lies between a node and Postgres, and can swallow everything without closing anything: what a network does
/// at its worst.
pub struct Proxy {
    folder: PathBuf,
    pub url: String,
    swallows: watch::Sender<bool>,
}

impl Proxy {
    /// Lies before the database of an app.
    pub async fn before(app: &App) -> Self {
        let url = app.service_url().await;
        let (head, rest) = url.split_once('@').unwrap();
        let (host, database) = rest.split_once('/').unwrap();
        let real = PathBuf::from(host.replace("%2F", "/").replace("%2f", "/"));
        let folder = tempfile::tempdir().unwrap().keep();
        let listener = UnixListener::bind(folder.join(".s.PGSQL.5432")).unwrap();
        let swallows = watch::Sender::new(false);
        let state = swallows.subscribe();
        tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                let far = UnixStream::connect(real.join(".s.PGSQL.5432")).await.unwrap();
                tokio::spawn(between(near, far, state.clone()));
            }
        });
        let host = folder.to_string_lossy().replace('/', "%2F");
        Self { url: format!("{head}@{host}/{database}"), folder, swallows }
    }

    pub fn cut(&self) {
        self.swallows.send_replace(true);
    }

    pub fn heal(&self) {
        self.swallows.send_replace(false);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all::<&Path>(&self.folder);
    }
}

async fn between(near: UnixStream, far: UnixStream, swallows: watch::Receiver<bool>) {
    let (near_in, near_out) = near.into_split();
    let (far_in, far_out) = far.into_split();
    let there = tokio::spawn(pass(near_in, far_out, swallows.clone()));
    let back = tokio::spawn(pass(far_in, near_out, swallows));
    let _ = tokio::join!(there, back);
}

async fn pass(
    mut from: tokio::net::unix::OwnedReadHalf,
    mut to: tokio::net::unix::OwnedWriteHalf,
    mut swallows: watch::Receiver<bool>,
) {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let Ok(bytes @ 1..) = from.read(&mut buffer).await else { return };
        if swallows.wait_for(|swallows| !swallows).await.is_err() {
            return;
        }
        if to.write_all(&buffer[..bytes]).await.is_err() {
            return;
        }
    }
}

async fn api_key(caller: &Caller) -> (String, String) {
    let key = json!({"api_key": {"roles": ["auditor"]}});
    let made = caller.call("CreateApiKey", key).await.unwrap();
    let id = made["api_key"]["api_key_id"].as_str().unwrap().to_owned();
    (id, made["secret"].as_str().unwrap().to_owned())
}

async fn ask(caller: &Caller, key: &str, more: Value) -> Result<pb::VerifyKeyResponse, Status> {
    let request = pb::VerifyKeyRequest {
        key: key.to_owned(),
        environment: "production".into(),
        min_revision: more["min_revision"].as_str().unwrap_or_default().to_owned(),
        ..Default::default()
    };
    Ok(caller.keys().verify_key(request).await?.into_inner())
}

async fn code(caller: &Caller, key: &str) -> VerifyCode {
    ask(caller, key, json!({})).await.unwrap().code()
}

async fn revoke(caller: &Caller, id: &str, wait: bool) -> Value {
    let request = json!({"api_key_id": id, "reason": "lost", "wait": wait});
    caller.call("RevokeApiKey", request).await.unwrap()
}

/// A fleet whose nodes look for news so rarely that nobody can mistake luck for a promise.
pub async fn slow_fleet() -> (App, App, App) {
    let slow = |settings: &mut tenantry::config::Settings| {
        settings.feed.poll_interval = Duration::from_millis(700);
    };
    let app = App::start_with(slow).await;
    let (second, third) = (app.node(None, slow).await, app.node(None, slow).await);
    (app, second, third)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_node_accepts_a_key_after_its_revocation_with_wait_has_returned() {
    let (app, second, third) = slow_fleet().await;
    let root = app.as_root();
    let others = [second.as_root(), third.as_root()];
    let mut accepted_without_wait = 0;
    for number in 0..10 {
        let (id, key) = api_key(&root).await;
        for other in &others {
            assert_eq!(code(other, &key).await, VerifyCode::Valid);
        }
        let waits = number % 2 == 0;

        let answer = revoke(&root, &id, waits).await;

        let seen = join_all(others.iter().map(|other| code(other, &key))).await;
        assert_eq!(code(&root, &key).await, VerifyCode::Revoked, "here it is in effect at once");
        if waits {
            assert_eq!(answer["confirmed"], true, "{answer}");
            assert_eq!(seen, [VerifyCode::Revoked; 2]);
        } else {
            assert!(answer.get("confirmed").is_none(), "{answer}");
            accepted_without_wait += seen.iter().filter(|code| **code == VerifyCode::Valid).count();
        }
    }
    // The control: without waiting, they did accept some.
    assert!(accepted_without_wait > 0, "the fleet is too fast to prove anything");
}

/// A node that hears nothing, and whose lease would last, goes on accepting: it is the lease that ends that.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_is_cut_off_accepts_nothing_past_its_lease() {
    let lease = Duration::from_secs(4);
    let leased = |settings: &mut tenantry::config::Settings| settings.keys.lease = lease;
    let app = App::start_with(leased).await;
    let (proxy, beside) = (Proxy::before(&app).await, Proxy::before(&app).await);
    let node = app.node(Some(&proxy.url), leased).await;
    let endless =
        app.node(Some(&beside.url), |settings| settings.keys.lease = Duration::from_mins(1)).await;
    let root = app.as_root();
    let (id, key) = api_key(&root).await;
    let (_, other) = api_key(&root).await;
    for (node, key) in [(&node, &key), (&endless, &key), (&node, &other)] {
        assert_eq!(code(&node.as_root(), key).await, VerifyCode::Valid);
    }

    proxy.cut();
    beside.cut();
    let unheard = code(&node.as_root(), &key).await;
    let answer = root
        .with("grpc-timeout", "50S")
        .call("RevokeApiKey", json!({"api_key_id": id, "reason": "lost"}))
        .await
        .unwrap();
    // The longest lease of all is not waited for here: the node with the short one is asked instead.
    let revoked = Instant::now();
    let mut last_accepted = None;
    let silent = loop {
        match ask(&node.as_root(), &key, json!({})).await {
            Ok(answer) => {
                assert_eq!(answer.code(), VerifyCode::Valid, "it cannot know better");
                last_accepted = Some(revoked.elapsed());
            }
            Err(status) => break status,
        }
        tokio::task::yield_now().await;
    };

    assert_eq!(unheard, VerifyCode::Valid, "within its lease it trusts what it knows");
    assert_eq!(silent.code(), Code::Unavailable, "{silent}");
    assert!(last_accepted.is_some_and(|last| last <= lease), "{last_accepted:?}");
    assert_eq!(code(&endless.as_root(), &key).await, VerifyCode::Valid, "the control");
    let good = ask(&node.as_root(), &other, json!({})).await.unwrap_err();
    assert_eq!(told(&good), "Unavailable DATABASE_UNAVAILABLE", "nor what would still be right");
    assert!(answer["revision"].as_str().is_some());
    proxy.heal();
    beside.heal();
    node.follows().await;
    assert_eq!(code(&node.as_root(), &key).await, VerifyCode::Revoked);
    assert_eq!(code(&node.as_root(), &other).await, VerifyCode::Valid);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_waits_for_a_node_that_is_cut_off_waits_for_its_lease_and_is_told_which() {
    let leased = |settings: &mut tenantry::config::Settings| {
        settings.keys.lease = Duration::from_millis(1500);
    };
    let app = App::start_with(leased).await;
    let proxy = Proxy::before(&app).await;
    let node = app.node(Some(&proxy.url), leased).await;
    let (id, key) = api_key(&app.as_root()).await;
    assert_eq!(code(&node.as_root(), &key).await, VerifyCode::Valid);
    proxy.cut();

    let answer = revoke(&app.as_root(), &id, true).await;
    let after = ask(&node.as_root(), &key, json!({})).await;

    assert!(answer.get("confirmed").is_none(), "{answer}");
    assert_eq!(answer["silent_node_ids"].as_array().unwrap().len(), 1, "{answer}");
    assert_eq!(after.unwrap_err().code(), Code::Unavailable);
    // It is long gone by then, so that nobody waits for it any more.
    proxy.heal();
    node.follows().await;
    let (id, _) = api_key(&app.as_root()).await;
    assert_eq!(revoke(&app.as_root(), &id, true).await["confirmed"], true);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_left_is_not_waited_for_and_one_that_came_back_is() {
    let app = App::start().await;
    let gone = app.node(None, |_| {}).await;
    gone.deafen();
    tenantry::events::feed::leave(&gone.shared).await.unwrap();
    let (id, _) = api_key(&app.as_root()).await;

    assert_eq!(revoke(&app.as_root(), &id, true).await["confirmed"], true);
    assert!(!gone.shared.keys.lease().holds());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_is_not_older_than_the_revision_that_it_is_asked_for() {
    let (app, second, _) = slow_fleet().await;
    let (root, other) = (app.as_root(), second.as_root());
    let (id, key) = api_key(&root).await;
    assert_eq!(code(&other, &key).await, VerifyCode::Valid);
    let mut stale = 0;
    for number in 0..20 {
        let enabled = number % 2 == 1;
        let update = json!({"api_key": {"api_key_id": id, "enabled": enabled}});
        let updated = root.call("UpdateApiKey", update).await.unwrap();
        let expected = if enabled { VerifyCode::Valid } else { VerifyCode::Disabled };

        stale += usize::from(code(&other, &key).await != expected);
        let fresh = ask(&other, &key, json!({"min_revision": updated["revision"]})).await.unwrap();

        assert_eq!(fresh.code(), expected, "{number}");
        // What was answered elsewhere is a revision too.
        let again = ask(&root, &key, json!({"min_revision": fresh.revision})).await.unwrap();
        assert_eq!(again.code(), expected, "{number}");
    }
    assert!(stale > 0, "the control: without it, some answers were older");
    let nonsense = ask(&other, &key, json!({"min_revision": "yesterday"})).await.unwrap_err();
    assert_eq!(crate::app::fields(&nonsense), ["min_revision"]);
}

/// 3-22: what concerns a tenant concerns the keys of all tenants below it, on every node, and drops none of
/// them one by one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lock_reaches_the_keys_below_on_every_node_by_an_epoch() {
    let app = App::start().await;
    let second = app.node(None, |_| {}).await;
    let root = app.as_root();
    let high = pb::Tenant {
        organization_kind: pb::OrganizationKind::ServiceProvider.into(),
        ..tenant("high")
    };
    root.create(high).await.unwrap();
    root.create(pb::Tenant { parent_tenant_id: Some("high".into()), ..tenant("low") })
        .await
        .unwrap();
    let on_low = root.with("x-tenant-id", "low");
    let keys = join_all((0..20).map(|_| api_key(&on_low))).await;
    let nodes = [app.as_root(), second.as_root()];
    for node in &nodes {
        for (_, key) in &keys {
            assert_eq!(code(node, key).await, VerifyCode::Valid);
        }
    }
    let known = second.shared.keys.len();
    let settle = async || {
        // Two polls: the one under way may have begun before the change.
        let polls = second.shared.feed.polls() + 2;
        second.shared.feed.polled(polls, Instant::now() + Duration::from_secs(10)).await;
    };

    let lock = json!({"tenant_id": "high", "mode": "LOCK_MODE_FULL", "reason": "unpaid"});
    root.call("LockTenant", lock).await.unwrap();
    settle().await;

    assert_eq!(second.shared.keys.len(), known, "nothing was dropped");
    for node in &nodes {
        for (_, key) in &keys {
            assert_eq!(code(node, key).await, VerifyCode::TenantLocked);
        }
    }
    root.call("UnlockTenant", json!({"tenant_id": "high"})).await.unwrap();
    settle().await;
    for node in &nodes {
        assert_eq!(code(node, &keys[0].1).await, VerifyCode::Valid);
    }
}

/// A method, its request of what was made, and what is said of the key then.
type Change = (&'static str, fn(&Value) -> Value, VerifyCode);

/// A key of a revoked, changed or deleted anything is refused on a node that has known it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_change_that_ends_a_key_is_heard_of_on_other_nodes() {
    let app = App::start().await;
    let second = app.node(None, |_| {}).await;
    let (root, other) = (app.as_root(), second.as_root());
    root.call("CreateProduct", product()).await.unwrap();
    let changes: &[Change] = &[
        (
            "RevokeExternalKey",
            |made| {
                json!({"external_key_id": made["external_key"]["external_key_id"],
            "reason": "lost"})
            },
            VerifyCode::Revoked,
        ),
        (
            "UpdateExternalKey",
            |made| {
                json!({"external_key": {"external_key_id":
            made["external_key"]["external_key_id"], "enabled": false}})
            },
            VerifyCode::Disabled,
        ),
        (
            "RotateExternalKey",
            |made| {
                json!({"external_key_id":
            made["external_key"]["external_key_id"], "overlap": "0s"})
            },
            VerifyCode::NotFound,
        ),
        (
            "DeleteAppKey",
            |made| json!({"app_key_id": made["external_key"]["app_key_id"]}),
            VerifyCode::NotFound,
        ),
        (
            "DeleteInstallation",
            |made| {
                json!({"installation_id":
            made["installation"]["installation_id"]})
            },
            VerifyCode::NotFound,
        ),
    ];
    for (number, (method, request, expected)) in changes.iter().enumerate() {
        let id = format!("t{number}");
        let new = json!({
            "tenant": {"tenant_id": id, "name": id, "description": "", "type": "TENANT_TYPE_PRODUCT",
                "organization_kind": "ORGANIZATION_KIND_ENTERPRISE"},
            "application": application(),
        });
        let made = root.call("CreateTenant", new).await.unwrap();
        let key = made["external_key_secret"].as_str().unwrap();
        let environment = made["external_key"]["environment"].as_str().unwrap();
        let seen = async |min_revision: &str| {
            let request = pb::VerifyKeyRequest {
                key: key.into(),
                environment: environment.into(),
                min_revision: min_revision.into(),
                ..Default::default()
            };
            other.keys().verify_key(request).await.unwrap().into_inner().code()
        };
        assert_eq!(seen("").await, VerifyCode::Valid, "{method}");

        root.with("x-tenant-id", &id).call(method, request(&made)).await.unwrap();

        let polls = second.shared.feed.polls() + 2;
        second.shared.feed.polled(polls, Instant::now() + Duration::from_secs(10)).await;
        assert_eq!(seen("").await, *expected, "{method}");
    }
}

/// Who reads, who writes and who hears of it at the same time: nothing stale is ever kept.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_read_while_it_was_changed_is_not_kept() {
    let app = App::start().await;
    let second = Arc::new(app.node(None, |_| {}).await);
    let root = app.as_root();
    for _ in 0..5 {
        let keys = join_all((0..20).map(|_| api_key(&root))).await;
        let stop = watch::Sender::new(false);
        let readers = keys.iter().map(|(_, key)| {
            let (reader, key, stop) = (second.as_root(), key.clone(), stop.subscribe());
            tokio::spawn(async move {
                while !*stop.borrow() {
                    code(&reader, &key).await;
                }
            })
        });
        let readers = readers.collect::<Vec<_>>();

        join_all(keys.iter().map(|(id, _)| revoke(&root, id, false))).await;
        let polls = second.shared.feed.polls() + 3;
        second.shared.feed.polled(polls, Instant::now() + Duration::from_secs(10)).await;

        for (_, key) in &keys {
            assert_eq!(code(&second.as_root(), key).await, VerifyCode::Revoked);
        }
        stop.send_replace(true);
        for reader in readers {
            reader.await.unwrap();
        }
    }
}
