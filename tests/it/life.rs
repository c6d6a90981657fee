//! What happens to a tenant after it was created: approval, locks, protection, contract, promotion and
//! moves in the tree.

use chrono::TimeDelta;
use futures_util::future::join_all;
use serde_json::{Value, json};
use tenantry::pb::{
    self,
    LockMode::{Full, ReadOnly},
    TenantState,
};
use tonic::Status;

use crate::app::{App, Caller, count, fields, tenant, told};

fn provider(id: &str) -> pb::Tenant {
    let organization_kind = pb::OrganizationKind::ServiceProvider.into();
    pb::Tenant { organization_kind, ..tenant(id) }
}

fn below(parent: &str, id: &str) -> pb::Tenant {
    pb::Tenant { parent_tenant_id: Some(parent.into()), ..tenant(id) }
}

fn client(parent: &str, id: &str) -> pb::Tenant {
    pb::Tenant { r#type: pb::TenantType::Client.into(), ..below(parent, id) }
}

async fn lock(caller: &Caller, id: &str, mode: &str) -> Result<Value, Status> {
    let request = json!({"tenant_id": id, "mode": mode, "reason": "unpaid"});
    caller.call("LockTenant", request).await
}

async fn move_below(caller: &Caller, id: &str, parent: &str) -> Result<Value, Status> {
    caller.call("MoveTenant", json!({"tenant_id": id, "parent_tenant_id": parent})).await
}

async fn key_of(app: &App, tenant: &str, role: &str) -> Caller {
    app.as_key(&app.as_root().with("x-tenant-id", tenant).create_key(&[role]).await)
}

async fn ask_for_approval(app: &App, is_required: bool) {
    let account =
        json!({"account_id": "default", "tenant_creation_approval_required": is_required});
    app.as_root().call("UpdateAccount", json!({"account": account})).await.unwrap();
}

/// 4-07, 4-08: the switch of the account, the states, their stamps, and that none is ever cleared.
#[tokio::test]
async fn where_an_account_asks_for_it_tenants_wait_until_they_are_approved_or_rejected() {
    let app = App::start().await;
    let root = app.as_root();
    root.create(tenant("before")).await.unwrap();
    ask_for_approval(&app, true).await;
    let account = root.with("x-account-id", "default");
    let approver = app.as_key(&account.create_key(&["account-tenant-approval"]).await);

    let waits = root.create(tenant("one")).await.unwrap();
    root.create(tenant("two")).await.unwrap();
    let key = key_of(&app, "one", "tenant-admin").await;
    let early = key.get("").await.unwrap_err();
    let parent = root.create(client("one", "child")).await.unwrap_err();
    approver.call("ApproveTenant", json!({"tenant_id": "one"})).await.unwrap();
    let silent = approver.call("RejectTenant", json!({"tenant_id": "two"})).await.unwrap_err();
    let reject = json!({"tenant_id": "two", "reason": "  no contract "});
    approver.call("RejectTenant", reject.clone()).await.unwrap();
    let again = approver.call("RejectTenant", reject).await.unwrap_err();
    let late = approver.call("ApproveTenant", json!({"tenant_id": "one"})).await.unwrap_err();

    assert_eq!(root.get("before").await.unwrap().state(), TenantState::Active);
    assert_eq!(waits.state(), TenantState::PendingApproval);
    let details = waits.status_details.unwrap();
    assert!(details.approve_time.is_none() && details.approved_by.is_empty());
    assert_eq!(told(&early), "FailedPrecondition TENANT_NOT_ACTIVE");
    assert_eq!(told(&parent), "FailedPrecondition TENANT_NOT_ACTIVE");
    let one = key.get("").await.unwrap();
    assert_eq!(one.state(), TenantState::Active);
    let details = one.status_details.unwrap();
    assert!(details.approve_time.is_some() && details.approved_by.starts_with("api_key:"));
    assert_eq!(fields(&silent), ["reason"]);
    for refusal in [again, late] {
        assert_eq!(told(&refusal), "FailedPrecondition INVALID_STATE_TRANSITION");
    }
    root.delete("two").await.unwrap();
    let two = root.undelete("two").await.unwrap();
    assert_eq!(two.state(), TenantState::Rejected);
    let details = two.status_details.unwrap();
    assert_eq!(details.rejection_reason, "no contract");
    assert!(details.reject_time.is_some() && details.delete_time.is_some());
}

/// 3-22: what a lock stops, and what not.
#[tokio::test]
async fn a_lock_binds_the_keys_of_the_tenant_and_of_all_below_and_nobody_above() {
    let app = App::start().await;
    let root = app.as_root();
    root.create(provider("high")).await.unwrap();
    root.create(below("high", "low")).await.unwrap();
    root.create(tenant("beside")).await.unwrap();
    let high = key_of(&app, "high", "service-provider-admin").await;
    let low = key_of(&app, "low", "tenant-admin").await;
    let beside = key_of(&app, "beside", "tenant-admin").await;
    let change = || pb::Tenant { tag: Some("new".into()), ..Default::default() };

    lock(&root, "high", "LOCK_MODE_READ_ONLY").await.unwrap();
    for key in [&high, &low] {
        key.get("").await.unwrap();
        key.list("", "").await.unwrap();
        let refusal = key.update(change()).await.unwrap_err();
        assert_eq!(told(&refusal), "FailedPrecondition TENANT_LOCKED");
    }
    lock(&root, "high", "LOCK_MODE_FULL").await.unwrap();
    for key in [&high, &low] {
        let refusal = key.get("").await.unwrap_err();
        assert_eq!(told(&refusal), "FailedPrecondition TENANT_LOCKED");
        let refusal = key.keys().who_am_i(pb::WhoAmIRequest {}).await.unwrap_err();
        assert_eq!(told(&refusal), "FailedPrecondition TENANT_LOCKED");
    }

    beside.update(change()).await.unwrap();
    root.update(pb::Tenant { tenant_id: "low".into(), ..change() }).await.unwrap();
    root.create(below("high", "later")).await.unwrap();
    root.call("UnlockTenant", json!({"tenant_id": "high"})).await.unwrap();
    low.update(change()).await.unwrap();
}

/// 3-22: computed, never copied.
#[tokio::test]
async fn unlocking_a_tenant_above_does_not_unlock_one_that_has_a_lock_of_its_own() {
    let app = App::start().await;
    let root = app.as_root();
    root.create(provider("high")).await.unwrap();
    root.create(below("high", "low")).await.unwrap();
    lock(&root, "low", "LOCK_MODE_READ_ONLY").await.unwrap();
    lock(&root, "high", "LOCK_MODE_FULL").await.unwrap();

    let both = root.get("low").await.unwrap();
    root.call("UnlockTenant", json!({"tenant_id": "high"})).await.unwrap();
    let own = root.get("low").await.unwrap();
    root.call("UnlockTenant", json!({"tenant_id": "low"})).await.unwrap();
    let none = root.get("low").await.unwrap();
    let again = root.call("UnlockTenant", json!({"tenant_id": "low"})).await.unwrap_err();

    let modes = |tenant: &pb::Tenant| {
        [&tenant.lock, &tenant.effective_lock].map(|lock| lock.as_ref().map(pb::Lock::mode))
    };
    assert_eq!(modes(&both), [Some(ReadOnly), Some(Full)]);
    let above = both.effective_lock.unwrap();
    assert!(above.reason.is_empty() && above.locked_by.is_empty(), "whose it is stays above");
    assert_eq!(modes(&own), [Some(ReadOnly), Some(ReadOnly)]);
    assert_eq!(own.lock.unwrap().reason, "unpaid");
    assert_eq!(modes(&none), [None, None]);
    assert_eq!(told(&again), "FailedPrecondition INVALID_STATE_TRANSITION");
}

/// 3-22: a tenant that sees nothing of the tenants above is told that one of them is locked.
#[tokio::test]
async fn a_tenant_is_told_of_a_lock_above_it_and_found_by_it() {
    let app = App::start().await;
    let root = app.as_root();
    root.create(provider("high")).await.unwrap();
    root.create(below("high", "low")).await.unwrap();
    root.create(tenant("beside")).await.unwrap();
    let low = key_of(&app, "low", "auditor").await;
    let high = key_of(&app, "high", "auditor").await;
    lock(&root, "high", "LOCK_MODE_READ_ONLY").await.unwrap();

    let seen = low.get("").await.unwrap();

    assert!(seen.lock.is_none());
    assert_eq!(seen.effective_lock.unwrap().mode(), pb::LockMode::ReadOnly);
    assert_eq!(root.list("locked = true", "").await.unwrap(), ["high"]);
    assert_eq!(root.list("effective_locked = true", "").await.unwrap(), ["high", "low"]);
    assert_eq!(root.list("effective_locked = false", "").await.unwrap(), ["beside"]);
    assert_eq!(low.list("effective_locked = true", "").await.unwrap(), ["low"]);
    assert_eq!(high.list("effective_locked = true", "").await.unwrap(), ["high", "low"]);
    assert_eq!(root.list("NOT locked = true", "locked desc").await.unwrap(), ["low", "beside"]);
}

/// 3-22: a lock may say when it ends.
#[tokio::test]
async fn a_lock_ends_by_itself_at_its_unlock_time() {
    let app = App::start().await;
    let root = app.as_root();
    root.create(tenant("foo")).await.unwrap();
    let key = key_of(&app, "foo", "tenant-admin").await;
    let at = |delta: TimeDelta| {
        let request = json!({"tenant_id": "foo", "mode": "LOCK_MODE_FULL", "reason": "unpaid",
            "unlock_time": (app.shared.clock.now() + delta).to_rfc3339()});
        let root = root.clone();
        async move { root.call("LockTenant", request).await }
    };

    let past = at(TimeDelta::seconds(-1)).await.unwrap_err();
    at(TimeDelta::hours(1)).await.unwrap();
    let locked = key.get("").await.unwrap_err();
    let secret = root.with("x-tenant-id", "foo").create_key(&["tenant-admin"]).await;
    let verify = || json!({"key": secret, "environment": "sod"});
    let told_locked = root.call("VerifyKey", verify()).await.unwrap();
    app.shared.clock.advance(TimeDelta::hours(1));

    assert_eq!(fields(&past), ["unlock_time"]);
    assert_eq!(told(&locked), "FailedPrecondition TENANT_LOCKED");
    assert_eq!(told_locked["code"], "VERIFY_CODE_TENANT_LOCKED");
    let open = key.get("").await.unwrap();
    assert!(open.lock.is_none() && open.effective_lock.is_none());
    assert_eq!(root.list("locked = true", "").await.unwrap(), [""; 0]);
    assert_eq!(root.call("VerifyKey", verify()).await.unwrap()["code"], "VERIFY_CODE_VALID");
}

/// 3-22: a verifier is told that a bearer may read, where it may.
#[tokio::test]
async fn a_key_of_a_tenant_locked_for_reading_is_valid_for_reading_only() {
    let app = App::start().await;
    let root = app.as_root();
    root.create(provider("high")).await.unwrap();
    root.create(below("high", "low")).await.unwrap();
    let secret = root.with("x-tenant-id", "low").create_key(&["tenant-admin"]).await;
    let verify = async |permissions: &[&str]| {
        let request =
            json!({"key": secret, "environment": "sod", "required_permissions": permissions});
        root.call("VerifyKey", request).await.unwrap()
    };
    assert!(verify(&[]).await.get("read_only").is_none());

    lock(&root, "high", "LOCK_MODE_READ_ONLY").await.unwrap();

    let reading = verify(&["TENANTS:VIEW"]).await;
    assert_eq!(reading["code"], "VERIFY_CODE_VALID");
    assert_eq!(reading["read_only"], true);
    let writing = verify(&["TENANTS:VIEW", "TENANTS:EDIT"]).await;
    assert_eq!(writing["code"], "VERIFY_CODE_TENANT_LOCKED");
}

/// No tenant raises itself: what is decided about a tenant is decided above it.
#[tokio::test]
async fn no_key_approves_locks_moves_or_promotes_its_own_tenant() {
    let app = App::start().await;
    let root = app.as_root();
    root.create(provider("high")).await.unwrap();
    root.create(below("high", "own")).await.unwrap();
    root.call("PromoteTenant", json!({"tenant_id": "own"})).await.unwrap();
    root.create(below("own", "low")).await.unwrap();
    let own = key_of(&app, "own", "service-provider-admin").await;

    for (method, request) in [
        ("ApproveTenant", json!({})),
        ("RejectTenant", json!({"reason": "r"})),
        ("LockTenant", json!({"mode": "LOCK_MODE_FULL", "reason": "r"})),
        ("UnlockTenant", json!({})),
        ("MoveTenant", json!({"parent_tenant_id": "high"})),
        ("MoveTenant", json!({})),
        ("PromoteTenant", json!({})),
    ] {
        let refusal = own.call(method, request).await.unwrap_err();
        assert_eq!(told(&refusal), "PermissionDenied PERMISSION_MISSING", "{method}");
    }
    lock(&own, "low", "LOCK_MODE_FULL").await.unwrap();
    own.call("UnlockTenant", json!({"tenant_id": "low"})).await.unwrap();
    let out = move_below(&own, "low", "").await.unwrap_err();
    assert_eq!(told(&out), "PermissionDenied PERMISSION_MISSING");
    let above = move_below(&own, "low", "high").await.unwrap_err();
    assert_eq!(told(&above), "NotFound PARENT_NOT_FOUND");
    own.call("PromoteTenant", json!({"tenant_id": "low"})).await.unwrap();
}

/// 1-46: what is protected is changed by protected callers.
#[tokio::test]
async fn a_protected_tenant_is_changed_by_keys_of_the_system_and_of_protected_tenants_only() {
    let app = App::start().await;
    let root = app.as_root();
    let admin = root.with("x-account-id", "default").create_key(&["account-admin"]).await;
    let admin = app.as_key(&admin);
    root.create(provider("high")).await.unwrap();
    root.create(pb::Tenant { protected: Some(true), ..below("high", "low") }).await.unwrap();
    let high = key_of(&app, "high", "service-provider-admin").await;
    let change =
        pb::Tenant { tenant_id: "low".into(), tag: Some("n".into()), ..Default::default() };

    for caller in [&admin, &high] {
        let refusals = [
            caller.update(change.clone()).await.unwrap_err(),
            caller.delete("low").await.unwrap_err(),
            lock(caller, "low", "LOCK_MODE_FULL").await.unwrap_err(),
            caller.call("PromoteTenant", json!({"tenant_id": "low"})).await.unwrap_err(),
            move_below(caller, "low", "high").await.unwrap_err(),
        ];
        for refusal in refusals {
            assert_eq!(told(&refusal), "FailedPrecondition RECORD_PROTECTED");
        }
        let protect = pb::Tenant { protected: Some(true), ..tenant("mine") };
        let refusal = caller.create(protect).await.unwrap_err();
        assert_eq!(told(&refusal), "PermissionDenied PERMISSION_MISSING");
    }
    let protect = |id: &str, is: bool| pb::Tenant {
        tenant_id: id.into(),
        protected: Some(is),
        ..Default::default()
    };
    root.update(protect("high", true)).await.unwrap();
    high.update(change).await.unwrap();
    high.update(protect("low", false)).await.unwrap();
    admin.delete("low").await.unwrap();
    assert_eq!(root.list("protected = true", "").await.unwrap(), ["high"]);
}

/// 1-46: whoever makes a key of a protected tenant could change the tenant with it.
#[tokio::test]
async fn the_keys_of_a_protected_tenant_are_its_own_and_its_protectors() {
    let app = App::start().await;
    let root = app.as_root();
    let account = root.with("x-account-id", "default");
    let admin = app.as_key(&account.create_key(&["account-admin"]).await);
    root.create(pb::Tenant { protected: Some(true), ..tenant("foo") }).await.unwrap();
    let key = json!({"api_key": {"roles": ["tenant-admin"], "tenant_id": "foo"}});

    let made = root.call("CreateApiKey", key.clone()).await.unwrap();
    let own = app.as_key(made["secret"].as_str().unwrap());
    let refused = admin.call("CreateApiKey", key.clone()).await.unwrap_err();
    let revoke = json!({"api_key_id": made["api_key"]["api_key_id"], "reason": "sabotage"});
    let kept = admin.call("RevokeApiKey", revoke.clone()).await.unwrap_err();
    // It would shut them all out.
    let list = json!({"enabled": true, "rules": [{"name": "x", "cidr": "192.0.2.1/32"}]});
    let shut = admin.with("x-tenant-id", "foo").call("UpdateIpAllowlist", list).await.unwrap_err();

    assert_eq!(told(&refused), "FailedPrecondition RECORD_PROTECTED");
    assert_eq!(told(&kept), "FailedPrecondition RECORD_PROTECTED");
    assert_eq!(told(&shut), "FailedPrecondition RECORD_PROTECTED");
    own.call("UpdateIpAllowlist", json!({"enabled": false})).await.unwrap();
    own.call("CreateApiKey", key).await.unwrap();
    own.call("RevokeApiKey", revoke).await.unwrap();
}

/// 3-14: sixty days; a provider on trial has tenants on trial.
#[tokio::test]
async fn a_trial_ends_after_sixty_days_unless_it_becomes_productive() {
    let app = App::start().await;
    let root = app.as_root();
    let trial = pb::ContractMode::Trial.into();
    root.create(pb::Tenant { contract_mode: trial, ..provider("high") }).await.unwrap();
    let low = pb::Tenant { contract_mode: trial, ..below("high", "low") };
    let low = root.create(low).await.unwrap();
    let productive = || pb::ContractMode::Production.into();
    let refused = root
        .create(pb::Tenant { contract_mode: productive(), ..below("high", "other") })
        .await
        .unwrap_err();
    let key = key_of(&app, "low", "tenant-admin").await;
    let secret = root.with("x-tenant-id", "low").create_key(&["tenant-admin"]).await;
    let upgrade = |id: &str| pb::Tenant {
        tenant_id: id.into(),
        contract_mode: productive(),
        ..Default::default()
    };
    let before_its_provider = root.update(upgrade("low")).await.unwrap_err();

    assert_eq!(low.contract_mode(), pb::ContractMode::Trial, "as its provider");
    let end = low.trial_expire_time.unwrap().seconds - low.create_time.unwrap().seconds;
    assert_eq!(end, 60 * 24 * 3600);
    assert_eq!(told(&refused), "FailedPrecondition CONTRACT_MODE_NOT_ALLOWED");
    assert_eq!(told(&before_its_provider), "FailedPrecondition CONTRACT_MODE_NOT_ALLOWED");
    key.get("").await.unwrap();
    app.shared.clock.advance(TimeDelta::days(60));
    let over = key.get("").await.unwrap_err();
    assert_eq!(told(&over), "FailedPrecondition TENANT_NOT_ACTIVE");
    let verdict = root.call("VerifyKey", json!({"key": secret, "environment": "sod"})).await;
    assert_eq!(verdict.unwrap()["code"], "VERIFY_CODE_TENANT_INACTIVE");
    root.update(upgrade("high")).await.unwrap();
    let upgraded = root.update(upgrade("low")).await.unwrap();
    assert!(upgraded.trial_expire_time.is_none());
    key.get("").await.unwrap();
}

/// 3-24: an operator makes a provider of a tenant, and there is no way back.
#[tokio::test]
async fn a_promoted_tenant_is_a_provider_that_takes_tenants_below_it() {
    let app = App::start().await;
    let root = app.as_root();
    root.create(tenant("foo")).await.unwrap();
    let early = root.create(below("foo", "low")).await.unwrap_err();

    root.call("PromoteTenant", json!({"tenant_id": "foo"})).await.unwrap();
    root.create(below("foo", "low")).await.unwrap();
    let again = root.call("PromoteTenant", json!({"tenant_id": "foo"})).await.unwrap_err();

    assert_eq!(fields(&early), ["tenant.parent_tenant_id"]);
    assert_eq!(told(&again), "FailedPrecondition INVALID_STATE_TRANSITION");
    assert_eq!(root.list("service_provider = true", "").await.unwrap(), ["foo"]);
}

/// 3-26, 1-09: with its subtree, within its account, without circles and no deeper than five.
#[tokio::test]
async fn a_tenant_moves_with_all_below_it_to_where_it_may_stand() {
    let app = App::start().await;
    let root = app.as_root();
    for id in ["a", "b"] {
        root.create(provider(id)).await.unwrap();
    }
    for (parent, id) in [("a", "a1"), ("a1", "a2"), ("b", "b1"), ("b1", "b2"), ("b2", "b3")] {
        root.create(pb::Tenant { parent_tenant_id: Some(parent.into()), ..provider(id) })
            .await
            .unwrap();
    }
    root.create(client("a2", "leaf")).await.unwrap();
    let foreign = app.account("other").await;
    foreign.create(provider("foreign")).await.unwrap();
    root.create(tenant("plain")).await.unwrap();
    root.create(client("plain", "plain-client")).await.unwrap();
    let issuance = pb::ServiceLine::Issuance.into();
    root.create(pb::Tenant { service_line: issuance, ..provider("issuer") }).await.unwrap();

    for (id, parent, told_field) in [
        ("a", "a2", "parent_tenant_id"),
        ("a", "a", "parent_tenant_id"),
        ("a1", "b3", "parent_tenant_id"),
        ("a1", "plain", "parent_tenant_id"),
        ("a1", "plain-client", "parent_tenant_id"),
        ("a1", "issuer", "parent_tenant_id"),
        ("leaf", "", "parent_tenant_id"),
    ] {
        let refusal = move_below(&root, id, parent).await.unwrap_err();
        assert_eq!(fields(&refusal), [told_field], "{id} below {parent}: {refusal:?}");
    }
    for parent in ["foreign", "nobody"] {
        let refusal = move_below(&root, "a1", parent).await.unwrap_err();
        assert_eq!(told(&refusal), "NotFound PARENT_NOT_FOUND", "{parent}");
    }
    let high = key_of(&app, "b", "service-provider-admin").await;
    assert_eq!(high.list("", "tenant_id").await.unwrap(), ["b", "b1", "b2", "b3"]);
    let moved = move_below(&root, "a1", "b").await.unwrap();

    assert_eq!(moved["tenant"]["parent_tenant_id"], "b");
    let all = ["a1", "a2", "b", "b1", "b2", "b3", "leaf"];
    assert_eq!(high.list("", "tenant_id").await.unwrap(), all);
    assert_eq!(root.get("leaf").await.unwrap().parent_tenant_id(), "a2");
    move_below(&root, "a1", "").await.unwrap();
    assert_eq!(high.list("", "tenant_id").await.unwrap(), ["b", "b1", "b2", "b3"]);
    let same = move_below(&root, "a1", "").await.unwrap();
    assert_eq!(
        same["tenant"]["etag"],
        root.get("a1").await.unwrap().etag,
        "it stood there already"
    );
}

/// Moves that would make a circle of each other's ends: at most one of each pair happens.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_moves_never_make_a_circle_or_lose_a_child() {
    let app = App::start().await;
    let root = app.as_root();
    for round in 0..8 {
        let id = |name: &str| format!("{name}-{round}");
        for name in ["a", "b"] {
            root.create(provider(&id(name))).await.unwrap();
            let low = pb::Tenant {
                parent_tenant_id: Some(id(name)),
                ..provider(&id(&format!("{name}-low")))
            };
            root.create(low).await.unwrap();
        }
        let new = below(&id("a-low"), &id("new"));
        let (first, second, created) = tokio::join!(
            async { move_below(&root, &id("a"), &id("b-low")).await },
            async { move_below(&root, &id("b"), &id("a-low")).await },
            root.create(new),
        );
        assert!(first.is_ok() != second.is_ok(), "{first:?} {second:?}");
        created.unwrap();
    }

    let wrong = "select count(*) as number from tenants t \
                 left join tenants p on p.uid = t.parent_uid \
                 where t.ancestors is distinct from \
                     case when p.uid is null then '{}' else p.ancestors || p.uid end";
    assert_eq!(count(&app, wrong).await, 0, "the ancestors are those of the parent, and it");
}

