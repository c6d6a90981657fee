//! How often a key may still be used: its limits, handed out to nodes in small portions.
//!
//! The database counts what was handed out, a node counts what it used of that. So a use asks nobody, all
//! nodes together never give more than the limit, and what a limit costs is some twenty statements for all
//! of its uses. The price is what a node has taken and not used: it is lost at the end of a window of a
//! rate. Of credits it is given back, with the first question after a refill or by [`Meter::give_back`].
//!
//! A node believes in a portion up to an instant of its own clock that lies before the end of the window
//! by the database's, so that no use is counted in a window that has ended. In the opposite direction it
//! believes that a limit is exhausted up to an instant that does not lie before it: whoever comes back
//! after `retry_after` is served.
//!
//! A use of a rate counts only where the credits have one too, since limits are of uses that find the key
//! good.

use std::{
    collections::HashMap,
    hash::{BuildHasher as _, RandomState},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use diesel::{
    QueryableByName,
    result::{DatabaseErrorKind, Error as DieselError, OptionalExtension as _},
    sql_query,
    sql_types::{Array, BigInt, Double, Integer, Nullable, Uuid as SqlUuid},
};
use diesel_async::RunQueryDsl as _;
use tokio::{
    sync::OwnedMutexGuard,
    time::{Instant, timeout_at},
};
use uuid::Uuid;

use super::{
    limits::{Credits, Limits, Rate},
    secret::KeyRef,
};
use crate::{
    db::{Database, Role},
    error::{Error, Result, causes},
};

/// Into how many portions a limit is divided.
const PORTIONS: i64 = 20;
const RATE_PORTION_MAX: i64 = 1_000;
/// Less than of a rate: what a node that crashes has taken is lost for good.
const CREDIT_PORTION_MAX: i64 = 100;

const SHARDS: usize = 64;
/// With all shards some 260,000 keys, which take less than 100 MB.
const KEYS_OF_SHARD_MAX: usize = 4_096;

/// How long a question may take. The question is not its caller's alone, so neither is its time.
const ASK_TIMEOUT: Duration = Duration::from_secs(5);
/// For how long credits that have no refill soon count as exhausted: another node may give some back.
const ASK_AGAIN: Duration = Duration::from_secs(60);
/// After which time a key that is not used any more gives back what it has.
const IDLE: Duration = Duration::from_secs(5 * 60);
const TIDY_EVERY: Duration = Duration::from_secs(60);
const ROWS_MAX: usize = 1_000;
/// Clocks go differently, by up to one in so many: NTP bends them by no more.
const CLOCK_ERROR: u32 = 2_000;

/// A key with the limits that it was read with.
#[derive(Clone, Copy, Debug)]
pub struct MeteredKey<'a> {
    /// The key.
    pub key_ref: KeyRef,
    /// Whose it is, if it is a tenant's.
    pub tenant_uid: Option<Uuid>,
    /// How often it may be used.
    pub limits: &'a Limits,
    /// Which of its limits these are.
    pub limits_version: i64,
}

/// Whether a use was to be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    /// The use is counted.
    Granted,
    /// The window has no more uses; nothing was counted.
    RateLimited {
        /// When the next window begins.
        retry_after: Duration,
    },
    /// The credits are used up; nothing was counted.
    UsageExceeded {
        /// When there is the next refill, if there are any.
        retry_after: Option<Duration>,
    },
    /// The limits are not those of the key any more, or it is gone: read it anew and ask again.
    Unknown,
}

/// The portions of this node.
#[derive(Debug, Default)]
pub struct Meter {
    portions: Arc<Portions>,
}

