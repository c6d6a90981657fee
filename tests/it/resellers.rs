//! The reseller of a tenant, and what of it reaches the tenant's groups.

use diesel_async::SimpleAsyncConnection as _;
use serde_json::{Value, json};
use tonic::Status;

use crate::app::{App, Caller, count, fields, told};

async fn make(caller: &Caller, resellers: &[&str]) {
    for id in resellers {
        let new = json!({"reseller": {"reseller_id": id}});
        caller.call("CreateReseller", new).await.unwrap();
    }
}

fn new_tenant(id: &str, reseller: &str) -> Value {
    let mut tenant = json!({
        "tenant_id": id, "name": id, "description": "", "type": "TENANT_TYPE_PRODUCT",
        "organization_kind": "ORGANIZATION_KIND_ENTERPRISE",
    });
    if !reseller.is_empty() {
        tenant["reseller_id"] = reseller.into();
    }
    json!({ "tenant": tenant })
}

/// Gives a tenant a reseller, with more in the request.
async fn give(caller: &Caller, id: &str, reseller: &str, more: &Value) -> Result<Value, Status> {
    let mut request = more.clone();
    request["tenant"] = json!({"tenant_id": id, "reseller_id": reseller});
    Ok(caller.call("UpdateTenant", request).await?["tenant"].clone())
}

/// The resellers of the groups of a tenant, in the order of the groups' names.
async fn of_groups(caller: &Caller, id: &str) -> Vec<String> {
    let on = caller.with("x-tenant-id", id);
    let groups = on.call("ListGroups", json!({})).await.unwrap();
    let of = |group: &Value| group["reseller_id"].as_str().unwrap_or_default().to_owned();
    groups["groups"].as_array().unwrap().iter().map(of).collect()
}

/// 2-13, 2-14, 2-15: every cell: what the tenant had before, what its groups have, and which flags are sent.
#[tokio::test]
async fn a_new_reseller_reaches_the_groups_that_the_request_means() {
    let app = App::start().await;
    let root = app.as_root();
    make(&root, &["old", "other", "new"]).await;
    // What the tenant had, what it is given, whether no_… and force_… are sent, and what the groups have
    // then that had the same as a tenant of `old`, another one, and none.
    let cells = [
        ("old", "new", false, false, ["new", "other", ""]),
        ("old", "new", true, false, ["old", "other", ""]),
        ("old", "new", false, true, ["new", "new", "new"]),
        ("old", "new", true, true, ["old", "other", ""]),
        ("", "new", false, false, ["old", "other", "new"]),
        ("", "new", true, false, ["old", "other", ""]),
        ("", "new", false, true, ["new", "new", "new"]),
        ("", "new", true, true, ["old", "other", ""]),
        // Taken away, which is a change like any other.
        ("old", "", false, false, ["", "other", ""]),
        ("old", "", true, false, ["old", "other", ""]),
        ("old", "", false, true, ["", "", ""]),
        ("old", "", true, true, ["old", "other", ""]),
        // Given again what it has.
        ("old", "old", false, false, ["old", "other", ""]),
        ("old", "old", true, false, ["old", "other", ""]),
        ("old", "old", false, true, ["old", "old", "old"]),
        ("old", "old", true, true, ["old", "other", ""]),
        ("", "", false, false, ["old", "other", ""]),
        ("", "", true, false, ["old", "other", ""]),
        ("", "", false, true, ["", "", ""]),
        ("", "", true, true, ["old", "other", ""]),
    ];

    for (number, (had, given, no, force, expected)) in cells.into_iter().enumerate() {
        let id = format!("t-{number}");
        root.call("CreateTenant", new_tenant(&id, had)).await.unwrap();
        for (name, reseller) in [("1 same", "old"), ("2 other", "other"), ("3 none", "")] {
            let group = json!({"group": {"name": name, "reseller_id": reseller}});
            root.with("x-tenant-id", &id).call("CreateGroup", group).await.unwrap();
        }
        let events = "select count(*) as number from events where type = 'group.updated'";
        let before = count(&app, events).await;

        let flags = json!({"no_reseller_id_to_groups": no, "force_reseller_id_to_groups": force});
        let tenant = give(&root, &id, given, &flags).await.unwrap();

        let cell = format!("{had:?} to {given:?}, no {no}, force {force}");
        assert_eq!(tenant["reseller_id"].as_str().unwrap_or_default(), given, "{cell}");
        assert_eq!(of_groups(&root, &id).await, expected, "{cell}");
        let changed = ["old", "other", ""].iter().zip(expected).filter(|(was, is)| *was != is);
        let told = count(&app, events).await - before;
        assert_eq!(told, i64::try_from(changed.count()).unwrap(), "events: {cell}");
    }
}

