//! Reads events.

use chrono::{DateTime, Utc};
use diesel::{
    dsl::{not, sql},
    pg::Pg,
    prelude::*,
    sql_types::{BigInt, Bool, Text, Timestamptz},
};
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use serde_json::{Value, json};
use uuid::Uuid;

use super::{
    cursor::{Cursor, Place},
    kinds,
};
use crate::{
    db::Scope,
    error::{Result, causes},
    filter::Condition,
    pb,
    rpc::permit::message_of,
    schema::{event_partitions, events},
    wire::timestamp,
};

/// How large `before` and `after` of an event may be together, to be told: clients take messages of up
/// to 4 MiB.
const PAYLOAD_MAX: usize = 2 << 20;

/// An event as it is stored.
#[derive(Clone, Debug, HasQuery)]
#[diesel(table_name = events, check_for_backend(Pg))]
pub struct Row {
    event_id: Uuid,
    position: i64,
    recorded_time: DateTime<Utc>,
    #[diesel(column_name = type_)]
    kind: String,
    method: String,
    account_id: Option<String>,
    tenant_uid: Option<Uuid>,
    tenant_id: Option<String>,
    ancestors: Option<Vec<Option<Uuid>>>,
    resource_type: String,
    resource_id: String,
    actor: String,
    on_behalf_of: Option<String>,
    correlation_id: String,
    before: Option<Value>,
    after: Option<Value>,
    event_time: DateTime<Utc>,
}

/// Whom an event concerns: what decides who may see it, as the policies of the table have it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Concerned {
    /// The account, unless it belongs to the system.
    pub account_id: Option<String>,
    /// The tenant.
    pub tenant_uid: Option<Uuid>,
    /// The tenants above it.
    pub ancestors: Vec<Uuid>,
}

impl Concerned {
    /// Whether an event that concerns these lies within a scope.
    pub fn is_within(&self, scope: &Scope) -> bool {
        match scope {
            Scope::System => true,
            Scope::Account(account) => self.account_id.as_ref() == Some(account),
            Scope::Tenant(uid) => self.tenant_uid == Some(*uid),
            Scope::Provider(uid) => self.tenant_uid == Some(*uid) || self.ancestors.contains(uid),
            Scope::Tenants(_) | Scope::Reseller { .. } | Scope::Publisher(_) => false,
        }
    }
}

impl Row {
    /// Where it stands.
    pub fn place(&self) -> Place {
        Place {
            position: self.position,
            recorded: self.recorded_time.timestamp_micros(),
            event_id: self.event_id,
        }
    }

    /// Its id.
    pub fn id(&self) -> Uuid {
        self.event_id
    }

    /// The tenant of which nothing is to be told any more, if that is what happened.
    pub fn expunged(&self) -> Option<Uuid> {
        self.tenant_uid.filter(|_| self.kind == "tenant.expunged")
    }

    /// Whom it concerns.
    pub fn concerned(&self) -> Concerned {
        Concerned {
            account_id: self.account_id.clone(),
            tenant_uid: self.tenant_uid,
            ancestors: self.ancestors.iter().flatten().flatten().copied().collect(),
        }
    }

    /// The event as callers are told of it, with this cursor.
    pub fn told(self, cursor: Cursor) -> pb::Event {
        let Self {
            event_id,
            position: _,
            recorded_time: _,
            kind,
            method,
            account_id,
            tenant_uid,
            tenant_id,
            ancestors: _,
            resource_type,
            resource_id,
            actor,
            on_behalf_of,
            correlation_id,
            before,
            after,
            event_time,
        } = self;
        let part = kinds::resource_of(&kind, &resource_type);
        let read = |value: Value| {
            // One that cannot be read must not keep others from being told.
            message_of::<pb::EventResource>(json!({part: value}))
                .inspect_err(|error| {
                    tracing::error!(%event_id, error = causes(error), "an event cannot be read");
                })
                .ok()
        };
        let (before, after) = (before.and_then(read), after.and_then(read));
        let size = |payload: &Option<_>| payload.as_ref().map_or(0, prost::Message::encoded_len);
        let payload_omitted = size(&before) + size(&after) > PAYLOAD_MAX;
        let keep = |payload| if payload_omitted { None } else { payload };
        pb::Event {
            cursor: cursor.encode(),
            event_id: event_id.to_string(),
            r#type: kind,
            account_id: account_id.unwrap_or_default(),
            tenant_id: tenant_id.unwrap_or_default(),
            tenant_uid: tenant_uid.map(|uid| uid.to_string()).unwrap_or_default(),
            resource_type,
            resource_id,
            actor,
            on_behalf_of: on_behalf_of.unwrap_or_default(),
            method,
            correlation_id,
            before: keep(before),
            after: keep(after),
            event_time: Some(timestamp(event_time)),
            payload_omitted,
        }
    }
}

