//! What accounts ask of tenants for their applications: how it is stored, found, listed and told.
//!
//! A request belongs to the account that asks, and is seen by the tenant that is asked too. Where the customer is
//! unknown it reaches no tenant, and nothing that its account sees says so.

use chrono::{DateTime, TimeDelta, Utc};
use diesel::{
    dsl::{Filter, exists, not},
    pg::Pg,
    prelude::*,
};
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

use super::applications::RunAs;
use crate::{
    db::Scope,
    error::{Error, Kind, Result},
    events::outbox::Event,
    filter::{self, Condition, Field, FieldKind, Test, TextTest},
    keys::master::MasterKey,
    listing::{Listing, no_condition},
    page::{Asked, Place},
    pb::{self, ErrorReason},
    rpc::{
        Call, TenantOfCall,
        mutate::{Change, check_etag, etag},
        permit::json_of,
    },
    schema::{authorization_requests, tenants},
    seek,
    tenants::store::tenants_in,
    text_enum,
    wire::{self, Fields, timestamp},
};

/// For how long a link is good.
const LINK_LASTS: TimeDelta = TimeDelta::days(14);

text_enum! {
    /// What is asked for, as it is stored.
    pub enum Wish {
        /// An authorization where there is none.
        New = "NEW",
        /// More than one has.
        Update = "UPDATE",
    }
}

text_enum! {
    /// What became of a request, as it is stored.
    pub enum Outcome {
        /// Nothing yet, unless its time is over.
        Pending = "PENDING",
        /// The tenant said yes.
        Approved = "APPROVED",
        /// The tenant said no.
        Declined = "DECLINED",
        /// Nobody decided in time.
        Expired = "EXPIRED",
        /// Whoever asked took it back.
        Cancelled = "CANCELLED",
    }
}

/// That a tenant is asked to authorize an application.
#[derive(Clone, Debug, PartialEq, Eq, HasQuery, Insertable)]
#[diesel(table_name = authorization_requests, primary_key(authorization_request_id))]
#[diesel(check_for_backend(Pg))]
#[expect(clippy::struct_field_names, reason = "the columns' own names")]
pub(super) struct AuthorizationRequest {
    pub authorization_request_id: Uuid,
    pub kind: Wish,
    pub application_id: String,
    pub publisher_account_id: String,
    pub environment: String,
    pub customer_id: String,
    pub customer_name: String,
    pub contact_email: String,
    pub additional_info: String,
    pub on_behalf_of: String,
    pub scopes: Vec<Option<String>>,
    pub run_as: RunAs,
    pub valid_until: Option<DateTime<Utc>>,
    pub tenant_uid: Option<Uuid>,
    pub authorization_id: Option<Uuid>,
    pub state: Outcome,
    pub requested_by: String,
    pub request_time: DateTime<Utc>,
    pub expire_time: DateTime<Utc>,
    pub generation: i32,
    pub token_digest: Vec<u8>,
    pub decided_by: Option<String>,
    pub decider_name: Option<String>,
    pub decide_time: Option<DateTime<Utc>>,
    pub decline_reason: Option<String>,
    pub update_time: DateTime<Utc>,
    pub version: i64,
}

type Rows = Filter<authorization_requests::table, Condition<authorization_requests::table>>;

/// From which side of a request a call comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    /// From either.
    Any,
    /// That of the account that asks.
    Publisher,
    /// That of the tenant that is asked.
    Tenant,
}