/// 2-14, 2-15
#[tokio::test]
async fn without_a_reseller_in_the_request_its_flags_do_nothing() {
    let app = App::start().await;
    let root = app.as_root();
    make(&root, &["old", "other"]).await;
    root.call("CreateTenant", new_tenant("foo", "old")).await.unwrap();
    let group = json!({"group": {"name": "1", "reseller_id": "other"}});
    root.with("x-tenant-id", "foo").call("CreateGroup", group).await.unwrap();

    for (no, force) in [(false, true), (true, false), (true, true)] {
        let tag = format!("no {no}, force {force}");
        let request = json!({
            "tenant": {"tenant_id": "foo", "tag": tag},
            "no_reseller_id_to_groups": no, "force_reseller_id_to_groups": force,
        });
        let tenant = root.call("UpdateTenant", request).await.unwrap();

        assert_eq!(tenant["tenant"]["tag"], tag, "the rest of the request is done");
        assert_eq!(tenant["tenant"]["reseller_id"], "old", "{tag}");
        assert_eq!(of_groups(&root, "foo").await, ["other"], "{tag}");
    }
}

/// 2-16
#[tokio::test]
async fn an_unknown_reseller_is_refused_and_nothing_changes_unless_the_operator_has_it_made() {
    let app = App::start().await;
    let root = app.as_root();
    root.call("CreateTenant", new_tenant("foo", "")).await.unwrap();

    let update = give(&root, "foo", "north", &json!({})).await.unwrap_err();
    let create = root.call("CreateTenant", new_tenant("bar", "north")).await.unwrap_err();
    let group = json!({"group": {"name": "1", "reseller_id": "north"}});
    let group = root.with("x-tenant-id", "foo").call("CreateGroup", group).await.unwrap_err();

    for refused in [update, create, group] {
        assert_eq!(told(&refused), "NotFound RESELLER_NOT_FOUND");
    }
    let foo = root.get("foo").await.unwrap();
    assert_eq!((foo.reseller_id(), foo.external_ids.len()), ("", 0));
    assert!(root.get("bar").await.is_err());

    let app = App::start_with(|settings| settings.auto_create.reseller = true).await;
    let root = app.as_root();
    root.call("CreateTenant", new_tenant("foo", "north")).await.unwrap();
    give(&root, "foo", "south", &json!({})).await.unwrap();
    let made = root.call("ListResellers", json!({})).await.unwrap();
    let made = made["resellers"].as_array().unwrap().iter();
    let made = made.map(|one| (one["reseller_id"].as_str(), one["external_name"].as_str()));

    let expected = [(Some("north"), Some("north")), (Some("south"), Some("south"))];
    assert_eq!(made.collect::<Vec<_>>(), expected);
}

