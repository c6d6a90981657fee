//! Service settings: which services of the platform are on for a tenant.

use tenantry::pb;
use tonic::Status;

use crate::app::{App, Caller, fields, rows, tenant, told};

fn on(name: &str) -> pb::ServiceSetting {
    pb::ServiceSetting { name: name.to_owned(), enabled: true }
}

fn off(name: &str) -> pb::ServiceSetting {
    pb::ServiceSetting { name: name.to_owned(), enabled: false }
}

fn asked(settings: &[pb::ServiceSetting]) -> pb::UpdateServiceSettingsRequest {
    pb::UpdateServiceSettingsRequest { settings: settings.to_vec(), ..Default::default() }
}

async fn update(
    caller: &Caller,
    request: pb::UpdateServiceSettingsRequest,
) -> Result<pb::UpdateServiceSettingsResponse, Status> {
    Ok(caller.tenants().update_service_settings(request).await?.into_inner())
}

async fn list(
    caller: &Caller,
    request: pb::ListServiceSettingsRequest,
) -> Result<pb::ListServiceSettingsResponse, Status> {
    Ok(caller.tenants().list_service_settings(request).await?.into_inner())
}

/// A Tenantry with the tenant `foo`, and who acts on it from above.
async fn foo() -> (App, Caller) {
    let app = App::start().await;
    app.as_root().create(tenant("foo")).await.unwrap();
    let above = app.as_root().with("x-tenant-id", "foo");
    (app, above)
}

/// 4-14
#[tokio::test]
async fn settings_that_are_named_are_set_and_the_others_stay_or_go_as_asked() {
    let (_app, above) = foo().await;

    let first = update(&above, asked(&[on("mail"), on("calendar")])).await.unwrap();
    let second = update(&above, asked(&[off("mail"), on("chat.v2")])).await.unwrap();
    let same = update(&above, asked(&[off("mail")])).await.unwrap();
    let whole = pb::UpdateServiceSettingsRequest { remove_others: true, ..asked(&[on("fax")]) };
    let whole = update(&above, whole).await.unwrap();
    let listed = list(&above, pb::ListServiceSettingsRequest::default()).await.unwrap();
    let nothing = pb::UpdateServiceSettingsRequest { remove_others: true, ..asked(&[]) };
    let nothing = update(&above, nothing).await.unwrap();

    assert_eq!(first.settings, [on("calendar"), on("mail")]);
    assert_eq!(second.settings, [on("calendar"), on("chat.v2"), off("mail")]);
    assert_eq!(same, second);
    assert_eq!(whole.settings, [on("fax")]);
    assert_eq!((listed.settings, listed.etag), (whole.settings, whole.etag));
    assert_eq!(nothing.settings, []);
}

/// 4-14
#[tokio::test]
async fn any_valid_key_lists_the_settings_of_its_tenant_and_only_one_from_above_changes_them() {
    let (app, above) = foo().await;
    update(&above, asked(&[on("mail")])).await.unwrap();
    for role in ["tenant-admin", "tenant-management", "key-verifier", "auditor"] {
        let own = app.as_key(&above.create_key(&[role]).await);

        let seen = list(&own, pb::ListServiceSettingsRequest::default()).await.unwrap();
        let refusal = update(&own, asked(&[on("more")])).await.unwrap_err();

        assert_eq!(seen.settings, [on("mail")], "{role}");
        assert_eq!(told(&refusal), "PermissionDenied PERMISSION_MISSING", "{role}");
    }
    let without = list(&app.as_root(), pb::ListServiceSettingsRequest::default()).await;
    assert_eq!(fields(&without.unwrap_err()), ["x-tenant-id"]);
}

#[tokio::test]
async fn settings_that_are_wrong_twice_named_too_many_or_stale_change_nothing() {
    let (app, above) = foo().await;
    let stored = update(&above, asked(&[on("mail")])).await.unwrap();
    let before = rows(&app).await;
    let many = (0..101).map(|number| on(&format!("s{number}"))).collect::<Vec<_>>();

    for (settings, field) in [
        (vec![on("mail"), on("Not a name")], "settings[1].name"),
        (vec![on("")], "settings[0].name"),
        (vec![on("mail"), off("mail")], "settings[1].name"),
        (many.clone(), "settings"),
    ] {
        let refusal = update(&above, asked(&settings)).await.unwrap_err();
        assert_eq!(told(&refusal), "InvalidArgument INVALID_FIELD", "{field}");
        assert_eq!(fields(&refusal), [field]);
    }
    let stale = pb::UpdateServiceSettingsRequest { etag: "x".into(), ..asked(&[off("mail")]) };
    let stale = update(&above, stale).await.unwrap_err();

    assert_eq!(told(&stale), "Aborted ETAG_MISMATCH");
    assert_eq!(rows(&app).await, before);
    let fresh = pb::UpdateServiceSettingsRequest { etag: stored.etag, ..asked(&[off("mail")]) };
    update(&above, fresh).await.unwrap();
    app.as_root().delete("foo").await.unwrap();
    let deleted = update(&above, asked(&[on("mail")])).await.unwrap_err();
    assert_eq!(told(&deleted), "FailedPrecondition TENANT_NOT_ACTIVE");
}

#[tokio::test]
async fn a_tenant_has_no_more_than_a_thousand_settings() {
    let (_app, above) = foo().await;
    for hundred in 0..10 {
        let named = (0..100).map(|number| on(&format!("s{hundred}-{number}"))).collect::<Vec<_>>();
        update(&above, asked(&named)).await.unwrap();
    }

    let refusal = update(&above, asked(&[on("one-more")])).await.unwrap_err();
    let replaced = pb::UpdateServiceSettingsRequest { remove_others: true, ..asked(&[on("one")]) };
    update(&above, replaced).await.unwrap();

    assert_eq!(fields(&refusal), ["settings"]);
}

#[tokio::test]
async fn settings_are_listed_page_by_page_and_filtered() {
    let (_app, above) = foo().await;
    update(&above, asked(&[on("a"), off("b"), on("c")])).await.unwrap();
    let names = |answer: pb::ListServiceSettingsResponse| {
        answer.settings.into_iter().map(|setting| setting.name).collect::<Vec<_>>()
    };
    let by = |filter: &str, order_by: &str| pb::ListServiceSettingsRequest {
        filter: filter.into(),
        order_by: order_by.into(),
        ..Default::default()
    };

    let first = pb::ListServiceSettingsRequest { page_size: 2, ..by("", "name desc") };
    let first = list(&above, first).await.unwrap();
    let page_token = first.next_page_token.clone();
    let second = pb::ListServiceSettingsRequest { page_token, ..Default::default() };
    let second = list(&above, second).await.unwrap();

    assert_eq!((names(first), names(second)), (vec!["c".into(), "b".into()], vec!["a".into()]));
    assert_eq!(names(list(&above, by("enabled = true", "")).await.unwrap()), ["a", "c"]);
    assert_eq!(names(list(&above, by("NOT name = a*", "")).await.unwrap()), ["b", "c"]);
}
