//! What a node knows of keys and of what tenants authorize, so that it need not ask for each verification and each
//! check, and never too long.
//!
//! - What was read of a key is kept, decoded, up to a number of bytes, and dropped when the feed tells of a
//!   change of it. What concerns many keys at once, such as a lock on a tenant or on one above it, drops none
//!   of them: it raises an *epoch* that every key that hangs on the tenant was read at.
//! - What is missing is read once, however many ask for it at the same time, and together with whatever else
//!   is missing then, by one statement.
//! - What is not there is kept for a moment too, in a place of its own, so that guesses push out nothing.
//! - Nothing of this is answered from but while the node's lease lasts (`nodes`).
//!
//! # Why nothing stale is kept
//!
//! A reading may be overtaken: it sees a key, the key is revoked, the feed tells of that, and only then the
//! reading ends. So every piece of news counts up a *generation*, and what was read in an earlier one is
//! answered to those who asked before, but not kept. Whoever asks after the news does not share a reading
//! from before it either. Both are decided under one lock with the news itself.
//!
//! # Authorizations
//!
//! They are known as keys are, in a place of their own and by the same rules: read by the same flights, dropped by the
//! epochs of their tenant and of all above it, and answered from under the same lease.

use std::{
    collections::HashMap,
    hash::Hash,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, RwLock, Weak,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use diesel::QueryResult;
use diesel_async::AsyncPgConnection;
use quick_cache::{Weighter, sync::Cache};
use tokio::{sync::watch, time::Instant};
use uuid::Uuid;

use super::{
    known::{App, KeyKind, Known, KnownTenant, Owner},
    master::MasterKey,
    resolve::{self, By},
    secret::KeyRef,
};
use crate::{
    authorizations::{
        self,
        known::{KnownAuthorization, Place, PlaceRef},
    },
    db::{Database, Resolving},
    error::{Error, Result},
    events::kinds::OF_VERDICTS,
    nodes::{Lease, Moment},
    revision::{Revision, Snapshot},
};

/// How many statements that resolve keys run at a time.
const STATEMENTS_MAX: usize = 2;

/// How many keys and authorizations one of them resolves.
const ASKED_MAX: usize = 128;

/// How long the database may take to resolve keys.
const RESOLVE_TIMEOUT: Duration = Duration::from_secs(2);

/// How many keys and authorizations that are not there are remembered, and for how long.
const MISSING_MAX: usize = 10_000;
const MISSING_FOR: Duration = Duration::from_secs(2);

/// How many keys and authorizations wait to be read at most.
const WAITING_MAX: usize = 10_000;

/// How long a node that is not as far as a caller asks for waits to get there by itself.
const REVISION_WAIT: Duration = Duration::from_millis(50);

/// How many texts of keys that were made elsewhere are remembered by their digest.
const ALIASES_MAX: usize = 100_000;

/// How large what is known of a key is, about, besides what it shares with others.
const KEY_BYTES: u64 = 400;

/// How large what is known of an authorization is, about, besides its scopes.
const AUTHORIZATION_BYTES: u64 = 700;

/// Which part of the bytes is for authorizations.
const AUTHORIZATIONS_PART: u64 = 8;

/// How many epochs there may be before those that no key hangs on are cleared away.
const EPOCHS_SWEEP: usize = 4096;

/// What happened that may change what holds for keys or authorizations.
#[derive(Clone, Debug)]
pub struct News {
    /// The type of the event.
    pub kind: String,
    /// The account that it concerns.
    pub account_id: Option<String>,
    /// The tenant that it concerns.
    pub tenant_uid: Option<Uuid>,
    /// What it happened to.
    pub resource_id: String,
}

impl News {
    /// Whether a type of events can change what holds for keys or authorizations.
    pub fn is_of_verdicts(kind: &str) -> bool {
        OF_VERDICTS.contains(&kind)
    }
}

/// By what something is asked for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Asked {
    Key(By),
    Authorization(Arc<Place>),
}

