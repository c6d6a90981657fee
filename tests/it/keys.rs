//! API keys: who makes them, what they are worth, how they end.

use chrono::TimeDelta;
use futures_util::future::join_all;
use serde_json::json;
use tenantry::pb::{self, ApiKeyScope, ApiKeyState, VerifyCode};
use tonic::Status;

use crate::app::{App, Caller, count, fields, tenant, told};

fn with_roles(roles: &[&str]) -> pb::ApiKey {
    pb::ApiKey {
        roles: roles.iter().map(|role| (*role).to_owned()).collect(),
        ..Default::default()
    }
}

async fn create(caller: &Caller, key: pb::ApiKey) -> Result<(pb::ApiKey, String), Status> {
    let request = pb::CreateApiKeyRequest { api_key: Some(key), ..Default::default() };
    let answer = caller.keys().create_api_key(request).await?.into_inner();
    Ok((answer.api_key.unwrap(), answer.secret))
}

async fn revoke(caller: &Caller, id: &str, reason: &str) -> Result<pb::ApiKey, Status> {
    let request = pb::RevokeApiKeyRequest {
        api_key_id: id.into(),
        reason: reason.into(),
        ..Default::default()
    };
    Ok(caller.keys().revoke_api_key(request).await?.into_inner().key.unwrap())
}

async fn list(caller: &Caller, filter: &str) -> Vec<pb::ApiKey> {
    let request = pb::ListApiKeysRequest { filter: filter.into(), ..Default::default() };
    caller.keys().list_api_keys(request).await.unwrap().into_inner().api_keys
}

async fn verify(caller: &Caller, key: &str, environment: &str) -> pb::VerifyKeyResponse {
    let request = pb::VerifyKeyRequest {
        key: key.into(),
        environment: environment.into(),
        explain: true,
        ..Default::default()
    };
    caller.keys().verify_key(request).await.unwrap().into_inner()
}

async fn who_am_i(caller: &Caller) -> pb::WhoAmIResponse {
    caller.keys().who_am_i(pb::WhoAmIRequest {}).await.unwrap().into_inner()
}

/// 4-15: whose it is, what it is called, what it may do, and its secret once.
#[tokio::test]
async fn a_key_belongs_to_the_narrowest_owner_that_the_call_names() {
    let app = App::start().await;
    let root = app.as_root();
    root.create(tenant("foo")).await.unwrap();

    let (system, _) = create(&root, with_roles(&["auditor"])).await.unwrap();
    let account = root.with("x-account-id", "default");
    let (of_account, _) = create(&account, with_roles(&["account-admin"])).await.unwrap();
    let call = root.with("x-tenant-id", "foo");
    let (of_tenant, secret) = create(&call, with_roles(&["tenant-admin"])).await.unwrap();
    let named = pb::ApiKey { tenant_id: "foo".into(), ..with_roles(&["tenant-admin"]) };
    let (named, _) = create(&root, named).await.unwrap();
    let wider = pb::ApiKey { scope: ApiKeyScope::Account.into(), ..with_roles(&["account-admin"]) };
    let (wider, _) = create(&call, wider).await.unwrap();

    assert_eq!((system.scope(), &*system.account_id), (ApiKeyScope::System, ""));
    assert_eq!((of_account.scope(), &*of_account.account_id), (ApiKeyScope::Account, "default"));
    for key in [&of_tenant, &named] {
        let owner = (&*key.account_id, &*key.tenant_id);
        assert_eq!((key.scope(), owner), (ApiKeyScope::Tenant, ("default", "foo")));
    }
    assert_eq!((wider.scope(), &*wider.tenant_id), (ApiKeyScope::Account, ""));
    assert!(of_tenant.api_key_id.parse::<uuid::Uuid>().is_ok(), "a GUID");
    assert!(!of_tenant.name.is_empty(), "a name is generated");
    assert!(secret.starts_with("tk_any_"));
    let me = who_am_i(&app.as_key(&secret)).await;
    assert_eq!(me.api_key.unwrap(), of_tenant);
    assert_eq!((&*me.account_id, &*me.tenant_id), ("default", "foo"));
    let contradiction =
        pb::ApiKey { scope: ApiKeyScope::System.into(), ..with_roles(&["auditor"]) };
    for caller in [&account, &call] {
        let refusal = create(caller, contradiction.clone()).await.unwrap_err();
        assert_eq!(told(&refusal), "PermissionDenied TENANT_MISMATCH");
    }
}

