//! How often a key may be used: what is said of it, and how it looks. Nodes hand it out elsewhere.

use diesel::{prelude::*, upsert::excluded};
use diesel_async::RunQueryDsl;
use uuid::Uuid;

use super::secret::KeyRef;
use crate::{error::Result, pb, rpc::mutate::Change, schema::key_credits, wire::Fields};

/// The limits of a key: so many uses in a window, and so many altogether.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// So many uses in a window.
    pub rate: Option<Rate>,
    /// So many altogether, or until the next refill.
    pub credits: Option<Credits>,
}

/// So many uses in a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// How many.
    pub requests: i64,
    /// How long a window is.
    pub window_seconds: i32,
}

/// So many uses altogether.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Credits {
    /// How many at first, and at most after a refill.
    pub amount: i64,
    /// How many a refill adds, and how often there is one.
    pub refill: Option<(i64, i32)>,
}

/// How many uses of a window, of how many seconds.
pub type RateColumns = (Option<i64>, Option<i32>);
/// How many uses altogether, how many more with each refill, every how many seconds.
pub type CreditColumns = (Option<i64>, Option<i64>, Option<i32>);

const DAY: i32 = 24 * 60 * 60;
const REQUESTS_MAX: i64 = 1_000_000_000;
const WINDOW_MAX: i32 = 31 * DAY;
const AMOUNT_MAX: i64 = 1_000_000_000_000;
const INTERVAL_MAX: i32 = 366 * DAY;

/// Reads the field `rate_limit` at a place of a request.
pub fn read_rate(pb: Option<&pb::RateLimit>, at: &str, fields: &mut Fields) -> Option<Rate> {
    let pb::RateLimit { requests, window } = pb?;
    let requests = match *requests {
        1..=REQUESTS_MAX => Ok(*requests),
        other => Err(format!("is {other}, and must be 1 to {REQUESTS_MAX}")),
    };
    let requests = fields.take(&format!("{at}.requests"), requests);
    let window = fields.take(&format!("{at}.window"), seconds(window.as_ref(), WINDOW_MAX));
    Some(Rate { requests: requests?, window_seconds: window? })
}

/// Reads the field `credits` at a place of a request.
pub fn read_credits(pb: Option<&pb::Credits>, at: &str, fields: &mut Fields) -> Option<Credits> {
    let pb::Credits { amount, refill_amount, refill_interval, remaining: _ } = pb?;
    let amount = match *amount {
        None => Err("is required, be it 0".to_owned()),
        Some(amount @ 0..=AMOUNT_MAX) => Ok(amount),
        Some(other) => Err(format!("is {other}, and must be 0 to {AMOUNT_MAX}")),
    };
    let amount = fields.take(&format!("{at}.amount"), amount)?;
    let Some(interval) = refill_interval else {
        if *refill_amount != 0 {
            fields.refuse(&format!("{at}.refill_interval"), "is required beside refill_amount");
        }
        return Some(Credits { amount, refill: None });
    };
    let interval =
        fields.take(&format!("{at}.refill_interval"), seconds(Some(interval), INTERVAL_MAX));
    let added = match *refill_amount {
        0 if amount > 0 => Ok(amount),
        1..=AMOUNT_MAX => Ok(*refill_amount),
        other => Err(format!("is {other}, and must be 1 to {AMOUNT_MAX}")),
    };
    let added = fields.take(&format!("{at}.refill_amount"), added);
    Some(Credits { amount, refill: Some((added?, interval?)) })
}

fn seconds(duration: Option<&prost_types::Duration>, max: i32) -> Result<i32, String> {
    let duration =
        duration.ok_or_else(|| format!("is required: whole seconds, from 1 to {max}"))?;
    Some(duration)
        .filter(|duration| duration.nanos == 0)
        .and_then(|duration| i32::try_from(duration.seconds).ok())
        .filter(|seconds| (1..=max).contains(seconds))
        .ok_or_else(|| format!("is not whole seconds from 1 to {max}"))
}

impl Limits {
    /// The limits as messages carry them, with what is left of the credits.
    pub fn messages(&self, remaining: Option<i64>) -> (Option<pb::RateLimit>, Option<pb::Credits>) {
        let duration = |seconds: i32| prost_types::Duration { seconds: seconds.into(), nanos: 0 };
        let rate = self.rate.map(|rate| pb::RateLimit {
            requests: rate.requests,
            window: Some(duration(rate.window_seconds)),
        });
        let credits = self.credits.map(|credits| pb::Credits {
            amount: Some(credits.amount),
            refill_amount: credits.refill.map_or(0, |(added, _)| added),
            refill_interval: credits.refill.map(|(_, interval)| duration(interval)),
            remaining: remaining.unwrap_or(credits.amount),
        });
        (rate, credits)
    }

    /// The columns of a key's row, as [`Limits::of_columns`] takes them.
    pub fn columns(self) -> (RateColumns, CreditColumns) {
        let refill = self.credits.and_then(|credits| credits.refill);
        (
            self.rate.map(|rate| (rate.requests, rate.window_seconds)).unzip(),
            (
                self.credits.map(|credits| credits.amount),
                refill.map(|(added, _)| added),
                refill.map(|(_, interval)| interval),
            ),
        )
    }

    /// The limits of the columns of a key's row.
    pub fn of_columns(rate: RateColumns, credits: CreditColumns) -> Self {
        Self {
            rate: rate
                .0
                .zip(rate.1)
                .map(|(requests, window_seconds)| Rate { requests, window_seconds }),
            credits: credits.0.map(|amount| Credits { amount, refill: credits.1.zip(credits.2) }),
        }
    }
}

