//! What tenants point at: accounts, environments and domains.

use serde_json::json;
use tenantry::pb;
use tonic::Status;

use crate::app::{App, Caller, fields, product, tenant, told};

async fn create_account(caller: &Caller, id: &str, name: &str) -> Result<pb::Account, Status> {
    let account =
        pb::Account { account_id: id.into(), name: Some(name.into()), ..Default::default() };
    let request = pb::CreateAccountRequest { account: Some(account), ..Default::default() };
    Ok(caller.directory().create_account(request).await?.into_inner().account.unwrap())
}

async fn get_account(caller: &Caller, id: &str) -> Result<pb::Account, Status> {
    let request = pb::GetAccountRequest { account_id: id.into() };
    Ok(caller.directory().get_account(request).await?.into_inner().account.unwrap())
}

async fn delete_account(caller: &Caller, id: &str) -> Result<(), Status> {
    let request = pb::DeleteAccountRequest { account_id: id.into(), ..Default::default() };
    caller.directory().delete_account(request).await.map(drop)
}

async fn accounts(caller: &Caller, filter: &str) -> Vec<String> {
    let request = pb::ListAccountsRequest { filter: filter.into(), ..Default::default() };
    let answer = caller.directory().list_accounts(request).await.unwrap().into_inner();
    answer.accounts.into_iter().map(|account| account.account_id).collect()
}

async fn environments(caller: &Caller) -> Vec<String> {
    let request = pb::ListEnvironmentsRequest::default();
    let answer = caller.directory().list_environments(request).await.unwrap().into_inner();
    answer.environments.into_iter().map(|environment| environment.environment_id).collect()
}

fn environment(id: &str, position: Option<i32>) -> pb::CreateEnvironmentRequest {
    pb::CreateEnvironmentRequest {
        environment: Some(pb::Environment {
            environment_id: id.into(),
            name: Some(id.to_uppercase()),
            position,
            ..Default::default()
        }),
        ..Default::default()
    }
}

async fn create_domain(caller: &Caller, id: &str) -> Result<pb::Domain, Status> {
    let domain = pb::Domain { domain_id: id.into(), ..Default::default() };
    let request = pb::CreateDomainRequest { domain: Some(domain), ..Default::default() };
    Ok(caller.directory().create_domain(request).await?.into_inner().domain.unwrap())
}

async fn domains(caller: &Caller) -> Vec<String> {
    let request = pb::ListDomainsRequest::default();
    let answer = caller.directory().list_domains(request).await.unwrap().into_inner();
    answer.domains.into_iter().map(|domain| domain.domain_id).collect()
}

#[tokio::test]
async fn an_account_is_made_found_renamed_and_deleted() {
    let app = App::start().await;
    let root = app.as_root();
    assert_eq!(accounts(&root, "").await, ["default"], "there from the start");

    let made = create_account(&root, "acme", "  Acme  ").await.unwrap();
    let taken = create_account(&root, "acme", "Other").await.unwrap_err();
    let renamed = pb::UpdateAccountRequest {
        account: Some(pb::Account {
            account_id: "acme".into(),
            name: Some("Acme Inc.".into()),
            etag: made.etag.clone(),
            ..Default::default()
        }),
        ..Default::default()
    };
    let renamed_once = root.directory().update_account(renamed.clone()).await.unwrap();
    let stale = root.directory().update_account(renamed).await.unwrap_err();

    assert_eq!(made.name(), "Acme");
    assert_eq!(told(&taken), "AlreadyExists ACCOUNT_ALREADY_EXISTS");
    assert_eq!(renamed_once.into_inner().account.unwrap().name(), "Acme Inc.");
    assert_eq!(told(&stale), "Aborted ETAG_MISMATCH");
    assert_eq!(get_account(&root, "acme").await.unwrap().name(), "Acme Inc.");
    assert_eq!(accounts(&root, "name:\"ACME\"").await, ["acme"]);
    delete_account(&root, "acme").await.unwrap();
    assert_eq!(told(&get_account(&root, "acme").await.unwrap_err()), "NotFound ACCOUNT_NOT_FOUND");
}

