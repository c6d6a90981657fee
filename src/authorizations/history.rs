//! Which authorizations a list shows, those that have ended too (0-16).

use chrono::{DateTime, Utc};
use diesel::{
    dsl::{exists, not, sql},
    pg::Pg,
    prelude::*,
    sql_types::Bool,
};
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use uuid::Uuid;

use super::grants::{Authorization, Fate, Used, is_live, last_used_time, rows_of};
use crate::{
    error::Result,
    filter::{self, Comparison, Condition, Field, FieldKind, Test, TextTest},
    listing::{Listing, no_condition},
    page::{Asked, Place},
    pb,
    rpc::Call,
    schema::{tenant_authorization_usage, tenant_authorizations},
    seek,
};

const STATES: &[&str] = &["ACTIVE", "REAPPROVAL_REQUIRED", "REVOKED", "EXPIRED"];

const FIELDS: &[Field] = &[
    Field { name: "tenant_id", kind: FieldKind::Id },
    Field { name: "application_id", kind: FieldKind::Id },
    Field { name: "environment", kind: FieldKind::Id },
    Field {
        name: "state",
        kind: FieldKind::Choice { prefix: "AUTHORIZATION_STATE_", words: STATES },
    },
    Field { name: "grant_time", kind: FieldKind::Time },
    Field { name: "valid_until", kind: FieldKind::Time },
    Field { name: "revoke_time", kind: FieldKind::Time },
    Field { name: "last_used_time", kind: FieldKind::Time },
];

/// A list of authorizations that was asked for.
pub(super) struct Query {
    listing: Listing,
    now: DateTime<Utc>,
}

impl Query {
    pub(super) fn read(
        call: &Call,
        request: &pb::ListAuthorizationsRequest,
        now: DateTime<Utc>,
    ) -> Result<Self> {
        let pb::ListAuthorizationsRequest { page_size, page_token, filter, order_by } = request;
        let asked = Asked { page_size: *page_size, page_token, filter, order_by, more: "" };
        let listing = Listing::read(call, asked, FIELDS, &["grant_time"])?;
        Ok(Self { listing, now })
    }

    /// Reads the page; answers its authorizations and the token of the next one.
    pub(super) async fn run(
        &self,
        conn: &mut AsyncPgConnection,
        call: &Call,
    ) -> Result<(Vec<Used>, String)> {
        let Listing { page, terms, order } = &self.listing;
        let mut query = rows_of(call).into_boxed::<Pg>();
        for term in terms {
            let condition = self.condition(term.field, &term.test)?;
            query =
                if term.negated { query.filter(not(condition)) } else { query.filter(condition) };
        }
        let after = match &page.after {
            None => None,
            Some(place) => {
                let id = place.id.parse::<Uuid>().map_err(|_| page.misplaced())?;
                Some((page.time(place)?, tenant_authorizations::authorization_id.gt(id)))
            }
        };
        let query = seek!(query, tenant_authorizations::grant_time, after, order.descending);
        let mut found: Vec<Used> = query
            .then_order_by(tenant_authorizations::authorization_id)
            .limit(page.limit())
            .select((Authorization::as_select(), last_used_time()))
            .load(conn)
            .await?;
        let bytes = |(row, _): &Used| {
            let scopes = row.granted_scopes.iter().flatten().map(String::len).sum::<usize>();
            scopes + row.revoke_reason.as_ref().map_or(0, String::len) + 500
        };
        let token = page.finish_within(&mut found, bytes, |(row, _)| Place {
            value: row.grant_time.timestamp_micros().to_string(),
            id: row.authorization_id.to_string(),
        });
        Ok((found, token))
    }

    fn condition(
        &self,
        field: &'static str,
        test: &Test,
    ) -> Result<Condition<tenant_authorizations::table>> {
        let live = || is_live(self.now);
        Ok(match (field, test) {
            ("tenant_id", Test::Text(TextTest::Equals(id))) => {
                Box::new(tenant_authorizations::tenant_id.eq(id.clone()))
            }
            ("application_id", Test::Text(TextTest::Equals(id))) => {
                Box::new(tenant_authorizations::application_id.eq(id.clone()))
            }
            ("environment", Test::Text(TextTest::Equals(id))) => {
                Box::new(tenant_authorizations::environment.eq(id.to_ascii_lowercase()))
            }
            ("state", Test::Choice(word @ ("ACTIVE" | "REAPPROVAL_REQUIRED"))) => {
                let asks = sql::<Bool>("requested_scopes <> '{}'");
                if *word == "ACTIVE" {
                    Box::new(live().and(not(asks)))
                } else {
                    Box::new(live().and(asks))
                }
            }
            ("state", Test::Choice("REVOKED")) => {
                Box::new(tenant_authorizations::state.eq(Fate::Revoked))
            }
            ("state", Test::Choice(_)) => {
                Box::new(tenant_authorizations::state.ne(Fate::Revoked).and(not(live())))
            }
            ("grant_time", Test::Time(comparison, time)) => {
                filter::time(tenant_authorizations::grant_time, *comparison, *time)
            }
            // Where there is none, the answer is no, not unknown: it must stand being negated.
            ("valid_until", Test::Time(comparison, time)) => {
                let end = tenant_authorizations::valid_until;
                let is: Condition<tenant_authorizations::table> =
                    filter::time(end.assume_not_null(), *comparison, *time);
                Box::new(end.is_not_null().and(is))
            }
            ("revoke_time", Test::Time(comparison, time)) => {
                let end = tenant_authorizations::revoke_time;
                let is: Condition<tenant_authorizations::table> =
                    filter::time(end.assume_not_null(), *comparison, *time);
                Box::new(end.is_not_null().and(is))
            }
            ("last_used_time", Test::Time(comparison, time)) => was_used(*comparison, *time),
            (field, _) => return Err(no_condition(field)),
        })
    }
}

/// Authorizations that were used last at such a time. One that never was, was not.
fn was_used(comparison: Comparison, at: DateTime<Utc>) -> Condition<tenant_authorizations::table> {
    let used = tenant_authorization_usage::table
        .filter(tenant_authorization_usage::tenant_uid.eq(tenant_authorizations::tenant_uid))
        .filter(
            tenant_authorization_usage::authorization_id
                .eq(tenant_authorizations::authorization_id),
        );
    let time = tenant_authorization_usage::last_used_time;
    match comparison {
        Comparison::Less => Box::new(exists(used.filter(time.lt(at)))),
        Comparison::LessOrEqual => Box::new(exists(used.filter(time.le(at)))),
        Comparison::Greater => Box::new(exists(used.filter(time.gt(at)))),
        Comparison::GreaterOrEqual => Box::new(exists(used.filter(time.ge(at)))),
    }
}
