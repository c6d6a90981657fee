//! The end of a tenant: purged when its time is over, or expunged at once.

use std::{sync::Arc, time::Duration};

use chrono::TimeDelta;
use diesel_async::SimpleAsyncConnection as _;
use futures_util::future::join_all;
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tenantry::{
    clock::Clock,
    db::Role,
    mail::Mailer,
    pb::{self, TenantState},
    purge,
    server::Shared,
};
use tokio::time::Instant;

use crate::{
    app::{App, Caller, count, fields, rows, tenant, told},
    start::{Folder, command, run, until},
};

/// Makes a tenant that has something of everything that a tenant can have, all of it naming Jane.
async fn full_tenant(root: &Caller, id: &str) -> pb::Tenant {
    let full = pb::Tenant {
        code: Some(format!("CODE{}", id.replace('-', ""))),
        hostname: Some(format!("{id}.example.com")),
        contact: Some(pb::Contact { name: "Jane Doe".into(), ..Default::default() }),
        support_email: Some("jane@example.com".into()),
        external_ids: [("1".to_owned(), "jane-1".to_owned())].into(),
        ..tenant(id)
    };
    let made = root.create(full).await.unwrap();
    let of_it = root.with("x-tenant-id", id);
    let group = json!({"group_id": "g", "name": "Jane's", "contact": {"name": "Jane Doe"}});
    of_it.call("CreateGroup", json!({ "group": group })).await.unwrap();
    let settings = json!({"settings": [{"name": "mail", "enabled": true}]});
    of_it.call("UpdateServiceSettings", settings).await.unwrap();
    let rules = json!({"enabled": false, "rules": [{"name": "Jane's", "cidr": "192.0.2.1"}]});
    of_it.call("UpdateIpAllowlist", rules).await.unwrap();
    let usage = json!({"usage_record": {"usage_type": "USAGE_TYPE_USERS",
        "aggregation_period": "AGGREGATION_PERIOD_DAILY", "start_time": "2026-11-22T00:00:00Z"}});
    of_it.call("RecordUsage", usage).await.unwrap();
    let entitlement = json!({"entitlement": {"type": "ENTITLEMENT_TYPE_USERS", "quantity": 1,
        "contract_mode": "CONTRACT_MODE_PRODUCTION", "contract_number": "Jane's"}});
    of_it.call("SetEntitlement", entitlement).await.unwrap();
    let document = json!({"application_id": "crm", "end_user_id": "jane", "data": {"a": "Jane"}});
    of_it.call("PutEndUserAppData", json!({"end_user_app_data": document})).await.unwrap();
    let key = json!({"api_key": {"name": "Jane's", "roles": ["tenant-admin"]}});
    of_it.call("CreateApiKey", key).await.unwrap();
    made
}

async fn delete_full(root: &Caller, id: &str) {
    let request = json!({"tenant_id": id, "delete_even_if_non_empty": true});
    root.call("DeleteTenant", request).await.unwrap();
}

fn expunge(id: &str) -> Value {
    json!({"tenant_id": id, "delete_even_if_non_empty": true, "expunge": true})
}

/// How many rows of which tables belong to a tenant.
async fn owned(app: &App, uid: &str) -> Vec<(String, i64)> {
    #[derive(diesel::QueryableByName)]
    struct Table {
        #[diesel(sql_type = diesel::sql_types::Text)]
        name: String,
    }
    let query = "select table_name::text as name from information_schema.columns
        where table_schema = 'public' and column_name = 'tenant_uid'
          and table_name not like 'events\\_%' order by 1";
    let mut conn = app.superuser().await;
    let tables: Vec<Table> =
        diesel_async::RunQueryDsl::load(diesel::sql_query(query), &mut conn).await.unwrap();
    let mut owned = Vec::new();
    for Table { name } in tables {
        let query = format!("select count(*) as number from {name} where tenant_uid = '{uid}'");
        match count(app, &query).await {
            0 => {}
            number => owned.push((name, number)),
        }
    }
    owned
}

async fn number_told(app: &App, kind: &str) -> i64 {
    count(app, &format!("select count(*) as number from events where type = '{kind}'")).await
}

