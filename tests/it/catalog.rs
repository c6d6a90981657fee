//! What the directory keeps besides accounts, environments and domains: resellers, backends, products and
//! templates.

use serde_json::{Value, json};
use tonic::Status;

use crate::app::{App, Caller, fields, tenant, told};

/// One kind of record, and how to make and change one.
struct Kind {
    name: &'static str,
    plural: &'static str,
    /// The name of the record in requests.
    record: &'static str,
    id: &'static str,
    /// Besides the id.
    new: Value,
    changed: Value,
    not_found: &'static str,
    exists: &'static str,
    of_account: bool,
}

fn kinds() -> Vec<Kind> {
    vec![
        Kind {
            name: "Reseller",
            plural: "resellers",
            record: "reseller",
            id: "reseller_id",
            new: json!({"external_name": " North ", "extra_data": {"region": ["n", 1]}}),
            changed: json!({"external_name": "South"}),
            not_found: "NotFound RESELLER_NOT_FOUND",
            exists: "AlreadyExists RESELLER_ALREADY_EXISTS",
            of_account: true,
        },
        Kind {
            name: "Backend",
            plural: "backends",
            record: "backend",
            id: "backend_id",
            new: json!({"external_name": "AS one"}),
            changed: json!({"external_name": "AS two"}),
            not_found: "NotFound BACKEND_NOT_FOUND",
            exists: "AlreadyExists BACKEND_ALREADY_EXISTS",
            of_account: false,
        },
        Kind {
            name: "Product",
            plural: "products",
            record: "product",
            id: "product_code",
            new: json!({"name": "Phones", "packages": [{"package_code": "BASIC", "name": "Basic"}]}),
            changed: json!({"name": "Telephones"}),
            not_found: "NotFound PRODUCT_OR_PACKAGE_UNKNOWN",
            exists: "AlreadyExists PRODUCT_ALREADY_EXISTS",
            of_account: true,
        },
        Kind {
            name: "TenantTemplate",
            plural: "tenant_templates",
            record: "tenant_template",
            id: "template_id",
            new: json!({"defaults": {"tag": "gold", "contact": {"name": "Desk"}}}),
            changed: json!({"defaults": {"tag": "silver"}}),
            not_found: "NotFound TEMPLATE_NOT_FOUND",
            exists: "AlreadyExists TEMPLATE_ALREADY_EXISTS",
            of_account: true,
        },
    ]
}

impl Kind {
    fn with_id(&self, id: &str, more: &Value) -> Value {
        let mut record = more.clone();
        record[self.id] = id.into();
        json!({ self.record: record })
    }

    async fn create(&self, caller: &Caller, id: &str) -> Result<Value, Status> {
        let request = self.with_id(id, &self.new);
        Ok(caller.call(&format!("Create{}", self.name), request).await?[self.record].take())
    }

    async fn update(&self, caller: &Caller, id: &str, etag: &str) -> Result<Value, Status> {
        let mut request = self.with_id(id, &self.changed);
        request["etag"] = etag.into();
        Ok(caller.call(&format!("Update{}", self.name), request).await?[self.record].take())
    }

    async fn get(&self, caller: &Caller, id: &str) -> Result<Value, Status> {
        let method = format!("Get{}", self.name);
        Ok(caller.call(&method, json!({ self.id: id })).await?[self.record].take())
    }

    async fn delete(&self, caller: &Caller, id: &str) -> Result<Value, Status> {
        caller.call(&format!("Delete{}", self.name), json!({ self.id: id })).await
    }

    async fn list(&self, caller: &Caller, request: Value) -> (Vec<String>, String) {
        let answer = caller.call(&format!("List{}s", self.name), request).await.unwrap();
        let ids = answer.get(self.plural).and_then(Value::as_array).cloned().unwrap_or_default();
        let id = |record: &Value| record[self.id].as_str().unwrap().to_owned();
        let token = answer.get("next_page_token").and_then(Value::as_str).unwrap_or_default();
        (ids.iter().map(id).collect(), token.to_owned())
    }
}

