//! API keys: who makes them, what they are worth, how they end.

use chrono::TimeDelta;
use futures_util::future::join_all;
use serde_json::{Value, json};
use tenantry::pb::{self, ApiKeyScope, ApiKeyState, VerifyCode};
use tonic::Status;

use crate::app::{App, Caller, count, fields, product, tenant, told};

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
    root.create(tenant("foo")).await.unwrap();
    root.call("CreateProduct", product()).await.unwrap();
    let foo = root.with("x-tenant-id", "foo");
    let secret_of = async |caller: &Caller, method: &str, mut request: serde_json::Value| {
        // Kept for whoever repeats it.
        request["request_id"] = method.into();
        let answer = caller.call(method, request).await.unwrap();
        let secret = answer["secret"].as_str().unwrap().to_owned();
        (answer, secret)
    };
    let key = json!({"api_key": {"roles": ["auditor"]}});
    let (made, first) = secret_of(&root, "CreateApiKey", key).await;
    let id = &made["api_key"]["api_key_id"];
    let (_, rotated) = secret_of(&root, "RotateApiKey", json!({"api_key_id": id})).await;
    let installation = json!({"installation":
        {"product_code": "PHONE", "package_code": "BASIC", "ttl_hours": 24}});
    let installed = foo.call("CreateInstallation", installation).await.unwrap();
    let app_key = json!({"installation_id": installed["installation"]["installation_id"]});
    let app_key = foo.call("CreateAppKey", app_key).await.unwrap();
    let key = json!({"external_key": {"app_key_id": app_key["app_key"]["app_key_id"],
        "label": "web", "environment": "sod"}});
    let (made, external) = secret_of(&foo, "CreateExternalKey", key).await;
    let id = &made["external_key"]["external_key_id"];
    let renewed = json!({"external_key_id": id});
    let (_, renewed) = secret_of(&foo, "RotateExternalKey", renewed).await;
    let (_, oauth) = secret_of(&foo, "RotateOAuthClientSecret", json!({})).await;
    let chosen = "a-secret-that-somebody-chose";
    let update = json!({"oauth_client": {"secret": chosen}, "request_id": "chosen"});
    foo.call("UpdateOAuthClient", update).await.unwrap();

    for secret in [&*first, &rotated, &external, &renewed, &oauth, chosen] {
        // Of the text of a key the one part that is a secret.
        let part = secret.split('_').nth(3).unwrap_or(secret);
        assert!(part.len() > 20, "{part}");
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
    let told = pb::CreateApiKeyResponse { secret: first.clone(), ..Default::default() };
    let asked = pb::VerifyKeyRequest { key: first.clone(), ..Default::default() };
    let batch = pb::BatchVerifyKeysRequest { requests: vec![asked] };
    for debug in [format!("{told:?}"), format!("{batch:?}")] {
        assert!(!debug.contains(&first) && !debug.contains("tk_"), "{debug}");
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
    let bound = json!({"api_key": {"roles": ["system-admin"], "environment": "stage"}});
    root.call("CreateApiKey", bound).await.unwrap();
    let refusal = revoke(&brief, &last, "lost").await.unwrap_err();
    assert_eq!(told(&refusal), "FailedPrecondition LAST_ADMIN_KEY", "one environment is not all");
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

/// Changes a key as a mask of these paths says, or what is present where there are none.
async fn update(caller: &Caller, key: Value, paths: &[&str]) -> Result<Value, Status> {
    // As JSON has masks: camel case, joined by commas.
    let camel = |path: &&str| {
        let mut words = path.split('_');
        let first = words.next().unwrap_or_default().to_owned();
        words.fold(first, |all, word| all + &word[..1].to_uppercase() + &word[1..])
    };
    let mask = paths.iter().map(camel).collect::<Vec<_>>().join(",");
    let request = json!({"api_key": key, "update_mask": mask});
    Ok(caller.call("UpdateApiKey", request).await?["api_key"].take())
}

async fn rotate(caller: &Caller, id: &str) -> Result<Value, Status> {
    caller.call("RotateApiKey", json!({"api_key_id": id})).await
}

async fn get(caller: &Caller, id: &str) -> Result<Value, Status> {
    Ok(caller.call("GetApiKey", json!({"api_key_id": id})).await?["api_key"].take())
}

/// 4-15: a key is got by its id, within reach.
#[tokio::test]
async fn a_key_is_got_by_its_id_within_reach_and_without_its_secret() {
    let app = App::start().await;
    let root = app.as_root();
    root.create(tenant("foo")).await.unwrap();
    root.create(tenant("bar")).await.unwrap();
    let stranger = app.account("theirs").await;
    let (foo, bar) = (root.with("x-tenant-id", "foo"), root.with("x-tenant-id", "bar"));
    let (key, secret) = create(&foo, with_roles(&["tenant-admin"])).await.unwrap();
    let id = &*key.api_key_id;

    let request = pb::GetApiKeyRequest { api_key_id: id.to_owned() };
    let got = app.as_key(&secret).keys().get_api_key(request).await.unwrap().into_inner();

    assert_eq!(got.api_key, Some(key.clone()));
    assert_eq!(get(&root, id).await.unwrap()["tenant_id"], "foo");
    for caller in [&stranger, &bar] {
        let refusal = get(caller, id).await.unwrap_err();
        assert_eq!(told(&refusal), "NotFound KEY_NOT_FOUND");
    }
    assert_eq!(fields(&get(&root, "").await.unwrap_err()), ["api_key_id"]);
    assert_eq!(fields(&get(&root, "nonsense").await.unwrap_err()), ["api_key_id"]);
}

/// 4-15: ACTIVE and DISABLED lead to each other, ROTATING and EXPIRED come and go with time, and REVOKED
/// is for good.
#[tokio::test]
async fn a_key_goes_through_its_states_until_it_is_revoked_for_good() {
    let app = App::start().await;
    let root = app.as_root();
    let disabled = pb::ApiKey { enabled: Some(false), ..with_roles(&["auditor"]) };
    let (key, _) = create(&root, disabled).await.unwrap();
    let id = &*key.api_key_id;
    let enable = async |enabled: bool| {
        update(&root, json!({"api_key_id": id, "enabled": enabled}), &[]).await.unwrap()
    };

    assert_eq!(key.state(), ApiKeyState::Disabled);
    assert_eq!(enable(true).await["state"], "API_KEY_STATE_ACTIVE");
    let rotated = rotate(&root, id).await.unwrap();
    assert_eq!(rotated["key"]["state"], "API_KEY_STATE_ROTATING");
    assert!(rotated["key"]["overlap_end_time"].is_string());
    let disabled = enable(false).await;
    assert_eq!(disabled["state"], "API_KEY_STATE_DISABLED");
    assert!(disabled["overlap_end_time"].is_null(), "it is not good at all");
    assert_eq!(enable(true).await["state"], "API_KEY_STATE_ROTATING");
    app.shared.clock.advance(TimeDelta::hours(25));
    assert_eq!(get(&root, id).await.unwrap()["state"], "API_KEY_STATE_ACTIVE");
    let end = (app.shared.clock.now() + TimeDelta::hours(1)).to_rfc3339();
    update(&root, json!({"api_key_id": id, "expire_time": end}), &[]).await.unwrap();
    app.shared.clock.advance(TimeDelta::hours(2));
    assert_eq!(get(&root, id).await.unwrap()["state"], "API_KEY_STATE_EXPIRED");
    assert_eq!(enable(false).await["state"], "API_KEY_STATE_DISABLED");
    assert_eq!(enable(true).await["state"], "API_KEY_STATE_EXPIRED");
    update(&root, json!({"api_key_id": id}), &["expire_time"]).await.unwrap();
    assert_eq!(get(&root, id).await.unwrap()["state"], "API_KEY_STATE_ACTIVE", "it never ends");
    revoke(&root, id, "lost").await.unwrap();
    for refusal in [
        update(&root, json!({"api_key_id": id, "enabled": true}), &[]).await.unwrap_err(),
        rotate(&root, id).await.unwrap_err(),
    ] {
        assert_eq!(told(&refusal), "FailedPrecondition INVALID_STATE_TRANSITION");
    }
}

/// 4-15: what a mask names is changed or cleared; what never changes is refused unless it is as it was.
#[tokio::test]
async fn an_update_of_a_key_changes_what_its_mask_names_and_nothing_else() {
    let app = App::start().await;
    let root = app.as_root();
    root.create(tenant("foo")).await.unwrap();
    let foo = root.with("x-tenant-id", "foo");
    let new = pb::ApiKey {
        name: "one".into(),
        description: "first".into(),
        environment: "sod".into(),
        ..with_roles(&["tenant-admin"])
    };
    let (key, _) = create(&foo, new).await.unwrap();
    let id = &*key.api_key_id;

    let whole = get(&foo, id).await.unwrap();
    let mut changed = whole.clone();
    changed["name"] = "two".into();
    changed["roles"] = json!(["auditor", "tenant-management"]);
    // With what only the service writes, as it was read.
    let changed = update(&foo, changed, &[]).await.unwrap();
    assert_eq!((&changed["name"], &changed["description"]), (&json!("two"), &json!("first")));
    assert_eq!(changed["roles"], json!(["auditor", "tenant-management"]));
    assert!(!changed["permissions"].as_array().unwrap().contains(&json!("KEYS:EDIT")));
    assert_eq!(changed["etag"], "2");

    let cleared = json!({"api_key_id": id, "roles": ["auditor"]});
    let cleared = update(&foo, cleared, &["name", "description", "roles"]).await.unwrap();
    assert_eq!(cleared["name"], format!("key-{}", &id[..8]), "one is generated");
    assert_eq!((&cleared["description"], &cleared["roles"]), (&json!(null), &json!(["auditor"])));
    let same = update(&foo, json!({"api_key_id": id, "roles": ["auditor"]}), &[]).await.unwrap();
    assert_eq!(same["etag"], cleared["etag"], "nothing has changed");

    let stale = update(&foo, whole, &[]).await.unwrap_err();
    assert_eq!(told(&stale), "Aborted ETAG_MISMATCH");
    for path in ["environment", "scope", "tenant_id", "digest"] {
        let refusal = update(&foo, json!({"api_key_id": id}), &[path]).await.unwrap_err();
        assert_eq!(told(&refusal), "InvalidArgument IMMUTABLE_FIELD", "{path}");
    }
    for (field, value) in [
        ("environment", "stage"),
        ("scope", "API_KEY_SCOPE_SYSTEM"),
        ("tenant_id", "bar"),
        ("account_id", "other"),
    ] {
        let refusal = update(&foo, json!({"api_key_id": id, field: value}), &[]).await.unwrap_err();
        assert_eq!(told(&refusal), "InvalidArgument IMMUTABLE_FIELD", "{field}");
        assert_eq!(fields(&refusal), [format!("api_key.{field}")]);
    }
    for (wrong, field) in [
        (json!({"roles": ["king"]}), "api_key.roles"),
        (json!({"roles": ["system-admin"]}), "api_key.roles"),
        (json!({"reseller_id": "north"}), "api_key.reseller_id"),
        (json!({"backend_ids": ["rack"]}), "api_key.backend_ids"),
        (json!({"expire_time": "2020-01-01T00:00:00Z"}), "api_key.expire_time"),
        (json!({"rate_limit": {"requests": 5}}), "api_key.rate_limit.window"),
        (json!({"credits": {"amount": -1}}), "api_key.credits.amount"),
    ] {
        let mut key = json!({"api_key_id": id});
        key.as_object_mut().unwrap().append(&mut wrong.as_object().unwrap().clone());
        let refusal = update(&foo, key, &[]).await.unwrap_err();
        assert_eq!(fields(&refusal), [field]);
    }
    let no_roles = update(&foo, json!({"api_key_id": id}), &["roles"]).await.unwrap_err();
    assert_eq!(fields(&no_roles), ["api_key.roles"]);
    let rehearsed = json!({"api_key": {"api_key_id": id, "name": "x"}, "validate_only": true});
    let rehearsed = foo.call("UpdateApiKey", rehearsed).await.unwrap();
    assert_eq!(rehearsed["api_key"]["name"], "x");
    assert_eq!(get(&foo, id).await.unwrap()["name"], cleared["name"]);
}

/// 4-15: whatever a key grants once it is changed or has a new secret, its caller has itself.
#[tokio::test]
async fn nobody_gets_more_by_changing_enabling_or_rotating_a_stronger_key() {
    let app = App::start().await;
    let root = app.as_root();
    root.create(tenant("foo")).await.unwrap();
    let foo = root.with("x-tenant-id", "foo");
    let strong = ["tenant-admin", "service-provider-admin"];
    let (stronger, _) = create(&foo, with_roles(&strong)).await.unwrap();
    let off = pb::ApiKey { enabled: Some(false), ..with_roles(&strong) };
    let (off, _) = create(&foo, off).await.unwrap();
    let (weaker, _) = create(&foo, with_roles(&["key-verifier"])).await.unwrap();
    let (own, secret) = create(&foo, with_roles(&["tenant-admin"])).await.unwrap();
    let bound = pb::ApiKey { environment: "sod".into(), ..with_roles(&["tenant-admin"]) };
    let (_, bound) = create(&foo, bound).await.unwrap();
    let brief = pb::ApiKey {
        expire_time: Some(prost_types::Timestamp {
            seconds: (app.shared.clock.now() + TimeDelta::hours(1)).timestamp(),
            nanos: 0,
        }),
        ..with_roles(&["tenant-admin"])
    };
    let (_, brief) = create(&foo, brief).await.unwrap();
    let admin = app.as_key(&secret);
    let key = |id: &str, field: &str, value: Value| json!({"api_key_id": id, field: value});
    let (strong, off) = (&*stronger.api_key_id, &*off.api_key_id);
    let (weak, own) = (&*weaker.api_key_id, &*own.api_key_id);

    for refusal in [
        rotate(&admin, strong).await.unwrap_err(),
        rotate(&admin, off).await.unwrap_err(),
        update(&admin, key(strong, "name", "mine".into()), &[]).await.unwrap_err(),
        update(&admin, key(off, "enabled", true.into()), &[]).await.unwrap_err(),
        // Somebody else may enable it later, and not look at what it grants by then.
        update(&admin, key(off, "roles", json!(["tenant-admin", "auditor"])), &[])
            .await
            .unwrap_err(),
        update(&admin, key(weak, "roles", json!(["service-provider-admin"])), &[])
            .await
            .unwrap_err(),
        update(&admin, key(own, "roles", json!(["auditor", "tenant-admin"])), &[])
            .await
            .unwrap_err(),
        // A key of one environment, and one that ends, give away no more than that.
        rotate(&app.as_key(&bound), weak).await.unwrap_err(),
        rotate(&app.as_key(&brief), weak).await.unwrap_err(),
        update(&app.as_key(&brief), key(weak, "name", "mine".into()), &[]).await.unwrap_err(),
    ] {
        assert_eq!(told(&refusal), "PermissionDenied PERMISSION_MISSING");
    }
    assert_eq!(get(&foo, strong).await.unwrap()["etag"], "1", "nothing has changed");
    rotate(&admin, weak).await.unwrap();
    update(&admin, key(weak, "roles", json!(["tenant-admin"])), &[]).await.unwrap();
    let rotated = rotate(&admin, own).await.unwrap();
    let admin = app.as_key(rotated["secret"].as_str().unwrap());
    update(&admin, key(strong, "enabled", false.into()), &[]).await.unwrap();
}

/// 4-15: the last key that administers the system stays good for ever.
#[tokio::test]
async fn the_last_admin_key_cannot_be_disabled_nor_lose_its_role_nor_get_an_end() {
    let app = App::start().await;
    let root = app.as_root();
    let last = who_am_i(&root).await.api_key.unwrap().api_key_id;
    let end = (app.shared.clock.now() + TimeDelta::days(1)).to_rfc3339();
    let off = pb::ApiKey { enabled: Some(false), ..with_roles(&["system-admin"]) };
    let (other, _) = create(&root, off).await.unwrap();
    let changes = [
        json!({"api_key_id": last, "enabled": false}),
        json!({"api_key_id": last, "roles": ["auditor"]}),
        json!({"api_key_id": last, "expire_time": end}),
    ];

    for change in &changes {
        let refusal = update(&root, change.clone(), &[]).await.unwrap_err();
        assert_eq!(told(&refusal), "FailedPrecondition LAST_ADMIN_KEY", "{change}");
    }
    let refusal = revoke(&root, &last, "lost").await.unwrap_err();
    assert_eq!(told(&refusal), "FailedPrecondition LAST_ADMIN_KEY", "the other is disabled");
    update(&root, json!({"api_key_id": last, "name": "first"}), &[]).await.unwrap();
    let rotated = rotate(&root, &last).await.unwrap();
    let root = app.as_key(rotated["secret"].as_str().unwrap());
    let enable = json!({"api_key_id": other.api_key_id, "enabled": true});
    update(&root, enable, &[]).await.unwrap();
    for change in changes {
        let request = json!({"api_key": change, "validate_only": true});
        root.call("UpdateApiKey", request).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_last_admin_key_is_left_by_many_who_disable_and_revoke_at_once() {
    let app = App::start().await;
    let root = app.as_root();
    let mut ids = vec![who_am_i(&root).await.api_key.unwrap().api_key_id];
    let mut callers = vec![root.clone()];
    for _ in 0..3 {
        let (key, secret) = create(&root, with_roles(&["system-admin"])).await.unwrap();
        ids.push(key.api_key_id);
        callers.push(app.as_key(&secret));
    }

    let tries = (0..16).map(|number| {
        let (caller, id) = (&callers[number % 4], &ids[(number + 1) % 4]);
        async move {
            match number / 4 % 3 {
                0 => update(caller, json!({"api_key_id": id, "enabled": false}), &[]).await.err(),
                1 => revoke(caller, id, "sabotage").await.err(),
                _ => {
                    let demoted = json!({"api_key_id": id, "roles": ["auditor"]});
                    update(caller, demoted, &[]).await.err()
                }
            }
        }
    });
    let refusals = join_all(tries).await;

    let alive = "select count(*) as number from api_keys \
                 where 'system-admin' = any(roles) and revoke_time is null and enabled";
    assert!(count(&app, alive).await >= 1, "somebody is left");
    for refusal in refusals.into_iter().flatten() {
        let told = told(&refusal);
        let expected = [
            "FailedPrecondition LAST_ADMIN_KEY",
            "FailedPrecondition INVALID_STATE_TRANSITION",
            "Unauthenticated CREDENTIAL_INVALID",
            "PermissionDenied PERMISSION_MISSING",
        ];
        assert!(expected.contains(&&*told), "{told}");
    }
}

/// 4-15: the same key has a new secret, told once, and the old one for a while.
#[tokio::test]
async fn a_rotated_key_keeps_its_id_and_its_new_secret_is_told_once() {
    let app = App::start().await;
    let root = app.as_root();
    let (key, secret) = create(&root, with_roles(&["auditor"])).await.unwrap();
    let id = &*key.api_key_id;
    let old = "select count(*) as number from api_keys k join api_keys old using (route, number) \
               where k.old_digest is not null and k.old_digest <> k.digest";

    let request = json!({"api_key_id": id, "overlap": "60s", "request_id": "once"});
    let rotated = root.call("RotateApiKey", request.clone()).await.unwrap();
    let again = root.call("RotateApiKey", request.clone()).await.unwrap();

    let new = rotated["secret"].as_str().unwrap();
    assert!(new.starts_with("tk_any_") && new != secret);
    assert_eq!(new.split('_').nth(2), secret.split('_').nth(2), "it leads to the same row");
    assert_eq!(again, rotated, "who repeats the request gets the same secret");
    assert_eq!(rotated["key"]["api_key_id"], id);
    assert_eq!((&rotated["key"]["etag"], &rotated["key"]["name"]), (&json!("2"), &json!(key.name)));
    assert!(rotated["revision"].as_str().unwrap().parse::<u64>().is_ok());
    assert_eq!(count(&app, old).await, 1, "the old secret is kept");
    assert_eq!(who_am_i(&app.as_key(new)).await.api_key.unwrap().api_key_id, id);
    let mut rehearsed = request.clone();
    (rehearsed["validate_only"], rehearsed["request_id"]) = (true.into(), "other".into());
    let rehearsed = root.call("RotateApiKey", rehearsed).await.unwrap();
    assert_eq!(rehearsed["secret"], json!(null));
    let mut repeated = request;
    repeated["validate_only"] = true.into();
    let repeated = root.call("RotateApiKey", repeated).await.unwrap();
    assert_eq!(repeated["secret"], json!(null), "nor one that was told before");
    let at_once = json!({"api_key_id": id, "overlap": "0s"});
    let at_once = root.call("RotateApiKey", at_once).await.unwrap();
    assert_eq!(at_once["key"]["state"], "API_KEY_STATE_ACTIVE");
    assert_eq!(count(&app, old).await, 0, "the old secret is gone");
    for overlap in ["-1s", "2592001s"] {
        let wrong = json!({"api_key_id": id, "overlap": overlap});
        let refusal = root.call("RotateApiKey", wrong).await.unwrap_err();
        assert_eq!(fields(&refusal), ["overlap"], "{overlap}");
    }
}

/// 1-46: keys of a protected tenant are its own and its protectors' to change.
#[tokio::test]
async fn a_key_of_a_protected_tenant_is_not_changed_from_beside_it() {
    let app = App::start().await;
    let ours = app.account("ours").await;
    let root = app.as_root().with("x-account-id", "ours");
    root.create(pb::Tenant { protected: Some(true), ..tenant("foo") }).await.unwrap();
    let foo = root.with("x-tenant-id", "foo");
    let (key, secret) = create(&foo, with_roles(&["tenant-admin"])).await.unwrap();
    let id = &*key.api_key_id;
    let beside = ours.with("x-tenant-id", "foo");

    for refusal in [
        update(&beside, json!({"api_key_id": id, "name": "x"}), &[]).await.unwrap_err(),
        rotate(&beside, id).await.unwrap_err(),
    ] {
        assert_eq!(told(&refusal), "FailedPrecondition RECORD_PROTECTED");
    }
    rotate(&app.as_key(&secret), id).await.unwrap();
    update(&foo, json!({"api_key_id": id, "name": "x"}), &[]).await.unwrap();
}

/// 4-15: limits are told with what is left, and begin anew when they are set.
#[tokio::test]
async fn the_limits_of_a_key_are_told_with_what_is_left_and_begin_anew_when_they_are_set() {
    let app = App::start().await;
    let root = app.as_root();
    let limits = json!({"api_key": {
        "roles": ["auditor"],
        "rate_limit": {"requests": 10, "window": "60s"},
        "credits": {"amount": 100, "refill_interval": "3600s"},
    }});
    let key = root.call("CreateApiKey", limits).await.unwrap()["api_key"].take();
    let id = key["api_key_id"].as_str().unwrap();
    let left = |key: &Value| key["credits"]["remaining"].as_str().map(str::to_owned);
    assert_eq!(key["rate_limit"], json!({"requests": "10", "window": "60s"}));
    assert_eq!(key["credits"]["refill_amount"], "100", "as much as there was at first");
    assert_eq!(left(&key).unwrap(), "100");
    let use_some = "update key_credits set remaining = 60";
    diesel_async::SimpleAsyncConnection::batch_execute(&mut app.superuser().await, use_some)
        .await
        .unwrap();

    let used = update(&root, json!({"api_key_id": id, "name": "x"}), &[]).await.unwrap();
    assert_eq!(left(&used).unwrap(), "60");
    assert_eq!(left(&get(&root, id).await.unwrap()).unwrap(), "60");
    let renewed = json!({"api_key_id": id, "rate_limit": {"requests": 5, "window": "1s"}});
    let renewed = update(&root, renewed, &[]).await.unwrap();
    assert_eq!(left(&renewed).unwrap(), "100", "both begin anew");
    assert_eq!(get(&root, id).await.unwrap(), renewed);
    let version = "select count(*) as number from api_keys k join key_credits c using (route, number) \
                   where k.limits_version = 2 and c.limits_version = 2";
    assert_eq!(count(&app, version).await, 1);
    let unlimited = json!({"api_key_id": id});
    let unlimited = update(&root, unlimited, &["rate_limit", "credits"]).await.unwrap();
    assert_eq!((&unlimited["rate_limit"], &unlimited["credits"]), (&json!(null), &json!(null)));
    assert_eq!(count(&app, "select count(*) as number from key_credits").await, 0);
}

/// 4-15: a list is filtered by when keys were used last; those that never were are found by what is not.
#[tokio::test]
async fn keys_are_listed_by_state_and_by_when_they_were_used_last() {
    let app = App::start().await;
    let root = app.as_root();
    root.create(tenant("foo")).await.unwrap();
    let foo = root.with("x-tenant-id", "foo");
    let named = |name: &str| pb::ApiKey { name: name.into(), ..with_roles(&["auditor"]) };
    let mut ids = Vec::new();
    for name in ["fresh", "stale", "never"] {
        ids.push(create(&foo, named(name)).await.unwrap().0.api_key_id);
    }
    let off = pb::ApiKey { enabled: Some(false), ..named("off") };
    create(&foo, off).await.unwrap();
    rotate(&foo, &ids[0]).await.unwrap();
    let used = "insert into key_usage (route, number, tenant_uid, last_used_time) \
                select route, number, tenant_uid, case name when 'fresh' \
                    then timestamptz '2026-11-20T12:00:00Z' else timestamptz '2026-01-01T00:00:00Z' end \
                from api_keys where name in ('fresh', 'stale')";
    diesel_async::SimpleAsyncConnection::batch_execute(&mut app.superuser().await, used)
        .await
        .unwrap();
    let found = async |filter: &str| {
        list(&foo, filter).await.into_iter().map(|key| key.name).collect::<Vec<_>>()
    };

    assert_eq!(found("last_used_time >= \"2026-11-01T00:00:00Z\"").await, ["fresh"]);
    let stale = "NOT last_used_time >= \"2026-11-01T00:00:00Z\"";
    assert_eq!(found(stale).await, ["stale", "never", "off"]);
    assert_eq!(found("last_used_time < \"2026-11-01T00:00:00Z\"").await, ["stale"]);
    assert_eq!(found("state = DISABLED").await, ["off"]);
    assert_eq!(found("state = ROTATING").await, ["fresh"]);
    assert_eq!(found("state = ACTIVE").await, ["stale", "never"]);
    assert_eq!(found("state != ACTIVE").await, ["fresh", "off"]);
    let fresh = get(&foo, &ids[0]).await.unwrap();
    assert_eq!(fresh["last_used_time"], "2026-11-20T12:00:00Z");
    assert_eq!(get(&foo, &ids[2]).await.unwrap()["last_used_time"], json!(null));
}

/// 4-15: each change of a key is told, without its secrets.
#[tokio::test]
async fn a_change_and_a_rotation_of_a_key_are_told_without_its_secrets() {
    let app = App::start().await;
    let root = app.as_root();
    let (key, secret) = create(&root, with_roles(&["auditor"])).await.unwrap();
    let id = &*key.api_key_id;
    update(&root, json!({"api_key_id": id, "name": "renamed"}), &[]).await.unwrap();
    let rotated = rotate(&root, id).await.unwrap();

    for (kind, has) in [
        ("api_key.updated", "before->>'name' <> 'renamed' and after->>'name' = 'renamed'"),
        ("api_key.rotated", "before->>'state' <> after->>'state' and after ? 'overlap_end_time'"),
    ] {
        let told = format!(
            "select count(*) as number from events \
             where type = '{kind}' and resource_id = '{id}' and {has}"
        );
        assert_eq!(count(&app, &told).await, 1, "{kind}");
    }
    for secret in [&secret, rotated["secret"].as_str().unwrap()] {
        let part = secret.split('_').nth(3).unwrap();
        let found =
            format!("select count(*) as number from events e where e::text like '%{part}%'");
        assert_eq!(count(&app, &found).await, 0);
    }
    let digests = "select count(*) as number from events e, api_keys k \
                   where e::text like '%' || encode(k.digest, 'hex') || '%'";
    assert_eq!(count(&app, digests).await, 0);
}
