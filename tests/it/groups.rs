//! Groups: parts of a tenant, each of exactly one.

use prost_types::FieldMask;
use serde_json::json;
use tenantry::pb;
use tonic::Status;

use crate::app::{App, Caller, count, fields, rows, tenant, told};

fn group(id: &str) -> pb::Group {
    pb::Group { group_id: id.to_owned(), name: Some(format!("Group {id}")), ..Default::default() }
}

async fn create(caller: &Caller, group: pb::Group) -> Result<pb::Group, Status> {
    let request = pb::CreateGroupRequest { group: Some(group), ..Default::default() };
    Ok(caller.tenants().create_group(request).await?.into_inner().group.unwrap())
}

async fn get(caller: &Caller, id: &str) -> Result<pb::Group, Status> {
    let request = pb::GetGroupRequest { group_id: id.to_owned() };
    Ok(caller.tenants().get_group(request).await?.into_inner().group.unwrap())
}

async fn update(caller: &Caller, group: pb::Group, paths: &[&str]) -> Result<pb::Group, Status> {
    let paths = paths.iter().map(|path| (*path).to_owned()).collect();
    let request = pb::UpdateGroupRequest {
        group: Some(group),
        update_mask: Some(FieldMask { paths }),
        ..Default::default()
    };
    Ok(caller.tenants().update_group(request).await?.into_inner().group.unwrap())
}

async fn delete(caller: &Caller, id: &str) -> Result<(), Status> {
    let request = pb::DeleteGroupRequest { group_id: id.to_owned(), ..Default::default() };
    caller.tenants().delete_group(request).await.map(|_| ())
}

async fn list(
    caller: &Caller,
    request: pb::ListGroupsRequest,
) -> Result<(Vec<String>, String), Status> {
    let answer = caller.tenants().list_groups(request).await?.into_inner();
    let ids = answer.groups.into_iter().map(|group| group.group_id).collect();
    Ok((ids, answer.next_page_token))
}

/// A Tenantry with the tenants `foo` and `bar`, and the callers that act on them.
async fn two_tenants() -> (App, Caller, Caller) {
    let app = App::start().await;
    for id in ["foo", "bar"] {
        app.as_root().create(tenant(id)).await.unwrap();
    }
    let on = |id| app.as_root().with("x-tenant-id", id);
    let (on_foo, on_bar) = (on("foo"), on("bar"));
    (app, on_foo, on_bar)
}

/// 2-32
#[tokio::test]
async fn what_is_said_of_a_group_is_given_back() {
    let (app, on_foo, _) = two_tenants().await;
    let domain = pb::Domain { domain_id: "example.com".into(), ..Default::default() };
    let domain = pb::CreateDomainRequest { domain: Some(domain), ..Default::default() };
    app.as_root().directory().create_domain(domain).await.unwrap();
    let north = json!({"reseller": {"reseller_id": "north"}});
    app.as_root().call("CreateReseller", north).await.unwrap();
    let said = pb::Group {
        user_limit: Some(10),
        user_count: Some(3),
        default_domain: Some("example.com".into()),
        cli_name: Some("Acme Brussels".into()),
        cli_phone_number: Some("+32 2 123 45 67".into()),
        location_dialing_code: Some("+322".into()),
        time_zone: Some("Europe/Brussels".into()),
        contact: Some(pb::Contact {
            name: "Jane".into(),
            phone_number: "123".into(),
            email: "jane@example.com".into(),
        }),
        address: Some(pb::Address {
            street_address: "Main street 1".into(),
            extended_address: "Floor 2".into(),
            locality: "Brussels".into(),
            region: "Brussels-Capital".into(),
            post_code: "1000".into(),
            country: "Belgium".into(),
        }),
        reseller_id: Some("north".into()),
        ..group("brussels")
    };

    let created = create(&on_foo, said.clone()).await.unwrap();
    let plain = create(&on_foo, pb::Group { name: Some(" Plain ".into()), ..Default::default() });
    let plain = plain.await.unwrap();

    assert!(created.create_time.is_some() && created.create_time == created.update_time);
    let expected = pb::Group {
        create_time: created.create_time,
        update_time: created.update_time,
        etag: created.etag.clone(),
        ..said
    };
    assert_eq!(created, expected);
    assert_eq!(get(&on_foo, "brussels").await.unwrap(), created);
    assert_eq!(plain.name(), "Plain");
    assert!(plain.group_id.starts_with("g-"), "{}", plain.group_id);
    assert_eq!((plain.user_limit, plain.user_count, plain.time_zone()), (None, Some(0), ""));
}

