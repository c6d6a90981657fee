//! Consent: a customer is asked by mail, and says yes or no with a key or on a page.

use std::{collections::BTreeSet, fs};

use chrono::TimeDelta;
use futures_util::future::join_all;
use serde_json::{Value, json};
use tenantry::{authorizations::overdue, config::Settings, mail};
use tonic::Status;

use crate::{
    app::{App, Caller, count, fields, rows, told},
    web::http,
};

/// Two accounts: `ours`, which publishes `crm`, and `theirs` with the tenant `bar`, which is asked.
pub struct World {
    pub app: App,
    pub ours: Caller,
    pub theirs: Caller,
}

impl World {
    async fn new() -> Self {
        Self::with(|_| {}).await
    }

    pub async fn with(change: impl FnOnce(&mut Settings)) -> Self {
        let app = App::start_with(change).await;
        let (ours, theirs) = (app.account("ours").await, app.account("theirs").await);
        let new = json!({"application": {"application_id": "crm", "name": "CRM",
            "description": "Keeps customers.", "homepage_url": "https://crm.example",
            "environments": ["sod", "production"], "scopes": ["read", "write"]}});
        ours.call("CreateApplication", new).await.unwrap();
        let world = Self { app, ours, theirs };
        world.tenant("bar", json!({})).await;
        world
    }

    /// Makes a tenant of `theirs` with two addresses.
    async fn tenant(&self, id: &str, more: Value) -> Value {
        let mut tenant = json!({"tenant_id": id, "name": format!("{id} Inc."), "description": "",
            "type": "TENANT_TYPE_PRODUCT", "organization_kind": "ORGANIZATION_KIND_ENTERPRISE",
            "contact": {"email": format!("boss@{id}.example")},
            "support_email": format!("help@{id}.example")});
        tenant.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let made = self.theirs.call("CreateTenant", json!({"tenant": tenant})).await.unwrap();
        made["tenant"].clone()
    }

    /// A key of the account `ours` that publishes and nothing else.
    async fn publisher(&self) -> Caller {
        self.app.as_key(&self.ours.create_key(&["app-publisher"]).await)
    }

    /// A key of the tenant that is asked.
    async fn customer(&self) -> Caller {
        let on = self.theirs.with("x-tenant-id", "bar");
        self.app.as_key(&on.create_key(&["tenant-admin"]).await)
    }

    /// Sends what is to be sent; answers the mails that were written since they were looked at last, as text.
    async fn mails(&self) -> Vec<String> {
        while mail::step(&self.app.shared).await.unwrap() {}
        let folder = self.app.shared.settings.data_dir.join("mail");
        let Ok(files) = fs::read_dir(&folder) else { return Vec::new() };
        let mut mails = Vec::new();
        for file in files {
            let path = file.unwrap().path();
            let text = fs::read_to_string(&path).unwrap();
            fs::remove_file(path).unwrap();
            mails.push(text.replace("=\r\n", "").replace("=3D", "="));
        }
        mails
    }

    /// The path of the link in the only mail that is to be sent.
    async fn link(&self) -> String {
        let mails = self.mails().await;
        assert_eq!(mails.len(), 1, "{mails:?}");
        path_in(&mails[0])
    }

    async fn page(&self, path: &str) -> String {
        http(&self.app, "GET", path, &[], b"").await
    }

    async fn post(&self, path: &str, form: &str) -> String {
        let form_type = [("content-type", "application/x-www-form-urlencoded")];
        http(&self.app, "POST", path, &form_type, form.as_bytes()).await
    }

    async fn authorizations(&self) -> Vec<Value> {
        let found = self.ours.call("ListAuthorizations", json!({})).await.unwrap();
        found["authorizations"].as_array().cloned().unwrap_or_default()
    }
}

/// The path of the link in a mail.
pub fn path_in(mail: &str) -> String {
    let (_, rest) = mail.split_once("/consent/").unwrap();
    let secret = rest.chars().take_while(|c| c.is_ascii_alphanumeric() || "-_".contains(*c));
    format!("/consent/{}", secret.collect::<String>())
}

pub async fn ask(caller: &Caller, more: Value) -> Result<Value, Status> {
    let mut request = json!({"application_id": "crm", "customer_id": "bar", "customer_name": "Bar",
        "contact_email": "boss@bar.example"});
    request.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    Ok(caller.call("RequestAuthorization", request).await?["authorization_request"].take())
}

async fn call(
    caller: &Caller,
    method: &str,
    request: &Value,
    more: Value,
) -> Result<Value, Status> {
    let mut body = json!({"authorization_request_id": request["authorization_request_id"]});
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    caller.call(&format!("{method}AuthorizationRequest"), body).await
}

async fn get(caller: &Caller, request: &Value) -> Result<Value, Status> {
    Ok(call(caller, "Get", request, json!({})).await?["authorization_request"].take())
}

const YES: &str = "decision=approve&name=Jo+Boss";

fn status_of(answer: &str) -> &str {
    &answer["HTTP/1.1 ".len()..][..3]
}

