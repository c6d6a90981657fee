//! Pages of every list: read from where the page before ended, never by counting.
//!
//! A token is a place, never a permission. It is bound to its list, filter and order, and carries the
//! last two, so that the next page can be asked for with the token alone (3-19).

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::{
    error::{Error, Result, Violation},
    filter::FILTER_BYTES_MAX,
    pb::ErrorReason,
    rpc::Call,
    wire,
};

const SIZE_DEFAULT: i32 = 50;
const SIZE_MAX: i32 = 1000;
/// How large an answer may be. Most clients take messages of up to 4 MiB.
const PAGE_BYTES_MAX: usize = 3 << 20;

/// Where a page ended: the last row's value of the order field, and what tells it from its equals.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// The value of the order field, as text.
    pub value: String,
    /// The id of the row, as text.
    pub id: String,
}

/// What a list request asks for.
#[derive(Clone, Copy, Debug, Default)]
pub struct Asked<'a> {
    /// How many rows.
    pub page_size: i32,
    /// From where.
    pub page_token: &'a str,
    /// Which rows.
    pub filter: &'a str,
    /// In which order.
    pub order_by: &'a str,
    /// Whatever else decides which rows there are.
    pub more: &'a str,
}

/// A page to be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// How many rows it has at most.
    pub size: usize,
    /// Where the page before ended.
    pub after: Option<Place>,
    /// The filter in effect.
    pub filter: String,
    /// The order in effect.
    pub order_by: String,
    binding: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Token {
    binding: String,
    filter: String,
    order_by: String,
    place: Place,
}

impl Page {
    /// Reads which page of which list a call asks for.
    ///
    /// # Errors
    ///
    /// A negative size, or a token that is not of this list, filter and order.
    pub fn read(call: &Call, asked: Asked<'_>) -> Result<Self> {
        let account = call.account.as_deref().unwrap_or_default();
        let tenant = call.tenant.as_ref().map_or("", |tenant| &tenant.tenant_id);
        Self::bound(&[call.method, account, tenant, asked.more], asked)
    }

    fn bound(list: &[&str], asked: Asked<'_>) -> Result<Self> {
        let size = match asked.page_size {
            0 => SIZE_DEFAULT,
            size => size.min(SIZE_MAX),
        };
        let size = usize::try_from(size)
            .map_err(|_| Error::invalid("page_size", "is negative: 0 means the default, 50"))?;
        if asked.page_token.is_empty() {
            let (filter, order_by) = (asked.filter.to_owned(), asked.order_by.to_owned());
            let binding = binding(list, &filter, &order_by);
            return Ok(Self { size, after: None, filter, order_by, binding });
        }
        let token = Token::read(asked.page_token)
            .filter(|token| token.binding == binding(list, &token.filter, &token.order_by))
            .ok_or_else(|| refuse("is not a token that this list has given"))?;
        let differs = |sent: &str, bound: &str| !sent.is_empty() && sent != bound;
        if differs(asked.filter, &token.filter) || differs(asked.order_by, &token.order_by) {
            return Err(refuse("was given for another filter or order: send those, or none"));
        }
        let Token { binding, filter, order_by, place } = token;
        Ok(Self { size, after: Some(place), filter, order_by, binding })
    }

    /// How many rows to fetch: one more than the page has, to know whether there is a next one.
    pub fn limit(&self) -> i64 {
        i64::try_from(self.size).map_or(i64::MAX, |size| size + 1)
    }

    /// Cuts the rows fetched to the page; answers the token of the next one, empty on the last.
    pub fn finish<R>(&self, rows: &mut Vec<R>, place: impl Fn(&R) -> Place) -> String {
        self.finish_within(rows, |_| 0, place)
    }

    /// As [`Page::finish`], for rows that may be large: `bytes` says how large about. A page with more
    /// than clients take at once is cut shorter, but never to nothing.
    pub fn finish_within<R>(
        &self,
        rows: &mut Vec<R>,
        bytes: impl Fn(&R) -> usize,
        place: impl Fn(&R) -> Place,
    ) -> String {
        let mut total = 0;
        let fits = |row: &&R| {
            total += bytes(row);
            total <= PAGE_BYTES_MAX
        };
        let keep = rows.iter().take_while(fits).count().clamp(1, self.size);
        if rows.len() <= keep {
            return String::new();
        }
        rows.truncate(keep);
        rows.last().map_or_else(String::new, |last| {
            let token = Token {
                binding: self.binding.clone(),
                filter: self.filter.clone(),
                order_by: self.order_by.clone(),
                place: place(last),
            };
            URL_SAFE_NO_PAD.encode(serde_json::to_vec(&token).expect("texts are JSON"))
        })
    }

    /// The time that a place has as its value.
    ///
    /// # Errors
    ///
    /// When it is none: the token was not given by this list.
    pub fn time(&self, place: &Place) -> Result<DateTime<Utc>> {
        let micros = place.value.parse::<i64>().ok();
        micros
            .and_then(DateTime::from_timestamp_micros)
            .filter(wire::is_storable)
            .ok_or_else(|| self.misplaced())
    }

