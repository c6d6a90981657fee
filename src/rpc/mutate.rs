//! The one path of every change: once, in one transaction with its events, or not at all.
//!
//! The transaction holds the change, what is told of it and, where the caller gave a `request_id`, the
//! answer. Whoever repeats the request gets that answer; whoever sends another request under the same
//! id is refused. `validate_only` walks the same path and is rolled back at its end, so it cannot
//! check less than the change itself.

use std::{sync::Arc, time::Duration};

use chrono::{DateTime, TimeDelta, Utc};
use diesel::prelude::*;
use diesel::upsert::excluded;
use diesel_async::{
    AnsiTransactionManager, AsyncPgConnection, RunQueryDsl, TransactionManager as _,
};
use prost::Message;
use secrecy::ExposeSecret as _;
use uuid::Uuid;

use super::Call;
use crate::{
    clock::Clock,
    db::{Database, Role, Transaction},
    error::{Error, Kind, Result},
    events::outbox,
    keys::{
        cache::{KeyCache, News},
        master::MasterKey,
    },
    schema::idempotency_records,
    sealed::Cipher,
    wire,
};

/// How often a change is tried that meets concurrent ones.
const ATTEMPTS: u32 = 4;

/// A request that changes something. Implemented by the build for every message that has a
/// `request_id` and a `validate_only`.
pub trait Mutation: Message + Clone {
    /// What makes it safe to repeat; empty where the caller did not ask for that.
    fn request_id(&self) -> &str;
    /// Whether nothing is to be changed.
    fn validate_only(&self) -> bool;
    /// The request as it would be without `validate_only`.
    #[must_use]
    fn effective(&self) -> Self;
}

include!(concat!(env!("OUT_DIR"), "/mutations.rs"));

/// Makes changes.
pub struct Mutator {
    /// Where they are made.
    pub database: Database,
    /// Keys the fingerprints.
    pub master: Arc<MasterKey>,
    /// Tells when.
    pub clock: Arc<Clock>,
    /// How long answers are kept for repetition.
    pub retention: Duration,
    /// What this node knows of keys: it hears of its own changes at once.
    pub keys: Arc<KeyCache>,
}

/// A change under way: its transaction, and what it needs to know.
pub struct Change<'a> {
    /// The call that asked for it.
    pub call: &'a Call,
    /// The time of the change, the same for everything in it.
    pub now: DateTime<Utc>,
    clock: &'a Clock,
    transaction: Transaction,
    /// What was recorded that may change what holds for keys.
    news: Vec<News>,
    /// Whether everything is undone at the end: `validate_only`.
    rehearses: bool,
    /// For whom it is made, where the caller says so (0-13); events have it.
    pub on_behalf_of: Option<String>,
}

