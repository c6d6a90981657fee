//! What a tenant is, and what becomes of it from its creation to its deletion and back.

use chrono::TimeDelta;
use prost_types::{Struct, Value, value::Kind as JsonKind};
use serde_json::json;
use tenantry::pb::{
    self, ContractMode, OrganizationKind, ServiceLine, TenantState, TenantType,
    lookup_tenant_request::Selector,
};

use crate::app::{App, Caller, count, fields, nothing_of_it, tenant, told};

fn client(id: &str, parent: &str) -> pb::Tenant {
    pb::Tenant {
        r#type: TenantType::Client.into(),
        parent_tenant_id: Some(parent.to_owned()),
        ..tenant(id)
    }
}

fn provider(id: &str) -> pb::Tenant {
    pb::Tenant { organization_kind: OrganizationKind::ServiceProvider.into(), ..tenant(id) }
}

/// The fields of an update of one tenant.
fn of(id: &str) -> pb::Tenant {
    pb::Tenant { tenant_id: id.to_owned(), ..Default::default() }
}

async fn look_up(caller: &Caller, selector: Selector) -> Result<pb::Tenant, tonic::Status> {
    let request = pb::LookupTenantRequest { selector: Some(selector) };
    Ok(caller.tenants().lookup_tenant(request).await?.into_inner().tenant.unwrap())
}

type Change = fn(&mut pb::Tenant);
type Part = fn(&mut pb::Address) -> &mut String;