/// What the database knows at one moment of who is done.
#[derive(Clone, Debug, QueryableByName)]
pub struct Moment {
    /// The snapshot, as Postgres writes it.
    #[diesel(sql_type = Text)]
    pub snapshot: String,
    /// What lies below this position is settled.
    #[diesel(sql_type = BigInt)]
    pub settled_below: i64,
    /// No position is as high yet.
    #[diesel(sql_type = BigInt)]
    pub next: i64,
}

impl Moment {
    /// The cursor behind all that is settled.
    pub fn cursor(&self, now: DateTime<Utc>) -> Cursor {
        Cursor { place: Place::before(self.settled_below), time: now.timestamp_micros() }
    }

    /// The cursor of what stands at a place: its own, if it is settled.
    pub fn cursor_of(&self, place: Place) -> Cursor {
        let own = Cursor::of(place);
        let settled = Place::before(self.settled_below);
        if place < settled { own } else { Cursor { place: settled, ..own } }
    }
}

/// Looks who is done, before any event is read by a later statement.
///
/// Only who writes events holds them back, and not every transaction that somebody forgot: whoever has
/// written one has a lock on the table until its end, and its position is not below the number of its
/// transaction. Whoever has none yet will get a position that is not given away yet.
///
/// # Errors
///
/// What the database reports.
pub async fn moment(conn: &mut AsyncPgConnection) -> Result<Moment> {
    // The numbers in pg_locks lack the upper half, and may be ahead of the snapshot.
    Ok(diesel::sql_query(
        "select snapshot::text as snapshot, next, least(next, min(
                 case when behind < 2147483648 then next - behind end)) as settled_below
             from (select pg_current_snapshot() as snapshot,
                     pg_snapshot_xmax(pg_current_snapshot())::text::bigint as next) as now
             left join lateral (
                 select (next - number.transactionid::text::bigint) & 4294967295 as behind
                     from pg_locks as writer
                     join pg_locks as number using (virtualtransaction)
                     where writer.relation = 'events'::regclass
                         and writer.database = (select oid from pg_database where datname = current_database())
                         and writer.mode = 'RowExclusiveLock'
                         and number.locktype = 'transactionid' and number.mode = 'ExclusiveLock'
             ) as open on true
             group by snapshot::text, next",
    )
    .get_result(conn)
    .await?)
}

/// What of an event those need to know who keep something that it may have changed.
#[derive(Clone, Debug, PartialEq, Eq, Queryable)]
pub struct Fresh {
    /// Its type.
    pub kind: String,
    /// The account that it concerns.
    pub account_id: Option<String>,
    /// The tenant that it concerns.
    pub tenant_uid: Option<Uuid>,
    /// What it happened to.
    pub resource_id: String,
    /// Its position.
    pub position: i64,
}

/// Gives away a number, so that an event at the first position that was not given away is settled.
///
/// # Errors
///
/// What the database reports.
pub async fn give_away_number(conn: &mut AsyncPgConnection) -> Result<()> {
    diesel::sql_query("select pg_current_xact_id()").execute(conn).await?;
    Ok(())
}

/// Reads what was committed since an earlier moment, settled or not: each event once, at the first
/// moment that sees it.
///
/// `oldest` bounds the ids; no transaction goes on for as long.
///
/// # Errors
///
/// What the database reports.
pub async fn fresh(
    conn: &mut AsyncPgConnection,
    since: &Moment,
    oldest: Uuid,
    limit: i64,
) -> Result<Vec<Fresh>> {
    let seen = sql::<Bool>("pg_visible_in_snapshot(events.transaction_id, ")
        .bind::<Text, _>(since.snapshot.clone())
        .sql("::pg_snapshot)");
    Ok(events::table
        .filter(events::event_id.ge(oldest))
        // No position is below the number of its transaction.
        .filter(events::position.ge(since.settled_below))
        .filter(not(seen))
        .select((
            events::type_,
            events::account_id,
            events::tenant_uid,
            events::resource_id,
            events::position,
        ))
        .limit(limit)
        .load(conn)
        .await?)
}

/// Which events are asked for.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    /// Of these types; none means all.
    pub kinds: Vec<String>,
    /// Of the tenant with this id.
    pub tenant_id: Option<String>,
}

/// Reads events in their order, from behind a place up to another, below which they are settled.
///
/// # Errors
///
/// What the database reports.
pub async fn settled(
    conn: &mut AsyncPgConnection,
    within: &Scope,
    wanted: &Wanted,
    (after, to): (Place, Place),
    oldest: Uuid,
    limit: i64,
) -> Result<Vec<Row>> {
    let time = |place: Place| DateTime::from_timestamp_micros(place.recorded).unwrap_or_default();
    let behind = events::recorded_time
        .gt(time(after))
        .or(events::recorded_time.eq(time(after)).and(events::event_id.gt(after.event_id)));
    let before = events::recorded_time
        .lt(time(to))
        .or(events::recorded_time.eq(time(to)).and(events::event_id.le(to.event_id)));
    let mut query = events_in(within)
        .into_boxed::<Pg>()
        .filter(events::event_id.ge(oldest))
        // What an index starts from and ends with, and then the rest of the places.
        .filter(events::position.ge(after.position).and(events::position.le(to.position)))
        .filter(events::position.gt(after.position).or(behind))
        .filter(events::position.lt(to.position).or(before));
    if !wanted.kinds.is_empty() {
        query = query.filter(events::type_.eq_any(&wanted.kinds));
    }
    if let Some(tenant_id) = &wanted.tenant_id {
        query = query.filter(events::tenant_id.eq(tenant_id));
    }
    Ok(query
        .order((events::position, events::recorded_time, events::event_id))
        .limit(limit)
        .select(Row::as_select())
        .load(conn)
        .await?)
}