/// 0-10, 0-11, 0-12, 0-19, 0-20: asked by mail, approved on the page, and only then authorized.
#[tokio::test]
async fn a_customer_says_yes_on_the_page_of_its_mail() {
    let world = World::new().await;
    let publisher = world.publisher().await;

    let asked = json!({"additional_info": "As agreed.", "valid_until": "2199-01-01T00:00:00Z"});
    let request = ask(&publisher, asked).await.unwrap();
    let before = world.authorizations().await;
    let mails = world.mails().await;
    let path = path_in(&mails[0]);
    let (shown, shown_again) = (world.page(&path).await, world.page(&path).await);
    let unchanged = world.authorizations().await;
    let done = world.post(&path, YES).await;
    let after = world.page(&path).await;
    let authorizations = world.authorizations().await;

    assert_eq!(request["state"], "AUTHORIZATION_REQUEST_STATE_PENDING");
    assert_eq!(request["environment"], "production");
    assert_eq!(request["scopes"], json!(["read", "write"]));
    assert_eq!(mails.len(), 1);
    for said in ["CRM", "bar Inc.", "ours", "PRODUCTION", "read", "As agreed.", "1 January 2199"] {
        assert!(mails[0].contains(said), "{said}: {}", mails[0]);
        assert!(shown.contains(said), "{said}: {shown}");
    }
    assert!(mails[0].contains("To: boss@bar.example") && !mails[0].contains("help@bar.example"));
    assert_eq!(status_of(&shown_again), "200");
    assert!(before.is_empty() && unchanged.is_empty(), "to look at it decides nothing");
    assert_eq!(status_of(&done), "303", "{done}");
    assert!(after.contains("You said yes") && after.contains("by Jo Boss"), "{after}");
    assert_eq!(authorizations.len(), 1);
    let granted = &authorizations[0];
    assert_eq!(granted["state"], "AUTHORIZATION_STATE_ACTIVE");
    assert_eq!(granted["tenant_id"], "bar");
    assert_eq!(granted["valid_until"], "2199-01-01T00:00:00Z");
    let by = &granted["authorized_by"];
    assert_eq!(by["path"], "CONSENT_PATH_TENANT_ADMIN");
    assert_eq!((&by["name"], &by["email"]), (&json!("Jo Boss"), &json!("boss@bar.example")));
    assert_eq!(by["actor"], "mail:boss@bar.example");
    let request = get(&publisher, &request).await.unwrap();
    assert_eq!(request["state"], "AUTHORIZATION_REQUEST_STATE_APPROVED");
    assert_eq!(request["authorization_id"], granted["authorization_id"]);
    assert_eq!(request["decider_name"], "Jo Boss");
}

/// 0-12
#[tokio::test]
async fn a_customer_says_no_on_the_page_and_why() {
    let world = World::new().await;
    let request = ask(&world.ours, json!({})).await.unwrap();
    let path = world.link().await;

    let without_reason = world.post(&path, "decision=decline&name=Jo").await;
    let without_name = world.post(&path, "decision=approve&name=+").await;
    let without_decision = world.post(&path, "name=Jo").await;
    let done =
        world.post(&path, "decision=decline&name=Jo&reason=We+know+%3Cnobody%3E+there").await;
    let again = world.post(&path, YES).await;

    assert_eq!(status_of(&without_reason), "422");
    assert!(without_reason.contains("Please say why"), "{without_reason}");
    assert!(without_name.contains("Please give your name"), "{without_name}");
    assert!(without_decision.contains("Please say yes or no"), "{without_decision}");
    assert_eq!(status_of(&done), "303");
    assert_eq!(status_of(&again), "409");
    assert!(again.contains("You said no") && again.contains("by Jo"), "{again}");
    assert!(world.authorizations().await.is_empty());
    let request = get(&world.ours, &request).await.unwrap();
    assert_eq!(request["state"], "AUTHORIZATION_REQUEST_STATE_DECLINED");
    assert_eq!(request["decline_reason"], "We know <nobody> there");
}

/// 0-20: Also where both press the button at the same time.
#[tokio::test]
async fn a_link_is_used_once() {
    let world = World::new().await;
    ask(&world.ours, json!({})).await.unwrap();
    let path = world.link().await;

    let answers = join_all((0..10).map(|_| world.post(&path, YES))).await;

    let yes = answers.iter().filter(|answer| status_of(answer) == "303").count();
    assert_eq!(yes, 1, "{answers:?}");
    for answer in answers.iter().filter(|answer| status_of(answer) != "303") {
        assert_eq!(status_of(answer), "409", "{answer}");
        assert!(answer.contains("You said yes"), "{answer}");
    }
    assert_eq!(world.authorizations().await.len(), 1);
}

