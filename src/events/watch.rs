//! Tells one caller what happens, from its cursor on.

use std::{panic::AssertUnwindSafe, sync::Arc, time::Duration};

use chrono::{DateTime, Utc};
use futures_util::FutureExt as _;
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, sleep_until, timeout},
};
use tonic::Status;
use uuid::Uuid;

use super::{
    answer::{SharedEvent, WatchEventsResponse},
    cursor::{Cursor, Place},
    feed::{OPEN_AT_MOST, Seat, away, bare},
    kinds::{KINDS, OF_VERDICTS},
    store::{self, Concerned, Wanted, lowest_id},
};
use crate::{
    db::Scope,
    error::{Error, Kind, Result},
    pb::{self, ErrorReason},
    rpc::{Call, observe::dressed},
    server::Shared,
    tenants,
    wire::Fields,
};

/// How often a caller of which nothing is to be told is told how far it is.
const CHECKPOINT_EVERY: Duration = Duration::from_secs(10);

/// How often it is looked up what the caller's key may do, though nothing was heard of it: trials end
/// by themselves.
const LOOK_EVERY: chrono::TimeDelta = chrono::TimeDelta::minutes(1);

/// How long ago the feed may have been read, for the stream to go on.
const FEED_AGE_MAX: Duration = Duration::from_secs(10);

/// How long a stream that begins waits for the feed of a node that begins.
const FEED_WAIT: Duration = Duration::from_secs(5);

/// How long the database may take, for each question.
const READ_TIMEOUT: Duration = Duration::from_secs(10);

/// How large an answer is, about. Who does not read holds two for each of its streams, half a gigabyte
/// for all streams that an owner may have, until each is cut off.
const ANSWER_EVENTS: usize = 500;
const ANSWER_BYTES: usize = 256 << 10;

/// How many answers wait to be read, besides what the connection holds.
const WAITING: usize = 1;

/// How long before the boundary of what is kept a cursor counts as expired: transactions take a while,
/// and clocks differ.
const EXPIRY_MARGIN: chrono::TimeDelta = chrono::TimeDelta::hours(1);

const TYPES_MAX: usize = 100;

/// The answers of a stream.
pub(super) type Answers = mpsc::Receiver<Result<WatchEventsResponse, Status>>;

/// What a caller asked for.
struct Request {
    start: Option<Cursor>,
    wanted: Wanted,
    /// Whether only what may change verdicts is shown, without payloads.
    verdicts_only: bool,
}

impl Request {
    fn read(call: &Call, request: pb::WatchEventsRequest) -> Result<Self> {
        let pb::WatchEventsRequest { start_cursor, types, tenant_id } = request;
        let mut fields = Fields::default();
        let start = match start_cursor.as_str() {
            "" => Ok(None),
            text => Cursor::decode(text)
                .map(Some)
                .ok_or("is no cursor: leave it out to watch from now on"),
        };
        let start = fields.take("start_cursor", start.map_err(str::to_owned));
        if types.len() > TYPES_MAX {
            let why =
                format!("has {} types, of which at most {TYPES_MAX} are allowed", types.len());
            fields.take::<()>("types", Err(why));
        } else if let Some(unknown) = types.iter().find(|kind| !KINDS.contains(&kind.as_str())) {
            let why = format!("\"{}\" is no type of events", unknown.escape_debug());
            fields.take::<()>("types", Err(why));
        }
        if !tenant_id.is_empty() {
            fields.take("tenant_id", crate::wire::id(&tenant_id));
        }
        fields.finish()?;

        let verdicts_only = !call.caller.may("EVENTS:VIEW");
        let hidden = types.iter().any(|kind| !OF_VERDICTS.contains(&kind.as_str()));
        if verdicts_only && hidden {
            return Err(Error::ParameterForbidden { field: "types", permission: "EVENTS:VIEW" });
        }
        let kinds = match (verdicts_only, types.is_empty()) {
            (true, true) => OF_VERDICTS.iter().map(ToString::to_string).collect(),
            _ => types,
        };
        let tenant_id = tenant_of(call, "tenant_id", &tenant_id)?;
        let wanted = Wanted { kinds, tenant_id };
        Ok(Self { start: start.flatten(), wanted, verdicts_only })
    }
}

