//! The story that consent is for, from outside: a mail server takes the mail, and a person opens its link in a browser
//! that runs no scripts.

use std::{fs, path::Path};

use serde_json::{Value, json};
use tenantry::{config::Settings, mail};

use crate::{
    app::{product, told},
    browser::Browser,
    consent::{World, ask, path_in},
    mailbox::Mailbox,
};

/// Sends by this mail server.
fn by(mailbox: &Mailbox) -> impl FnOnce(&mut Settings) {
    let (url, ca) = (mailbox.smtp_url(), mailbox.ca_pem());
    move |settings| {
        settings.mail.smtp_url = Some(url.into());
        settings.mail.smtp_ca = Some(ca);
        settings.mail.from = Some("Tenantry <consent@tenantry.example>".to_owned());
    }
}

/// The folder to put the picture of the page into, where it is to be taken anew for the docs.
fn pictures() -> Option<String> {
    std::env::var("TENANTRY_PICTURES").ok()
}

/// A customer is asked, says yes, and no longer: 0-10 to 0-12, 0-14 to 0-16, 0-19, 0-20.
#[tokio::test]
async fn a_customer_is_asked_by_mail_says_yes_on_a_page_and_access_is_there() {
    let mailbox = Mailbox::start().await;
    let world = World::with(by(&mailbox)).await;
    let postman = tokio::spawn(mail::run(world.app.shared.clone()));
    let browser = Browser::start().await;
    let asked =
        json!({"additional_info": "As agreed on the phone: we keep your contacts up to date."});

    let named = json!({"account": {"account_id": "ours", "name": "Fabrikam"}});
    world.ours.call("UpdateAccount", named).await.unwrap();

    ask(&world.ours.with("x-correlation-id", "the-question"), asked).await.unwrap();
    let mail = mailbox.wait_for(1).await.remove(0);
    browser.open(&format!("http://{}{}", world.app.address, path_in(&mail.text))).await;
    let (title, question) = (browser.title().await, browser.text().await);
    let accessible = browser.accessible().await;
    if let Some(folder) = pictures() {
        browser.screenshot(&Path::new(&folder).join("consent.png"), (1000, 1080)).await;
    }
    let before = check(&world).await;
    browser.fill("#approver", "Jo Boss").await;
    browser.press("Approve").await;
    let answered = browser.text().await;
    let granted = world.ours.call("ListAuthorizations", json!({})).await.unwrap();
    let granted = &granted["authorizations"][0];

    assert_eq!(mail.from, "consent@tenantry.example");
    assert_eq!(mail.to, ["boss@bar.example"]);
    assert_eq!(mail.subject, "CRM asks for access to bar Inc.");
    assert!(mail.raw.contains("X-Correlation-Id: the-question\r\n"), "{}", mail.raw);
    assert!(mail.html.contains(&path_in(&mail.text)));
    assert_eq!(title, mail.subject);
    for said in
        ["Fabrikam asks you", "bar Inc.", "PRODUCTION", "read", "until it is revoked", "contacts"]
    {
        assert!(question.contains(said), "{said}: {question}");
    }
    for (role, name) in [
        ("heading", "CRM asks for access to bar Inc."),
        ("heading", "What is asked"),
        ("textbox", "Your name"),
        ("button", "Approve"),
        ("DisclosureTriangle", "Say no"),
    ] {
        let is_it = |it: &&(String, String)| it.0 == role && it.1 == name;
        assert!(accessible.iter().any(|it| is_it(&it)), "{role} {name}: {accessible:?}");
    }
    assert_eq!(before, "CHECK_CODE_NOT_AUTHORIZED");
    let yes = answered.contains("You said yes") && answered.contains("Approved by Jo Boss");
    assert!(yes, "{answered}");
    assert_eq!(granted["state"], "AUTHORIZATION_STATE_ACTIVE");

    // Access is there, for the application and for the keys of what is bound to it.
    let key = bound_key(&world).await;
    assert_eq!(check(&world).await, "CHECK_CODE_ALLOWED");
    assert_eq!(verify(&world, &key).await, "VERIFY_CODE_VALID");
    let tenant = world.theirs.call("GetTenant", json!({"tenant_id": "bar"})).await.unwrap();

    // And no longer.
    let revoke = json!({"authorization_id": granted["authorization_id"], "wait": true,
        "contact_email": "boss@bar.example", "reason": "The trial is over."});
    let revoked = world.theirs.call("RevokeAuthorization", revoke).await.unwrap();
    assert_eq!(revoked["confirmed"], true);
    assert_eq!(check(&world).await, "CHECK_CODE_REVOKED");
    assert_eq!(verify(&world, &key).await, "VERIFY_CODE_NOT_AUTHORIZED");
    let mail = mailbox.wait_for(2).await.remove(1);
    assert_eq!(mail.subject, "CRM may not access bar Inc. any more");
    assert!(mail.text.contains("The trial is over."), "{}", mail.text);
    let after = world.theirs.call("GetTenant", json!({"tenant_id": "bar"})).await.unwrap();
    assert_eq!(after, tenant, "its data is still there");
    let history = world.ours.call("ListAuthorizations", json!({"filter": "state = REVOKED"})).await;
    let history = history.unwrap()["authorizations"][0].clone();
    assert_eq!(history["revoke_reason"], "The trial is over.");
    assert_eq!(history["authorized_by"]["name"], "Jo Boss");
    assert!(history["revoked_by"].as_str().unwrap().starts_with("api_key:"));
    postman.abort();
}