/// 0-12, 0-20
#[tokio::test]
async fn a_link_that_is_not_good_any_more_says_why() {
    let world = World::new().await;
    let (app, ours) = (&world.app, &world.ours);

    let request = ask(ours, json!({})).await.unwrap();
    let first = world.link().await;
    call(ours, "Resend", &request, json!({})).await.unwrap();
    let second = world.link().await;
    let replaced = world.post(&first, YES).await;
    call(ours, "Cancel", &request, json!({})).await.unwrap();
    let cancelled = world.post(&second, YES).await;
    ask(ours, json!({})).await.unwrap();
    let third = world.link().await;
    app.shared.clock.advance(TimeDelta::days(14));
    let expired = world.post(&third, YES).await;
    let unknown = world.page("/consent/nothing").await;
    let guessed = world.page(&format!("/consent/{}", "A".repeat(43))).await;

    for (answer, status, words) in [
        (&replaced, "404", "This link is not known"),
        (&cancelled, "409", "This request was taken back"),
        (&expired, "409", "This link has expired"),
        (&unknown, "404", "This link is not known"),
        (&guessed, "404", "This link is not known"),
    ] {
        assert_eq!(status_of(answer), status, "{answer}");
        assert!(answer.contains(words), "{answer}");
    }
    assert_eq!(status_of(&world.page(&third).await), "410");
    assert!(world.authorizations().await.is_empty());
    let found = ours.call("ListAuthorizationRequests", json!({"filter": "state = EXPIRED"})).await;
    assert_eq!(found.unwrap()["authorization_requests"].as_array().unwrap().len(), 1);
}

/// Nothing but the page itself is loaded, nobody frames it, nobody learns of its address, nothing is kept.
#[tokio::test]
async fn the_page_is_kept_from_whoever_it_is_no_business_of() {
    let world = World::new().await;
    let hostile = "<script>alert(1)</script>";
    ask(&world.ours, json!({ "additional_info": hostile })).await.unwrap();
    let mails = world.mails().await;
    let path = path_in(&mails[0]);

    let page = world.page(&path).await;
    let headers =
        [("content-type", "application/x-www-form-urlencoded"), ("sec-fetch-site", "cross-site")];
    let foreign = http(&world.app, "POST", &path, &headers, YES.as_bytes()).await;
    let large = world.post(&path, &format!("name={}", "a".repeat(20_000))).await;
    let wrong = http(&world.app, "POST", &path, &[("content-type", "text/plain")], b"yes").await;

    let undecided = world.authorizations().await;
    let lower = page.to_ascii_lowercase();
    for header in [
        "content-security-policy: default-src 'none'; style-src 'sha256-",
        "frame-ancestors 'none'",
        "form-action 'self'",
        "referrer-policy: no-referrer",
        "cache-control: no-store",
        "x-frame-options: deny",
        "x-content-type-options: nosniff",
    ] {
        assert!(lower.contains(header), "{header}: {page}");
    }
    assert!(!page.contains(hostile) && page.contains("script&"), "{page}");
    assert!(!mails[0].contains(&format!(">{hostile}")));
    let odd = [
        world.post(&path, YES).await,
        world.page("/consent/nothing").await,
        world.page("/consent/%ff").await,
        http(&world.app, "PUT", &path, &[], b"").await,
    ];
    for answer in odd {
        let lower = answer.to_ascii_lowercase();
        let is_kept =
            ["referrer-policy: no-referrer", "cache-control: no-store", "x-frame-options: deny"];
        assert!(is_kept.iter().all(|header| lower.contains(header)), "{answer}");
    }
    assert!(foreign.contains("did not come from this page"), "{foreign}");
    assert!(large.contains("could not be read"), "{large}");
    assert!(wrong.contains("could not be read"), "{wrong}");
    assert!(undecided.is_empty());
}

/// Neither by its own address as contact, nor by its own key, nor by a key of its account.
#[tokio::test]
async fn whoever_asks_does_not_answer_for_the_customer() {
    let world = World::new().await;
    let publisher = world.publisher().await;

    let asked = json!({"contact_email": "me@ours.example"});
    let request = ask(&publisher, asked).await.unwrap();
    let mails = world.mails().await;
    let by_publisher = call(&publisher, "Approve", &request, json!({})).await.unwrap_err();
    let by_account = call(&world.ours, "Approve", &request, json!({})).await.unwrap_err();
    let declined =
        call(&world.ours, "Decline", &request, json!({"reason": "x"})).await.unwrap_err();

    assert_eq!(mails.len(), 1);
    assert!(!mails[0].contains("To: me@ours.example"), "{}", mails[0]);
    assert!(mails[0].contains("boss@bar.example, help@bar.example"), "{}", mails[0]);
    let forged = json!({"application_id": "crm", "customer_id": "x", "customer_name": "x",
        "contact_email": "me@ours.example", "additional_info": "Say yes:\nhttps://evil.example"});
    publisher.call("RequestAuthorization", forged).await.unwrap();
    assert!(mails[0].contains("gave the address me@ours.example"), "{}", mails[0]);
    assert_eq!(told(&by_publisher), "PermissionDenied PERMISSION_MISSING");
    for refusal in [by_account, declined] {
        assert_eq!(told(&refusal), "NotFound AUTHORIZATION_REQUEST_NOT_FOUND");
    }
    // Where the account is that of the tenant too, it is at least another key.
    let own = json!({"application": {"application_id": "own", "name": "Own",
        "environments": ["production"]}});
    world.theirs.call("CreateApplication", own).await.unwrap();
    let own = ask(&world.theirs, json!({"application_id": "own"})).await.unwrap();
    let same_key = call(&world.theirs, "Approve", &own, json!({})).await.unwrap_err();
    assert_eq!(told(&same_key), "PermissionDenied PERMISSION_MISSING");
    let customer = world.customer().await;
    let approved = call(&customer, "Approve", &own, json!({})).await.unwrap();
    assert_eq!(approved["authorization"]["authorized_by"]["path"], "CONSENT_PATH_TENANT_ADMIN");
    assert_eq!(count(&world.app, "select count(*) as number from tenant_authorizations").await, 1);
}

