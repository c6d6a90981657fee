//! Which API keys a list shows, in which order; and the roles.

use chrono::{DateTime, Utc};
use diesel::{dsl::not, pg::Pg, prelude::*};
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use uuid::Uuid;

use super::{
    master::MasterKey,
    model::{ApiKey, KeyRecord, KeyScope},
    roles::ROLES,
    secret::KeyRef,
    store::{Condition, Row, keys_of, last_used_time, remaining},
};
use crate::{
    error::Result,
    filter::{self, Comparison, Field, FieldKind, Term, Test},
    listing::{Listing, no_condition},
    page::{Asked, Page, Place},
    pb,
    rpc::Call,
    schema::{api_keys, key_usage, tenant_directory},
    seek,
    tenants::store::Claim,
};

const FIELDS: &[Field] = &[
    Field { name: "name", kind: FieldKind::Text },
    Field {
        name: "scope",
        kind: FieldKind::Choice { prefix: "API_KEY_SCOPE_", words: KeyScope::TEXTS },
    },
    Field {
        name: "state",
        kind: FieldKind::Choice {
            prefix: "API_KEY_STATE_",
            words: &["ACTIVE", "DISABLED", "ROTATING", "EXPIRED", "REVOKED"],
        },
    },
    Field { name: "account_id", kind: FieldKind::Text },
    Field { name: "tenant_id", kind: FieldKind::Text },
    Field { name: "environment", kind: FieldKind::Text },
    Field { name: "create_time", kind: FieldKind::Time },
    Field { name: "expire_time", kind: FieldKind::Time },
    Field { name: "last_used_time", kind: FieldKind::Time },
];

const ORDERS: &[&str] = &["create_time", "name"];

/// A list of API keys that was asked for.
pub struct KeyQuery {
    listing: Listing,
    now: DateTime<Utc>,
}

impl KeyQuery {
    /// Reads a request at a time, by which keys have expired or not.
    ///
    /// # Errors
    ///
    /// What is wrong with its filter, order or page.
    pub fn read(call: &Call, request: &pb::ListApiKeysRequest, now: DateTime<Utc>) -> Result<Self> {
        let pb::ListApiKeysRequest { page_size, page_token, filter, order_by } = request;
        let asked = Asked { page_size: *page_size, page_token, filter, order_by, more: "" };
        let listing = Listing::read(call, asked, FIELDS, ORDERS)?;
        Ok(Self { listing, now })
    }

    /// Reads the page; answers its keys and the token of the next one.
    ///
    /// # Errors
    ///
    /// What the database reports.
    pub async fn run(
        &self,
        conn: &mut AsyncPgConnection,
        call: &Call,
        master: &MasterKey,
    ) -> Result<(Vec<KeyRecord>, String)> {
        let Listing { page, terms, order } = &self.listing;
        let mut query = keys_of(call).into_boxed::<Pg>();
        for term in terms {
            let condition = self.condition(term)?;
            query =
                if term.negated { query.filter(not(condition)) } else { query.filter(condition) };
        }
        // The public id in the token leads back to the primary key.
        let place = match &page.after {
            None => None,
            Some(place) => {
                let id = place.id.parse::<Uuid>().map_err(|_| page.misplaced())?;
                let KeyRef { route, number } = KeyRef::from_public_id(id, master);
                let behind = api_keys::number
                    .gt(number)
                    .or(api_keys::number.eq(number).and(api_keys::route.gt(route)));
                Some((place, behind))
            }
        };
        let down = order.descending;
        let query = match order.field {
            "name" => {
                let after = place.map(|(place, behind)| (place.value.clone(), behind));
                seek!(query, api_keys::name, after, down)
            }
            _ => {
                let after = match place {
                    Some((place, behind)) => Some((page.time(place)?, behind)),
                    None => None,
                };
                seek!(query, api_keys::create_time, after, down)
            }
        };
        let found: Vec<Row> = query
            .then_order_by((api_keys::number, api_keys::route))
            .limit(page.limit())
            .select((ApiKey::as_select(), remaining(), last_used_time()))
            .load(conn)
            .await?;
        let mut found = found.into_iter().map(KeyRecord::from).collect();
        let token = page.finish(&mut found, |KeyRecord { key, .. }| Place {
            value: match order.field {
                "name" => key.name.clone(),
                _ => key.create_time.timestamp_micros().to_string(),
            },
            id: key.public_id(master).to_string(),
        });
        Ok((found, token))
    }