/// 2-16: a service provider's key too, which belongs to no account but acts within one.
#[tokio::test]
async fn a_provider_has_resellers_made_in_its_own_account() {
    let app = App::start_with(|settings| settings.auto_create.reseller = true).await;
    let root = app.as_root();
    let mut provider = new_tenant("provider", "");
    provider["tenant"]["organization_kind"] = "ORGANIZATION_KIND_SERVICE_PROVIDER".into();
    root.call("CreateTenant", provider).await.unwrap();
    let key = root.with("x-tenant-id", "provider").create_key(&["service-provider-admin"]).await;

    let mut child = new_tenant("child", "north");
    child["entitlement"] = json!({"contract_mode": "CONTRACT_MODE_PRODUCTION", "quantity": 0});

    let created = app.as_key(&key).call("CreateTenant", child).await;

    assert_eq!(created.unwrap()["tenant"]["reseller_id"], "north");
    let told = "select count(*) as number from events where type = 'reseller.created' \
                and account_id = 'default' and tenant_uid is null";
    assert_eq!(count(&app, told).await, 1);
}

/// 2-17, 2-10
#[tokio::test]
async fn a_tenant_with_a_reseller_has_all_four_external_ids_and_others_where_the_operator_has_it_so()
 {
    let app = App::start().await;
    let root = app.as_root();
    make(&root, &["north"]).await;
    let mut request = new_tenant("foo", "north");
    request["tenant"]["external_ids"] = json!({"2": "two", "crm": "x"});
    let created = root.call("CreateTenant", request).await.unwrap();
    let plain = root.call("CreateTenant", new_tenant("plain", "")).await.unwrap();
    let given = give(&root, "plain", "north", &json!({})).await.unwrap();

    assert_eq!(
        created["tenant"]["external_ids"],
        json!({"1": "", "2": "two", "3": "", "4": "", "crm": "x"})
    );
    assert_eq!(plain["tenant"]["external_ids"], Value::Null);
    assert_eq!(given["external_ids"], json!({"1": "", "2": "", "3": "", "4": ""}));

    let app = App::start_with(|settings| settings.auto_create.tenant_data = true).await;
    let created = app.as_root().call("CreateTenant", new_tenant("foo", "")).await.unwrap();
    let own = app.as_root().with("x-tenant-id", "foo").create_key(&["tenant-admin"]).await;
    let tag = app.as_key(&own).call("UpdateTenant", json!({"tenant": {"tag": "gold"}})).await;

    assert_eq!(created["tenant"]["external_ids"], json!({"1": "", "2": "", "3": "", "4": ""}));
    assert_eq!(tag.unwrap()["tenant"]["tag"], "gold");
}

/// 2-17, 2-10: what is taken away of the four is empty from then on.
#[tokio::test]
async fn a_tenant_that_has_all_four_external_ids_keeps_them_whatever_is_taken_away() {
    let app = App::start().await;
    let root = app.as_root();
    make(&root, &["north"]).await;
    let none = json!({"1": "", "2": "", "3": "", "4": ""});
    let update = async |tenant: Value, mask: &str| {
        let mut tenant = tenant;
        tenant["tenant_id"] = "foo".into();
        let request = json!({"tenant": tenant, "update_mask": mask});
        let told = root.call("UpdateTenant", request).await.unwrap()["tenant"].clone();
        let read = root.call("GetTenant", json!({"tenant_id": "foo"})).await.unwrap();
        assert_eq!(read["tenant"], told, "{mask}");
        told["external_ids"].clone()
    };
    let mut request = new_tenant("foo", "north");
    request["tenant"]["external_ids"] = json!({"2": "two", "crm": "x"});
    root.call("CreateTenant", request).await.unwrap();

    assert_eq!(update(json!({}), "externalIds").await, none, "all taken away");
    let set = update(json!({"external_ids": {"1": "one"}}), "externalIds.1").await;
    assert_eq!(set, json!({"1": "one", "2": "", "3": "", "4": ""}));
    assert_eq!(update(json!({}), "externalIds.1").await, none, "one taken away");
    assert_eq!(update(json!({}), "resellerId").await, none, "without a reseller, still");
    assert_eq!(update(json!({}), "externalIds").await, none);
    assert_eq!(update(json!({}), "externalIds.4").await, none);

    // One that has only some of them has no such data.
    let mut request = new_tenant("bar", "");
    request["tenant"]["external_ids"] = json!({"2": "two"});
    root.call("CreateTenant", request).await.unwrap();
    let request = json!({"tenant": {"tenant_id": "bar"}, "update_mask": "externalIds"});
    let bar = root.call("UpdateTenant", request).await.unwrap();
    assert_eq!(bar["tenant"]["external_ids"], Value::Null);
}

