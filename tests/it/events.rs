//! What happened is told: to whoever lists it, and to whoever watches, once, in order, and as long as they
//! may.

use std::{collections::BTreeMap, time::Duration};

use chrono::TimeDelta;
use diesel::{QueryableByName, sql_types::Text};
use diesel_async::{AsyncPgConnection, RunQueryDsl, SimpleAsyncConnection as _};
use futures_util::future::join_all;
use prost_reflect::prost::Message as _;
use rand::Rng as _;
use serde_json::json;
use tenantry::{
    events::{answer::WatchEventsResponse, expiry, kinds::OF_VERDICTS, store},
    pb::{self, WatchEventsRequest, event_resource::Resource},
    start,
};
use tokio::time::{Instant, timeout};
use tonic::{Code, Status, Streaming};

use crate::app::{App, Caller, application, count, fields, product, tenant, told};

/// Longer than anything here takes, and shorter than the minute after which housekeeping hides that an
/// event waits for somebody to write.
const PATIENCE: Duration = Duration::from_secs(40);

/// A stream, and where it is.
struct Watch {
    stream: Streaming<WatchEventsResponse>,
    cursor: String,
}

impl Watch {
    async fn start(caller: &Caller, request: WatchEventsRequest) -> Result<Self, Status> {
        let stream = caller.events().watch_events(request).await?.into_inner();
        let mut watch = Self { stream, cursor: String::new() };
        let first = watch.answer().await?;
        assert!(first.checkpoint && first.events.is_empty(), "{first:?}");
        Ok(watch)
    }

    /// Watches what comes behind all that there is.
    async fn from_now(app: &App, caller: &Caller) -> Self {
        settle(app).await;
        Self::start(caller, WatchEventsRequest::default()).await.unwrap()
    }

    async fn from(caller: &Caller, cursor: &str) -> Result<Self, Status> {
        let request = WatchEventsRequest { start_cursor: cursor.to_owned(), ..Default::default() };
        Self::start(caller, request).await
    }

    async fn answer(&mut self) -> Result<WatchEventsResponse, Status> {
        let answer = timeout(PATIENCE, self.stream.message()).await.expect("an answer in time")?;
        let answer = answer.expect("a stream ends with a status only");
        assert_eq!(answer.checkpoint, answer.events.is_empty());
        self.cursor.clone_from(&answer.cursor);
        Ok(answer)
    }

    /// The next so many events.
    async fn take(&mut self, number: usize) -> Result<Vec<pb::Event>, Status> {
        let mut events = Vec::new();
        while events.len() < number {
            events.extend(self.answer().await?.events.iter().map(|event| (**event).clone()));
        }
        Ok(events)
    }

    /// With what it ends.
    async fn end(&mut self) -> Status {
        let end = async {
            loop {
                if let Err(status) = self.answer().await {
                    return status;
                }
            }
        };
        // Checkpoints come for as long as it does not end.
        timeout(PATIENCE, end).await.expect("an end in time")
    }
}

fn types(events: &[pb::Event]) -> Vec<&str> {
    events.iter().map(|event| event.r#type.as_str()).collect()
}

fn ids(events: &[pb::Event]) -> Vec<&str> {
    events.iter().map(|event| event.event_id.as_str()).collect()
}

/// All events that a caller may list with a filter, page by page.
async fn listed(caller: &Caller, filter: &str, order_by: &str) -> Vec<pb::Event> {
    let (mut events, mut page_token) = (Vec::new(), String::new());
    loop {
        let request = pb::ListEventsRequest {
            page_size: 7,
            page_token,
            filter: filter.to_owned(),
            order_by: order_by.to_owned(),
        };
        let page = caller.events().list_events(request).await.unwrap().into_inner();
        events.extend(page.events);
        if page.next_page_token.is_empty() {
            return events;
        }
        page_token = page.next_page_token;
    }
}

async fn tag(caller: &Caller, id: &str, tag: &str) {
    let tenant = pb::Tenant { tenant_id: id.into(), tag: Some(tag.into()), ..Default::default() };
    caller.update(tenant).await.unwrap();
}

#[derive(QueryableByName)]
struct Line {
    #[diesel(sql_type = Text)]
    text: String,
}

async fn lines(conn: &mut AsyncPgConnection, query: &str) -> Vec<String> {
    let lines: Vec<Line> = diesel::sql_query(query).load(conn).await.unwrap();
    lines.into_iter().map(|line| line.text).collect()
}

/// Writes an event of a tenant's change by hand, in whatever transaction is open.
async fn write_event(conn: &mut AsyncPgConnection, id: uuid::Uuid) {
    conn.batch_execute(&format!(
        "insert into events (event_id, type, method, account_id, resource_type, resource_id, actor,
                correlation_id, event_time)
             values ('{id}', 'tenant.updated', 'by hand', 'default', 'tenant', 'foo', 'system', 'by hand', now())"
    ))
    .await
    .unwrap();
}

/// Waits until all that has happened may be told: a watcher that begins is told nothing of it.
async fn settle(app: &App) {
    let highest = count(app, "select coalesce(max(position), 0) as number from events").await;
    let mut conn = app.superuser().await;
    while store::moment(&mut conn).await.unwrap().settled_below <= highest {
        let feed = &app.shared.feed;
        feed.polled(feed.polls() + 1, Instant::now() + PATIENCE).await;
    }
}

