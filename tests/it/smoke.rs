//! The first session, as the README shows it.

use crate::app::{App, fields, tenant, told};

#[tokio::test]
async fn a_tenant_is_created_found_changed_listed_deleted_and_brought_back() {
    let app = App::start().await;
    let root = app.as_root();

    root.create(tenant("foo")).await.unwrap();
    assert_eq!(root.get("foo").await.unwrap().name(), "Tenant foo");
    assert_eq!(root.list("name:\"TENANT\"", "").await.unwrap(), ["foo"]);
    root.delete("foo").await.unwrap();
    assert!(root.list("", "").await.unwrap().is_empty());
    root.undelete("foo").await.unwrap();
    assert_eq!(root.list("", "").await.unwrap(), ["foo"]);
}

#[tokio::test]
async fn a_refusal_has_its_code_its_reason_and_its_fields() {
    let app = App::start().await;

    let refusal = app.as_root().create(tenant("Not An Id")).await.unwrap_err();

    assert_eq!(told(&refusal), "InvalidArgument INVALID_FIELD");
    assert_eq!(fields(&refusal), ["tenant.tenant_id"]);
}