/// 2-32
#[tokio::test]
async fn a_group_belongs_to_one_tenant_and_its_id_and_name_are_unique_within_it() {
    let (_app, on_foo, on_bar) = two_tenants().await;
    create(&on_foo, group("one")).await.unwrap();
    create(&on_bar, pb::Group { user_limit: Some(7), ..group("one") }).await.unwrap();

    let same_id = pb::Group { name: Some("Other".into()), ..group("one") };
    let same_id = create(&on_foo, same_id).await.unwrap_err();
    let same_name = pb::Group { name: Some("Group one".into()), ..group("two") };
    let same_name = create(&on_foo, same_name).await.unwrap_err();
    create(&on_foo, group("two")).await.unwrap();
    let renamed = pb::Group { name: Some("Group one".into()), ..group("two") };
    let renamed = update(&on_foo, renamed, &[]).await.unwrap_err();
    delete(&on_foo, "one").await.unwrap();

    for refusal in [same_id, same_name, renamed] {
        assert_eq!(told(&refusal), "AlreadyExists GROUP_ALREADY_EXISTS");
    }
    let gone = get(&on_foo, "one").await.unwrap_err();
    assert_eq!(told(&gone), "NotFound GROUP_NOT_FOUND");
    assert_eq!(get(&on_bar, "one").await.unwrap().user_limit, Some(7));
    let gone = delete(&on_foo, "one").await.unwrap_err();
    assert_eq!(told(&gone), "NotFound GROUP_NOT_FOUND");
}

/// 2-32
#[tokio::test]
async fn a_group_has_no_more_users_than_its_limit() {
    let (app, on_foo, _) = two_tenants().await;
    let of = |limit: Option<i32>, users: Option<i32>| pb::Group {
        user_limit: limit,
        user_count: users,
        ..group("one")
    };
    for (limit, users, field) in [
        (Some(3), Some(4), "group.user_count"),
        (Some(-1), None, "group.user_limit"),
        (None, Some(-1), "group.user_count"),
    ] {
        let refusal = create(&on_foo, of(limit, users)).await.unwrap_err();
        assert_eq!(told(&refusal), "InvalidArgument INVALID_FIELD");
        assert_eq!(fields(&refusal), [field], "{limit:?} {users:?}");
    }
    create(&on_foo, of(Some(4), Some(4))).await.unwrap();

    let too_many = update(&on_foo, of(None, Some(5)), &["user_count"]).await.unwrap_err();
    let too_low = update(&on_foo, of(Some(3), None), &["user_limit"]).await.unwrap_err();
    update(&on_foo, of(Some(5), Some(5)), &["user_count", "user_limit"]).await.unwrap();
    let unlimited = update(&on_foo, of(None, Some(1_000)), &["user_count", "user_limit"]).await;

    assert_eq!(fields(&too_many), ["group.user_count"]);
    assert_eq!(fields(&too_low), ["group.user_limit"]);
    assert_eq!(unlimited.unwrap().user_limit, None);
    assert_eq!(count(&app, "select count(*) as number from tenant_groups").await, 1);
}