impl Change<'_> {
    /// The connection, for the statements of the stores.
    pub fn conn(&mut self) -> &mut AsyncPgConnection {
        self.transaction.conn()
    }

    /// Takes on another role for what comes next. Whoever does so ends with [`Role::Service`] again, as
    /// which the answer is kept.
    ///
    /// # Errors
    ///
    /// What the database reports.
    pub async fn take_on(&mut self, role: Role) -> Result<()> {
        self.transaction.take_on(role).await
    }

    /// What tells this change from others: whoever has applied it, has applied what it did.
    ///
    /// # Errors
    ///
    /// What the database reports.
    pub async fn revision(&mut self) -> Result<String> {
        let number = diesel::dsl::sql::<diesel::sql_types::Text>("pg_current_xact_id()::text");
        Ok(diesel::select(number).get_result(self.conn()).await?)
    }

    /// Whether it is undone at its end, whatever comes of it.
    pub fn rehearses(&self) -> bool {
        self.rehearses
    }

    /// Makes an id.
    pub fn uuid(&self) -> Uuid {
        self.clock.uuid()
    }

    /// Begins a rehearsal: what happens until [`Change::end_rehearsal`] is undone by it.
    ///
    /// # Errors
    ///
    /// What the database reports.
    pub async fn begin_rehearsal(&mut self) -> Result<()> {
        Ok(AnsiTransactionManager::begin_transaction(self.conn()).await?)
    }

    /// Ends a rehearsal, which told whether something could be done, and what would come of it.
    ///
    /// # Errors
    ///
    /// What the rehearsal ran into.
    pub async fn end_rehearsal<A>(&mut self, done: Result<A>) -> Result<A> {
        let undone = AnsiTransactionManager::rollback_transaction(self.conn()).await;
        let done = done?;
        undone?;
        Ok(done)
    }

    /// Records what happened, for the audit log and the feed.
    ///
    /// # Errors
    ///
    /// What the database reports.
    pub async fn record(&mut self, event: outbox::Event<'_>) -> Result<()> {
        self.record_below(event, &[]).await
    }

    /// As [`Change::record`], of what also concerns tenants that are not above the tenant any more.
    ///
    /// # Errors
    ///
    /// What the database reports.
    pub async fn record_below(
        &mut self,
        event: outbox::Event<'_>,
        before: &[Option<Uuid>],
    ) -> Result<()> {
        self.hear(&event);
        let id = self.uuid();
        let actor = self.call.actor();
        let origin = origin(self.call, &actor, self.on_behalf_of.as_deref());
        outbox::append_below(self.transaction.conn(), id, origin, self.now, event, before).await
    }

    /// As [`Change::record`], of what an account is told of a tenant whose id it knows, and the tenant is not.
    ///
    /// # Errors
    ///
    /// What the database reports.
    pub async fn record_aside(&mut self, event: outbox::Event<'_>, tenant_id: &str) -> Result<()> {
        let id = self.uuid();
        let actor = self.call.actor();
        let origin = origin(self.call, &actor, self.on_behalf_of.as_deref());
        let (conn, now) = (self.transaction.conn(), self.now);
        outbox::append_aside(conn, id, origin, now, event, tenant_id).await
    }

    /// As [`Change::record`], of many things that happened to one tenant at once.
    ///
    /// # Errors
    ///
    /// What the database reports.
    pub async fn record_all(
        &mut self,
        tenant: (Uuid, &str),
        events: Vec<outbox::Event<'_>>,
    ) -> Result<()> {
        for event in &events {
            self.hear(event);
        }
        let events = events.into_iter().map(|event| (self.uuid(), event)).collect();
        let actor = self.call.actor();
        let origin = origin(self.call, &actor, self.on_behalf_of.as_deref());
        outbox::append_all(self.transaction.conn(), origin, self.now, tenant, events).await
    }
}

impl Change<'_> {
    /// Remembers an event that may change what holds for keys: this node hears of it with the commit.
    fn hear(&mut self, event: &outbox::Event<'_>) {
        if News::is_of_verdicts(event.kind) {
            self.news.push(News {
                kind: event.kind.to_owned(),
                account_id: event.account_id.map(str::to_owned),
                tenant_uid: event.tenant.map(|(uid, _)| uid),
                resource_id: event.resource_id.to_owned(),
            });
        }
    }
}

/// Where what happens in a call comes from.
fn origin<'a>(call: &'a Call, actor: &'a str, on_behalf_of: Option<&'a str>) -> outbox::Origin<'a> {
    outbox::Origin {
        method: call.method,
        actor,
        on_behalf_of,
        correlation_id: &call.correlation_id,
    }
}

