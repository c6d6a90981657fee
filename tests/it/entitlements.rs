//! Entitlements: how much a tenant may use, and what a service provider has to give.

use futures_util::future::join_all;
use serde_json::json;
use tenantry::pb;
use tonic::Status;
use tonic_types::StatusExt as _;

use crate::app::{App, Caller, count, fields, rows, tenant, told};

fn users(quantity: i64) -> pb::Entitlement {
    pb::Entitlement {
        r#type: pb::EntitlementType::Users.into(),
        quantity: Some(quantity),
        contract_mode: pb::ContractMode::Production.into(),
        ..Default::default()
    }
}

fn issuing(quantity: i64, bundles: &[&str]) -> pb::Entitlement {
    let service_bundles = bundles.iter().map(|bundle| (*bundle).to_owned()).collect();
    pb::Entitlement { issuance: Some(pb::Issuance { service_bundles }), ..users(quantity) }
}

async fn set(caller: &Caller, entitlement: pb::Entitlement) -> Result<pb::Entitlement, Status> {
    let request =
        pb::SetEntitlementRequest { entitlement: Some(entitlement), ..Default::default() };
    Ok(caller.tenants().set_entitlement(request).await?.into_inner().entitlement.unwrap())
}

async fn list(caller: &Caller, filter: &str) -> Result<Vec<pb::Entitlement>, Status> {
    let request = pb::ListEntitlementsRequest { filter: filter.to_owned(), ..Default::default() };
    Ok(caller.tenants().list_entitlements(request).await?.into_inner().entitlements)
}

async fn remaining(caller: &Caller) -> i64 {
    list(caller, "type = USERS").await.unwrap()[0].remaining
}

fn below(id: &str, parent: &str) -> pb::Tenant {
    pb::Tenant { parent_tenant_id: Some(parent.into()), ..tenant(id) }
}

fn serving(tenant: pb::Tenant) -> pb::Tenant {
    pb::Tenant { organization_kind: pb::OrganizationKind::ServiceProvider.into(), ..tenant }
}

