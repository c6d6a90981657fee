//! Where an event stands, and how callers keep that.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use chrono::{DateTime, Utc};
use uuid::Uuid;

/// Where an event stands in the order in which events are told; see [`super`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// The position, which the database gave it.
    pub position: i64,
    /// When it was written, by the clock of the database, in microseconds: tells apart what has the
    /// same position.
    pub recorded: i64,
    /// Its id, which tells apart the rest.
    pub event_id: Uuid,
}

impl Place {
    /// The place behind everything below a position, and before everything at it.
    pub fn before(position: i64) -> Self {
        Self { position, recorded: 0, event_id: Uuid::nil() }
    }
}

/// What a caller keeps, to go on from there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cursor {
    /// Behind which place.
    pub place: Place,
    /// When that was, by the clock of the service, in microseconds: whether what came after it is still
    /// kept follows from this, since events are kept by the time in their ids.
    pub time: i64,
}

/// The first byte of a cursor, which says how the others are to be read.
const VERSION: u8 = 1;

/// The year 10000, in microseconds.
const TIME_MAX: i64 = 253_402_300_800_000_000;

impl Cursor {
    /// The cursor of an event.
    pub fn of(place: Place) -> Self {
        let (seconds, nanos) = place.event_id.get_timestamp().map_or((0, 0), |at| at.to_unix());
        let seconds = i64::try_from(seconds).unwrap_or_default();
        Self { place, time: seconds * 1_000_000 + i64::from(nanos / 1000) }
    }

    /// When that was.
    pub fn time(&self) -> DateTime<Utc> {
        DateTime::from_timestamp_micros(self.time).unwrap_or_default()
    }

    /// Writes it as text.
    pub fn encode(&self) -> String {
        let Self { place: Place { position, recorded, event_id }, time } = self;
        let mut bytes = vec![VERSION];
        bytes.extend(position.to_be_bytes());
        bytes.extend(recorded.to_be_bytes());
        bytes.extend(event_id.as_bytes());
        bytes.extend(time.to_be_bytes());
        URL_SAFE_NO_PAD.encode(bytes)
    }

    /// Reads a text; nothing where it is none that [`Cursor::encode`] has written.
    pub fn decode(text: &str) -> Option<Self> {
        let bytes: [u8; 41] = URL_SAFE_NO_PAD.decode(text).ok()?.try_into().ok()?;
        let number = |at: usize| Some(i64::from_be_bytes(bytes.get(at..at + 8)?.try_into().ok()?));
        let event_id = Uuid::from_slice(bytes.get(17..33)?).ok()?;
        let place = Place { position: number(1)?, recorded: number(9)?, event_id };
        let cursor = Self { place, time: number(33)? };
        // Neither numbers below 0 nor times that the database does not know were ever written.
        let known = |micros: i64| (0..TIME_MAX).contains(&micros);
        let is_one = bytes[0] == VERSION
            && place.position >= 0
            && known(place.recorded)
            && known(cursor.time);
        is_one.then_some(cursor)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_cursor_comes_back_as_it_was(position in 0..i64::MAX, recorded in 0..TIME_MAX, id: u128) {
            let cursor = Cursor {
                place: Place { position, recorded, event_id: Uuid::from_u128(id) },
                time: recorded,
            };

            prop_assert_eq!(Cursor::decode(&cursor.encode()), Some(cursor));
        }

        #[test]
        fn no_text_makes_it_fail(text in ".{0,80}") {
            let _ = Cursor::decode(&text);
        }

        #[test]
        fn no_bytes_make_it_fail(bytes: [u8; 41]) {
            let _ = Cursor::decode(&URL_SAFE_NO_PAD.encode(bytes));
        }
    }

    #[test]
    fn a_place_is_behind_everything_below_its_position() {
        let event = |position| Place { position, recorded: 7, event_id: Uuid::max() };

        assert!(event(4) < Place::before(5));
        assert!(Place::before(5) < event(5));
    }
}