impl Meter {
    /// Takes one use of a key, of its rate and of its credits.
    ///
    /// Asks the database where no portion is left; whoever comes meanwhile waits for its answer. A caller
    /// that goes away does not take the answer with it.
    ///
    /// # Errors
    ///
    /// What the database reports, [`Error::DatabaseAway`] also for those who waited for an answer that
    /// did not come, or [`Error::DeadlineExceeded`].
    pub async fn take(
        &self,
        database: &Database,
        key: MeteredKey<'_>,
        deadline: Instant,
    ) -> Result<Taken> {
        let MeteredKey { key_ref, tenant_uid, limits, limits_version } = key;
        if *limits == Limits::default() {
            return Ok(Taken::Granted);
        }
        let asking = Asking { key_ref, tenant_uid, limits: *limits, limits_version };
        loop {
            let gate = match self.portions.take(&asking, Instant::now()) {
                Step::Done(taken) => return Ok(taken),
                Step::Ask { gate, .. } => gate,
            };
            let failures = AtomicU64::load(&gate.failures, Ordering::Relaxed);
            let turn = timeout_at(deadline, gate.turn.clone().lock_owned())
                .await
                .map_err(|_| Error::DeadlineExceeded)?;
            // Else a thousand callers would each wait for a database that is away, one after the other.
            if AtomicU64::load(&gate.failures, Ordering::Relaxed) != failures {
                return Err(Error::DatabaseAway("another call asked for it in vain".into()));
            }
            let what = match self.portions.take(&asking, Instant::now()) {
                Step::Done(taken) => return Ok(taken),
                Step::Ask { what, .. } => what,
            };
            if Instant::now() >= deadline {
                return Err(Error::DeadlineExceeded);
            }
            let asked = self.portions.clone().ask(database.clone(), asking, what, gate, turn);
            let known = timeout_at(deadline, tokio::spawn(asked))
                .await
                .map_err(|_| Error::DeadlineExceeded)?
                .map_err(Error::internal)??;
            if !known {
                return Ok(Taken::Unknown);
            }
        }
    }

    /// Drops the portions of a key, whose limits may have changed.
    ///
    /// What is left of its credits is given back with the next [`Meter::tidy`], if they have not.
    pub fn forget(&self, key_ref: KeyRef) {
        let entry = self.portions.shard(key_ref).remove(&key_ref);
        if let Some(mut entry) = entry {
            self.portions.put_aside(key_ref, &mut entry);
        }
    }

    /// Gives back the unused credits of all keys, for the end of the service; answers of how many keys.
    ///
    /// # Errors
    ///
    /// What the database reports; what was not given back waits for the next time.
    pub async fn give_back(&self, database: &Database) -> Result<usize> {
        self.portions.put_aside_where(|_| true);
        self.portions.give_back(database).await
    }

    /// Drops what is not used any more and gives back its unused credits; answers of how many keys.
    ///
    /// # Errors
    ///
    /// As [`Meter::give_back`].
    pub async fn tidy(&self, database: &Database) -> Result<usize> {
        let now = Instant::now();
        self.portions.put_aside_where(|entry| now.duration_since(entry.use_time) >= IDLE);
        self.portions.give_back(database).await
    }
}

/// Tidies once a minute, until it is dropped.
pub async fn run(meter: Arc<Meter>, database: Database) {
    loop {
        tokio::time::sleep(TIDY_EVERY).await;
        if let Err(error) = meter.tidy(&database).await {
            tracing::warn!(error = causes(&error), "unused credits have to wait to be given back");
        }
    }
}

/// What a question is about; owned, since it outlives its caller.
#[derive(Clone, Copy)]
struct Asking {
    key_ref: KeyRef,
    tenant_uid: Option<Uuid>,
    limits: Limits,
    limits_version: i64,
}

/// Lets one at a time ask for portions of a key.
#[derive(Debug, Default)]
struct Gate {
    turn: Arc<tokio::sync::Mutex<()>>,
    /// How many questions had no answer.
    failures: AtomicU64,
}

/// What a node knows of a key.
#[derive(Debug)]
struct Entry {
    limits_version: i64,
    rate: Allowance,
    credits: Allowance,
    /// How many credits there are at most, for what is given back.
    amount: i64,
    use_time: Instant,
    gate: Arc<Gate>,
}

/// What a node knows of a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Allowance {
    /// So many uses of a portion, up to the end of the window or the next refill.
    Left { uses: i64, until: Option<Instant> },
    /// There are none before then.
    Exhausted {
        /// Until when that is believed.
        until: Instant,
        /// When there are some again, by what is known.
        again: Option<Instant>,
    },
}

impl Allowance {
    const NOTHING: Self = Self::Left { uses: 0, until: None };

    fn answer(&self, now: Instant) -> Answer {
        match *self {
            Self::Left { uses: 1.., until } if until.is_none_or(|until| now < until) => Answer::Yes,
            Self::Exhausted { until, again } if now < until => {
                Answer::No(again.map(|again| again.saturating_duration_since(now)))
            }
            Self::Left { .. } | Self::Exhausted { .. } => Answer::Ask,
        }
    }

