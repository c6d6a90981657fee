//! Keys that were made elsewhere, imported by the hashes of their texts.

use std::os::unix::fs::PermissionsExt as _;

use serde_json::json;
use sha2::{Digest as _, Sha256};
use tenantry::pb;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};
use tonic_types::StatusExt as _;

use crate::app::{App, Caller, application, count, fields, product, rows, tenant, told};

/// A tenant with an installation; answers a caller that acts on it, and its app key.
async fn install(app: &App, id: &str) -> (Caller, String) {
    let root = app.as_root();
    let mut request = json!({"tenant": {
        "tenant_id": id, "name": id, "description": "", "type": "TENANT_TYPE_PRODUCT",
        "organization_kind": "ORGANIZATION_KIND_ENTERPRISE",
    }});
    request["application"] = application();
    let made = root.call("CreateTenant", request).await.unwrap();
    let app_key = made["external_key"]["app_key_id"].as_str().unwrap().to_owned();
    (root.with("x-tenant-id", id), app_key)
}

async fn start() -> (App, Caller, String) {
    let app = App::start().await;
    app.as_root().call("CreateProduct", product()).await.unwrap();
    let (caller, app_key) = install(&app, "foo").await;
    (app, caller, app_key)
}

fn key(text: &str, app_key_id: &str) -> pb::ImportedKey {
    let external_key = pb::ExternalKey {
        app_key_id: app_key_id.into(),
        label: format!("key {text}"),
        environment: "production".into(),
        ..Default::default()
    };
    let sha256 = Sha256::digest(text).to_vec();
    pb::ImportedKey { sha256, external_key: Some(external_key) }
}

fn message(texts: &[&str], app_key_id: &str) -> pb::ImportKeysRequest {
    let keys = texts.iter().map(|text| key(text, app_key_id)).collect();
    pb::ImportKeysRequest { keys, ..Default::default() }
}

/// A stream that is open in both directions.
struct Import {
    requests: mpsc::Sender<pb::ImportKeysRequest>,
    answers: Streaming<pb::ImportKeysResponse>,
}

impl Import {
    /// Begins a stream; its first answer comes before anything is sent.
    async fn start(caller: &Caller) -> Result<Self, Status> {
        let (requests, sent) = mpsc::channel(1);
        let answers = caller.keys().import_keys(ReceiverStream::new(sent)).await?.into_inner();
        let mut import = Self { requests, answers };
        let first = import.answers.message().await?.unwrap();
        assert_eq!(first, pb::ImportKeysResponse::default());
        Ok(import)
    }

    async fn send(
        &mut self,
        request: pb::ImportKeysRequest,
    ) -> Result<pb::ImportKeysResponse, Status> {
        self.requests.send(request).await.unwrap();
        Ok(self.answers.message().await?.unwrap())
    }

    /// Ends the stream, and sees it end.
    async fn end(self) {
        let Self { requests, mut answers } = self;
        drop(requests);
        assert_eq!(answers.message().await.unwrap(), None);
    }
}

/// One message of a stream of its own.
async fn import(
    caller: &Caller,
    request: pb::ImportKeysRequest,
) -> Result<pb::ImportKeysResponse, Status> {
    let mut import = Import::start(caller).await?;
    let answer = import.send(request).await?;
    import.end().await;
    Ok(answer)
}