/// 2-17: from before the operator had it so.
#[tokio::test]
async fn a_tenant_stored_without_the_four_external_ids_is_told_with_them_and_any_change_stores_them()
 {
    let app = App::start_with(|settings| settings.auto_create.tenant_data = true).await;
    let root = app.as_root();
    let none = json!({"1": "", "2": "", "3": "", "4": ""});
    let ids = ["by-root", "by-itself", "by-placer"];
    for id in ids {
        root.call("CreateTenant", new_tenant(id, "")).await.unwrap();
    }
    let mut conn = app.superuser().await;
    conn.batch_execute("delete from tenant_external_ids").await.unwrap();
    let stored = async |id: &str| {
        let of_one = format!(
            "select count(*) as number from tenant_external_ids \
             where tenant_uid = (select uid from tenants where tenant_id = '{id}')"
        );
        count(&app, &of_one).await
    };

    let read = async |method: &str, request: Value| {
        root.call(method, request).await.unwrap()["tenant"]["external_ids"].clone()
    };
    let by_id = json!({"tenant_id": "by-root"});
    let locked = json!({"tenant_id": "by-root", "mode": "LOCK_MODE_FULL", "reason": "unpaid"});
    let uid = root.get("by-root").await.unwrap().uid;
    for (method, request) in [
        ("GetTenant", by_id.clone()),
        ("LookupTenant", json!({ "uid": uid })),
        ("LockTenant", locked),
        ("UnlockTenant", by_id.clone()),
        ("DeleteTenant", by_id.clone()),
        ("UndeleteTenant", by_id),
    ] {
        assert_eq!(read(method, request).await, none, "{method}");
    }
    let listed = root.call("ListTenants", json!({})).await.unwrap();
    for tenant in listed["tenants"].as_array().unwrap() {
        assert_eq!(tenant["external_ids"], none, "ListTenants: {}", tenant["tenant_id"]);
    }
    for id in ids {
        assert_eq!(stored(id).await, 0, "to read them changes nothing");
    }

    let tag = |id: &str| json!({"tenant": {"tenant_id": id, "tag": "gold"}});
    assert_eq!(read("UpdateTenant", tag("by-root")).await, none);
    let away = json!({"tenant": {"tenant_id": "by-root"}, "update_mask": "externalIds"});
    assert_eq!(read("UpdateTenant", away).await, none);
    // A key of the tenant changes nothing by sending back what it has read.
    let own =
        app.as_key(&root.with("x-tenant-id", "by-itself").create_key(&["tenant-admin"]).await);
    let mut back = own.call("GetTenant", json!({})).await.unwrap()["tenant"].clone();
    back["tag"] = "gold".into();
    let back = own.call("UpdateTenant", json!({ "tenant": back })).await.unwrap();
    assert_eq!((&back["tenant"]["tag"], &back["tenant"]["external_ids"]), (&json!("gold"), &none));
    // Nor does a key that may do no more than place it.
    let backend = json!({"backend": {"backend_id": "one", "external_name": "One"}});
    root.call("CreateBackend", backend).await.unwrap();
    let placer = json!({"api_key": {"roles": ["multi-backend-admin"], "backend_ids": ["one"]}});
    let placer = root.call("CreateApiKey", placer).await.unwrap();
    let placer = app.as_key(placer["secret"].as_str().unwrap());
    let place = json!({"tenant": {"tenant_id": "by-placer", "backend_id": "one"}});
    let changed = placer.call("UpdateTenant", place).await.unwrap();
    assert_eq!(changed["tenant"]["external_ids"], none);
    for id in ids {
        assert_eq!(stored(id).await, 4, "{id}");
    }
}

