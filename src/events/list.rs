//! Which events a list shows.

use diesel::{dsl::not, pg::Pg, prelude::*};
use diesel_async::{AsyncPgConnection, RunQueryDsl, SimpleAsyncConnection as _};
use prost::Message as _;
use uuid::Uuid;

use super::{
    kinds::KINDS,
    store::{Row, events_in, lowest_id, moment},
};
use crate::{
    db::Scope,
    error::Result,
    filter::{self, Comparison, Condition, Field, FieldKind, Term, Test, TextTest},
    listing::{Listing, no_condition},
    page::{Asked, Place},
    pb,
    rpc::Call,
    schema::events,
};

const FIELDS: &[Field] = &[
    Field { name: "type", kind: FieldKind::Word { prefix: "", words: KINDS } },
    Field { name: "account_id", kind: FieldKind::Id },
    Field { name: "tenant_id", kind: FieldKind::Id },
    Field { name: "resource_type", kind: FieldKind::Id },
    Field { name: "resource_id", kind: FieldKind::Id },
    Field { name: "actor", kind: FieldKind::Id },
    Field { name: "method", kind: FieldKind::Id },
    Field { name: "correlation_id", kind: FieldKind::Id },
    Field { name: "event_time", kind: FieldKind::Time },
];

/// A list of events that was asked for.
pub(super) struct Query {
    listing: Listing,
    tenant: Option<Uuid>,
}

impl Query {
    /// Reads a request.
    ///
    /// # Errors
    ///
    /// What is wrong with its filter, order or page.
    pub(super) fn read(call: &Call, request: &pb::ListEventsRequest) -> Result<Self> {
        let pb::ListEventsRequest { page_size, page_token, filter, order_by } = request;
        let asked = Asked { page_size: *page_size, page_token, filter, order_by, more: "" };
        let listing = Listing::read(call, asked, FIELDS, &["event_time"])?;
        let tenant = call.tenant.as_ref().filter(|tenant| tenant.named).map(|tenant| tenant.uid);
        Ok(Self { listing, tenant })
    }

    /// Reads the page; answers its events and the token of the next one.
    ///
    /// # Errors
    ///
    /// What the database reports.
    pub(super) async fn run(
        &self,
        conn: &mut AsyncPgConnection,
        scope: &Scope,
    ) -> Result<(Vec<pb::Event>, String)> {
        let Listing { page, terms, order } = &self.listing;
        // Which index is best is a question of the values.
        conn.batch_execute("set local plan_cache_mode = force_custom_plan").await?;
        let mut query = events_in(scope).into_boxed::<Pg>();
        if let Some(uid) = self.tenant {
            query = query.filter(events::tenant_uid.eq(uid));
        }
        for term in terms {
            if let Some(condition) = bound(term) {
                query = query.filter(condition);
            }
            let condition = condition(term)?;
            query =
                if term.negated { query.filter(not(condition)) } else { query.filter(condition) };
        }
        if let Some(place) = &page.after {
            let id = place.id.parse::<Uuid>().map_err(|_| page.misplaced())?;
            query = if order.descending {
                query.filter(events::event_id.lt(id))
            } else {
                query.filter(events::event_id.gt(id))
            };
        }
        let query = if order.descending {
            query.order(events::event_id.desc())
        } else {
            query.order(events::event_id.asc())
        };
        // First, so that no cursor leads beyond what is not settled yet.
        let moment = moment(conn).await?;
        let rows: Vec<Row> = query.limit(page.limit()).select(Row::as_select()).load(conn).await?;
        let tell = |row: Row| {
            let (id, cursor) = (row.id(), moment.cursor_of(row.place()));
            (id, row.told(cursor))
        };
        let mut told = rows.into_iter().map(tell).collect::<Vec<_>>();
        let bytes = |(_, event): &(Uuid, pb::Event)| event.encoded_len();
        let place =
            |(id, _): &(Uuid, pb::Event)| Place { value: String::new(), id: id.to_string() };
        let token = page.finish_within(&mut told, bytes, place);
        Ok((told.into_iter().map(|(_, event)| event).collect(), token))
    }
}

/// What a term on the time says of the ids too, which begin with the time: with it, only the partitions
/// that can hold such are read.
fn bound(term: &Term) -> Option<Condition<events::table>> {
    // The clock of the time was read a little before that of the id.
    let margin = chrono::TimeDelta::days(1);
    match term.test {
        Test::Time(Comparison::Greater | Comparison::GreaterOrEqual, time) if !term.negated => {
            Some(Box::new(events::event_id.ge(lowest_id(time - margin))))
        }
        Test::Time(Comparison::Less | Comparison::LessOrEqual, time) if !term.negated => {
            Some(Box::new(events::event_id.le(lowest_id(time + margin))))
        }
        _ => None,
    }
}

fn condition(term: &Term) -> Result<Condition<events::table>> {
    let Test::Text(TextTest::Equals(value)) = &term.test else {
        return Ok(match (term.field, &term.test) {
            ("event_time", Test::Time(comparison, time)) => {
                filter::time(events::event_time, *comparison, *time)
            }
            ("type", Test::Choice(word)) => Box::new(events::type_.eq(*word)),
            (field, _) => return Err(no_condition(field)),
        });
    };
    let value = value.clone();
    Ok(match term.field {
        // Where there is none, the answer is no, not unknown: it must stand being negated.
        "account_id" => {
            let there = events::account_id.is_not_null();
            Box::new(there.and(events::account_id.assume_not_null().eq(value)))
        }
        "tenant_id" => {
            let there = events::tenant_id.is_not_null();
            Box::new(there.and(events::tenant_id.assume_not_null().eq(value)))
        }
        "resource_type" => Box::new(events::resource_type.eq(value)),
        "resource_id" => Box::new(events::resource_id.eq(value)),
        "actor" => Box::new(events::actor.eq(value)),
        "method" => Box::new(events::method.eq(value)),
        "correlation_id" => Box::new(events::correlation_id.eq(value)),
        field => return Err(no_condition(field)),
    })
}