/// 1-01, 1-02, 1-06, 2-03: what a new tenant must say, and that a description may be empty.
#[tokio::test]
async fn a_tenant_says_at_least_its_name_description_type_and_kind() {
    let app = App::start().await;
    let root = app.as_root();
    let without: [(&str, Change); 5] = [
        ("tenant.name", |tenant| tenant.name = None),
        ("tenant.name", |tenant| tenant.name = Some("  ".into())),
        ("tenant.description", |tenant| tenant.description = None),
        ("tenant.type", |tenant| tenant.r#type = 0),
        ("tenant.organization_kind", |tenant| tenant.organization_kind = 0),
    ];
    for (field, remove) in without {
        let mut new = tenant("foo");
        remove(&mut new);

        let refusal = root.create(new).await.unwrap_err();

        assert_eq!(fields(&refusal), [field]);
    }
    let named = pb::Tenant { name: Some("  Two Words  ".into()), ..tenant("foo") };
    assert_eq!(root.create(named).await.unwrap().name(), "Two Words", "trimmed, its case kept");
    assert_eq!(root.get("foo").await.unwrap().description, Some(String::new()));
}

/// 2-01, 2-05, 2-06, 2-04: what is always answered.
#[tokio::test]
async fn a_tenant_is_answered_with_its_defaults() {
    let app = App::start().await;

    let made = app.as_root().create(tenant("foo")).await.unwrap();

    assert_eq!(made, app.as_root().get("foo").await.unwrap());
    assert_eq!(made.account_id, "default");
    assert!(made.uid.parse::<uuid::Uuid>().unwrap().get_version_num() == 7);
    assert_eq!(made.default_domain, Some(String::new()));
    assert_eq!(made.use_custom_routing_profile, Some(false));
    assert_eq!(made.use_tenant_languages, Some(false));
    assert_eq!(made.service_line(), ServiceLine::Authentication);
    assert_eq!(made.contract_mode(), ContractMode::Production);
    assert_eq!(made.state(), TenantState::Active);
    assert_eq!(made.create_time, made.update_time);
    let status = made.status_details.unwrap();
    assert_eq!(status.create_time, status.approve_time, "born approved");
    assert!(status.created_by.starts_with("api_key:"));
    assert_eq!((status.reject_time, status.delete_time), (None, None));
}

/// 1-07, 1-13, 2-07…2-11, 4-06: what is given is given back as it was.
#[tokio::test]
async fn what_is_given_is_given_back() {
    let app = App::start().await;
    let number = Value { kind: Some(JsonKind::NumberValue(1.5)) };
    let given = pb::Tenant {
        tag: Some("gold".into()),
        support_email: Some("info@enterprise.be".into()),
        contact: Some(pb::Contact {
            name: "Ada".into(),
            phone_number: "+32 (2) 555-01.23".into(),
            email: "ada@enterprise.be".into(),
        }),
        address: Some(pb::Address {
            street_address: "Rue de la Loi 1".into(),
            extended_address: "2nd floor".into(),
            locality: "Bruxelles".into(),
            region: "Bruxelles-Capitale".into(),
            post_code: "1000".into(),
            country: "Belgium".into(),
        }),
        external_ids: [("1".into(), " as it is ".into()), ("2".into(), String::new())].into(),
        use_tenant_languages: Some(true),
        profile: Some(Struct { fields: [("k".to_owned(), number)].into() }),
        labels: [("team".into(), "blue".into())].into(),
        console: Some(true),
        ..tenant("foo")
    };

    let made = app.as_root().create(given.clone()).await.unwrap();

    assert_eq!(made, app.as_root().get("foo").await.unwrap());
    assert_eq!(
        (made.tag, made.support_email, made.contact, made.address),
        (given.tag, given.support_email, given.contact, given.address)
    );
    assert_eq!(
        (made.external_ids, made.profile, made.labels, made.use_tenant_languages, made.console),
        (
            given.external_ids,
            given.profile,
            given.labels,
            given.use_tenant_languages,
            given.console
        )
    );
}

/// 4-06: whose it is, where it is in its life, and who brought it there when.
#[tokio::test]
async fn a_tenant_tells_its_account_its_state_and_what_became_of_it() {
    let app = App::start().await;
    let root = app.as_root();
    let account = app.account("acme").await;
    let actor = async |caller: &Caller| {
        let who = caller.call("WhoAmI", json!({})).await.unwrap();
        format!("api_key:{}", who["api_key"]["api_key_id"].as_str().unwrap())
    };
    let (creator, judge) = (actor(&account).await, actor(&root).await);

    let made = account.create(tenant("foo")).await.unwrap();
    app.shared.clock.advance(TimeDelta::hours(1));
    let gone = root.delete("foo").await.unwrap();
    let waits = json!({"account_id": "acme", "tenant_creation_approval_required": true});
    account.call("UpdateAccount", json!({"account": waits})).await.unwrap();
    let waiting = account.create(tenant("bar")).await.unwrap();
    let reject = json!({"tenant_id": "bar", "reason": "unknown"});
    root.call("RejectTenant", reject).await.unwrap();
    let rejected = root.get("bar").await.unwrap();

    assert_eq!((&*made.account_id, made.state()), ("acme", TenantState::Active));
    let born = pb::StatusDetails {
        create_time: made.create_time,
        created_by: creator.clone(),
        ..Default::default()
    };
    let approved = pb::StatusDetails {
        approve_time: made.create_time,
        approved_by: creator.clone(),
        ..born.clone()
    };
    assert_eq!(made.status_details, Some(approved.clone()));
    assert_eq!((&*gone.account_id, gone.state()), ("acme", TenantState::Deleted));
    let deleted =
        pb::StatusDetails { delete_time: gone.update_time, deleted_by: judge.clone(), ..approved };
    assert_eq!(gone.status_details, Some(deleted));
    assert_ne!(gone.update_time, made.create_time);
    assert_eq!((&*waiting.account_id, waiting.state()), ("acme", TenantState::PendingApproval));
    let born = pb::StatusDetails { create_time: waiting.create_time, ..born };
    assert_eq!(waiting.status_details, Some(born.clone()));
    assert_eq!((&*rejected.account_id, rejected.state()), ("acme", TenantState::Rejected));
    let judged = pb::StatusDetails {
        reject_time: rejected.update_time,
        rejected_by: judge,
        rejection_reason: "unknown".into(),
        ..born
    };
    assert_eq!(rejected.status_details, Some(judged));
}

/// 2-02: an id is chosen or made, has one form, and is never given twice.
#[tokio::test]
async fn an_id_is_chosen_or_made_and_never_given_twice() {
    let app = App::start().await;
    let root = app.as_root();
    let longest = "a".repeat(30);
    for id in ["a", "0-9", &longest] {
        assert_eq!(root.create(tenant(id)).await.unwrap().tenant_id, id);
    }
    let too_long = "a".repeat(31);
    for id in ["A", "a_b", "ä", "a b", &too_long] {
        assert_eq!(fields(&root.create(tenant(id)).await.unwrap_err()), ["tenant.tenant_id"]);
    }
    let made = root.create(pb::Tenant { tenant_id: String::new(), ..tenant("x") }).await.unwrap();
    assert!((1..=30).contains(&made.tenant_id.len()), "{}", made.tenant_id);

    root.delete("a").await.unwrap();
    let renamed = pb::Tenant { name: Some("Another".into()), ..tenant("a") };
    let again = root.create(renamed).await.unwrap_err();

    assert_eq!(told(&again), "AlreadyExists TENANT_ALREADY_EXISTS");
}

/// 1-03, 1-04: a code has one form; a generated one is short.
#[tokio::test]
async fn a_code_is_given_or_made_and_taken_once() {
    let app = App::start().await;
    let root = app.as_root();
    let coded = |id: &str, code: &str| pb::Tenant { code: Some(code.into()), ..tenant(id) };
    for code in ["abc", "with-dash", "späß", &"a".repeat(65)] {
        assert_eq!(fields(&root.create(coded("x", code)).await.unwrap_err()), ["tenant.code"]);
    }
    for (id, code) in [("short", "aB1z".to_owned()), ("long", "Z9".repeat(32))] {
        assert_eq!(root.create(coded(id, &code)).await.unwrap().code(), code);
    }
    root.create(coded("first", "Code1")).await.unwrap();

    let taken = root.create(coded("second", "Code1")).await.unwrap_err();
    let made = root.create(tenant("third")).await.unwrap();

    assert_eq!(told(&taken), "AlreadyExists TENANT_ALREADY_EXISTS");
    assert!(taken.message().contains("code"), "{}", taken.message());
    let code = made.code();
    assert_eq!(code.len(), 5);
    assert!(code.bytes().all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit()), "{code}");
}

