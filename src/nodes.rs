//! The nodes that answer from what they know: for how long each may, and how far it has applied what happened.
//!
//! A node trusts what it knows while its *lease* lasts. The lease is renewed by each poll of the feed that was
//! completed, and counts from when that poll *began*: what had been committed before then, the poll has told.
//! Past it the node knows nothing, whatever the reason that it heard nothing.
//!
//! So whoever has made a change can wait until it is in effect on every node, without asking any of them.
//! Each node writes how far it is into the table `nodes` when it has applied something, and once a second.
//! A node that says nothing may have lost the database, but then its last poll began before the change was
//! committed: a lease later, by one's own clock, it trusts nothing from before the change.
//!
//! A node may trust what it knows only from a poll on that began after the node had written itself into the
//! table: whoever waits has seen it there, or the node has seen the change.

use std::{
    sync::atomic::{AtomicI64, Ordering},
    time::Duration,
};

use diesel::{
    QueryableByName,
    sql_types::{BigInt, Bool, Text, Uuid as SqlUuid},
};
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use nix::time::{ClockId, clock_gettime};
use tokio::time::Instant;
use uuid::Uuid;

use crate::{
    db::Scope,
    error::{Error, Result},
    server::Shared,
};

/// How often a node says that it is there, while nothing happens.
pub const HEARTBEAT_EVERY: Duration = Duration::from_secs(1);

/// How often whoever waits looks how far the nodes are.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// The longest lease that settings allow.
pub const LEASE_MAX: Duration = Duration::from_mins(1);

/// After which part of the lease more a silent node counts as without one: clocks do not run alike.
const DRIFT: u32 = 50;

/// Until when a node may trust what it knows.
#[derive(Debug)]
pub struct Lease {
    length_nanos: i64,
    /// When the poll began that renewed it last, in nanoseconds of the clock that counts suspended time.
    began: AtomicI64,
    /// When the node began to say last that it is there.
    announced: AtomicI64,
}

/// An instant of the clock that counts suspended time: a machine that sleeps does not keep its lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment(i64);

impl Moment {
    /// Now.
    pub fn now() -> Self {
        #[cfg(any(target_os = "linux", target_os = "android"))]
        const CLOCK: ClockId = ClockId::CLOCK_BOOTTIME;
        // There it counts suspended time.
        #[cfg(not(any(target_os = "linux", target_os = "android")))]
        const CLOCK: ClockId = ClockId::CLOCK_MONOTONIC;
        let now = clock_gettime(CLOCK).expect("every machine has this clock");
        Self(now.tv_sec() * 1_000_000_000 + now.tv_nsec())
    }

    /// How long after another instant it is; nothing where it is not.
    pub fn saturating_since(self, other: Self) -> Duration {
        Duration::from_nanos(u64::try_from(self.0.saturating_sub(other.0)).unwrap_or(0))
    }

    /// How long ago it was.
    pub fn elapsed(self) -> Duration {
        Self::now().saturating_since(self)
    }
}

const NEVER: i64 = i64::MIN;

impl Lease {
    /// A lease of a length that nothing has renewed yet.
    pub fn new(length: Duration) -> Self {
        Self {
            length_nanos: i64::try_from(length.as_nanos()).unwrap_or(i64::MAX),
            began: AtomicI64::new(NEVER),
            announced: AtomicI64::new(NEVER),
        }
    }

    /// How long it lasts.
    pub fn length(&self) -> Duration {
        Duration::from_nanos(u64::try_from(self.length_nanos).unwrap_or(0))
    }

    /// Whether it lasts.
    pub fn holds(&self) -> bool {
        self.end_of().is_some()
    }

    /// When it ends; nothing once it is over.
    pub fn end_of(&self) -> Option<Moment> {
        let until = |begun: &AtomicI64| {
            AtomicI64::load(begun, Ordering::Acquire).saturating_add(self.length_nanos)
        };
        let until = until(&self.began).min(until(&self.announced));
        Some(Moment(until)).filter(|end| *end > Moment::now())
    }

    /// Whether the node has said that it is there for as long as a lease lasts.
    pub fn is_announced(&self) -> bool {
        let announced = AtomicI64::load(&self.announced, Ordering::Acquire);
        announced.saturating_add(self.length_nanos) > Moment::now().0
    }

    /// Renews it by a poll that is completed.
    pub fn renew(&self, began: Moment) {
        self.began.store(began.0, Ordering::Release);
    }

    /// Notes that the node has said that it is there.
    pub fn announce(&self, began: Moment) {
        self.announced.store(began.0, Ordering::Release);
    }

    /// Ends it.
    pub fn end(&self) {
        self.began.store(NEVER, Ordering::Release);
        self.announced.store(NEVER, Ordering::Release);
    }
}

/// Writes a new node into the table.
///
/// # Errors
///
/// What the database reports.
pub async fn register(conn: &mut AsyncPgConnection, node: Uuid, lease: Duration) -> Result<()> {
    // Those that died without a word, long after anybody waits for them.
    diesel::sql_query("delete from nodes where renew_time < clock_timestamp() - interval '1 day'")
        .execute(conn)
        .await?;
    diesel::sql_query(
        "insert into nodes (node_id, lease_milliseconds, applied, renew_time)
             values ($1, $2, '1:1:', clock_timestamp())",
    )
    .bind::<SqlUuid, _>(node)
    .bind::<BigInt, _>(i64::try_from(lease.as_millis()).unwrap_or(i64::MAX).max(1))
    .execute(conn)
    .await?;
    Ok(())
}