/// What was answered of a key, or of what a tenant authorizes.
#[derive(Debug)]
pub struct Answer<T = Known> {
    /// What is known of it; nothing where it is not there.
    pub known: Option<Arc<T>>,
    /// The state that this is of; nothing where nobody knows.
    pub revision: Option<Arc<str>>,
    /// For how long it holds; nothing where the database was asked by a node without a lease.
    pub known_until: Option<KnownUntil>,
}

impl<T> Answer<T> {
    /// The same of what is known, if it is what was meant.
    fn of<U>(self, meant: impl FnOnce(Arc<T>) -> Option<Arc<U>>) -> Answer<U> {
        let Self { known, revision, known_until } = self;
        Answer { known: known.and_then(meant), revision, known_until }
    }
}

impl<T> Clone for Answer<T> {
    fn clone(&self) -> Self {
        let Self { known, revision, known_until } = self;
        Self { known: known.clone(), revision: revision.clone(), known_until: *known_until }
    }
}

/// For how long an answer holds: until the lease that it was given under is over, or until the next news.
#[derive(Clone, Copy, Debug)]
pub struct KnownUntil {
    end: Moment,
    generation: u64,
}

/// What a node knows of keys, and of what tenants authorize.
pub struct KeyCache {
    master: Arc<MasterKey>,
    resolving: Resolving,
    lease: Lease,
    kept: Cache<KeyRef, Arc<Kept<Known>>, Weigher>,
    authorizations: Cache<Arc<Place>, Arc<Kept<KnownAuthorization>>, Weigher>,
    aliases: Cache<[u8; 32], KeyRef>,
    missing: Cache<Asked, Instant>,
    /// The state up to which everything was applied.
    applied: RwLock<Option<Arc<Applied>>>,
    /// How many polls were applied.
    polls: watch::Sender<u64>,
    /// Counts the news. Changed under the lock of the state, and after what the news are of is dropped: what
    /// is found by the new count was found without it.
    generation: AtomicU64,
    state: Mutex<State>,
}

/// A state that was applied.
struct Applied {
    snapshot: Snapshot,
    text: Arc<str>,
}

/// What is kept of a key, or of what a tenant authorizes.
struct Kept<T> {
    known: Arc<T>,
    /// What it hangs on, and the sum of the epochs of that when it was read. Epochs only rise.
    epochs: Box<[Arc<AtomicU64>]>,
    sum: u64,
    /// The state that it was read at, and how many polls were applied by then.
    revision: Option<Arc<str>>,
    polls: u64,
}

impl<T> Kept<T> {
    fn is_current(&self) -> bool {
        sum(&self.epochs) == self.sum
    }
}

fn sum(epochs: &[Arc<AtomicU64>]) -> u64 {
    epochs.iter().map(|epoch| epoch.load(Ordering::Acquire)).sum()
}

#[derive(Clone)]
struct Weigher;

impl Weighter<Arc<Place>, Arc<Kept<KnownAuthorization>>> for Weigher {
    fn weight(&self, _: &Arc<Place>, kept: &Arc<Kept<KnownAuthorization>>) -> u64 {
        AUTHORIZATION_BYTES + kept.known.granted.heap_bytes() as u64
    }
}

impl Weighter<KeyRef, Arc<Kept<Known>>> for Weigher {
    fn weight(&self, _: &KeyRef, kept: &Arc<Kept<Known>>) -> u64 {
        let own = match &kept.known.kind {
            KeyKind::Api(grants) => grants.roles.len() * 8 + grants.backend_ids.len() * 48,
            // What it hangs on is shared, but perhaps with nobody.
            KeyKind::External(external) => external.bytes,
        };
        KEY_BYTES + own as u64
    }
}

/// What keys and authorizations hang on.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Concern {
    Account(String),
    Tenant(Uuid),
    AppKey(String),
}