/// 2-32
#[tokio::test]
async fn everything_that_is_wrong_with_a_group_is_told_at_once() {
    let (app, on_foo, _) = two_tenants().await;
    let before = rows(&app).await;
    let wrong = pb::Group {
        group_id: "No Id".into(),
        name: Some(" ".into()),
        user_limit: Some(-1),
        default_domain: Some("-".into()),
        cli_name: Some("x".repeat(81)),
        cli_phone_number: Some("abc".into()),
        location_dialing_code: Some("12a".into()),
        time_zone: Some("Brussels".into()),
        contact: Some(pb::Contact { email: "at@".into(), ..Default::default() }),
        address: Some(pb::Address { post_code: "x".repeat(21), ..Default::default() }),
        reseller_id: Some("No Id".into()),
        ..Default::default()
    };

    let refusal = create(&on_foo, wrong).await.unwrap_err();
    let nowhere = pb::Group { default_domain: Some("nowhere.be".into()), ..group("one") };
    let nowhere = create(&on_foo, nowhere).await.unwrap_err();
    let nothing = on_foo.tenants().create_group(pb::CreateGroupRequest::default()).await;

    let mut named = fields(&refusal);
    named.sort();
    assert_eq!(
        named,
        [
            "group.address.post_code",
            "group.cli_name",
            "group.cli_phone_number",
            "group.contact.email",
            "group.default_domain",
            "group.group_id",
            "group.location_dialing_code",
            "group.name",
            "group.reseller_id",
            "group.time_zone",
            "group.user_limit",
        ]
    );
    assert_eq!(told(&nowhere), "NotFound DOMAIN_NOT_FOUND");
    assert_eq!(fields(&nothing.unwrap_err()), ["group"]);
    assert_eq!(rows(&app).await, before);
}

/// 2-32
#[tokio::test]
async fn an_update_changes_of_a_group_what_is_named_and_nothing_else() {
    let (_app, on_foo, _) = two_tenants().await;
    let stored = pb::Group {
        cli_name: Some("Acme".into()),
        contact: Some(pb::Contact {
            name: "Jane".into(),
            email: "j@x.be".into(),
            ..Default::default()
        }),
        ..group("one")
    };
    let stored = create(&on_foo, stored).await.unwrap();
    let id = |group: pb::Group| pb::Group { group_id: "one".into(), ..group };

    let same = update(
        &on_foo,
        id(pb::Group { cli_name: Some("Acme".into()), ..id(pb::Group::default()) }),
        &[],
    );
    let same = same.await.unwrap();
    let part = pb::Contact { email: "new@x.be".into(), ..Default::default() };
    let part = id(pb::Group { contact: Some(part), ..Default::default() });
    let part = update(&on_foo, part, &[]).await.unwrap();
    let cleared =
        update(&on_foo, id(pb::Group::default()), &["cli_name", "contact.name"]).await.unwrap();
    let whole = id(pb::Group { name: Some("All".into()), ..Default::default() });
    let whole = update(&on_foo, whole, &["*"]).await.unwrap();
    let unknown =
        update(&on_foo, id(pb::Group::default()), &["colour", "group_id"]).await.unwrap_err();
    let nameless = update(&on_foo, id(pb::Group::default()), &["name"]).await.unwrap_err();
    let stale = pb::Group {
        etag: stored.etag.clone(),
        cli_name: Some("X".into()),
        ..id(pb::Group::default())
    };
    let stale = update(&on_foo, stale, &[]).await.unwrap_err();

    assert_eq!(same, stored, "a change that changes nothing");
    let contact = part.contact.clone().unwrap();
    assert_eq!((&*contact.name, &*contact.email), ("Jane", "new@x.be"));
    assert_ne!(part.etag, stored.etag);
    assert_eq!((cleared.cli_name(), &*cleared.contact.as_ref().unwrap().name), ("", ""));
    assert_eq!((whole.name(), whole.contact.as_ref()), ("All", None));
    assert_eq!(told(&unknown), "InvalidArgument IMMUTABLE_FIELD");
    assert_eq!(fields(&nameless), ["group.name"]);
    assert_eq!(told(&stale), "Aborted ETAG_MISMATCH");
}

