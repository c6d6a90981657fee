//! Search: what is found by index is what a reader of every tenant would find.

use std::collections::BTreeMap;

use secrecy::SecretString;
use tenantry::{
    pb,
    seed::{self, Plan},
};

use crate::app::{App, Caller, tenant};

/// What can be asked of a text: how the filter says it, and whether it is so.
type Question = (fn(&str) -> String, fn(&str, &str) -> bool);

const QUESTIONS: &[Question] = &[
    (|value| format!("= \"{value}\""), |text, value| text == value),
    (|value| format!("!= \"{value}\""), |text, value| text != value),
    (|value| format!("= \"{value}*\""), |text, value| text.starts_with(value)),
    (|value| format!("= \"*{value}\""), |text, value| text.ends_with(value)),
    (|value| format!(": \"{value}\""), |text, value| fold(text).contains(&fold(value))),
];

fn fold(text: &str) -> String {
    text.to_lowercase()
}

/// The text of a field, where the tenant has it.
fn text(tenant: &pb::Tenant, field: &str) -> Option<String> {
    Some(match field {
        "tenant_id" => tenant.tenant_id.clone(),
        "name" => tenant.name().to_owned(),
        "code" => tenant.code().to_owned(),
        "hostname" => tenant.hostname().to_owned(),
        "tag" => tenant.tag().to_owned(),
        "labels.team" => tenant.labels.get("team")?.clone(),
        "external_ids.erp" => tenant.external_ids.get("erp")?.clone(),
        _ => panic!("{field}"),
    })
}

/// Every tenant that a caller sees, by its id.
async fn everything(caller: &Caller) -> BTreeMap<String, pb::Tenant> {
    let mut all = BTreeMap::new();
    let mut page_token = String::new();
    loop {
        let request = pb::ListTenantsRequest { page_size: 1000, page_token, ..Default::default() };
        let answer = caller.tenants().list_tenants(request).await.unwrap().into_inner();
        all.extend(answer.tenants.into_iter().map(|tenant| (tenant.tenant_id.clone(), tenant)));
        page_token = answer.next_page_token;
        if page_token.is_empty() {
            return all;
        }
    }
}

async fn names(caller: &Caller, filter: &str) -> Vec<String> {
    let request = pb::ListTenantsRequest {
        page_size: 1000,
        filter: filter.to_owned(),
        order_by: "tenant_id".to_owned(),
        ..Default::default()
    };
    let answer = caller.tenants().list_tenants(request).await;
    let answer = answer.unwrap_or_else(|status| panic!("{filter}: {status}")).into_inner();
    answer.tenants.into_iter().map(|tenant| tenant.tenant_id).collect()
}

/// 3-17, 1-40: the index narrows a search down and never decides it.
#[tokio::test]
async fn a_search_finds_what_reading_everything_would_find() {
    let app = App::start().await;
    let account = app.account("acme").await;
    let texts = [
        "Acme Enterprise",
        "acme enterprise",
        "ACME",
        "Acme  Enterprise",
        "100% Acme",
        "a_me",
        "acme\\nt",
        "back\\slash",
        "back\\\\slash",
        "50%_of\\it",
        "Ärzte-Verein",
        "ärzte-verein",
        "ÄRZTE",
        "Straße",
        "STRASSE",
        "東京都",
        "東京",
        "Ωmega",
        "ωMEGA",
        "ab",
        "x",
        "Ab-Cd-Ef",
        "quote \"it\"",
        "it's",
        "%",
        "_",
        "%%%",
        "a*b",
        "Łódź Works",
        "cafe\u{301} noir",
        "café noir",
    ];
    for (number, name) in texts.iter().enumerate() {
        let by = if number % 2 == 0 { &account } else { &app.as_root() };
        let made = pb::Tenant {
            name: Some((*name).into()),
            code: Some(format!("Code{number:03}")),
            hostname: (number % 3 == 0).then(|| format!("acme-{number}.example.com")),
            tag: Some((*name).into()),
            labels: [("team".into(), (*name).into())].into(),
            external_ids: [("erp".into(), (*name).into()), ("other".into(), "Acme".into())].into(),
            ..tenant(&format!("acme-{number}"))
        };
        by.create(made).await.unwrap();
    }
    let values = [
        "Acme",
        "acme",
        "ACME",
        "cme E",
        "erp",
        "Enterprise",
        "%",
        "_",
        "\\",
        "a_m",
        "100%",
        "%_o",
        "\\\\",
        "back\\",
        "Ärz",
        "ärzte",
        "RZTE",
        "ß",
        "straße",
        "東京",
        "東京都",
        "ωmega",
        "ab",
        "b",
        "x",
        "Ab-Cd",
        "b-C",
        "\"it\"",
        "it's",
        "*",
        "a*b",
        "Łódź",
        "café",
        "Code00",
        "Code011",
        "code011",
        "acme-1",
        "acme-12",
        "acme-12.example.com",
        "ACME-12.EXAMPLE.COM",
        "example",
        "zzzz",
        "",
    ];
    let fields =
        ["tenant_id", "name", "code", "hostname", "tag", "labels.team", "external_ids.erp"];
    for caller in [app.as_root(), account] {
        let all = everything(&caller).await;
        for field in fields {
            for value in values {
                for (question, holds) in QUESTIONS {
                    let escaped = ["\\", "\"", "*"]
                        .iter()
                        .fold(value.to_owned(), |text, c| text.replace(c, &format!("\\{c}")));
                    // Hostnames have no case.
                    let asked =
                        if field == "hostname" { value.to_lowercase() } else { value.to_owned() };
                    let differs = question("").starts_with('!');
                    // Without such an entry the answer is no, and the negation of it yes.
                    let fits = |tenant: &pb::Tenant| {
                        text(tenant, field).map_or(differs, |text| holds(&text, &asked))
                    };
                    let expected =
                        all.values().filter(|tenant| fits(tenant)).map(|tenant| &tenant.tenant_id);
                    let filter = format!("{field} {}", question(&escaped));

                    assert_eq!(
                        names(&caller, &filter).await.iter().collect::<Vec<_>>(),
                        expected.collect::<Vec<_>>(),
                        "{filter}"
                    );
                }
            }
        }
        let keyword = all.values().filter(|tenant| {
            fold(tenant.name()).contains("acme") || fold(tenant.code()).contains("acme")
        });
        let expected = keyword.map(|tenant| tenant.tenant_id.clone()).collect::<Vec<_>>();
        assert_eq!(names(&caller, "keyword:\"acme\"").await, expected);
        let both = "name:\"acme\" AND NOT name:\"enterprise\" AND external_ids.other:\"CME\"";
        let expected = all.values().filter(|tenant| {
            fold(tenant.name()).contains("acme") && !fold(tenant.name()).contains("enterprise")
        });
        let expected = expected.map(|tenant| tenant.tenant_id.clone()).collect::<Vec<_>>();
        assert_eq!(names(&caller, both).await, expected);
    }
}