/// 1-25, 1-29: keys are there with what was said of them, and found by the digests of their hashes alone.
#[tokio::test]
async fn an_import_tells_how_far_it_is_and_stores_digests_only() {
    let (app, foo, app_key) = start().await;
    let mut stream = Import::start(&foo).await.unwrap();

    let first = stream.send(message(&["one", "two"], &app_key)).await.unwrap();
    let mut limited = message(&["three"], &app_key);
    let said = limited.keys[0].external_key.as_mut().unwrap();
    said.environment = "SOD".into();
    said.exp_date = "9000-01-31".into();
    said.enabled = Some(false);
    said.geo = Some(pb::GeoRules { allow: vec!["10.0.0.0/8".into()], deny: Vec::new() });
    said.credits = Some(pb::Credits { amount: Some(5), ..Default::default() });
    let second = stream.send(limited).await.unwrap();
    stream.end().await;

    assert_eq!((first.imported, first.passed_over), (2, 0));
    assert_eq!((second.imported, second.passed_over), (3, 0));
    assert_eq!((first.external_key_ids.len(), second.external_key_ids.len()), (2, 1));
    let stored = "select count(*) as number from external_keys k join imported_keys i using (route, number) \
                  where i.digest = k.digest and i.tenant_uid = k.tenant_uid";
    assert_eq!(count(&app, stored).await, 3);
    let special = "select count(*) as number from external_keys k join key_credits c using (route, number) \
                   where not k.enabled and k.environment = 'sod' and k.geo is not null \
                       and k.expire_time = '9000-02-01T00:00:00Z' and c.remaining = 5 \
                       and c.limits_version = k.limits_version";
    assert_eq!(count(&app, special).await, 1);
    for (place, text) in ["one", "two"].into_iter().enumerate() {
        let told = format!(
            "select count(*) as number from events where type = 'external_key.imported' \
                 and resource_id = '{}' and after->>'label' = 'key {text}' \
                 and after->>'tenant_id' = 'foo' and after->>'product_code' = 'PHONE'",
            first.external_key_ids[place]
        );
        assert_eq!(count(&app, &told).await, 1, "one for each, in the order of the message");
        // What was sent is in no table, as bytes or as text.
        let hash = hex::encode(Sha256::digest(text));
        for table in rows(&app).await.keys().map(String::as_str).chain(["events"]) {
            let found =
                format!("select count(*) as number from {table} t where t::text like '%{hash}%'");
            assert_eq!(count(&app, &found).await, 0, "{table}");
        }
    }
    let digests = "select count(*) as number from events e, imported_keys i \
                   where e::text like '%' || encode(i.digest, 'hex') || '%'";
    assert_eq!(count(&app, digests).await, 0);
}

#[tokio::test]
async fn two_thousand_keys_are_imported_by_four_messages_and_passed_over_by_the_same_again() {
    let (app, foo, app_key) = start().await;
    let texts = (0..2_000).map(|number| format!("old-{number}")).collect::<Vec<_>>();
    let texts = texts.iter().map(String::as_str).collect::<Vec<_>>();
    let mut ids = Vec::new();

    let mut stream = Import::start(&foo).await.unwrap();
    for (number, texts) in (1..).zip(texts.chunks(500)) {
        let answer = stream.send(message(texts, &app_key)).await.unwrap();
        assert_eq!((answer.imported, answer.passed_over), (500 * number, 0));
        ids.extend(answer.external_key_ids);
    }
    stream.end().await;
    let mut again = Import::start(&foo).await.unwrap();
    let mut same = Vec::new();
    for (number, texts) in (1..).zip(texts.chunks(500)) {
        let answer = again.send(message(texts, &app_key)).await.unwrap();
        assert_eq!((answer.imported, answer.passed_over), (0, 500 * number));
        same.extend(answer.external_key_ids);
    }

    assert_eq!(same, ids, "each is what it was");
    let distinct = ids.iter().collect::<std::collections::HashSet<_>>();
    assert_eq!(distinct.len(), 2_000);
    for table in ["imported_keys", "events where type = 'external_key.imported'"] {
        let number = format!("select count(*) as number from {table}");
        assert_eq!(count(&app, &number).await, 2_000, "{table}");
    }
}

#[tokio::test]
async fn what_is_there_is_passed_over_beside_what_is_new_in_the_order_of_the_message() {
    let (_app, foo, app_key) = start().await;
    let before = import(&foo, message(&["b", "d"], &app_key)).await.unwrap().external_key_ids;

    let mixed = import(&foo, message(&["a", "b", "c", "d"], &app_key)).await.unwrap();

    assert_eq!((mixed.imported, mixed.passed_over), (2, 2));
    let ids = &mixed.external_key_ids;
    assert_eq!([&ids[1], &ids[3]], [&before[0], &before[1]]);
    assert!(!before.contains(&ids[0]) && !before.contains(&ids[2]) && ids[0] != ids[2]);
}