/// A tenant without an address is asked by nobody but its own keys, and one that cannot decide does not.
#[tokio::test]
async fn a_customer_decides_with_a_key_too() {
    let world = World::new().await;
    let (app, customer) = (&world.app, world.customer().await);
    world.tenant("mute", json!({"contact": {}, "support_email": ""})).await;
    let mute = json!({"customer_id": "mute"});
    ask(&world.ours, mute).await.unwrap();
    let mails = world.mails().await;

    let request = ask(&world.ours, json!({})).await.unwrap();
    let listed = customer.call("ListAuthorizationRequests", json!({"filter": "state = PENDING"}));
    let listed = listed.await.unwrap();
    let rehearsed = call(&customer, "Approve", &request, json!({"validate_only": true})).await;
    let stale = call(&customer, "Approve", &request, json!({"etag": "7"})).await.unwrap_err();
    let lock = json!({"tenant_id": "bar", "mode": "LOCK_MODE_FULL", "reason": "unpaid"});
    let path = world.link().await;
    world.theirs.call("LockTenant", lock).await.unwrap();
    let locked = world.post(&path, YES).await;
    world.theirs.call("UnlockTenant", json!({"tenant_id": "bar"})).await.unwrap();
    let once = json!({"request_id": "1"});
    let approved = call(&customer, "Approve", &request, once.clone()).await.unwrap();
    let repeated = call(&customer, "Approve", &request, once).await.unwrap();
    let again = call(&customer, "Decline", &request, json!({"reason": "no"})).await.unwrap_err();

    assert!(mails.is_empty(), "nobody to write to");
    let outcome =
        "select count(*) as number from mails where outcome = 'the tenant has no address'";
    assert_eq!(count(app, outcome).await, 1);
    assert_eq!(listed["authorization_requests"].as_array().unwrap().len(), 1);
    assert!(rehearsed.unwrap()["authorization"].is_object());
    assert_eq!(told(&stale), "Aborted ETAG_MISMATCH");
    assert!(locked.contains("locked") && status_of(&locked) == "409", "{locked}");
    assert_eq!(approved, repeated);
    assert_eq!(approved["authorization"]["state"], "AUTHORIZATION_STATE_ACTIVE");
    assert_eq!(told(&again), "FailedPrecondition REQUEST_NOT_PENDING");
}

/// 0-10: not even by being asked twice, or by another of its ids.
#[tokio::test]
async fn whether_a_customer_is_known_is_not_told() {
    let world = World::new().await;
    let publisher = world.publisher().await;
    let ids = json!({"external_ids": {"erp": "E-7", "crm": "E-8"}});
    world.tenant("foo", ids).await;
    world.tenant("twin", json!({"external_ids": {"erp": "E-8"}})).await;

    let mut told_of = BTreeSet::new();
    let mut asked = Vec::new();
    for id in ["foo", "E-7", "nobody", "E-8"] {
        let mut answer = ask(&publisher, json!({"customer_id": id})).await.unwrap();
        asked.push(answer.clone());
        for different in ["authorization_request_id", "customer_id", "request_time", "expire_time"]
        {
            answer.as_object_mut().unwrap().remove(different);
        }
        told_of.insert(answer.to_string());
        let again = ask(&publisher, json!({"customer_id": id})).await.unwrap_err();
        told_of.insert(told(&again));
    }
    let events =
        world.ours.call("ListEvents", json!({"filter": "resource_type = authorization_request"}));
    let events = events.await.unwrap();
    let mails = world.mails().await;
    let listed = publisher.call("ListAuthorizationRequests", json!({})).await.unwrap();

    assert_eq!(told_of.len(), 2, "{told_of:?}");
    assert_eq!(mails.len(), 1, "only foo, and only once");
    assert_eq!(listed["authorization_requests"].as_array().unwrap().len(), 4);
    let events = events["events"].as_array().unwrap();
    assert_eq!(events.len(), 4);
    assert!(events.iter().all(|event| event.get("tenant_id").is_none()), "{events:?}");
    for request in &asked {
        assert_eq!(get(&publisher, request).await.unwrap(), *request);
        call(&publisher, "Cancel", request, json!({})).await.unwrap();
    }
}

/// 0-11: whatever is repeated, at whatever time.
#[tokio::test]
async fn of_fifty_requests_at_once_one_is_pending_and_one_mail_is_sent() {
    let world = World::new().await;
    let publisher = world.publisher().await;

    let answers = join_all((0..50).map(|_| ask(&publisher, json!({})))).await;
    let mails = world.mails().await;

    let (made, refused): (Vec<_>, Vec<_>) = answers.into_iter().partition(Result::is_ok);
    assert_eq!(made.len(), 1);
    for refusal in refused {
        assert_eq!(told(&refusal.unwrap_err()), "AlreadyExists REQUEST_ALREADY_PENDING");
    }
    assert_eq!(mails.len(), 1);
    assert_eq!(count(&world.app, "select count(*) as number from authorization_requests").await, 1);
    assert_eq!(count(&world.app, "select count(*) as number from mails").await, 1);
}