/// 1-05: a name decides only where no code is given.
#[tokio::test]
async fn a_name_is_taken_once_among_tenants_without_a_code_of_one_account() {
    let app = App::start().await;
    let root = app.as_root();
    let named = |id: &str| pb::Tenant { name: Some("Same".into()), ..tenant(id) };
    let coded = |id: &str| pb::Tenant { code: Some(format!("CODE{id}")), ..named(id) };
    root.create(named("one")).await.unwrap();

    let taken = root.create(named("two")).await.unwrap_err();
    let padded = pb::Tenant { name: Some("  Same ".into()), ..tenant("three") };
    let padded = root.create(padded).await.unwrap_err();
    root.create(coded("4")).await.unwrap();
    let other_account = app.account("acme").await;
    other_account.create(named("five")).await.unwrap();
    root.delete("one").await.unwrap();
    let kept = root.create(named("six")).await.unwrap_err();
    root.undelete("one").await.unwrap();
    assert_eq!(told(&kept), "AlreadyExists TENANT_ALREADY_EXISTS", "it may come back");

    for refusal in [taken, padded] {
        assert_eq!(told(&refusal), "AlreadyExists TENANT_ALREADY_EXISTS");
        assert!(refusal.message().contains("name"), "{}", refusal.message());
    }
}

/// 1-08: console tenants are a family of their own.
#[tokio::test]
async fn console_tenants_have_names_and_lists_of_their_own() {
    let app = App::start().await;
    let root = app.as_root();
    root.create(pb::Tenant { name: Some("Same".into()), ..tenant("plain") }).await.unwrap();
    let console =
        pb::Tenant { name: Some("Same".into()), console: Some(true), ..tenant("console") };

    root.create(console).await.unwrap();

    assert_eq!(root.list("console = true", "").await.unwrap(), ["console"]);
    assert_eq!(root.list("console = false", "").await.unwrap(), ["plain"]);
    let change = pb::Tenant { console: Some(true), ..of("plain") };
    assert_eq!(fields(&root.update(change).await.unwrap_err()), ["tenant.console"]);
}

/// 3-15, 3-16: a host name has one form and one owner.
#[tokio::test]
async fn a_hostname_belongs_to_one_tenant_until_it_is_purged() {
    let app = App::start().await;
    let root = app.as_root();
    let at = |id: &str, host: &str| pb::Tenant { hostname: Some(host.into()), ..tenant(id) };

    let made = root.create(at("foo", "Login.Example.COM")).await.unwrap();
    let taken = root.create(at("bar", "login.example.com")).await.unwrap_err();
    root.create(tenant("baz")).await.unwrap();
    let moved = pb::Tenant { hostname: Some("login.example.com".into()), ..of("baz") };
    let moved = root.update(moved).await.unwrap_err();
    root.delete("foo").await.unwrap();
    let still_taken = root.create(at("bar", "login.example.com")).await.unwrap_err();

    assert_eq!(made.hostname(), "login.example.com");
    for refusal in [taken, moved, still_taken] {
        assert_eq!(told(&refusal), "AlreadyExists TENANT_ALREADY_EXISTS");
        assert!(refusal.message().contains("hostname"), "{}", refusal.message());
    }
    root.undelete("foo").await.unwrap();
    root.update(pb::Tenant { hostname: Some(String::new()), ..of("foo") }).await.unwrap();
    root.create(at("bar", "login.example.com")).await.unwrap();
}

/// 2-04, 3-25: what only a service provider may have.
#[tokio::test]
async fn a_routing_profile_and_an_identity_provider_are_for_service_providers() {
    let app = App::start().await;
    let root = app.as_root();
    for field in ["tenant.use_custom_routing_profile", "tenant.sp_idp"] {
        let with = |base: pb::Tenant| match field {
            "tenant.sp_idp" => pb::Tenant { sp_idp: Some(true), ..base },
            _ => pb::Tenant { use_custom_routing_profile: Some(true), ..base },
        };
        assert_eq!(fields(&root.create(with(tenant("no"))).await.unwrap_err()), [field]);
        let id = field.rsplit('.').next().unwrap().replace('_', "-");
        let made = root.create(with(provider(&id))).await.unwrap();
        let has = match field {
            "tenant.sp_idp" => made.sp_idp,
            _ => made.use_custom_routing_profile,
        };
        assert_eq!(has, Some(true), "{field}");
        assert_eq!(root.get(&id).await.unwrap(), made);
    }
    // Settable at create only.
    for (id, value) in [("sp-idp", true), ("use-custom-routing-profile", false)] {
        let other = pb::Tenant { use_custom_routing_profile: Some(value), ..of(id) };
        let refusal = root.update(other).await.unwrap_err();
        let same = pb::Tenant { use_custom_routing_profile: Some(!value), ..of(id) };

        assert_eq!(told(&refusal), "InvalidArgument IMMUTABLE_FIELD", "to {value}");
        assert_eq!(fields(&refusal), ["tenant.use_custom_routing_profile"]);
        assert_eq!(root.update(same).await.unwrap().use_custom_routing_profile, Some(!value));
    }
}