#[tokio::test]
async fn a_hash_that_is_another_keys_ends_the_stream_and_nothing_of_the_message_is_done() {
    let (app, foo, app_key) = start().await;
    let (bar, other) = install(&app, "bar").await;
    import(&foo, message(&["taken"], &app_key)).await.unwrap();
    let known = foo.call("ListAppKeys", json!({})).await.unwrap();
    let second = json!({"installation_id": known["app_keys"][0]["installation_id"]});
    let second = foo.call("CreateAppKey", second).await.unwrap();
    let second = second["app_key"]["app_key_id"].as_str().unwrap();
    let before = rows(&app).await;

    let mut stream = Import::start(&foo).await.unwrap();
    let as_another = stream.send(message(&["new", "taken"], second)).await.unwrap_err();
    let of_another_tenant = import(&bar, message(&["new", "taken"], &other)).await.unwrap_err();

    let own_place = as_another.message().contains("keys[1].sha256");
    assert!(own_place, "{}", as_another.message());
    let place = of_another_tenant.message().contains("[1]");
    assert!(!place, "which one it is is told of the tenant's own: {}", of_another_tenant.message());
    for refusal in [as_another, of_another_tenant] {
        assert_eq!(told(&refusal), "AlreadyExists KEY_ALREADY_EXISTS");
        assert!(!refusal.message().contains(&hex::encode(Sha256::digest("taken"))));
        assert!(refusal.get_error_details().request_info().is_some(), "as every error");
    }
    assert_eq!(rows(&app).await, before);
    assert!(stream.answers.message().await.unwrap().is_none(), "the stream has ended");
}

/// A digest that an older version of the master key made is found too.
#[tokio::test]
async fn a_key_that_was_imported_under_an_older_master_key_is_passed_over() {
    let app = App::start_with(|settings| {
        let [reference, one, two] = ["a", "b", "c"].map(|digit| digit.repeat(64));
        let text = format!(
            "ref_key = \"{reference}\"\ncurrent = 2\n[versions]\n1 = \"{one}\"\n2 = \"{two}\"\n"
        );
        let path = settings.data_dir.join("master.key");
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    })
    .await;
    app.as_root().call("CreateProduct", product()).await.unwrap();
    let (foo, app_key) = install(&app, "foo").await;
    let answer = import(&foo, message(&["old"], &app_key)).await.unwrap();
    // As if it had been imported before the rotation of the master key.
    let older = app.shared.master.digest_of_sha256(1, &Sha256::digest("old").into()).unwrap();
    let older = format!(
        "update imported_keys set master_key_version = 1, digest = '\\x{}'",
        hex::encode(older.as_bytes())
    );
    diesel_async::SimpleAsyncConnection::batch_execute(&mut app.superuser().await, &older)
        .await
        .unwrap();

    let again = import(&foo, message(&["old"], &app_key)).await;

    let again = again.unwrap();
    assert_eq!((again.imported, again.passed_over), (0, 1));
    assert_eq!(again.external_key_ids, answer.external_key_ids);
}

#[tokio::test]
async fn what_is_wrong_with_a_message_is_told_with_the_place_of_the_key() {
    let (app, foo, app_key) = start().await;
    let (_, others) = install(&app, "bar").await;
    let mut twice = message(&["one", "two", "one"], &app_key);
    twice.keys[1].external_key.as_mut().unwrap().label = " ".into();
    let mut moon = message(&["one"], &app_key);
    moon.keys[0].external_key.as_mut().unwrap().environment = "moon".into();

    let twice = import(&foo, twice).await.unwrap_err();
    let empty = import(&foo, pb::ImportKeysRequest::default()).await.unwrap_err();
    let moon = import(&foo, moon).await.unwrap_err();
    let unknown = import(&foo, message(&["one"], &"0".repeat(32))).await.unwrap_err();
    let of_another = import(&foo, message(&["one"], &others)).await.unwrap_err();
    let nobodys = import(&app.as_root(), message(&["one"], &app_key)).await.unwrap_err();

    assert_eq!(fields(&twice), ["keys[1].external_key.label", "keys[2].sha256"]);
    assert_eq!(fields(&empty), ["keys"]);
    assert_eq!(told(&moon), "NotFound ENVIRONMENT_NOT_FOUND");
    for refusal in [unknown, of_another] {
        assert_eq!(told(&refusal), "NotFound KEY_NOT_FOUND");
    }
    assert_eq!(told(&nobodys), "InvalidArgument INVALID_METADATA");
    assert_eq!(count(&app, "select count(*) as number from imported_keys").await, 0);
}

