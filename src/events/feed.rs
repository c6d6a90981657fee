//! What is new, read once for the whole node and told to everybody who follows it.
//!
//! One poller asks the database every few dozen milliseconds what was committed since it last asked. It
//! needs no notification, and no number that it could miss: it remembers a snapshot, and what that did
//! not see and the next one does is new. There are two kinds of news:
//!
//! - *Fresh* is what was committed, at once, whatever else is still open: for those who must stop
//!   trusting what they know.
//! - *Settled* is what nothing can come before any more, in its order: for those who follow the feed.
//!   The newest of it is kept here, so that a thousand watchers who have caught up cost the database no
//!   more than one. Who is further behind reads the database, and comes back here.

use std::{
    collections::{HashMap, VecDeque},
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use chrono::TimeDelta;
use tokio::{
    sync::{Notify, Semaphore, watch},
    time::{Instant, timeout_at},
};
use uuid::Uuid;

use super::{
    answer::SharedEvent,
    cursor::{Cursor, Place},
    store::{self, Concerned, Fresh, Moment, Wanted, lowest_id},
};
use crate::{
    db::{Database, Role, Scope},
    error::{Error, Result, causes},
    keys::{cache::News as KeyNews, model::KeyScope},
    nodes::{self, HEARTBEAT_EVERY, Moment as Boot},
    pb,
    rpc::Caller,
    server::Shared,
};

/// How long one poll may take. One that takes longer is given up, with its connection: nobody knows whether
/// the other side is still there.
const POLL_TIMEOUT: Duration = Duration::from_secs(5);

/// How many connections the feed has for itself: a pool that calls have exhausted does not stop it.
const CONNECTIONS: usize = 1;

/// How many events one poll reads of each kind. More settled ones are read by the next poll, at once;
/// more fresh ones are told as "anything".
const POLL_ROWS: i64 = 1000;
const FRESH_ROWS: i64 = 10_000;

/// How old an event may be when its transaction ends: no call, and no step of a worker, goes on for as
/// long.
pub(super) const OPEN_AT_MOST: TimeDelta = TimeDelta::days(1);

/// How much of what was settled last is kept, in events and in bytes.
const KEPT_EVENTS: usize = 4096;
const KEPT_BYTES: usize = 16 << 20;

/// How many watch at a time on a node, and of those for one owner of keys.
const WATCHERS_MAX: usize = 4096;
const WATCHERS_OF_ONE_MAX: usize = 1000;

/// How many watchers at a time read the database to catch up.
const CATCH_UP_MAX: usize = 4;

/// The feed of a node.
pub struct Feed {
    news: Mutex<News>,
    /// How many polls there were that told something settled; watchers wait for the next one.
    settled: watch::Sender<u64>,
    watchers: Mutex<HashMap<u64, Arc<Guard>>>,
    numbers: AtomicU64,
    polls: watch::Sender<u64>,
    /// How often the database was put back to an earlier state.
    returns: AtomicU64,
    closing: watch::Sender<bool>,
    /// What this node is called, while it may trust what it knows.
    node: Mutex<Option<Uuid>>,
    /// Lets few watchers at a time read the database.
    pub(super) catching_up: Semaphore,
}

/// What is kept of the news.
#[derive(Default)]
struct News {
    /// Behind this, everything settled up to `told` is kept.
    from: Option<Place>,
    /// Up to here everything was told.
    told: Option<Cursor>,
    /// When the last poll began that was completed.
    polled: Option<Instant>,
    events: VecDeque<Arc<Told>>,
    bytes: usize,
}

/// A settled event, ready to be told.
pub(super) struct Told {
    pub place: Place,
    pub event: SharedEvent,
    /// The event for those who may not see what was changed.
    pub bare: OnceLock<SharedEvent>,
    pub concerned: Concerned,
}

/// What was asked for of the news behind a place.
pub(super) struct Batch {
    /// What there is of it, in order.
    pub events: Vec<Arc<Told>>,
    /// Up to where that goes.
    pub cursor: Cursor,
}

/// What the feed needs to know of a watcher, to tell it that it may have lost its rights.
pub(super) struct Guard {
    owner: Owner,
    key_id: String,
    account: Option<String>,
    tenant: Option<Uuid>,
    doubtful: AtomicBool,
    moved: AtomicBool,
    wake: Notify,
}

/// Who has a key.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Owner {
    System,
    Account(String),
    Tenant(Uuid),
}

