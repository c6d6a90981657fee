//! States of the database, as callers carry them from one call to another.
//!
//! A *revision* is either the number of the transaction that made a change, or a snapshot: which transactions
//! were over when it was taken. It is opaque to callers, who give it back to ask for a state that is not
//! older. A number alone would not do: transactions end in another order than they begin in, and the answer
//! "older than" must not hang on one that somebody forgot.

use std::{fmt, str::FromStr};

/// A state, or a change that makes one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Revision {
    /// The change of this transaction.
    Change(u64),
    /// Everything that a snapshot sees.
    State(Snapshot),
}

/// Which transactions were over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// All below this were.
    xmin: u64,
    /// None from this on was.
    xmax: u64,
    /// Of those between, these were not; in order.
    open: Vec<u64>,
}

/// How many open transactions a caller's snapshot may name. Postgres has no more at a time than it has
/// connections.
const OPEN_MAX: usize = 10_000;

/// A text that is no revision.
#[derive(Debug, thiserror::Error)]
#[error("is no revision: send one as it was answered, or leave it out")]
pub struct NotARevision;

impl Snapshot {
    /// Whether everything that a revision stands for is seen here.
    pub fn covers(&self, revision: &Revision) -> bool {
        match revision {
            Revision::Change(number) => self.sees(*number),
            Revision::State(other) => {
                self.xmax >= other.xmax
                    && self
                        .open
                        .iter()
                        .filter(|number| **number < other.xmax)
                        .all(|number| other.open.binary_search(number).is_ok())
            }
        }
    }

    fn sees(&self, number: u64) -> bool {
        number < self.xmin || (number < self.xmax && self.open.binary_search(&number).is_err())
    }
}

impl FromStr for Snapshot {
    type Err = NotARevision;

    /// Reads what Postgres writes of a `pg_snapshot`: `xmin:xmax:open,open`.
    fn from_str(text: &str) -> Result<Self, NotARevision> {
        let mut parts = text.split(':');
        let (Some(xmin), Some(xmax), Some(open), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(NotARevision);
        };
        let open = open
            .split(',')
            .filter(|number| !number.is_empty())
            .map(number)
            .collect::<Result<Vec<_>, _>>()?;
        let snapshot = Self { xmin: number(xmin)?, xmax: number(xmax)?, open };
        let is_sound = snapshot.xmin <= snapshot.xmax
            && snapshot.open.len() <= OPEN_MAX
            && snapshot.open.is_sorted()
            && snapshot.open.iter().all(|number| (snapshot.xmin..snapshot.xmax).contains(number));
        if is_sound { Ok(snapshot) } else { Err(NotARevision) }
    }
}

impl fmt::Display for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:", self.xmin, self.xmax)?;
        for (place, number) in self.open.iter().enumerate() {
            write!(f, "{}{number}", if place == 0 { "" } else { "," })?;
        }
        Ok(())
    }
}

impl Revision {
    /// Reads what a caller sent as `min_revision`; nothing where it sent nothing.
    ///
    /// # Errors
    ///
    /// When it is none.
    pub fn read(text: &str) -> Result<Option<Self>, NotARevision> {
        if text.is_empty() { Ok(None) } else { text.parse().map(Some) }
    }
}

impl FromStr for Revision {
    type Err = NotARevision;

    fn from_str(text: &str) -> Result<Self, NotARevision> {
        if text.contains(':') {
            text.parse().map(Self::State)
        } else {
            number(text).map(Self::Change)
        }
    }
}

fn number(digits: &str) -> Result<u64, NotARevision> {
    let is_plain = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    digits.parse().ok().filter(|_| is_plain).ok_or(NotARevision)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn snapshot(text: &str) -> Snapshot {
        text.parse().unwrap()
    }

    fn covers(state: &str, revision: &str) -> bool {
        snapshot(state).covers(&revision.parse().unwrap())
    }

    #[test]
    fn a_snapshot_covers_what_was_over_when_it_was_taken() {
        assert!(covers("100:100:", "99"));
        assert!(!covers("100:100:", "100"));
        assert!(covers("100:110:100,105", "109"));
        assert!(!covers("100:110:100,105", "105"));
        // One that somebody forgot hides nothing that came after it.
        assert!(covers("7:1000:7", "999"));
    }

    #[test]
    fn a_snapshot_covers_another_that_saw_nothing_more() {
        assert!(covers("100:110:100,105", "100:110:100,105"));
        assert!(covers("110:110:", "100:110:100,105"));
        assert!(!covers("100:110:100,105", "110:110:"));
        assert!(!covers("100:105:100", "100:110:100"), "the other may have seen 109");
        assert!(!covers("100:120:100,101", "100:110:100"), "the other saw 101");
        assert!(covers("100:120:100,115", "100:110:100"));
    }

    #[test]
    fn what_is_no_revision_is_refused() {
        for wrong in ["", "x", "-1", "1:2", "2:1:", "1:5:9", "1:9:5,3", "1:2:3:4", "+5", "1:2:x"] {
            assert!(wrong.parse::<Revision>().is_err(), "{wrong}");
        }
    }

    /// A model that knows each transaction by itself.
    fn any_snapshot() -> impl Strategy<Value = Snapshot> {
        (0..20_u64, proptest::collection::btree_set(0..20_u64, 0..8)).prop_map(|(xmax, open)| {
            let open = open.into_iter().filter(|number| *number < xmax).collect::<Vec<_>>();
            Snapshot { xmin: open.first().copied().unwrap_or(xmax), xmax, open }
        })
    }

    proptest! {
        #[test]
        fn covering_is_seeing_at_least_as_much(one in any_snapshot(), other in any_snapshot()) {
            let seen = |snapshot: &Snapshot| (0..20).filter(|n| snapshot.sees(*n)).collect::<Vec<_>>();
            let (ours, theirs) = (seen(&one), seen(&other));
            if one.covers(&Revision::State(other.clone())) {
                prop_assert!(theirs.iter().all(|number| ours.contains(number)));
            }
            prop_assert!(one.covers(&Revision::State(one.clone())));
            prop_assert_eq!(one.to_string().parse::<Snapshot>().unwrap(), one);
        }
    }
}