/// What the application is told of whether it may read.
async fn check(world: &World) -> Value {
    let asked = json!({"tenant_id": "bar", "application_id": "crm", "environment": "production",
        "scopes": ["read"]});
    world.ours.call("CheckAuthorization", asked).await.unwrap()["code"].clone()
}

/// A key of an installation of `bar` that is bound to the application.
async fn bound_key(world: &World) -> String {
    world.theirs.call("CreateProduct", product()).await.unwrap();
    let on = world.theirs.with("x-tenant-id", "bar");
    let installation = json!({"installation": {"product_code": "PHONE", "package_code": "BASIC",
        "ttl_hours": 24, "application_id": "crm"}});
    let made = on.call("CreateInstallation", installation).await.unwrap();
    let named = json!({"installation_id": made["installation"]["installation_id"]});
    let app_key = on.call("CreateAppKey", named).await.unwrap();
    let key = json!({"external_key": {"app_key_id": app_key["app_key"]["app_key_id"],
        "label": "web", "environment": "production"}});
    let key = on.call("CreateExternalKey", key).await.unwrap();
    key["secret"].as_str().unwrap().to_owned()
}

async fn verify(world: &World, key: &str) -> Value {
    let asked = json!({"key": key, "environment": "production", "required_scopes": ["read"]});
    world.theirs.call("VerifyKey", asked).await.unwrap()["code"].clone()
}