/// The requests that a call sees from a side: what is found for a caller is found by it. What is changed after that is
/// named by its id, within a scope that has it, and rests on the policies of the table.
fn rows_of(call: &Call, side: Side) -> Rows {
    let of_tenants = || {
        let within = tenants_in(&call.scope).into_boxed::<Pg>().select(tenants::uid.nullable());
        authorization_requests::tenant_uid
            .is_not_null()
            .and(authorization_requests::tenant_uid.eq_any(within).is_not_distinct_from(true))
    };
    let of_publisher =
        |account: &String| authorization_requests::publisher_account_id.eq(account.clone());
    let none = || {
        authorization_requests::authorization_request_id
            .ne(authorization_requests::authorization_request_id)
    };
    let within: Condition<authorization_requests::table> = match (&call.scope, side) {
        (Scope::System, Side::Any | Side::Publisher) => Box::new(not(none())),
        (Scope::Account(account), Side::Any) => Box::new(of_publisher(account).or(of_tenants())),
        (Scope::Account(account), Side::Publisher)
        | (Scope::Publisher(account), Side::Any | Side::Publisher) => {
            Box::new(of_publisher(account))
        }
        (Scope::Publisher(_), Side::Tenant) | (_, Side::Publisher) => Box::new(none()),
        (_, Side::Any | Side::Tenant) => Box::new(of_tenants()),
    };
    // What the metadata names narrows that.
    let named = call.tenant.as_ref().filter(|tenant| tenant.named).map(|tenant| tenant.uid);
    let within: Condition<authorization_requests::table> = match named {
        Some(uid) => {
            Box::new(within.and(authorization_requests::tenant_uid.is_not_distinct_from(uid)))
        }
        None => within,
    };
    QueryDsl::filter(authorization_requests::table, within)
}

/// Reads the id of a request.
pub(super) fn read_id(id: &str) -> Result<Uuid> {
    let why = if id.is_empty() {
        "is required: ListAuthorizationRequests shows it"
    } else {
        "is not a UUID"
    };
    id.parse().map_err(|_| Error::invalid("authorization_request_id", why))
}

/// Reads which request is to be changed, noting what is wrong.
pub(super) fn read_named(fields: &mut Fields, id: &str, request_id: &str) -> Option<Uuid> {
    fields.take("request_id", wire::request_id(request_id));
    let why = "is not a UUID: ListAuthorizationRequests shows it";
    fields.take("authorization_request_id", id.parse().map_err(|_| why.to_owned()))
}

/// Reads which request is to be changed.
pub(super) fn read_change(id: &str, request_id: &str) -> Result<Uuid> {
    let mut fields = Fields::default();
    let read = read_named(&mut fields, id, request_id);
    fields.finish()?;
    read.ok_or_else(|| Error::internal("a field was refused without a violation"))
}

fn not_found(id: Uuid) -> Error {
    Error::not_found(Kind::AuthorizationRequest, id.to_string())
}

/// Finds a request that a call sees from a side.
pub(super) async fn find(
    conn: &mut AsyncPgConnection,
    call: &Call,
    side: Side,
    id: Uuid,
) -> Result<AuthorizationRequest> {
    rows_of(call, side)
        .filter(authorization_requests::authorization_request_id.eq(id))
        .select(AuthorizationRequest::as_select())
        .get_result(conn)
        .await
        .optional()?
        .ok_or_else(|| not_found(id))
}

/// Finds a request that nobody has decided on, which was found from a side before, and keeps others from changing it
/// until the transaction ends.
pub(super) async fn hold_pending(
    change: &mut Change<'_>,
    id: Uuid,
    sent_etag: &str,
) -> Result<AuthorizationRequest> {
    let found: AuthorizationRequest = authorization_requests::table
        .find(id)
        .select(AuthorizationRequest::as_select())
        .for_update()
        .get_result(change.conn())
        .await
        .optional()?
        .ok_or_else(|| not_found(id))?;
    check_etag(sent_etag, found.version, Kind::AuthorizationRequest, &id.to_string())?;
    change.call.check_environment(Some(&found.environment))?;
    let state = found.state_at(change.now);
    if state == Outcome::Pending {
        return Ok(found);
    }
    Err(Error::WrongState {
        reason: ErrorReason::RequestNotPending,
        kind: Kind::AuthorizationRequest,
        id: id.to_string(),
        message: format!("the request is {}: ask anew with RequestAuthorization", state.as_str()),
    })
}