/// The tenant that a call is about alone: the one that the request names, or the metadata.
fn tenant_of(call: &Call, field: &str, named: &str) -> Result<Option<String>> {
    if named.is_empty() && call.tenant.as_ref().is_none_or(|tenant| !tenant.named) {
        return Ok(None);
    }
    Ok(Some(call.tenant_id(field, named)?.to_owned()))
}

/// Begins a stream.
///
/// # Errors
///
/// What is wrong with the request or its cursor; too many watchers; no feed.
pub(super) async fn start(
    shared: Arc<Shared>,
    call: Arc<Call>,
    request: pb::WatchEventsRequest,
) -> Result<Answers> {
    let Request { start, wanted, verdicts_only } = Request::read(&call, request)?;
    let seat = shared.feed.seat(&call.caller).map_err(|()| too_many(&call))?;
    let news = shared.feed.follow();
    let returns = shared.feed.returns();
    wait_for_feed(&shared).await?;
    let (cursor, above) = begin(&shared, &call, start, &wanted).await?;

    let (out, answers) = mpsc::channel(WAITING + 1);
    // Kept for the last word, however full the channel is by then.
    let last_word = out.clone().try_reserve_owned().map_err(Error::internal)?;
    let looked = shared.clock.now();
    let correlation_id = call.correlation_id.clone();
    let watcher = Watcher {
        shared,
        call,
        seat,
        wanted,
        verdicts_only,
        above,
        cursor,
        out,
        news,
        returns,
        looked,
    };
    tokio::spawn(async move {
        // A stream that breaks off must not look like one that has ended.
        let ended = AssertUnwindSafe(watcher.run()).catch_unwind().await;
        let ended = ended.unwrap_or_else(|_| Err(Error::internal("the stream panicked")));
        if let Err(error) = ended {
            tracing::info!(error = %error, correlation.id = &*correlation_id, "a stream ended");
            last_word.send(Err(dressed(&Status::from(error), &correlation_id)));
        }
    });
    Ok(answers)
}

/// Waits until the node follows the feed.
async fn wait_for_feed(shared: &Shared) -> Result<()> {
    let deadline = Instant::now() + FEED_WAIT;
    loop {
        match shared.feed.told() {
            Some((_, age)) if age < FEED_AGE_MAX => return Ok(()),
            _ if Instant::now() >= deadline => return Err(away()),
            _ => shared.feed.polled(shared.feed.polls() + 1, deadline).await,
        }
    }
}

fn too_many(call: &Call) -> Error {
    Error::LimitReached {
        reason: ErrorReason::TooManyWatchers,
        kind: Kind::ApiKey,
        id: call.caller.key_id.to_string(),
        message: "the owner of the key, or this node, has as many streams as it may: end some, or \
                  share one"
            .to_owned(),
    }
}

/// Where a stream begins: at a cursor, if what came after it is there, or now; and the tenants above its own,
/// where what happens to those matters.
async fn begin(
    shared: &Shared,
    call: &Call,
    cursor: Option<Cursor>,
    wanted: &Wanted,
) -> Result<(Cursor, Vec<Uuid>)> {
    let deadline = Instant::now() + READ_TIMEOUT;
    let look = async |conn: &mut _| {
        let kept_from = store::kept_from(conn).await?;
        let moment = store::moment(conn).await?;
        // Behind the moment: a move that is not seen here is heard of later.
        let mut above = Vec::new();
        if call.caller.may("KEYS:VERIFY") {
            let own = call.caller.tenant.as_ref().map(|tenant| tenant.uid);
            let named = wanted.tenant_id.as_deref();
            above = tenants::store::above(conn, &call.scope, own, named).await?;
        }
        Ok((kept_from, moment, above))
    };
    let (kept_from, moment, above) = shared.database.read(&Scope::System, deadline, look).await?;
    let Some(cursor) = cursor else {
        return Ok((moment.cursor(shared.clock.now()), above));
    };
    if kept_from.is_some_and(|from| cursor.time() < from + EXPIRY_MARGIN) {
        return Err(Error::CursorExpired("it is from before what is kept of the events"));
    }
    refuse_from_above(shared, &above, cursor, deadline).await?;
    if cursor.place.position > moment.next {
        return Err(Error::CursorExpired(
            "it is of another database, or of a later state of this one",
        ));
    }
    Ok((cursor, above))
}