#[tokio::test]
async fn groups_are_listed_page_by_page_in_their_order() {
    let (_app, on_foo, on_bar) = two_tenants().await;
    for (id, name) in [("c", "Alpha"), ("b", "Beta"), ("a", "Gamma")] {
        create(&on_foo, pb::Group { name: Some(name.into()), ..group(id) }).await.unwrap();
    }
    create(&on_bar, group("elsewhere")).await.unwrap();
    let asked = |filter: &str, order_by: &str| pb::ListGroupsRequest {
        filter: filter.into(),
        order_by: order_by.into(),
        ..Default::default()
    };
    for (order_by, expected) in [
        ("", ["c", "b", "a"]),
        ("group_id", ["a", "b", "c"]),
        ("group_id desc", ["c", "b", "a"]),
        ("create_time", ["c", "b", "a"]),
        ("create_time desc", ["a", "b", "c"]),
        ("name desc", ["a", "b", "c"]),
    ] {
        let mut found = Vec::new();
        let mut page_token = String::new();
        loop {
            let page = pb::ListGroupsRequest { page_size: 1, page_token, ..asked("", order_by) };
            let (ids, next) = list(&on_foo, page).await.unwrap();
            found.extend(ids);
            if next.is_empty() {
                break;
            }
            page_token = next;
        }
        assert_eq!(found, expected, "{order_by}");
    }
    assert_eq!(list(&on_foo, asked("name:\"ETA\"", "")).await.unwrap().0, ["b"]);
    assert_eq!(list(&on_foo, asked("NOT group_id = b", "")).await.unwrap().0, ["c", "a"]);
    let none = list(&on_foo, asked("create_time < \"2020-01-01T00:00:00Z\"", "")).await.unwrap();
    assert_eq!(none.0, [""; 0]);
    let refusal = list(&on_foo, asked("", "colour")).await.unwrap_err();
    assert_eq!(told(&refusal), "InvalidArgument INVALID_FILTER");
}

#[tokio::test]
async fn what_a_tenant_owns_needs_a_tenant_of_the_call() {
    let (app, on_foo, _) = two_tenants().await;
    create(&on_foo, group("one")).await.unwrap();
    let own = app.as_key(&on_foo.create_key(&["tenant-admin"]).await);
    let weak = app.as_key(&on_foo.create_key(&["tenant-management"]).await);

    let without = get(&app.as_root(), "one").await.unwrap_err();
    let created = create(&own, group("two")).await;
    let refused = get(&weak, "one").await.unwrap_err();

    assert_eq!(told(&without), "InvalidArgument INVALID_METADATA");
    assert_eq!(fields(&without), ["x-tenant-id"]);
    created.unwrap();
    assert_eq!(get(&own, "one").await.unwrap().group_id, "one");
    assert_eq!(told(&refused), "PermissionDenied PERMISSION_MISSING");
}

/// 2-24
#[tokio::test]
async fn a_deleted_tenant_takes_no_groups() {
    let (app, on_foo, _) = two_tenants().await;
    app.as_root().delete("foo").await.unwrap();

    let refusal = create(&on_foo, group("one")).await.unwrap_err();
    app.as_root().undelete("foo").await.unwrap();
    create(&on_foo, group("one")).await.unwrap();

    assert_eq!(told(&refusal), "FailedPrecondition TENANT_NOT_ACTIVE");
}

/// 2-30
#[tokio::test]
async fn a_resellers_key_sees_its_own_groups_of_the_tenants_that_it_sees() {
    use diesel_async::SimpleAsyncConnection as _;
    let (app, on_foo, on_bar) = two_tenants().await;
    for id in ["north", "south"] {
        let reseller = json!({"reseller": {"reseller_id": id}});
        app.as_root().call("CreateReseller", reseller).await.unwrap();
    }
    for (caller, id, reseller) in [
        (&on_foo, "mine", "north"),
        (&on_foo, "theirs", "south"),
        (&on_foo, "free", ""),
        (&on_bar, "far", "north"),
    ] {
        let new = pb::Group { reseller_id: Some(reseller.into()), ..group(id) };
        create(caller, new).await.unwrap();
    }
    let mut superuser = app.superuser().await;
    superuser
        .batch_execute("update tenants set reseller_id = 'north' where tenant_id = 'foo'")
        .await
        .unwrap();
    let key = pb::ApiKey {
        roles: vec!["reseller".into()],
        reseller_id: "north".into(),
        ..Default::default()
    };
    let request = pb::CreateApiKeyRequest { api_key: Some(key), ..Default::default() };
    let key = app.as_root().with("x-account-id", "default").keys().create_api_key(request).await;
    let reseller = app.as_key(&key.unwrap().into_inner().secret).with("x-tenant-id", "foo");

    let (seen, _) = list(&reseller, pb::ListGroupsRequest::default()).await.unwrap();

    assert_eq!(seen, ["mine"]);
    get(&reseller, "mine").await.unwrap();
    for hidden in ["theirs", "free"] {
        let refusal = get(&reseller, hidden).await.unwrap_err();
        assert_eq!(told(&refusal), "NotFound GROUP_NOT_FOUND", "{hidden}");
    }
    let refusal = create(&reseller, group("new")).await.unwrap_err();
    assert_eq!(told(&refusal), "PermissionDenied PERMISSION_MISSING");
}

