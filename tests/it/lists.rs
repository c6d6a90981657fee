//! Lists: what a filter finds, in which order, page by page.

use std::collections::BTreeSet;

use serde_json::json;
use tenantry::pb::{self, ContractMode, OrganizationKind, ServiceLine, TenantType};

use crate::app::{App, Caller, fields, tenant, told};

/// Tenants that differ in whatever can be searched.
async fn some_tenants(app: &App) -> Caller {
    let root = app.as_root();
    let named = |id: &str, name: &str| pb::Tenant { name: Some(name.into()), ..tenant(id) };
    let all = [
        pb::Tenant {
            hostname: Some("acme.example.com".into()),
            code: Some("ACME1".into()),
            tag: Some("gold".into()),
            labels: [("team".into(), "blue".into())].into(),
            external_ids: [("1".into(), "x-1".into())].into(),
            ..named("acme", "Acme Enterprise")
        },
        pb::Tenant {
            hostname: Some("beta.example.com".into()),
            code: Some("BETA2".into()),
            contract_mode: ContractMode::Trial.into(),
            service_line: ServiceLine::Issuance.into(),
            console: Some(true),
            labels: [("team".into(), "red".into())].into(),
            ..named("beta", "Beta")
        },
        pb::Tenant {
            code: Some("PROV3".into()),
            organization_kind: OrganizationKind::ServiceProvider.into(),
            sp_idp: Some(true),
            ..named("provider", "100% _Provider\\")
        },
        pb::Tenant {
            code: Some("KIDD4".into()),
            r#type: TenantType::Client.into(),
            parent_tenant_id: Some("acme".into()),
            ..named("kid", "Ärzte-Verein \"Süd\"")
        },
    ];
    for tenant in all {
        root.create(tenant).await.unwrap();
    }
    root
}

/// 3-17, 1-40, 1-07: every field, every operator of it.
#[tokio::test]
async fn a_filter_finds_what_it_says() {
    let app = App::start().await;
    let root = some_tenants(&app).await;
    let all = "acme beta kid provider";
    let cases = [
        ("", all),
        ("tenant_id = acme", "acme"),
        ("tenant_id != acme", "beta kid provider"),
        ("tenant_id = \"a*\"", "acme"),
        ("tenant_id = \"*r\"", "provider"),
        ("tenant_id = \"*e*\"", "acme beta provider"),
        ("NOT tenant_id = \"*e*\"", "kid"),
        ("tenant_id : \"ET\"", "beta"),
        ("name = \"Acme Enterprise\"", "acme"),
        ("name = \"acme enterprise\"", ""),
        ("name != \"Beta\"", "acme kid provider"),
        ("name = \"Acme*\"", "acme"),
        ("name = \"*prise\"", "acme"),
        ("name:\"enter\"", "acme"),
        ("name:\"ENTER\"", "acme"),
        ("NOT name:\"enter\"", "beta kid provider"),
        // What a pattern would take for a wildcard is a character like any other.
        ("name:\"%\"", "provider"),
        ("name:\"_\"", "provider"),
        ("name = \"*\\\\\"", "provider"),
        ("name:\"süd\"", "kid"),
        ("name:\"\\\"\"", "kid"),
        ("name:\"ÄRZTE\"", "kid"),
        ("hostname = acme.example.com", "acme"),
        ("hostname = \"*.example.com\"", "acme beta"),
        ("hostname != acme.example.com", "beta kid provider"),
        ("hostname:\"example\"", "acme beta"),
        ("hostname = \"\"", "kid provider"),
        ("contract_mode = TRIAL", "beta"),
        ("contract_mode = PRODUCTION", "acme kid provider"),
        ("NOT contract_mode = TRIAL", "acme kid provider"),
        ("-contract_mode = CONTRACT_MODE_TRIAL", "acme kid provider"),
        ("contract_mode = UNKNOWN", ""),
        ("locked = true", ""),
        ("locked = false", all),
        ("service_provider = true", "provider"),
        ("service_provider = false", "acme beta kid"),
        ("authentication_account = true", "acme kid provider"),
        ("issuance_account = true", "beta"),
        ("issuance_account = false", "acme kid provider"),
        ("sp_idp = true", "provider"),
        ("sp_idp = false", "acme beta kid"),
        ("state = ACTIVE", all),
        ("NOT state = ACTIVE", ""),
        ("type = CLIENT", "kid"),
        ("NOT type = CLIENT", "acme beta provider"),
        ("organization_kind = SERVICE_PROVIDER", "provider"),
        ("parent_tenant_id = acme", "kid"),
        ("code = BETA2", "beta"),
        ("code = \"B*\"", "beta"),
        ("tag = gold", "acme"),
        ("console = true", "beta"),
        ("keyword:\"acme\"", "acme"),
        ("keyword:\"kidd\"", "kid"),
        ("keyword:\"BETA\"", "beta"),
        ("external_ids.1 = x-1", "acme"),
        ("external_ids.2 = x-1", ""),
        ("labels.team = blue", "acme"),
        ("labels.team != blue", "beta kid provider"),
        ("labels.nothing = \"\"", ""),
        ("external_ids.nothing = \"\"", ""),
        ("labels.team = \"*e*\"", "acme beta"),
        ("create_time > \"2020-01-01T00:00:00Z\"", all),
        ("create_time < \"2020-01-01T00:00:00Z\"", ""),
        ("type = PRODUCT AND contract_mode = TRIAL", "beta"),
        ("type = PRODUCT AND NOT name:\"a\"", "provider"),
        ("  name:\"enter\"   AND  code = ACME1 ", "acme"),
    ];
    for (filter, expected) in cases {
        let found = match root.list(filter, "tenant_id").await {
            Ok(found) => found.join(" "),
            Err(status) => status.message().to_owned(),
        };
        assert_eq!(found, expected, "{filter}");
    }
}