/// 2-19: a missing domain is made where it is asked for, whatever the setting.
#[tokio::test]
async fn a_missing_domain_is_created_or_refused_as_asked() {
    for by_setting in [false, true] {
        let app = App::start_with(|settings| {
            settings.auto_create.tenant_default_domain = by_setting;
        })
        .await;
        let root = app.as_root();
        for (asked, created) in [(None, by_setting), (Some(true), true), (Some(false), false)] {
            let domain = format!("d{}.be", asked.map_or(2, u8::from));
            let id = domain.replace('.', "-");
            let request = pb::CreateTenantRequest {
                tenant: Some(pb::Tenant { default_domain: Some(domain.clone()), ..tenant(&id) }),
                auto_create_domain: asked,
                ..Default::default()
            };

            let answer = root.tenants().create_tenant(request).await;

            assert_eq!(answer.is_ok(), created, "{by_setting} {asked:?}");
            let request = pb::GetDomainRequest { domain_id: domain };
            assert_eq!(root.directory().get_domain(request).await.is_ok(), created);
            if let Err(refusal) = answer {
                assert_eq!(told(&refusal), "NotFound DOMAIN_NOT_FOUND");
                assert_eq!(told(&root.get(&id).await.unwrap_err()), "NotFound TENANT_NOT_FOUND");
            }
        }
        for (asked, created) in [(None, by_setting), (Some(true), true), (Some(false), false)] {
            let domain = format!("later{}.be", asked.map_or(2, u8::from));
            let id = domain.replace('.', "-");
            let before = root.create(tenant(&id)).await.unwrap();
            let change = pb::Tenant { default_domain: Some(domain.clone()), ..of(&id) };
            let request = pb::UpdateTenantRequest {
                tenant: Some(pb::Tenant { tag: Some("gold".into()), ..change }),
                auto_create_domain: asked,
                ..Default::default()
            };

            let answer = root.tenants().update_tenant(request).await;

            assert_eq!(answer.is_ok(), created, "update: {by_setting} {asked:?}");
            let after = root.get(&id).await.unwrap();
            let request = pb::GetDomainRequest { domain_id: domain.clone() };
            assert_eq!(root.directory().get_domain(request).await.is_ok(), created);
            match answer {
                Ok(_) => assert_eq!((after.default_domain(), after.tag()), (&*domain, "gold")),
                Err(refusal) => {
                    assert_eq!(told(&refusal), "NotFound DOMAIN_NOT_FOUND");
                    assert_eq!(after, before);
                }
            }
        }
    }
}

/// 2-05, 2-06, 2-07
#[tokio::test]
async fn a_name_a_support_address_and_a_domain_have_up_to_eighty_characters() {
    let app = App::start_with(|settings| settings.auto_create.tenant_default_domain = true).await;
    let root = app.as_root();
    // Each of a length, in characters where they may be more than a byte.
    let name = |length| pb::Tenant { name: Some("ä".repeat(length)), ..Default::default() };
    let address = |length: usize| {
        let mailbox = "a".repeat(length - "@example.com".len());
        let address = format!("{mailbox}@example.com");
        pb::Tenant { support_email: Some(address), ..Default::default() }
    };
    let domain = |length: usize| {
        let domain = format!("{}.{}", "a".repeat(60), "b".repeat(length - 61));
        pb::Tenant { default_domain: Some(domain), ..Default::default() }
    };
    for (field, eighty, more) in [
        ("tenant.name", name(80), name(81)),
        ("tenant.support_email", address(80), address(81)),
        ("tenant.default_domain", domain(80), domain(81)),
    ] {
        let id = field.replace(['.', '_'], "-");
        let new = |said: &pb::Tenant| pb::Tenant {
            name: said.name.clone().or(tenant(&id).name),
            support_email: said.support_email.clone(),
            default_domain: said.default_domain.clone(),
            ..tenant(&id)
        };
        let change = |said: &pb::Tenant| pb::Tenant { tenant_id: id.clone(), ..said.clone() };

        assert_eq!(fields(&root.create(new(&more)).await.unwrap_err()), [field]);
        let made = root.create(new(&eighty)).await.unwrap();
        assert_eq!(fields(&root.update(change(&more)).await.unwrap_err()), [field]);
        assert_eq!(root.update(change(&eighty)).await.unwrap(), made);
        assert_eq!(
            (made.name, made.support_email, made.default_domain),
            (
                new(&eighty).name,
                Some(eighty.support_email.unwrap_or_default()),
                Some(eighty.default_domain.unwrap_or_default())
            )
        );
    }
}