    fn use_one(&mut self) {
        if let Self::Left { uses, .. } = self {
            *uses -= 1;
        }
    }

    /// Takes out what is left of a portion, however old.
    fn take_rest(&mut self) -> i64 {
        match std::mem::replace(self, Self::NOTHING) {
            Self::Left { uses, .. } => uses,
            exhausted @ Self::Exhausted { .. } => {
                *self = exhausted;
                0
            }
        }
    }
}

enum Answer {
    Yes,
    No(Option<Duration>),
    Ask,
}

#[derive(Clone, Copy)]
enum What {
    Rate(Rate),
    Credits(Credits),
}

enum Step {
    Done(Taken),
    Ask { what: What, gate: Arc<Gate> },
}

impl Entry {
    fn new(limits_version: i64, now: Instant) -> Self {
        Self {
            limits_version,
            rate: Allowance::NOTHING,
            credits: Allowance::NOTHING,
            amount: 0,
            use_time: now,
            gate: Arc::default(),
        }
    }

    fn take(&mut self, limits: &Limits, now: Instant) -> Step {
        self.use_time = now;
        if let Some(rate) = limits.rate {
            match self.rate.answer(now) {
                Answer::Yes => {}
                Answer::No(again) => {
                    let retry_after = again.unwrap_or_default();
                    return Step::Done(Taken::RateLimited { retry_after });
                }
                Answer::Ask => return self.ask(What::Rate(rate)),
            }
        }
        if let Some(credits) = limits.credits {
            match self.credits.answer(now) {
                Answer::Yes => self.credits.use_one(),
                Answer::No(retry_after) => {
                    return Step::Done(Taken::UsageExceeded { retry_after });
                }
                Answer::Ask => return self.ask(What::Credits(credits)),
            }
        }
        if limits.rate.is_some() {
            self.rate.use_one();
        }
        Step::Done(Taken::Granted)
    }

    fn ask(&self, what: What) -> Step {
        Step::Ask { what, gate: self.gate.clone() }
    }
}

/// Credits that nobody used, on their way back.
#[derive(Clone, Copy, Debug)]
struct Unused {
    uses: i64,
    /// How many there are at most.
    amount: i64,
}

#[derive(Debug)]
struct Portions {
    hasher: RandomState,
    shards: [Mutex<HashMap<KeyRef, Entry>>; SHARDS],
    /// By key and version of its limits.
    returning: Mutex<HashMap<(KeyRef, i64), Unused>>,
}