/// 3-17: those that the row gives it.
#[tokio::test]
async fn a_field_takes_its_own_operators_and_no_others() {
    let app = App::start().await;
    let root = some_tenants(&app).await;
    for filter in [
        "keyword = acme",
        "locked != true",
        "locked:true",
        "contract_mode:TRIAL",
        "contract_mode != TRIAL",
        "state != ACTIVE",
        "type != CLIENT",
        "organization_kind != ENTERPRISE",
        "contract_mode = \"T*\"",
        "contract_mode < TRIAL",
        "name < \"a\"",
        "name >= \"a\"",
        "create_time:\"2020\"",
        "create_time != \"2020-01-01T00:00:00Z\"",
        "name = \"a*b\"",
        "region = x",
    ] {
        let refusal = root.list(filter, "").await.unwrap_err();

        assert_eq!(told(&refusal), "InvalidArgument INVALID_FILTER", "{filter}");
        assert_eq!(fields(&refusal), ["filter"], "{filter}");
    }
}

/// 3-17: a value has at most a hundred characters, however it is compared: the stars that say so are not
/// of it.
#[tokio::test]
async fn a_value_has_at_most_a_hundred_characters() {
    let app = App::start().await;
    let root = app.as_root();
    for form in [
        "name = \"V\"",
        "name != \"V\"",
        "name:\"V\"",
        "NOT name:\"V\"",
        "name = \"V*\"",
        "name = \"*V\"",
        "name = \"*V*\"",
        "hostname != \"V*\"",
        "labels.team = \"*V\"",
    ] {
        let filter = |length: usize| form.replace('V', &"ä".repeat(length));

        let hundred = root.list(&filter(100), "").await;
        let more = root.list(&filter(101), "").await.unwrap_err();

        assert!(hundred.is_ok(), "{form}: {hundred:?}");
        assert_eq!(told(&more), "InvalidArgument INVALID_FILTER", "{form}");
        assert_eq!(fields(&more), ["filter"], "{form}");
    }
    // Where a star is a character like any other, it counts.
    let star = root.list(&format!("name:\"{}*\"", "a".repeat(100)), "").await.unwrap_err();
    assert_eq!(told(&star), "InvalidArgument INVALID_FILTER");
}

/// Reads all pages of a size.
async fn pages(
    caller: &Caller,
    size: i32,
    order_by: &str,
    mut between: impl AsyncFnMut(usize),
) -> Vec<String> {
    let mut found = Vec::new();
    let mut page_token = String::new();
    for page in 0.. {
        let request = pb::ListTenantsRequest {
            page_size: size,
            page_token,
            order_by: order_by.to_owned(),
            ..Default::default()
        };
        let answer = caller.tenants().list_tenants(request).await.unwrap().into_inner();
        assert!(answer.tenants.len() <= usize::try_from(size).unwrap());
        found.extend(answer.tenants.into_iter().map(|tenant| tenant.tenant_id));
        page_token = answer.next_page_token;
        if page_token.is_empty() {
            break;
        }
        between(page).await;
    }
    found
}