/// Metadata that disagrees with the request is refused, and narrows a key of the system (4-01, 4-03).
#[tokio::test]
async fn the_account_of_the_call_is_the_only_one_that_it_reaches() {
    let app = App::start().await;
    let root = app.as_root();
    create_account(&root, "acme", "Acme").await.unwrap();
    let acme = root.with("x-account-id", "acme");

    assert_eq!(accounts(&acme, "").await, ["acme"]);
    assert_eq!(get_account(&acme, "").await.unwrap().account_id, "acme");
    let read = get_account(&acme, "default").await.unwrap_err();
    let deleted = delete_account(&acme, "default").await.unwrap_err();
    let request = pb::UpdateAccountRequest {
        account: Some(pb::Account {
            account_id: "default".into(),
            name: Some("Mine".into()),
            ..Default::default()
        }),
        ..Default::default()
    };
    let renamed = acme.directory().update_account(request).await.unwrap_err();

    for refusal in [read, deleted, renamed] {
        assert_eq!(told(&refusal), "PermissionDenied TENANT_MISMATCH");
    }
}

#[tokio::test]
async fn an_account_in_use_stays() {
    let app = App::start().await;
    let root = app.as_root();
    create_account(&root, "with-tenant", "T").await.unwrap();
    create_account(&root, "with-key", "K").await.unwrap();
    root.with("x-account-id", "with-tenant").create(tenant("foo")).await.unwrap();
    root.with("x-account-id", "with-key").create_key(&["account-admin"]).await;
    for (id, method, record) in [
        ("with-reseller", "CreateReseller", json!({"reseller": {"reseller_id": "north"}})),
        ("with-product", "CreateProduct", product()),
        (
            "with-template",
            "CreateTenantTemplate",
            json!({"tenant_template": {"template_id": "small", "defaults": {"tag": "small"}}}),
        ),
    ] {
        create_account(&root, id, "A").await.unwrap();
        root.with("x-account-id", id).call(method, record).await.unwrap();
    }

    for id in ["with-tenant", "with-key", "with-reseller", "with-product", "with-template"] {
        let refusal = delete_account(&root, id).await.unwrap_err();

        assert_eq!(told(&refusal), "FailedPrecondition RECORD_IN_USE");
        get_account(&root, id).await.unwrap();
    }
}

#[tokio::test]
async fn an_account_sees_and_renames_itself_and_no_other() {
    let app = App::start().await;
    let root = app.as_root();
    let acme = app.account("acme").await;
    create_account(&root, "other", "Other").await.unwrap();

    assert_eq!(accounts(&acme, "").await, ["acme"]);
    assert_eq!(get_account(&acme, "").await.unwrap().account_id, "acme");
    assert_eq!(told(&get_account(&acme, "other").await.unwrap_err()), "NotFound ACCOUNT_NOT_FOUND");
    let rename = |id: &str| pb::UpdateAccountRequest {
        account: Some(pb::Account {
            account_id: id.into(),
            name: Some("New".into()),
            ..Default::default()
        }),
        ..Default::default()
    };
    acme.directory().update_account(rename("")).await.unwrap();
    let refusal = acme.directory().update_account(rename("other")).await.unwrap_err();
    assert_eq!(told(&refusal), "NotFound ACCOUNT_NOT_FOUND");
    for refusal in [
        create_account(&acme, "third", "T").await.unwrap_err(),
        delete_account(&acme, "acme").await.unwrap_err(),
    ] {
        assert_eq!(told(&refusal), "PermissionDenied PERMISSION_MISSING");
    }
}

/// 0-01, 1-33: an ordered set, there from the start.
#[tokio::test]
async fn environments_are_an_ordered_set_with_three_to_begin_with() {
    let app = App::start().await;
    let root = app.as_root();
    assert_eq!(environments(&root).await, ["sod", "stage", "production"]);

    root.directory().create_environment(environment("last", None)).await.unwrap();
    root.directory().create_environment(environment("first", Some(0))).await.unwrap();
    let taken = root.directory().create_environment(environment("sod", None)).await.unwrap_err();
    let all = environments(&root).await;
    let request = pb::UpdateEnvironmentRequest {
        environment: Some(pb::Environment {
            environment_id: "last".into(),
            position: Some(1),
            ..Default::default()
        }),
        ..Default::default()
    };
    let moved = root.directory().update_environment(request).await.unwrap().into_inner();
    let request = pb::GetEnvironmentRequest { environment_id: "moon".into() };
    let unknown = root.directory().get_environment(request).await.unwrap_err();

    assert_eq!(told(&taken), "AlreadyExists ENVIRONMENT_ALREADY_EXISTS");
    assert_eq!(all, ["first", "sod", "stage", "production", "last"]);
    assert_eq!(moved.environment.unwrap().name(), "LAST", "only its place");
    assert_eq!(environments(&root).await[..2], ["first", "last"]);
    assert_eq!(told(&unknown), "NotFound ENVIRONMENT_NOT_FOUND");
}