/// The events within a scope, as the policies have it too: the index of an account or a tenant is used
/// only for what the query says itself.
pub(super) fn events_in(
    scope: &Scope,
) -> diesel::dsl::Filter<events::table, Condition<events::table>> {
    let within: Condition<events::table> = match scope.clone() {
        Scope::System => Box::new(events::event_id.eq(events::event_id)),
        Scope::Account(account) => Box::new(
            events::account_id.is_not_null().and(events::account_id.assume_not_null().eq(account)),
        ),
        Scope::Tenant(uid) => Box::new(
            events::tenant_uid.is_not_null().and(events::tenant_uid.assume_not_null().eq(uid)),
        ),
        Scope::Provider(uid) => {
            let own =
                events::tenant_uid.is_not_null().and(events::tenant_uid.assume_not_null().eq(uid));
            let below = events::ancestors
                .is_not_null()
                .and(events::ancestors.assume_not_null().contains(vec![Some(uid)]));
            Box::new(own.or(below))
        }
        Scope::Tenants(_) | Scope::Reseller { .. } | Scope::Publisher(_) => {
            Box::new(events::event_id.ne(events::event_id))
        }
    };
    QueryDsl::filter(events::table, within)
}

/// Whether something of some types has happened to some tenants behind a place.
///
/// # Errors
///
/// What the database reports.
pub async fn has_happened(
    conn: &mut AsyncPgConnection,
    tenants: &[Uuid],
    kinds: &[&str],
    (after, oldest): (Place, Uuid),
) -> Result<bool> {
    if tenants.is_empty() {
        return Ok(false);
    }
    let time = DateTime::from_timestamp_micros(after.recorded).unwrap_or_default();
    let behind = events::recorded_time
        .gt(time)
        .or(events::recorded_time.eq(time).and(events::event_id.gt(after.event_id)));
    let found: Option<Uuid> = events::table
        .filter(events::tenant_uid.is_not_null())
        .filter(events::tenant_uid.assume_not_null().eq_any(tenants))
        .filter(events::type_.eq_any(kinds))
        .filter(events::event_id.ge(oldest))
        .filter(events::position.ge(after.position))
        .filter(events::position.gt(after.position).or(behind))
        .select(events::event_id)
        .first(conn)
        .await
        .optional()?;
    Ok(found.is_some())
}

/// From when on events are kept; nothing where none was dropped yet.
///
/// # Errors
///
/// What the database reports.
pub async fn kept_from(conn: &mut AsyncPgConnection) -> Result<Option<DateTime<Utc>>> {
    // Of the first partition, which has no beginning, Postgres says -infinity, which is no time here.
    let finite = sql::<Bool>("isfinite(from_time)");
    let begins = event_partitions::table
        .select((event_partitions::from_time, event_partitions::until_time))
        .filter(finite)
        .order(event_partitions::from_time)
        .first::<(DateTime<Utc>, DateTime<Utc>)>(conn)
        .await
        .optional()?;
    let endless: i64 = event_partitions::table
        .filter(not(sql::<Bool>("isfinite(from_time)")))
        .count()
        .get_result(conn)
        .await?;
    Ok(begins.map(|(from, _)| from).filter(|_| endless == 0))
}

/// Makes the partitions of the coming weeks and drops those of which nothing is kept; answers how many
/// were dropped.
///
/// # Errors
///
/// What the database reports.
pub async fn keep_partitions(
    conn: &mut AsyncPgConnection,
    now: DateTime<Utc>,
    keep: std::time::Duration,
) -> Result<i32> {
    let days = sql::<diesel::sql_types::Integer>("keep_event_partitions(")
        .bind::<Timestamptz, _>(now)
        .sql(", make_interval(secs => ")
        .bind::<diesel::sql_types::Double, _>(keep.as_secs_f64())
        .sql("))");
    Ok(diesel::select(days).get_result(conn).await?)
}

/// The lowest id that an event of a time can have.
pub fn lowest_id(time: DateTime<Utc>) -> Uuid {
    let millis = u128::try_from(time.timestamp_millis()).unwrap_or(0) & 0xFFFF_FFFF_FFFF;
    Uuid::from_u128(millis << 80)
}