/// What happens to a tenant that changes how the keys of those below it are verified.
const STANDING: &[&str] = &["tenant.locked", "tenant.moved", "tenant.unlocked"];

/// Looks in the database whether something has happened to tenants above, behind a cursor.
async fn refuse_from_above(
    shared: &Shared,
    above: &[Uuid],
    cursor: Cursor,
    deadline: Instant,
) -> Result<()> {
    if above.is_empty() {
        return Ok(());
    }
    let oldest = lowest_id(cursor.time() - OPEN_AT_MOST);
    let look = async |conn: &mut _| {
        store::has_happened(conn, above, STANDING, (cursor.place, oldest)).await
    };
    if shared.database.read(&Scope::System, deadline, look).await? {
        return Err(from_above());
    }
    Ok(())
}

/// A tenant is told of nothing above it. What it keeps of verifications hangs on that all the same, and all of it:
/// it is to begin anew.
fn from_above() -> Error {
    Error::CursorExpired(
        "a tenant above the one that is watched was locked, unlocked or moved, or that one was moved",
    )
}

struct Watcher {
    shared: Arc<Shared>,
    call: Arc<Call>,
    seat: Seat,
    wanted: Wanted,
    verdicts_only: bool,
    /// The tenants above that of the key, for whoever may keep verdicts.
    above: Vec<Uuid>,
    /// Up to where everything was told.
    cursor: Cursor,
    out: mpsc::Sender<Result<WatchEventsResponse, Status>>,
    news: watch::Receiver<u64>,
    returns: u64,
    /// When it was looked up last what the key may do.
    looked: DateTime<Utc>,
}

impl Watcher {
    /// Tells what happens until the caller goes.
    async fn run(mut self) -> Result<()> {
        self.send(Vec::new()).await?;
        let mut checkpoint = Instant::now() + CHECKPOINT_EVERY;
        loop {
            self.news.mark_unchanged();
            let (events, cursor, is_all) = self.next().await?;
            self.check().await?;
            self.cursor = cursor;
            let now = Instant::now();
            if !events.is_empty() || now >= checkpoint {
                self.send(events).await?;
                checkpoint = Instant::now() + CHECKPOINT_EVERY;
            }
            if !is_all {
                continue;
            }
            tokio::select! {
                changed = self.news.changed() => changed.map_err(|_| away())?,
                () = self.seat.guard.doubted() => {}
                () = sleep_until(checkpoint) => {}
                () = sleep_until(self.call.deadline) => return Err(Error::DeadlineExceeded),
                () = self.out.closed() => return Ok(()),
                () = self.shared.feed.closed() => {
                    return Err(Error::DatabaseAway(
                        "the service stops: start again with the cursor, on another node".into(),
                    ));
                }
            }
        }
    }

    /// What comes next of what was asked for, up to where that goes, and whether there is no more.
    async fn next(&self) -> Result<(Vec<SharedEvent>, Cursor, bool)> {
        let after = self.cursor.place;
        let Some(batch) = self.shared.feed.behind(after, ANSWER_EVENTS) else {
            return self.catch_up(after).await;
        };
        let is_all = batch.events.len() < ANSWER_EVENTS;
        let mut events = Vec::new();
        let mut bytes = 0;
        for told in batch.events {
            if self.is_from_above(&told.event, &told.concerned) {
                return Err(from_above());
            }
            if !self.is_wanted(&told.event, &told.concerned) {
                continue;
            }
            let event = if self.verdicts_only { told.bare() } else { &told.event };
            bytes += event.size();
            events.push(event.clone());
            if bytes > ANSWER_BYTES {
                return Ok((events, Cursor::of(told.place), false));
            }
        }
        Ok((events, batch.cursor, is_all))
    }