#[tokio::test]
async fn an_environment_that_keys_are_bound_to_stays() {
    let app = App::start().await;
    let root = app.as_root();
    let key = pb::ApiKey {
        roles: vec!["auditor".into()],
        environment: "sod".into(),
        ..Default::default()
    };
    let request = pb::CreateApiKeyRequest { api_key: Some(key), ..Default::default() };
    root.keys().create_api_key(request).await.unwrap();
    let delete =
        |id: &str| pb::DeleteEnvironmentRequest { environment_id: id.into(), ..Default::default() };

    let bound = root.directory().delete_environment(delete("sod")).await.unwrap_err();
    root.directory().delete_environment(delete("stage")).await.unwrap();

    assert_eq!(told(&bound), "FailedPrecondition RECORD_IN_USE");
    assert_eq!(environments(&root).await, ["sod", "production"]);
}

/// 2-05: a domain is a DNS name of up to 80 characters.
#[tokio::test]
async fn a_domain_is_made_found_and_deleted_unless_a_tenant_has_it() {
    let app = App::start().await;
    let root = app.as_root();
    let too_long = format!("{}.be", ["a".repeat(39), "b".repeat(39)].join("."));

    assert_eq!(create_domain(&root, "NetAxis.BE").await.unwrap().domain_id, "netaxis.be");
    let taken = create_domain(&root, "netaxis.be").await.unwrap_err();
    for id in ["", "-a.be", "a..be", "a b", "ä.be", &too_long] {
        let refusal = create_domain(&root, id).await.unwrap_err();
        assert_eq!(fields(&refusal), ["domain.domain_id"], "{id}");
    }
    root.create(pb::Tenant { default_domain: Some("netaxis.be".into()), ..tenant("foo") })
        .await
        .unwrap();
    let delete =
        || pb::DeleteDomainRequest { domain_id: "netaxis.be".into(), ..Default::default() };
    let in_use = root.directory().delete_domain(delete()).await.unwrap_err();
    let release = pb::Tenant {
        tenant_id: "foo".into(),
        default_domain: Some(String::new()),
        ..Default::default()
    };
    root.update(release).await.unwrap();
    root.directory().delete_domain(delete()).await.unwrap();
    let gone = root.directory().delete_domain(delete()).await.unwrap_err();

    assert_eq!(told(&taken), "AlreadyExists DOMAIN_ALREADY_EXISTS");
    assert_eq!(told(&in_use), "FailedPrecondition RECORD_IN_USE");
    assert_eq!(told(&gone), "NotFound DOMAIN_NOT_FOUND");
}

#[tokio::test]
async fn a_domain_is_seen_by_whoever_sees_a_tenant_that_has_it() {
    let app = App::start().await;
    let root = app.as_root();
    let acme = app.account("acme").await;
    for (id, account) in [("ours.be", "acme"), ("theirs.be", "default")] {
        let request = pb::CreateTenantRequest {
            tenant: Some(pb::Tenant {
                default_domain: Some(id.into()),
                ..tenant(&id.replace('.', "-"))
            }),
            auto_create_domain: Some(true),
            ..Default::default()
        };
        root.with("x-account-id", account).tenants().create_tenant(request).await.unwrap();
    }

    assert_eq!(domains(&root).await, ["ours.be", "theirs.be"]);
    assert_eq!(domains(&acme).await, ["ours.be"]);
    let request = pb::GetDomainRequest { domain_id: "theirs.be".into() };
    let hidden = acme.directory().get_domain(request).await.unwrap_err();
    assert_eq!(told(&hidden), "NotFound DOMAIN_NOT_FOUND");
    let refusal = create_domain(&acme, "mine.be").await.unwrap_err();
    assert_eq!(told(&refusal), "PermissionDenied PERMISSION_MISSING");
}

/// A tenant's own domain may be one that another account's tenant has too: it belongs to the system.
#[tokio::test]
async fn one_domain_may_serve_tenants_of_several_accounts() {
    let app = App::start().await;
    let root = app.as_root();
    create_domain(&root, "shared.be").await.unwrap();
    for account in ["a", "b"] {
        let admin = app.account(account).await;
        let new = pb::Tenant {
            default_domain: Some("shared.be".into()),
            ..tenant(&format!("of-{account}"))
        };

        assert_eq!(admin.create(new).await.unwrap().default_domain(), "shared.be");
    }
}