#[tokio::test]
async fn a_message_is_repeated_by_its_request_id_and_rehearsed_without_effect() {
    let (app, foo, app_key) = start().await;
    let number = "select count(*) as number from imported_keys";
    let rehearsed =
        pb::ImportKeysRequest { validate_only: true, ..message(&["one", "two"], &app_key) };
    let once = |texts: &[&str]| pb::ImportKeysRequest {
        request_id: "once".into(),
        ..message(texts, &app_key)
    };

    let rehearsal = import(&foo, rehearsed).await.unwrap();
    assert_eq!((rehearsal.imported, count(&app, number).await), (2, 0));
    let first = import(&foo, once(&["one"])).await.unwrap();
    let repeated = import(&foo, once(&["one"])).await.unwrap();
    let otherwise = import(&foo, once(&["two"])).await.unwrap_err();

    assert_eq!(repeated, first, "the same answer, not one of what was passed over");
    assert_eq!(told(&otherwise), "FailedPrecondition IDEMPOTENCY_CONFLICT");
    assert_eq!(count(&app, number).await, 1);
}

/// Who rehearses learns nothing of the keys of others; who imports in earnest is told, and leaves a trace.
#[tokio::test]
async fn a_rehearsal_does_not_tell_which_hashes_are_keys_of_others() {
    let (app, foo, app_key) = start().await;
    let (bar, other) = install(&app, "bar").await;
    import(&foo, message(&["taken"], &app_key)).await.unwrap();

    let rehearsed =
        pb::ImportKeysRequest { validate_only: true, ..message(&["taken", "new"], &other) };
    let rehearsal = import(&bar, rehearsed).await.unwrap();
    let refused = import(&bar, message(&["taken", "new"], &other)).await.unwrap_err();

    assert_eq!((rehearsal.imported, rehearsal.passed_over), (2, 0));
    assert_eq!(told(&refused), "AlreadyExists KEY_ALREADY_EXISTS");
    assert_eq!(count(&app, "select count(*) as number from imported_keys").await, 1);
}

/// As whatever else is added to a tenant.
#[tokio::test]
async fn nothing_is_imported_into_a_tenant_that_is_deleted() {
    let (app, foo, app_key) = start().await;
    app.as_root().call("DeleteTenant", json!({"tenant_id": "foo"})).await.unwrap();

    let refused = import(&foo, message(&["late"], &app_key)).await.unwrap_err();

    assert_eq!(told(&refused), "FailedPrecondition TENANT_NOT_ACTIVE");
    assert_eq!(count(&app, "select count(*) as number from imported_keys").await, 0);
}

