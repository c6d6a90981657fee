//! Mails: sent from their table, as often as it takes, so that no change waits for a mail server and none is lost with
//! it.
//!
//! Whoever wants a mail sent puts a row into `mails`, in the transaction of what the mail tells of. [`run`] finds it
//! there, whichever node it runs on: it puts the next attempt off first, so that no other node sends the same, then
//! sends, then marks the row. A node that dies in between leaves it to the next attempt; whoever gets a mail twice for
//! that sees by its Message-ID that it is one.
//!
//! Without a mail server, each mail is a file in the data folder, which mail programs open.

use std::{
    io::Write as _,
    net::IpAddr,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use chrono::{DateTime, Utc};
use diesel::{
    QueryableByName,
    prelude::*,
    sql_types::{Array, Integer, Text, Timestamptz, Uuid as SqlUuid},
};
use diesel_async::RunQueryDsl;
use lettre::{
    Address, AsyncSmtpTransport, AsyncTransport as _, Message, Tokio1Executor,
    address::Envelope,
    message::{Mailbox, MultiPart, header::HeaderName, header::HeaderValue},
    transport::smtp::client::{Certificate, Tls, TlsParameters},
};
use secrecy::{ExposeSecret as _, SecretString};
use tokio::{sync::Notify, time::Instant};
use url::Url;
use uuid::Uuid;

use crate::{
    authorizations,
    config::Settings,
    db::Role,
    error::{Error, Result, causes},
    server::Shared,
};

/// How often it is looked for mails that other nodes put in, or that are due again.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// How long a mail server may take for one mail. Less than the shortest time until the next attempt.
const SEND_TIMEOUT: Duration = Duration::from_secs(30);

/// After how many mails on end that could not be sent there is a pause: it is the server, not the mails.
const FAILURES_MAX: u32 = 3;

/// How long the database may take for one step.
const STEP_TIMEOUT: Duration = Duration::from_secs(10);

/// For how long it is kept which mails were sent: longer than any link in them is good.
const KEPT: &str = "90 days";

/// A mail, ready to be sent.
pub(crate) struct Letter {
    /// To whom.
    pub(crate) to: Vec<String>,
    /// What it is about.
    pub(crate) subject: String,
    /// What it says, for whoever reads text.
    pub(crate) text: String,
    /// The same for whoever reads HTML.
    pub(crate) html: String,
    /// What ties it to the call that wanted it sent.
    pub(crate) correlation_id: String,
}

/// What is to become of a mail.
pub(crate) enum Verdict {
    /// It is to be sent.
    Send(Letter),
    /// It is not to be sent, nor ever.
    Drop(&'static str),
    /// It is not to be sent yet.
    Later(&'static str),
}

/// What sends mails.
pub struct Mailer {
    outlet: Outlet,
    from: Mailbox,
    /// Tells that there is something to send.
    wake: Notify,
}

enum Outlet {
    Server(Box<AsyncSmtpTransport<Tokio1Executor>>),
    Folder(PathBuf),
}

/// From whom mails are that nobody but their own folder ever sees.
const NOBODY: &str = "tenantry@localhost";

impl Mailer {
    /// What the settings ask for.
    ///
    /// # Errors
    ///
    /// When they cannot be used.
    pub fn new(settings: &Settings) -> Result<Self, MailError> {
        let mail = &settings.mail;
        let outlet = match &mail.smtp_url {
            Some(url) => Outlet::Server(Box::new(server(url, mail.smtp_ca.as_deref())?)),
            None => Outlet::Folder(settings.data_dir.join("mail")),
        };
        let from = mail.from.as_deref().unwrap_or(NOBODY);
        let from = from.parse().map_err(|_| MailError::From)?;
        Ok(Self { outlet, from, wake: Notify::new() })
    }

    /// Says that there may be something to send.
    pub fn wake(&self) {
        self.wake.notify_one();
    }

    fn message(&self, mail_id: Uuid, letter: &Letter) -> Result<Message> {
        let domain = self.from.email.domain();
        let mut message = Message::builder()
            .from(self.from.clone())
            .message_id(Some(format!("<{mail_id}@{domain}>")))
            .subject(letter.subject.clone());
        for to in addresses(letter) {
            message = message.to(Mailbox::new(None, to));
        }
        let content = MultiPart::alternative_plain_html(letter.text.clone(), letter.html.clone());
        let mut message = message.multipart(content).map_err(Error::internal)?;
        for (name, value) in [
            // Nobody is there to read what answers by itself.
            ("Auto-Submitted", "auto-generated"),
            ("X-Correlation-Id", &letter.correlation_id),
        ] {
            let name = HeaderName::new_from_ascii(name.to_owned()).map_err(Error::internal)?;
            message.headers_mut().insert_raw(HeaderValue::new(name, value.to_owned()));
        }
        Ok(message)
    }

    /// Sends a mail; whoever of several it cannot be sent to keeps it from none of the others.
    async fn send(&self, mail_id: Uuid, letter: &Letter) -> Result<()> {
        let message = self.message(mail_id, letter)?.formatted();
        let server = match &self.outlet {
            Outlet::Server(server) => server,
            Outlet::Folder(folder) => {
                let folder = folder.clone();
                let write = move || write(&folder, mail_id, &message);
                let file = tokio::task::spawn_blocking(write).await.map_err(Error::internal)?;
                let file = Url::from_file_path(file.map_err(Error::internal)?);
                let file = file.map_err(|()| Error::internal("the data folder is not absolute"))?;
                tracing::info!(
                    mail.id = %mail_id, %file,
                    "mail written: there is no mail.smtp_url to send it by"
                );
                return Ok(());
            }
        };
        let (mut taken, mut refusal) = (0, None);
        for to in addresses(letter) {
            let envelope = Envelope::new(Some(self.from.email.clone()), vec![to]);
            let envelope = envelope.map_err(Error::internal)?;
            let sending = server.send_raw(&envelope, &message);
            match tokio::time::timeout(SEND_TIMEOUT, sending).await {
                Ok(Ok(_)) => taken += 1,
                Ok(Err(error)) => refusal = Some(Error::internal(error)),
                Err(_) => refusal = Some(Error::DeadlineExceeded),
            }
        }
        match refusal {
            Some(error) if taken == 0 => Err(error),
            Some(error) => {
                let why = causes(&error);
                tracing::warn!(mail.id = %mail_id, taken, error = why, "mail sent, but not to all");
                Ok(())
            }
            None if taken == 0 => {
                Err(Error::internal("no address of the tenant can be written to"))
            }
            None => {
                tracing::info!(mail.id = %mail_id, "mail sent");
                Ok(())
            }
        }
    }
}

/// To whom a mail can be sent: an address that is none is passed by.
fn addresses(letter: &Letter) -> impl Iterator<Item = Address> {
    letter.to.iter().filter_map(|to| to.parse().ok())
}

/// Why mails cannot be sent as the settings have it; no text of it repeats a password.
#[derive(Debug, thiserror::Error)]
pub enum MailError {
    /// `mail.from` is no address.
    #[error("`mail.from` is not an e-mail address")]
    From,
    /// `mail.smtp_url` is no URL of a mail server.
    #[error(
        "`mail.smtp_url` is not the URL of a mail server, such as smtp://user:password@host:587?tls=required"
    )]
    Url,
    /// The file of `mail.smtp_ca` cannot be used.
    #[error("`mail.smtp_ca` {} cannot be used: {why}", path.display())]
    Authority {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
}

/// The server that mails go to.
fn server(
    url: &SecretString,
    ca: Option<&Path>,
) -> Result<AsyncSmtpTransport<Tokio1Executor>, MailError> {
    let url = url.expose_secret();
    let mut server = AsyncSmtpTransport::<Tokio1Executor>::from_url(url)
        .map_err(|_| MailError::Url)?
        .timeout(Some(SEND_TIMEOUT / 2));
    if let Some(path) = ca {
        let unusable = |why: String| MailError::Authority { path: path.to_owned(), why };
        let pem = std::fs::read(path).map_err(|error| unusable(error.to_string()))?;
        let ca = Certificate::from_pem(&pem).map_err(|error| unusable(error.to_string()))?;
        let host = host_of(url).ok_or(MailError::Url)?;
        let trust = TlsParameters::builder(host).add_root_certificate(ca);
        let trust = trust.build_rustls().map_err(|error| unusable(error.to_string()))?;
        let tls =
            if url.starts_with("smtps:") { Tls::Wrapper(trust) } else { Tls::Required(trust) };
        server = server.tls(tls);
    }
    Ok(server.build())
}

/// The host of a URL.
fn host_of(url: &str) -> Option<String> {
    let url = url.parse::<Url>().ok()?;
    url.host_str().map(|host| host.trim_matches(['[', ']']).to_owned())
}

/// Whether mails can be sent by a URL. Neither they nor the password go in clear, but within this machine.
pub(crate) fn is_server(url: &str) -> bool {
    let Ok(parsed) = url.parse::<Url>() else { return false };
    let host = host_of(url).unwrap_or_default();
    let is_near = host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback());
    let demands_tls = parsed.query_pairs().any(|(key, value)| key == "tls" && value == "required");
    let is_protected = parsed.scheme() == "smtps" || demands_tls;
    AsyncSmtpTransport::<Tokio1Executor>::from_url(url).is_ok() && (is_protected || is_near)
}

/// Writes a mail into its file, which only its owner reads, whole or not at all.
fn write(folder: &Path, mail_id: Uuid, text: &[u8]) -> std::io::Result<PathBuf> {
    std::fs::create_dir_all(folder)?;
    let (file, part) =
        (folder.join(format!("{mail_id}.eml")), folder.join(format!("{mail_id}.part")));
    let mut options = std::fs::OpenOptions::new();
    let mut written = options.write(true).create(true).truncate(true).mode(0o600).open(&part)?;
    written.write_all(text)?;
    written.sync_all()?;
    std::fs::rename(part, &file)?;
    Ok(file)
}

/// Sends what is to be sent, until it is dropped.
pub async fn run(shared: Arc<Shared>) {
    loop {
        let woken = shared.mailer.wake.notified();
        let mut failures = 0;
        while failures < FAILURES_MAX {
            match step(&shared).await {
                Ok(true) => failures = 0,
                Ok(false) => break,
                Err(error) => {
                    tracing::debug!(error = causes(&error), "mails wait");
                    failures += 1;
                }
            }
        }
        let _ = tokio::time::timeout(LOOK_EVERY, woken).await;
    }
}

#[derive(QueryableByName)]
struct Due {
    #[diesel(sql_type = SqlUuid)]
    mail_id: Uuid,
    #[diesel(sql_type = Integer)]
    attempts: i32,
}

/// A mail is tried again after 1, 2, 4 minutes and so on, and then each hour. That it is put off comes first: until
/// then nobody else sends it.
const CLAIM: &str = "\
update mails set attempts = attempts + 1, update_time = $1,
        next_attempt_time = $1 + least(interval '1 minute' * power(2, least(attempts, 10)), interval '1 hour')
    where mail_id = (
        select mail_id from mails where state = 'WAITING' and next_attempt_time <= $1
            order by next_attempt_time limit 1 for update skip locked)
    returning mail_id, attempts";

/// Sends one mail that is due; answers whether there was one.
///
/// # Errors
///
/// What the database or the mail server reports; the mail waits for its next attempt.
pub async fn step(shared: &Shared) -> Result<bool> {
    let now = shared.clock.now();
    let deadline = Instant::now() + STEP_TIMEOUT;
    let mut transaction = shared.database.begin_as(Role::Mailer, deadline).await?;
    let due: Option<Due> = diesel::sql_query(CLAIM)
        .bind::<Timestamptz, _>(now)
        .get_result(transaction.conn())
        .await
        .optional()?;
    let Some(Due { mail_id, attempts }) = due else {
        transaction.commit().await?;
        return Ok(false);
    };
    let (master, url) = (&shared.master, shared.public_url());
    let verdict =
        authorizations::mails::compose(transaction.conn(), master, &url, mail_id, now).await?;
    if let Verdict::Send(Letter { to, .. }) = &verdict {
        // Before it is sent: whoever uses its link may be faster than what is written after.
        diesel::sql_query("update mails set recipients = $2 where mail_id = $1")
            .bind::<SqlUuid, _>(mail_id)
            .bind::<Array<Text>, _>(to)
            .execute(transaction.conn())
            .await?;
    }
    transaction.commit().await?;
    match verdict {
        Verdict::Drop(why) => {
            tracing::info!(mail.id = %mail_id, why, "mail dropped");
            mark(shared, mail_id, "DROPPED", why, now).await?;
        }
        Verdict::Later(why) => {
            tracing::info!(mail.id = %mail_id, why, "mail put off");
            mark(shared, mail_id, "WAITING", why, now).await?;
        }
        Verdict::Send(letter) => {
            if let Err(error) = shared.mailer.send(mail_id, &letter).await {
                let why = format!("attempt {attempts}: {}", causes(&error));
                tracing::warn!(mail.id = %mail_id, why, "mail not sent");
                mark(shared, mail_id, "WAITING", &why, now).await?;
                return Err(error);
            }
            mark(shared, mail_id, "SENT", "", now).await?;
        }
    }
    Ok(true)
}

async fn mark(
    shared: &Shared,
    mail_id: Uuid,
    state: &str,
    outcome: &str,
    now: DateTime<Utc>,
) -> Result<()> {
    let deadline = Instant::now() + STEP_TIMEOUT;
    let mut transaction = shared.database.begin_as(Role::Mailer, deadline).await?;
    diesel::sql_query(
        "update mails set state = $2, outcome = $3, update_time = $4
             where mail_id = $1 and state = 'WAITING'",
    )
    .bind::<SqlUuid, _>(mail_id)
    .bind::<Text, _>(state)
    .bind::<Text, _>(outcome)
    .bind::<Timestamptz, _>(now)
    .execute(transaction.conn())
    .await?;
    transaction.commit().await
}

/// Forgets mails that were sent or dropped long ago; answers how many.
///
/// # Errors
///
/// What the database reports.
pub(crate) async fn forget(shared: &Shared) -> Result<usize> {
    let deadline = Instant::now() + STEP_TIMEOUT;
    let mut transaction = shared.database.begin_as(Role::Mailer, deadline).await?;
    let rows = diesel::sql_query(format!(
        "delete from mails where state <> 'WAITING' and update_time < $1 - interval '{KEPT}'"
    ))
    .bind::<Timestamptz, _>(shared.clock.now())
    .execute(transaction.conn())
    .await?;
    transaction.commit().await?;
    Ok(rows)
}
