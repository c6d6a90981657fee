//! Usage: what tenants used, recorded once for each period.

use futures_util::future::join_all;
use tenantry::pb;
use tonic::Status;

use crate::app::{App, Caller, count, fields, rows, tenant, told};

use pb::{AggregationPeriod as Period, UsageType};

fn usage(usage_type: UsageType, period: Period, start: &str) -> pb::UsageRecord {
    pb::UsageRecord {
        usage_type: usage_type.into(),
        aggregation_period: period.into(),
        start_time: Some(start.parse().unwrap()),
        ..Default::default()
    }
}

async fn record(caller: &Caller, usage: pb::UsageRecord) -> Result<pb::UsageRecord, Status> {
    let request = pb::RecordUsageRequest { usage_record: Some(usage), ..Default::default() };
    Ok(caller.tenants().record_usage(request).await?.into_inner().usage_record.unwrap())
}

async fn list(caller: &Caller, filter: &str, order_by: &str) -> Result<Vec<String>, Status> {
    let mut found = Vec::new();
    let mut request = pb::ListUsageRequest {
        page_size: 1,
        filter: filter.to_owned(),
        order_by: order_by.to_owned(),
        ..Default::default()
    };
    loop {
        let answer = caller.tenants().list_usage(request).await?.into_inner();
        found.extend(answer.usage_records.into_iter().map(|record| record.bundle_type));
        if answer.next_page_token.is_empty() {
            return Ok(found);
        }
        let page_token = answer.next_page_token;
        request = pb::ListUsageRequest { page_size: 1, page_token, ..Default::default() };
    }
}

/// A provider and a tenant below it, with callers: root on the tenant, the provider's admin, and that on
/// the tenant.
async fn provider() -> (App, Caller, Caller, Caller) {
    let app = App::start().await;
    let root = app.as_root();
    let high = pb::Tenant {
        organization_kind: pb::OrganizationKind::ServiceProvider.into(),
        ..tenant("high")
    };
    root.create(high).await.unwrap();
    let low = pb::Tenant { parent_tenant_id: Some("high".into()), ..tenant("low") };
    root.create(low).await.unwrap();
    let admin = root.with("x-tenant-id", "high").create_key(&["service-provider-admin"]).await;
    let admin = app.as_key(&admin);
    let on_low = root.with("x-tenant-id", "low");
    let below = admin.with("x-tenant-id", "low");
    (app, on_low, admin, below)
}

/// 3-21
#[tokio::test]
async fn what_a_tenant_used_is_recorded_once_for_each_period() {
    let (_app, on_low, ..) = provider().await;
    let said = pb::UsageRecord {
        count: 12,
        trial: true,
        bundle_type: "gold".into(),
        ..usage(UsageType::Users, Period::Monthly, "2026-11-01T00:00:00Z")
    };

    let recorded = record(&on_low, said.clone()).await.unwrap();
    let again = pb::UsageRecord { count: 13, ..said.clone() };
    let again = record(&on_low, again).await.unwrap_err();

    let expected = pb::UsageRecord {
        usage_id: recorded.usage_id.clone(),
        tenant_id: "low".into(),
        end_time: Some("2026-12-01T00:00:00Z".parse().unwrap()),
        ..said
    };
    assert_eq!(recorded, expected);
    assert_eq!(uuid::Uuid::parse_str(&recorded.usage_id).unwrap().get_version_num(), 7);
    assert_eq!(told(&again), "AlreadyExists USAGE_ALREADY_RECORDED");
    for other in [
        usage(UsageType::Issuance, Period::Monthly, "2026-11-01T00:00:00Z"),
        usage(UsageType::Users, Period::Monthly, "2026-10-01T00:00:00Z"),
        usage(UsageType::Users, Period::Daily, "2026-11-01T00:00:00Z"),
        usage(UsageType::Users, Period::Weekly, "2026-11-02T00:00:00Z"),
    ] {
        record(&on_low, other).await.unwrap();
    }
}