/// The same with a no, with a link that two use at once, and with links that are not good any more.
#[tokio::test]
async fn a_person_who_says_no_or_comes_late_is_told_so_on_the_page() {
    let mailbox = Mailbox::start().await;
    let world = World::with(by(&mailbox)).await;
    let postman = tokio::spawn(mail::run(world.app.shared.clone()));
    let (browser, other) = (Browser::start().await, Browser::start().await);
    let link = async |number: usize| {
        let mails = mailbox.wait_for(number).await;
        format!("http://{}{}", world.app.address, path_in(&mails[number - 1].text))
    };
    let state_of = async |request: &Value| {
        let named = json!({"authorization_request_id": request["authorization_request_id"]});
        let found = world.ours.call("GetAuthorizationRequest", named).await.unwrap();
        found["authorization_request"]["state"].clone()
    };

    // No.
    let request = ask(&world.ours, json!({})).await.unwrap();
    browser.open(&link(1).await).await;
    browser.click("summary").await;
    browser.fill("#decliner", "Jo Boss").await;
    browser.fill("#reason", "We do not know you.").await;
    browser.press("Decline").await;
    let said = browser.text().await;
    assert!(said.contains("You said no") && said.contains("by Jo Boss"), "{said}");
    assert_eq!(state_of(&request).await, "AUTHORIZATION_REQUEST_STATE_DECLINED");

    // Taken back while the page is open.
    let request = ask(&world.ours, json!({})).await.unwrap();
    browser.open(&link(2).await).await;
    let named = json!({"authorization_request_id": request["authorization_request_id"]});
    world.ours.call("CancelAuthorizationRequest", named).await.unwrap();
    browser.fill("#approver", "Jo Boss").await;
    browser.press("Approve").await;
    let said = browser.text().await;
    assert!(said.contains("This request was taken back"), "{said}");

    // Too late.
    let request = ask(&world.ours, json!({})).await.unwrap();
    let late = link(3).await;
    world.app.shared.clock.advance(chrono::TimeDelta::days(14));
    browser.open(&late).await;
    let said = browser.text().await;
    assert!(said.contains("This link has expired"), "{said}");
    assert_eq!(state_of(&request).await, "AUTHORIZATION_REQUEST_STATE_EXPIRED");
    let authorized = world.ours.call("ListAuthorizations", json!({})).await.unwrap();
    assert!(authorized.get("authorizations").is_none(), "{authorized}");

    // Two at once: one decides, and both are told the same.
    ask(&world.ours, json!({})).await.unwrap();
    let shared = link(4).await;
    for (browser, name) in [(&browser, "Jo Boss"), (&other, "Al Clerk")] {
        browser.open(&shared).await;
        browser.fill("#approver", name).await;
    }
    tokio::join!(browser.press("Approve"), other.press("Approve"));
    let (one, two) = (browser.text().await, other.text().await);
    let authorized = world.ours.call("ListAuthorizations", json!({})).await.unwrap();
    let authorized = authorized["authorizations"].as_array().unwrap();
    assert_eq!(authorized.len(), 1);
    let name = authorized[0]["authorized_by"]["name"].as_str().unwrap();
    for said in [one, two] {
        assert!(said.contains("You said yes") && said.contains(&format!("by {name}")), "{said}");
    }
    postman.abort();
}

/// Nothing is lost, nothing waits for it, and what is sent again is known by its Message-ID.
#[tokio::test]
async fn a_mail_server_that_is_down_loses_nothing_and_blocks_nobody() {
    let mut mailbox = Mailbox::start().await;
    let world = World::with(by(&mailbox)).await;
    let shared = &world.app.shared;
    mailbox.stop();

    ask(&world.ours, json!({})).await.unwrap();
    let refused = mail::step(shared).await.unwrap_err();
    let put_off = mail::step(shared).await.unwrap();
    mailbox.start_again().await;
    shared.clock.advance(chrono::TimeDelta::minutes(1));
    let sent = mail::step(shared).await.unwrap();

    let said = tenantry::error::causes(&refused);
    assert!(!said.contains("in-clear"), "no password: {said}");
    assert!(!put_off && sent);
    assert_eq!(mailbox.wait_for(1).await.len(), 1);
    let twice = ask(&world.ours, json!({})).await.unwrap_err();
    assert_eq!(told(&twice), "AlreadyExists REQUEST_ALREADY_PENDING");
}

/// Where there is no mail server, a mail is a file that mail programs open.
#[tokio::test]
async fn without_a_mail_server_a_mail_is_a_file_that_only_its_owner_reads() {
    use std::os::unix::fs::PermissionsExt as _;

    let world = World::with(|_| {}).await;
    ask(&world.ours, json!({})).await.unwrap();

    while mail::step(&world.app.shared).await.unwrap() {}

    let folder = world.app.shared.settings.data_dir.join("mail");
    let files = fs::read_dir(folder).unwrap().map(|file| file.unwrap().path()).collect::<Vec<_>>();
    assert_eq!(files.len(), 1);
    assert_eq!(files[0].extension().unwrap(), "eml");
    assert_eq!(fs::metadata(&files[0]).unwrap().permissions().mode() & 0o777, 0o600);
    assert!(fs::read_to_string(&files[0]).unwrap().starts_with("From: tenantry@localhost\r\n"));
}