/// Whether customers are asked for an application in some environments and have not answered.
pub(super) async fn is_pending(
    change: &mut Change<'_>,
    application_id: &str,
    environments: &[String],
) -> Result<bool> {
    let waits = authorization_requests::table
        .filter(authorization_requests::application_id.eq(application_id))
        .filter(authorization_requests::environment.eq_any(environments))
        .filter(authorization_requests::state.eq(Outcome::Pending))
        .filter(authorization_requests::expire_time.gt(change.now));
    Ok(diesel::select(exists(waits)).get_result(change.conn()).await?)
}

/// Takes back what waits to be changed of an authorization that ends.
pub(super) async fn cancel_updates(change: &mut Change<'_>, authorization_id: Uuid) -> Result<()> {
    let waiting: Vec<AuthorizationRequest> = authorization_requests::table
        .filter(authorization_requests::authorization_id.is_not_distinct_from(authorization_id))
        .filter(authorization_requests::state.eq(Outcome::Pending))
        .select(AuthorizationRequest::as_select())
        .for_update()
        .load(change.conn())
        .await?;
    for before in waiting {
        let after = before.cancelled(change.call.actor(), change.now);
        keep(change, &after).await?;
        tell(change, "authorization_request.cancelled", None, Some(&before), &after).await?;
    }
    Ok(())
}

/// Stores a request that has changed.
pub(super) async fn keep(change: &mut Change<'_>, row: &AuthorizationRequest) -> Result<()> {
    diesel::update(authorization_requests::table.find(row.authorization_request_id))
        .set((
            authorization_requests::authorization_id.eq(row.authorization_id),
            authorization_requests::state.eq(row.state),
            authorization_requests::expire_time.eq(row.expire_time),
            authorization_requests::generation.eq(row.generation),
            authorization_requests::token_digest.eq(&row.token_digest),
            authorization_requests::decided_by.eq(&row.decided_by),
            authorization_requests::decider_name.eq(&row.decider_name),
            authorization_requests::decide_time.eq(row.decide_time),
            authorization_requests::decline_reason.eq(&row.decline_reason),
            authorization_requests::update_time.eq(row.update_time),
            authorization_requests::version.eq(row.version),
        ))
        .execute(change.conn())
        .await?;
    Ok(())
}

/// Records what happened to a request: for the tenant, where that is known to whoever acts, and for the account that
/// asks, which is told of no tenant.
pub(super) async fn tell(
    change: &mut Change<'_>,
    kind: &'static str,
    tenant: Option<&TenantOfCall>,
    before: Option<&AuthorizationRequest>,
    after: &AuthorizationRequest,
) -> Result<()> {
    let now = change.now;
    let id = after.authorization_request_id.to_string();
    if let Some(tenant) = tenant {
        let event = told_of(kind, &id, before, after, now);
        let tenant_of = Some((tenant.uid, &*tenant.tenant_id));
        change
            .record(Event { account_id: Some(&tenant.account_id), tenant: tenant_of, ..event })
            .await?;
    }
    if tenant.is_none_or(|tenant| tenant.account_id != after.publisher_account_id) {
        change.record(told_of(kind, &id, before, after, now)).await?;
    }
    Ok(())
}

/// What the account that asks is told of what happened to a request.
pub(super) fn told_of<'a>(
    kind: &'static str,
    id: &'a str,
    before: Option<&AuthorizationRequest>,
    after: &'a AuthorizationRequest,
    now: DateTime<Utc>,
) -> Event<'a> {
    let told = |row: &AuthorizationRequest| json_of(&row.clone().told_without_people(now));
    Event {
        kind,
        account_id: Some(&after.publisher_account_id),
        tenant: None,
        resource_type: "authorization_request",
        resource_id: id,
        before: before.map(told),
        after: Some(told(after)),
    }
}

/// What is stored of the secret of a link.
pub(super) fn digest_of(secret: &[u8]) -> Vec<u8> {
    Sha256::digest(secret).to_vec()
}