impl Guard {
    fn of(caller: &Caller) -> Self {
        let owner = match (caller.scope, &caller.account, &caller.tenant) {
            (KeyScope::Tenant, _, Some(tenant)) => Owner::Tenant(tenant.uid),
            (_, Some(account), _) => Owner::Account(account.clone()),
            _ => Owner::System,
        };
        Self {
            owner,
            key_id: caller.key_id.to_string(),
            account: caller.account.clone(),
            tenant: caller.tenant.as_ref().map(|tenant| tenant.uid),
            doubtful: AtomicBool::new(false),
            moved: AtomicBool::new(false),
            wake: Notify::new(),
        }
    }

    /// Whether what its key may do has to be looked up again; asked once for each time.
    pub(super) fn take_doubt(&self) -> bool {
        self.doubtful.swap(false, Ordering::AcqRel)
    }

    /// Whether its tenant was moved in the tree.
    pub(super) fn is_moved(&self) -> bool {
        self.moved.load(Ordering::Acquire)
    }

    /// Waits for a doubt.
    pub(super) async fn doubted(&self) {
        self.wake.notified().await;
    }

    fn doubt(&self) {
        self.doubtful.store(true, Ordering::Release);
        self.wake.notify_one();
    }

    fn hear(&self, news: &Fresh) {
        let resource = news.kind.split('.').next().unwrap_or_default();
        let of_account = || self.account.is_some() && self.account == news.account_id;
        let concerns = match resource {
            "api_key" => news.resource_id == self.key_id,
            // Its own tenant or one above it, which is of the same account.
            "tenant" => self.tenant.is_some() && of_account() && changes_standing(&news.kind),
            "ip_allowlist" | "account" => of_account(),
            _ => false,
        };
        if concerns && news.kind == "tenant.moved" && news.tenant_uid == self.tenant {
            self.moved.store(true, Ordering::Release);
        }
        if concerns {
            self.doubt();
        }
    }
}

/// Whether a type of events tells that the keys of a tenant, or of those below it, may work or not.
fn changes_standing(kind: &str) -> bool {
    !matches!(kind, "tenant.created" | "tenant.placed" | "tenant.promoted" | "tenant.expiring")
}

/// A watcher's place among the watchers; given up when it is dropped.
pub(super) struct Seat {
    feed: Arc<Feed>,
    number: u64,
    /// What the feed knows of it.
    pub guard: Arc<Guard>,
}

impl Drop for Seat {
    fn drop(&mut self) {
        locked(&self.feed.watchers).remove(&self.number);
    }
}