/// 2-13: no tenant raises itself.
#[tokio::test]
async fn no_tenant_gives_itself_or_all_its_groups_a_reseller() {
    let app = App::start().await;
    let root = app.as_root();
    make(&root, &["old", "new"]).await;
    root.call("CreateTenant", new_tenant("foo", "old")).await.unwrap();
    let on_foo = root.with("x-tenant-id", "foo");
    on_foo.call("CreateGroup", json!({"group": {"name": "1"}})).await.unwrap();
    let own = app.as_key(&on_foo.create_key(&["tenant-admin"]).await);

    let other = give(&own, "foo", "new", &json!({})).await.unwrap_err();
    let force = json!({"force_reseller_id_to_groups": true});
    let force = give(&own, "foo", "old", &force).await.unwrap_err();
    let same = give(&own, "foo", "old", &json!({})).await;

    assert_eq!(told(&other), "PermissionDenied PERMISSION_MISSING");
    assert_eq!(told(&force), "PermissionDenied PERMISSION_MISSING");
    assert!(same.is_ok());
    assert_eq!(of_groups(&root, "foo").await, [""]);
}

/// 2-13, 2-31: a reseller of another account is none.
#[tokio::test]
async fn a_reseller_is_one_of_the_account_and_stays_while_tenants_or_groups_have_it() {
    let app = App::start().await;
    let root = app.as_root();
    let other = app.account("other").await;
    make(&other, &["theirs"]).await;
    make(&root, &["north", "south"]).await;
    root.call("CreateTenant", new_tenant("foo", "north")).await.unwrap();
    let group = json!({"group": {"group_id": "one", "name": "1", "reseller_id": "south"}});
    let on_foo = root.with("x-tenant-id", "foo");
    on_foo.call("CreateGroup", group).await.unwrap();

    let theirs = give(&root, "foo", "theirs", &json!({})).await.unwrap_err();
    let delete = async |id| root.call("DeleteReseller", json!({"reseller_id": id})).await;

    assert_eq!(told(&theirs), "NotFound RESELLER_NOT_FOUND");
    assert_eq!(told(&delete("north").await.unwrap_err()), "FailedPrecondition RECORD_IN_USE");
    assert_eq!(told(&delete("south").await.unwrap_err()), "FailedPrecondition RECORD_IN_USE");
    on_foo.call("DeleteGroup", json!({"group_id": "one"})).await.unwrap();
    delete("south").await.unwrap();
}

/// 2-13: neither a group's change nor the tenant's is lost, whichever comes first.
#[tokio::test]
async fn what_reaches_groups_and_what_changes_them_meanwhile_do_not_undo_each_other() {
    let app = App::start().await;
    let root = app.as_root();
    make(&root, &["old", "other", "new"]).await;
    for round in 0..10 {
        let id = format!("t-{round}");
        root.call("CreateTenant", new_tenant(&id, "old")).await.unwrap();
        let on = root.with("x-tenant-id", &id);
        for number in 0..4 {
            let name = format!("{number}");
            let group = json!({"group": {"group_id": name, "name": name, "reseller_id": "old"}});
            on.call("CreateGroup", group).await.unwrap();
        }
        let mut calls = tokio::task::JoinSet::new();
        for number in 0..4 {
            let on = on.clone();
            calls.spawn(async move {
                let id = format!("{number}");
                // Two leave for another reseller, two change something else.
                let group = if number < 2 {
                    json!({"group": {"group_id": id, "reseller_id": "other"}})
                } else {
                    json!({"group": {"group_id": id, "user_count": 7}})
                };
                on.call("UpdateGroup", group).await.map(|_| ())
            });
        }
        let (root, tenant) = (root.clone(), id.clone());
        calls.spawn(async move { give(&root, &tenant, "new", &json!({})).await.map(|_| ()) });
        while let Some(done) = calls.join_next().await {
            done.unwrap().unwrap();
        }

        // Whichever came first, who left has the other one and who stayed has the new one and its users.
        let groups = on.call("ListGroups", json!({})).await.unwrap();
        let groups = groups["groups"].as_array().unwrap().clone();
        let of = |group: &Value| {
            let reseller = group["reseller_id"].as_str().unwrap_or_default().to_owned();
            (reseller, group["user_count"].as_i64().unwrap_or_default())
        };
        assert_eq!(
            groups.iter().map(of).collect::<Vec<_>>(),
            [("other", 0), ("other", 0), ("new", 7), ("new", 7)]
                .map(|(reseller, users)| (reseller.to_owned(), users)),
            "{id}"
        );
    }
}