/// 1-11, 1-09, 1-10: where a client's parent comes from.
#[tokio::test]
async fn a_client_has_the_parent_given_or_the_one_of_the_callers_key() {
    let app = App::start().await;
    let root = app.as_root();
    root.create(tenant("main")).await.unwrap();
    let orphan = pb::Tenant { parent_tenant_id: None, ..client("orphan", "") };

    let required = root.create(orphan.clone()).await.unwrap_err();
    let unknown = root.create(client("orphan", "nobody")).await.unwrap_err();
    let given = root.create(client("given", "main")).await.unwrap();
    let call = root.with("x-tenant-id", "main");
    let of_call = call.create(pb::Tenant { tenant_id: "of-call".into(), ..orphan }).await.unwrap();

    let sibling = root.with("x-tenant-id", "given");
    let sibling = sibling
        .create(pb::Tenant { parent_tenant_id: None, ..client("sibling", "") })
        .await
        .unwrap();

    assert_eq!(sibling.parent_tenant_id(), "main", "a client stands for its parent");
    assert_eq!(told(&required), "InvalidArgument PARENT_REQUIRED");
    assert_eq!(told(&unknown), "NotFound PARENT_NOT_FOUND");
    assert_eq!(given.parent_tenant_id(), "main");
    assert_eq!(of_call.parent_tenant_id(), "main");
}