#[tokio::test]
async fn what_is_wrong_with_a_request_is_told() {
    let world = World::new().await;
    let (app, ours) = (&world.app, &world.ours);
    let before = rows(app).await;

    let wrong = json!({"environment": "No!", "customer_name": "", "customer_id": "", "contact_email": "x",
        "additional_info": "a".repeat(1_001), "scopes": ["a b"], "valid_until": "2020-01-01T00:00:00Z"});
    let wrong = ask(ours, wrong).await.unwrap_err();
    let beyond = ask(ours, json!({"scopes": ["read", "admin"]})).await.unwrap_err();
    let no_address = ask(ours, json!({"contact_email": ""})).await.unwrap_err();

    assert_eq!(
        fields(&wrong),
        [
            "environment",
            "customer_name",
            "customer_id",
            "contact_email",
            "additional_info",
            "scopes[0]",
            "valid_until"
        ]
    );
    assert_eq!(fields(&beyond), ["scopes[1]"]);
    assert_eq!(fields(&no_address), ["contact_email"]);
    for (caller, more, expected) in [
        (ours, json!({"environment": "sod"}), "FailedPrecondition ENVIRONMENT_NOT_REQUESTABLE"),
        (ours, json!({"application_id": "erp"}), "NotFound APPLICATION_NOT_FOUND"),
        (&world.theirs, json!({}), "NotFound APPLICATION_NOT_FOUND"),
        (&world.customer().await, json!({}), "PermissionDenied PERMISSION_MISSING"),
    ] {
        let refusal = ask(caller, more.clone()).await.unwrap_err();
        assert_eq!(told(&refusal), expected, "{more}");
    }
    let rehearsed = ask(ours, json!({"validate_only": true})).await.unwrap();
    assert_eq!(rehearsed["state"], "AUTHORIZATION_REQUEST_STATE_PENDING");
    let mut after = rows(app).await;
    // The key of the customer is the only thing that was made.
    for (table, number) in &mut after {
        if before[table] != *number {
            assert!(["api_keys", "events"].iter().any(|it| table.starts_with(it)), "{table}");
        }
    }
    assert!(world.mails().await.is_empty());
}

/// The setting says where customers are asked.
#[tokio::test]
async fn an_operator_may_let_customers_be_asked_elsewhere() {
    let world = World::with(|settings| {
        settings.request_environments = vec!["sod".to_owned(), "production".to_owned()];
    })
    .await;

    let first = ask(&world.ours, json!({})).await.unwrap();
    let named = ask(&world.ours, json!({"environment": "Production"})).await.unwrap();

    assert_eq!(first["environment"], "sod");
    assert_eq!(named["environment"], "production");
}

/// 0-11
#[tokio::test]
async fn nobody_is_pestered() {
    let world = World::new().await;
    let (app, ours) = (&world.app, &world.ours);

    let request = ask(ours, json!({})).await.unwrap();
    for _ in 0..4 {
        call(ours, "Resend", &request, json!({})).await.unwrap();
    }
    let sixth = call(ours, "Resend", &request, json!({})).await.unwrap_err();
    call(ours, "Cancel", &request, json!({})).await.unwrap();
    let anew = ask(ours, json!({})).await.unwrap_err();
    let unknown = ask(ours, json!({"customer_id": "nobody"})).await.unwrap();
    for _ in 0..4 {
        call(ours, "Resend", &unknown, json!({})).await.unwrap();
    }
    let of_unknown = call(ours, "Resend", &unknown, json!({})).await.unwrap_err();

    for refusal in [sixth, anew, of_unknown] {
        assert_eq!(told(&refusal), "ResourceExhausted MAIL_LIMIT_EXCEEDED");
    }
    app.shared.clock.advance(TimeDelta::days(1));
    ask(ours, json!({})).await.unwrap();
}

/// Of what an account asks more than that goes out the day after, and keeps nobody else's from going out.
#[tokio::test]
async fn a_tenant_gets_no_more_mails_than_a_day_may_have() {
    let world = World::new().await;
    let some = granted(&world, json!({})).await;
    for number in 0..6 {
        let id = format!("app{number}");
        let new = json!({"application": {"application_id": id, "name": id,
            "environments": ["production"]}});
        world.ours.call("CreateApplication", new).await.unwrap();
        ask(&world.ours, json!({ "application_id": id })).await.unwrap();
    }

    let first = world.mails().await.len();
    let own = json!({"application": {"application_id": "own", "name": "Own",
        "environments": ["production"]}});
    world.theirs.call("CreateApplication", own).await.unwrap();
    ask(&world.theirs, json!({"application_id": "own"})).await.unwrap();
    let revoke = json!({"authorization_id": some["authorization_id"], "reason": "Over.",
        "contact_email": "help@bar.example"});
    world.ours.call("RevokeAuthorization", revoke).await.unwrap();
    let others = world.mails().await.len();
    world.app.shared.clock.advance(TimeDelta::days(1));
    let next_day = world.mails().await.len();

    assert_eq!((first, others, next_day), (5, 2, 1));
}