const FIELDS: &[Field] = &[
    Field { name: "application_id", kind: FieldKind::Id },
    Field { name: "environment", kind: FieldKind::Id },
    Field { name: "authorization_id", kind: FieldKind::Id },
    Field { name: "customer_id", kind: FieldKind::Text },
    Field {
        name: "state",
        kind: FieldKind::Choice { prefix: "AUTHORIZATION_REQUEST_STATE_", words: Outcome::TEXTS },
    },
    Field {
        name: "kind",
        kind: FieldKind::Choice { prefix: "AUTHORIZATION_REQUEST_KIND_", words: Wish::TEXTS },
    },
    Field { name: "request_time", kind: FieldKind::Time },
    Field { name: "expire_time", kind: FieldKind::Time },
];

/// Reads a page of requests and the token of the next one.
pub(super) async fn list(
    conn: &mut AsyncPgConnection,
    call: &Call,
    request: &pb::ListAuthorizationRequestsRequest,
    now: DateTime<Utc>,
) -> Result<(Vec<AuthorizationRequest>, String)> {
    let pb::ListAuthorizationRequestsRequest { page_size, page_token, filter, order_by } = request;
    let asked = Asked { page_size: *page_size, page_token, filter, order_by, more: "" };
    let Listing { page, terms, order } = Listing::read(call, asked, FIELDS, &["request_time"])?;
    let mut query = rows_of(call, Side::Any).into_boxed::<Pg>();
    for term in &terms {
        let condition = condition(term.field, &term.test, now)?;
        query = if term.negated { query.filter(not(condition)) } else { query.filter(condition) };
    }
    let after = match &page.after {
        None => None,
        Some(place) => {
            let id = place.id.parse::<Uuid>().map_err(|_| page.misplaced())?;
            Some((page.time(place)?, authorization_requests::authorization_request_id.gt(id)))
        }
    };
    let query = seek!(query, authorization_requests::request_time, after, order.descending);
    let mut found: Vec<AuthorizationRequest> = query
        .then_order_by(authorization_requests::authorization_request_id)
        .limit(page.limit())
        .select(AuthorizationRequest::as_select())
        .load(conn)
        .await?;
    let bytes = |row: &AuthorizationRequest| {
        let scopes = row.scopes.iter().flatten().map(String::len).sum::<usize>();
        scopes + row.additional_info.len() + row.customer_id.len() + 1_000
    };
    let token = page.finish_within(&mut found, bytes, |row| Place {
        value: row.request_time.timestamp_micros().to_string(),
        id: row.authorization_request_id.to_string(),
    });
    Ok((found, token))
}

fn condition(
    field: &'static str,
    test: &Test,
    now: DateTime<Utc>,
) -> Result<Condition<authorization_requests::table>> {
    let is = |state| authorization_requests::state.eq(state);
    let waits = || is(Outcome::Pending).and(authorization_requests::expire_time.gt(now));
    Ok(match (field, test) {
        ("application_id", Test::Text(TextTest::Equals(id))) => {
            Box::new(authorization_requests::application_id.eq(id.clone()))
        }
        ("environment", Test::Text(TextTest::Equals(id))) => {
            Box::new(authorization_requests::environment.eq(id.to_ascii_lowercase()))
        }
        ("authorization_id", Test::Text(TextTest::Equals(id))) => {
            // What is no UUID is the id of none.
            let id = id.parse::<Uuid>().unwrap_or_default();
            Box::new(authorization_requests::authorization_id.is_not_distinct_from(id))
        }
        ("customer_id", Test::Text(test)) => {
            filter::text(authorization_requests::customer_id, test)
        }
        ("state", Test::Choice("PENDING")) => Box::new(waits()),
        ("state", Test::Choice("EXPIRED")) => {
            Box::new(is(Outcome::Expired).or(is(Outcome::Pending).and(not(waits()))))
        }
        ("state", Test::Choice(word)) => Box::new(authorization_requests::state.eq(*word)),
        ("kind", Test::Choice(word)) => Box::new(authorization_requests::kind.eq(*word)),
        ("request_time", Test::Time(comparison, time)) => {
            filter::time(authorization_requests::request_time, *comparison, *time)
        }
        ("expire_time", Test::Time(comparison, time)) => {
            filter::time(authorization_requests::expire_time, *comparison, *time)
        }
        (field, _) => return Err(no_condition(field)),
    })
}