#[derive(Default)]
struct State {
    /// Whether all news since a moment are heard, so that what is read may be kept.
    follows: bool,
    flights: HashMap<Asked, Flight>,
    /// What is to be read next.
    waiting: Vec<Asked>,
    /// How many statements run.
    running: usize,
    epochs: HashMap<Concern, Arc<AtomicU64>>,
    owners: HashMap<Uuid, Weak<Owner>>,
    apps: HashMap<(String, Arc<str>), Weak<App>>,
    /// Whether there are keys that were made elsewhere, so that texts that are not ours are looked up.
    has_imported: Option<bool>,
}

/// A reading under way.
struct Flight {
    /// The generation that it was sent in; nothing where it was not sent yet.
    sent: Option<u64>,
    done: watch::Sender<Option<Landed>>,
}

type Landed = Result<Answer<Read>, Failed>;

/// What was read.
#[derive(Debug)]
enum Read {
    Key(Arc<Known>),
    Authorization(Arc<KnownAuthorization>),
}

impl Read {
    fn key(&self) -> Option<Arc<Known>> {
        match self {
            Self::Key(known) => Some(known.clone()),
            Self::Authorization(_) => None,
        }
    }

    fn authorization(&self) -> Option<Arc<KnownAuthorization>> {
        match self {
            Self::Authorization(known) => Some(known.clone()),
            Self::Key(_) => None,
        }
    }
}

/// Why a reading failed, for all who waited for it.
#[derive(Clone, Debug)]
enum Failed {
    Away(Arc<str>),
    Fault(Arc<str>),
}

impl From<Failed> for Error {
    fn from(failed: Failed) -> Self {
        match failed {
            Failed::Away(why) => Self::DatabaseAway(why.as_ref().into()),
            Failed::Fault(why) => Self::internal(why.as_ref()),
        }
    }
}

impl KeyCache {
    /// Knows nothing yet, and will know so many bytes.
    ///
    /// # Errors
    ///
    /// When the pool's own settings contradict each other.
    pub fn new(
        database: &Database,
        master: Arc<MasterKey>,
        lease: Duration,
        bytes: u64,
    ) -> Result<Self> {
        let of_authorizations = bytes / AUTHORIZATIONS_PART;
        let of_keys = bytes - of_authorizations;
        let number = |bytes: u64, of_one| usize::try_from(bytes / of_one).unwrap_or(usize::MAX);
        let keys = number(of_keys, KEY_BYTES);
        let authorizations = number(of_authorizations, AUTHORIZATION_BYTES);
        Ok(Self {
            master,
            resolving: database.resolving(STATEMENTS_MAX, RESOLVE_TIMEOUT)?,
            lease: Lease::new(lease),
            kept: Cache::with_weighter(keys, of_keys, Weigher),
            authorizations: Cache::with_weighter(authorizations, of_authorizations, Weigher),
            aliases: Cache::new(ALIASES_MAX),
            missing: Cache::new(MISSING_MAX),
            applied: RwLock::new(None),
            polls: watch::Sender::new(0),
            generation: AtomicU64::new(0),
            state: Mutex::default(),
        })
    }

    /// Until when the node trusts what it knows.
    pub fn lease(&self) -> &Lease {
        &self.lease
    }

    /// How many keys it knows.
    pub fn len(&self) -> usize {
        self.kept.len()
    }

    /// Whether it knows none.
    pub fn is_empty(&self) -> bool {
        self.kept.is_empty()
    }

    /// Finds a key by what its text leads to; not older than a revision, where there is one.
    ///
    /// # Errors
    ///
    /// [`Error::DatabaseAway`] where the node neither knows nor can ask; [`Error::DeadlineExceeded`].
    pub async fn find(
        self: &Arc<Self>,
        key_ref: KeyRef,
        at_least: Option<&Revision>,
        deadline: Instant,
    ) -> Result<Answer> {
        if let Some(answer) = self.known(key_ref, at_least) {
            return Ok(answer);
        }
        let answer = self.read(Asked::Key(By::Ref(key_ref)), at_least, deadline).await?;
        Ok(answer.of(|read| read.key()))
    }