/// Nobody makes another's customer unreachable by calling its own tenant so.
#[tokio::test]
async fn the_id_of_a_tenant_is_its_own_whatever_others_are_called() {
    let world = World::new().await;
    world.tenant("evil", json!({"external_ids": {"crm": "bar"}})).await;

    ask(&world.ours, json!({})).await.unwrap();
    let mails = world.mails().await;

    assert_eq!(mails.len(), 1);
    assert!(mails[0].contains("To: boss@bar.example"), "{}", mails[0]);
}

/// Nor by what becomes of the customer.
#[tokio::test]
async fn a_request_to_a_tenant_that_is_gone_is_as_one_to_nobody() {
    let world = World::new().await;
    let publisher = world.publisher().await;
    let asked = ask(&publisher, json!({})).await.unwrap();
    let path = world.link().await;
    let expunge = json!({"tenant_id": "bar", "expunge": true});
    world.theirs.call("DeleteTenant", expunge).await.unwrap();
    while tenantry::purge::round(&world.app.shared).await.unwrap() > 0 {}

    let found = get(&publisher, &asked).await.unwrap();
    let page = world.page(&path).await;

    assert_eq!(count(&world.app, "select count(*) as number from tenants").await, 0);
    assert_eq!(found, asked);
    assert!(page.contains("This link is not known"), "{page}");
    call(&publisher, "Cancel", &asked, json!({})).await.unwrap();
}

/// 0-20: neither the mail nor the page can be made of what a dump has.
#[tokio::test]
async fn the_secret_of_a_link_is_stored_nowhere() {
    use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};

    let world = World::new().await;
    ask(&world.ours, json!({})).await.unwrap();
    let path = world.link().await;
    world.post(&path, YES).await;
    let secret = path.strip_prefix("/consent/").unwrap();
    let hex = hex::encode(URL_SAFE_NO_PAD.decode(secret).unwrap());

    for table in rows(&world.app).await.keys() {
        for leak in [secret, &hex] {
            let found = format!(
                "select count(*) as number from {table} as it where it::text like '%{leak}%'"
            );
            assert_eq!(count(&world.app, &found).await, 0, "{table}");
        }
    }
    let digest = "select count(*) as number from authorization_requests where octet_length(token_digest) = 32";
    assert_eq!(count(&world.app, digest).await, 1, "what is looked for would be found");
}

/// No form is shown where an answer would be refused, and no more is approved than what is still asked for.
#[tokio::test]
async fn what_cannot_be_decided_is_not_asked() {
    let world = World::new().await;
    let customer = world.customer().await;
    let request = ask(&world.ours, json!({})).await.unwrap();
    let path = world.link().await;
    let lock = json!({"tenant_id": "bar", "mode": "LOCK_MODE_FULL", "reason": "unpaid"});
    let scopes =
        |scopes: &[&str]| json!({"application": {"application_id": "crm", "scopes": scopes}});

    world.theirs.call("LockTenant", lock).await.unwrap();
    let locked = world.page(&path).await;
    world.theirs.call("UnlockTenant", json!({"tenant_id": "bar"})).await.unwrap();
    world.ours.call("UpdateApplication", scopes(&["read"])).await.unwrap();
    let less = world.page(&path).await;
    let posted = world.post(&path, YES).await;
    let approved = call(&customer, "Approve", &request, json!({})).await.unwrap_err();
    world.ours.call("UpdateApplication", scopes(&["read", "write"])).await.unwrap();
    let again = world.page(&path).await;

    for page in [&locked, &less, &posted] {
        assert!(page.contains("There is nothing to decide") && !page.contains("<form"), "{page}");
    }
    assert!(locked.contains("is locked at the moment") && less.contains("not offered any more"));
    assert_eq!(told(&approved), "FailedPrecondition APPLICATION_CHANGED");
    assert!(again.contains("<form"), "{again}");
}

#[tokio::test]
async fn a_request_is_over_with_the_time_that_it_asks_for() {
    let world = World::new().await;
    let clock = &world.app.shared.clock;
    let end = (clock.now() + TimeDelta::hours(1)).to_rfc3339().replace("+00:00", "Z");
    let request = ask(&world.ours, json!({ "valid_until": end })).await.unwrap();
    let path = world.link().await;

    clock.advance(TimeDelta::hours(2));
    let page = world.page(&path).await;
    let anew = ask(&world.ours, json!({})).await;

    assert_eq!(request["expire_time"], end);
    assert!(page.contains("This link has expired"), "{page}");
    assert_eq!(anew.unwrap()["state"], "AUTHORIZATION_REQUEST_STATE_PENDING");
}

#[tokio::test]
async fn what_is_to_be_changed_of_an_authorization_ends_with_it() {
    let world = World::new().await;
    let publisher = world.publisher().await;
    let some = granted(&world, json!({"scopes": ["read"]})).await;
    let more = update(&publisher, &some, json!({"scopes": ["read", "write"]})).await.unwrap();
    let revoke = json!({"authorization_id": some["authorization_id"], "reason": "Over.",
        "contact_email": "help@bar.example"});

    let revoked = publisher.call("RevokeAuthorization", revoke).await.unwrap();
    let request = get(&publisher, &more["authorization_request"]).await.unwrap();
    let mails = world.mails().await;

    assert_eq!(revoked["authorization"]["state"], "AUTHORIZATION_STATE_REVOKED");
    assert_eq!(request["state"], "AUTHORIZATION_REQUEST_STATE_CANCELLED");
    assert_eq!(mails.len(), 1, "{mails:?}");
    assert!(mails[0].contains("may not access"), "{}", mails[0]);
}