#[tokio::test]
async fn a_domain_that_a_group_has_is_not_deleted() {
    let (app, on_foo, _) = two_tenants().await;
    let domain = pb::Domain { domain_id: "example.com".into(), ..Default::default() };
    let domain = pb::CreateDomainRequest { domain: Some(domain), ..Default::default() };
    app.as_root().directory().create_domain(domain).await.unwrap();
    let with_domain = pb::Group { default_domain: Some("Example.COM".into()), ..group("one") };
    assert_eq!(create(&on_foo, with_domain).await.unwrap().default_domain(), "example.com");

    let request = pb::DeleteDomainRequest { domain_id: "example.com".into(), ..Default::default() };
    let refusal = app.as_root().directory().delete_domain(request).await.unwrap_err();

    assert_eq!(told(&refusal), "FailedPrecondition RECORD_IN_USE");
}

/// 2-24, 2-25, 2-26: a tenant with groups goes only with them, and without them comes back.
#[tokio::test]
async fn a_tenant_with_groups_is_deleted_with_them_or_not_at_all() {
    let (app, on_foo, _) = two_tenants().await;
    let root = app.as_root();
    for id in ["west", "east"] {
        create(&on_foo, group(id)).await.unwrap();
    }
    let deletes = |more: &str| {
        let mut request = json!({"tenant_id": "foo"});
        if !more.is_empty() {
            request[more] = true.into();
        }
        request
    };
    let before = rows(&app).await;

    let refused = root.call("DeleteTenant", deletes("")).await.unwrap_err();
    let mut preview = deletes("delete_even_if_non_empty");
    preview["validate_only"] = true.into();
    let preview = root.call("DeleteTenant", preview).await.unwrap();

    assert_eq!(told(&refused), "FailedPrecondition TENANT_NOT_EMPTY");
    assert_eq!(preview["deleted_group_ids"], json!(["east", "west"]));
    assert_eq!(rows(&app).await, before);
    let gone = root.call("DeleteTenant", deletes("delete_even_if_non_empty")).await.unwrap();
    assert_eq!(gone["deleted_group_ids"], json!(["east", "west"]));
    root.undelete("foo").await.unwrap();
    assert_eq!(list(&on_foo, pb::ListGroupsRequest::default()).await.unwrap().0, [""; 0]);
    let empty = root.call("DeleteTenant", deletes("delete_even_if_non_empty")).await.unwrap();
    assert!(empty.get("deleted_group_ids").is_none());
}

/// 2-24: a group is made in a tenant, or the tenant is deleted as empty; never both.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tenant_is_never_deleted_as_empty_from_around_a_new_group() {
    let app = App::start().await;
    let root = app.as_root();
    for round in 0..12 {
        let id = format!("t-{round}");
        root.create(tenant(&id)).await.unwrap();
        let on = root.with("x-tenant-id", &id);

        let (made, deleted) = tokio::join!(create(&on, group("one")), root.delete(&id));

        assert!(made.is_ok() != deleted.is_ok(), "{made:?} {deleted:?}");
    }
    let orphans = "select count(*) as number from tenant_groups g join tenants t on t.uid = g.tenant_uid \
                   where t.state = 'DELETED'";
    assert_eq!(count(&app, orphans).await, 0);
}