    /// Finds what a tenant lets an application do in an environment, or let it do last; not older than a revision,
    /// where there is one.
    ///
    /// # Errors
    ///
    /// As [`KeyCache::find`].
    pub async fn find_authorization(
        self: &Arc<Self>,
        place: PlaceRef<'_>,
        at_least: Option<&Revision>,
        deadline: Instant,
    ) -> Result<Answer<KnownAuthorization>> {
        let kept = |cache: &Self| cache.authorizations.get(&place);
        if let Some(answer) = self.known_of(kept, at_least) {
            return Ok(answer);
        }
        let asked = Asked::Authorization(Arc::new(place.into()));
        let answer = self.read(asked, at_least, deadline).await?;
        Ok(answer.of(|read| read.authorization()))
    }

    /// As [`KeyCache::find`], by the SHA-256 of a text that was made elsewhere.
    ///
    /// # Errors
    ///
    /// As [`KeyCache::find`].
    pub async fn find_by_hash(
        self: &Arc<Self>,
        sha256: &[u8; 32],
        at_least: Option<&Revision>,
        deadline: Instant,
    ) -> Result<Answer> {
        let nothing = Answer { known: None, revision: self.revision(), known_until: None };
        if self.lease.holds() && at_least.is_none() && self.locked().has_imported == Some(false) {
            return Ok(nothing);
        }
        let versions = self.master.versions().collect::<Vec<_>>();
        for version in versions.into_iter().rev() {
            let Some(digest) = self.master.digest_of_sha256(version, sha256) else { continue };
            let digest = *digest.as_bytes();
            let known = self.aliases.get(&digest).and_then(|of| self.known(of, at_least));
            let answer = match known {
                Some(answer) => answer,
                None => {
                    let asked = Asked::Key(By::Digest(digest));
                    self.read(asked, at_least, deadline).await?.of(|read| read.key())
                }
            };
            if let Some(known) = &answer.known {
                self.aliases.insert(digest, known.key_ref);
                return Ok(answer);
            }
        }
        Ok(nothing)
    }

    /// Whether there are keys that were made elsewhere.
    ///
    /// # Errors
    ///
    /// What the database reports.
    pub async fn has_imported(&self) -> Result<bool> {
        self.resolving.run(async |conn| resolve::has_imported(conn).await).await
    }

    /// The state up to which everything was applied.
    pub fn revision(&self) -> Option<Arc<str>> {
        self.applied().map(|applied| applied.text.clone())
    }

    /// Gives the node a moment to get as far as a caller asks for by itself.
    pub async fn approach(&self, revision: &Revision, deadline: Instant) {
        self.reaches(revision, (Instant::now() + REVISION_WAIT).min(deadline)).await;
    }

    /// Waits until the node has applied a revision, but not for long; answers whether it has.
    pub async fn reaches(&self, revision: &Revision, until: Instant) -> bool {
        let mut polls = self.polls.subscribe();
        loop {
            if self.covers(revision) {
                return true;
            }
            match tokio::time::timeout_at(until, polls.changed()).await {
                Ok(Ok(())) => {}
                _ => return self.covers(revision),
            }
        }
    }

    fn covers(&self, revision: &Revision) -> bool {
        self.applied().is_some_and(|applied| applied.snapshot.covers(revision))
    }

