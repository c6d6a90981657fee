//! Which external keys a list shows, in which order (1-41).

use chrono::{DateTime, Utc};
use diesel::{
    dsl::{exists, not},
    pg::Pg,
    prelude::*,
};
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use uuid::Uuid;

use super::{
    model::{ExternalKey, KeyState},
    store::keys_of,
};
use crate::{
    error::Result,
    filter::{self, Comparison, Condition, Field, FieldKind, Term, Test, TextTest},
    keys::{master::MasterKey, secret::KeyRef},
    listing::{Listing, no_condition},
    page::{Asked, Place},
    pb,
    rpc::Call,
    schema::{external_keys, key_usage, tenant_app_keys, tenant_installations, tenants},
    seek,
};

const FIELDS: &[Field] = &[
    Field { name: "label", kind: FieldKind::Text },
    Field { name: "app_key_id", kind: FieldKind::Text },
    Field { name: "installation_id", kind: FieldKind::Text },
    Field { name: "product_code", kind: FieldKind::Text },
    Field { name: "package_code", kind: FieldKind::Text },
    Field { name: "environment", kind: FieldKind::Text },
    Field { name: "tenant_id", kind: FieldKind::Text },
    Field { name: "tenant_code", kind: FieldKind::Text },
    Field {
        name: "state",
        kind: FieldKind::Choice { prefix: "EXTERNAL_KEY_STATE_", words: KeyState::TEXTS },
    },
    Field { name: "create_time", kind: FieldKind::Time },
    Field { name: "expire_time", kind: FieldKind::Time },
    Field { name: "last_used_time", kind: FieldKind::Time },
];

const ORDERS: &[&str] = &["create_time", "label"];

/// Keys whose tenant has a column like this.
macro_rules! of_tenants {
    ($column:expr, $test:expr) => {{
        let tenant = tenants::table.filter(tenants::uid.eq(external_keys::tenant_uid));
        match $test.clone() {
            TextTest::Equals(value) => Box::new(exists(tenant.filter($column.eq(value)))),
            TextTest::Like(pattern) => Box::new(exists(tenant.filter($column.like(pattern)))),
            TextTest::LikeAnyCase(pattern) => {
                Box::new(exists(tenant.filter($column.ilike(pattern))))
            }
        }
    }};
}

/// Keys whose installation has a column like this.
macro_rules! of_installations {
    ($column:expr, $test:expr) => {{
        let of_app_key = tenant_installations::tenant_uid
            .eq(tenant_app_keys::tenant_uid)
            .and(tenant_installations::installation_id.eq(tenant_app_keys::installation_id));
        let installation = tenant_app_keys::table
            .inner_join(tenant_installations::table.on(of_app_key))
            .filter(tenant_app_keys::tenant_uid.eq(external_keys::tenant_uid))
            .filter(tenant_app_keys::app_key_id.eq(external_keys::app_key_id));
        match $test.clone() {
            TextTest::Equals(value) => Box::new(exists(installation.filter($column.eq(value)))),
            TextTest::Like(pattern) => Box::new(exists(installation.filter($column.like(pattern)))),
            TextTest::LikeAnyCase(pattern) => {
                Box::new(exists(installation.filter($column.ilike(pattern))))
            }
        }
    }};
}

/// A list of external keys that was asked for.
pub(super) struct Query {
    listing: Listing,
    now: DateTime<Utc>,
}

impl Query {
    /// Reads a request at a time, by which keys have expired or not.
    pub(super) fn read(
        call: &Call,
        request: &pb::ListExternalKeysRequest,
        now: DateTime<Utc>,
    ) -> Result<Self> {
        let pb::ListExternalKeysRequest { page_size, page_token, filter, order_by } = request;
        let asked = Asked { page_size: *page_size, page_token, filter, order_by, more: "" };
        let listing = Listing::read(call, asked, FIELDS, ORDERS)?;
        Ok(Self { listing, now })
    }