/// Says that a node is there, and how far it is; false where it is not in the table any more, or not as it said
/// last: then this is another state of the database than the one that it said it to.
///
/// # Errors
///
/// What the database reports.
pub async fn renew(
    conn: &mut AsyncPgConnection,
    node: Uuid,
    (said, applied): (&str, &str),
) -> Result<bool> {
    let rows = diesel::sql_query(
        "update nodes set applied = $2, renew_time = clock_timestamp()
             where node_id = $1 and applied = $3",
    )
    .bind::<SqlUuid, _>(node)
    .bind::<Text, _>(applied)
    .bind::<Text, _>(said)
    .execute(conn)
    .await?;
    Ok(rows == 1)
}

/// Takes a node out of the table, which trusts nothing any more.
///
/// # Errors
///
/// What the database reports.
pub async fn leave(conn: &mut AsyncPgConnection, node: Uuid) -> Result<()> {
    diesel::sql_query("delete from nodes where node_id = $1")
        .bind::<SqlUuid, _>(node)
        .execute(conn)
        .await?;
    Ok(())
}

/// Whether a change is in effect on all nodes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Confirmation {
    /// Whether every node has said that it applied the change; else the leases of the others ran out.
    pub confirmed: bool,
    /// The nodes that have not said so.
    pub silent_node_ids: Vec<String>,
}

#[derive(QueryableByName)]
struct Behind {
    #[diesel(sql_type = SqlUuid)]
    node_id: Uuid,
    #[diesel(sql_type = BigInt)]
    lease_milliseconds: i64,
    #[diesel(sql_type = Bool)]
    lags: bool,
}

/// Waits until a change that is committed is in effect on all nodes: until each has applied it, or its lease
/// has run out.
///
/// # Errors
///
/// [`Error::DeadlineExceeded`] when the caller waits no longer.
pub async fn confirm(shared: &Shared, revision: &str, deadline: Instant) -> Result<Confirmation> {
    // The change was committed before, so no lease that was renewed without it begins later than this.
    let committed = Moment::now();
    // Of leases that nobody could look up yet, the longest that there may be.
    let mut longest = LEASE_MAX;
    let mut silent = None;
    loop {
        let behind = async |conn: &mut AsyncPgConnection| behind(conn, revision).await;
        match shared.database.read(&Scope::System, deadline, behind).await {
            Ok(nodes) => {
                let lease = |node: &Behind| {
                    Duration::from_millis(u64::try_from(node.lease_milliseconds).unwrap_or(0))
                };
                let own = shared.keys.lease().length();
                longest = nodes.iter().map(lease).fold(own, Duration::max);
                let late = nodes.into_iter().filter(|node| node.lags);
                let late = late.map(|node| node.node_id.to_string()).collect::<Vec<_>>();
                if late.is_empty() {
                    return Ok(Confirmation { confirmed: true, silent_node_ids: late });
                }
                silent = Some(late);
            }
            // Whatever else holds, all leases run out.
            Err(Error::DatabaseAway(_) | Error::Overloaded(_)) => {}
            Err(error) => return Err(error),
        }
        if Moment::now().saturating_since(committed) > longest + longest / DRIFT {
            let silent_node_ids = silent.unwrap_or_default();
            return Ok(Confirmation { confirmed: false, silent_node_ids });
        }
        if Instant::now() + LOOK_EVERY > deadline {
            return Err(Error::DeadlineExceeded);
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// The nodes that may have a lease. Of one that was silent for two leases and a second, by the one clock of
/// the database, it ran out long ago.
async fn behind(conn: &mut AsyncPgConnection, revision: &str) -> Result<Vec<Behind>> {
    Ok(diesel::sql_query(
        "select node_id, lease_milliseconds,
                not pg_visible_in_snapshot($1::xid8, applied::pg_snapshot) as lags
             from nodes
             where renew_time > clock_timestamp()
                 - make_interval(secs => lease_milliseconds / 500.0 + 1)",
    )
    .bind::<Text, _>(revision)
    .load(conn)
    .await?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_lasts_from_the_beginning_of_a_poll_and_only_while_the_node_is_known() {
        let lease = Lease::new(Duration::from_secs(5));
        let (now, long_ago) = (Moment::now(), Moment(Moment::now().0 - 6_000_000_000));

        assert!(!lease.holds(), "nothing was polled yet");
        lease.renew(now);
        assert!(!lease.holds(), "nobody knows of the node yet");
        lease.announce(now);
        assert!(
            lease.end_of().is_some_and(|end| end.saturating_since(now) <= Duration::from_secs(5))
        );
        lease.announce(long_ago);
        assert!(!lease.holds());
        lease.announce(now);
        lease.renew(long_ago);
        assert!(!lease.holds());
        lease.renew(now);
        lease.end();
        assert!(!lease.holds());
    }
}