/// 1-09: whatever its own tenant is, and whatever it creates.
#[tokio::test]
async fn a_tenants_key_that_names_no_parent_creates_below_its_own_tenant() {
    let app = App::start().await;
    let root = app.as_root();
    root.create(tenant("main")).await.unwrap();
    root.create(provider("product")).await.unwrap();
    let kind = OrganizationKind::ServiceProvider.into();
    root.create(pb::Tenant { organization_kind: kind, ..client("client", "main") }).await.unwrap();

    for own in ["product", "client"] {
        let key = root.with("x-tenant-id", own).create_key(&["service-provider-admin"]).await;
        let key = app.as_key(&key);
        for (what, of_type) in [("p", TenantType::Product), ("c", TenantType::Client)] {
            let id = format!("{what}-below-{own}");
            let new = pb::Tenant { r#type: of_type.into(), ..tenant(&id) };

            let made = key.create(new).await.unwrap();

            assert_eq!(made.parent_tenant_id(), own, "{id}");
            assert_eq!(root.get(&id).await.unwrap().parent_tenant_id(), own, "{id}");
        }
    }
}

#[tokio::test]
async fn a_parent_is_a_product_or_a_provider_of_the_same_account_and_active() {
    let app = App::start().await;
    let root = app.as_root();
    root.create(tenant("main")).await.unwrap();
    root.create(client("client", "main")).await.unwrap();
    root.create(provider("provider")).await.unwrap();
    root.create(tenant("gone")).await.unwrap();
    root.delete("gone").await.unwrap();
    let elsewhere = app.account("acme").await;
    elsewhere.create(tenant("foreign")).await.unwrap();
    let product_below =
        |id: &str, parent: &str| pb::Tenant { parent_tenant_id: Some(parent.into()), ..tenant(id) };

    let below_client = root.create(client("x", "client")).await.unwrap_err();
    let product = root.create(product_below("x", "main")).await.unwrap_err();
    let deleted = root.create(client("x", "gone")).await.unwrap_err();
    let foreign = root.create(client("x", "foreign")).await.unwrap_err();
    root.create(product_below("ok", "provider")).await.unwrap();

    assert_eq!(fields(&below_client), ["tenant.parent_tenant_id"]);
    assert_eq!(fields(&product), ["tenant.parent_tenant_id"]);
    assert_eq!(told(&deleted), "FailedPrecondition TENANT_NOT_ACTIVE");
    assert_eq!(told(&foreign), "NotFound PARENT_NOT_FOUND");
}

#[tokio::test]
async fn a_tree_has_at_most_five_levels() {
    let app = App::start().await;
    let root = app.as_root();
    root.create(provider("level-1")).await.unwrap();
    for level in 2..=5 {
        let below = pb::Tenant {
            parent_tenant_id: Some(format!("level-{}", level - 1)),
            ..provider(&format!("level-{level}"))
        };
        root.create(below).await.unwrap();
    }

    let refusal = root.create(client("level-6", "level-5")).await.unwrap_err();

    assert_eq!(fields(&refusal), ["tenant.parent_tenant_id"]);
}

/// 3-15: below a provider, the provider's line holds.
#[tokio::test]
async fn a_tenant_below_a_provider_has_its_line() {
    let app = App::start().await;
    let root = app.as_root();
    let issuance = ServiceLine::Issuance.into();
    root.create(pb::Tenant { service_line: issuance, ..provider("provider") }).await.unwrap();
    let other = pb::Tenant {
        service_line: ServiceLine::Authentication.into(),
        ..client("below", "provider")
    };

    let entitlement = |quantity| {
        Some(pb::Entitlement {
            quantity: Some(quantity),
            issuance: Some(pb::Issuance { service_bundles: vec!["gold".into()] }),
            ..nothing_of_it(pb::ContractMode::Production)
        })
    };
    let of_provider =
        pb::SetEntitlementRequest { entitlement: entitlement(1), ..Default::default() };
    root.with("x-tenant-id", "provider").tenants().set_entitlement(of_provider).await.unwrap();
    let request = pb::CreateTenantRequest {
        tenant: Some(other),
        entitlement: entitlement(0),
        ..Default::default()
    };

    let below = root.tenants().create_tenant(request).await.unwrap().into_inner().tenant.unwrap();

    assert_eq!(below.service_line(), ServiceLine::Issuance);
    let alone = pb::Tenant { service_line: issuance, ..tenant("alone") };
    assert_eq!(root.create(alone).await.unwrap().service_line(), ServiceLine::Issuance);
}

/// 1-44, 2-12, 4-09: what is sent changes, what is not stays.
#[tokio::test]
async fn an_update_changes_what_is_sent_and_nothing_else() {
    let app = App::start().await;
    let root = app.as_root();
    let before = root
        .create(pb::Tenant {
            contact: Some(pb::Contact { name: "Ada".into(), ..Default::default() }),
            support_email: Some("info@enterprise.be".into()),
            labels: [("a".into(), "1".into())].into(),
            external_ids: [("1".into(), "one".into())].into(),
            ..tenant("foo")
        })
        .await
        .unwrap();

    let after = root
        .update(pb::Tenant {
            support_email: Some("new@enterprise.be".into()),
            contact: Some(pb::Contact { email: "ada@enterprise.be".into(), ..Default::default() }),
            address: Some(pb::Address { country: "Belgium".into(), ..Default::default() }),
            labels: [("b".into(), "2".into())].into(),
            ..of("foo")
        })
        .await
        .unwrap();

    assert_eq!(after, root.get("foo").await.unwrap());
    assert_eq!(after.support_email(), "new@enterprise.be");
    let contact = after.contact.clone().unwrap();
    assert_eq!((&*contact.name, &*contact.email), ("Ada", "ada@enterprise.be"));
    assert_eq!(after.labels.len(), 2);
    assert_ne!(after.etag, before.etag);
    let unchanged = pb::Tenant {
        support_email: before.support_email.clone(),
        contact: before.contact.clone(),
        address: before.address.clone(),
        labels: before.labels.clone(),
        update_time: before.update_time,
        etag: before.etag.clone(),
        ..after
    };
    assert_eq!(unchanged, before);
}

/// 4-09: the name and each part of the address by itself; the others stay.
#[tokio::test]
async fn an_update_changes_one_part_of_the_address_and_leaves_the_others() {
    let app = App::start().await;
    let root = app.as_root();
    let mut expected = pb::Address {
        street_address: "Rue de la Loi 1".into(),
        extended_address: "2nd floor".into(),
        locality: "Bruxelles".into(),
        region: "Bruxelles-Capitale".into(),
        post_code: "1000".into(),
        country: "Belgium".into(),
    };
    root.create(pb::Tenant { address: Some(expected.clone()), ..tenant("foo") }).await.unwrap();
    let parts: [(Part, &str); 6] = [
        (|address| &mut address.street_address, "Place Royale 2"),
        (|address| &mut address.extended_address, "3rd floor"),
        (|address| &mut address.locality, "Gent"),
        (|address| &mut address.region, "Oost-Vlaanderen"),
        (|address| &mut address.post_code, "9000"),
        (|address| &mut address.country, "Nederland"),
    ];

    for (part, value) in parts {
        let mut sent = pb::Address::default();
        *part(&mut sent) = value.into();
        *part(&mut expected) = value.into();
        let after = root.update(pb::Tenant { address: Some(sent), ..of("foo") }).await.unwrap();

        assert_eq!(after.address, Some(expected.clone()), "{value}");
        assert_eq!(after.name(), "Tenant foo", "{value}");
    }
    let renamed = pb::Tenant { name: Some("Enterprise".into()), ..of("foo") };
    let renamed = root.update(renamed).await.unwrap();

    assert_eq!(renamed, root.get("foo").await.unwrap());
    assert_eq!((renamed.name(), &renamed.address), ("Enterprise", &Some(expected)));
}

#[tokio::test]
async fn a_mask_changes_its_paths_and_clears_those_that_are_absent() {
    let app = App::start().await;
    let root = app.as_root();
    let full = pb::Tenant {
        tag: Some("gold".into()),
        support_email: Some("info@enterprise.be".into()),
        contact: Some(pb::Contact {
            name: "Ada".into(),
            email: "ada@enterprise.be".into(),
            ..Default::default()
        }),
        labels: [("a".into(), "1".into()), ("b".into(), "2".into())].into(),
        profile: Some(Struct {
            fields: [("k".to_owned(), Value { kind: Some(JsonKind::BoolValue(true)) })].into(),
        }),
        ..tenant("foo")
    };
    root.create(full).await.unwrap();
    let sent = pb::Tenant {
        support_email: Some("ignored@enterprise.be".into()),
        labels: [("a".into(), "9".into())].into(),
        ..of("foo")
    };

    let paths = ["tag", "contact.email", "labels.a", "labels.b", "profile"];
    let after = root.update_paths(sent.clone(), &paths).await.unwrap();
    let cleared = root.update_paths(sent, &["labels", "contact"]).await.unwrap();
    let nameless = root.update_paths(of("foo"), &["name"]).await.unwrap_err();

    assert_eq!(after.tag(), "");
    assert_eq!(after.support_email(), "info@enterprise.be", "not in the mask");
    let contact = after.contact.unwrap();
    assert_eq!((&*contact.name, &*contact.email), ("Ada", ""));
    assert_eq!(after.labels, [("a".to_owned(), "9".to_owned())].into());
    assert_eq!(after.profile, None);
    assert_eq!(cleared.labels, [("a".to_owned(), "9".to_owned())].into());
    assert_eq!(cleared.contact, None);
    assert_eq!(fields(&nameless), ["tenant.name"], "a name cannot be cleared");
}

#[tokio::test]
async fn a_change_that_changes_nothing_leaves_the_etag_and_output_fields_are_ignored() {
    let app = App::start().await;
    let root = app.as_root();
    let stored = root.create(tenant("foo")).await.unwrap();

    let sent = pb::Tenant {
        name: stored.name.clone(),
        state: TenantState::Deleted.into(),
        uid: "made up".into(),
        create_time: None,
        delete_time: Some(prost_types::Timestamp { seconds: 1, nanos: 0 }),
        ..of("foo")
    };
    let same = root.update(sent).await.unwrap();

    assert_eq!(same, stored);
}

/// 3-07, 3-14: a trial may become productive, and there is no way back.
#[tokio::test]
async fn a_trial_becomes_productive_and_never_the_other_way() {
    let app = App::start().await;
    let root = app.as_root();
    let trial = pb::Tenant { contract_mode: ContractMode::Trial.into(), ..tenant("foo") };
    root.create(trial.clone()).await.unwrap();
    let mode = |mode: ContractMode| pb::Tenant { contract_mode: mode.into(), ..of("foo") };

    let masked = root.update_paths(of("foo"), &["contract_mode"]).await.unwrap();
    let upgraded = root.update(mode(ContractMode::Production)).await.unwrap();
    let back = root.update(mode(ContractMode::Trial)).await.unwrap_err();

    assert_eq!(masked.contract_mode(), ContractMode::Trial, "nothing clears it");
    assert_eq!(upgraded.contract_mode(), ContractMode::Production);
    assert_eq!(told(&back), "FailedPrecondition CONTRACT_MODE_NOT_ALLOWED");
}

/// 1-42, 2-10: by what else a tenant is found.
#[tokio::test]
async fn a_tenant_is_found_by_uid_code_hostname_and_external_id() {
    let app = App::start().await;
    let root = app.as_root();
    let made = root
        .create(pb::Tenant {
            code: Some("CODE1".into()),
            hostname: Some("foo.example.com".into()),
            external_ids: [("1".into(), "ext".into()), ("2".into(), String::new())].into(),
            ..tenant("foo")
        })
        .await
        .unwrap();
    let external = |key: &str, value: &str| {
        Selector::ExternalId(pb::ExternalId { key: key.into(), value: value.into() })
    };

    for selector in [
        Selector::Uid(made.uid.clone()),
        Selector::Code("CODE1".into()),
        Selector::Hostname("FOO.example.com".into()),
        external("1", "ext"),
    ] {
        assert_eq!(look_up(&root, selector.clone()).await.unwrap(), made, "{selector:?}");
    }
    for selector in [
        Selector::Uid(uuid::Uuid::nil().to_string()),
        Selector::Code("code1".into()),
        Selector::Hostname("bar.example.com".into()),
        external("1", "EXT"),
        external("2", "ext"),
    ] {
        let refusal = look_up(&root, selector.clone()).await.unwrap_err();
        assert_eq!(told(&refusal), "NotFound TENANT_NOT_FOUND", "{selector:?}");
    }
    for selector in [
        Selector::Code(String::new()),
        Selector::Hostname(String::new()),
        external("2", ""),
        Selector::Uid("no uuid".into()),
    ] {
        let refusal = look_up(&root, selector.clone()).await.unwrap_err();
        assert_eq!(told(&refusal), "InvalidArgument INVALID_FIELD", "{selector:?}");
    }
    let twin = pb::Tenant { external_ids: [("1".into(), "ext".into())].into(), ..tenant("twin") };
    root.create(twin).await.unwrap();
    let refusal = look_up(&root, external("1", "ext")).await.unwrap_err();
    assert_eq!(told(&refusal), "FailedPrecondition AMBIGUOUS");
}

/// 1-46, 1-47, 4-07: deletion, what stands against it, and the way back.
#[tokio::test]
async fn a_deleted_tenant_is_there_as_such_and_comes_back_as_it_was() {
    let app = App::start().await;
    let root = app.as_root();
    let before = root.create(tenant("foo")).await.unwrap();

    let deleted = root.delete("foo").await.unwrap();
    let read = root.get("foo").await.unwrap();
    let twice = root.delete("foo").await.unwrap_err();
    let change = root.update(pb::Tenant { tag: Some("x".into()), ..of("foo") }).await.unwrap_err();
    let back = root.undelete("foo").await.unwrap();
    let alive = root.undelete("foo").await.unwrap_err();

    assert_eq!(read, deleted);
    assert_eq!(deleted.state(), TenantState::Deleted);
    assert!(deleted.delete_time.is_some());
    let days = deleted.purge_time.unwrap().seconds - deleted.delete_time.unwrap().seconds;
    assert_eq!(days, 30 * 24 * 3600);
    assert_eq!(told(&twice), "FailedPrecondition INVALID_STATE_TRANSITION");
    assert_eq!(told(&change), "FailedPrecondition TENANT_NOT_ACTIVE");
    assert_eq!(back.state(), TenantState::Active);
    assert_eq!((back.delete_time, back.purge_time), (None, None));
    assert_eq!(told(&alive), "FailedPrecondition INVALID_STATE_TRANSITION");
    // Nothing stamped is ever cleared.
    let status = back.status_details.unwrap();
    assert_eq!(status.delete_time, deleted.delete_time);
    assert!(status.deleted_by.starts_with("api_key:"));
    assert_eq!(status.approve_time, before.status_details.unwrap().approve_time);
}

#[tokio::test]
async fn after_its_purge_time_a_tenant_cannot_be_brought_back() {
    let app = App::start().await;
    let root = app.as_root();
    root.create(tenant("foo")).await.unwrap();
    root.delete("foo").await.unwrap();
    app.shared.clock.advance(TimeDelta::days(29));
    root.undelete("foo").await.unwrap();
    root.delete("foo").await.unwrap();

    app.shared.clock.advance(TimeDelta::days(31));
    let refusal = root.undelete("foo").await.unwrap_err();

    assert_eq!(told(&refusal), "FailedPrecondition INVALID_STATE_TRANSITION");
}

/// 1-46, 1-47, 3-23: nobody deletes the tenant of their own key, a provider, or one with others below.
#[tokio::test]
async fn neither_ones_own_tenant_nor_a_provider_nor_one_with_others_below_can_be_deleted() {
    let app = App::start().await;
    let root = app.as_root();
    root.create(provider("provider")).await.unwrap();
    root.create(client("below", "provider")).await.unwrap();
    let key = root.with("x-tenant-id", "provider").create_key(&["service-provider-admin"]).await;
    let provider = app.as_key(&key);

    let parent = root.delete("provider").await.unwrap_err();
    let own = provider.delete("provider").await.unwrap_err();
    provider.delete("below").await.unwrap();
    let empty = root.delete("provider").await.unwrap_err();
    root.create(tenant("product")).await.unwrap();
    root.create(client("client", "product")).await.unwrap();
    let with_client = root.delete("product").await.unwrap_err();
    root.delete("client").await.unwrap();
    root.delete("product").await.unwrap();
    let orphan = root.undelete("client").await.unwrap_err();

    assert_eq!(told(&parent), "FailedPrecondition SERVICE_PROVIDER_NOT_DELETABLE");
    assert_eq!(told(&empty), "FailedPrecondition SERVICE_PROVIDER_NOT_DELETABLE");
    assert_eq!(told(&with_client), "FailedPrecondition HAS_CHILD_TENANTS");
    assert_eq!(told(&own), "FailedPrecondition CANNOT_DELETE_SELF");
    assert_eq!(told(&orphan), "FailedPrecondition TENANT_NOT_ACTIVE");
}

/// 1-43, 4-04, 4-05: without an id, the tenant of the key.
#[tokio::test]
async fn a_tenants_key_reads_and_updates_its_own_tenant_without_naming_it() {
    let app = App::start().await;
    let root = app.as_root();
    root.create(tenant("foo")).await.unwrap();
    root.create(tenant("bar")).await.unwrap();
    for role in ["tenant-admin", "tenant-management"] {
        let key = app.as_key(&root.with("x-tenant-id", "foo").create_key(&[role]).await);

        assert_eq!(key.get("").await.unwrap().tenant_id, "foo");
        let updated = key.update(pb::Tenant { tag: Some(role.into()), ..of("") }).await.unwrap();
        assert_eq!((&*updated.tenant_id, updated.tag()), ("foo", role));
        let other = key.update(pb::Tenant { tag: Some(role.into()), ..of("bar") }).await;
        assert_eq!(told(&other.unwrap_err()), "NotFound TENANT_NOT_FOUND");
    }
    let nobody = root.get("").await.unwrap_err();
    assert_eq!(fields(&nobody), ["tenant_id"]);
    assert_eq!(count(&app, "select count(*) as number from tenants where tag <> ''").await, 1);
}