/// The position of such an event is the next one, which nobody takes.
#[tokio::test]
async fn the_last_event_of_all_is_told_though_another_transaction_overtook_it() {
    let app = App::start().await;
    let mut watch = Watch::from_now(&app, &app.as_root()).await;

    let mut last = app.superuser().await;
    last.batch_execute("begin; select pg_current_xact_id()").await.unwrap();
    app.superuser().await.batch_execute("select pg_current_xact_id()").await.unwrap();
    let id = app.shared.clock.uuid();
    write_event(&mut last, id).await;
    last.batch_execute("commit").await.unwrap();

    assert_eq!(ids(&watch.take(1).await.unwrap()), [id.to_string()]);
}

#[tokio::test]
async fn what_was_done_is_told_with_all_there_is_to_it_and_what_was_not_is_not() {
    let app = App::start().await;
    let root = app.as_root().with("x-correlation-id", "chain-1");
    let mut watch = Watch::from_now(&app, &app.as_root()).await;

    let refused = root.create(pb::Tenant { name: None, ..tenant("bar") }).await.unwrap_err();
    let mut rehearsal = json!({"tenant": {"tenant_id": "bar", "name": "bar", "description": "",
        "type": "TENANT_TYPE_PRODUCT", "organization_kind": "ORGANIZATION_KIND_ENTERPRISE"}});
    rehearsal["validate_only"] = json!(true);
    root.call("CreateTenant", rehearsal).await.unwrap();
    let made = root.create(tenant("foo")).await.unwrap();
    tag(&root, "foo", "new").await;

    let events = watch.take(2).await.unwrap();
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert_eq!(types(&events), ["tenant.created", "tenant.updated"]);
    let [created, updated] = &events[..] else { panic!("{events:?}") };
    let of = |resource: &Option<pb::EventResource>| match resource.clone().unwrap().resource {
        Some(Resource::Tenant(tenant)) => tenant,
        other => panic!("{other:?}"),
    };
    assert_eq!(created.before, None);
    assert_eq!(of(&created.after), made);
    assert_eq!(of(&updated.before), made);
    assert_eq!(of(&updated.after).tag(), "new");
    assert_eq!(created.tenant_uid, made.uid);
    let key = root.call("WhoAmI", json!({})).await.unwrap()["api_key"]["api_key_id"].clone();
    for event in &events {
        assert_eq!((&*event.account_id, &*event.tenant_id), ("default", "foo"));
        assert_eq!((&*event.resource_type, &*event.resource_id), ("tenant", "foo"));
        assert_eq!(event.correlation_id, "chain-1");
        assert_eq!(event.actor, format!("api_key:{}", key.as_str().unwrap()));
    }
    assert_eq!(created.method, "tenantry.v1.TenantService/CreateTenant");
    assert_eq!(listed(&app.as_root(), "correlation_id = chain-1", "").await, events);
}

/// 4-02
#[tokio::test]
async fn a_chain_of_calls_is_read_back_by_its_correlation_id() {
    let app = App::start().await;
    let root = app.as_root();
    root.create(tenant("other")).await.unwrap();
    let chain = root.with("x-correlation-id", "order-66");

    chain.create(tenant("foo")).await.unwrap();
    let on_foo = chain.with("x-tenant-id", "foo");
    on_foo.call("CreateGroup", json!({"group": {"group_id": "g", "name": "g"}})).await.unwrap();
    on_foo.create_key(&["tenant-admin"]).await;
    chain.delete("foo").await.unwrap_err();
    chain
        .call("DeleteTenant", json!({"tenant_id": "foo", "delete_even_if_non_empty": true}))
        .await
        .unwrap();

    let told = listed(&root, "correlation_id = \"order-66\"", "").await;
    assert_eq!(
        types(&told),
        ["tenant.created", "group.created", "api_key.created", "group.deleted", "tenant.deleted"]
    );
}

/// A transaction that began first and commits last has the lower number. Whoever goes by numbers alone
/// has gone past it by then: the control shows that it does.
#[tokio::test]
async fn an_event_that_commits_late_is_missed_by_no_watcher() {
    let app = App::start().await;
    let root = app.as_root();
    root.create(tenant("foo")).await.unwrap();
    let mut watch = Watch::from_now(&app, &root).await;
    let mut reader = app.superuser().await;
    let mut naive = Naive::default();
    naive.poll(&mut reader).await;

    let mut late = app.superuser().await;
    late.batch_execute("begin").await.unwrap();
    let late_id = app.shared.clock.uuid();
    write_event(&mut late, late_id).await;
    tag(&root, "foo", "one").await;
    tag(&root, "foo", "two").await;
    // The feed has been read twice, so that what it could tell it would have told.
    let polls = app.shared.feed.polls();
    app.shared.feed.polled(polls + 2, Instant::now() + PATIENCE).await;
    assert!(app.shared.feed.polls() >= polls + 2);
    let early = timeout(Duration::from_millis(1), watch.answer()).await;
    naive.poll(&mut reader).await;
    late.batch_execute("commit").await.unwrap();
    let events = watch.take(3).await.unwrap();
    naive.poll(&mut reader).await;

    assert!(early.is_err(), "told before its time: {early:?}");
    assert_eq!(events.iter().filter(|event| event.event_id == late_id.to_string()).count(), 1);
    assert_eq!(types(&events), ["tenant.updated"; 3]);
    let missed = ids(&events).into_iter().filter(|id| !naive.seen.iter().any(|seen| seen == id));
    assert_eq!(missed.collect::<Vec<_>>(), [late_id.to_string()], "the control misses it");
}