async fn update(caller: &Caller, of: &Value, more: Value) -> Result<Value, Status> {
    let mut request = json!({"authorization_id": of["authorization_id"], "on_behalf_of": "Bar's IT",
        "contact_email": "help@bar.example", "scopes": ["read"]});
    request.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    caller.call("RequestAuthorizationUpdate", request).await
}

async fn granted(world: &World, more: Value) -> Value {
    let mut request = json!({"tenant_id": "bar", "application_id": "crm", "environment": "sod"});
    request.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    // Who operates both sides.
    let root = world.app.as_root();
    root.call("GrantAuthorization", request).await.unwrap()["authorization"].clone()
}

/// 0-13, 0-22: with who asks for whom, and what was and is to be.
#[tokio::test]
async fn less_is_in_effect_at_once_and_more_waits_for_a_yes() {
    let world = World::new().await;
    let publisher = world.publisher().await;
    let all = granted(&world, json!({})).await;

    let less = update(&publisher, &all, json!({})).await.unwrap();
    let no_mail = world.mails().await;
    let end = json!({"scopes": ["read", "write"], "valid_until": "2199-01-01T00:00:00Z"});
    let more = update(&publisher, &all, end).await.unwrap();
    let twice = update(&publisher, &all, json!({"scopes": ["read", "write"]})).await.unwrap_err();
    let listed =
        publisher.call("ListAuthorizations", json!({"filter": "state = REAPPROVAL_REQUIRED"}));
    let listed = listed.await.unwrap();
    let mails = world.mails().await;
    let path = path_in(&mails[0]);
    let page = world.page(&path).await;
    let done = world.post(&path, YES).await;
    let after = world.authorizations().await.remove(0);
    let longer = update(&publisher, &after, json!({"scopes": ["read", "write"]})).await.unwrap();

    assert_eq!(less["authorization"]["granted_scopes"], json!(["read"]));
    assert!(less.get("authorization_request").is_none() && no_mail.is_empty());
    let waiting = &more["authorization"];
    assert_eq!(waiting["state"], "AUTHORIZATION_STATE_REAPPROVAL_REQUIRED");
    assert_eq!(waiting["granted_scopes"], json!(["read"]));
    assert_eq!(waiting["requested_scopes"], json!(["write"]));
    assert_eq!(waiting["valid_until"], "2199-01-01T00:00:00Z", "an earlier end is less");
    let request = &more["authorization_request"];
    assert_eq!(request["kind"], "AUTHORIZATION_REQUEST_KIND_UPDATE");
    assert_eq!(request["on_behalf_of"], "Bar's IT");
    assert_eq!(told(&twice), "AlreadyExists REQUEST_ALREADY_PENDING");
    assert_eq!(listed["authorizations"].as_array().unwrap().len(), 1);
    assert!(mails[0].contains("To: help@bar.example") && mails[0].contains("do more with"));
    let new = r#"<code>write</code> <strong class="new">new</strong>"#;
    assert!(page.contains(new) && page.contains("<code>read</code></li>"), "{page}");
    assert_eq!(status_of(&done), "303", "{done}");
    assert_eq!(after["state"], "AUTHORIZATION_STATE_ACTIVE");
    assert_eq!(after["granted_scopes"], json!(["read", "write"]));
    assert_eq!(after["authorized_by"]["name"], "Jo Boss");
    assert_eq!(longer["authorization"]["valid_until"], "2199-01-01T00:00:00Z");
    assert!(longer["authorization_request"].is_object(), "no end at all is more than an end");
    let updated = json!({"filter": "type = authorization.updated"});
    let events = world.app.as_root().call("ListEvents", updated).await.unwrap();
    let first = &events["events"][0];
    assert_eq!(first["on_behalf_of"], "Bar's IT");
    let scopes = |side: &str| first[side]["authorization"]["granted_scopes"].clone();
    assert_eq!((scopes("before"), scopes("after")), (json!(["read", "write"]), json!(["read"])));
}

#[tokio::test]
async fn what_is_not_approved_is_asked_for_no_longer() {
    let world = World::new().await;
    let (app, publisher) = (&world.app, world.publisher().await);
    let customer = world.customer().await;
    let some = granted(&world, json!({"scopes": ["read"]})).await;
    let more = json!({"scopes": ["read", "write"]});
    let state = async || world.authorizations().await[0]["state"].clone();

    let mut seen = Vec::new();
    for end in ["Cancel", "Decline", "time"] {
        let request = update(&publisher, &some, more.clone()).await.unwrap();
        seen.push(state().await);
        let request = &request["authorization_request"];
        match end {
            "Cancel" => drop(call(&publisher, end, request, json!({})).await.unwrap()),
            "Decline" => {
                drop(call(&customer, end, request, json!({"reason": "no"})).await.unwrap());
            }
            _ => {
                app.shared.clock.advance(TimeDelta::days(14));
                assert_eq!(overdue::round(&app.shared).await.unwrap(), 1);
                assert_eq!(overdue::round(&app.shared).await.unwrap(), 0);
            }
        }
        seen.push(state().await);
    }

    let (waits, active) = ("AUTHORIZATION_STATE_REAPPROVAL_REQUIRED", "AUTHORIZATION_STATE_ACTIVE");
    assert_eq!(seen, [waits, active, waits, active, waits, active]);
    let expired = json!({"filter": "type = authorization_request.expired"});
    let events = world.ours.call("ListEvents", expired).await.unwrap();
    assert_eq!(events["events"].as_array().unwrap().len(), 1);
    assert_eq!(world.authorizations().await[0]["granted_scopes"], json!(["read"]));
}