/// 2-31, 2-20, 1-51, 2-18: each kind of record is made once, read, changed, listed and deleted.
#[tokio::test]
async fn a_record_is_made_read_changed_listed_and_deleted() {
    let app = App::start().await;
    let root = app.as_root();
    for kind in kinds() {
        let name = kind.name;
        let made = kind.create(&root, "abcd").await.unwrap();
        assert_eq!(kind.get(&root, "abcd").await.unwrap(), made, "{name}");
        assert_eq!(made.get("account_id").is_some(), kind.of_account, "{name}");
        let again = kind.create(&root, "abcd").await.unwrap_err();
        assert_eq!(told(&again), kind.exists);

        let etag = made["etag"].as_str().unwrap();
        let changed = kind.update(&root, "abcd", etag).await.unwrap();
        let stale = kind.update(&root, "abcd", etag).await.unwrap_err();
        assert_ne!(changed["etag"], made["etag"], "{name}");
        assert_eq!(told(&stale), "Aborted ETAG_MISMATCH", "{name}");
        for (field, value) in kind.changed.as_object().unwrap() {
            assert_eq!(&changed[field], value, "{name}.{field}");
        }
        let same = kind.update(&root, "abcd", "").await.unwrap();
        assert_eq!(same, changed, "{name}: nothing changed");

        assert_eq!(told(&kind.get(&root, "nobody").await.unwrap_err()), kind.not_found);
        assert_eq!(told(&kind.update(&root, "nobody", "").await.unwrap_err()), kind.not_found);
        assert_eq!(told(&kind.delete(&root, "nobody").await.unwrap_err()), kind.not_found);
        for wrong in ["", "a b", "\0", "ä"] {
            let refusal = kind.create(&root, wrong).await.unwrap_err();
            assert_eq!(fields(&refusal), [format!("{}.{}", kind.record, kind.id)], "{name}");
        }
        let masked = json!({ kind.record: { kind.id: "abcd" }, "update_mask": "colour" });
        let masked = root.call(&format!("Update{name}"), masked).await.unwrap_err();
        assert_eq!(told(&masked), "InvalidArgument IMMUTABLE_FIELD", "{name}");
        kind.delete(&root, "abcd").await.unwrap();
        assert_eq!(told(&kind.get(&root, "abcd").await.unwrap_err()), kind.not_found);
    }
}

/// Pages of any size make up the list, in each order, both ways.
#[tokio::test]
async fn lists_come_page_by_page_in_their_order() {
    let app = App::start().await;
    let root = app.as_root();
    for kind in kinds() {
        for id in ["delta", "alfa", "echo", "bravo"] {
            let mut request = kind.with_id(id, &kind.new);
            if kind.name == "Backend" {
                request["backend"]["external_name"] = format!("AS {id}").into();
            }
            root.call(&format!("Create{}", kind.name), request).await.unwrap();
        }
        for (order, expected) in [
            (kind.id.to_owned(), ["alfa", "bravo", "delta", "echo"]),
            (format!("{} desc", kind.id), ["echo", "delta", "bravo", "alfa"]),
            ("create_time".to_owned(), ["delta", "alfa", "echo", "bravo"]),
        ] {
            let mut all = Vec::new();
            let mut token = String::new();
            loop {
                let request = json!({"page_size": 1, "page_token": token, "order_by": order});
                let (ids, next) = kind.list(&root, request).await;
                all.extend(ids);
                if next.is_empty() {
                    break;
                }
                token = next;
            }
            assert_eq!(all, expected, "{} by {order}", kind.name);
        }
        let filter = format!("NOT {} = \"alfa\" AND {}:\"L\"", kind.id, kind.id);
        let (found, _) = kind.list(&root, json!({"filter": filter})).await;
        assert_eq!(found, ["delta"], "{}", kind.name);
    }
}

