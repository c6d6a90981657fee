//! What an account does to have its applications authorized: it asks, asks again, and takes back.

use std::sync::Arc;

use chrono::{DateTime, TimeDelta, Utc};
use diesel::{
    QueryableByName,
    prelude::*,
    sql_types::{Array, BigInt, Bool, Nullable, Text, Timestamptz, Uuid as SqlUuid},
};
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use tokio::sync::{Mutex, MutexGuard};
use uuid::Uuid;

use super::{
    applications::{RunAs, not_published},
    grants::{self, Authorization, Changed},
    mails,
    requests::{self, AuthorizationRequest, Outcome, Wish},
    wire::{read_scope_list, read_time_to_come, required_email},
};
use crate::{
    db::Scope,
    directory::environments,
    error::{Error, Kind, Result},
    keys::master::MasterKey,
    pb::{self, ErrorReason},
    rpc::{
        Call,
        mutate::{Change, check_etag},
    },
    schema::authorization_requests,
    wire::{Fields, id, prose, request_id, text},
};

const NAME_MAX: usize = 80;
const CUSTOMER_ID_MAX: usize = 256;
const INFO_MAX: usize = 1_000;

/// How many mails go to a customer, and how many for an application, within [`MAILS_WITHIN`]: enough to ask and
/// remind, too few to pester.
const MAILS_OF_CUSTOMER_MAX: i64 = 5;
const MAILS_OF_APPLICATION_MAX: i64 = 1_000;
const MAILS_WITHIN: TimeDelta = TimeDelta::days(1);

/// Lets those who ask for one application wait for their turn before they take a connection, which others need.
#[derive(Debug)]
pub struct Turns([Mutex<()>; TURNS]);

const TURNS: usize = 64;

impl Default for Turns {
    fn default() -> Self {
        Self(std::array::from_fn(|_| Mutex::default()))
    }
}

impl Turns {
    /// Waits for the turn to ask for an application, which lasts until it is dropped.
    pub(super) async fn take(&self, application_id: &str) -> MutexGuard<'_, ()> {
        let hash = crc32fast::hash(application_id.as_bytes()) as usize;
        self.0[hash % TURNS].lock().await
    }
}

/// What an application offers to whoever it asks.
#[derive(QueryableByName)]
pub(super) struct Offer {
    #[diesel(sql_type = Text)]
    pub account_id: String,
    #[diesel(sql_type = Text)]
    pub account_name: String,
    #[diesel(sql_type = Text)]
    pub name: String,
    #[diesel(sql_type = Text)]
    pub description: String,
    #[diesel(sql_type = Text)]
    pub homepage_url: String,
    #[diesel(sql_type = Text)]
    pub run_as: RunAs,
    #[diesel(sql_type = Array<Nullable<Text>>)]
    scopes: Vec<Option<String>>,
    #[diesel(sql_type = Bool)]
    pub is_published: bool,
}

/// Finds what an application offers in an environment, whichever account it is of, and keeps it so until the
/// transaction ends. Only for an application that the call has to do with.
pub(super) async fn offer_of(
    conn: &mut AsyncPgConnection,
    application_id: &str,
    environment: &str,
) -> Result<Option<Offer>> {
    Ok(diesel::sql_query("select * from offer_of($1, $2)")
        .bind::<Text, _>(application_id)
        .bind::<Text, _>(environment)
        .get_result(conn)
        .await
        .optional()?)
}

diesel::define_sql_function! {
    /// The one tenant that has an id, or an external id, whatever the scope sees of it.
    fn find_customer(customer: Text) -> Nullable<SqlUuid>;
}

/// What an account asks of a customer.
pub(super) struct New {
    pub(super) application_id: String,
    environment: String,
    customer_name: String,
    customer_id: String,
    contact: String,
    info: String,
    /// All that the application asks for, where there are none.
    scopes: Vec<String>,
    valid_until: Option<DateTime<Utc>>,
}