#[tokio::test]
async fn what_stands_against_an_update_is_told() {
    let world = World::new().await;
    let publisher = world.publisher().await;
    let some = granted(&world, json!({"scopes": ["read"]})).await;

    let wrong = json!({"on_behalf_of": "", "contact_email": "", "scopes": ["a b"]});
    let wrong = update(&publisher, &some, wrong).await.unwrap_err();
    let none = update(&publisher, &some, json!({"scopes": []})).await.unwrap_err();
    let beyond = update(&publisher, &some, json!({"scopes": ["admin"]})).await.unwrap_err();
    let stale = update(&publisher, &some, json!({"etag": "9"})).await.unwrap_err();
    let by_customer = update(&world.theirs, &some, json!({})).await.unwrap_err();
    let revoke = json!({"authorization_id": some["authorization_id"], "reason": "moved on",
        "contact_email": "boss@bar.example"});
    publisher.call("RevokeAuthorization", revoke).await.unwrap();
    let over = update(&publisher, &some, json!({})).await.unwrap_err();

    assert_eq!(fields(&wrong), ["on_behalf_of", "contact_email", "scopes[0]"]);
    assert_eq!(fields(&none), ["scopes"]);
    assert_eq!(fields(&beyond), ["scopes[0]"]);
    assert_eq!(told(&stale), "Aborted ETAG_MISMATCH");
    assert_eq!(told(&by_customer), "NotFound AUTHORIZATION_NOT_FOUND");
    assert_eq!(told(&over), "FailedPrecondition AUTHORIZATION_NOT_ACTIVE");
}

/// 0-14: by mail too, to the tenant's own address.
#[tokio::test]
async fn a_tenant_is_told_of_a_revocation_by_mail() {
    let world = World::new().await;
    let some = granted(&world, json!({})).await;
    let revoke = json!({"authorization_id": some["authorization_id"], "reason": "Moved on.",
        "contact_email": "help@bar.example"});

    world.ours.call("RevokeAuthorization", revoke.clone()).await.unwrap();
    world.ours.call("RevokeAuthorization", revoke).await.unwrap();
    let mails = world.mails().await;

    assert_eq!(mails.len(), 1);
    for said in ["To: help@bar.example", "CRM may not access bar Inc. any more", "Moved on."] {
        assert!(mails[0].contains(said), "{said}: {}", mails[0]);
    }
}

/// 0-22: nor before anybody said yes.
#[tokio::test]
async fn an_application_does_not_come_to_act_as_itself_behind_a_customers_back() {
    let world = World::new().await;
    let system = json!({"application": {"application_id": "crm", "run_as": "RUN_AS_SYSTEM"}});

    let request = ask(&world.ours, json!({})).await.unwrap();
    let asked = world.ours.call("UpdateApplication", system.clone()).await.unwrap_err();
    let deleted = world.ours.call("DeleteApplication", json!({"application_id": "crm"})).await;
    call(&world.customer().await, "Approve", &request, json!({})).await.unwrap();
    let authorized = world.ours.call("UpdateApplication", system.clone()).await.unwrap_err();
    let authorization = world.authorizations().await.remove(0);
    let revoke = json!({"authorization_id": authorization["authorization_id"], "reason": "x",
        "contact_email": "boss@bar.example"});
    world.ours.call("RevokeAuthorization", revoke).await.unwrap();

    for refusal in [asked, deleted.unwrap_err(), authorized] {
        assert_eq!(told(&refusal), "FailedPrecondition RECORD_IN_USE");
    }
    world.ours.call("UpdateApplication", system).await.unwrap();
}

/// A node that dies between sending and writing that down sends again, under the same Message-ID.
#[tokio::test]
async fn a_mail_that_goes_out_twice_is_known_by_its_id() {
    use diesel_async::SimpleAsyncConnection as _;

    let world = World::new().await;
    ask(&world.ours, json!({})).await.unwrap();
    let first = world.mails().await;
    let mut conn = world.app.superuser().await;
    conn.batch_execute("update mails set state = 'WAITING'").await.unwrap();

    let too_early = world.mails().await;
    world.app.shared.clock.advance(TimeDelta::minutes(1));
    let second = world.mails().await;

    let id =
        |mail: &str| mail.lines().find(|line| line.starts_with("Message-ID: ")).unwrap().to_owned();
    assert!(too_early.is_empty(), "another node may be at it");
    assert_eq!((first.len(), second.len()), (1, 1));
    assert_eq!(id(&first[0]), id(&second[0]));
    assert_eq!(path_in(&first[0]), path_in(&second[0]));
}
