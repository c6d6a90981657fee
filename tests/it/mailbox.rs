//! A mail server of a test's own: real SMTP, which demands STARTTLS and a password, and what it has
//! taken can be read.
//!
//! It is Mailpit. It delivers nothing: every message stays in its database, which outlives a stop
//! of the server within the test, and is asked for over its HTTP API, on a socket in the folder.

use std::{
    fs,
    path::PathBuf,
    sync::atomic::{AtomicU16, Ordering},
};

use axum::body::Body;
use bytes::Bytes;
use http_body_util::BodyExt as _;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use lettre::{
    AsyncSmtpTransport, AsyncTransport as _, Tokio1Executor,
    message::MultiPart,
    transport::smtp::client::{Certificate, Tls, TlsParameters},
};
use serde::Deserialize;
use tempfile::TempDir;
use tokio::{
    io::AsyncReadExt as _,
    net::{TcpStream, UnixStream},
};

use crate::{
    start::until,
    tools::{self, Leashed},
};

const LOGIN: &str = "tenantry:in-clear-for-tests";

/// A running mail server with its messages; it ends when this is dropped.
pub struct Mailbox {
    port: u16,
    folder: TempDir,
    server: Option<Leashed>,
}

/// A message as it has arrived.
#[derive(Debug)]
#[expect(clippy::struct_field_names, reason = "mail calls it so")]
pub struct Message {
    /// What stands in the header between `<` and `>`.
    pub message_id: String,
    pub from: String,
    pub to: Vec<String>,
    pub subject: String,
    /// The part for those who read plain text, or what the server makes of the other.
    pub text: String,
    pub html: String,
    /// All of it: headers, and parts as they are encoded.
    pub raw: String,
}

/// A page of the API: what has arrived, the last first.
#[derive(Deserialize)]
struct Listed {
    messages: Vec<Summary>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Summary {
    #[serde(rename = "ID")]
    id: String,
}

/// A message in the words of the API.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Arrived {
    #[serde(rename = "MessageID")]
    message_id: String,
    from: Address,
    to: Vec<Address>,
    subject: String,
    text: String,
    #[serde(rename = "HTML")]
    html: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Address {
    address: String,
}

impl Mailbox {
    pub async fn start() -> Self {
        let folder = tempfile::Builder::new().prefix("tenantry-mailbox-").tempdir().unwrap();
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        fs::write(folder.path().join("trusted.pem"), made.cert.pem()).unwrap();
        fs::write(folder.path().join("key.pem"), made.signing_key.serialize_pem()).unwrap();
        fs::write(folder.path().join("logins"), LOGIN).unwrap();
        let mut mailbox = Self { port: free_port(), folder, server: None };
        mailbox.start_again().await;
        mailbox
    }

    /// Where to send mail, with the login that may.
    pub fn smtp_url(&self) -> String {
        format!("smtp://{LOGIN}@localhost:{}?tls=required", self.port)
    }

    /// The file with the certificate to trust for it.
    pub fn ca_pem(&self) -> PathBuf {
        self.folder.path().join("trusted.pem")
    }

    /// Ends the server. Its port refuses connections from now on.
    pub fn stop(&mut self) {
        self.server = None;
    }

    /// Starts the server on the port where it was, with the messages that it has taken.
    pub async fn start_again(&mut self) {
        let mailpit = tools::find("MAILPIT", &["mailpit"], "scripts/ensure-mailpit");
        let file = |name: &str| self.folder.path().join(name).into_os_string();
        let mut api = std::ffi::OsString::from("unix:");
        api.push(file("api"));
        api.push(":0600");
        let arguments = [
            "--smtp".into(),
            format!("127.0.0.1:{}", self.port).into(),
            "--listen".into(),
            api,
            "--smtp-require-starttls".into(),
            "--smtp-tls-cert".into(),
            file("trusted.pem"),
            "--smtp-tls-key".into(),
            file("key.pem"),
            "--smtp-auth-file".into(),
            file("logins"),
            "--database".into(),
            file("messages"),
            "--smtp-disable-rdns".into(),
            "--disable-version-check".into(),
        ];
        let mut server = Leashed::start(&mailpit, &arguments, &self.folder);
        server.ready(async |_| self.answers().await.then_some(())).await;
        self.server = Some(server);
    }

    /// All that has arrived, the first first.
    pub async fn messages(&self) -> Vec<Message> {
        let mut messages = Vec::new();
        for id in self.ids().await.into_iter().rev() {
            let path = format!("/api/v1/message/{id}");
            let arrived: Arrived = serde_json::from_slice(&self.get(&path).await).unwrap();
            let raw = self.get(&format!("{path}/raw")).await;
            messages.push(Message {
                message_id: arrived.message_id,
                from: arrived.from.address,
                to: arrived.to.into_iter().map(|to| to.address).collect(),
                subject: arrived.subject,
                text: arrived.text,
                html: arrived.html,
                raw: String::from_utf8(raw.to_vec()).unwrap(),
            });
        }
        messages
    }

    /// Waits until so many messages have arrived, and answers all that have.
    pub async fn wait_for(&self, number: usize) -> Vec<Message> {
        let arrival = format!("the arrival of message {number}");
        until(&arrival, async || self.ids().await.len() >= number).await;
        self.messages().await
    }