impl New {
    pub(super) fn read(
        request: &pb::RequestAuthorizationRequest,
        environments: &[String],
        now: DateTime<Utc>,
    ) -> Result<Self> {
        let mut fields = Fields::default();
        fields.take("request_id", request_id(&request.request_id));
        let application_id = fields.take("application_id", id(&request.application_id));
        let environment = match (&*request.environment, environments.first()) {
            ("", Some(first)) => Some(first.clone()),
            (named, _) => fields.take("environment", id(&named.to_ascii_lowercase())),
        };
        let name = fields.take("customer_name", text(&request.customer_name, 1, NAME_MAX));
        let customer_id = text(&request.customer_id, 1, CUSTOMER_ID_MAX);
        let customer_id = fields.take("customer_id", customer_id);
        let contact = fields.take("contact_email", required_email(&request.contact_email));
        let info = fields.take("additional_info", prose(&request.additional_info, INFO_MAX));
        let scopes = read_scope_list(&request.scopes, &mut fields);
        let end = read_time_to_come(request.valid_until.as_ref(), now);
        let valid_until = fields.take("valid_until", end);
        fields.finish()?;
        let (
            Some(application_id),
            Some(environment),
            Some(customer_name),
            Some(customer_id),
            Some(contact),
            Some(info),
            Some(valid_until),
        ) = (application_id, environment, name, customer_id, contact, info, valid_until)
        else {
            return Err(Error::internal("a field was refused without a violation"));
        };
        if !environments.contains(&environment) {
            return Err(Error::WrongState {
                reason: ErrorReason::EnvironmentNotRequestable,
                kind: Kind::Environment,
                message: format!(
                    "customers are not asked in \"{environment}\": name one of {}, or let an operator grant the \
                     authorization",
                    environments.join(", ")
                ),
                id: environment,
            });
        }
        Ok(Self {
            application_id,
            environment,
            customer_name,
            customer_id,
            contact,
            info,
            scopes,
            valid_until,
        })
    }
}

/// Asks a customer to authorize an application.
pub(super) async fn ask(
    change: &mut Change<'_>,
    master: &MasterKey,
    new: &New,
) -> Result<pb::AuthorizationRequest> {
    let call = change.call;
    call.check_environment(Some(&new.environment))?;
    queue(change, &new.application_id).await?;
    let offer = offer_of(change.conn(), &new.application_id, &new.environment).await?;
    let is_own = |offer: &Offer| match &call.scope {
        Scope::System => true,
        Scope::Account(account) | Scope::Publisher(account) => offer.account_id == *account,
        _ => false,
    };
    let offer = offer
        .filter(is_own)
        .ok_or_else(|| Error::not_found(Kind::Application, &new.application_id))?;
    if !offer.is_published {
        environments::find(change.conn(), &new.environment).await?;
        return Err(not_published(&new.application_id, &new.environment));
    }
    check_asked(&new.scopes, &offer, &[], &new.application_id)?;
    check_limits(change, &new.application_id, &new.customer_id).await?;

    let customer: Option<Uuid> =
        diesel::select(find_customer(&new.customer_id)).get_result(change.conn()).await?;
    // Of nobody too, so that it takes as long.
    let uid = customer.unwrap_or_default();
    grants::refuse_existing(change, uid, &new.application_id, &new.environment).await?;
    let scopes = if new.scopes.is_empty() { offer.offered() } else { new.scopes.clone() };
    let row = AuthorizationRequest {
        kind: Wish::New,
        application_id: new.application_id.clone(),
        environment: new.environment.clone(),
        customer_id: new.customer_id.clone(),
        customer_name: new.customer_name.clone(),
        contact_email: new.contact.clone(),
        additional_info: new.info.clone(),
        scopes: scopes.into_iter().map(Some).collect(),
        valid_until: new.valid_until,
        tenant_uid: customer,
        ..blank(change, &offer)
    };
    send(change, master, row).await
}

/// A request of which nothing is said yet.
fn blank(change: &Change<'_>, offer: &Offer) -> AuthorizationRequest {
    let now = change.now;
    AuthorizationRequest {
        authorization_request_id: change.uuid(),
        kind: Wish::New,
        application_id: String::new(),
        publisher_account_id: offer.account_id.clone(),
        environment: String::new(),
        customer_id: String::new(),
        customer_name: String::new(),
        contact_email: String::new(),
        additional_info: String::new(),
        on_behalf_of: String::new(),
        scopes: Vec::new(),
        run_as: offer.run_as,
        valid_until: None,
        tenant_uid: None,
        authorization_id: None,
        state: Outcome::Pending,
        requested_by: change.call.actor(),
        request_time: now,
        expire_time: now,
        generation: 0,
        token_digest: Vec::new(),
        decided_by: None,
        decider_name: None,
        decide_time: None,
        decline_reason: None,
        update_time: now,
        version: 1,
    }
}