/// 1-46, 4-15: each message is a call of its own, which the key may make by then or not.
#[tokio::test]
async fn a_stream_ends_when_its_key_is_revoked_or_its_tenant_protected() {
    let (app, foo, app_key) = start().await;
    let request = pb::CreateApiKeyRequest {
        api_key: Some(pb::ApiKey { roles: vec!["tenant-admin".into()], ..Default::default() }),
        ..Default::default()
    };
    let made = foo.keys().create_api_key(request).await.unwrap().into_inner();
    let mut stream = Import::start(&app.as_key(&made.secret)).await.unwrap();
    stream.send(message(&["one"], &app_key)).await.unwrap();
    let account = app.as_root().with("x-account-id", "default");
    let beside = app.as_key(&account.create_key(&["account-admin"]).await);
    let mut beside = Import::start(&beside.with("x-tenant-id", "foo")).await.unwrap();

    let revoke = pb::RevokeApiKeyRequest {
        api_key_id: made.api_key.unwrap().api_key_id,
        reason: "lost".into(),
        ..Default::default()
    };
    foo.keys().revoke_api_key(revoke).await.unwrap();
    let protect = pb::Tenant { protected: Some(true), ..tenant("foo") };
    app.as_root().update_paths(protect, &["protected"]).await.unwrap();
    let revoked = stream.send(message(&["two"], &app_key)).await.unwrap_err();
    let protected = beside.send(message(&["two"], &app_key)).await.unwrap_err();

    assert_eq!(told(&revoked), "Unauthenticated CREDENTIAL_INVALID");
    assert_eq!(told(&protected), "FailedPrecondition RECORD_PROTECTED");
    assert_eq!(count(&app, "select count(*) as number from imported_keys").await, 1);
}

/// Who imports the same at once gets the same, each hash once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn imports_of_the_same_keys_at_once_make_each_key_once() {
    let (app, foo, app_key) = start().await;
    let texts = (0..40).map(|number| format!("same-{number}")).collect::<Vec<_>>();
    let forth = texts.iter().map(String::as_str).collect::<Vec<_>>();
    let back = forth.iter().rev().copied().collect::<Vec<_>>();

    let (one, other) = tokio::join!(
        import(&foo, message(&forth, &app_key)),
        import(&foo, message(&back, &app_key))
    );

    let (one, other) = (one.unwrap(), other.unwrap());
    assert_eq!(one.imported + other.imported, 40);
    let reversed = other.external_key_ids.into_iter().rev().collect::<Vec<_>>();
    assert_eq!(one.external_key_ids, reversed);
    assert_eq!(count(&app, "select count(*) as number from imported_keys").await, 40);
}

/// What stands against a message besides the keys of others is told first, and nothing is told of those then.
#[tokio::test]
async fn an_import_that_fails_anyway_does_not_tell_which_hashes_are_keys_of_others() {
    let (app, foo, app_key) = start().await;
    let (bar, other) = install(&app, "bar").await;
    import(&foo, message(&["taken"], &app_key)).await.unwrap();
    import(&bar, message(&["own"], &other)).await.unwrap();
    let known = bar.call("ListAppKeys", json!({})).await.unwrap();
    let second = json!({"installation_id": known["app_keys"][0]["installation_id"]});
    let second = bar.call("CreateAppKey", second).await.unwrap();
    let second = second["app_key"]["app_key_id"].as_str().unwrap();

    let mut told_of = Vec::new();
    for first in ["taken", "free"] {
        let refused = import(&bar, message(&[first, "own"], second)).await.unwrap_err();
        told_of.push((told(&refused), refused.message().to_owned()));
    }

    assert_eq!(told_of[0], told_of[1]);
    assert!(told_of[0].1.contains("keys[1].sha256"), "{told_of:?}");
}

/// A stream goes on with what its key may give away by now, not with what it could when the stream began.
#[tokio::test]
async fn a_key_that_was_given_an_end_meanwhile_imports_nothing_that_lasts_longer() {
    let (app, foo, app_key) = start().await;
    let made = foo.call("CreateApiKey", json!({"api_key": {"roles": ["tenant-admin"]}})).await;
    let made = made.unwrap();
    let caller = app.as_key(made["secret"].as_str().unwrap());
    let mut stream = Import::start(&caller).await.unwrap();
    stream.send(message(&["one"], &app_key)).await.unwrap();
    let id = &made["api_key"]["api_key_id"];
    let end = json!({"api_key": {"api_key_id": id, "expire_time": "2199-01-01T00:00:00Z"}});
    foo.call("UpdateApiKey", end).await.unwrap();

    let refused = stream.send(message(&["two"], &app_key)).await.unwrap_err();

    assert_eq!(told(&refused), "PermissionDenied PERMISSION_MISSING");
    assert!(refused.message().contains("expire_time"), "{}", refused.message());
    assert_eq!(count(&app, "select count(*) as number from imported_keys").await, 1);
}