/// 2-29
#[tokio::test]
async fn tenants_are_found_by_their_reseller() {
    let app = App::start().await;
    let root = app.as_root();
    make(&root, &["north", "south"]).await;
    for (id, reseller) in [("a", "north"), ("b", "south"), ("c", "")] {
        root.call("CreateTenant", new_tenant(id, reseller)).await.unwrap();
    }

    assert_eq!(root.list("reseller_id = north", "name").await.unwrap(), ["a"]);
    assert_eq!(root.list("reseller_id:OUT", "name").await.unwrap(), ["b"]);
    assert_eq!(root.list("NOT reseller_id = north", "name").await.unwrap(), ["b", "c"]);
    assert_eq!(root.list("reseller_id = \"\"", "name").await.unwrap(), Vec::<String>::new());
}

/// 2-18: what the request names wins, be it that it is to be empty; what was decided on create stays.
#[tokio::test]
async fn a_template_gives_an_update_what_the_request_does_not_name() {
    let app = App::start().await;
    let root = app.as_root();
    let defaults = json!({
        "tag": "gold", "description": "by template", "contact": {"name": "Desk", "email": "d@example.com"},
        "labels": {"tier": "1"}, "contract_mode": "CONTRACT_MODE_TRIAL", "default_domain": "example.com",
    });
    let template = json!({"tenant_template": {"template_id": "t", "defaults": defaults}});
    root.call("CreateTenantTemplate", template).await.unwrap();
    root.call("CreateTenant", new_tenant("foo", "")).await.unwrap();

    let update = |tenant: Value, paths: &[&str]| {
        json!({"tenant": tenant, "template_id": "t", "auto_create_domain": true,
            "update_mask": paths.join(",")})
    };
    let request = update(json!({"tenant_id": "foo", "contact": {"name": "Ann"}}), &[]);
    let changed = root.call("UpdateTenant", request).await.unwrap()["tenant"].clone();
    let request = update(json!({"tenant_id": "foo"}), &["tag"]);
    let cleared = root.call("UpdateTenant", request).await.unwrap()["tenant"].clone();
    let unknown = json!({"tenant": {"tenant_id": "foo"}, "template_id": "none"});
    let unknown = root.call("UpdateTenant", unknown).await.unwrap_err();
    let wrong = json!({"tenant": {"tenant_id": "foo"}, "template_id": "No Id"});
    let wrong = root.call("UpdateTenant", wrong).await.unwrap_err();

    assert_eq!((&changed["tag"], &changed["description"]), (&json!("gold"), &json!("by template")));
    assert_eq!(changed["contact"], json!({"name": "Ann"}));
    assert_eq!(changed["labels"], json!({"tier": "1"}));
    assert_eq!(changed["default_domain"], "example.com");
    assert_eq!(changed["contract_mode"], "CONTRACT_MODE_PRODUCTION");
    assert_eq!(cleared["tag"], "");
    assert_eq!(cleared["contact"], json!({"name": "Desk", "email": "d@example.com"}));
    assert_eq!(told(&unknown), "NotFound TEMPLATE_NOT_FOUND");
    assert_eq!(fields(&wrong), ["template_id"]);
}