impl Offer {
    /// Whether the application still asks for what it asked for with a request, but for what it has, and acts as it
    /// did.
    pub(super) fn stands(
        &self,
        request: &AuthorizationRequest,
        has: impl Fn(&String) -> bool,
    ) -> bool {
        let offered = self.offered();
        let is_asked = |scope: &String| offered.contains(scope) || has(scope);
        self.run_as == request.run_as && request.scopes().iter().all(is_asked)
    }

    fn offered(&self) -> Vec<String> {
        self.scopes.iter().flatten().cloned().collect()
    }
}

/// Lets those who ask for one application do so one after the other: what is there is counted and looked for first.
async fn queue(change: &mut Change<'_>, application_id: &str) -> Result<()> {
    diesel::sql_query("select pg_advisory_xact_lock(hashtextextended('ask ' || $1, 0))")
        .bind::<Text, _>(application_id)
        .execute(change.conn())
        .await?;
    Ok(())
}

/// Refuses scopes that an application neither asks for nor has.
fn check_asked(
    scopes: &[String],
    offer: &Offer,
    had: &[String],
    application_id: &str,
) -> Result<()> {
    let offered = offer.offered();
    let mut fields = Fields::default();
    for (place, scope) in scopes.iter().enumerate() {
        if !offered.contains(scope) && !had.contains(scope) {
            let why =
                format!("is nothing that \"{application_id}\" asks for: GetApplication tells that");
            fields.refuse(&format!("scopes[{place}]"), why);
        }
    }
    fields.finish()
}

#[derive(QueryableByName)]
struct Mailed {
    #[diesel(sql_type = BigInt)]
    of_customer: i64,
    #[diesel(sql_type = BigInt)]
    of_application: i64,
}

/// Refuses another mail where there were as many as a day may have: nobody is to be pestered through this service.
async fn check_limits(
    change: &mut Change<'_>,
    application_id: &str,
    customer_id: &str,
) -> Result<()> {
    let since = change.now - MAILS_WITHIN;
    let mailed: Mailed = diesel::sql_query("select * from count_mails($1, $2, $3)")
        .bind::<Text, _>(application_id)
        .bind::<Text, _>(customer_id)
        .bind::<Timestamptz, _>(since)
        .get_result(change.conn())
        .await?;
    let limits = [
        (mailed.of_customer, MAILS_OF_CUSTOMER_MAX, "a customer has for an application"),
        (mailed.of_application, MAILS_OF_APPLICATION_MAX, "an application has"),
    ];
    for (sent, max, what) in limits {
        if sent >= max {
            return Err(Error::LimitReached {
                reason: ErrorReason::MailLimitExceeded,
                kind: Kind::Application,
                id: application_id.to_owned(),
                message: format!(
                    "{max} e-mails are as many as {what} in 24 hours, those that were sent once more and those of \
                     updates included: wait until the first of them is older than that"
                ),
            });
        }
    }
    Ok(())
}

/// Stores a request and its mail, unless the same is pending.
async fn send(
    change: &mut Change<'_>,
    master: &MasterKey,
    mut row: AuthorizationRequest,
) -> Result<pb::AuthorizationRequest> {
    let now = change.now;
    expire(change, &row).await?;
    let same = pending_like(&row);
    let customer = same.filter(authorization_requests::customer_id.eq(&row.customer_id));
    if diesel::select(diesel::dsl::exists(customer)).get_result(change.conn()).await? {
        return Err(already_pending(&row.customer_id));
    }
    let uid = row.tenant_uid.unwrap_or_default();
    let of_tenant =
        pending_like(&row).filter(authorization_requests::tenant_uid.is_not_distinct_from(uid));
    if diesel::select(diesel::dsl::exists(of_tenant)).get_result(change.conn()).await? {
        if row.kind == Wish::Update {
            return Err(already_pending(&row.customer_id));
        }
        // Asked by another of its ids. To say so would tell whose that is: it reaches nobody.
        row.tenant_uid = None;
    }
    row.link(master, now);
    let rows = diesel::insert_into(authorization_requests::table)
        .values(&row)
        .on_conflict_do_nothing()
        .execute(change.conn())
        .await
        .map_err(super::overtaken)?;
    if rows == 0 {
        return Err(already_pending(&row.customer_id));
    }
    mails::put_request(change, &row).await?;
    requests::tell(change, "authorization_request.created", None, None, &row).await?;
    Ok(row.told(now))
}