#[tokio::test]
async fn a_key_says_which_roles_it_has_and_only_such_as_its_scope_may_hold() {
    let app = App::start().await;
    let root = app.as_root();
    root.create(tenant("foo")).await.unwrap();
    let of_tenant = root.with("x-tenant-id", "foo");

    for (caller, roles) in [
        (&root, &[][..]),
        (&root, &["king"]),
        (&of_tenant, &["system-admin"]),
        (&of_tenant, &["account-admin"]),
    ] {
        let refusal = create(caller, with_roles(roles)).await.unwrap_err();

        assert_eq!(fields(&refusal), ["api_key.roles"], "{roles:?}");
    }
    let reseller = create(&root.with("x-account-id", "default"), with_roles(&["reseller"])).await;
    assert_eq!(fields(&reseller.unwrap_err()), ["api_key.reseller_id"]);
    let (key, _) =
        create(&of_tenant, with_roles(&["tenant-admin", "auditor", "tenant-admin"])).await.unwrap();
    assert_eq!(key.roles, ["auditor", "tenant-admin"], "sorted, each once");
}

/// 2-30: a reseller's key sees the tenants of its reseller.
#[tokio::test]
async fn a_resellers_key_sees_the_tenants_of_its_reseller() {
    let app = App::start().await;
    let root = app.as_root();
    root.create(tenant("sold")).await.unwrap();
    root.create(tenant("own")).await.unwrap();
    let key = pb::ApiKey { reseller_id: "north".into(), ..with_roles(&["reseller"]) };
    let unknown = create(&root.with("x-account-id", "default"), key).await.unwrap_err();
    assert_eq!(told(&unknown), "NotFound RESELLER_NOT_FOUND");
    root.call("CreateReseller", json!({"reseller": {"reseller_id": "north"}})).await.unwrap();
    root.call("CreateReseller", json!({"reseller": {"reseller_id": "south"}})).await.unwrap();
    let assign = "update tenants set reseller_id = 'north' where tenant_id = 'sold'";
    diesel_async::SimpleAsyncConnection::batch_execute(&mut app.superuser().await, assign)
        .await
        .unwrap();
    let key = pb::ApiKey { reseller_id: "north".into(), ..with_roles(&["reseller"]) };
    let (_, secret) = create(&root.with("x-account-id", "default"), key).await.unwrap();

    let reseller = app.as_key(&secret);

    assert_eq!(reseller.list("", "").await.unwrap(), ["sold"]);
    let in_use = json!({"reseller_id": "north"});
    let in_use = root.call("DeleteReseller", in_use).await.unwrap_err();
    assert_eq!(told(&in_use), "FailedPrecondition RECORD_IN_USE");
    assert_eq!(told(&reseller.get("own").await.unwrap_err()), "NotFound TENANT_NOT_FOUND");
}

#[tokio::test]
async fn the_database_never_has_a_secret() {
    let app = App::start().await;
    let root = app.as_root();
    let request = pb::CreateApiKeyRequest {
        api_key: Some(with_roles(&["auditor"])),
        request_id: "kept".into(),
        ..Default::default()
    };
    let secret = root.keys().create_api_key(request).await.unwrap().into_inner().secret;
    let part = secret.split('_').nth(3).unwrap();
    assert!(part.len() > 40, "{part}");

    let hex = hex::encode(part);

    for table in crate::app::rows(&app).await.keys() {
        // As text, or as the bytes of the text, which Postgres shows in hex.
        let found = format!(
            "select count(*) as number from {table} t \
             where t::text like '%{part}%' or t::text like '%{hex}%'"
        );
        assert_eq!(count(&app, &found).await, 0, "{table}");
    }
}