    /// A token whose place cannot be read.
    pub fn misplaced(&self) -> Error {
        refuse("is not a token that this list has given")
    }
}

impl Token {
    fn read(text: &str) -> Option<Self> {
        // The longest filter and values, in base64, with room to spare.
        if text.len() > 4 * FILTER_BYTES_MAX {
            return None;
        }
        let token: Self = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(text).ok()?).ok()?;
        let stored = |text: &str| !text.contains('\0');
        (stored(&token.place.value) && stored(&token.place.id)).then_some(token)
    }
}

fn refuse(why: &str) -> Error {
    Error::Invalid(vec![Violation::of(ErrorReason::InvalidPageToken, "page_token", why)])
}

/// A hash of everything that decides which rows come in which order.
fn binding(list: &[&str], filter: &str, order_by: &str) -> String {
    let mut hash = Sha256::new();
    for part in list.iter().chain([&filter, &order_by]) {
        // The length keeps two parts from being read as one.
        hash.update(part.len().to_be_bytes());
        hash.update(part);
    }
    hex::encode(&hash.finalize()[..16])
}

/// Orders a boxed query by a column, from behind a place.
///
/// `$after` is the typed value of the place and the condition that holds for rows behind it among
/// those of the same value. That the value is not before the place follows from both, but is what an
/// index starts from.
#[macro_export]
macro_rules! seek {
    ($query:expr, $column:expr, $after:expr, $descending:expr) => {{
        let mut query = $query;
        if let Some((value, behind)) = $after {
            query = if $descending {
                query
                    .filter($column.le(value.clone()))
                    .filter($column.lt(value.clone()).or($column.eq(value).and(behind)))
            } else {
                query
                    .filter($column.ge(value.clone()))
                    .filter($column.gt(value.clone()).or($column.eq(value).and(behind)))
            };
        }
        if $descending { query.order($column.desc()) } else { query.order($column.asc()) }
    }};
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LIST: &[&str] = &["tenantry.v1.TenantService/ListTenants", "acme", ""];

    #[expect(clippy::trivially_copy_pass_by_ref, reason = "as rows are passed")]
    fn place(row: &u32) -> Place {
        Place { value: format!("v{row}"), id: row.to_string() }
    }

    fn token_of(asked: Asked<'_>) -> String {
        Page::bound(LIST, asked).unwrap().finish(&mut vec![1, 2, 3], place)
    }

    fn asked<'a>(token: &'a str, filter: &'a str, order_by: &'a str) -> Asked<'a> {
        Asked { page_size: 2, page_token: token, filter, order_by, more: "" }
    }

    #[test]
    fn a_page_has_50_rows_unless_asked_otherwise_and_1000_at_most() {
        let size = |page_size| Page::bound(LIST, Asked { page_size, ..Asked::default() });

        assert_eq!(size(0).unwrap().size, 50);
        assert_eq!(size(7).unwrap().size, 7);
        assert_eq!(size(i32::MAX).unwrap().size, 1000);
        assert!(size(-1).unwrap_err().to_string().contains("page_size"));
    }

    #[test]
    fn the_next_page_starts_behind_the_last_row() {
        let token = token_of(asked("", "", ""));

        let next = Page::bound(LIST, asked(&token, "", "")).unwrap();

        assert_eq!(next.after, Some(place(&2)));
        assert_eq!(next.finish(&mut vec![3], place), "");
    }

    #[test]
    fn a_token_alone_brings_its_filter_and_order_along() {
        let token = token_of(asked("", "name = x", "name"));

        let next = Page::bound(LIST, asked(&token, "", "")).unwrap();

        assert_eq!((&*next.filter, &*next.order_by), ("name = x", "name"));
    }

    #[test]
    fn a_token_of_another_list_filter_or_order_is_refused() {
        let token = token_of(asked("", "name = x", "name"));
        for (list, filter, order_by, refused) in [
            (["another", "acme", ""], "", "", true),
            ([LIST[0], "other", ""], "", "", true),
            ([LIST[0], "acme", ""], "name = y", "", true),
            ([LIST[0], "acme", ""], "", "name desc", true),
            ([LIST[0], "acme", ""], "name = x", "name", false),
        ] {
            let read = Page::bound(&list, asked(&token, filter, order_by));

            assert_eq!(read.is_err(), refused, "{list:?} {filter} {order_by}");
        }
    }

    proptest! {
        #[test]
        fn a_text_that_is_no_token_is_refused(text in ".+") {
            prop_assert!(Page::bound(LIST, asked(&text, "", "")).is_err());
        }

        #[test]
        fn a_token_with_its_binding_broken_is_refused(at in 0usize..200) {
            let token = token_of(asked("", "", ""));
            let mut bytes = URL_SAFE_NO_PAD.decode(&token).unwrap();
            // The binding stands first: `{"binding":"<32 digits>"`.
            let at = 12 + at % 32;
            bytes[at] ^= 1;

            let broken = URL_SAFE_NO_PAD.encode(bytes);

            prop_assert!(Page::bound(LIST, asked(&broken, "", "")).is_err());
        }
    }
}