/// Another node on the same database, whose clock goes before by a month.
fn node_ahead(app: &App) -> Shared {
    let Shared { database, master, settings, .. } = &*app.shared;
    let clock = Arc::new(Clock::default());
    clock.advance(TimeDelta::days(31));
    let mailer = Mailer::new(settings).unwrap();
    Shared::new(database.clone(), master.clone(), clock, settings.clone(), mailer).unwrap()
}

/// 4-07: what a purge takes and what it leaves.
#[tokio::test]
async fn a_tenant_past_its_purge_time_goes_with_all_it_owned_but_its_id_and_its_events() {
    let app = App::start().await;
    let root = app.as_root();
    let foo = full_tenant(&root, "foo").await;
    full_tenant(&root, "alive").await;
    delete_full(&root, "foo").await;
    let told_before = count(&app, "select count(*) as number from events").await;
    let claims = count(&app, "select count(*) as number from tenant_directory").await;

    app.shared.clock.advance(TimeDelta::days(29));
    let early = purge::round(&app.shared).await.unwrap();
    let still_there = root.get("foo").await.unwrap();
    app.shared.clock.advance(TimeDelta::days(2));
    let due = purge::round(&app.shared).await.unwrap();
    let again = purge::round(&app.shared).await.unwrap();

    assert_eq!((early, due, again), (0, 1, 0));
    assert_eq!(still_there.state(), TenantState::Deleted);
    assert_eq!(told(&root.get("foo").await.unwrap_err()), "NotFound TENANT_NOT_FOUND");
    assert_eq!(told(&root.undelete("foo").await.unwrap_err()), "NotFound TENANT_NOT_FOUND");
    let owned = owned(&app, &foo.uid).await;
    let left = owned.iter().map(|(table, _)| &**table).collect::<Vec<_>>();
    assert_eq!(left, ["events", "tenant_directory"]);
    assert_eq!(
        count(&app, "select count(*) as number from tenant_directory").await,
        claims - 2,
        "code and hostname are free"
    );
    assert_eq!(
        count(&app, "select count(*) as number from events").await,
        told_before + 1,
        "what happened is still told"
    );
    let purged = "select count(*) as number from events where type = 'tenant.purged' \
                  and tenant_id = 'foo' and actor = 'system' and before is null and after is null";
    assert_eq!(count(&app, purged).await, 1);
    let taken = root.create(tenant("foo")).await.unwrap_err();
    assert_eq!(told(&taken), "AlreadyExists TENANT_ALREADY_EXISTS");
    let heir = pb::Tenant { code: foo.code, hostname: foo.hostname, ..tenant("heir") };
    root.create(heir).await.unwrap();
    assert_eq!(root.get("alive").await.unwrap().state(), TenantState::Active);
    assert_eq!(root.with("x-tenant-id", "alive").list("", "").await.unwrap().len(), 2);
}