/// 3-17: many fit, so the list is read in its order.
#[tokio::test]
async fn a_search_that_fits_many_finds_them_all_page_by_page() {
    let app = App::start().await;
    let owner = SecretString::from(app.owner_url().await);
    let plan = Plan { tenants: 6000, seed: 1, beside_others: false };
    seed::fill(&owner, plan, |_| {}).await.unwrap();
    let root = app.as_root();
    let all = everything(&root).await;
    assert_eq!(all.len(), 6000);
    for (filter, fits) in [
        ("code:\"5f5\"", (|_| true) as fn(&pb::Tenant) -> bool),
        ("hostname:\"example\"", |tenant| !tenant.hostname().is_empty()),
        ("NOT hostname:\"example\"", |tenant| tenant.hostname().is_empty()),
        ("name:\"bücher\" AND code:\"5F5\"", |tenant| tenant.name().contains("Bücher")),
        ("code = \"5F5*\" AND name:\"(100%)\"", |tenant| tenant.name().contains("(100%)")),
    ] {
        let expected = all.values().filter(|tenant| fits(tenant)).count();
        let mut found = Vec::new();
        let mut page_token = String::new();
        loop {
            let request = pb::ListTenantsRequest {
                page_size: 700,
                page_token,
                filter: filter.into(),
                order_by: "name desc".into(),
                ..Default::default()
            };
            let answer = root.tenants().list_tenants(request).await.unwrap().into_inner();
            assert!(answer.tenants.iter().all(fits), "{filter}");
            found.extend(answer.tenants.into_iter().map(|tenant| (tenant.name, tenant.tenant_id)));
            page_token = answer.next_page_token;
            if page_token.is_empty() {
                break;
            }
        }

        assert!(found.iter().map(|(name, _)| name).is_sorted_by(|a, b| a >= b), "{filter}");
        found.sort();
        found.dedup();
        assert_eq!(found.len(), expected, "{filter}");
    }
}

#[tokio::test]
async fn a_service_provider_searches_what_is_below_it() {
    let app = App::start().await;
    let account = app.account("acme").await;
    let high = pb::Tenant {
        organization_kind: pb::OrganizationKind::ServiceProvider.into(),
        ..tenant("high")
    };
    account.create(high).await.unwrap();
    let below = pb::Tenant { parent_tenant_id: Some("high".into()), ..tenant("below") };
    account.create(below).await.unwrap();
    account.create(tenant("beside")).await.unwrap();
    let on_high = app.as_root().with("x-tenant-id", "high");
    let provider = app.as_key(&on_high.create_key(&["service-provider-admin"]).await);

    assert_eq!(names(&provider, "").await, ["below", "high"]);
    assert_eq!(names(&provider, "name:\"tenant\"").await, ["below", "high"]);
    assert_eq!(names(&provider, "name:\"tenant b\"").await, ["below"]);
    assert_eq!(names(&provider, "name = \"Tenant beside\"").await, [""; 0]);
}

/// 3-17
#[tokio::test]
async fn a_tenant_is_found_by_what_it_is_called_now() {
    let app = App::start().await;
    let root = app.as_root();
    let before = pb::Tenant {
        name: Some("Before the change".into()),
        hostname: Some("before.example.com".into()),
        external_ids: [("erp".into(), "before-1".into())].into(),
        ..tenant("one")
    };
    root.create(before).await.unwrap();

    let after = pb::Tenant {
        tenant_id: "one".into(),
        name: Some("Afterwards".into()),
        hostname: Some("after.example.com".into()),
        external_ids: [("erp".into(), "after-1".into())].into(),
        ..Default::default()
    };
    root.update(after).await.unwrap();

    for (filter, found) in [
        ("name:\"before\"", false),
        ("name:\"afterw\"", true),
        ("keyword:\"before\"", false),
        ("keyword:\"AFTER\"", true),
        ("hostname = before.example.com", false),
        ("hostname = after.example.com", true),
        ("hostname:\"fter.exa\"", true),
        ("external_ids.erp = before-1", false),
        ("external_ids.erp:\"efore\"", false),
        ("external_ids.erp:\"fter-1\"", true),
    ] {
        assert_eq!(names(&root, filter).await == ["one"], found, "{filter}");
    }
}