    /// As [`Self::next`], from the database, of what lies too far back to be kept here.
    async fn catch_up(&self, after: Place) -> Result<(Vec<SharedEvent>, Cursor, bool)> {
        let (told, _) = self.shared.feed.told().ok_or_else(away)?;
        let oldest = lowest_id(self.cursor.time() - OPEN_AT_MOST);
        let limit = i64::try_from(ANSWER_EVENTS).unwrap_or(i64::MAX);
        let _turn = self.shared.feed.catching_up.acquire().await.map_err(Error::internal)?;
        let deadline = Instant::now() + READ_TIMEOUT;
        let scope = &self.call.scope;
        let places = (after, told.place);
        let read = async |conn: &mut _| {
            store::settled(conn, scope, &self.wanted, places, oldest, limit).await
        };
        let rows = self.shared.database.read(scope, deadline, read).await?;
        refuse_from_above(&self.shared, &self.above, self.cursor, deadline).await?;

        let mut is_all = rows.len() < ANSWER_EVENTS;
        let mut cursor = told;
        let mut events = Vec::new();
        let mut bytes = 0;
        for row in rows {
            let at = Cursor::of(row.place());
            let event = row.told(at);
            let event = SharedEvent::from(if self.verdicts_only { bare(event) } else { event });
            bytes += event.size();
            events.push(event);
            if !is_all {
                cursor = at;
            }
            if bytes > ANSWER_BYTES {
                (cursor, is_all) = (at, false);
                break;
            }
        }
        // What was settled meanwhile is read the next time.
        let is_all = is_all && self.shared.feed.behind(cursor.place, 1).is_some();
        Ok((events, cursor, is_all))
    }

    /// Whether something has happened to a tenant above, or which those are is not the same any more.
    fn is_from_above(&self, event: &pb::Event, concerned: &Concerned) -> bool {
        let of_above = concerned.tenant_uid.is_some_and(|uid| self.above.contains(&uid));
        let is_named = self.wanted.tenant_id.as_ref() == Some(&event.tenant_id)
            && concerned.is_within(&self.call.scope)
            && self.call.caller.may("KEYS:VERIFY");
        (of_above && STANDING.contains(&&*event.r#type))
            || (is_named && ["tenant.created", "tenant.moved"].contains(&&*event.r#type))
    }

    fn is_wanted(&self, event: &pb::Event, concerned: &Concerned) -> bool {
        let Wanted { kinds, tenant_id } = &self.wanted;
        concerned.is_within(&self.call.scope)
            && (kinds.is_empty() || kinds.contains(&event.r#type))
            && tenant_id.as_ref().is_none_or(|id| *id == event.tenant_id)
    }

    /// Checks that the caller may still be told.
    async fn check(&mut self) -> Result<()> {
        let (_, age) = self.shared.feed.told().ok_or_else(away)?;
        if age > FEED_AGE_MAX {
            return Err(away());
        }
        if self.shared.feed.returns() != self.returns {
            return Err(Error::CursorExpired("the database was put back to an earlier state"));
        }
        let now = self.shared.clock.now();
        if self.call.caller.expire_time.is_some_and(|end| end <= now) {
            return Err(Error::Unauthenticated);
        }
        if self.seat.guard.take_doubt() || now - self.looked >= LOOK_EVERY {
            self.look().await?;
        }
        Ok(())
    }

    /// Looks up what the key may do by now.
    async fn look(&mut self) -> Result<()> {
        self.looked = self.shared.clock.now();
        let deadline = Instant::now() + READ_TIMEOUT;
        let _turn = self.shared.feed.catching_up.acquire().await.map_err(Error::internal)?;
        let again = self.shared.identifier().admit_still(&self.call, deadline).await?;
        // Roles do not change but by what ends a key; where they did, its sight is another.
        if again.caller.may("EVENTS:VIEW") == self.verdicts_only {
            return Err(Error::Unauthenticated);
        }
        if self.seat.guard.is_moved() {
            let tenant = again.caller.tenant.as_ref();
            return Err(Error::TenantMoved(
                tenant.map(|tenant| tenant.tenant_id.clone()).unwrap_or_default(),
            ));
        }
        Ok(())
    }

    async fn send(&self, events: Vec<SharedEvent>) -> Result<()> {
        let answer = WatchEventsResponse {
            checkpoint: events.is_empty(),
            events,
            cursor: self.cursor.encode(),
        };
        let patience = self.shared.settings.events.watcher_timeout;
        match timeout(patience, self.out.send(Ok(answer))).await {
            // Whoever has gone is noticed where nothing is sent too.
            Ok(_) => Ok(()),
            Err(_) => Err(Error::LimitReached {
                reason: ErrorReason::WatcherTooSlow,
                kind: Kind::ApiKey,
                id: self.call.caller.key_id.to_string(),
                message: format!(
                    "nothing was read for {patience:?}: start again with the cursor of the last answer"
                ),
            }),
        }
    }
}