/// What an account keeps is its own: others do not see it, and the same id is free for them.
#[tokio::test]
async fn what_an_account_keeps_is_its_own() {
    let app = App::start().await;
    let (ours, theirs) = (app.account("ours").await, app.account("theirs").await);
    let root = app.as_root();
    theirs.create(tenant("foo")).await.unwrap();
    let key = root.with("x-tenant-id", "foo").create_key(&["auditor"]).await;
    let of_tenant = app.as_key(&key);
    for kind in kinds().into_iter().filter(|kind| kind.of_account) {
        let name = kind.name;
        kind.create(&theirs, "abcd").await.unwrap();

        assert_eq!(told(&kind.get(&ours, "abcd").await.unwrap_err()), kind.not_found, "{name}");
        assert_eq!(told(&kind.update(&ours, "abcd", "").await.unwrap_err()), kind.not_found);
        assert_eq!(told(&kind.delete(&ours, "abcd").await.unwrap_err()), kind.not_found);
        assert_eq!(kind.list(&ours, json!({})).await.0, [""; 0], "{name}");
        let named = json!({ kind.id: "abcd", "account_id": "theirs" });
        let named = ours.call(&format!("Get{name}"), named).await.unwrap_err();
        assert_eq!(told(&named), "PermissionDenied TENANT_MISMATCH", "{name}");
        kind.create(&ours, "abcd").await.unwrap();
        kind.delete(&ours, "abcd").await.unwrap();
        kind.get(&theirs, "abcd").await.unwrap();
        assert_eq!(kind.list(&of_tenant, json!({})).await.0, ["abcd"], "{name}");
        let write = kind.delete(&of_tenant, "abcd").await.unwrap_err();
        assert_eq!(told(&write), "PermissionDenied PERMISSION_MISSING", "{name}");
    }
}

/// 2-28: backends are the system's, and nobody else's business.
#[tokio::test]
async fn backends_are_seen_by_keys_of_the_system_only() {
    let app = App::start().await;
    let admin = app.account("acme").await;
    let kind = kinds().into_iter().find(|kind| kind.name == "Backend").unwrap();
    kind.create(&app.as_root(), "one").await.unwrap();

    for refusal in [
        kind.get(&admin, "one").await.unwrap_err(),
        kind.create(&admin, "two").await.unwrap_err(),
        admin.call("ListBackends", json!({})).await.unwrap_err(),
    ] {
        assert_eq!(told(&refusal), "PermissionDenied PERMISSION_MISSING");
    }
    let taken = json!({"backend": {"backend_id": "two", "external_name": "AS one"}});
    let taken = app.as_root().call("CreateBackend", taken).await.unwrap_err();
    assert_eq!(told(&taken), "AlreadyExists BACKEND_ALREADY_EXISTS");
    assert!(taken.message().contains("external_name"), "{}", taken.message());
}

/// 1-51, 1-21: packages belong to their product, by codes of their own, and are replaced as a whole.
#[tokio::test]
async fn the_packages_of_a_product_are_replaced_as_a_whole() {
    let app = App::start().await;
    let root = app.as_root();
    let product = |packages: Value| json!({"product": {"product_code": "PHONE", "name": "Phones", "packages": packages}});
    let named = |code: &str| json!({"package_code": code, "name": code});
    let made = root
        .call("CreateProduct", product(json!([named("PHONE_BASIC"), named("GOLD")])))
        .await
        .unwrap();
    let replaced = root
        .call("UpdateProduct", product(json!([named("SILVER"), named("BASIC")])))
        .await
        .unwrap();

    let codes = |answer: &Value| {
        let packages = answer["product"]["packages"].as_array().unwrap();
        packages.iter().map(|package| package["package_code"].clone()).collect::<Vec<_>>()
    };
    assert_eq!(codes(&made), ["BASIC", "GOLD"]);
    assert_eq!(codes(&replaced), ["SILVER", "BASIC"]);
    for (packages, field) in [
        (json!([named("abc")]), "product.packages[0].package_code"),
        (json!([named("GOLD"), named("PHONE_GOLD")]), "product.packages[1].package_code"),
        (json!([{"package_code": "GOLD"}]), "product.packages[0].name"),
    ] {
        let refusal = root.call("UpdateProduct", product(packages)).await.unwrap_err();
        assert_eq!(fields(&refusal), [field]);
    }
    let many = (0..101).map(|number| named(&format!("P{number:04}"))).collect::<Vec<_>>();
    let many = root.call("UpdateProduct", product(json!(many))).await.unwrap_err();
    assert_eq!(fields(&many), ["product.packages"]);
    let mut all = product(json!([]));
    all["update_mask"] = "packages".into();
    let none = root.call("UpdateProduct", all).await.unwrap();
    assert!(none["product"].get("packages").is_none());
}