#[tokio::test]
async fn a_tenant_with_more_than_one_transaction_takes_is_purged_in_several() {
    let app = App::start().await;
    let root = app.as_root();
    let foo = root.create(tenant("foo")).await.unwrap();
    let many = format!(
        "insert into tenant_service_settings \
         select '{}', 's' || n, true from generate_series(1, 2500) n",
        foo.uid
    );
    app.superuser().await.batch_execute(&many).await.unwrap();
    root.delete("foo").await.unwrap();
    app.shared.clock.advance(TimeDelta::days(31));
    let writers = "select count(distinct xmin::text) as number from tenant_tombstones";

    // What a killed worker leaves: the purge has begun, and some is gone.
    let mut first = app
        .shared
        .database
        .begin_as(Role::Purger, Instant::now() + Duration::from_secs(20))
        .await
        .unwrap();
    let uid = foo.uid.parse().unwrap();
    purge::begin(first.conn(), uid, app.shared.clock.now()).await.unwrap();
    assert!(!purge::remove_some(first.conn(), uid).await.unwrap());
    first.commit().await.unwrap();
    let left = "select count(*) as number from tenant_service_settings";
    assert_eq!((count(&app, left).await, count(&app, writers).await), (1_500, 1));

    assert_eq!(purge::round(&app.shared).await.unwrap(), 1);
    assert_eq!(count(&app, left).await, 0);
    assert_eq!(number_told(&app, "tenant.purged").await, 1);
    assert_eq!(count(&app, writers).await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_workers_purge_each_tenant_once() {
    let app = App::start().await;
    let root = app.as_root();
    for number in 0..24 {
        root.create(tenant(&format!("t{number}"))).await.unwrap();
        root.delete(&format!("t{number}")).await.unwrap();
    }
    app.shared.clock.advance(TimeDelta::days(31));

    let rounds = join_all((0..4).map(|_| purge::round(&app.shared))).await;

    let purged: usize = rounds.into_iter().map(Result::unwrap).sum();
    assert_eq!(purged, 24);
    assert_eq!(number_told(&app, "tenant.purged").await, 24);
    assert_eq!(count(&app, "select count(*) as number from tenants").await, 0);
}

/// 1-47: nobody is left below nothing.
#[tokio::test]
async fn tenants_below_are_purged_before_the_one_above_and_it_waits_for_them() {
    let app = App::start().await;
    let root = app.as_root();
    let below = |parent: &str, id: &str| pb::Tenant {
        r#type: pb::TenantType::Client.into(),
        parent_tenant_id: Some(parent.into()),
        ..tenant(id)
    };
    root.create(tenant("above")).await.unwrap();
    root.create(below("above", "below")).await.unwrap();
    root.delete("below").await.unwrap();
    root.delete("above").await.unwrap();
    // As when the retention was longer once.
    let later = "update tenants set purge_time = purge_time + interval '10 days' \
                 where tenant_id = 'below'";
    app.superuser().await.batch_execute(later).await.unwrap();

    app.shared.clock.advance(TimeDelta::days(31));
    let early = purge::round(&app.shared).await.unwrap();
    app.shared.clock.advance(TimeDelta::days(10));
    let first = purge::round(&app.shared).await.unwrap();
    let second = purge::round(&app.shared).await.unwrap();

    assert_eq!((early, first, second), (0, 1, 1));
    assert_eq!(count(&app, "select count(*) as number from tenants").await, 0);
}

#[tokio::test]
async fn a_tenant_that_cannot_be_purged_does_not_keep_the_others_from_it() {
    let app = App::start().await;
    let root = app.as_root();
    for id in ["a", "b", "c"] {
        root.create(tenant(id)).await.unwrap();
        root.delete(id).await.unwrap();
    }
    app.shared.clock.advance(TimeDelta::days(31));
    let mut superuser = app.superuser().await;
    let stuck = "create table stuck (uid uuid references tenants (uid)); \
                 insert into stuck select uid from tenants where tenant_id = 'a'";
    superuser.batch_execute(stuck).await.unwrap();
    let held = "begin; select 1 from tenants where tenant_id = 'b' for update";
    superuser.batch_execute(held).await.unwrap();

    let first = purge::round(&app.shared).await.unwrap();
    superuser.batch_execute("rollback; drop table stuck").await.unwrap();
    let second = purge::round(&app.shared).await.unwrap();

    assert_eq!((first, second), (1, 2));
    assert_eq!(number_told(&app, "tenant.purged").await, 3);
}

/// 4-07: clocks of nodes differ, so both may be in the right.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_an_undelete_and_a_purge_at_once_exactly_one_wins() {
    let app = App::start().await;
    let root = app.as_root();
    let ahead = node_ahead(&app);
    for round in 0..40 {
        let id = format!("t{round}");
        let ids = [("1".to_owned(), "x".to_owned())].into();
        root.create(pb::Tenant { external_ids: ids, ..tenant(&id) }).await.unwrap();
        root.delete(&id).await.unwrap();

        // The purge comes earlier and later, from before the other's first statement to after its last.
        let (undeleted, purged) = tokio::join!(root.undelete(&id), async {
            for _ in 0..round % 20 * 2 {
                let deadline = Instant::now() + Duration::from_secs(20);
                let turn = ahead.database.begin_as(Role::Purger, deadline).await.unwrap();
                turn.commit().await.unwrap();
            }
            purge::round(&ahead).await.unwrap()
        });

        match undeleted {
            Ok(back) => {
                assert_eq!(purged, 0, "{id} is back and gone");
                assert_eq!(back.state(), TenantState::Active);
                assert_eq!(root.get(&id).await.unwrap(), back);
                assert_eq!(back.external_ids["1"], "x");
            }
            Err(refusal) => {
                assert_eq!(purged, 1, "{id} is neither back nor gone: {refusal:?}");
                assert_eq!(told(&root.get(&id).await.unwrap_err()), "NotFound TENANT_NOT_FOUND");
            }
        }
    }
    let back = number_told(&app, "tenant.undeleted").await;
    let purged = number_told(&app, "tenant.purged").await;
    assert_eq!(back + purged, 40);
    assert!(back > 0 && purged > 0, "both have won: {back} {purged}");
}

/// 4-07: whatever the clock of the node says that is asked.
#[tokio::test]
async fn a_tenant_whose_purge_has_begun_is_not_brought_back() {
    let app = App::start().await;
    let root = app.as_root();
    let foo = root.create(tenant("foo")).await.unwrap();
    root.delete("foo").await.unwrap();
    let mut worker = app
        .shared
        .database
        .begin_as(Role::Purger, Instant::now() + Duration::from_secs(20))
        .await
        .unwrap();
    purge::begin(worker.conn(), foo.uid.parse().unwrap(), app.shared.clock.now()).await.unwrap();
    worker.commit().await.unwrap();

    let refusal = root.undelete("foo").await.unwrap_err();

    assert_eq!(told(&refusal), "FailedPrecondition INVALID_STATE_TRANSITION");
    assert!(refusal.message().contains("purged"), "{}", refusal.message());
}

/// 3-23
#[tokio::test]
async fn an_expunged_tenant_is_gone_at_once_with_all_that_was_said_of_it() {
    let app = App::start().await;
    let root = app.as_root();
    let foo = full_tenant(&root, "foo").await;
    let events = "select count(*) as number from events where tenant_id = 'foo'";
    let told_before = count(&app, events).await;
    let before = rows(&app).await;
    let mut only = expunge("foo");
    only["validate_only"] = true.into();
    let mut once = expunge("foo");
    once["request_id"] = "once".into();

    let would = root.call("DeleteTenant", only).await.unwrap();
    let untouched = rows(&app).await;
    let did = root.call("DeleteTenant", once.clone()).await.unwrap();
    let again = root.call("DeleteTenant", once).await.unwrap();

    assert_eq!(untouched, before);
    for answer in [&would, &did] {
        assert_eq!(answer["tenant"]["state"], "TENANT_STATE_DELETED");
        assert_eq!(answer["deleted_group_ids"], json!(["g"]));
        assert_eq!(answer["deleted_app_data"][0]["application_id"], "crm");
    }
    assert_eq!(again, did, "the repetition of a request gets its answer");
    assert_eq!(told(&root.get("foo").await.unwrap_err()), "NotFound TENANT_NOT_FOUND");
    assert_eq!(told(&root.undelete("foo").await.unwrap_err()), "NotFound TENANT_NOT_FOUND");
    let owned = owned(&app, &foo.uid).await;
    let left = owned.iter().map(|(table, _)| &**table).collect::<Vec<_>>();
    assert_eq!(left, ["events", "tenant_directory"]);
    // What happened is told, with a group, the app data and the tenant gone, and of whom is not.
    assert_eq!(count(&app, events).await, told_before + 3);
    let said = format!("{events} and (before is not null or after is not null)");
    assert_eq!(count(&app, &said).await, 0);
    for table in rows(&app).await.keys() {
        let jane = format!("select count(*) as number from {table} t where t::text ilike '%jane%'");
        assert_eq!(count(&app, &jane).await, 0, "{table}");
    }
    let last = "select count(*) as number from events where type = 'tenant.expunged' \
                and tenant_id = 'foo' and actor like 'api_key:%'";
    assert_eq!(count(&app, last).await, 1);
    let soft = "select count(*) as number from events where type = 'tenant.deleted'";
    assert_eq!(count(&app, soft).await, 0);
    let taken = root.create(tenant("foo")).await.unwrap_err();
    assert_eq!(told(&taken), "AlreadyExists TENANT_ALREADY_EXISTS");
    let heir = pb::Tenant { code: foo.code, hostname: foo.hostname, ..tenant("heir") };
    root.create(heir).await.unwrap();
}

/// 2-27, 3-23
#[tokio::test]
async fn a_deleted_tenant_is_expunged_too_with_the_app_data_that_is_not_excluded_anew() {
    let app = App::start().await;
    let root = app.as_root();
    for id in ["foo", "bar"] {
        full_tenant(&root, id).await;
        let of_it = root.with("x-tenant-id", id);
        let document = json!({"application_id": "kept", "end_user_id": "1", "data": {}});
        of_it.call("PutEndUserAppData", json!({"end_user_app_data": document})).await.unwrap();
        let request = json!({"tenant_id": id, "delete_even_if_non_empty": true,
            "excluded_app_ids": ["kept", "crm"]});
        root.call("DeleteTenant", request).await.unwrap();
    }
    let mut excluding = expunge("bar");
    excluding["excluded_app_ids"] = json!(["kept"]);
    // Another tenant's events are no concern of theirs.
    full_tenant(&root, "beside").await;
    let beside = "select count(*) as number from events where tenant_id = 'beside' \
                  and after is not null";
    let told_beside = count(&app, beside).await;

    let all = root.call("DeleteTenant", expunge("foo")).await.unwrap();
    let some = root.call("DeleteTenant", excluding).await.unwrap();

    assert_eq!(all["deleted_app_data"].as_array().unwrap().len(), 2);
    assert_eq!(some["deleted_app_data"].as_array().unwrap().len(), 1);
    let list =
        async |id: &str| root.with("x-tenant-id", id).call("ListEndUserAppData", json!({})).await;
    assert_eq!(told(&list("foo").await.unwrap_err()), "NotFound TENANT_NOT_FOUND");
    let left = list("bar").await.unwrap();
    assert_eq!(left["end_user_app_data"][0]["application_id"], "kept");
    assert_eq!(number_told(&app, "tenant.expunged").await, 2);
    assert_eq!(count(&app, beside).await, told_beside);
    app.shared.clock.advance(TimeDelta::days(31));
    assert_eq!(purge::round(&app.shared).await.unwrap(), 0, "nothing is left to purge");
}

/// 1-46, 1-47, 2-24, 3-23: what stands against a deletion stands against this one too.
#[tokio::test]
async fn what_may_not_be_deleted_is_not_expunged() {
    let app = App::start().await;
    let root = app.as_root();
    let organization_kind = pb::OrganizationKind::ServiceProvider.into();
    root.create(pb::Tenant { organization_kind, ..tenant("provider") }).await.unwrap();
    let key = root.with("x-tenant-id", "provider").create_key(&["service-provider-admin"]).await;
    let provider = app.as_key(&key);
    root.create(pb::Tenant { protected: Some(true), ..tenant("protected") }).await.unwrap();
    let admin = root.with("x-account-id", "default").create_key(&["account-admin"]).await;
    let admin = app.as_key(&admin);
    root.create(tenant("above")).await.unwrap();
    root.create(pb::Tenant {
        r#type: pb::TenantType::Client.into(),
        parent_tenant_id: Some("above".into()),
        ..tenant("below")
    })
    .await
    .unwrap();
    full_tenant(&root, "full").await;
    let own = root.with("x-tenant-id", "full").create_key(&["tenant-admin"]).await;
    let of_itself = app.as_key(&own).call("DeleteTenant", expunge("full")).await.unwrap_err();
    let non_empty = json!({"tenant_id": "full", "expunge": true});
    let stale = json!({"tenant_id": "full", "expunge": true, "etag": "4711"});

    let above = root.call("DeleteTenant", expunge("above")).await.unwrap_err();
    root.delete("below").await.unwrap();
    let above_deleted = root.call("DeleteTenant", expunge("above")).await.unwrap_err();
    root.delete("above").await.unwrap();
    let both_deleted = root.call("DeleteTenant", expunge("above")).await.unwrap_err();
    let refusals = [
        (of_itself, "PermissionDenied PERMISSION_MISSING"),
        (
            provider.call("DeleteTenant", expunge("provider")).await.unwrap_err(),
            "FailedPrecondition CANNOT_DELETE_SELF",
        ),
        (
            root.call("DeleteTenant", expunge("provider")).await.unwrap_err(),
            "FailedPrecondition SERVICE_PROVIDER_NOT_DELETABLE",
        ),
        (
            admin.call("DeleteTenant", expunge("protected")).await.unwrap_err(),
            "FailedPrecondition RECORD_PROTECTED",
        ),
        (above, "FailedPrecondition HAS_CHILD_TENANTS"),
        (above_deleted, "FailedPrecondition HAS_CHILD_TENANTS"),
        (both_deleted, "FailedPrecondition HAS_CHILD_TENANTS"),
        (
            root.call("DeleteTenant", non_empty).await.unwrap_err(),
            "FailedPrecondition TENANT_NOT_EMPTY",
        ),
        (root.call("DeleteTenant", stale).await.unwrap_err(), "Aborted ETAG_MISMATCH"),
    ];

    for (refusal, expected) in refusals {
        assert_eq!(told(&refusal), expected);
        assert_eq!(fields(&refusal), [""; 0]);
    }
    assert_eq!(number_told(&app, "tenant.expunged").await, 0);
    root.call("DeleteTenant", expunge("below")).await.unwrap();
    root.call("DeleteTenant", expunge("above")).await.unwrap();
    root.call("DeleteTenant", expunge("protected")).await.unwrap();
}

/// What others are writing when a tenant is expunged is scrubbed with the rest, or was never written.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_told_of_an_expunged_tenant_by_those_who_changed_it_at_the_same_time() {
    let app = App::start().await;
    let root = app.as_root();
    for round in 0..5 {
        let id = format!("t{round}");
        full_tenant(&root, &id).await;
        let of_it = root.with("x-tenant-id", &id);

        let changes = join_all((0..6).map(|number| {
            let of_it = of_it.clone();
            async move {
                let key = json!({"api_key": {"name": "Jane's", "roles": ["auditor"]}});
                let group = json!({"group": {"group_id": format!("g{number}"), "name": "Jane"}});
                let gone = json!({"group_id": "g"});
                let document = json!({"application_id": "crm", "end_user_id": "jane", "data": {}});
                let _ = match number % 4 {
                    0 => of_it.call("CreateApiKey", key).await,
                    1 => of_it.call("CreateGroup", group).await,
                    2 => of_it.call("DeleteGroup", gone).await,
                    _ => {
                        let put = json!({"end_user_app_data": document});
                        of_it.call("PutEndUserAppData", put).await
                    }
                };
            }
        }));
        let (_, expunged) = tokio::join!(changes, root.call("DeleteTenant", expunge(&id)));

        expunged.unwrap();
        let said = format!(
            "select count(*) as number from events where tenant_id = '{id}' \
             and (before is not null or after is not null)"
        );
        assert_eq!(count(&app, &said).await, 0);
    }
}