impl AuthorizationRequest {
    /// Gives it a link, which is good for a while from now on. One that it had is good no longer.
    pub(super) fn link(&mut self, master: &MasterKey, now: DateTime<Utc>) {
        self.generation += 1;
        let secret = master.consent(self.authorization_request_id, self.generation);
        self.token_digest = digest_of(&*secret);
        let end = now + LINK_LASTS;
        // What would be over by then is nothing to say yes to.
        self.expire_time = self.valid_until.map_or(end, |over| over.min(end));
    }

    /// The same, over by a time.
    pub(super) fn expired(&self, now: DateTime<Utc>) -> Self {
        let version = self.version + 1;
        Self { state: Outcome::Expired, update_time: now, version, ..self.clone() }
    }

    /// The same, taken back.
    pub(super) fn cancelled(&self, by: String, now: DateTime<Utc>) -> Self {
        Self {
            state: Outcome::Cancelled,
            decided_by: Some(by),
            decide_time: Some(now),
            update_time: now,
            version: self.version + 1,
            ..self.clone()
        }
    }

    /// What became of it by a time.
    pub(super) fn state_at(&self, now: DateTime<Utc>) -> Outcome {
        match self.state {
            Outcome::Pending if self.expire_time <= now => Outcome::Expired,
            state => state,
        }
    }

    pub(super) fn scopes(&self) -> Vec<String> {
        self.scopes.iter().flatten().cloned().collect()
    }

    /// How events tell of it: they are kept longer than what is known of a customer.
    fn told_without_people(self, now: DateTime<Utc>) -> pb::AuthorizationRequest {
        pb::AuthorizationRequest {
            customer_name: String::new(),
            contact_email: String::new(),
            additional_info: String::new(),
            on_behalf_of: String::new(),
            decider_name: String::new(),
            decided_by: String::new(),
            decline_reason: String::new(),
            ..self.told(now)
        }
    }

    /// How it looks from outside at a time, from whichever side.
    pub(super) fn told(self, now: DateTime<Utc>) -> pb::AuthorizationRequest {
        let state = match self.state_at(now) {
            Outcome::Pending => pb::AuthorizationRequestState::Pending,
            Outcome::Approved => pb::AuthorizationRequestState::Approved,
            Outcome::Declined => pb::AuthorizationRequestState::Declined,
            Outcome::Expired => pb::AuthorizationRequestState::Expired,
            Outcome::Cancelled => pb::AuthorizationRequestState::Cancelled,
        };
        let Self {
            authorization_request_id,
            kind,
            application_id,
            publisher_account_id,
            environment,
            customer_id,
            customer_name,
            contact_email,
            additional_info,
            on_behalf_of,
            scopes,
            run_as,
            valid_until,
            // Whether there is one, whoever asks is not told.
            tenant_uid: _,
            authorization_id,
            state: _,
            requested_by,
            request_time,
            expire_time,
            generation: _,
            token_digest: _,
            decided_by,
            decider_name,
            decide_time,
            decline_reason,
            update_time: _,
            version,
        } = self;
        let kind = match kind {
            Wish::New => pb::AuthorizationRequestKind::New,
            Wish::Update => pb::AuthorizationRequestKind::Update,
        };
        pb::AuthorizationRequest {
            authorization_request_id: authorization_request_id.to_string(),
            kind: kind.into(),
            application_id,
            publisher_account_id,
            environment,
            customer_id,
            customer_name,
            contact_email,
            additional_info,
            on_behalf_of,
            scopes: scopes.into_iter().flatten().collect(),
            valid_until: valid_until.map(timestamp),
            state: state.into(),
            requested_by,
            request_time: Some(timestamp(request_time)),
            expire_time: Some(timestamp(expire_time)),
            decided_by: decided_by.unwrap_or_default(),
            decider_name: decider_name.unwrap_or_default(),
            decide_time: decide_time.map(timestamp),
            decline_reason: decline_reason.unwrap_or_default(),
            authorization_id: authorization_id.map(|id| id.to_string()).unwrap_or_default(),
            run_as: run_as.told().into(),
            etag: etag(version),
        }
    }
}