impl Mutator {
    /// Makes a change by `act`, which may run several times and must do nothing but what the
    /// transaction undoes.
    ///
    /// # Errors
    ///
    /// What `act` refuses; [`Error::IdempotencyConflict`] for a `request_id` that was used otherwise,
    /// or with a secret of the calling key that was rotated away since.
    pub async fn mutate<M, A>(
        &self,
        call: &Call,
        request: &M,
        act: impl AsyncFnOnce(&mut Change<'_>) -> Result<A> + Clone,
    ) -> Result<A>
    where
        M: Mutation,
        A: Message + Default,
    {
        wire::request_id(request.request_id()).map_err(|why| Error::invalid("request_id", why))?;
        let mut attempt = 1;
        loop {
            match self.attempt(call, request, act.clone()).await {
                Err(Error::Contended(_)) if attempt < ATTEMPTS => {
                    // Jitter, so that those who met do not meet again.
                    let jitter = u64::from(rand::random::<u8>());
                    tokio::time::sleep(Duration::from_millis(
                        u64::from(attempt) * 10 + jitter / 16,
                    ))
                    .await;
                    attempt += 1;
                }
                done => return done,
            }
        }
    }

    async fn attempt<M, A>(
        &self,
        call: &Call,
        request: &M,
        act: impl AsyncFnOnce(&mut Change<'_>) -> Result<A>,
    ) -> Result<A>
    where
        M: Mutation,
        A: Message + Default,
    {
        let credential = Some(call.caller.key_id);
        let transaction = self.database.begin(&call.scope, credential, call.deadline).await?;
        let (now, clock, news) = (self.clock.now(), &*self.clock, Vec::new());
        let rehearses = request.validate_only();
        let on_behalf_of = None;
        let mut change = Change { call, now, clock, transaction, news, rehearses, on_behalf_of };
        let done = self.run(&mut change, request, act).await;
        match done {
            Ok(answer) if !request.validate_only() => {
                let Change { transaction, news, .. } = change;
                let committed = transaction.commit().await;
                // Also where nobody knows whether it was: to look up a key once more costs little.
                self.keys.apply(&news);
                committed.map(|()| answer)
            }
            done => {
                // What was refused stays refused, whether or not the connection survives.
                let _ = change.transaction.rollback().await;
                done
            }
        }
    }

    async fn run<M, A>(
        &self,
        change: &mut Change<'_>,
        request: &M,
        act: impl AsyncFnOnce(&mut Change<'_>) -> Result<A>,
    ) -> Result<A>
    where
        M: Mutation,
        A: Message + Default,
    {
        if request.request_id().is_empty() {
            return act(change).await;
        }
        let mut record = self.record(change, request);
        let now = change.now;
        if !record.reserve(change.conn(), now).await? {
            return record.replay(change).await;
        }
        let answer = act(change).await?;
        let cipher = cipher(change.call, request.request_id());
        record.answer = cipher.seal(&answer.encode_to_vec(), change.call.method.as_bytes());
        record.keep(change.conn()).await?;
        Ok(answer)
    }

    fn record<M: Mutation>(&self, change: &Change<'_>, request: &M) -> Record {
        let call = change.call;
        let retention = TimeDelta::from_std(self.retention).unwrap_or(TimeDelta::MAX);
        Record {
            credential_id: call.caller.key_id,
            account_id: call.account.clone().unwrap_or_default(),
            tenant_uid: call.tenant.as_ref().map_or(Uuid::nil(), |tenant| tenant.uid),
            method: call.method.to_owned(),
            request_id: request.request_id().to_owned(),
            fingerprint: self.master.fingerprint(&request.effective().encode_to_vec()).to_vec(),
            answer: Vec::new(),
            expire_time: change.now + retention,
        }
    }
}

/// What was answered to a request with a `request_id`.
#[derive(HasQuery, Insertable)]
#[diesel(table_name = idempotency_records, check_for_backend(diesel::pg::Pg))]
struct Record {
    credential_id: Uuid,
    account_id: String,
    tenant_uid: Uuid,
    method: String,
    request_id: String,
    fingerprint: Vec<u8>,
    answer: Vec<u8>,
    expire_time: DateTime<Utc>,
}

#[diesel::dsl::auto_type]
fn record_of<'a>(
    credential: Uuid,
    account: &'a str,
    tenant: Uuid,
    method: &'a str,
    request: &'a str,
) -> _ {
    idempotency_records::table
        .filter(idempotency_records::credential_id.eq(credential))
        .filter(idempotency_records::account_id.eq(account))
        .filter(idempotency_records::tenant_uid.eq(tenant))
        .filter(idempotency_records::method.eq(method))
        .filter(idempotency_records::request_id.eq(request))
}

impl Record {
    /// Takes the place of the record; waits for whoever is at the same request. False where there is
    /// an answer already.
    async fn reserve(&self, conn: &mut AsyncPgConnection, now: DateTime<Utc>) -> Result<bool> {
        use diesel::query_dsl::methods::FilterDsl as _;
        let rows = diesel::insert_into(idempotency_records::table)
            .values(self)
            .on_conflict((
                idempotency_records::credential_id,
                idempotency_records::account_id,
                idempotency_records::tenant_uid,
                idempotency_records::method,
                idempotency_records::request_id,
            ))
            .do_update()
            .set((
                idempotency_records::fingerprint.eq(excluded(idempotency_records::fingerprint)),
                idempotency_records::answer.eq(excluded(idempotency_records::answer)),
                idempotency_records::expire_time.eq(excluded(idempotency_records::expire_time)),
            ))
            .filter(idempotency_records::expire_time.le(now))
            .execute(conn)
            .await?;
        Ok(rows == 1)
    }

    /// Answers what was answered before, if the request is the same.
    async fn replay<A: Message + Default>(&self, change: &mut Change<'_>) -> Result<A> {
        let call = change.call;
        let kept = record_of(
            self.credential_id,
            &self.account_id,
            self.tenant_uid,
            &self.method,
            &self.request_id,
        )
        .select(Record::as_select())
        .get_result(change.conn())
        .await?;
        if kept.fingerprint != self.fingerprint {
            return Err(self.conflict(
                "for a request with another body: repeat that request unchanged or choose a new request_id",
            ));
        }
        let answer = cipher(call, &self.request_id)
            .open(&kept.answer, call.method.as_bytes())
            .ok_or_else(|| {
                self.conflict(
                    "with another secret of the calling key, which alone opens the answer: repeat it with that \
                     secret while that works, or look up what came of it and choose a new request_id",
                )
            })?;
        A::decode(&*answer).map_err(Error::internal)
    }

    fn conflict(&self, how: &'static str) -> Error {
        Error::IdempotencyConflict { request_id: self.request_id.clone(), how }
    }

    async fn keep(&self, conn: &mut AsyncPgConnection) -> Result<()> {
        let rows = diesel::update(record_of(
            self.credential_id,
            &self.account_id,
            self.tenant_uid,
            &self.method,
            &self.request_id,
        ))
        .set(idempotency_records::answer.eq(&self.answer))
        .execute(conn)
        .await?;
        if rows == 1 { Ok(()) } else { Err(Error::internal("the reserved record is gone")) }
    }
}

/// Deletes answers that are kept no longer; answers how many.
///
/// # Errors
///
/// What the database reports.
pub async fn delete_expired_records(conn: &mut AsyncPgConnection) -> Result<usize> {
    Ok(diesel::delete(
        idempotency_records::table.filter(idempotency_records::expire_time.lt(diesel::dsl::now)),
    )
    .execute(conn)
    .await?)
}

/// Refuses a change of a record that is not as the caller has read it.
///
/// # Errors
///
/// [`Error::Stale`] when an etag was sent that is not the stored one.
pub fn check_etag(sent: &str, version: i64, kind: Kind, id: &str) -> Result<()> {
    if sent.is_empty() || sent == etag(version) {
        Ok(())
    } else {
        Err(Error::Stale { kind, id: id.to_owned() })
    }
}

/// The etag of a version of a record.
pub fn etag(version: i64) -> String {
    version.to_string()
}

/// Only who has the caller's own key text can make this cipher: neither a dump nor another caller can
/// read a stored answer, which may hold a secret.
fn cipher(call: &Call, request_id: &str) -> Cipher {
    let bearer = call.bearer.expose_secret().as_bytes();
    Cipher::derive(bearer, request_id.as_bytes(), b"tenantry answer v1")
}