/// Killed amid its work, it is finished by the next start, and tells of nothing twice.
#[tokio::test]
async fn a_service_killed_amid_a_purge_finishes_it_when_it_starts_again() {
    const TENANTS: i64 = 60;
    let app =
        App::start_with(|settings| settings.deletion.retention = Duration::from_millis(1)).await;
    let root = app.as_root();
    for number in 0..TENANTS {
        root.create(tenant(&format!("t{number}"))).await.unwrap();
    }
    // More than one transaction takes.
    let many = "insert into tenant_service_settings \
                select uid, 's' || n, true from tenants, generate_series(1, 1500) n";
    app.superuser().await.batch_execute(many).await.unwrap();
    for number in 0..TENANTS {
        root.delete(&format!("t{number}")).await.unwrap();
    }
    let folder = Folder::new("amid-purge");
    let url = app.service_url().await;
    let start = || {
        let mut command = command(&folder.0);
        let keys = &app.shared.settings.keys.master_key_file;
        command.env("DATABASE_URL", &url).env("TENANTRY_KEYS__MASTER_KEY_FILE", keys);
        command.env("TENANTRY_DELETION__PURGE_INTERVAL", "10ms");
        run(command, &folder.0)
    };
    let left = "select count(*) as number from tenants";

    let mut kills = 0;
    for purged in [1, 20, 40] {
        let running = start();
        until("some purges", async || number_told(&app, "tenant.purged").await >= purged).await;
        running.end(Signal::SIGKILL).await;
        kills += i32::from(count(&app, left).await > 0);
    }
    let _last = start();
    until("the end of all", async || count(&app, left).await == 0).await;

    assert!(kills > 0, "it was never killed amid its work");
    assert_eq!(number_told(&app, "tenant.purged").await, TENANTS);
    let once = "select count(distinct tenant_uid) as number from events \
                where type = 'tenant.purged'";
    assert_eq!(count(&app, once).await, TENANTS);
    for (table, number) in
        [("tenant_service_settings", 0), ("tenant_tombstones", 0), ("tenant_directory", TENANTS)]
    {
        let rows = format!("select count(*) as number from {table}");
        assert_eq!(count(&app, &rows).await, number, "{table}");
    }
}