impl Default for Feed {
    fn default() -> Self {
        Self {
            news: Mutex::default(),
            settled: watch::Sender::new(0),
            watchers: Mutex::default(),
            numbers: AtomicU64::new(0),
            polls: watch::Sender::new(0),
            returns: AtomicU64::new(0),
            closing: watch::Sender::new(false),
            node: Mutex::default(),
            catching_up: Semaphore::new(CATCH_UP_MAX),
        }
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Feed {
    /// How many polls were completed.
    pub fn polls(&self) -> u64 {
        *self.polls.borrow()
    }

    /// Waits until so many polls were completed, or the deadline.
    pub async fn polled(&self, number: u64, deadline: Instant) {
        // Whoever waits looks for itself whether there were.
        let _ =
            timeout_at(deadline, self.polls.subscribe().wait_for(|polls| *polls >= number)).await;
    }

    /// How often the database was put back to an earlier state, in which nothing holds that was told.
    pub(super) fn returns(&self) -> u64 {
        self.returns.load(Ordering::Acquire)
    }

    /// Whether nobody watches.
    pub fn is_deserted(&self) -> bool {
        locked(&self.watchers).is_empty()
    }

    /// Ends all streams, since the service stops.
    pub fn close(&self) {
        self.closing.send_replace(true);
    }

    /// Waits until the service stops.
    pub(crate) async fn closed(&self) {
        // The sender lives as long as this.
        let _ = self.closing.subscribe().wait_for(|closing| *closing).await;
    }

    /// Tells of everything settled from now on.
    pub(super) fn follow(&self) -> watch::Receiver<u64> {
        self.settled.subscribe()
    }

    /// Up to where everything settled was told, and how long ago that was found out.
    pub(super) fn told(&self) -> Option<(Cursor, Duration)> {
        let news = locked(&self.news);
        Some((news.told?, news.polled?.elapsed()))
    }

    /// Gives a watcher a place.
    ///
    /// # Errors
    ///
    /// Whether there are too many already.
    pub(super) fn seat(self: &Arc<Self>, caller: &Caller) -> Result<Seat, ()> {
        let guard = Arc::new(Guard::of(caller));
        let mut watchers = locked(&self.watchers);
        let own = watchers.values().filter(|other| other.owner == guard.owner).count();
        if watchers.len() >= WATCHERS_MAX || own >= WATCHERS_OF_ONE_MAX {
            return Err(());
        }
        let number = self.numbers.fetch_add(1, Ordering::Relaxed);
        watchers.insert(number, guard.clone());
        Ok(Seat { feed: self.clone(), number, guard })
    }

    /// What is kept behind a place; nothing where that is too far back.
    pub(super) fn behind(&self, after: Place, limit: usize) -> Option<Batch> {
        let news = locked(&self.news);
        let told = news.told?;
        if after < news.from? {
            return None;
        }
        let start = news.events.partition_point(|told| told.place <= after);
        let events = news.events.range(start..).take(limit).cloned().collect::<Vec<_>>();
        let is_all = start + events.len() == news.events.len();
        let cursor = match events.last() {
            Some(last) if !is_all => Cursor::of(last.place),
            // Whoever was further than this node stays there.
            _ if told.place < after => Cursor { place: after, ..told },
            _ => told,
        };
        Some(Batch { events, cursor })
    }

    fn tell_fresh(&self, fresh: &[Fresh], is_all: bool) {
        if fresh.is_empty() {
            return;
        }
        for guard in locked(&self.watchers).values() {
            if !is_all {
                guard.doubt();
            }
            for news in fresh {
                guard.hear(news);
            }
        }
    }

    /// Keeps what was settled, up to a cursor.
    fn tell_settled(&self, rows: Vec<store::Row>, cursor: Cursor, began: Instant) {
        let some = !rows.is_empty();
        let expunged = rows.iter().filter_map(store::Row::expunged).collect::<Vec<_>>();
        let told = rows.into_iter().map(|row| {
            let (place, concerned) = (row.place(), row.concerned());
            let event = row.told(Cursor::of(place)).into();
            Arc::new(Told { place, event, bare: OnceLock::new(), concerned })
        });
        let told = told.collect::<Vec<_>>();
        {
            let mut news = locked(&self.news);
            if news.from.is_none() {
                news.from = news.told.map(|told| told.place).or(Some(cursor.place));
            }
            for event in told {
                news.bytes += event.event.size();
                news.events.push_back(event);
            }
            while news.events.len() > KEPT_EVENTS || news.bytes > KEPT_BYTES {
                let Some(oldest) = news.events.pop_front() else { break };
                news.bytes -= oldest.event.size();
                news.from = Some(oldest.place);
            }
            // What was taken from the events is not told from here either.
            for uid in expunged {
                let News { events, bytes, .. } = &mut *news;
                for event in events.iter_mut() {
                    if event.concerned.tenant_uid == Some(uid) {
                        *bytes -= event.event.size();
                        *event = Arc::new(event.scrubbed());
                        *bytes += event.event.size();
                    }
                }
            }
            news.told = Some(cursor);
            news.polled = Some(began);
        }
        if some {
            self.settled.send_modify(|count| *count += 1);
        }
    }

    /// Keeps nothing, since nobody watches.
    fn tell_nobody(&self, cursor: Cursor, began: Instant) {
        let mut news = locked(&self.news);
        *news = News {
            from: Some(cursor.place),
            told: Some(cursor),
            polled: Some(began),
            ..News::default()
        };
    }
}

impl Told {
    /// The event without what was changed.
    pub(super) fn bare(&self) -> &SharedEvent {
        self.bare.get_or_init(|| bare((*self.event).clone()).into())
    }

    fn scrubbed(&self) -> Self {
        let event = self.bare().clone();
        let concerned = self.concerned.clone();
        Self { place: self.place, event, bare: OnceLock::new(), concerned }
    }
}

/// An event without what was changed.
pub(super) fn bare(event: pb::Event) -> pb::Event {
    pb::Event { before: None, after: None, payload_omitted: false, ..event }
}

/// Polls until it is dropped.
///
/// # Errors
///
/// When the pool's own settings contradict each other.
pub async fn run(shared: Arc<Shared>) -> Result<()> {
    let interval = shared.settings.feed.poll_interval;
    let database = shared.database.apart(CONNECTIONS)?;
    let patience = POLL_TIMEOUT.min(shared.keys.lease().length());
    let mut poller =
        Poller { shared, database, since: None, highest: 0, announced: None, said: String::new() };
    let mut failed = false;
    loop {
        let outcome = tokio::time::timeout(patience, poller.poll()).await.unwrap_or_else(|_| {
            Err(Error::DatabaseAway(format!("no answer within {patience:?}").into()))
        });
        let pause = match outcome {
            Ok(is_all) => {
                if std::mem::take(&mut failed) {
                    tracing::info!("the feed goes on");
                }
                if is_all { jittered(interval) } else { Duration::ZERO }
            }
            Err(error) => {
                if !std::mem::replace(&mut failed, true) {
                    tracing::warn!(error = causes(&error), "the feed stands still");
                }
                jittered(interval.max(Duration::from_millis(250)))
            }
        };
        tokio::time::sleep(pause).await;
    }
}

/// Trusts nothing any more, and says so, that nobody waits for this node. For the end of the service, after
/// its last poll.
///
/// # Errors
///
/// What the database reports; then the node is waited for until its lease would have run out.
pub async fn leave(shared: &Shared) -> Result<()> {
    shared.keys.lose();
    let Some(node) = locked(&shared.feed.node).take() else {
        return Ok(());
    };
    let mut transaction =
        shared.database.begin_as(Role::Feed, Instant::now() + POLL_TIMEOUT).await?;
    nodes::leave(transaction.conn(), node).await?;
    transaction.commit().await
}

/// Between half and one and a half of an interval, so that nodes do not poll in step.
fn jittered(interval: Duration) -> Duration {
    interval.mul_f64(0.5 + f64::from(rand::random::<u16>()) / f64::from(u16::MAX))
}

struct Poller {
    shared: Arc<Shared>,
    database: Database,
    /// The last moment that was looked at.
    since: Option<Moment>,
    /// The highest position that was heard of.
    highest: i64,
    /// When the node began to say last that it is there, and what it said that it had applied.
    announced: Option<Boot>,
    said: String,
}

/// What a node says that has applied nothing yet.
const UNSAID: &str = "1:1:";

/// How far clocks of nodes may lie apart, by which the ids of events are made, for news to be heard. Further
/// back they are not looked for.
const SKEW_AT_MOST: TimeDelta = TimeDelta::days(30);

impl Poller {
    /// Looks what is new; answers whether that was all.
    async fn poll(&mut self) -> Result<bool> {
        let shared = self.shared.clone();
        let Shared { feed, keys, clock, .. } = &*shared;
        // Whoever waits for this node must know of it before the poll begins that lets it trust anything.
        // What happened while it was not known is too much to be told apart: it begins anew.
        if !keys.lease().is_announced() {
            self.lose();
            self.announce(UNSAID).await?;
        }
        let (began, boot) = (Instant::now(), Boot::now());
        let oldest = lowest_id(clock.now() - OPEN_AT_MOST);
        let oldest_fresh = lowest_id(clock.now() - SKEW_AT_MOST);
        let is_watched = !feed.is_deserted();
        let told = feed.told().map(|(cursor, _)| cursor.place);

        let mut transaction = self.database.begin_as(Role::Feed, began + POLL_TIMEOUT).await?;
        let conn = transaction.conn();
        let moment = store::moment(conn).await?;
        // The database was put back to an earlier state: nothing that is known of it holds.
        let is_back = self.since.as_ref().is_some_and(|since| moment.next < since.next);
        let fresh = match &self.since {
            Some(since) if !is_back => store::fresh(conn, since, oldest_fresh, FRESH_ROWS).await?,
            _ => Vec::new(),
        };
        let settled = match told {
            Some(after) if is_watched && !is_back => {
                let places = (after, Place::before(moment.settled_below));
                let all = Wanted::default();
                store::settled(conn, &Scope::System, &all, places, oldest, POLL_ROWS).await?
            }
            _ => Vec::new(),
        };
        let is_full = |rows: usize, limit: i64| i64::try_from(rows).is_ok_and(|rows| rows >= limit);
        // Of what was there before nothing is known yet, nor of what there was too much of.
        let is_first = self.since.is_none() || is_back;
        let is_cut = is_full(fresh.len(), FRESH_ROWS);
        if is_first || is_cut {
            self.highest = moment.next;
        }
        self.highest = fresh.iter().map(|news| news.position).fold(self.highest, i64::max);
        // Where nobody writes any more, the last event would wait for the next one to be told.
        if self.highest >= moment.next {
            store::give_away_number(conn).await?;
        }
        transaction.commit().await?;

        // What is known of keys comes first: whoever is told of a change may look them up at once.
        if is_first || is_cut {
            let has_imported = keys.has_imported().await?;
            keys.follow(has_imported);
        } else {
            keys.apply(&fresh.iter().map(KeyNews::from).collect::<Vec<_>>());
        }
        keys.polled(boot, &moment.snapshot)?;
        // Before what is settled: whoever has lost its right to see that knows it by then.
        feed.tell_fresh(&fresh, !is_cut);
        let is_all = !is_full(settled.len(), POLL_ROWS);
        let cursor = match settled.last() {
            Some(last) if !is_all => Cursor::of(last.place()),
            _ => moment.cursor(clock.now()),
        };
        if is_back {
            tracing::warn!("the database was put back to an earlier state");
            feed.returns.fetch_add(1, Ordering::AcqRel);
        }
        if is_watched && !is_back {
            feed.tell_settled(settled, cursor, began);
        } else {
            feed.tell_nobody(cursor, began);
        }
        let snapshot = moment.snapshot.clone();
        self.since = Some(moment);
        feed.polls.send_modify(|count| *count += 1);
        // Often enough that a lease, however short, does not run out between two of them.
        let heartbeat = HEARTBEAT_EVERY.min(keys.lease().length() / 4);
        let is_awaited =
            is_first || is_cut || fresh.iter().any(|news| KeyNews::is_of_verdicts(&news.kind));
        if is_awaited || self.announced.is_none_or(|last| last.elapsed() >= heartbeat) {
            self.announce(&snapshot).await?;
        }
        Ok(is_all)
    }

    /// Says that the node is there, and how far it is.
    async fn announce(&mut self, applied: &str) -> Result<()> {
        let feed = self.shared.feed.clone();
        let began = Boot::now();
        let deadline = Instant::now() + POLL_TIMEOUT;
        let mut transaction = self.database.begin_as(Role::Feed, deadline).await?;
        let known = *locked(&feed.node);
        let is_there = match known {
            Some(node) => nodes::renew(transaction.conn(), node, (&self.said, applied)).await?,
            None => false,
        };
        if is_there {
            applied.clone_into(&mut self.said);
        } else {
            // Nobody waits for what is not in the table: from here on what is known counts for nothing.
            self.lose();
            if let Some(node) = known {
                nodes::leave(transaction.conn(), node).await?;
            }
            let node = self.shared.clock.uuid();
            nodes::register(transaction.conn(), node, self.shared.keys.lease().length()).await?;
            *locked(&self.shared.feed.node) = Some(node);
            UNSAID.clone_into(&mut self.said);
        }
        transaction.commit().await?;
        self.shared.keys.lease().announce(began);
        self.announced = Some(began);
        Ok(())
    }

    /// Knows nothing any more: what happens from now until the next poll is not told apart.
    fn lose(&mut self) {
        self.shared.keys.lose();
        self.since = None;
        // It gets another row in the table than the one of what it knew.
        self.said.clear();
    }
}

impl From<&Fresh> for KeyNews {
    fn from(fresh: &Fresh) -> Self {
        Self {
            kind: fresh.kind.clone(),
            account_id: fresh.account_id.clone(),
            tenant_uid: fresh.tenant_uid,
            resource_id: fresh.resource_id.clone(),
        }
    }
}

/// The node cannot follow the feed.
pub(super) fn away() -> Error {
    Error::DatabaseAway("the feed stands still: start again with the cursor".into())
}
