//! On which backend a tenant is placed, and who may say and see so.

use serde_json::{Value, json};
use tonic::Status;

use crate::app::{App, Caller, count, fields, tenant, told};

/// A Tenantry with the backends `one` to `three`, and a key that places tenants on the first two.
async fn start(lists_tell: bool) -> (App, Caller, Caller) {
    let app = App::start_with(|settings| settings.list.return_backend = lists_tell).await;
    let root = app.as_root();
    for id in ["one", "two", "three"] {
        let backend = json!({"backend": {"backend_id": id, "external_name": format!("AS {id}")}});
        root.call("CreateBackend", backend).await.unwrap();
    }
    let key = json!({"api_key": {"roles": ["multi-backend-admin"], "backend_ids": ["two", "one", "two"]}});
    let key = root.call("CreateApiKey", key).await.unwrap();
    assert_eq!(key["api_key"]["backend_ids"], json!(["one", "two"]));
    let placer = app.as_key(key["secret"].as_str().unwrap());
    root.create(tenant("foo")).await.unwrap();
    (app, root, placer)
}

async fn place(caller: &Caller, id: &str, backend: &str) -> Result<Value, Status> {
    let request = json!({"tenant": {"tenant_id": id, "backend_id": backend}});
    Ok(caller.call("UpdateTenant", request).await?["tenant"].clone())
}

async fn place_by_name(caller: &Caller, id: &str, name: &str) -> Result<Value, Status> {
    let request = json!({"tenant": {"tenant_id": id}, "backend_external_name": name});
    Ok(caller.call("UpdateTenant", request).await?["tenant"].clone())
}

/// 2-20, 2-21
#[tokio::test]
async fn a_tenant_is_placed_by_id_or_else_by_external_name() {
    let (app, root, placer) = start(false).await;

    assert_eq!(place(&placer, "foo", "one").await.unwrap()["backend_id"], "one");
    assert_eq!(place_by_name(&placer, "foo", "AS two").await.unwrap()["backend_id"], "two");
    let both = json!({
        "tenant": {"tenant_id": "foo", "backend_id": "one"}, "backend_external_name": "AS two",
    });
    let both = placer.call("UpdateTenant", both).await.unwrap();
    assert_eq!(both["tenant"]["backend_id"], "one");
    // Whichever account a key of the system acts on.
    let in_account = root.with("x-account-id", "default");
    assert_eq!(place_by_name(&in_account, "foo", "AS three").await.unwrap()["backend_id"], "three");
    // All but where it is placed, unless that is said too.
    let all = json!({
        "tenant": {"tenant_id": "foo", "name": "Foo"}, "update_mask": "*",
    });
    assert_eq!(root.call("UpdateTenant", all).await.unwrap()["tenant"]["backend_id"], "three");
    let nowhere = place(&root, "foo", "").await.unwrap();
    assert_eq!(nowhere["backend_id"], Value::Null);
    let new = json!({"tenant": {
        "tenant_id": "bar", "name": "bar", "description": "", "type": "TENANT_TYPE_PRODUCT",
        "organization_kind": "ORGANIZATION_KIND_ENTERPRISE", "backend_id": "two",
    }});
    assert_eq!(root.call("CreateTenant", new).await.unwrap()["tenant"]["backend_id"], "two");
    assert_eq!(
        count(
            &app,
            "select count(*) as number from events where type = 'tenant.placed' \
            and account_id is null and tenant_uid is null"
        )
        .await,
        6
    );
}

/// 2-22: 58 of the telephony platform.
#[tokio::test]
async fn who_may_not_place_tenants_may_not_name_a_backend() {
    let (app, root, _) = start(false).await;
    let admin = root.with("x-account-id", "default").create_key(&["account-admin"]).await;
    let own = root.with("x-tenant-id", "foo").create_key(&["tenant-admin"]).await;
    let refused = "PermissionDenied UNAUTHORIZED_PARAMETER_FOR_USER_LEVEL";

    for key in [admin.clone(), own] {
        let caller = app.as_key(&key);
        assert_eq!(told(&place(&caller, "foo", "one").await.unwrap_err()), refused);
        assert_eq!(told(&place(&caller, "foo", "none").await.unwrap_err()), refused);
        assert_eq!(told(&place_by_name(&caller, "foo", "AS one").await.unwrap_err()), refused);
        let mask = json!({"tenant": {"tenant_id": "foo"}, "update_mask": "backendId"});
        assert_eq!(told(&caller.call("UpdateTenant", mask).await.unwrap_err()), refused);
    }
    let new = json!({"tenant": {"tenant_id": "bar", "backend_id": "one"}});
    let create = app.as_key(&admin).call("CreateTenant", new).await.unwrap_err();
    assert_eq!(told(&create), refused);
    let filter = json!({"filter": "backend_id = one"});
    let filter = app.as_key(&admin).call("ListTenants", filter).await.unwrap_err();
    assert_eq!(told(&filter), refused);
}