impl Default for Portions {
    fn default() -> Self {
        Self {
            hasher: RandomState::new(),
            shards: std::array::from_fn(|_| Mutex::default()),
            returning: Mutex::default(),
        }
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Portions {
    fn shard(&self, key_ref: KeyRef) -> MutexGuard<'_, HashMap<KeyRef, Entry>> {
        let hash = self.hasher.hash_one(key_ref) % SHARDS as u64;
        locked(&self.shards[usize::try_from(hash).expect("it is below the number of shards")])
    }

    /// Takes a use of what is here, or says what to ask for.
    fn take(&self, asking: &Asking, now: Instant) -> Step {
        self.with_entry(asking, now, |entry| entry.take(&asking.limits, now))
            .unwrap_or(Step::Done(Taken::Unknown))
    }

    /// Acts on what is known of a key, made anew where it is of older limits; nothing where it is of newer
    /// ones.
    fn with_entry<T>(
        &self,
        asking: &Asking,
        now: Instant,
        act: impl FnOnce(&mut Entry) -> T,
    ) -> Option<T> {
        let mut shard = self.shard(asking.key_ref);
        if shard.len() >= KEYS_OF_SHARD_MAX && !shard.contains_key(&asking.key_ref) {
            self.make_room(&mut shard);
        }
        let entry =
            shard.entry(asking.key_ref).or_insert_with(|| Entry::new(asking.limits_version, now));
        if entry.limits_version > asking.limits_version {
            return None;
        }
        if entry.limits_version < asking.limits_version {
            // What was handed out of older limits counts for nothing.
            *entry = Entry::new(asking.limits_version, now);
        }
        Some(act(entry))
    }

    /// Drops the longer unused half of what a shard knows: all of it can be asked for again.
    fn make_room(&self, shard: &mut HashMap<KeyRef, Entry>) {
        let mut times = shard.values().map(|entry| entry.use_time).collect::<Vec<_>>();
        let middle = times.len() / 2;
        let (_, &mut median, _) = times.select_nth_unstable(middle);
        shard.retain(|&key_ref, entry| {
            let is_kept = entry.use_time > median;
            if !is_kept {
                self.put_aside(key_ref, entry);
            }
            is_kept
        });
    }

    /// Takes the unused credits out of an entry, to be given back.
    fn put_aside(&self, key_ref: KeyRef, entry: &mut Entry) {
        let (uses, amount) = (entry.credits.take_rest(), entry.amount);
        self.keep(key_ref, entry.limits_version, Unused { uses, amount });
    }

    fn put_aside_where(&self, is_due: impl Fn(&Entry) -> bool) {
        for shard in &self.shards {
            locked(shard).retain(|&key_ref, entry| {
                let is_due = is_due(entry);
                if is_due {
                    self.put_aside(key_ref, entry);
                }
                !is_due
            });
        }
    }

    fn keep(&self, key_ref: KeyRef, limits_version: i64, unused: Unused) {
        if unused.uses > 0 {
            locked(&self.returning)
                .entry((key_ref, limits_version))
                .and_modify(|kept| kept.uses += unused.uses)
                .or_insert(unused);
        }
    }

    /// Asks for a portion; answers whether the limits are still those of the key.
    async fn ask(
        self: Arc<Self>,
        database: Database,
        asking: Asking,
        what: What,
        gate: Arc<Gate>,
        turn: OwnedMutexGuard<()>,
    ) -> Result<bool> {
        let known = match what {
            What::Rate(rate) => self.ask_rate(&database, &asking, rate).await,
            What::Credits(credits) => self.ask_credits(&database, &asking, credits).await,
        };
        if known.is_err() {
            gate.failures.fetch_add(1, Ordering::Relaxed);
        }
        drop(turn);
        known
    }

    async fn ask_rate(&self, database: &Database, asking: &Asking, rate: Rate) -> Result<bool> {
        let mut transaction = database.begin_as(Role::Meter, Instant::now() + ASK_TIMEOUT).await?;
        let sent = Instant::now();
        let answer = sql_query(TAKE_RATE)
            .bind::<BigInt, _>(asking.key_ref.route)
            .bind::<BigInt, _>(asking.key_ref.number)
            .bind::<Nullable<SqlUuid>, _>(asking.tenant_uid)
            .bind::<BigInt, _>(asking.limits_version)
            .bind::<BigInt, _>(i64::from(rate.window_seconds))
            .bind::<BigInt, _>(portion(rate.requests, RATE_PORTION_MAX))
            .bind::<BigInt, _>(rate.requests)
            .get_result::<RatePortion>(transaction.conn())
            .await;
        let found = match answer {
            // Its tenant is gone, and the key with it.
            Err(DieselError::DatabaseError(DatabaseErrorKind::ForeignKeyViolation, _)) => None,
            answer => answer.optional()?,
        };
        let Some(RatePortion { granted, seconds_left }) = found else {
            transaction.rollback().await?;
            return Ok(false);
        };
        transaction.commit().await?;

        let answered = Instant::now();
        let left = seconds(seconds_left);
        let rate = if granted > 0 {
            Allowance::Left { uses: granted, until: Some(sent + surely(left)) }
        } else {
            let until = answered + left;
            Allowance::Exhausted { until, again: Some(until) }
        };
        self.with_entry(asking, answered, |entry| entry.rate = rate);
        Ok(true)
    }

    async fn ask_credits(
        &self,
        database: &Database,
        asking: &Asking,
        credits: Credits,
    ) -> Result<bool> {
        let mut transaction = database.begin_as(Role::Meter, Instant::now() + ASK_TIMEOUT).await?;
        let sent = Instant::now();
        // What is left from before a refill goes back with the question, or there would be more than the
        // amount after it.
        let rest = self.with_entry(asking, sent, |entry| entry.credits.take_rest()).unwrap_or(0);
        let (added, interval) = credits.refill.unzip();
        let answer = sql_query(TAKE_CREDITS)
            .bind::<BigInt, _>(asking.key_ref.route)
            .bind::<BigInt, _>(asking.key_ref.number)
            .bind::<BigInt, _>(asking.limits_version)
            .bind::<BigInt, _>(portion(credits.amount, CREDIT_PORTION_MAX))
            .bind::<BigInt, _>(credits.amount)
            .bind::<BigInt, _>(rest)
            .bind::<Nullable<BigInt>, _>(added)
            .bind::<Nullable<Integer>, _>(interval)
            .get_result::<CreditPortion>(transaction.conn())
            .await
            .optional();
        if answer.is_err() {
            let unused = Unused { uses: rest, amount: credits.amount };
            self.keep(asking.key_ref, asking.limits_version, unused);
        }
        let Some(CreditPortion { granted, seconds_left }) = answer? else {
            transaction.rollback().await?;
            return Ok(false);
        };
        // Where it is not known whether it was committed, the rest is lost: better than given twice.
        transaction.commit().await?;

        let answered = Instant::now();
        let left = seconds_left.map(seconds);
        self.with_entry(asking, answered, |entry| {
            entry.amount = credits.amount;
            entry.credits = if granted > 0 {
                // Another portion may have come meanwhile, through an entry that was dropped and made anew.
                let uses = granted + entry.credits.take_rest();
                Allowance::Left { uses, until: left.map(|left| sent + surely(left)) }
            } else {
                let again = left.map(|left| answered + left);
                let asked_again = answered + ASK_AGAIN;
                let until = again.map_or(asked_again, |again| again.min(asked_again));
                Allowance::Exhausted { until, again }
            };
        });
        Ok(true)
    }

    async fn give_back(&self, database: &Database) -> Result<usize> {
        let mut unused =
            std::mem::take(&mut *locked(&self.returning)).into_iter().collect::<Vec<_>>();
        let mut given = 0;
        while !unused.is_empty() {
            let rows = unused.len().min(ROWS_MAX);
            match give_back_some(database, &unused[..rows]).await {
                Ok(keys) => given += keys,
                Err((error, is_undone)) => {
                    let behind = if is_undone { 0 } else { rows };
                    for &((key_ref, limits_version), unused) in &unused[behind..] {
                        self.keep(key_ref, limits_version, unused);
                    }
                    return Err(error);
                }
            }
            unused.drain(..rows);
        }
        Ok(given)
    }
}

/// Gives some credits back; an error comes with whether nothing surely was given back.
async fn give_back_some(
    database: &Database,
    unused: &[((KeyRef, i64), Unused)],
) -> Result<usize, (Error, bool)> {
    let column = |value: fn(&((KeyRef, i64), Unused)) -> i64| unused.iter().map(value).collect();
    let (routes, numbers): (Vec<_>, Vec<_>) =
        (column(|((key, _), _)| key.route), column(|((key, _), _)| key.number));
    let versions: Vec<i64> = column(|((_, version), _)| *version);
    let amounts: Vec<i64> = column(|(_, unused)| unused.amount);
    let uses: Vec<i64> = column(|(_, unused)| unused.uses);

    let deadline = Instant::now() + ASK_TIMEOUT;
    let mut transaction =
        database.begin_as(Role::Meter, deadline).await.map_err(|error| (error, true))?;
    let given = sql_query(GIVE_BACK)
        .bind::<Array<BigInt>, _>(routes)
        .bind::<Array<BigInt>, _>(numbers)
        .bind::<Array<BigInt>, _>(versions)
        .bind::<Array<BigInt>, _>(amounts)
        .bind::<Array<BigInt>, _>(uses)
        .execute(transaction.conn())
        .await
        .map_err(|error| (error.into(), true))?;
    transaction.commit().await.map_err(|error| (error, false))?;
    Ok(given)
}

/// How many uses of a limit are handed out at once.
fn portion(limit: i64, most: i64) -> i64 {
    (limit / PORTIONS).clamp(1, most)
}

fn seconds(seconds: f64) -> Duration {
    Duration::try_from_secs_f64(seconds.max(0.0)).unwrap_or_default()
}

/// The part of a time by another clock that is not over as long as it is not by this one.
fn surely(left: Duration) -> Duration {
    left - left / CLOCK_ERROR
}

#[derive(QueryableByName)]
struct RatePortion {
    #[diesel(sql_type = BigInt)]
    granted: i64,
    #[diesel(sql_type = Double)]
    seconds_left: f64,
}

#[derive(QueryableByName)]
struct CreditPortion {
    #[diesel(sql_type = BigInt)]
    granted: i64,
    #[diesel(sql_type = Nullable<Double>)]
    seconds_left: Option<f64>,
}

/// Key, tenant, version, length of a window, portion, limit.
///
/// What `excluded` says of the window was computed before the row was waited for, so the clock is read
/// again, and once, since all that is set must be of one window. A window never comes back: where the
/// clock of the database was set back, the newest one goes on.
const TAKE_RATE: &str = "
    insert into key_rate_windows as stored
        (route, number, tenant_uid, limits_version, window_number, used, granted)
    values ($1, $2, $3, $4, floor(extract(epoch from clock_timestamp()) / $5)::bigint, $6, $6)
    on conflict (route, number) do update
    set (limits_version, window_number, used, granted) = (
        select excluded.limits_version, current.window_number, before.used + portion.granted, portion.granted
            from (
                select case when stored.limits_version = excluded.limits_version
                        then greatest(stored.window_number, clock.window_number)
                        else clock.window_number end as window_number
                    from (
                        select floor(extract(epoch from clock_timestamp()) / $5)::bigint as window_number
                            offset 0
                    ) as clock
                    offset 0
            ) as current
            cross join lateral (
                select case when stored.limits_version = excluded.limits_version
                            and stored.window_number = current.window_number
                        then stored.used else 0 end as used
            ) as before
            cross join lateral (
                select greatest(least($6, $7 - before.used), 0) as granted
            ) as portion
    )
    where stored.limits_version <= excluded.limits_version
    returning stored.granted,
        ((stored.window_number + 1) * $5 - extract(epoch from clock_timestamp()))::float8 as seconds_left";

/// Key, version, portion, amount, what comes back, what a refill adds, how often there is one.
///
/// Where there are no refills, `greatest` takes the null of their number for none.
const TAKE_CREDITS: &str = "
    update key_credits as stored
    set (remaining, granted, refill_time) = (
        select available - least($4, available), least($4, available),
                stored.refill_time + refills * coalesce($8, 0)::float8 * interval '1 second'
            from (
                select greatest(floor(
                        extract(epoch from clock_timestamp() - stored.refill_time) / $8), 0)::float8 as refills
                    offset 0
            ) as clock
            cross join lateral (
                select least($5::numeric,
                        stored.remaining + $6 + refills::numeric * coalesce($7, 0))::bigint as available
            ) as refilled
    )
    where stored.route = $1 and stored.number = $2 and stored.limits_version = $3
    returning stored.granted,
        extract(epoch from stored.refill_time + $8 * interval '1 second' - clock_timestamp())::float8
            as seconds_left";

/// Keys, versions, amounts and what comes back of each. Rows are locked in order, so that two nodes do
/// not wait for each other.
const GIVE_BACK: &str = "
    with back as (
        select * from unnest($1, $2, $3, $4, $5) as back (route, number, limits_version, amount, unused)
    ), held as (
        select stored.route, stored.number
            from key_credits as stored join back using (route, number, limits_version)
            order by stored.route, stored.number
            for update of stored
    )
    update key_credits as stored
    set remaining = least(back.amount, stored.remaining + back.unused)
    from back join held using (route, number)
    where stored.route = back.route and stored.number = back.number
        and stored.limits_version = back.limits_version";

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: KeyRef = KeyRef { route: 1, number: 2 };