/// Remembers the highest id that it has seen.
#[derive(Default)]
struct Naive {
    seen: Vec<String>,
}

impl Naive {
    async fn poll(&mut self, conn: &mut AsyncPgConnection) {
        let last = self.seen.iter().max().cloned().unwrap_or(uuid::Uuid::nil().to_string());
        let query = format!(
            "select event_id::text as text from events where event_id > '{last}' order by event_id"
        );
        self.seen.extend(lines(conn, &query).await);
    }
}

/// The later change of a tenant may be made by the older transaction, which had to wait. By the numbers
/// of the transactions it would be told first: the control shows that.
#[tokio::test]
async fn changes_of_one_tenant_are_told_in_their_order_whichever_transaction_is_older() {
    let app = App::start().await;
    let root = app.as_root();
    root.create(tenant("foo")).await.unwrap();
    let mut watch = Watch::from_now(&app, &root).await;

    let mut older = app.superuser().await;
    older.batch_execute("begin; select pg_current_xact_id()").await.unwrap();
    tag(&root, "foo", "first").await;
    older.batch_execute("select from tenants where tenant_id = 'foo' for update").await.unwrap();
    let second = app.shared.clock.uuid();
    write_event(&mut older, second).await;
    older.batch_execute("commit").await.unwrap();

    let events = watch.take(2).await.unwrap();
    assert_eq!(events[1].event_id, second.to_string());
    let mut reader = app.superuser().await;
    let by_transaction = "select event_id::text as text from events
        where type = 'tenant.updated' order by transaction_id";
    assert_eq!(lines(&mut reader, by_transaction).await, [ids(&events)[1], ids(&events)[0]]);
}