    fn condition(&self, term: &Term) -> Result<Condition> {
        let revoked = api_keys::revoke_time.is_not_null();
        let end = api_keys::expire_time;
        let ended = end.is_not_null().and(end.assume_not_null().le(self.now));
        let enabled = not(revoked).and(api_keys::enabled);
        let overlap = api_keys::old_end_time;
        let rotating = overlap.is_not_null().and(overlap.assume_not_null().gt(self.now));
        Ok(match (term.field, &term.test) {
            ("name", Test::Text(test)) => filter::text(api_keys::name, test),
            ("scope", Test::Choice(word)) => Box::new(api_keys::scope.eq(*word)),
            ("state", Test::Choice("REVOKED")) => Box::new(revoked),
            ("state", Test::Choice("DISABLED")) => {
                Box::new(not(revoked).and(not(api_keys::enabled)))
            }
            ("state", Test::Choice("EXPIRED")) => Box::new(enabled.and(ended)),
            ("state", Test::Choice("ROTATING")) => Box::new(enabled.and(not(ended)).and(rotating)),
            ("state", Test::Choice(_)) => Box::new(enabled.and(not(ended)).and(not(rotating))),
            // Where a key has none, the answer is no, not unknown: it must stand being negated.
            ("account_id", Test::Text(test)) => {
                let account = api_keys::account_id;
                let is: Condition = filter::text(account.assume_not_null(), test);
                Box::new(account.is_not_null().and(is))
            }
            ("environment", Test::Text(test)) => {
                let environment = api_keys::environment;
                let is: Condition = filter::text(environment.assume_not_null(), test);
                Box::new(environment.is_not_null().and(is))
            }
            ("tenant_id", Test::Text(test)) => {
                let tenants = tenant_directory::table
                    .into_boxed::<Pg>()
                    .filter(tenant_directory::kind.eq(Claim::TenantId.as_str()))
                    .filter(filter::text(tenant_directory::key, test))
                    .select(tenant_directory::tenant_uid);
                let uid = api_keys::tenant_uid;
                Box::new(uid.is_not_null().and(uid.assume_not_null().eq_any(tenants)))
            }
            ("create_time", Test::Time(comparison, time)) => {
                filter::time(api_keys::create_time, *comparison, *time)
            }
            ("expire_time", Test::Time(comparison, time)) => {
                let is: Condition = filter::time(end.assume_not_null(), *comparison, *time);
                Box::new(end.is_not_null().and(is))
            }
            ("last_used_time", Test::Time(comparison, time)) => used(*comparison, *time),
            (field, _) => {
                return Err(no_condition(field));
            }
        })
    }
}

/// That a key was used at such a time; of one that was never used it is false, and so negated true.
fn used(comparison: Comparison, time: DateTime<Utc>) -> Condition {
    let numbers =
        key_usage::table.filter(key_usage::route.eq(api_keys::route)).select(key_usage::number);
    let used = key_usage::last_used_time;
    match comparison {
        Comparison::Less => Box::new(api_keys::number.eq_any(numbers.filter(used.lt(time)))),
        Comparison::LessOrEqual => Box::new(api_keys::number.eq_any(numbers.filter(used.le(time)))),
        Comparison::Greater => Box::new(api_keys::number.eq_any(numbers.filter(used.gt(time)))),
        Comparison::GreaterOrEqual => {
            Box::new(api_keys::number.eq_any(numbers.filter(used.ge(time))))
        }
    }
}

/// The page of the roles that was asked for.
///
/// # Errors
///
/// What is wrong with the page.
pub fn roles(call: &Call, request: &pb::ListRolesRequest) -> Result<(Vec<pb::Role>, String)> {
    let pb::ListRolesRequest { page_size, page_token } = request;
    let page = Page::read(call, Asked { page_size: *page_size, page_token, ..Asked::default() })?;
    let start = match &page.after {
        None => 0,
        Some(place) => {
            let last = ROLES.iter().position(|role| role.id == place.id);
            last.ok_or_else(|| page.misplaced())? + 1
        }
    };
    let mut rest = ROLES[start..].iter().collect::<Vec<_>>();
    let token =
        page.finish(&mut rest, |role| Place { value: String::new(), id: role.id.to_owned() });
    Ok((rest.into_iter().map(pb::Role::from).collect(), token))
}