    fn applied(&self) -> Option<Arc<Applied>> {
        self.applied.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn locked(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How much of the lease is left that an answer was given under; nothing once it is over, or there were
    /// news since, after which the key is to be found anew.
    pub fn left(&self, until: KnownUntil) -> Option<Duration> {
        let left = until.end.saturating_since(Moment::now());
        let is_latest = self.generation.load(Ordering::Acquire) == until.generation;
        Some(left).filter(|left| is_latest && !left.is_zero())
    }

    /// For how long what is found now is known to hold. Asked for before anything is looked up.
    fn known_until(&self) -> Option<KnownUntil> {
        let generation = self.generation.load(Ordering::Acquire);
        Some(KnownUntil { end: self.lease.end_of()?, generation })
    }

    /// What is known of a key without asking.
    fn known(&self, key_ref: KeyRef, at_least: Option<&Revision>) -> Option<Answer> {
        self.known_of(|cache| cache.kept.get(&key_ref), at_least)
    }

    /// What is known of what is kept, without asking.
    fn known_of<T>(
        &self,
        kept: impl FnOnce(&Self) -> Option<Arc<Kept<T>>>,
        at_least: Option<&Revision>,
    ) -> Option<Answer<T>> {
        let known_until = Some(self.known_until()?);
        // Before what is kept: what this state has of it was dropped before the state was told of.
        let applied = self.applied()?;
        let polls = *self.polls.borrow();
        let kept = kept(self).filter(|kept| kept.is_current())?;
        if at_least.is_some_and(|revision| !applied.snapshot.covers(revision)) {
            return None;
        }
        // What was read after the last poll began is of a later state than that.
        let is_newer = polls < kept.polls + 2;
        let revision = kept.revision.clone().filter(|_| is_newer).unwrap_or(applied.text.clone());
        Some(Answer { known: Some(kept.known.clone()), revision: Some(revision), known_until })
    }

    fn known_missing(&self, asked: &Asked, at_least: Option<&Revision>) -> Option<Answer<Read>> {
        let known_until = Some(self.known_until()?);
        let until = self.missing.get(asked)?;
        (at_least.is_none() && Instant::now() < until).then(|| Answer {
            known: None,
            revision: self.revision(),
            known_until,
        })
    }

    /// Asks the database, together with whoever else asks.
    async fn read(
        self: &Arc<Self>,
        asked: Asked,
        at_least: Option<&Revision>,
        deadline: Instant,
    ) -> Result<Answer<Read>> {
        if let Some(answer) = self.known_missing(&asked, at_least) {
            return Ok(answer);
        }
        let mut done = self.board(asked, at_least.is_none())?;
        let landed = tokio::time::timeout_at(deadline, done.wait_for(Option::is_some)).await;
        let landed = landed.map_err(|_| Error::DeadlineExceeded)?;
        let landed = landed.map_err(|_| Error::internal("a reading was given up"))?;
        let answer = match landed.clone() {
            Some(landed) => landed?,
            None => return Err(Error::internal("a reading ended without an answer")),
        };
        // A database that was put back to an earlier state has not come as far again.
        if let (Some(wanted), Some(read)) = (at_least, answer.revision.as_deref())
            && !read.parse::<Snapshot>().map_err(Error::internal)?.covers(wanted)
        {
            return Err(Error::RevisionAhead("min_revision".to_owned()));
        }
        Ok(answer)
    }

    /// What is kept by now of what is about to be asked for.
    fn known_by_now(&self, asked: &Asked) -> Option<Answer<Read>> {
        match asked {
            Asked::Key(By::Ref(key_ref)) => {
                let known = self.known(*key_ref, None)?;
                Some(known.of(|key| Some(Arc::new(Read::Key(key)))))
            }
            Asked::Key(By::Digest(_)) => None,
            Asked::Authorization(place) => {
                let known = self.known_of(|it| it.authorizations.get(&place.by_ref()), None)?;
                Some(known.of(|known| Some(Arc::new(Read::Authorization(known)))))
            }
        }
    }

    /// Joins a reading that will see what holds now, or begins one.
    fn board(
        self: &Arc<Self>,
        asked: Asked,
        may_share: bool,
    ) -> Result<watch::Receiver<Option<Landed>>> {
        let mut state = self.locked();
        let generation = self.generation.load(Ordering::Acquire);
        // One that was sent already is as good as what is kept: while the node hears what happens.
        let shares_sent = may_share && state.follows && self.lease.holds();
        if let Some(flight) = state.flights.get(&asked) {
            let joins = match flight.sent {
                None => true,
                Some(sent) => shares_sent && sent == generation,
            };
            if joins {
                return Ok(flight.done.subscribe());
            }
        }
        // A reading may have landed since it was looked for: it is not to be read twice.
        if let Some(answer) = self.known_by_now(&asked).filter(|_| may_share) {
            return Ok(watch::channel(Some(Ok(answer))).1);
        }
        if state.waiting.len() >= WAITING_MAX {
            return Err(Error::Overloaded(
                "too many keys or authorizations wait to be read".into(),
            ));
        }
        let (done, receiver) = watch::channel(None);
        state.flights.insert(asked.clone(), Flight { sent: None, done });
        state.waiting.push(asked);
        if state.running < STATEMENTS_MAX {
            state.running += 1;
            tokio::spawn(self.clone().resolve());
        }
        Ok(receiver)
    }

    /// Resolves what waits, until nothing does.
    async fn resolve(self: Arc<Self>) {
        loop {
            let (batch, generation) = {
                let mut state = self.locked();
                let number = state.waiting.len().min(ASKED_MAX);
                if number == 0 {
                    state.running -= 1;
                    return;
                }
                let asked = state.waiting.drain(..number).collect::<Vec<_>>();
                let generation = self.generation.load(Ordering::Acquire);
                let mut batch = Vec::with_capacity(number);
                for one in asked {
                    // Sent already, where it was asked for twice.
                    let Some(flight) = state.flights.get_mut(&one) else { continue };
                    if flight.sent.is_some() {
                        continue;
                    }
                    if flight.done.receiver_count() == 0 {
                        // Nobody waits for it any more.
                        state.flights.remove(&one);
                        continue;
                    }
                    flight.sent = Some(generation);
                    batch.push((one, flight.done.clone()));
                }
                (batch, generation)
            };
            self.fly(batch, generation).await;
        }
    }

    async fn fly(&self, batch: Vec<(Asked, watch::Sender<Option<Landed>>)>, generation: u64) {
        let (mut keys, mut places) = (Vec::new(), Vec::new());
        for (asked, _) in &batch {
            match asked {
                Asked::Key(by) => keys.push(*by),
                Asked::Authorization(place) => places.push(place.clone()),
            }
        }
        let rows = self.resolving.run(async |conn| load(conn, &keys, &places).await).await;
        let found = rows.map(|(of_keys, of_places)| {
            let keys = of_keys.map(|rows| rows.decode(&self.master, &keys));
            (keys, of_places.map(authorizations::resolve::Rows::decode))
        });
        let mut state = self.locked();
        for (one, done) in &batch {
            // Unless somebody began another reading of it meanwhile.
            if state.flights.get(one).is_some_and(|flight| flight.done.same_channel(done)) {
                state.flights.remove(one);
            }
        }
        match found {
            Ok((mut keys, mut authorizations)) => {
                let keeps = state.follows && self.generation.load(Ordering::Acquire) == generation;
                let known_until = self.known_until().filter(|_| keeps);
                for (one, done) in batch {
                    let (read, revision) = match &one {
                        Asked::Key(by) => {
                            let found = keys.as_mut().and_then(|found| found.keys.remove(by));
                            let read = found.map(|key| key.map(|key| Read::Key(state.share(key))));
                            (read, keys.as_ref().and_then(|found| found.snapshot.clone()))
                        }
                        Asked::Authorization(place) => {
                            let found = authorizations.as_mut();
                            let found = found.and_then(|found| found.authorizations.remove(place));
                            let read =
                                found.map(|one| one.map(|one| Read::Authorization(Arc::new(one))));
                            (read, authorizations.as_ref().and_then(|it| it.snapshot.clone()))
                        }
                    };
                    let read = match read {
                        Some(Err(why)) => {
                            // One row that cannot be read is no reason to refuse the others.
                            done.send_replace(Some(Err(Failed::Fault(why))));
                            continue;
                        }
                        Some(Ok(read)) => Some(Arc::new(read)),
                        None => None,
                    };
                    if keeps {
                        match &read {
                            Some(read) => self.keep(&mut state, read, revision.clone()),
                            None => self.missing.insert(one, Instant::now() + MISSING_FOR),
                        }
                    }
                    done.send_replace(Some(Ok(Answer { known: read, revision, known_until })));
                }
            }
            Err(error) => {
                let why: Arc<str> = crate::error::causes(&error).into();
                let failed = match error {
                    Error::DatabaseAway(_) | Error::Overloaded(_) | Error::DeadlineExceeded => {
                        Failed::Away(why)
                    }
                    _ => Failed::Fault(why),
                };
                for (_, done) in batch {
                    done.send_replace(Some(Err(failed.clone())));
                }
            }
        }
    }

    fn keep(&self, state: &mut State, read: &Read, revision: Option<Arc<str>>) {
        match read {
            Read::Key(known) => {
                let kept = self.kept_now(state.epochs_of(known), known, revision);
                self.kept.insert(known.key_ref, kept);
            }
            Read::Authorization(known) => {
                let tenant = &known.tenant;
                let epochs = state.epochs(concerns_of(tenant).collect());
                let kept = self.kept_now(epochs, known, revision);
                self.authorizations.insert(known.place.clone(), kept);
            }
        }
    }

    fn kept_now<T>(
        &self,
        epochs: Box<[Arc<AtomicU64>]>,
        known: &Arc<T>,
        revision: Option<Arc<str>>,
    ) -> Arc<Kept<T>> {
        let (sum, polls) = (sum(&epochs), *self.polls.borrow());
        Arc::new(Kept { known: known.clone(), epochs, sum, revision, polls })
    }

    /// Applies what happened.
    pub fn apply(&self, news: &[News]) {
        let mut news = news.iter().filter(|news| News::is_of_verdicts(&news.kind)).peekable();
        if news.peek().is_none() {
            return;
        }
        let mut state = self.locked();
        for News { kind, account_id, tenant_uid, resource_id } in news {
            let (resource, what) = kind.split_once('.').unwrap_or((kind, ""));
            match (resource, tenant_uid, account_id) {
                ("api_key" | "external_key", ..) => {
                    if let Ok(id) = resource_id.parse() {
                        self.kept.remove(&KeyRef::from_public_id(id, &self.master));
                    }
                    if what == "imported" {
                        state.has_imported = Some(true);
                        self.missing.clear();
                    }
                }
                ("app_key" | "key_config", ..) => {
                    state.raise(&Concern::AppKey(resource_id.clone()));
                }
                ("authorization", Some(uid), _) => {
                    state.raise(&Concern::Tenant(*uid));
                    // What is granted was missing until now.
                    self.missing.clear();
                }
                (_, Some(uid), _) => state.raise(&Concern::Tenant(*uid)),
                // Told to the account of the application too, of which it changes nothing.
                ("authorization", None, _) | (_, None, None) => {}
                (_, None, Some(account)) => state.raise(&Concern::Account(account.clone())),
            }
        }
        self.generation.fetch_add(1, Ordering::AcqRel);
    }

    /// Forgets a key, of which something newer is known.
    pub fn drop_key(&self, key_ref: KeyRef) {
        let _state = self.locked();
        self.kept.remove(&key_ref);
        self.generation.fetch_add(1, Ordering::AcqRel);
    }

    /// Forgets everything: something happened that was not heard of.
    pub fn forget(&self) {
        let _state = self.locked();
        self.kept.clear();
        self.authorizations.clear();
        self.missing.clear();
        self.generation.fetch_add(1, Ordering::AcqRel);
    }

    /// Hears of everything from a moment on, and keeps what is read from now on.
    ///
    /// `has_imported` tells whether there were keys that were made elsewhere.
    pub fn follow(&self, has_imported: bool) {
        self.forget();
        let mut state = self.locked();
        state.follows = true;
        state.has_imported = Some(has_imported);
    }

    /// Does not hear of what happens any more: trusts nothing and keeps nothing.
    pub fn lose(&self) {
        self.lease.end();
        self.forget();
        let mut state = self.locked();
        state.follows = false;
        state.has_imported = None;
        *self.applied.write().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// A poll that began then was completed, and everything up to a snapshot applied.
    ///
    /// # Errors
    ///
    /// [`Error::Internal`] for a snapshot that Postgres would not write.
    pub fn polled(&self, began: Moment, snapshot: &str) -> Result<()> {
        let applied =
            Applied { snapshot: snapshot.parse().map_err(Error::internal)?, text: snapshot.into() };
        *self.applied.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(applied));
        self.polls.send_modify(|polls| *polls += 1);
        self.lease.renew(began);
        Ok(())
    }
}

impl State {
    /// Lets keys share what is the same for them.
    fn share(&mut self, mut known: Known) -> Arc<Known> {
        if let Some(tenant) = &known.owner.tenant {
            known.owner = shared(&mut self.owners, tenant.uid, known.owner.clone());
        }
        if let (KeyKind::External(external), Some(environment)) =
            (&mut known.kind, &known.environment)
        {
            let place = (external.app.app_key_id.clone(), environment.clone());
            external.app = shared(&mut self.apps, place, external.app.clone());
        }
        Arc::new(known)
    }

    fn epochs_of(&mut self, known: &Known) -> Box<[Arc<AtomicU64>]> {
        let mut concerns = Vec::new();
        match (&known.owner.tenant, &known.owner.account_id) {
            (Some(tenant), _) => concerns.extend(concerns_of(tenant)),
            (None, Some(account)) => concerns.push(Concern::Account(account.clone())),
            (None, None) => {}
        }
        if let KeyKind::External(external) = &known.kind {
            concerns.push(Concern::AppKey(external.app.app_key_id.clone()));
        }
        self.epochs(concerns)
    }

    fn epochs(&mut self, concerns: Vec<Concern>) -> Box<[Arc<AtomicU64>]> {
        if self.epochs.len() >= EPOCHS_SWEEP && self.epochs.len() == self.epochs.capacity() {
            // Before it grows: what no key hangs on any more.
            self.epochs.retain(|_, epoch| Arc::strong_count(epoch) > 1);
        }
        concerns
            .into_iter()
            .map(|concern| self.epochs.entry(concern).or_default().clone())
            .collect()
    }

    /// Drops all that hangs on something. Nothing is to be done where nothing does.
    fn raise(&mut self, concern: &Concern) {
        if let Some(epoch) = self.epochs.get(concern) {
            epoch.fetch_add(1, Ordering::AcqRel);
        }
    }
}

/// What happens to a tenant, and to those above it, concerns all that is known of it.
fn concerns_of(tenant: &KnownTenant) -> impl Iterator<Item = Concern> {
    let above = tenant.ancestors.iter().copied();
    std::iter::once(tenant.uid).chain(above).map(Concern::Tenant)
}

/// Reads keys and authorizations on one connection: by one statement, or one for each kind where both are missing.
async fn load(
    conn: &mut AsyncPgConnection,
    keys: &[By],
    places: &[Arc<Place>],
) -> QueryResult<(Option<resolve::Rows>, Option<authorizations::resolve::Rows>)> {
    let keys = match keys {
        [] => None,
        keys => Some(resolve::load(conn, keys).await?),
    };
    let places = match places {
        [] => None,
        places => Some(authorizations::resolve::load(conn, places).await?),
    };
    Ok((keys, places))
}

/// The same as is there already, or this from now on.
fn shared<K: Eq + Hash, T: PartialEq>(
    there: &mut HashMap<K, Weak<T>>,
    place: K,
    new: Arc<T>,
) -> Arc<T> {
    if let Some(same) = there.get(&place).and_then(Weak::upgrade).filter(|same| *same == new) {
        return same;
    }
    if there.len() >= EPOCHS_SWEEP && there.len() == there.capacity() {
        there.retain(|_, weak| weak.strong_count() > 0);
    }
    there.insert(place, Arc::downgrade(&new));
    new
}