/// 3-21
#[tokio::test]
async fn a_period_is_exactly_one_day_week_or_month_so_that_none_overlap() {
    let (app, on_low, ..) = provider().await;
    let before = rows(&app).await;
    let with_end = |usage: pb::UsageRecord, end: &str| pb::UsageRecord {
        end_time: Some(end.parse().unwrap()),
        ..usage
    };
    let day = || usage(UsageType::Users, Period::Daily, "2026-11-22T00:00:00Z");
    for (wrong, field) in [
        (usage(UsageType::Users, Period::Daily, "2026-11-22T00:00:01Z"), "start_time"),
        (usage(UsageType::Users, Period::Daily, "2026-11-22T12:00:00Z"), "start_time"),
        (usage(UsageType::Users, Period::Weekly, "2026-11-22T00:00:00Z"), "start_time"),
        (usage(UsageType::Users, Period::Monthly, "2026-11-02T00:00:00Z"), "start_time"),
        (with_end(day(), "2026-11-22T23:00:00Z"), "end_time"),
        (with_end(day(), "2026-11-24T00:00:00Z"), "end_time"),
        (pb::UsageRecord { start_time: None, ..day() }, "start_time"),
        (pb::UsageRecord { count: -1, ..day() }, "count"),
        (pb::UsageRecord { usage_type: 0, ..day() }, "usage_type"),
        (pb::UsageRecord { aggregation_period: 9, ..day() }, "aggregation_period"),
        (pb::UsageRecord { bundle_type: "x".repeat(65), ..day() }, "bundle_type"),
    ] {
        let refusal = record(&on_low, wrong).await.unwrap_err();
        assert_eq!(told(&refusal), "InvalidArgument INVALID_FIELD", "{field}");
        assert_eq!(fields(&refusal), [format!("usage_record.{field}")]);
    }
    assert_eq!(rows(&app).await, before);
    record(&on_low, with_end(day(), "2026-11-23T00:00:00Z")).await.unwrap();
}

/// 3-21
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_concurrent_records_of_one_period_exactly_one_is_kept() {
    let (app, on_low, ..) = provider().await;

    let tries = join_all((0..30).map(|number| {
        let new = usage(UsageType::Users, Period::Weekly, "2026-11-16T00:00:00Z");
        record(&on_low, pb::UsageRecord { count: number, ..new })
    }))
    .await;

    let (kept, refused): (Vec<_>, Vec<_>) = tries.into_iter().partition(Result::is_ok);
    assert_eq!(kept.len(), 1);
    for refusal in refused {
        assert_eq!(told(&refusal.unwrap_err()), "AlreadyExists USAGE_ALREADY_RECORDED");
    }
    assert_eq!(count(&app, "select count(*) as number from tenant_usage_records").await, 1);
}

/// 3-21
#[tokio::test]
async fn usage_is_recorded_from_above_the_tenant_only() {
    let (app, _, admin, below) = provider().await;
    let new = || usage(UsageType::Users, Period::Daily, "2026-11-22T00:00:00Z");
    let own = app.as_root().with("x-tenant-id", "low").create_key(&["tenant-admin"]).await;

    record(&below, new()).await.unwrap();
    let of_itself = record(&admin, new()).await.unwrap_err();
    let by_tenant = record(&app.as_key(&own), new()).await.unwrap_err();
    let of_nobody = record(&app.as_root(), new()).await.unwrap_err();

    assert_eq!(told(&of_itself), "PermissionDenied PERMISSION_MISSING");
    assert_eq!(told(&by_tenant), "PermissionDenied PERMISSION_MISSING");
    assert_eq!(fields(&of_nobody), ["x-tenant-id"]);
}