/// 4-18: freed by a deletion, asked for again by the way back, and never passed by concurrent ones.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_account_has_no_more_tenants_than_it_may() {
    let app = App::start().await;
    let root = app.as_root();
    let account = json!({"account_id": "small", "name": "Small", "max_tenants": 10});
    root.call("CreateAccount", json!({"account": account})).await.unwrap();
    let small = root.with("x-account-id", "small");
    let admin = app.as_key(&small.create_key(&["account-admin"]).await);

    let tries = (0..50).map(|number| {
        let admin = admin.clone();
        async move { admin.create(tenant(&format!("t-{number}"))).await }
    });
    let (made, refused): (Vec<_>, Vec<_>) =
        join_all(tries).await.into_iter().partition(Result::is_ok);

    assert_eq!(made.len(), 10);
    for refusal in refused {
        assert_eq!(told(&refusal.unwrap_err()), "ResourceExhausted TENANT_LIMIT_EXCEEDED");
    }
    let first = &made[0].as_ref().unwrap().tenant_id;
    admin.delete(first).await.unwrap();
    admin.create(tenant("instead")).await.unwrap();
    let back = admin.undelete(first).await.unwrap_err();
    assert_eq!(told(&back), "ResourceExhausted TENANT_LIMIT_EXCEEDED");
    let more = json!({"account": {"account_id": "small", "max_tenants": 11}});
    let own = admin.call("UpdateAccount", more.clone()).await.unwrap_err();
    assert_eq!(told(&own), "PermissionDenied PERMISSION_MISSING", "no account raises itself");
    small.call("UpdateAccount", more).await.unwrap();
    admin.undelete(first).await.unwrap();
}