fn already_pending(customer_id: &str) -> Error {
    Error::AlreadyExists {
        kind: Kind::AuthorizationRequest,
        what: "customer",
        id: customer_id.to_owned(),
    }
}

/// What is pending for the same application, in the same environment.
#[diesel::dsl::auto_type]
fn in_state<'a>(application_id: &'a str, environment: &'a str, kind: Wish, state: Outcome) -> _ {
    authorization_requests::table
        .filter(authorization_requests::application_id.eq(application_id))
        .filter(authorization_requests::environment.eq(environment))
        .filter(authorization_requests::kind.eq(kind))
        .filter(authorization_requests::state.eq(state))
}

fn pending_like(row: &AuthorizationRequest) -> in_state<'_> {
    in_state(&row.application_id, &row.environment, row.kind, Outcome::Pending)
}

/// Makes room for a request where the time of others is over: whoever they ask, so that it tells nothing of who is who.
async fn expire(change: &mut Change<'_>, row: &AuthorizationRequest) -> Result<()> {
    let now = change.now;
    let over: Vec<AuthorizationRequest> = pending_like(row)
        .filter(authorization_requests::expire_time.le(now))
        .select(AuthorizationRequest::as_select())
        .for_update()
        .load(change.conn())
        .await?;
    for before in over {
        let after = before.expired(now);
        requests::keep(change, &after).await?;
        let kind = "authorization_request.expired";
        requests::tell(change, kind, None, Some(&before), &after).await?;
    }
    Ok(())
}

/// What an account asks to be changed of an authorization.
pub(super) struct Update {
    pub(super) authorization_id: Uuid,
    on_behalf_of: String,
    contact: String,
    info: String,
    scopes: Vec<String>,
    valid_until: Option<DateTime<Utc>>,
    etag: String,
}

impl Update {
    pub(super) fn read(
        request: &pb::RequestAuthorizationUpdateRequest,
        now: DateTime<Utc>,
    ) -> Result<Self> {
        let mut fields = Fields::default();
        let id = request.authorization_id.parse();
        let id = id.map_err(|_| "is not a UUID: ListAuthorizations shows it".to_owned());
        let id = fields.take("authorization_id", id);
        fields.take("request_id", request_id(&request.request_id));
        let behalf = fields.take("on_behalf_of", text(&request.on_behalf_of, 1, NAME_MAX));
        let contact = fields.take("contact_email", required_email(&request.contact_email));
        let info = fields.take("additional_info", prose(&request.additional_info, INFO_MAX));
        let scopes = read_scope_list(&request.scopes, &mut fields);
        let end = read_time_to_come(request.valid_until.as_ref(), now);
        let valid_until = fields.take("valid_until", end);
        fields.finish()?;
        let (
            Some(authorization_id),
            Some(on_behalf_of),
            Some(contact),
            Some(info),
            Some(valid_until),
        ) = (id, behalf, contact, info, valid_until)
        else {
            return Err(Error::internal("a field was refused without a violation"));
        };
        let etag = request.etag.clone();
        Ok(Self { authorization_id, on_behalf_of, contact, info, scopes, valid_until, etag })
    }
}

/// Finds the authorization that an account asks to change, from its side.
pub(super) async fn find_own(
    conn: &mut AsyncPgConnection,
    call: &Call,
    id: Uuid,
) -> Result<Authorization> {
    let (found, _) = grants::find(conn, call, id).await?;
    let publishes = match &call.scope {
        Scope::System => true,
        Scope::Account(account) | Scope::Publisher(account) => {
            found.publisher_account_id() == account
        }
        _ => false,
    };
    if publishes { Ok(found) } else { Err(Error::not_found(Kind::Authorization, id.to_string())) }
}

