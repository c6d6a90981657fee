//! The one source of the current time and of ids made from it.

use std::sync::{
    Mutex, PoisonError,
    atomic::{AtomicI64, Ordering},
};

use chrono::{DateTime, SubsecRound as _, TimeDelta, Utc};
use uuid::{ContextV7, Timestamp, Uuid};

/// The current time, at the precision that Postgres keeps (microseconds).
///
/// Times that a caller gets from the call that wrote them must equal those it reads afterwards.
#[derive(Debug, Default)]
pub struct Clock {
    /// Added to the machine's time; only tests set it, to reach instants that lie days ahead.
    offset_micros: AtomicI64,
    /// Keeps ids of one millisecond in the order of their making.
    context: Mutex<ContextV7>,
}

impl Clock {
    /// Reads the time.
    #[expect(clippy::disallowed_methods, reason = "this is the place that the others must use")]
    pub fn now(&self) -> DateTime<Utc> {
        let now = Utc::now().trunc_subsecs(6);
        match self.offset_micros.load(Ordering::Relaxed) {
            0 => now,
            offset => now + TimeDelta::microseconds(offset),
        }
    }

    /// Makes an id that sorts by the time of its making, behind all that this process made before.
    #[expect(clippy::disallowed_methods, reason = "this is the place that the others must use")]
    pub fn uuid(&self) -> Uuid {
        let now = self.now();
        // A machine whose clock stands before 1970 gets ids that sort wrongly, no panic.
        let seconds = u64::try_from(now.timestamp()).unwrap_or(0);
        let context = self.context.lock().unwrap_or_else(PoisonError::into_inner);
        Uuid::new_v7(Timestamp::from_unix(&*context, seconds, now.timestamp_subsec_nanos()))
    }

    /// Moves the clock ahead of the machine's time, for tests of what happens days later.
    pub fn advance(&self, by: TimeDelta) {
        let micros =
            by.num_microseconds().expect("tests move the clock by less than 292,000 years");
        self.offset_micros.fetch_add(micros, Ordering::Relaxed);
    }
}