    fn asking(limits_version: i64) -> Asking {
        let rate = Some(Rate { requests: 10, window_seconds: 60 });
        let credits = Some(Credits { amount: 10, refill: None });
        let limits = Limits { rate, credits };
        Asking { key_ref: KEY, tenant_uid: None, limits, limits_version }
    }

    /// What the step is, in a word.
    fn word(step: &Step) -> &'static str {
        match step {
            Step::Done(Taken::Granted) => "granted",
            Step::Done(Taken::RateLimited { .. }) => "rate",
            Step::Done(Taken::UsageExceeded { .. }) => "credits",
            Step::Done(Taken::Unknown) => "unknown",
            Step::Ask { what: What::Rate(_), .. } => "ask rate",
            Step::Ask { what: What::Credits(_), .. } => "ask credits",
        }
    }

    fn set(portions: &Portions, now: Instant, rate: Allowance, credits: Allowance) {
        portions.with_entry(&asking(1), now, |entry| {
            (entry.rate, entry.credits, entry.amount) = (rate, credits, 10);
        });
    }

    #[tokio::test]
    async fn a_use_is_of_both_limits_or_of_none() {
        let (portions, now) = (Portions::default(), Instant::now());
        let later = now + Duration::from_secs(60);
        let two = Allowance::Left { uses: 2, until: Some(later) };
        let none = Allowance::Exhausted { until: later, again: Some(later) };
        let take = || portions.take(&asking(1), now);

        assert_eq!(word(&take()), "ask rate");
        set(&portions, now, two, Allowance::NOTHING);
        assert_eq!(word(&take()), "ask credits");
        set(&portions, now, two, none);
        assert_eq!(word(&take()), "credits");
        set(&portions, now, none, two);
        assert_eq!(word(&take()), "rate");

        set(&portions, now, two, Allowance::Left { uses: 5, until: None });
        let words = [take(), take(), take()].map(|step| word(&step));
        assert_eq!(words, ["granted", "granted", "ask rate"]);
        let rest = portions.with_entry(&asking(1), now, |entry| entry.credits.take_rest());
        assert_eq!(rest, Some(3));
    }

    #[tokio::test]
    async fn nothing_is_believed_beyond_its_end() {
        let (portions, now) = (Portions::default(), Instant::now());
        let end = now + Duration::from_secs(60);
        let many = Allowance::Left { uses: 9, until: Some(end) };
        let none = Allowance::Exhausted { until: end, again: Some(end) };

        set(&portions, now, none, many);
        let Step::Done(Taken::RateLimited { retry_after }) = portions.take(&asking(1), now) else {
            panic!("the window is exhausted");
        };
        assert_eq!(retry_after, Duration::from_secs(60));
        assert_eq!(word(&portions.take(&asking(1), end)), "ask rate");

        set(&portions, now, many, none);
        assert_eq!(word(&portions.take(&asking(1), end)), "ask rate");
    }

    #[tokio::test]
    async fn portions_of_older_limits_count_for_nothing() {
        let (portions, now) = (Portions::default(), Instant::now());
        let many = Allowance::Left { uses: 9, until: None };

        set(&portions, now, many, many);
        assert_eq!(word(&portions.take(&asking(1), now)), "granted");

        assert_eq!(word(&portions.take(&asking(2), now)), "ask rate");
        assert_eq!(word(&portions.take(&asking(1), now)), "unknown");
    }

    #[tokio::test]
    async fn what_a_node_knows_is_bounded_and_credits_of_what_it_drops_are_kept() {
        let (meter, now) = (Meter::default(), Instant::now());
        let keys = i64::try_from(SHARDS * KEYS_OF_SHARD_MAX).unwrap() * 5 / 4;

        for number in 0..keys {
            let asking = Asking { key_ref: KeyRef { route: 1, number }, ..asking(1) };
            let now = now + Duration::from_micros(number.unsigned_abs());
            meter.portions.with_entry(&asking, now, |entry| {
                entry.credits = Allowance::Left { uses: 1, until: None };
            });
        }

        let known = meter.portions.shards.iter().map(|shard| locked(shard).len()).sum::<usize>();
        let kept = locked(&meter.portions.returning).len();
        assert!(known <= SHARDS * KEYS_OF_SHARD_MAX, "{known}");
        assert_eq!(known + kept, usize::try_from(keys).unwrap());
    }

    #[test]
    fn a_portion_is_a_small_part_of_the_limit_and_never_nothing() {
        let rates =
            [1, 19, 20, 50, 1_000, 1_000_000_000].map(|rate| portion(rate, RATE_PORTION_MAX));

        assert_eq!(rates, [1, 1, 1, 2, 50, 1_000]);
        assert_eq!([0, 100, 1_000_000].map(|all| portion(all, CREDIT_PORTION_MAX)), [1, 5, 100]);
    }
}
