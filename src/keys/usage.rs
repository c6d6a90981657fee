//! When keys were used last: noted in memory, written once a minute, so that no use waits for it.
//!
//! A use only leaves its minute here. [`Usage::flush`] writes what is new, newest time wins whichever node
//! it comes from, and keeps what could not be written. A node that crashes takes its last minute along.

use std::{
    collections::HashMap,
    hash::{BuildHasher as _, RandomState},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicI64, AtomicU64, Ordering},
    },
    time::Duration,
};

use chrono::{DateTime, Utc};
use diesel::{
    result::{DatabaseErrorKind, Error as DieselError},
    sql_query,
    sql_types::{Array, BigInt, Nullable, Timestamptz, Uuid as SqlUuid},
};
use diesel_async::RunQueryDsl as _;
use tokio::time::Instant;
use uuid::Uuid;

use super::{known::Known, secret::KeyRef};
use crate::{
    db::{Database, Role},
    error::{Result, causes},
};

const FLUSH_EVERY: Duration = Duration::from_mins(1);
const FLUSH_TIMEOUT: Duration = Duration::from_secs(10);
const ROWS_MAX: usize = 1_000;
const SHARDS: usize = 64;
/// With all shards a million keys, which take some 100 MB.
const KEYS_OF_SHARD_MAX: usize = 1_000_000 / SHARDS;

/// The minutes in which keys were used last.
#[derive(Debug)]
pub struct Usage {
    hasher: RandomState,
    shards: [Mutex<HashMap<KeyRef, Noted>>; SHARDS],
    dropped: AtomicU64,
}

/// The last use of a key.
#[derive(Clone, Copy, Debug)]
struct Noted {
    tenant_uid: Option<Uuid>,
    /// Since 1970.
    minute: i64,
    is_written: bool,
}

type Row = (KeyRef, Noted);

impl Default for Usage {
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

impl Usage {
    /// Notes that a key was used; of the uses in a minute only the first looks for a place.
    pub fn note(&self, known: &Known, now: DateTime<Utc>) {
        let minute = minute_of(now);
        if AtomicI64::load(&known.noted, Ordering::Relaxed) < minute {
            let tenant = known.owner.tenant.as_ref().map(|tenant| tenant.uid);
            self.note_use(known.key_ref, tenant, now);
            known.noted.fetch_max(minute, Ordering::Relaxed);
        }
    }

    /// Notes a use of a key.
    ///
    /// Where a million keys wait to be written already, since the database is away for long, the use is
    /// dropped: that a key was used is worth less than the service.
    pub fn note_use(&self, key_ref: KeyRef, tenant_uid: Option<Uuid>, now: DateTime<Utc>) {
        let minute = minute_of(now);
        let mut shard = self.shard(key_ref);
        if let Some(noted) = shard.get_mut(&key_ref) {
            if noted.minute < minute {
                *noted = Noted { tenant_uid, minute, is_written: false };
            }
        } else if shard.len() < KEYS_OF_SHARD_MAX {
            shard.insert(key_ref, Noted { tenant_uid, minute, is_written: false });
        } else {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Writes what was noted; answers how many keys have a new time.
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
                // A tenant of theirs is gone. The halves find whose: rarely is it more than one.
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
                "uses of keys were not noted: too many keys were waiting"
            );
        }
        Ok(written)
    }

    fn shard(&self, key_ref: KeyRef) -> MutexGuard<'_, HashMap<KeyRef, Noted>> {
        let hash = self.hasher.hash_one(key_ref) % SHARDS as u64;
        locked(&self.shards[usize::try_from(hash).expect("it is below the number of shards")])
    }

    /// What is to be written, in order of the keys, so that two nodes do not wait for each other.
    ///
    /// What was written is dropped only now: until then another use in the same minute finds it.
    fn waiting(&self) -> Vec<Row> {
        let mut waiting = Vec::new();
        for shard in &self.shards {
            let mut shard = locked(shard);
            shard.retain(|_, noted| !noted.is_written);
            waiting.extend(shard.iter().map(|(&key_ref, &noted)| (key_ref, noted)));
        }
        waiting.sort_unstable_by_key(|&(key_ref, _)| key_ref);
        waiting
    }

    fn mark_written(&self, rows: &[Row]) {
        for (key_ref, written) in rows {
            if let Some(noted) = self.shard(*key_ref).get_mut(key_ref) {
                // It may have been used again.
                noted.is_written |= noted.minute == written.minute;
            }
        }
    }
}

/// Writes some rows; nothing where a tenant of theirs is gone.
async fn write(database: &Database, rows: &[Row]) -> Result<Option<usize>> {
    let routes = rows.iter().map(|(key_ref, _)| key_ref.route).collect::<Vec<_>>();
    let numbers = rows.iter().map(|(key_ref, _)| key_ref.number).collect::<Vec<_>>();
    let tenants = rows.iter().map(|(_, noted)| noted.tenant_uid).collect::<Vec<_>>();
    let times = rows
        .iter()
        .map(|(_, noted)| DateTime::from_timestamp(noted.minute * 60, 0).unwrap_or_default())
        .collect::<Vec<_>>();

    let mut transaction = database.begin_as(Role::Meter, Instant::now() + FLUSH_TIMEOUT).await?;
    let written = sql_query(
        "insert into key_usage as stored (route, number, tenant_uid, last_used_time)
             select * from unnest($1, $2, $3, $4) as used (route, number, tenant_uid, last_used_time)
                 order by route, number
             on conflict (route, number) do update set last_used_time = excluded.last_used_time
                 where stored.last_used_time < excluded.last_used_time",
    )
    .bind::<Array<BigInt>, _>(routes)
    .bind::<Array<BigInt>, _>(numbers)
    .bind::<Array<Nullable<SqlUuid>>, _>(tenants)
    .bind::<Array<Timestamptz>, _>(times)
    .execute(transaction.conn())
    .await;
    match written {
        Ok(rows) => transaction.commit().await.map(|()| Some(rows)),
        Err(DieselError::DatabaseError(DatabaseErrorKind::ForeignKeyViolation, _)) => {
            transaction.rollback().await.map(|()| None)
        }
        Err(error) => Err(error.into()),
    }
}

/// Writes once a minute, until it is dropped.
pub async fn run(usage: Arc<Usage>, database: Database) {
    loop {
        tokio::time::sleep(FLUSH_EVERY).await;
        if let Err(error) = usage.flush(&database).await {
            tracing::warn!(error = causes(&error), "when keys were used has to wait to be written");
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