/// 3-18: every field, up and down, with pages of every size.
#[tokio::test]
async fn pages_of_any_size_make_up_the_whole_list_in_its_order() {
    let app = App::start().await;
    let root = some_tenants(&app).await;
    for number in 0..5 {
        root.create(tenant(&format!("same-{number}"))).await.unwrap();
    }
    for id in ["acme", "same-1", "same-3"] {
        let lock = json!({"tenant_id": id, "mode": "LOCK_MODE_FULL", "reason": "unpaid"});
        root.call("LockTenant", lock).await.unwrap();
    }
    for field in [
        "create_time",
        "name",
        "tenant_id",
        "hostname",
        "contract_mode",
        "locked",
        "service_provider",
        "authentication_account",
        "issuance_account",
        "sp_idp",
    ] {
        for order in [field.to_owned(), format!("{field} desc")] {
            let whole = root.list("", &order).await.unwrap();
            assert_eq!(whole.iter().collect::<BTreeSet<_>>().len(), 9, "{order}: each once");
            for size in [1, 2, 4, 9, 10] {
                assert_eq!(pages(&root, size, &order, async |_| ()).await, whole, "{order} {size}");
            }
        }
    }
    // Whatever it sorts by, the values come in its order; equal ones in that of their creation.
    let request = pb::ListTenantsRequest::default();
    let all = root.tenants().list_tenants(request).await.unwrap().into_inner().tenants;
    let value = |id: &str, field: &str| {
        let tenant = all.iter().find(|tenant| tenant.tenant_id == id).unwrap();
        let flag = |is: bool| u8::from(is).to_string();
        match field {
            "hostname" => tenant.hostname().to_owned(),
            "contract_mode" => tenant.contract_mode().as_str_name().to_owned(),
            "locked" => flag(tenant.lock.is_some()),
            "service_provider" => {
                flag(tenant.organization_kind() == OrganizationKind::ServiceProvider)
            }
            "authentication_account" => flag(tenant.service_line() == ServiceLine::Authentication),
            "issuance_account" => flag(tenant.service_line() == ServiceLine::Issuance),
            "sp_idp" => flag(tenant.sp_idp()),
            _ => {
                let time = tenant.create_time.unwrap();
                format!("{:012}.{:09}", time.seconds, time.nanos)
            }
        }
    };
    for field in [
        "hostname",
        "contract_mode",
        "locked",
        "service_provider",
        "authentication_account",
        "issuance_account",
        "sp_idp",
        "create_time",
    ] {
        let up = root.list("", field).await.unwrap();
        let values: Vec<_> = up.iter().map(|id| value(id, field)).collect();
        assert!(values.is_sorted(), "{field}: {values:?}");
        let down = root.list("", &format!("{field} desc")).await.unwrap();
        let values: Vec<_> = down.iter().map(|id| value(id, field)).collect();
        assert!(values.iter().rev().is_sorted(), "{field} desc: {values:?}");
    }
    let by_id = root.list("", "tenant_id").await.unwrap();
    let mut down = root.list("", "tenant_id desc").await.unwrap();
    down.reverse();
    assert_eq!(by_id, down);
    assert!(by_id.is_sorted());
    assert_eq!(root.list("", "service_provider desc").await.unwrap()[0], "provider");
    assert_eq!(root.list("", "locked desc").await.unwrap()[..3], ["acme", "same-1", "same-3"]);
}

#[tokio::test]
async fn what_comes_and_goes_between_pages_neither_doubles_nor_hides_the_rest() {
    let app = App::start().await;
    let root = app.as_root();
    for number in 10..20 {
        root.create(tenant(&format!("t{number}"))).await.unwrap();
    }

    let found = pages(&root, 3, "tenant_id", async |page| match page {
        0 => {
            // One before and one after where the reader stands; and the one it stands at goes.
            root.create(tenant("t00")).await.unwrap();
            root.create(tenant("t15a")).await.unwrap();
            root.delete("t12").await.unwrap();
        }
        1 => drop(root.delete("t19").await.unwrap()),
        _ => {}
    })
    .await;

    let expected = ["t10", "t11", "t12", "t13", "t14", "t15", "t15a", "t16", "t17", "t18"];
    assert_eq!(found, expected);
}