#[tokio::test]
async fn keys_are_listed_within_reach_and_never_with_their_secret() {
    let app = App::start().await;
    let root = app.as_root();
    root.create(tenant("foo")).await.unwrap();
    root.create(tenant("bar")).await.unwrap();
    let foo = root.with("x-tenant-id", "foo");
    let (one, secret) =
        create(&foo, pb::ApiKey { name: "One".into(), ..with_roles(&["tenant-admin"]) })
            .await
            .unwrap();
    let (two, _) =
        create(&foo, pb::ApiKey { name: "Two".into(), ..with_roles(&["auditor"]) }).await.unwrap();
    create(&root.with("x-tenant-id", "bar"), with_roles(&["tenant-admin"])).await.unwrap();
    revoke(&foo, &two.api_key_id, "lost").await.unwrap();

    let own = list(&app.as_key(&secret), "").await;
    let named = list(&foo, "name:\"one\"").await;
    let all = list(&root, "").await;

    assert_eq!(own.len(), 2, "revoked ones too");
    assert_eq!(named, [one]);
    assert_eq!(all.len(), 4);
    assert_eq!(own.iter().filter(|key| key.state() == ApiKeyState::Revoked).count(), 1);
    let text = format!("{all:?}");
    assert!(!text.contains("tk_") && !text.contains(secret.split('_').nth(3).unwrap()));
}