/// Concurrent changes of few tenants, by many: what is told of each is what it was, step by step.
#[tokio::test(flavor = "multi_thread")]
async fn under_concurrent_changes_each_event_goes_on_where_the_one_before_ended() {
    let app = App::start().await;
    let root = app.as_root();
    for id in ["one", "two"] {
        root.create(tenant(id)).await.unwrap();
    }
    let mut watch = Watch::from_now(&app, &root).await;

    let changes = (0..100).map(|number| {
        let root = root.clone();
        async move {
            let id = if number % 2 == 0 { "one" } else { "two" };
            let tag = format!("{number}");
            let request_id = format!("tag-{number}");
            let tenant = json!({"tenant_id": id, "tag": tag});
            root.call("UpdateTenant", json!({"tenant": tenant, "request_id": request_id})).await
        }
    });
    let done = join_all(changes).await.into_iter().flatten().count();
    let events = watch.take(done).await.unwrap();

    assert!(done > 50, "{done} of 100");
    let mut last = BTreeMap::new();
    for event in events {
        let Some(Resource::Tenant(before)) = event.before.unwrap().resource else { panic!() };
        let Some(Resource::Tenant(after)) = event.after.unwrap().resource else { panic!() };
        if let Some(etag) = last.insert(event.tenant_id, after.etag) {
            assert_eq!(before.etag, etag, "what came before is not what was told last");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watcher_killed_and_resumed_a_thousand_times_sees_what_was_committed_once() {
    let interval = Duration::from_millis(5);
    let app = App::start_with(|settings| settings.feed.poll_interval = interval).await;
    let root = app.as_root();
    for number in 0..4 {
        root.create(tenant(&format!("t{number}"))).await.unwrap();
    }
    let start = Watch::from_now(&app, &root).await.cursor;
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let writers = (0..4).map(|number| {
        let (root, stopped) = (root.clone(), stopped.clone());
        tokio::spawn(async move {
            let mut round = 0;
            while !*stopped.borrow() {
                round += 1;
                tag(&root, &format!("t{number}"), &format!("r{round}")).await;
            }
        })
    });
    let writers = writers.collect::<Vec<_>>();

    let mut cursor = start;
    let mut seen = Vec::new();
    for _ in 0..1000 {
        let mut watch = Watch::from(&root, &cursor).await.unwrap();
        for _ in 0..rand::rng().random_range(0..3) {
            let answer = watch.answer().await.unwrap();
            seen.extend(answer.events.iter().map(|event| (**event).clone()));
        }
        cursor = watch.cursor;
    }
    stop.send_replace(true);
    for writer in writers {
        writer.await.unwrap();
    }
    let all = listed(&root, "type = tenant.updated", "").await;
    let mut watch = Watch::from(&root, &cursor).await.unwrap();
    while seen.len() < all.len() {
        let answer = watch.answer().await.unwrap();
        seen.extend(answer.events.iter().map(|event| (**event).clone()));
    }

    let (mut seen, mut all) = (ids(&seen), ids(&all));
    seen.sort_unstable();
    all.sort_unstable();
    assert!(all.len() > 100, "only {} changes", all.len());
    assert_eq!(seen, all);
}

#[tokio::test]
async fn each_caller_sees_what_lies_within_its_reach_whether_it_lists_or_watches() {
    let app = App::start().await;
    let root = app.as_root();
    let other = app.account("acme").await;
    let provider = pb::Tenant {
        organization_kind: pb::OrganizationKind::ServiceProvider.into(),
        ..tenant("high")
    };
    root.create(provider).await.unwrap();
    let key = |tenant: &str, role: &str| {
        let (on, role) = (root.with("x-tenant-id", tenant), role.to_owned());
        async move { on.create_key(&[&role]).await }
    };
    let in_default = root.with("x-account-id", "default");
    let low = pb::Tenant { parent_tenant_id: Some("high".into()), ..tenant("low") };
    root.create(low).await.unwrap();
    let callers = [
        ("all", root.clone()),
        ("default", app.as_key(&in_default.create_key(&["auditor"]).await)),
        ("acme", other.clone()),
        ("high and low", app.as_key(&key("high", "auditor").await)),
        ("high", app.as_key(&key("high", "tenant-admin").await)),
        ("low", app.as_key(&key("low", "tenant-admin").await)),
        ("narrowed to low", root.with("x-tenant-id", "low")),
    ];
    let mut watches = Vec::new();
    for (_, caller) in &callers {
        watches.push(Watch::from_now(&app, caller).await);
    }

    tag(&root, "high", "h").await;
    tag(&root, "low", "l").await;
    other.create(tenant("theirs")).await.unwrap();
    root.call("CreateBackend", json!({"backend": {"backend_id": "b", "external_name": "b"}}))
        .await
        .unwrap();
    root.call("CreateReseller", json!({"reseller": {"reseller_id": "r", "external_name": "r"}}))
        .await
        .unwrap();
    tag(&root, "high", "end").await;
    tag(&root, "low", "end").await;
    other
        .call("CreateReseller", json!({"reseller": {"reseller_id": "x", "external_name": "x"}}))
        .await
        .unwrap();

    let (high, low) = (["tenant.updated high"; 2], ["tenant.updated low"; 2]);
    let own = ["tenant.updated high", "tenant.updated low", "reseller.created r"];
    let wanted: [Vec<&str>; 7] = [
        vec![
            own[0],
            own[1],
            "tenant.created theirs",
            "backend.created b",
            own[2],
            own[0],
            own[1],
            "reseller.created x",
        ],
        vec![own[0], own[1], own[2], own[0], own[1]],
        vec!["tenant.created theirs", "reseller.created x"],
        vec![own[0], own[1], own[0], own[1]],
        high.to_vec(),
        low.to_vec(),
        low.to_vec(),
    ];
    for (((name, caller), watch), wanted) in callers.iter().zip(&mut watches).zip(wanted) {
        let before = watch.cursor.clone();
        let events = watch.take(wanted.len()).await.unwrap();
        let text = |event: &pb::Event| format!("{} {}", event.r#type, event.resource_id);
        assert_eq!(events.iter().map(text).collect::<Vec<_>>(), wanted, "{name}");
        // From the database, where the feed keeps nothing of it any more, the same.
        let first = listed(caller, "", "").await;
        assert_eq!(first[first.len() - wanted.len()..], events, "{name}");
        let again = Watch::from(caller, &before).await.unwrap().take(wanted.len()).await.unwrap();
        assert_eq!(again, events, "{name}");
    }
}

/// Only what was asked for is told, and the cursor goes on over the rest.
#[tokio::test]
async fn a_watcher_may_ask_for_types_and_for_a_tenant() {
    let app = App::start().await;
    let root = app.as_root();
    for id in ["foo", "bar"] {
        root.create(tenant(id)).await.unwrap();
    }
    let request = WatchEventsRequest {
        types: vec!["tenant.updated".into(), "group.created".into()],
        tenant_id: "foo".into(),
        ..Default::default()
    };
    settle(&app).await;
    let mut watch = Watch::start(&root, request.clone()).await.unwrap();
    let start = watch.cursor.clone();

    tag(&root, "bar", "b").await;
    root.with("x-tenant-id", "foo").create_key(&["tenant-admin"]).await;
    tag(&root, "foo", "f").await;
    let group = json!({"group": {"group_id": "g", "name": "g"}});
    root.with("x-tenant-id", "foo").call("CreateGroup", group).await.unwrap();

    let events = watch.take(2).await.unwrap();
    assert_eq!(types(&events), ["tenant.updated", "group.created"]);
    let again = WatchEventsRequest { start_cursor: start, ..request };
    assert_eq!(Watch::start(&root, again).await.unwrap().take(2).await.unwrap(), events);
}

#[tokio::test]
async fn what_is_wrong_with_what_is_to_be_watched_is_told_at_once() {
    let app = App::start().await;
    let request = WatchEventsRequest {
        start_cursor: "not one".into(),
        types: vec!["tenant.exploded".into()],
        tenant_id: "No Id".into(),
    };

    let refusal = Watch::start(&app.as_root(), request).await.err().unwrap();
    let many =
        WatchEventsRequest { types: vec!["tenant.updated".into(); 101], ..Default::default() };
    let many = Watch::start(&app.as_root(), many).await.err().unwrap();

    assert_eq!(told(&refusal), "InvalidArgument INVALID_FIELD");
    assert_eq!(fields(&refusal), ["start_cursor", "types", "tenant_id"]);
    assert_eq!(fields(&many), ["types"]);
}

/// For those who keep verdicts and may see nothing else.
#[tokio::test]
async fn with_keys_verify_alone_a_watcher_is_told_what_may_change_verdicts_and_no_more() {
    let app = App::start().await;
    let root = app.as_root();
    root.create(tenant("foo")).await.unwrap();
    let verifier = app.as_key(&root.create_key(&["key-verifier"]).await);
    let victim = root.create_key(&["auditor"]).await;
    let victim = app.as_key(&victim).call("WhoAmI", json!({})).await.unwrap();
    let mut watch = Watch::from_now(&app, &verifier).await;

    root.with("x-tenant-id", "foo")
        .call("CreateGroup", json!({"group": {"group_id": "g", "name": "g"}}))
        .await
        .unwrap();
    let id = &victim["api_key"]["api_key_id"];
    root.call("RevokeApiKey", json!({"api_key_id": id, "reason": "gone"})).await.unwrap();
    let events = watch.take(1).await.unwrap();
    let types = vec!["group.created".into()];
    let more = WatchEventsRequest { types, ..Default::default() };
    let more = Watch::start(&verifier, more).await.err().unwrap();
    let list = verifier.events().list_events(pb::ListEventsRequest::default()).await.unwrap_err();

    assert!(OF_VERDICTS.contains(&&*events[0].r#type), "{events:?}");
    assert_eq!(events[0].resource_id, id.as_str().unwrap());
    assert_eq!((&events[0].before, &events[0].after), (&None, &None));
    assert_eq!(told(&more), "PermissionDenied UNAUTHORIZED_PARAMETER_FOR_USER_LEVEL");
    assert_eq!(told(&list), "PermissionDenied PERMISSION_MISSING");
}

/// Also while a transaction is open that holds back what is told.
#[tokio::test]
async fn a_stream_ends_with_the_right_to_it() {
    let app = App::start().await;
    let root = app.as_root();
    for id in ["foo", "bar"] {
        let provider = pb::OrganizationKind::ServiceProvider.into();
        root.create(pb::Tenant { organization_kind: provider, ..tenant(id) }).await.unwrap();
    }
    root.create(pb::Tenant { parent_tenant_id: Some("foo".into()), ..tenant("low") })
        .await
        .unwrap();
    let on_low = root.with("x-tenant-id", "low");
    let mut open = app.superuser().await;
    open.batch_execute("begin").await.unwrap();
    write_event(&mut open, app.shared.clock.uuid()).await;

    let key = app.as_key(&on_low.create_key(&["tenant-admin"]).await);
    let id = key.call("WhoAmI", json!({})).await.unwrap()["api_key"]["api_key_id"].clone();
    let mut revoked = Watch::start(&key, WatchEventsRequest::default()).await.unwrap();
    root.call("RevokeApiKey", json!({"api_key_id": id, "reason": "gone"})).await.unwrap();
    let revoked = revoked.end().await;

    let key = app.as_key(&on_low.create_key(&["tenant-admin"]).await);
    let mut locked = Watch::start(&key, WatchEventsRequest::default()).await.unwrap();
    let lock = json!({"tenant_id": "foo", "mode": "LOCK_MODE_FULL", "reason": "unpaid"});
    root.call("LockTenant", lock).await.unwrap();
    let locked = locked.end().await;
    root.call("UnlockTenant", json!({"tenant_id": "foo"})).await.unwrap();

    let mut moved = Watch::start(&key, WatchEventsRequest::default()).await.unwrap();
    let to_bar = json!({"tenant_id": "low", "parent_tenant_id": "bar"});
    root.call("MoveTenant", to_bar).await.unwrap();
    let moved = moved.end().await;
    // Who begins while the move is still being told to the watchers is told of it as well.
    let polls = app.shared.feed.polls();
    app.shared.feed.polled(polls + 1, Instant::now() + PATIENCE).await;

    let mut forbidden = Watch::start(&key, WatchEventsRequest::default()).await.unwrap();
    let rules = json!([{"name": "elsewhere", "cidr": "192.0.2.0/24"}]);
    let list = json!({"enabled": true, "rules": rules, "force": true});
    on_low.call("UpdateIpAllowlist", list).await.unwrap();
    let forbidden = forbidden.end().await;

    let mut admin = Watch::start(&root, WatchEventsRequest::default()).await.unwrap();
    app.shared.feed.close();
    let closed = admin.end().await;

    assert_eq!(told(&revoked), "Unauthenticated CREDENTIAL_INVALID");
    assert_eq!(told(&locked), "FailedPrecondition TENANT_LOCKED");
    assert_eq!(told(&moved), "Aborted TENANT_MOVED");
    assert_eq!(told(&forbidden), "PermissionDenied IP_NOT_ALLOWED");
    assert_eq!(told(&closed), "Unavailable DATABASE_UNAVAILABLE");
}

/// At the next event, and at the latest with the next checkpoint.
#[tokio::test]
async fn a_stream_ends_with_its_key() {
    let app = App::start().await;
    let root = app.as_root();
    root.create(tenant("foo")).await.unwrap();
    let end = (app.shared.clock.now() + TimeDelta::hours(1)).to_rfc3339();
    let api_key = json!({"roles": ["auditor"], "expire_time": end});
    let made = root.call("CreateApiKey", json!({"api_key": api_key})).await.unwrap();
    let mut watch = Watch::from_now(&app, &app.as_key(made["secret"].as_str().unwrap())).await;

    app.shared.clock.advance(TimeDelta::hours(2));
    tag(&root, "foo", "new").await;

    assert_eq!(told(&watch.end().await), "Unauthenticated CREDENTIAL_INVALID");
}

#[tokio::test]
async fn a_caller_that_does_not_read_is_cut_off_and_its_cursor_is_still_good() {
    let patience = Duration::from_millis(300);
    let app = App::start_with(|settings| settings.events.watcher_timeout = patience).await;
    let root = app.as_root();
    root.create(tenant("foo")).await.unwrap();
    let mut watch = Watch::from_now(&app, &root).await;

    // More than what waits in all the buffers between the two.
    let large = "x".repeat(60_000);
    for number in 0..40 {
        let profile = json!({"large": large, "number": number});
        let tenant = json!({"tenant_id": "foo", "profile": profile});
        root.call("UpdateTenant", json!({"tenant": tenant})).await.unwrap();
    }
    while !app.shared.feed.is_deserted() {
        tokio::task::yield_now().await;
    }
    let mut events = Vec::new();
    let end = loop {
        match watch.answer().await {
            Ok(answer) => events.extend(answer.events.iter().map(|event| (**event).clone())),
            Err(status) => break status,
        }
    };
    let mut resumed = Watch::from(&root, &watch.cursor).await.unwrap();
    events.extend(resumed.take(40 - events.len()).await.unwrap());

    assert_eq!(told(&end), "ResourceExhausted WATCHER_TOO_SLOW");
    assert_eq!(events, listed(&root, "type = tenant.updated", "").await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_watchers_cost_the_database_no_more_than_one() {
    let app = App::start().await;
    let root = app.as_root();
    root.create(tenant("foo")).await.unwrap();
    settle(&app).await;
    let mut watches = Vec::new();
    for _ in 0..5 {
        let caller = app.over_a_new_connection(&app.root);
        for _ in 0..10 {
            let start = || Watch::start(&caller, WatchEventsRequest::default());
            let started = join_all((0..20).map(|_| start())).await;
            watches.extend(started.into_iter().map(Result::unwrap));
        }
    }
    let one_more = Watch::start(&root, WatchEventsRequest::default()).await.err().unwrap();

    let (before, polls) = (app.shared.database.transactions(), app.shared.feed.polls());
    for number in 0..3 {
        tag(&root, "foo", &format!("{number}")).await;
    }
    for watch in &mut watches {
        assert_eq!(types(&watch.take(3).await.unwrap()), ["tenant.updated"; 3]);
    }
    app.shared.feed.polled(polls + 20, Instant::now() + PATIENCE).await;
    let spent = app.shared.database.transactions() - before;

    assert_eq!(told(&one_more), "ResourceExhausted TOO_MANY_WATCHERS");
    // The three changes, and who makes them.
    assert!(spent < 30, "{spent} transactions besides the polls");
}

#[tokio::test]
async fn an_idle_stream_is_told_how_far_it_is() {
    let app = App::start().await;
    let root = app.as_root();
    let mut watch = Watch::from_now(&app, &root).await;
    let first = watch.cursor.clone();

    let checkpoint = watch.answer().await.unwrap();

    assert!(checkpoint.checkpoint);
    assert!(Watch::from(&root, &first).await.is_ok());
    assert!(Watch::from(&root, &checkpoint.cursor).await.is_ok());
}

#[tokio::test]
async fn events_go_by_whole_weeks_and_cursors_with_them() {
    let app = App::start().await;
    let root = app.as_root();
    root.create(tenant("old")).await.unwrap();
    settle(&app).await;
    let early = listed(&root, "tenant_id = old", "").await;
    start::sweep_once(&app.shared).await.unwrap();
    app.shared.clock.advance(TimeDelta::days(89));
    start::sweep_once(&app.shared).await.unwrap();
    let kept = listed(&root, "tenant_id = old", "").await;
    root.create(tenant("young")).await.unwrap();
    settle(&app).await;
    let young = listed(&root, "tenant_id = young", "").await;

    app.shared.clock.advance(TimeDelta::days(60));
    start::sweep_once(&app.shared).await.unwrap();

    assert_eq!(kept, early);
    assert_eq!(listed(&root, "tenant_id = old", "").await, []);
    assert_eq!(ids(&listed(&root, "tenant_id = young", "").await), ids(&young));
    let expired = Watch::from(&root, &early[0].cursor).await.err().unwrap();
    assert_eq!(told(&expired), "OutOfRange CURSOR_EXPIRED");
    assert!(Watch::from(&root, &young[0].cursor).await.is_ok());
    let partitions = "select count(*) as number from event_partitions";
    assert!(count(&app, partitions).await < 30);
}

/// What came while nobody had made a partition for it lies in one of its own later.
#[tokio::test]
async fn an_event_without_a_partition_is_kept_and_moves_into_its_own() {
    let app = App::start().await;
    let root = app.as_root();
    app.shared.clock.advance(TimeDelta::days(200));
    root.create(tenant("foo")).await.unwrap();
    settle(&app).await;
    let before = listed(&root, "tenant_id = foo", "").await;
    let rest = "select count(*) as number from events_rest";
    let waiting = count(&app, rest).await;

    start::sweep_once(&app.shared).await.unwrap();
    start::sweep_once(&app.shared).await.unwrap();

    assert!(waiting > 0);
    assert_eq!(count(&app, rest).await, 0);
    assert_eq!(listed(&root, "tenant_id = foo", "").await, before);
}

#[tokio::test]
async fn a_cursor_of_another_database_is_refused() {
    let app = App::start().await;
    let cursor = tenantry::events::cursor::Cursor {
        place: tenantry::events::cursor::Place::before(i64::MAX >> 1),
        time: app.shared.clock.now().timestamp_micros(),
    };

    let refusal = Watch::from(&app.as_root(), &cursor.encode()).await.err().unwrap();

    assert_eq!(told(&refusal), "OutOfRange CURSOR_EXPIRED");
}

/// 30, 7 and 1 days ahead, each once, however often and on however many nodes it is looked for.
#[tokio::test]
async fn what_ends_is_told_of_ahead() {
    let app = App::start().await;
    let root = app.as_root();
    let trial = pb::Tenant { contract_mode: pb::ContractMode::Trial.into(), ..tenant("trial") };
    root.create(trial).await.unwrap();
    let on = root.with("x-tenant-id", "trial");
    let now = app.shared.clock.now();
    for (name, days) in [("long", 60), ("short", 5), ("never", 0)] {
        let end = (days > 0).then(|| (now + TimeDelta::days(days)).to_rfc3339());
        let api_key = json!({"name": name, "roles": ["tenant-admin"], "expire_time": end});
        on.call("CreateApiKey", json!({"api_key": api_key})).await.unwrap();
    }
    let mut told = Vec::new();
    for day in 0..=60 {
        let rounds = join_all((0..3).map(|_| expiry::round(&app.shared))).await;
        let number: usize = rounds.into_iter().map(Result::unwrap).sum();
        told.push((day, number));
        app.shared.clock.advance(TimeDelta::days(1));
    }
    let told = told.into_iter().filter(|(_, number)| *number > 0).collect::<Vec<_>>();

    // The trial ends after 60 days too; of the short key, nobody needs to hear 30 or 7 days ahead.
    assert_eq!(told, [(4, 1), (30, 2), (53, 2), (59, 2)]);
    let events = listed(&root, "tenant_id = trial", "").await;
    let ahead = |kind: &str| {
        let of_kind = events.iter().filter(|event| event.r#type == kind);
        let days = of_kind.map(|event| match &event.after.as_ref().unwrap().resource {
            Some(Resource::Expiry(expiry)) => expiry.days_ahead,
            other => panic!("{other:?}"),
        });
        days.collect::<Vec<_>>()
    };
    assert_eq!(ahead("tenant.expiring"), [30, 7, 1]);
    assert_eq!(ahead("api_key.expiring"), [1, 30, 7, 1]);
    assert_eq!(count(&app, "select count(*) as number from expiry_notices").await, 6);
    app.shared.clock.advance(TimeDelta::days(3));
    expiry::round(&app.shared).await.unwrap();
    assert_eq!(count(&app, "select count(*) as number from expiry_notices").await, 0);
}

/// Of an expunged tenant nothing is told any more, from the feed's own memory neither.
#[tokio::test]
async fn what_was_expunged_is_not_told_to_who_comes_later() {
    let app = App::start().await;
    let root = app.as_root();
    let mut watch = Watch::from_now(&app, &root).await;
    let start = watch.cursor.clone();
    root.create(tenant("foo")).await.unwrap();
    watch.take(1).await.unwrap();
    root.call("DeleteTenant", json!({"tenant_id": "foo", "expunge": true})).await.unwrap();
    let last = watch.take(1).await.unwrap();

    let events = Watch::from(&root, &start).await.unwrap().take(2).await.unwrap();

    assert_eq!(last[0].r#type, "tenant.expunged");
    assert_eq!(types(&events), ["tenant.created", "tenant.expunged"]);
    assert_eq!((&events[0].before, &events[0].after), (&None, &None));
}

/// Calls every method that gives or takes a secret, with foo and bar as tenants; answers the secrets.
pub async fn run_of_secrets(root: &Caller) -> Vec<String> {
    root.call("CreateProduct", product()).await.unwrap();
    let mut secrets = Vec::new();
    let mut request = json!({"tenant": {
        "tenant_id": "foo", "name": "foo", "description": "", "type": "TENANT_TYPE_PRODUCT",
        "organization_kind": "ORGANIZATION_KIND_ENTERPRISE",
    }});
    request["application"] = application();
    request["oauth_client"] = json!({
        "secret": "a-secret-that-was-given", "redirect_uri": "https://x.example/", "grants": ["password"],
        "disabled": false, "type": 1, "login_mode": "O_AUTH_LOGIN_MODE_URAC",
    });
    request["admin_api_application"] =
        json!({"name": "admin", "description": "", "roles": ["tenant-admin"]});
    secrets.push("a-secret-that-was-given".to_owned());
    let made = root.call("CreateTenant", request.clone()).await.unwrap();
    request["tenant"]["tenant_id"] = json!("bar");
    request["tenant"]["name"] = json!("bar");
    request["oauth_client"]["secret"] = json!("");
    let operation = root.call("CreateTenantAsync", request).await.unwrap()["name"].clone();
    root.call("WaitOperation", json!({"name": operation, "timeout": "20s"})).await.unwrap();
    let taken = root.call("TakeTenantResult", json!({"operation": operation})).await.unwrap();
    for answer in [&made, &taken] {
        for name in ["external_key_secret", "admin_api_key_secret", "oauth_client_secret"] {
            secrets.extend(answer[name].as_str().map(str::to_owned));
        }
    }
    secrets.push(root.with("x-tenant-id", "foo").create_key(&["tenant-admin"]).await);
    secrets
}

/// Every text that is given once as a secret, from every method that gives one.
#[tokio::test]
async fn no_secret_is_in_any_event() {
    let app = App::start_working().await;
    let root = app.as_root();
    let mut watch = Watch::from_now(&app, &root).await;
    let mut secrets = run_of_secrets(&root).await;
    secrets.push(app.root.clone());
    tag(&root, "foo", "end").await;

    let mut seen = Vec::new();
    loop {
        let answer = watch.answer().await.unwrap();
        seen.extend(answer.encode_to_vec());
        if answer.events.iter().any(|event| event.r#type == "tenant.updated") {
            break;
        }
    }
    let mut reader = app.superuser().await;
    let mut digests = Vec::new();
    for (table, column) in [
        ("api_keys", "digest"),
        ("external_keys", "digest"),
        ("tenant_oauth_clients", "secret_digest"),
    ] {
        let query = format!("select encode({column}, 'hex') as text from {table}");
        digests.extend(lines(&mut reader, &query).await);
    }
    let rows = lines(&mut reader, "select events::text as text from events").await.join("\n");
    let streamed = String::from_utf8_lossy(&seen);

    assert!(
        secrets.len() >= 8 && secrets.iter().all(|secret| secret.len() > 20),
        "{}",
        secrets.len()
    );
    assert!(digests.len() >= 6, "{digests:?}");
    for secret in secrets.iter().chain(&digests) {
        // A key without its checksum is as good to who knows the form.
        let core = &secret[..secret.len().min(40)];
        assert!(!rows.contains(core), "an event has a secret");
        assert!(!streamed.contains(core), "a stream has a secret");
    }
    assert!(rows.contains("tenant.created") && streamed.contains("tenant.created"));
}

/// 1-23: what is locked, unlocked or moved above a tenant changes how its keys are verified, and whoever keeps that
/// by its events is told so, though of what is above it nothing else.
#[tokio::test]
async fn who_keeps_verdicts_of_a_tenant_begins_anew_when_one_above_it_is_locked_or_moved() {
    let app = App::start().await;
    let root = app.as_root();
    let provider = pb::OrganizationKind::ServiceProvider.into();
    for id in ["high", "other"] {
        root.create(pb::Tenant { organization_kind: provider, ..tenant(id) }).await.unwrap();
    }
    let below = |parent: &str, id: &str| pb::Tenant {
        parent_tenant_id: Some(parent.into()),
        organization_kind: provider,
        ..tenant(id)
    };
    root.create(below("high", "middle")).await.unwrap();
    root.create(below("middle", "low")).await.unwrap();
    let on_low = root.with("x-tenant-id", "low");
    let verifier = app.as_key(&on_low.create_key(&["key-verifier"]).await);
    let admin = app.as_key(&on_low.create_key(&["tenant-admin"]).await);
    // One for all, that watches one tenant.
    let gateway = app.as_key(&root.create_key(&["key-verifier"]).await).with("x-tenant-id", "low");
    let lock = json!({"tenant_id": "high", "mode": "LOCK_MODE_READ_ONLY", "reason": "unpaid"});
    let moves = json!({"tenant_id": "middle", "parent_tenant_id": "other"});
    let settings = root.with("x-tenant-id", "high");

    for (method, request) in [
        ("LockTenant", lock),
        ("UnlockTenant", json!({"tenant_id": "high"})),
        ("MoveTenant", moves),
    ] {
        let mut watches = Vec::new();
        for caller in [&verifier, &admin, &gateway] {
            watches.push((caller, Watch::from_now(&app, caller).await));
        }
        // What is done above besides is nobody's business below.
        settings.call("UpdateIpAllowlist", json!({"enabled": false})).await.unwrap();
        root.call(method, request).await.unwrap();
        for (caller, mut watch) in watches {
            let cursor = watch.cursor.clone();
            let ended = watch.end().await;
            assert_eq!(told(&ended), "OutOfRange CURSOR_EXPIRED", "{method}");
            let resumed = Watch::from(caller, &cursor).await.err().unwrap();
            assert_eq!(told(&resumed), "OutOfRange CURSOR_EXPIRED", "{method}, by the cursor too");
        }
    }
    let mut settled = Watch::from_now(&app, &verifier).await;
    on_low.create_key(&["tenant-admin"]).await;
    on_low.call("UpdateIpAllowlist", json!({"enabled": false})).await.unwrap();
    assert_eq!(settled.take(1).await.unwrap()[0].r#type, "ip_allowlist.updated", "it goes on");
}