/// 3-19: a token carries its filter and order on, if they are left out.
#[tokio::test]
async fn a_token_carries_its_list_on() {
    let app = App::start().await;
    let root = some_tenants(&app).await;
    let first = pb::ListTenantsRequest {
        page_size: 1,
        filter: "type = PRODUCT".into(),
        order_by: "tenant_id desc".into(),
        ..Default::default()
    };
    let first = root.tenants().list_tenants(first).await.unwrap().into_inner();

    let rest = pb::ListTenantsRequest { page_token: first.next_page_token, ..Default::default() };
    let rest = root.tenants().list_tenants(rest).await.unwrap().into_inner();

    assert_eq!(first.tenants[0].tenant_id, "provider");
    let rest: Vec<_> = rest.tenants.iter().map(|tenant| &*tenant.tenant_id).collect();
    assert_eq!(rest, ["beta", "acme"]);
    assert!(!rest.contains(&"kid"));
}

#[tokio::test]
async fn a_page_has_fifty_entries_unless_asked_otherwise_and_a_thousand_at_most() {
    let app = App::start().await;
    app.as_root().create(tenant("seed")).await.unwrap();
    let mut superuser = app.superuser().await;
    let copies = "insert into tenants select (jsonb_populate_record(t, jsonb_build_object(
            'uid', gen_random_uuid(), 'tenant_id', 'copy-' || n, 'code', 'COPY' || n))).*
        from tenants t, generate_series(1, 1100) n where tenant_id = 'seed'";
    diesel_async::SimpleAsyncConnection::batch_execute(&mut superuser, copies).await.unwrap();
    for (size, expected) in [(0, 50), (7, 7), (1000, 1000), (1001, 1000), (i32::MAX, 1000)] {
        let request = pb::ListTenantsRequest { page_size: size, ..Default::default() };

        let answer = app.as_root().tenants().list_tenants(request).await.unwrap().into_inner();

        assert_eq!(answer.tenants.len(), expected, "{size}");
        assert!(!answer.next_page_token.is_empty());
    }
}

#[tokio::test]
async fn deleted_tenants_are_listed_only_when_asked_for() {
    let app = App::start().await;
    let root = app.as_root();
    root.create(tenant("alive")).await.unwrap();
    root.create(tenant("gone")).await.unwrap();
    root.delete("gone").await.unwrap();
    let list = async |filter: &str, show_deleted| {
        let request = pb::ListTenantsRequest {
            filter: filter.to_owned(),
            show_deleted,
            order_by: "tenant_id".into(),
            ..Default::default()
        };
        let answer = root.tenants().list_tenants(request).await.unwrap().into_inner();
        let ids: Vec<_> = answer.tenants.into_iter().map(|tenant| tenant.tenant_id).collect();
        ids.join(" ")
    };

    assert_eq!(list("", false).await, "alive");
    assert_eq!(list("", true).await, "alive gone");
    assert_eq!(list("state = DELETED", true).await, "gone");
    assert_eq!(list("tenant_id = gone", false).await, "");
}

/// Most clients take 4 MiB at once: a page of large tenants is shorter than was asked for, and goes on.
#[tokio::test]
async fn a_page_is_never_larger_than_clients_take() {
    let app = App::start().await;
    let root = app.as_root();
    let large = prost_types::Struct {
        fields: [(
            "text".to_owned(),
            prost_types::Value {
                kind: Some(prost_types::value::Kind::StringValue("x".repeat(64_000))),
            },
        )]
        .into(),
    };
    for number in 0..70 {
        let profile = Some(large.clone());
        root.create(pb::Tenant { profile, ..tenant(&format!("t-{number:02}")) }).await.unwrap();
    }
    let mut all = Vec::new();
    let mut pages = 0;
    let mut page_token = String::new();
    loop {
        let request = pb::ListTenantsRequest {
            page_size: 1000,
            page_token,
            order_by: "tenant_id".into(),
            ..Default::default()
        };
        let answer = root.tenants().list_tenants(request).await.unwrap().into_inner();
        pages += 1;
        all.extend(answer.tenants.into_iter().map(|tenant| tenant.tenant_id));
        page_token = answer.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }

    assert_eq!(pages, 2);
    assert_eq!(all, (0..70).map(|number| format!("t-{number:02}")).collect::<Vec<_>>());
}