/// Changes an authorization to less at once, and asks for more, within the scope of its tenant.
pub(super) async fn update(
    change: &mut Change<'_>,
    master: &MasterKey,
    found: &Authorization,
    asked: &Update,
) -> Result<pb::RequestAuthorizationUpdateResponse> {
    change.call.check_environment(Some(found.environment()))?;
    change.on_behalf_of = Some(asked.on_behalf_of.clone());
    queue(change, found.application_id()).await?;
    let tenant = grants::tenant_of(change, found.tenant_uid(), found.tenant_id()).await?;
    let held = grants::hold_live(change, found.tenant_uid(), asked.authorization_id).await?;
    let before = &held.0;
    let id = || asked.authorization_id.to_string();
    check_etag(&asked.etag, before.version(), Kind::Authorization, &id())?;
    let offer = offer_of(change.conn(), found.application_id(), found.environment()).await?;
    let offer = offer
        .filter(|offer| offer.is_published)
        .ok_or_else(|| not_published(found.application_id(), found.environment()))?;
    let had = before.granted().cloned().collect::<Vec<_>>();
    if asked.scopes.is_empty() && !had.is_empty() {
        let why = "are required: all that the application is to be allowed from then on; to end the \
                   authorization, revoke it";
        return Err(Error::invalid("scopes", why));
    }
    check_asked(&asked.scopes, &offer, &had, found.application_id())?;

    let is_more = |end: Option<DateTime<Utc>>| match (end, before.valid_until()) {
        (_, None) => false,
        (None, Some(_)) => true,
        (Some(end), Some(before)) => end > before,
    };
    let lasts_longer = is_more(asked.valid_until);
    let (kept, more): (Vec<_>, Vec<_>) =
        asked.scopes.iter().cloned().partition(|scope| had.contains(scope));
    let waits = lasts_longer || !more.is_empty();
    if waits {
        check_limits(change, found.application_id(), found.tenant_id()).await?;
    }
    let row = waits.then(|| AuthorizationRequest {
        kind: Wish::Update,
        application_id: found.application_id().to_owned(),
        environment: found.environment().to_owned(),
        customer_id: found.tenant_id().to_owned(),
        customer_name: tenant.tenant_id.clone(),
        contact_email: asked.contact.clone(),
        additional_info: asked.info.clone(),
        on_behalf_of: asked.on_behalf_of.clone(),
        scopes: asked.scopes.iter().cloned().map(Some).collect(),
        valid_until: asked.valid_until,
        tenant_uid: Some(tenant.uid),
        authorization_id: Some(asked.authorization_id),
        ..blank(change, &offer)
    });
    let authorization_request = match row {
        Some(row) => Some(send(change, master, row).await?),
        None => None,
    };
    let valid_until = if lasts_longer { before.valid_until() } else { asked.valid_until };
    // What was asked for before and still waits goes on waiting.
    let requested = if waits { more } else { before.requested().cloned().collect() };
    let to = Changed { granted: kept, requested, valid_until, by: None };
    let authorization = Some(grants::change(change, &tenant, held, to).await?);
    Ok(pb::RequestAuthorizationUpdateResponse { authorization, authorization_request })
}

/// Takes a request back.
pub(super) async fn cancel(
    change: &mut Change<'_>,
    id: Uuid,
    sent_etag: &str,
) -> Result<pb::AuthorizationRequest> {
    let before = requests::hold_pending(change, id, sent_etag).await?;
    let now = change.now;
    let after = before.cancelled(change.call.actor(), now);
    requests::keep(change, &after).await?;
    requests::tell(change, "authorization_request.cancelled", None, Some(&before), &after).await?;
    super::deciding::forget_wish(change, &after).await?;
    Ok(after.told(now))
}

/// Sends the mail of a request once more, with another link.
pub(super) async fn resend(
    change: &mut Change<'_>,
    master: &MasterKey,
    id: Uuid,
    sent_etag: &str,
) -> Result<pb::AuthorizationRequest> {
    let before = requests::hold_pending(change, id, sent_etag).await?;
    check_limits(change, &before.application_id, &before.customer_id).await?;
    let now = change.now;
    let mut after = before.clone();
    after.link(master, now);
    after.update_time = now;
    after.version += 1;
    requests::keep(change, &after).await?;
    mails::put_request(change, &after).await?;
    requests::tell(change, "authorization_request.resent", None, Some(&before), &after).await?;
    Ok(after.told(now))
}

/// The scope that a request is changed within by whoever asks: that of its tenant, where an authorization of that is to
/// be changed with it.
pub(super) fn scope_of(call: &Arc<Call>, row: &AuthorizationRequest) -> Arc<Call> {
    match (row.kind, row.tenant_uid) {
        (Wish::Update, Some(uid)) => call.within(Scope::Tenant(uid)),
        _ => call.clone(),
    }
}