/// 2-23: 61 of the telephony platform.
#[tokio::test]
async fn a_key_places_tenants_between_its_own_backends_only() {
    let (_app, root, placer) = start(false).await;
    let refused = "FailedPrecondition NO_BACKEND_AVAILABLE";

    // To one that is not its own, and to one that there is not: the same.
    assert_eq!(told(&place(&placer, "foo", "three").await.unwrap_err()), refused);
    assert_eq!(told(&place(&placer, "foo", "none").await.unwrap_err()), refused);
    assert_eq!(told(&place(&root, "foo", "none").await.unwrap_err()), refused);
    assert_eq!(told(&place_by_name(&placer, "foo", "AS three").await.unwrap_err()), refused);
    assert_eq!(told(&place_by_name(&placer, "foo", "no such").await.unwrap_err()), refused);
    // From one that is not its own.
    place(&root, "foo", "three").await.unwrap();
    assert_eq!(told(&place(&placer, "foo", "one").await.unwrap_err()), refused);
    assert_eq!(told(&place(&placer, "foo", "").await.unwrap_err()), refused);
    // To where it is already: that nothing would change does not make it a place of this key's.
    assert_eq!(told(&place(&placer, "foo", "three").await.unwrap_err()), refused);
    assert_eq!(told(&place_by_name(&placer, "foo", "AS three").await.unwrap_err()), refused);
    assert_eq!(place(&root, "foo", "three").await.unwrap()["backend_id"], "three");
    place(&root, "foo", "two").await.unwrap();
    assert_eq!(place(&placer, "foo", "two").await.unwrap()["backend_id"], "two");
    assert_eq!(place_by_name(&placer, "foo", "AS two").await.unwrap()["backend_id"], "two");
}

/// 2-22: the role is for placing tenants.
#[tokio::test]
async fn a_key_that_places_tenants_changes_nothing_else_of_them() {
    let (_app, root, placer) = start(false).await;

    let name = json!({"tenant": {"tenant_id": "foo", "name": "X", "backend_id": "one"}});
    let name = placer.call("UpdateTenant", name).await.unwrap_err();
    let labels = json!({"tenant": {"tenant_id": "foo", "external_ids": {"a": "b"}}});
    let labels = placer.call("UpdateTenant", labels).await.unwrap_err();
    let promote = placer.call("PromoteTenant", json!({"tenant_id": "foo"})).await.unwrap_err();

    for refused in [name, labels, promote] {
        assert_eq!(told(&refused), "PermissionDenied PERMISSION_MISSING");
    }
    let named = json!({"api_key": {"roles": ["multi-backend-admin"]}});
    let unnamed = root.call("CreateApiKey", named).await.unwrap_err();
    let other = json!({"api_key": {"roles": ["auditor"], "backend_ids": ["one"]}});
    let other = root.call("CreateApiKey", other).await.unwrap_err();
    let unknown = json!({"api_key": {"roles": ["multi-backend-admin"], "backend_ids": ["none"]}});
    let unknown = root.call("CreateApiKey", unknown).await.unwrap_err();
    assert_eq!(fields(&unnamed), ["api_key.backend_ids"]);
    assert_eq!(fields(&other), ["api_key.backend_ids"]);
    assert_eq!(told(&unknown), "NotFound BACKEND_NOT_FOUND");
}

/// 2-28, 2-29
#[tokio::test]
async fn where_tenants_are_placed_is_told_to_those_who_place_them() {
    let (app, root, placer) = start(true).await;
    place(&root, "foo", "one").await.unwrap();
    let admin = root.with("x-account-id", "default").create_key(&["account-admin"]).await;
    let admin = app.as_key(&admin);
    let listed = async |caller: &Caller, filter: &str| {
        let answer = caller.call("ListTenants", json!({"filter": filter})).await.unwrap();
        answer["tenants"][0]["backend_id"].as_str().map(str::to_owned)
    };

    assert_eq!(listed(&placer, "").await.as_deref(), Some("one"));
    assert_eq!(listed(&root, "backend_id = one").await.as_deref(), Some("one"));
    assert_eq!(listed(&root, "backend_external_name:\"as O\"").await.as_deref(), Some("one"));
    assert_eq!(listed(&root, "backend_id = two").await, None);
    assert_eq!(listed(&root.with("x-account-id", "default"), "").await, None);
    assert_eq!(listed(&admin, "").await, None);
    let get = json!({"tenant_id": "foo"});
    assert_eq!(placer.call("GetTenant", get.clone()).await.unwrap()["tenant"]["backend_id"], "one");
    assert_eq!(admin.call("GetTenant", get).await.unwrap()["tenant"]["backend_id"], Value::Null);
    // Unless the operator has lists tell it, they do not.
    let (_app, root, placer) = start(false).await;
    place(&root, "foo", "one").await.unwrap();
    assert_eq!(listed(&placer, "").await, None);
    assert_eq!(root.list("backend_id = one", "").await.unwrap(), ["foo"]);
}

/// 2-20: no tenant and no key is left pointing at nothing.
#[tokio::test]
async fn a_backend_stays_while_tenants_are_on_it_or_keys_place_on_it() {
    let (_app, root, placer) = start(false).await;
    place(&root, "foo", "three").await.unwrap();
    let delete = async |id| root.call("DeleteBackend", json!({"backend_id": id})).await;

    assert_eq!(told(&delete("three").await.unwrap_err()), "FailedPrecondition RECORD_IN_USE");
    assert_eq!(told(&delete("two").await.unwrap_err()), "FailedPrecondition RECORD_IN_USE");

    place(&root, "foo", "").await.unwrap();
    delete("three").await.unwrap();
    let key = placer.call("WhoAmI", json!({})).await.unwrap()["api_key"]["api_key_id"].clone();
    root.call("RevokeApiKey", json!({"api_key_id": key, "reason": "done"})).await.unwrap();
    delete("two").await.unwrap();
}