/// 3-20
#[tokio::test]
async fn usage_is_listed_for_all_tenants_within_reach_by_its_own_filters_alone() {
    let (app, on_low, admin, below) = provider().await;
    let root = app.as_root();
    root.create(tenant("other")).await.unwrap();
    let on_other = root.with("x-tenant-id", "other");
    for (caller, usage_type, day, trial, name) in [
        (&below, UsageType::Users, "2026-11-20", false, "one"),
        (&below, UsageType::Users, "2026-11-21", true, "two"),
        (&below, UsageType::Idproofing, "2026-11-21", false, "three"),
        (&on_other, UsageType::Users, "2026-11-22", false, "four"),
    ] {
        let new = usage(usage_type, Period::Daily, &format!("{day}T00:00:00Z"));
        record(caller, pb::UsageRecord { trial, bundle_type: name.into(), ..new }).await.unwrap();
    }
    let uid = root.get("low").await.unwrap().uid;
    let since = "start_time >= \"2026-11-20T00:00:00Z\"";
    for (more, expected) in [
        ("", vec!["one", "two", "three", "four"]),
        (" AND start_time < \"2026-11-21T00:00:00\"", vec!["one"]),
        (" AND start_time > \"2026-11-21T00:00:00Z\"", vec!["four"]),
        (" AND start_time <= \"2026-11-21T00:00:00Z\"", vec!["one", "two", "three"]),
        (" AND NOT start_time > \"2026-11-20T00:00:00Z\"", vec!["one"]),
        (" AND end_time < \"2026-11-22T00:00:00Z\"", vec!["one"]),
        (" AND end_time <= \"2026-11-22T00:00:00Z\"", vec!["one", "two", "three"]),
        (" AND end_time > \"2026-11-22T00:00:00Z\"", vec!["four"]),
        (" AND end_time >= \"2026-11-22T00:00:00Z\"", vec!["two", "three", "four"]),
        (" AND tenant_id = low", vec!["one", "two", "three"]),
        (&format!(" AND tenant_id = \"{uid}\""), vec!["one", "two", "three"]),
        (" AND tenant_id = nobody", vec![]),
        (" AND trial = true", vec!["two"]),
        (" AND trial = false AND usage_type = USERS", vec!["one", "four"]),
        (" AND usage_type = USAGE_TYPE_IDPROOFING", vec!["three"]),
    ] {
        let found = list(&root, &format!("{since}{more}"), "").await.unwrap();
        assert_eq!(found, expected, "{more}");
    }
    let down = list(&root, since, "start_time desc").await.unwrap();
    assert_eq!((&*down[0], &*down[3]), ("four", "one"));
    assert_eq!(list(&admin, since, "start_time asc").await.unwrap(), ["one", "two", "three"]);
    let own = app.as_key(&on_low.create_key(&["tenant-admin"]).await);
    assert_eq!(list(&own, since, "").await.unwrap().len(), 3);
    assert_eq!(list(&own, &format!("{since} AND tenant_id = other"), "").await.unwrap(), [""; 0]);
    let weak = app.as_root().create_key(&["key-verifier"]).await;
    let weak = list(&app.as_key(&weak), since, "").await.unwrap_err();
    assert_eq!(told(&weak), "PermissionDenied PERMISSION_MISSING");

    for wrong in [
        "",
        "tenant_id = low",
        "end_time > \"2026-11-20T00:00:00Z\"",
        "start_time = \"2026-11-20T00:00:00Z\"",
        "start_time > \"yesterday\"",
        &format!("{since} AND tenant_id != low"),
        &format!("{since} AND tenant_id:low"),
        &format!("{since} AND usage_type != USERS"),
        &format!("{since} AND usage_type = BANANAS"),
        &format!("{since} AND trial = maybe"),
        &format!("{since} AND count > 1"),
    ] {
        let refusal = list(&root, wrong, "").await.unwrap_err();
        assert_eq!(told(&refusal), "InvalidArgument INVALID_FILTER", "{wrong}");
        assert_eq!(fields(&refusal), ["filter"], "{wrong}");
    }
    for (negated, remedy) in [
        ("NOT tenant_id = low", "\"tenant_id\" takes =, not NOT"),
        ("-tenant_id = low", "\"tenant_id\" takes =, not NOT"),
        ("NOT trial = true", "\"trial\" takes =, not NOT"),
        ("-trial = false", "\"trial\" takes =, not NOT"),
        ("NOT usage_type = USERS", "\"usage_type\" takes =, not NOT"),
        ("-usage_type = USERS", "\"usage_type\" takes =, not NOT"),
    ] {
        let refusal = list(&root, &format!("{since} AND {negated}"), "").await.unwrap_err();
        assert_eq!(told(&refusal), "InvalidArgument INVALID_FILTER", "{negated}");
        assert_eq!(fields(&refusal), ["filter"], "{negated}");
        assert!(refusal.message().contains(remedy), "{negated}: {}", refusal.message());
    }
    // What is negated bounds nothing.
    for negated in ["NOT ", "-"] {
        let filter = format!("{negated}start_time < \"2026-11-20T00:00:00Z\"");
        let refusal = list(&root, &filter, "").await.unwrap_err();
        assert_eq!(told(&refusal), "InvalidArgument INVALID_FILTER", "{filter}");
        assert!(refusal.message().contains("\"start_time\" without NOT"), "{filter}");
    }
    for order_by in ["end_time", "count", "tenant_id desc"] {
        let refusal = list(&root, since, order_by).await.unwrap_err();
        assert_eq!(told(&refusal), "InvalidArgument INVALID_FILTER", "{order_by}");
    }
}
