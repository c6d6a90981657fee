//! When keys and authorizations were used last: noted in memory, written once a minute, so that no use waits for it.
//!
//! A use only leaves its minute here. [`Usage::flush`] writes what is new, newest time wins whichever node
//! it comes from, and keeps what could not be written. A node that crashes takes its last minute along.

use std::{
    collections::HashMap,
    hash::{BuildHasher as _, Hash, RandomState},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicI64, AtomicU64, Ordering},
    },
    time::Duration,
};

use chrono::{DateTime, Utc};
use diesel::{
    QueryResult,
    result::{DatabaseErrorKind, Error as DieselError},
    sql_query,
    sql_types::{Array, BigInt, Nullable, Timestamptz, Uuid as SqlUuid},
};
use diesel_async::{AsyncPgConnection, RunQueryDsl as _};
use tokio::time::Instant;
use uuid::Uuid;

use super::{known::Known, secret::KeyRef};
use crate::{
    authorizations::known::Granted,
    db::{Database, Role},
    error::{Result, causes},
};

const FLUSH_EVERY: Duration = Duration::from_mins(1);
const FLUSH_TIMEOUT: Duration = Duration::from_secs(10);
const ROWS_MAX: usize = 1_000;
const SHARDS: usize = 64;
/// With all shards a million things, which take some 100 MB.
const OF_SHARD_MAX: usize = 1_000_000 / SHARDS;

/// What uses are noted of.
pub trait Used: Copy + Ord + Hash + Send + Sync + 'static {
    /// What it is, in the plural.
    const NAME: &'static str;

    /// Writes when some of them were used last, in their order; answers how many have a new time.
    ///
    /// # Errors
    ///
    /// What the database reports.
    fn write(
        conn: &mut AsyncPgConnection,
        used: Columns<Self>,
    ) -> impl Future<Output = QueryResult<usize>> + Send;
}

/// What is written, column by column.
#[derive(Debug)]
pub struct Columns<K> {
    keys: Vec<K>,
    tenants: Vec<Option<Uuid>>,
    times: Vec<DateTime<Utc>>,
}

/// An authorization, by its id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AuthorizationRef(pub Uuid);

/// The minute since 1970 in which a use of something was noted last. It says nothing of what it stands beside, so all
/// are equal.
#[derive(Debug, Default)]
pub struct Noted(AtomicI64);

