//! Databases filled for load tests.

use secrecy::SecretString;
use tenantry::seed::{self, Plan, SeedError};

use crate::app::{App, count, tenant};

const PLAN: Plan = Plan { tenants: 300, seed: 7, beside_others: false };

async fn fill(app: &App, plan: Plan) -> Result<(), SeedError> {
    seed::fill(&SecretString::from(app.owner_url().await), plan, |_| {}).await
}

async fn ids(app: &App) -> Vec<String> {
    app.as_root().list("", "tenant_id").await.unwrap()
}

#[tokio::test]
async fn the_same_seed_makes_the_same_tenants_and_another_seed_others() {
    let (one, two, other) = tokio::join!(App::start(), App::start(), App::start());

    fill(&one, PLAN).await.unwrap();
    fill(&two, PLAN).await.unwrap();
    fill(&other, Plan { seed: 8, ..PLAN }).await.unwrap();

    let made = ids(&one).await;
    assert_eq!(made, ids(&two).await);
    let others = ids(&other).await;
    assert!(made.iter().all(|id| !others.contains(id)));
}

#[tokio::test]
async fn a_run_goes_on_where_the_one_before_it_ended() {
    let (whole, pieces) = tokio::join!(App::start(), App::start());

    fill(&whole, PLAN).await.unwrap();
    for tenants in [13, 207, 207, 300] {
        fill(&pieces, Plan { tenants, ..PLAN }).await.unwrap();
        let all = "select count(*) as number from tenants";
        assert_eq!(count(&pieces, all).await, i64::from(tenants));
    }

    assert_eq!(ids(&whole).await, ids(&pieces).await);
}

#[tokio::test]
async fn tenants_that_somebody_made_are_left_alone_unless_told_otherwise() {
    let app = App::start().await;
    app.as_root().create(tenant("precious")).await.unwrap();

    let refused = fill(&app, PLAN).await.unwrap_err();
    fill(&app, Plan { beside_others: true, ..PLAN }).await.unwrap();

    assert!(matches!(refused, SeedError::Others(1)), "{refused}");
    assert_eq!(count(&app, "select count(*) as number from tenants").await, 301);
}

/// What is made so must be what calls would have made.
#[tokio::test]
async fn seeded_tenants_are_like_others() {
    let app = App::start().await;
    fill(&app, Plan { tenants: 2000, ..PLAN }).await.unwrap();
    let root = app.as_root();

    for id in ids(&app).await.iter().step_by(9) {
        let tenant = root.get(id).await.unwrap();
        assert_eq!(
            root.list(&format!("code = {}", tenant.code()), "").await.unwrap(),
            std::slice::from_ref(id)
        );
        // Valid also where it is written whole.
        let tenant = pb_of(tenant);
        root.update(tenant).await.unwrap();
    }
    let broken = "select count(*) as number from tenants t
        left join tenants p on p.uid = t.parent_uid
        where t.parent_uid is not null and (
            p.uid is null
            or t.ancestors <> p.ancestors || p.uid
            or (p.type <> 'PRODUCT' and p.organization_kind <> 'SERVICE_PROVIDER')
            or (t.type = 'PRODUCT' and p.organization_kind <> 'SERVICE_PROVIDER'))";
    assert_eq!(count(&app, broken).await, 0);
    for kind in ["CLIENT", "PRODUCT"] {
        let some = format!("select count(*) as number from tenants where type = '{kind}'");
        assert!(count(&app, &some).await > 500);
    }
}

/// A tenant with what a caller may change of it.
fn pb_of(tenant: tenantry::pb::Tenant) -> tenantry::pb::Tenant {
    tenantry::pb::Tenant {
        tenant_id: tenant.tenant_id,
        name: tenant.name,
        hostname: tenant.hostname,
        support_email: tenant.support_email,
        labels: tenant.labels,
        external_ids: tenant.external_ids,
        ..Default::default()
    }
}