/// 2-18: a template gives what is neither identity nor place, and is for tenants.
#[tokio::test]
async fn a_template_sets_nothing_but_defaults() {
    let app = App::start().await;
    let root = app.as_root();
    let template =
        |defaults: Value| json!({"tenant_template": {"template_id": "gold", "defaults": defaults}});
    for defaults in [
        json!({"tenant_id": "foo"}),
        json!({"name": "Foo"}),
        json!({"hostname": "foo.example.com"}),
        json!({"protected": true}),
        json!({"type": "TENANT_TYPE_CLIENT"}),
    ] {
        let refusal = root.call("CreateTenantTemplate", template(defaults)).await.unwrap_err();
        assert_eq!(fields(&refusal), ["tenant_template.defaults"]);
    }
    let wrong = template(json!({"support_email": "nowhere", "tag": "x".repeat(81)}));
    let wrong = root.call("CreateTenantTemplate", wrong).await.unwrap_err();
    let prefix = "tenant_template.defaults";
    assert_eq!(fields(&wrong), [format!("{prefix}.tag"), format!("{prefix}.support_email")]);
    let mut category = template(json!({}));
    category["tenant_template"]["category"] = "group".into();
    let category = root.call("CreateTenantTemplate", category).await.unwrap_err();
    assert_eq!(fields(&category), ["tenant_template.category"]);
}

/// 2-18: what the request leaves out comes from the template, and what it says wins.
#[tokio::test]
async fn a_new_tenant_has_what_its_template_gives_and_its_request_leaves_out() {
    let app = App::start().await;
    let root = app.as_root();
    let defaults = json!({"description": "from gold", "tag": "gold", "contract_mode":
        "CONTRACT_MODE_TRIAL", "contact": {"name": "Desk"}, "labels": {"tier": "gold"}});
    let template = json!({"tenant_template": {"template_id": "gold", "defaults": defaults}});
    root.call("CreateTenantTemplate", template).await.unwrap();
    let new = |template: &str| {
        json!({"template_id": template, "tenant": {"tenant_id": "foo", "name": "Foo", "tag": "own",
            "type": "TENANT_TYPE_PRODUCT", "organization_kind": "ORGANIZATION_KIND_ENTERPRISE"}})
    };

    let unknown = root.call("CreateTenant", new("silver")).await.unwrap_err();
    let malformed = root.call("CreateTenant", new("No Id")).await.unwrap_err();
    let without = root.call("CreateTenant", new("")).await.unwrap_err();
    let made = root.call("CreateTenant", new("gold")).await.unwrap();

    assert_eq!(told(&unknown), "NotFound TEMPLATE_NOT_FOUND");
    assert_eq!(fields(&malformed), ["template_id"]);
    assert_eq!(fields(&without), ["tenant.description"], "a template may give what is required");
    let tenant = &made["tenant"];
    assert_eq!((&tenant["tag"], &tenant["description"]), (&json!("own"), &json!("from gold")));
    assert_eq!(tenant["contract_mode"], "CONTRACT_MODE_TRIAL");
    assert_eq!(tenant["contact"], json!({"name": "Desk"}));
    assert_eq!(tenant["labels"], json!({"tier": "gold"}));
    root.call("DeleteTenantTemplate", json!({"template_id": "gold"})).await.unwrap();
    assert_eq!(root.get("foo").await.unwrap().tag(), "own");
}