#[tokio::test]
async fn a_key_is_revoked_once_with_its_reason_and_stays_revoked() {
    let app = App::start().await;
    let root = app.as_root();
    let (key, secret) = create(&root, with_roles(&["auditor"])).await.unwrap();

    let without = revoke(&root, &key.api_key_id, " ").await.unwrap_err();
    let revoked = revoke(&root, &key.api_key_id, "found in a repository").await.unwrap();
    let again = revoke(&root, &key.api_key_id, "another").await.unwrap();

    assert_eq!(fields(&without), ["reason"]);
    assert_eq!(revoked.state(), ApiKeyState::Revoked);
    assert_eq!(revoked.revoke_reason, "found in a repository");
    assert!(revoked.revoked_by.starts_with("api_key:") && revoked.revoke_time.is_some());
    assert_eq!(again, revoked, "the first reason stays");
    assert_eq!(verify(&root, &secret, "production").await.code(), VerifyCode::Revoked);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_last_admin_key_cannot_be_revoked_not_even_by_many_at_once() {
    let app = App::start().await;
    let root = app.as_root();
    let mut ids = vec![who_am_i(&root).await.api_key.unwrap().api_key_id];
    let mut callers = vec![root.clone()];
    for _ in 0..4 {
        let (key, secret) = create(&root, with_roles(&["system-admin"])).await.unwrap();
        ids.push(key.api_key_id);
        callers.push(app.as_key(&secret));
    }

    // Each tries to revoke the next one, all at once, until nobody can go on.
    let tries = (0..20).map(|number| {
        let (caller, id) = (&callers[number % 5], &ids[(number + 1) % 5]);
        revoke(caller, id, "sabotage")
    });
    let answers = join_all(tries).await;

    let alive = "select count(*) as number from api_keys \
                 where 'system-admin' = any(roles) and revoke_time is null";
    assert!(count(&app, alive).await >= 1, "somebody is left");
    for refusal in answers.into_iter().filter_map(Result::err) {
        let told = told(&refusal);
        assert!(
            told == "FailedPrecondition LAST_ADMIN_KEY"
                || told == "Unauthenticated CREDENTIAL_INVALID",
            "{told}"
        );
    }
}

/// 1-34, 1-35, 4-17: what is wrong with a key is an answer and no error.
#[tokio::test]
async fn a_verdict_says_whether_a_key_is_good_and_why_not() {
    let app = App::start().await;
    let root = app.as_root();
    root.create(tenant("foo")).await.unwrap();
    let foo = root.with("x-tenant-id", "foo");
    let (_, good) = create(&foo, with_roles(&["tenant-admin"])).await.unwrap();
    let bound = pb::ApiKey { environment: "sod".into(), ..with_roles(&["tenant-admin"]) };
    let (_, bound) = create(&foo, bound).await.unwrap();
    let end = app.shared.clock.now() + TimeDelta::hours(1);
    let expiring = pb::ApiKey {
        expire_time: Some(prost_types::Timestamp { seconds: end.timestamp(), nanos: 0 }),
        ..with_roles(&["tenant-admin"])
    };
    let (_, expiring) = create(&foo, expiring).await.unwrap();
    let ask = async |permissions: &[&str]| {
        let request = pb::VerifyKeyRequest {
            key: good.clone(),
            environment: "production".into(),
            required_permissions: permissions.iter().map(|it| (*it).to_owned()).collect(),
            ..Default::default()
        };
        root.keys().verify_key(request).await.unwrap().into_inner()
    };

    let valid = verify(&root, &good, "production").await;
    assert_eq!((valid.valid, valid.code()), (true, VerifyCode::Valid));
    assert_eq!((&*valid.account_id, &*valid.tenant_id), ("default", "foo"));
    assert!(valid.permissions.contains(&"TENANTS:VIEW".to_owned()));
    assert!(!valid.checks.is_empty() && valid.checks.iter().all(|check| check.passed));
    assert_eq!(ask(&["TENANTS:VIEW", "KEYS:VIEW"]).await.code(), VerifyCode::Valid);
    assert_eq!(ask(&["TENANTS:ADD"]).await.code(), VerifyCode::InsufficientPermission);
    assert_eq!(ask(&["MADE:UP"]).await.code(), VerifyCode::InsufficientPermission);
    assert_eq!(verify(&root, &bound, "sod").await.code(), VerifyCode::Valid);
    assert_eq!(verify(&root, &bound, "stage").await.code(), VerifyCode::WrongEnvironment);
    assert!(bound.starts_with("tk_sod_"));
    let moved = bound.replacen("tk_sod_", "tk_any_", 1);
    assert_eq!(verify(&root, &moved, "stage").await.code(), VerifyCode::NotFound, "it is bound");
    assert_eq!(verify(&root, &expiring, "sod").await.code(), VerifyCode::Valid);
    app.shared.clock.advance(TimeDelta::hours(2));
    let expired = verify(&root, &expiring, "sod").await;
    assert_eq!((expired.valid, expired.code()), (false, VerifyCode::Expired));
    let failed: Vec<_> = expired.checks.iter().filter(|check| !check.passed).collect();
    assert_eq!(failed.len(), 1, "{failed:?}");
    root.delete("foo").await.unwrap();
    assert_eq!(verify(&root, &good, "sod").await.code(), VerifyCode::TenantInactive);
    for nonsense in ["", "nonsense", "tk_any_x_y_z", &good[..good.len() - 1]] {
        let answer = verify(&root, nonsense, "sod").await;
        assert_eq!((answer.valid, answer.code()), (false, VerifyCode::NotFound), "{nonsense}");
        assert_eq!(answer.credential_id, "");
    }
}

#[tokio::test]
async fn the_first_check_that_fails_is_the_verdict_and_explain_tells_all() {
    let app = App::start().await;
    let root = app.as_root();
    root.create(tenant("foo")).await.unwrap();
    let foo = root.with("x-tenant-id", "foo");
    let end = app.shared.clock.now() + TimeDelta::hours(1);
    let key = pb::ApiKey {
        environment: "sod".into(),
        expire_time: Some(prost_types::Timestamp { seconds: end.timestamp(), nanos: 0 }),
        ..with_roles(&["tenant-admin"])
    };
    let (key, secret) = create(&foo, key).await.unwrap();
    app.shared.clock.advance(TimeDelta::hours(2));
    root.delete("foo").await.unwrap();
    let unrevoked = verify(&root, &secret, "stage").await;
    let request = pb::UndeleteTenantRequest { tenant_id: "foo".into(), ..Default::default() };
    root.tenants().undelete_tenant(request).await.unwrap();
    revoke(&foo, &key.api_key_id, "lost").await.unwrap();

    let revoked = verify(&root, &secret, "stage").await;

    assert_eq!(unrevoked.code(), VerifyCode::Expired, "before environment and tenant");
    assert_eq!(revoked.code(), VerifyCode::Revoked, "before expiry and environment");
    let failed: Vec<_> =
        revoked.checks.iter().filter(|check| !check.passed).map(pb::VerifyCheck::code).collect();
    assert_eq!(failed, [VerifyCode::Revoked, VerifyCode::Expired, VerifyCode::WrongEnvironment]);
}

#[tokio::test]
async fn a_key_of_somebody_else_is_answered_as_one_that_does_not_exist() {
    let app = App::start().await;
    let ours = app.account("ours").await;
    let theirs = app.account("theirs").await;
    let (_, secret) = create(&theirs, with_roles(&["account-admin"])).await.unwrap();

    let hidden = verify(&ours, &secret, "sod").await;
    let made_up = verify(&ours, &format!("{}A", &secret[..secret.len() - 1]), "sod").await;

    assert_eq!(hidden.code(), VerifyCode::NotFound);
    assert_eq!(
        (hidden.credential_id, hidden.account_id),
        (made_up.credential_id, made_up.account_id)
    );
    assert_eq!(verify(&theirs, &secret, "sod").await.code(), VerifyCode::Valid);
}

/// 4-15: what a key grants lies within itself, in time too.
#[tokio::test]
async fn no_key_makes_one_that_outlives_it_and_none_that_ends_counts_as_the_last_admin() {
    let app = App::start().await;
    let root = app.as_root();
    let end = |hours| (app.shared.clock.now() + TimeDelta::hours(hours)).to_rfc3339();
    let admin = |end: Option<String>| {
        let mut key = json!({"roles": ["system-admin"]});
        if let Some(end) = end {
            key["expire_time"] = end.into();
        }
        json!({"api_key": key})
    };
    let brief = root.call("CreateApiKey", admin(Some(end(1)))).await.unwrap();
    let brief = app.as_key(brief["secret"].as_str().unwrap());

    for longer in [None, Some(end(2))] {
        let refusal = brief.call("CreateApiKey", admin(longer)).await.unwrap_err();
        assert_eq!(told(&refusal), "PermissionDenied PERMISSION_MISSING");
    }
    brief.call("CreateApiKey", admin(Some(end(0)))).await.unwrap_err();
    let last = who_am_i(&root).await.api_key.unwrap().api_key_id;
    let refusal = revoke(&brief, &last, "lost").await.unwrap_err();
    assert_eq!(told(&refusal), "FailedPrecondition LAST_ADMIN_KEY");
    root.call("CreateApiKey", admin(None)).await.unwrap();
    revoke(&brief, &last, "lost").await.unwrap();
}

/// 1-33: a key is bound to an environment that there is, and lasts until a time to come.
#[tokio::test]
async fn a_key_is_bound_to_an_environment_that_there_is() {
    let app = App::start().await;
    let key = pb::ApiKey { environment: "moon".into(), ..with_roles(&["auditor"]) };

    let refusal = create(&app.as_root(), key).await.unwrap_err();

    assert_eq!(told(&refusal), "NotFound ENVIRONMENT_NOT_FOUND");
}

/// 4-16: what each role permits, page by page.
#[tokio::test]
async fn roles_are_listed_page_by_page_in_a_fixed_order() {
    let app = App::start().await;
    let root = app.as_root();
    let page = async |page_size, page_token: &str| {
        let request = pb::ListRolesRequest { page_size, page_token: page_token.into() };
        root.keys().list_roles(request).await.unwrap().into_inner()
    };

    let whole = page(0, "").await;
    let first = page(4, "").await;
    let second = page(100, &first.next_page_token).await;

    assert_eq!(whole.roles.len(), 11);
    assert_eq!([first.roles, second.roles].concat(), whole.roles);
    assert_eq!(whole.roles[0].role_id, "system-admin");
}