    /// Reads the page; answers its keys and the token of the next one.
    pub(super) async fn run(
        &self,
        conn: &mut AsyncPgConnection,
        call: &Call,
        master: &MasterKey,
    ) -> Result<(Vec<ExternalKey>, String)> {
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
                let behind = external_keys::number
                    .gt(number)
                    .or(external_keys::number.eq(number).and(external_keys::route.gt(route)));
                Some((place, behind))
            }
        };
        let down = order.descending;
        let query = match order.field {
            "label" => {
                let after = place.map(|(place, behind)| (place.value.clone(), behind));
                seek!(query, external_keys::label, after, down)
            }
            _ => {
                let after = match place {
                    Some((place, behind)) => Some((page.time(place)?, behind)),
                    None => None,
                };
                seek!(query, external_keys::create_time, after, down)
            }
        };
        let mut found: Vec<ExternalKey> = query
            .then_order_by((external_keys::number, external_keys::route))
            .limit(page.limit())
            .select(ExternalKey::as_select())
            .load(conn)
            .await?;
        // Rules may be long; the rest of a key is not.
        let bytes = |key: &ExternalKey| {
            let rules = [&key.device, &key.geo];
            1_000
                + rules
                    .map(|rules| rules.as_ref().map_or(0, |rules| rules.to_string().len()))
                    .iter()
                    .sum::<usize>()
        };
        let token = page.finish_within(&mut found, bytes, |key| Place {
            value: match order.field {
                "label" => key.label.clone(),
                _ => key.create_time.timestamp_micros().to_string(),
            },
            id: key.key_ref().public_id(master).to_string(),
        });
        Ok((found, token))
    }

    fn condition(&self, term: &Term) -> Result<Condition<external_keys::table>> {
        let end = external_keys::expire_time;
        Ok(match (term.field, &term.test) {
            ("label", Test::Text(test)) => filter::text(external_keys::label, test),
            ("app_key_id", Test::Text(test)) => filter::text(external_keys::app_key_id, test),
            ("environment", Test::Text(test)) => filter::text(external_keys::environment, test),
            ("tenant_id", Test::Text(test)) => of_tenants!(tenants::tenant_id, test),
            ("tenant_code", Test::Text(test)) => of_tenants!(tenants::code, test),
            ("installation_id", Test::Text(test)) => {
                of_installations!(tenant_installations::installation_id, test)
            }
            ("product_code", Test::Text(test)) => {
                of_installations!(tenant_installations::product_code, test)
            }
            ("package_code", Test::Text(test)) => {
                of_installations!(tenant_installations::package_code, test)
            }
            ("state", Test::Choice(word)) => self.is_in(word),
            ("create_time", Test::Time(comparison, time)) => {
                filter::time(external_keys::create_time, *comparison, *time)
            }
            // Where a key has none, the answer is no, not unknown: it must stand being negated.
            ("expire_time", Test::Time(comparison, time)) => {
                let is: Condition<_> = filter::time(end.assume_not_null(), *comparison, *time);
                Box::new(end.is_not_null().and(is))
            }
            ("last_used_time", Test::Time(comparison, time)) => was_used(*comparison, *time),
            (field, _) => {
                return Err(no_condition(field));
            }
        })
    }

    /// Keys in a state: what [`ExternalKey::state`] says, as a condition.
    fn is_in(&self, state: &str) -> Condition<external_keys::table> {
        let (end, old_end) = (external_keys::expire_time, external_keys::old_end_time);
        let alive = external_keys::revoke_time.is_null().and(external_keys::enabled);
        let ended = end.is_not_null().and(end.assume_not_null().le(self.now));
        let rotating = old_end.is_not_null().and(old_end.assume_not_null().gt(self.now));
        match state {
            "REVOKED" => Box::new(external_keys::revoke_time.is_not_null()),
            "DISABLED" => {
                Box::new(external_keys::revoke_time.is_null().and(not(external_keys::enabled)))
            }
            "EXPIRED" => Box::new(alive.and(ended)),
            "ROTATING" => Box::new(alive.and(not(ended)).and(rotating)),
            _ => Box::new(alive.and(not(ended)).and(not(rotating))),
        }
    }
}

/// Keys that were used last at such a time. One that never was, was not.
fn was_used(comparison: Comparison, at: DateTime<Utc>) -> Condition<external_keys::table> {
    let used = key_usage::table
        .filter(key_usage::route.eq(external_keys::route))
        .filter(key_usage::number.eq(external_keys::number));
    let time = key_usage::last_used_time;
    match comparison {
        Comparison::Less => Box::new(exists(used.filter(time.lt(at)))),
        Comparison::LessOrEqual => Box::new(exists(used.filter(time.le(at)))),
        Comparison::Greater => Box::new(exists(used.filter(time.gt(at)))),
        Comparison::GreaterOrEqual => Box::new(exists(used.filter(time.ge(at)))),
    }
}