impl PartialEq for Noted {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Noted {
    /// Whether a minute is later; notes it then.
    fn is_before(&self, minute: i64) -> bool {
        AtomicI64::load(&self.0, Ordering::Relaxed) < minute
            && self.0.fetch_max(minute, Ordering::Relaxed) < minute
    }
}

/// The minutes in which keys, or authorizations, were used last.
#[derive(Debug)]
pub struct Usage<K = KeyRef> {
    hasher: RandomState,
    shards: [Mutex<HashMap<K, Last>>; SHARDS],
    dropped: AtomicU64,
}

/// The last use of something.
#[derive(Clone, Copy, Debug)]
struct Last {
    tenant_uid: Option<Uuid>,
    /// Since 1970.
    minute: i64,
    is_written: bool,
}

impl<K> Default for Usage<K> {
    fn default() -> Self {
        Self {
            hasher: RandomState::new(),
            shards: std::array::from_fn(|_| Mutex::default()),
            dropped: AtomicU64::default(),
        }
    }
}

fn minute_of(time: DateTime<Utc>) -> i64 {
    time.timestamp().div_euclid(60)
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Usage<KeyRef> {
    /// Notes that a key was used; of the uses in a minute only the first looks for a place.
    pub fn note(&self, known: &Known, now: DateTime<Utc>) {
        if known.noted.is_before(minute_of(now)) {
            let tenant = known.owner.tenant.as_ref().map(|tenant| tenant.uid);
            self.note_use(known.key_ref, tenant, now);
        }
    }
}

impl Usage<AuthorizationRef> {
    /// Notes that an authorization of a tenant was used; of the uses in a minute only the first looks for a place.
    pub fn note(&self, granted: &Granted, tenant_uid: Uuid, now: DateTime<Utc>) {
        if granted.noted.is_before(minute_of(now)) {
            self.note_use(AuthorizationRef(granted.authorization_id), Some(tenant_uid), now);
        }
    }
}

impl<K: Used> Usage<K> {
    /// Notes a use.
    ///
    /// Where a million others wait to be written already, since the database is away for long, the use is
    /// dropped: that something was used is worth less than the service.
    pub fn note_use(&self, key: K, tenant_uid: Option<Uuid>, now: DateTime<Utc>) {
        let minute = minute_of(now);
        let mut shard = self.shard(key);
        if let Some(last) = shard.get_mut(&key) {
            if last.minute < minute {
                *last = Last { tenant_uid, minute, is_written: false };
            }
        } else if shard.len() < OF_SHARD_MAX {
            shard.insert(key, Last { tenant_uid, minute, is_written: false });
        } else {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Writes what was noted; answers how many have a new time.
    ///
    /// # Errors
    ///
    /// What the database reports; what was not written waits for the next time.
    pub async fn flush(&self, database: &Database) -> Result<usize> {
        let waiting = self.waiting();
        let mut batches = waiting.chunks(ROWS_MAX).rev().collect::<Vec<_>>();
        let mut written = 0;
        while let Some(batch) = batches.pop() {
            match write(database, batch).await? {
                Some(rows) => written += rows,
                // What some of them belong to is gone. The halves find which: rarely is it more than one.
                None if batch.len() > 1 => {
                    let (before, behind) = batch.split_at(batch.len() / 2);
                    batches.extend([behind, before]);
                    continue;
                }
                None => {}
            }
            self.mark_written(batch);
        }
        let dropped = self.dropped.swap(0, Ordering::Relaxed);
        if dropped > 0 {
            tracing::warn!(
                uses = dropped,
                of = K::NAME,
                "uses were not noted: too many were waiting to be written"
            );
        }
        Ok(written)
    }

    fn shard(&self, key: K) -> MutexGuard<'_, HashMap<K, Last>> {
        let hash = self.hasher.hash_one(key) % SHARDS as u64;
        locked(&self.shards[usize::try_from(hash).expect("it is below the number of shards")])
    }

    /// What is to be written, in order, so that two nodes do not wait for each other.
    ///
    /// What was written is dropped only now: until then another use in the same minute finds it.
    fn waiting(&self) -> Vec<(K, Last)> {
        let mut waiting = Vec::new();
        for shard in &self.shards {
            let mut shard = locked(shard);
            shard.retain(|_, last| !last.is_written);
            waiting.extend(shard.iter().map(|(&key, &last)| (key, last)));
        }
        waiting.sort_unstable_by_key(|&(key, _)| key);
        waiting
    }

    fn mark_written(&self, rows: &[(K, Last)]) {
        for (key, written) in rows {
            if let Some(last) = self.shard(*key).get_mut(key) {
                // It may have been used again.
                last.is_written |= last.minute == written.minute;
            }
        }
    }
}

/// Writes some rows; nothing where what some of them belong to is gone.
async fn write<K: Used>(database: &Database, rows: &[(K, Last)]) -> Result<Option<usize>> {
    let time = |last: &Last| DateTime::from_timestamp(last.minute * 60, 0).unwrap_or_default();
    let used = Columns {
        keys: rows.iter().map(|(key, _)| *key).collect(),
        tenants: rows.iter().map(|(_, last)| last.tenant_uid).collect(),
        times: rows.iter().map(|(_, last)| time(last)).collect(),
    };

    let mut transaction = database.begin_as(Role::Meter, Instant::now() + FLUSH_TIMEOUT).await?;
    match K::write(transaction.conn(), used).await {
        Ok(rows) => transaction.commit().await.map(|()| Some(rows)),
        Err(DieselError::DatabaseError(DatabaseErrorKind::ForeignKeyViolation, _)) => {
            transaction.rollback().await.map(|()| None)
        }
        Err(error) => Err(error.into()),
    }
}

impl Used for KeyRef {
    const NAME: &'static str = "keys";

    async fn write(conn: &mut AsyncPgConnection, used: Columns<Self>) -> QueryResult<usize> {
        let (routes, numbers) =
            used.keys.iter().map(|key| (key.route, key.number)).unzip::<_, _, Vec<_>, Vec<_>>();
        sql_query(
            "insert into key_usage as stored (route, number, tenant_uid, last_used_time)
                 select * from unnest($1, $2, $3, $4) as used (route, number, tenant_uid, last_used_time)
                     order by route, number
                 on conflict (route, number) do update set last_used_time = excluded.last_used_time
                     where stored.last_used_time < excluded.last_used_time",
        )
        .bind::<Array<BigInt>, _>(routes)
        .bind::<Array<BigInt>, _>(numbers)
        .bind::<Array<Nullable<SqlUuid>>, _>(used.tenants)
        .bind::<Array<Timestamptz>, _>(used.times)
        .execute(conn)
        .await
    }
}

impl Used for AuthorizationRef {
    const NAME: &'static str = "authorizations";

    async fn write(conn: &mut AsyncPgConnection, used: Columns<Self>) -> QueryResult<usize> {
        let ids = used.keys.iter().map(|key| key.0).collect::<Vec<_>>();
        sql_query(
            "insert into tenant_authorization_usage as stored (tenant_uid, authorization_id, last_used_time)
                 select * from unnest($1, $2, $3) as used (tenant_uid, authorization_id, last_used_time)
                     order by authorization_id
                 on conflict (tenant_uid, authorization_id) do update
                     set last_used_time = excluded.last_used_time
                     where stored.last_used_time < excluded.last_used_time",
        )
        .bind::<Array<Nullable<SqlUuid>>, _>(used.tenants)
        .bind::<Array<SqlUuid>, _>(ids)
        .bind::<Array<Timestamptz>, _>(used.times)
        .execute(conn)
        .await
    }
}

/// Writes once a minute, until it is dropped.
pub async fn run<K: Used>(usage: Arc<Usage<K>>, database: Database) {
    loop {
        tokio::time::sleep(FLUSH_EVERY).await;
        if let Err(error) = usage.flush(&database).await {
            tracing::warn!(
                error = causes(&error),
                of = K::NAME,
                "when they were used has to wait to be written"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(number: i64) -> KeyRef {
        KeyRef { route: 1, number }
    }

    fn at(seconds: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(seconds, 0).unwrap()
    }

    #[test]
    fn a_use_in_a_minute_that_was_written_waits_for_nothing() {
        let usage = Usage::default();
        usage.note_use(key(1), None, at(60));
        usage.note_use(key(1), None, at(119));
        let written = usage.waiting();
        assert_eq!(written.len(), 1);

        usage.mark_written(&written);
        usage.note_use(key(1), None, at(90));

        assert!(usage.waiting().is_empty());
    }

    #[test]
    fn a_use_while_an_older_one_is_written_still_waits() {
        let usage = Usage::default();
        usage.note_use(key(1), None, at(60));
        let written = usage.waiting();

        usage.note_use(key(1), None, at(120));
        usage.mark_written(&written);

        let minutes = usage.waiting().iter().map(|(_, noted)| noted.minute).collect::<Vec<_>>();
        assert_eq!(minutes, [2]);
    }

    #[test]
    fn an_older_use_does_not_undo_a_newer_one() {
        let usage = Usage::default();

        usage.note_use(key(1), None, at(120));
        usage.note_use(key(1), None, at(60));

        assert_eq!(usage.waiting()[0].1.minute, 2);
    }

    #[test]
    fn what_waits_is_bounded() {
        let usage = Usage::default();

        for number in 0..1_100_000 {
            usage.note_use(key(number), None, at(60));
        }

        let waiting = usage.waiting().len();
        assert!((900_000..=1_000_000).contains(&waiting), "{waiting}");
        let dropped = AtomicU64::load(&usage.dropped, Ordering::Relaxed);
        assert_eq!(waiting as u64 + dropped, 1_100_000);
    }
}