fn client(tenant: pb::Tenant) -> pb::Tenant {
    pb::Tenant { r#type: pb::TenantType::Client.into(), ..tenant }
}

/// A provider `high` with the tenants `one` and `two` below it, and who acts on a tenant from above.
async fn provider() -> (App, impl Fn(&str) -> Caller) {
    let app = App::start().await;
    let root = app.as_root();
    root.create(serving(tenant("high"))).await.unwrap();
    for id in ["one", "two"] {
        root.create(below(id, "high")).await.unwrap();
    }
    (app, move |id: &str| root.with("x-tenant-id", id))
}

/// 3-11, 3-13
#[tokio::test]
async fn an_entitlement_is_set_once_for_each_type_and_changed_after_that() {
    let (app, on) = provider().await;
    let high = on("high");
    let said = pb::Entitlement { contract_number: "C-1".into(), ..users(10) };

    let first = set(&high, said.clone()).await.unwrap();
    let same = set(&high, said).await.unwrap();
    let more = pb::Entitlement { etag: first.etag.clone(), ..users(20) };
    let more = set(&high, more).await.unwrap();
    let stale = pb::Entitlement { etag: first.etag.clone(), ..users(30) };
    let stale = set(&high, stale).await.unwrap_err();
    let early = pb::Entitlement {
        r#type: pb::EntitlementType::Transactions.into(),
        etag: "1".into(),
        ..users(5)
    };
    let early = set(&high, early).await.unwrap_err();
    let transactions =
        pb::Entitlement { r#type: pb::EntitlementType::Transactions.into(), ..users(5) };
    set(&high, transactions).await.unwrap();

    assert_eq!((first.status(), first.remaining), (pb::EntitlementStatus::Active, 10));
    assert_eq!((first.start_time, first.end_time), (first.create_time, None));
    assert_eq!(same, first);
    assert_eq!(more.entitlement_id, first.entitlement_id);
    assert_eq!((more.quantity, &*more.contract_number), (Some(20), ""), "replaced whole");
    assert_eq!((more.start_time, more.create_time), (first.start_time, first.create_time));
    for refusal in [stale, early] {
        assert_eq!(told(&refusal), "Aborted ETAG_MISMATCH");
    }
    let types =
        |list: Vec<pb::Entitlement>| list.iter().map(pb::Entitlement::quantity).collect::<Vec<_>>();
    assert_eq!(types(list(&high, "").await.unwrap()), [5, 20]);
    assert_eq!(types(list(&high, "type = USERS").await.unwrap()), [20]);
    assert_eq!(types(list(&high, "status != ACTIVE").await.unwrap()), [0; 0]);
    let own = app.as_key(&high.create_key(&["tenant-admin"]).await);
    assert_eq!(types(list(&own, "").await.unwrap()), [5, 20]);
}

/// 3-07, 3-08, 3-10
#[tokio::test]
async fn everything_that_is_wrong_with_an_entitlement_is_told_at_once() {
    let (app, on) = provider().await;
    let before = rows(&app).await;
    let far = pb::Entitlement {
        start_time: Some("2999-01-01T00:00:00Z".parse().unwrap()),
        end_time: Some("2998-01-01T00:00:00Z".parse().unwrap()),
        ..users(1)
    };
    let wrong = pb::Entitlement {
        status: 9,
        quantity: None,
        contract_number: "x".repeat(81),
        issuance: Some(pb::Issuance { service_bundles: vec![String::new()] }),
        ..Default::default()
    };

    let refusal = set(&on("high"), wrong).await.unwrap_err();
    let negative = set(&on("high"), users(-1)).await.unwrap_err();
    let far = set(&on("high"), far).await.unwrap_err();

    let mut named = fields(&refusal);
    named.sort();
    assert_eq!(
        named,
        [
            "entitlement.contract_mode",
            "entitlement.contract_number",
            "entitlement.issuance.service_bundles",
            "entitlement.quantity",
            "entitlement.status",
            "entitlement.type",
        ]
    );
    assert_eq!(fields(&negative), ["entitlement.quantity"]);
    assert_eq!(fields(&far), ["entitlement.start_time", "entitlement.end_time"]);
    assert_eq!(rows(&app).await, before);
}

/// 3-10
#[tokio::test]
async fn an_entitlement_ends_with_that_of_its_provider_at_the_latest() {
    let (_app, on) = provider().await;
    let until = |end: &str, it: pb::Entitlement| pb::Entitlement {
        end_time: Some(end.parse().unwrap()),
        ..it
    };
    set(&on("high"), until("2998-01-01T00:00:00Z", users(10))).await.unwrap();

    let default = set(&on("one"), users(1)).await.unwrap();
    let late = set(&on("one"), until("2998-01-02T00:00:00Z", users(1))).await.unwrap_err();
    let early = set(&on("one"), until("2997-01-01T00:00:00Z", users(1))).await.unwrap();

    assert_eq!(default.end_time, Some("2998-01-01T00:00:00Z".parse().unwrap()));
    assert_eq!(fields(&late), ["entitlement.end_time"]);
    assert_eq!(early.end_time, Some("2997-01-01T00:00:00Z".parse().unwrap()));
}

/// 3-08
#[tokio::test]
async fn a_provider_gives_no_more_than_it_has() {
    let (app, on) = provider().await;
    let nothing = set(&on("one"), users(1)).await.unwrap_err();
    set(&on("high"), users(10)).await.unwrap();
    set(&on("one"), users(6)).await.unwrap();

    let too_much = set(&on("two"), users(5)).await.unwrap_err();
    set(&on("two"), users(4)).await.unwrap();
    let raised = set(&on("one"), users(7)).await.unwrap_err();
    let too_low = set(&on("high"), users(9)).await.unwrap_err();

    for refusal in [nothing, too_much, raised, too_low] {
        assert_eq!(told(&refusal), "ResourceExhausted ENTITLEMENT_EXCEEDED");
        let details = refusal.get_error_details();
        assert_eq!(details.quota_failure().unwrap().violations[0].subject, "tenant:high");
    }
    assert_eq!((remaining(&on("high")).await, remaining(&on("one")).await), (0, 6));
    let resting = pb::Entitlement { status: pb::EntitlementStatus::Inactive.into(), ..users(6) };
    set(&on("one"), resting).await.unwrap();
    assert_eq!(remaining(&on("high")).await, 6, "what is not active takes nothing");
    app.as_root().delete("two").await.unwrap();
    assert_eq!(remaining(&on("high")).await, 10, "nor does a deleted tenant");
    set(&on("one"), users(10)).await.unwrap();
    let back = app.as_root().undelete("two").await.unwrap_err();
    assert_eq!(told(&back), "ResourceExhausted ENTITLEMENT_EXCEEDED");
    set(&on("one"), users(6)).await.unwrap();
    app.as_root().undelete("two").await.unwrap();
    assert_eq!(remaining(&on("high")).await, 0);
}

/// 3-08
#[tokio::test]
async fn what_a_provider_may_no_longer_use_it_does_not_give() {
    let (app, on) = provider().await;
    let soon = pb::Entitlement {
        end_time: Some(prost_types::Timestamp {
            seconds: app.shared.clock.now().timestamp() + 3_600,
            nanos: 0,
        }),
        ..users(10)
    };
    set(&on("high"), soon.clone()).await.unwrap();
    set(&on("one"), users(5)).await.unwrap();

    let resting =
        pb::Entitlement { status: pb::EntitlementStatus::Inactive.into(), ..soon.clone() };
    set(&on("high"), resting).await.unwrap();
    let from_resting = set(&on("two"), users(1)).await.unwrap_err();
    set(&on("one"), users(4)).await.unwrap();
    set(&on("high"), soon).await.unwrap();
    set(&on("two"), users(1)).await.unwrap();
    app.shared.clock.advance(chrono::TimeDelta::hours(2));
    let from_ended = set(&on("two"), users(2)).await.unwrap_err();

    for refusal in [from_resting, from_ended] {
        assert_eq!(told(&refusal), "ResourceExhausted ENTITLEMENT_EXCEEDED");
    }
}

/// 3-08
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_fifty_children_at_once_exactly_as_many_get_something_as_there_is() {
    let (app, on) = provider().await;
    set(&on("high"), users(10)).await.unwrap();
    for number in 0..50 {
        app.as_root().create(below(&format!("c{number}"), "high")).await.unwrap();
    }
    let admin = on("high").create_key(&["service-provider-admin"]).await;
    let admin = app.as_key(&admin);

    let tries = join_all((0..50).map(|number| {
        let child = admin.with("x-tenant-id", &format!("c{number}"));
        async move { set(&child, users(1)).await }
    }))
    .await;

    let (given, refused): (Vec<_>, Vec<_>) = tries.into_iter().partition(Result::is_ok);
    for refusal in refused {
        assert_eq!(told(&refusal.unwrap_err()), "ResourceExhausted ENTITLEMENT_EXCEEDED");
    }
    assert_eq!(given.len(), 10);
    let held = "select coalesce(sum(quantity), 0)::bigint as number from tenant_entitlements e \
                join tenants t on t.uid = e.tenant_uid where t.tenant_id like 'c%'";
    assert_eq!(count(&app, held).await, 10);
    assert_eq!(remaining(&on("high")).await, 0);
}

/// 3-08
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_provider_is_never_lowered_below_what_it_gives_at_the_same_time() {
    let (app, on) = provider().await;
    for _ in 0..10 {
        set(&on("one"), users(0)).await.unwrap_or_default();
        set(&on("high"), users(10)).await.unwrap();

        let (high, one) = (on("high"), on("one"));
        let (lowered, given) = tokio::join!(set(&high, users(5)), set(&one, users(6)));

        assert!(lowered.is_ok() != given.is_ok(), "{lowered:?} {given:?}");
    }
    let open = "select count(*) as number from tenant_entitlements where type = 'USERS'";
    assert_eq!(count(&app, open).await, 2);
}

/// 3-13
#[tokio::test]
async fn no_tenant_entitles_itself_and_a_provider_entitles_those_below_it() {
    let (app, on) = provider().await;
    set(&on("high"), users(10)).await.unwrap();
    let admin = app.as_key(&on("high").create_key(&["service-provider-admin"]).await);
    let own = app.as_key(&on("one").create_key(&["tenant-admin"]).await);

    let itself = set(&admin, users(1_000)).await.unwrap_err();
    let by_tenant = set(&own, users(1)).await.unwrap_err();
    let below = set(&admin.with("x-tenant-id", "one"), users(3)).await.unwrap();

    assert_eq!(told(&itself), "PermissionDenied PERMISSION_MISSING");
    assert_eq!(told(&by_tenant), "PermissionDenied PERMISSION_MISSING");
    assert_eq!(below.remaining, 3);
    assert_eq!(list(&own, "type = USERS").await.unwrap(), [below]);
    // What is left depends on tenants that a provider's own admin of one tenant does not see.
    let manager = app.as_key(&on("high").create_key(&["tenant-admin"]).await);
    assert_eq!(remaining(&manager).await, 7);
    assert_eq!(manager.list("", "").await.unwrap(), ["high"]);
}

/// 3-07
#[tokio::test]
async fn a_provider_on_trial_gives_trials_only() {
    let (_app, on) = provider().await;
    let trial = |it: pb::Entitlement| pb::Entitlement {
        contract_mode: pb::ContractMode::Trial.into(),
        ..it
    };
    set(&on("high"), trial(users(10))).await.unwrap();

    let refusal = set(&on("one"), users(1)).await.unwrap_err();
    set(&on("one"), trial(users(1))).await.unwrap();

    assert_eq!(told(&refusal), "FailedPrecondition CONTRACT_MODE_NOT_ALLOWED");
}

/// 3-09
#[tokio::test]
async fn an_issuance_tenant_has_one_of_the_bundles_of_its_provider() {
    let app = App::start().await;
    let root = app.as_root();
    let issuer = |tenant: pb::Tenant| pb::Tenant {
        service_line: pb::ServiceLine::Issuance.into(),
        ..tenant
    };
    root.create(issuer(serving(tenant("high")))).await.unwrap();
    let (high, low) = (root.with("x-tenant-id", "high"), root.with("x-tenant-id", "low"));
    let new = |bundles: &[&str]| pb::CreateTenantRequest {
        tenant: Some(below("low", "high")),
        entitlement: Some(issuing(1, bundles)),
        ..Default::default()
    };

    let without = set(&high, users(10)).await.unwrap_err();
    let several = set(&high, issuing(10, &["silver", "gold"])).await.unwrap();
    let mut refusals = vec![without];
    for bundles in [&[][..], &["gold", "silver"], &["bronze"]] {
        refusals.push(root.tenants().create_tenant(new(bundles)).await.unwrap_err());
    }
    root.tenants().create_tenant(new(&["silver"])).await.unwrap();
    for bundles in [&[][..], &["gold", "silver"], &["bronze"]] {
        refusals.push(set(&low, issuing(1, bundles)).await.unwrap_err());
    }
    let one = set(&low, issuing(1, &["gold"])).await.unwrap();

    for refusal in refusals {
        assert_eq!(told(&refusal), "InvalidArgument ISSUANCE_BUNDLE_INVALID");
        assert_eq!(fields(&refusal), ["entitlement.issuance.service_bundles"]);
    }
    assert_eq!(several.issuance.unwrap().service_bundles, ["gold", "silver"]);
    assert_eq!(one.issuance.unwrap().service_bundles, ["gold"]);
}

/// 3-08: what a tenant holds it takes from the provider that it stands below, wherever it moves.
#[tokio::test]
async fn a_tenant_moves_only_to_a_provider_that_has_what_it_holds() {
    let (app, on) = provider().await;
    let root = app.as_root();
    root.create(serving(tenant("other"))).await.unwrap();
    set(&on("high"), users(10)).await.unwrap();
    set(&on("one"), users(6)).await.unwrap();
    let to_other = || json!({"tenant_id": "one", "parent_tenant_id": "other"});

    let nothing = root.call("MoveTenant", to_other()).await.unwrap_err();
    set(&on("other"), users(5)).await.unwrap();
    let too_little = root.call("MoveTenant", to_other()).await.unwrap_err();
    set(&on("other"), users(6)).await.unwrap();
    root.call("MoveTenant", to_other()).await.unwrap();

    for refusal in [nothing, too_little] {
        assert_eq!(told(&refusal), "ResourceExhausted ENTITLEMENT_EXCEEDED");
    }
    assert_eq!((remaining(&on("high")).await, remaining(&on("other")).await), (10, 0));
}

/// 3-07, 3-09: what a provider does not give to a tenant, it does not give to one that moves below it
/// or comes back either; and it does not give up what those below it hold.
#[tokio::test]
async fn a_provider_and_what_stands_below_it_agree_on_bundles_and_contracts() {
    let app = App::start().await;
    let root = app.as_root();
    let issuer = |tenant: pb::Tenant| pb::Tenant {
        service_line: pb::ServiceLine::Issuance.into(),
        ..tenant
    };
    let trial = |it: pb::Entitlement| pb::Entitlement {
        contract_mode: pb::ContractMode::Trial.into(),
        ..it
    };
    let on = |id: &str| root.with("x-tenant-id", id);
    let to_high = || json!({"tenant_id": "low", "parent_tenant_id": "high"});
    root.create(issuer(serving(tenant("high")))).await.unwrap();
    root.create(issuer(tenant("low"))).await.unwrap();
    set(&on("high"), issuing(10, &["silver"])).await.unwrap();

    set(&on("low"), issuing(1, &["gold"])).await.unwrap();
    let gold = root.call("MoveTenant", to_high()).await.unwrap_err();
    set(&on("low"), issuing(1, &["gold", "silver"])).await.unwrap();
    let both = root.call("MoveTenant", to_high()).await.unwrap_err();
    set(&on("low"), issuing(1, &["silver"])).await.unwrap();
    set(&on("high"), trial(issuing(10, &["silver"]))).await.unwrap();
    let production = root.call("MoveTenant", to_high()).await.unwrap_err();
    set(&on("high"), issuing(10, &["silver"])).await.unwrap();
    root.call("MoveTenant", to_high()).await.unwrap();

    let dropped = set(&on("high"), issuing(10, &["gold"])).await.unwrap_err();
    let tried = set(&on("high"), trial(issuing(10, &["silver"]))).await.unwrap_err();
    root.call("DeleteTenant", json!({"tenant_id": "low"})).await.unwrap();
    set(&on("high"), issuing(10, &["gold"])).await.unwrap();
    let back = root.call("UndeleteTenant", json!({"tenant_id": "low"})).await.unwrap_err();

    for (refusal, field) in [
        (gold, "parent_tenant_id"),
        (both, "parent_tenant_id"),
        (dropped, "entitlement.issuance.service_bundles"),
        (back, "tenant_id"),
    ] {
        assert_eq!(told(&refusal), "InvalidArgument ISSUANCE_BUNDLE_INVALID");
        assert_eq!(fields(&refusal), [field]);
    }
    for refusal in [production, tried] {
        assert_eq!(told(&refusal), "FailedPrecondition CONTRACT_MODE_NOT_ALLOWED");
    }
}

/// 3-08, 3-14, 3-15: whoever becomes a provider binds what stands below it already.
#[tokio::test]
async fn a_tenant_becomes_a_provider_only_of_what_may_stand_below_one() {
    let app = App::start().await;
    let root = app.as_root();
    let on = |id: &str| root.with("x-tenant-id", id);
    let promote = async || root.call("PromoteTenant", json!({"tenant_id": "high"})).await;
    root.create(tenant("high")).await.unwrap();
    root.create(client(below("low", "high"))).await.unwrap();
    set(&on("low"), users(5)).await.unwrap();

    let nothing = promote().await.unwrap_err();
    set(&on("high"), users(4)).await.unwrap();
    let too_little = promote().await.unwrap_err();
    set(&on("high"), users(5)).await.unwrap();
    root.call(
        "CreateTenant",
        json!({"tenant": {
            "tenant_id": "line", "name": "line", "description": "", "type": "TENANT_TYPE_CLIENT",
            "organization_kind": "ORGANIZATION_KIND_ENTERPRISE", "parent_tenant_id": "high",
            "service_line": "SERVICE_LINE_ISSUANCE",
        }}),
    )
    .await
    .unwrap();
    let line = promote().await.unwrap_err();
    root.call("DeleteTenant", json!({"tenant_id": "line"})).await.unwrap();
    promote().await.unwrap();
    let back = root.call("UndeleteTenant", json!({"tenant_id": "line"})).await.unwrap_err();

    for refusal in [nothing, too_little] {
        assert_eq!(told(&refusal), "ResourceExhausted ENTITLEMENT_EXCEEDED");
    }
    for refusal in [line, back] {
        assert_eq!(told(&refusal), "InvalidArgument INVALID_FIELD");
        assert_eq!(fields(&refusal), ["tenant_id"]);
    }
    assert_eq!(remaining(&on("high")).await, 0);
}

/// 3-14
#[tokio::test]
async fn a_tenant_on_trial_becomes_a_provider_of_trials_only() {
    let app = App::start().await;
    let root = app.as_root();
    let trial =
        |tenant: pb::Tenant| pb::Tenant { contract_mode: pb::ContractMode::Trial.into(), ..tenant };
    root.create(trial(tenant("high"))).await.unwrap();
    root.create(client(below("low", "high"))).await.unwrap();

    let refusal = root.call("PromoteTenant", json!({"tenant_id": "high"})).await.unwrap_err();

    assert_eq!(told(&refusal), "FailedPrecondition CONTRACT_MODE_NOT_ALLOWED");
}