    async fn ids(&self) -> Vec<String> {
        let listed: Listed =
            serde_json::from_slice(&self.get("/api/v1/messages?limit=500").await).unwrap();
        listed.messages.into_iter().map(|summary| summary.id).collect()
    }

    /// Whether it greets those who bring mail, and lets be read what they brought.
    async fn answers(&self) -> bool {
        let Ok(mut smtp) = TcpStream::connect(("127.0.0.1", self.port)).await else { return false };
        let mut greeting = [0; 3];
        smtp.read_exact(&mut greeting).await.is_ok_and(|_| &greeting == b"220")
            && UnixStream::connect(self.folder.path().join("api")).await.is_ok()
    }

    async fn get(&self, path: &str) -> Bytes {
        let stream = UnixStream::connect(self.folder.path().join("api")).await.unwrap();
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        let request = http::Request::get(path).header("host", "localhost").body(Body::empty());
        let answer = sender.send_request(request.unwrap()).await.unwrap();
        assert!(answer.status().is_success(), "{path}: {}", answer.status());
        answer.into_body().collect().await.unwrap().to_bytes()
    }
}

/// Chooses a port that stays the server's own while it is stopped.
///
/// The system gives away those above, to servers on port 0 and to clients, at any time.
fn free_port() -> u16 {
    const OWN: std::ops::Range<u16> = 20_000..32_000;
    static COUNT: AtomicU16 = AtomicU16::new(0);
    loop {
        let count = u32::from(COUNT.fetch_add(1, Ordering::Relaxed));
        let place = (std::process::id().wrapping_mul(100) + count) % u32::from(OWN.end - OWN.start);
        let port = OWN.start + u16::try_from(place).unwrap();
        if std::net::TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// Sends one message as others do, to whom and where the URL says.
async fn send(mailbox: &Mailbox, url: &str) -> Result<(), lettre::transport::smtp::Error> {
    let certificate = Certificate::from_pem(&fs::read(mailbox.ca_pem()).unwrap()).unwrap();
    let tls = TlsParameters::builder("localhost".to_owned())
        .add_root_certificate(certificate)
        .build_rustls()
        .unwrap();
    let message = lettre::Message::builder()
        .from("Tenantry <asks@tenantry.test>".parse().unwrap())
        .to("customer@example.test".parse().unwrap())
        .subject("Grüße")
        .message_id(Some("<one@tenantry.test>".to_owned()))
        .multipart(MultiPart::alternative_plain_html(
            "Do you agree?".to_owned(),
            "<p>Do you agree?</p>".to_owned(),
        ))
        .unwrap();
    let transport = AsyncSmtpTransport::<Tokio1Executor>::from_url(url).unwrap();
    transport.tls(Tls::Required(tls)).build().send(message).await.map(|_| ())
}

#[tokio::test]
async fn what_is_sent_with_starttls_and_a_password_arrives() {
    let mailbox = Mailbox::start().await;

    send(&mailbox, &mailbox.smtp_url()).await.unwrap();

    let arrived = mailbox.wait_for(1).await.remove(0);
    assert_eq!(arrived.message_id, "one@tenantry.test");
    assert_eq!(arrived.from, "asks@tenantry.test");
    assert_eq!(arrived.to, ["customer@example.test"]);
    assert_eq!(arrived.subject, "Grüße");
    assert_eq!(arrived.text.trim(), "Do you agree?");
    assert_eq!(arrived.html.trim(), "<p>Do you agree?</p>");
    assert!(arrived.raw.contains("Message-ID: <one@tenantry.test>\r\n"), "{}", arrived.raw);
}

#[tokio::test]
async fn without_a_password_or_with_another_nothing_is_taken() {
    let mailbox = Mailbox::start().await;
    let without = mailbox.smtp_url().replace(&format!("{LOGIN}@"), "");
    let wrong = mailbox.smtp_url().replace(LOGIN, "tenantry:wrong");

    let without = send(&mailbox, &without).await.unwrap_err();
    let wrong = send(&mailbox, &wrong).await.unwrap_err();

    assert_eq!(without.status().unwrap().to_string(), "530");
    assert_eq!(wrong.status().unwrap().to_string(), "535");
    assert!(mailbox.messages().await.is_empty());
}

#[tokio::test]
async fn in_clear_nothing_is_taken() {
    let mailbox = Mailbox::start().await;
    let url = mailbox.smtp_url().replace("?tls=required", "");
    let transport = AsyncSmtpTransport::<Tokio1Executor>::from_url(&url).unwrap().build();
    let envelope = lettre::address::Envelope::new(None, vec!["foo@bar.test".parse().unwrap()]);

    let refusal = transport.send_raw(&envelope.unwrap(), b"in clear").await;

    assert!(refusal.is_err());
    assert!(mailbox.messages().await.is_empty());
}

#[tokio::test]
async fn a_server_that_was_stopped_is_there_again_on_its_port_with_its_messages() {
    let mut mailbox = Mailbox::start().await;
    let url = mailbox.smtp_url();
    send(&mailbox, &url).await.unwrap();

    mailbox.stop();
    let while_stopped = send(&mailbox, &url).await;
    mailbox.start_again().await;
    send(&mailbox, &url).await.unwrap();

    assert!(while_stopped.is_err(), "it took mail while it was stopped");
    assert_eq!(mailbox.wait_for(2).await.len(), 2);
}