/// Begins to count the credits of a key anew, by the version of its limits and what they say; where it has
/// no credits, there is nothing to count. The key has to be there.
///
/// # Errors
///
/// What the database reports.
pub async fn begin(
    change: &mut Change<'_>,
    key: KeyRef,
    tenant_uid: Option<Uuid>,
    (version, credits): (i64, Option<Credits>),
) -> Result<()> {
    let KeyRef { route, number } = key;
    let Some(Credits { amount, refill: _ }) = credits else {
        diesel::delete(key_credits::table.find((route, number))).execute(change.conn()).await?;
        return Ok(());
    };
    diesel::insert_into(key_credits::table)
        .values((
            key_credits::route.eq(route),
            key_credits::number.eq(number),
            key_credits::tenant_uid.eq(tenant_uid),
            key_credits::limits_version.eq(version),
            key_credits::remaining.eq(amount),
            key_credits::granted.eq(0),
            key_credits::refill_time.eq(change.now),
        ))
        .on_conflict((key_credits::route, key_credits::number))
        .do_update()
        .set((
            key_credits::limits_version.eq(excluded(key_credits::limits_version)),
            key_credits::remaining.eq(excluded(key_credits::remaining)),
            key_credits::granted.eq(excluded(key_credits::granted)),
            key_credits::refill_time.eq(excluded(key_credits::refill_time)),
        ))
        .execute(change.conn())
        .await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[expect(clippy::unnecessary_wraps, reason = "messages carry it so")]
    fn duration(seconds: i64) -> Option<prost_types::Duration> {
        Some(prost_types::Duration { seconds, nanos: 0 })
    }

    fn rate(requests: i64, window: Option<prost_types::Duration>) -> Result<Option<Rate>, usize> {
        let mut fields = Fields::default();
        let pb = pb::RateLimit { requests, window };
        let read = read_rate(Some(&pb), "rate_limit", &mut fields);
        fields.finish().map(|()| read).map_err(violations)
    }

    fn credits(
        amount: i64,
        refill_amount: i64,
        refill_interval: Option<prost_types::Duration>,
    ) -> Result<Option<Credits>, usize> {
        let mut fields = Fields::default();
        let pb =
            pb::Credits { amount: Some(amount), refill_amount, refill_interval, remaining: 77 };
        let read = read_credits(Some(&pb), "credits", &mut fields);
        fields.finish().map(|()| read).map_err(violations)
    }

    fn violations(error: crate::error::Error) -> usize {
        match error {
            crate::error::Error::Invalid(violations) => violations.len(),
            _ => 0,
        }
    }

    #[test]
    fn a_rate_is_so_many_in_a_window_of_whole_seconds() {
        let right = Rate { requests: 1, window_seconds: WINDOW_MAX };

        assert_eq!(rate(1, duration(WINDOW_MAX.into())), Ok(Some(right)));
        assert!(rate(REQUESTS_MAX, duration(1)).is_ok());
        for (requests, window) in [
            (0, duration(1)),
            (-1, duration(1)),
            (REQUESTS_MAX + 1, duration(1)),
            (1, None),
            (1, duration(0)),
            (1, duration(-1)),
            (1, duration(i64::from(WINDOW_MAX) + 1)),
            (1, duration(i64::MAX)),
            (1, Some(prost_types::Duration { seconds: 1, nanos: 1 })),
        ] {
            assert_eq!(rate(requests, window), Err(1), "{requests} {window:?}");
        }
        assert_eq!(rate(0, None), Err(2), "both are told");
    }

    #[test]
    fn credits_are_refilled_by_what_there_was_at_first_unless_told_otherwise() {
        let refilled = |amount, added| Credits { amount, refill: Some((added, 3600)) };

        assert_eq!(credits(0, 0, None), Ok(Some(Credits { amount: 0, refill: None })));
        assert_eq!(credits(5, 0, duration(3600)), Ok(Some(refilled(5, 5))));
        assert_eq!(credits(5, 2, duration(3600)), Ok(Some(refilled(5, 2))));
        assert_eq!(credits(0, 2, duration(3600)), Ok(Some(refilled(0, 2))));
        for (amount, added, interval) in [
            (-1, 0, None),
            (AMOUNT_MAX + 1, 0, None),
            (5, 2, None),
            (5, -1, duration(1)),
            (5, AMOUNT_MAX + 1, duration(1)),
            (0, 0, duration(1)),
            (5, 0, duration(0)),
            (5, 0, duration(i64::from(INTERVAL_MAX) + 1)),
        ] {
            assert_eq!(credits(amount, added, interval), Err(1), "{amount} {added} {interval:?}");
        }
    }

    #[test]
    fn limits_that_nothing_is_said_of_are_none() {
        let mut fields = Fields::default();

        assert_eq!(read_rate(None, "rate_limit", &mut fields), None);
        assert_eq!(read_credits(None, "credits", &mut fields), None);
        assert!(fields.finish().is_ok());
        assert_eq!(Limits::of_columns((None, None), (None, None, None)), Limits::default());
        assert_eq!(Limits::default().messages(Some(3)), (None, None));
    }

    #[test]
    fn limits_are_told_with_what_is_left() {
        let limits = Limits::of_columns((Some(9), Some(60)), (Some(5), Some(2), Some(3600)));

        let (rate, credits) = limits.messages(Some(1));
        let (_, untouched) = limits.messages(None);

        assert_eq!(rate, Some(pb::RateLimit { requests: 9, window: duration(60) }));
        let told = pb::Credits {
            amount: Some(5),
            refill_amount: 2,
            refill_interval: duration(3600),
            remaining: 1,
        };
        assert_eq!(credits, Some(told));
        assert_eq!(untouched, Some(pb::Credits { remaining: 5, ..told }));
    }
}
