//! What tenants let applications do, and once did: nothing of it goes but with the tenant (0-16). How that is stored,
//! changed and told; `history` lists it.
//!
//! An authorization has two sides. Its tenant, and whoever is above that, sees it as everything that the tenant
//! owns; the account of the application sees it whichever account the tenant is of.

use chrono::{DateTime, TimeDelta, Utc};
use diesel::{
    dsl::{Filter, exists},
    pg::Pg,
    prelude::*,
};
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use uuid::Uuid;

use super::{
    applications::{self, Offer},
    counts, mails, overtaken, publishers, requests,
    wire::{read_scope_list, read_time_to_come, required_email},
};
use crate::{
    db::Scope,
    error::{Error, Kind, Result},
    events::outbox::Event,
    filter::Condition,
    keys::model::KeyScope,
    pb::{self, ErrorReason},
    rpc::{
        Call, TenantOfCall,
        mutate::{Change, check_etag, etag},
        permit::json_of,
    },
    schema::{tenant_authorization_usage, tenant_authorizations, tenants},
    tenants as rooms,
    tenants::store::tenants_in,
    text_enum,
    wire::{Fields, email, id, request_id, text, timestamp},
};

/// For how long after its last use an application counts as using an authorization (0-09).
const ACTIVE_FOR: TimeDelta = TimeDelta::days(30);

const NAME_MAX: usize = 80;
const REASON_MAX: usize = 500;

text_enum! {
    /// What became of an authorization, as it is stored.
    pub enum Fate {
        /// It is good, unless its time is over.
        Active = "ACTIVE",
        /// It was revoked.
        Revoked = "REVOKED",
        /// Its time is over, and somebody has noted that.
        Expired = "EXPIRED",
    }
}

text_enum! {
    /// By which way a tenant comes to authorize an application (0-21).
    pub enum Path {
        /// An operator granted it.
        Operator = "OPERATOR",
        /// An administrator of the tenant did.
        TenantAdmin = "TENANT_ADMIN",
    }
}

/// That a tenant lets an application act on it in an environment.
#[derive(Clone, Debug, PartialEq, Eq, HasQuery, Insertable)]
#[diesel(table_name = tenant_authorizations, primary_key(tenant_uid, authorization_id))]
#[diesel(check_for_backend(Pg))]
#[expect(clippy::struct_field_names, reason = "the columns' own names")]
pub(super) struct Authorization {
    tenant_uid: Uuid,
    pub(super) authorization_id: Uuid,
    tenant_id: String,
    application_id: String,
    publisher_account_id: String,
    environment: String,
    state: Fate,
    pub(super) granted_scopes: Vec<Option<String>>,
    requested_scopes: Vec<Option<String>>,
    path: Path,
    authorizer_name: String,
    authorizer_email: String,
    authorizer: String,
    pub(super) grant_time: DateTime<Utc>,
    valid_until: Option<DateTime<Utc>>,
    revoke_time: Option<DateTime<Utc>>,
    revoked_by: Option<String>,
    pub(super) revoke_reason: Option<String>,
    revoke_contact: Option<String>,
    update_time: DateTime<Utc>,
    version: i64,
}

/// An authorization, and when it was used last.
pub(super) type Used = (Authorization, Option<DateTime<Utc>>);

/// When an authorization was used last (0-09).
#[diesel::dsl::auto_type]
pub(super) fn last_used_time() -> _ {
    tenant_authorization_usage::table
        .filter(tenant_authorization_usage::tenant_uid.eq(tenant_authorizations::tenant_uid))
        .filter(
            tenant_authorization_usage::authorization_id
                .eq(tenant_authorizations::authorization_id),
        )
        .select(tenant_authorization_usage::last_used_time)
        .single_value()
}

/// The authorizations that a call sees, from either side: what is found for a caller is found by it. What is named by a
/// tenant that was found before rests on the policies of the table.
pub(super) fn rows_of(
    call: &Call,
) -> Filter<tenant_authorizations::table, Condition<tenant_authorizations::table>> {
    let of_tenants = || tenants_in(&call.scope).into_boxed::<Pg>().select(tenants::uid);
    let of_publisher =
        |account: &String| tenant_authorizations::publisher_account_id.eq(account.clone());
    let within: Condition<tenant_authorizations::table> = match &call.scope {
        Scope::System => {
            Box::new(tenant_authorizations::tenant_uid.eq(tenant_authorizations::tenant_uid))
        }
        Scope::Account(account) => Box::new(
            of_publisher(account).or(tenant_authorizations::tenant_uid.eq_any(of_tenants())),
        ),
        Scope::Publisher(account) => Box::new(of_publisher(account)),
        _ => Box::new(tenant_authorizations::tenant_uid.eq_any(of_tenants())),
    };
    // What the metadata names narrows that.
    let named = call.tenant.as_ref().filter(|tenant| tenant.named).map(|tenant| tenant.uid);
    let within: Condition<tenant_authorizations::table> = match named {
        Some(uid) => Box::new(within.and(tenant_authorizations::tenant_uid.eq(uid))),
        None => within,
    };
    QueryDsl::filter(tenant_authorizations::table, within)
}

/// That one is good at a time.
pub(super) fn is_live(now: DateTime<Utc>) -> Condition<tenant_authorizations::table> {
    let end = tenant_authorizations::valid_until;
    let lasts = end.is_null().or(end.is_not_null().and(end.assume_not_null().gt(now)));
    Box::new(tenant_authorizations::state.eq(Fate::Active).and(lasts))
}

/// Reads the id of an authorization.
pub(super) fn read_id(id: &str) -> Result<Uuid> {
    let why =
        if id.is_empty() { "is required: ListAuthorizations shows it" } else { "is not a UUID" };
    id.parse().map_err(|_| Error::invalid("authorization_id", why))
}

/// What an operator grants.
pub(super) struct New {
    tenant_id: String,
    application_id: String,
    environment: String,
    /// All that the application asks for, where there are none.
    scopes: Vec<String>,
    valid_until: Option<DateTime<Utc>>,
    name: String,
    email: String,
}

impl New {
    pub(super) fn read(
        call: &Call,
        request: &pb::GrantAuthorizationRequest,
        now: DateTime<Utc>,
    ) -> Result<Self> {
        let tenant_id = call.tenant_id("tenant_id", &request.tenant_id)?.to_owned();
        let mut fields = Fields::default();
        fields.take("request_id", request_id(&request.request_id));
        let application_id = fields.take("application_id", id(&request.application_id));
        let environment = id(&request.environment.to_ascii_lowercase());
        let environment = fields.take("environment", environment);
        let scopes = read_scope_list(&request.scopes, &mut fields);
        let end = read_time_to_come(request.valid_until.as_ref(), now);
        let valid_until = fields.take("valid_until", end);
        let by = request.authorized_by.clone().unwrap_or_default();
        let name = fields.take("authorized_by.name", text(&by.name, 0, NAME_MAX));
        let email = fields.take("authorized_by.email", email(&by.email));
        fields.finish()?;
        let (Some(application_id), Some(environment), Some(valid_until), Some(name), Some(email)) =
            (application_id, environment, valid_until, name, email)
        else {
            return Err(Error::internal("a field was refused without a violation"));
        };
        Ok(Self { tenant_id, application_id, environment, scopes, valid_until, name, email })
    }
}

/// Lets an application act on a tenant, as an operator from above it (0-21).
pub(super) async fn grant(change: &mut Change<'_>, new: &New) -> Result<pb::Authorization> {
    let call = change.call;
    call.check_environment(Some(&new.environment))?;
    call.check_end(new.valid_until)?;
    let tenant = rooms::store::find_ref(change.conn(), &call.scope, &new.tenant_id).await?;
    rooms::store::hold(change.conn(), &tenant).await?;
    rooms::life::check_protection_of_keys(change, tenant.uid).await?;
    let Offer { account_id, scopes: asked } =
        applications::offer(change, &new.application_id, &new.environment).await?;
    let mut fields = Fields::default();
    if new.valid_until.is_some_and(|end| end <= change.now) {
        fields.refuse("valid_until", "does not lie ahead any more");
    }
    for (place, scope) in new.scopes.iter().enumerate() {
        if !asked.contains(scope) {
            let why = format!(
                "is nothing that \"{}\" asks for: GetApplication tells that",
                new.application_id
            );
            fields.refuse(&format!("scopes[{place}]"), why);
        }
    }
    fields.finish()?;

    let granted = if new.scopes.is_empty() { asked } else { new.scopes.clone() };
    let by = By {
        path: Path::Operator,
        name: new.name.clone(),
        email: new.email.clone(),
        actor: call.actor(),
    };
    let terms = Terms {
        application_id: &new.application_id,
        publisher_account_id: &account_id,
        environment: &new.environment,
        scopes: granted,
        valid_until: new.valid_until,
    };
    put(change, &tenant, terms, by).await
}

/// What is to be authorized.
pub(super) struct Terms<'a> {
    pub(super) application_id: &'a str,
    pub(super) publisher_account_id: &'a str,
    pub(super) environment: &'a str,
    pub(super) scopes: Vec<String>,
    pub(super) valid_until: Option<DateTime<Utc>>,
}

/// Who says yes.
pub(super) struct By {
    pub(super) path: Path,
    pub(super) name: String,
    pub(super) email: String,
    pub(super) actor: String,
}

/// Stores a new authorization of a tenant that is held, in the place of one whose time is over.
pub(super) async fn put(
    change: &mut Change<'_>,
    tenant: &TenantOfCall,
    terms: Terms<'_>,
    by: By,
) -> Result<pb::Authorization> {
    expire(change, tenant, &terms).await?;
    let now = change.now;
    let row = Authorization {
        tenant_uid: tenant.uid,
        authorization_id: change.uuid(),
        tenant_id: tenant.tenant_id.clone(),
        application_id: terms.application_id.to_owned(),
        publisher_account_id: terms.publisher_account_id.to_owned(),
        environment: terms.environment.to_owned(),
        state: Fate::Active,
        granted_scopes: terms.scopes.into_iter().map(Some).collect(),
        requested_scopes: Vec::new(),
        path: by.path,
        authorizer_name: by.name,
        authorizer_email: by.email,
        authorizer: by.actor,
        grant_time: now,
        valid_until: terms.valid_until,
        revoke_time: None,
        revoked_by: None,
        revoke_reason: None,
        revoke_contact: None,
        update_time: now,
        version: 1,
    };
    // Where another was faster, its row is the one.
    let rows = diesel::insert_into(tenant_authorizations::table)
        .values(&row)
        .on_conflict_do_nothing()
        .execute(change.conn())
        .await
        .map_err(overtaken)?;
    if rows == 0 {
        return Err(exists_already(&row.application_id));
    }
    book(change, &row).await?;
    let told = row.told(None, now);
    tell(change, "authorization.granted", tenant, None, &told).await?;
    Ok(told)
}

fn exists_already(application_id: &str) -> Error {
    let id = application_id.to_owned();
    Error::AlreadyExists { kind: Kind::Authorization, what: "application", id }
}

/// Refuses to ask a tenant for what it authorizes already, where it is known to.
pub(super) async fn refuse_existing(
    change: &mut Change<'_>,
    tenant_uid: Uuid,
    application_id: &str,
    environment: &str,
) -> Result<()> {
    let live = of_place(tenant_uid, application_id, environment).filter(is_live(change.now));
    let is_there: bool = diesel::select(exists(live)).get_result(change.conn()).await?;
    if is_there { Err(exists_already(application_id)) } else { Ok(()) }
}

/// What a tenant authorized an application to last, in an environment, be it over or not.
pub(super) async fn latest(
    conn: &mut AsyncPgConnection,
    tenant_uid: Uuid,
    application_id: &str,
    environment: &str,
) -> Result<Option<Authorization>> {
    Ok(of_place(tenant_uid, application_id, environment)
        .order(tenant_authorizations::grant_time.desc())
        .select(Authorization::as_select())
        .first(conn)
        .await
        .optional()?)
}

/// What a tenant authorizes an application to in an environment, and once did.
#[diesel::dsl::auto_type]
fn of_place<'a>(tenant_uid: Uuid, application_id: &'a str, environment: &'a str) -> _ {
    tenant_authorizations::table
        .filter(tenant_authorizations::tenant_uid.eq(tenant_uid))
        .filter(tenant_authorizations::application_id.eq(application_id))
        .filter(tenant_authorizations::environment.eq(environment))
}

/// Finds a live authorization by its key, and keeps others from changing it until the transaction ends.
pub(super) async fn hold_live(
    change: &mut Change<'_>,
    tenant_uid: Uuid,
    authorization_id: Uuid,
) -> Result<Used> {
    let found: Used = tenant_authorizations::table
        .find((tenant_uid, authorization_id))
        .select((Authorization::as_select(), last_used_time()))
        .for_update()
        .get_result(change.conn())
        .await
        .optional()?
        .ok_or_else(|| Error::not_found(Kind::Authorization, authorization_id.to_string()))?;
    if found.0.is_live_at(change.now) {
        return Ok(found);
    }
    Err(Error::WrongState {
        reason: ErrorReason::AuthorizationNotActive,
        kind: Kind::Authorization,
        id: authorization_id.to_string(),
        message: "the authorization has ended: ask for a new one with RequestAuthorization"
            .to_owned(),
    })
}

/// What an authorization is to be from now on.
pub(super) struct Changed {
    pub(super) granted: Vec<String>,
    pub(super) requested: Vec<String>,
    pub(super) valid_until: Option<DateTime<Utc>>,
    /// Who says yes to more; nothing where it becomes less, or more is only asked for.
    pub(super) by: Option<By>,
}

/// Changes an authorization that is held. Nothing is told where nothing changes.
pub(super) async fn change(
    change: &mut Change<'_>,
    tenant: &TenantOfCall,
    (before, last_used): Used,
    to: Changed,
) -> Result<pb::Authorization> {
    let now = change.now;
    let mut after = before.clone();
    after.granted_scopes = to.granted.into_iter().map(Some).collect();
    after.requested_scopes = to.requested.into_iter().map(Some).collect();
    after.valid_until = to.valid_until;
    if let Some(by) = to.by {
        after.path = by.path;
        after.authorizer_name = by.name;
        after.authorizer_email = by.email;
        after.authorizer = by.actor;
    }
    if after == before {
        return Ok(before.told(last_used, now));
    }
    after.update_time = now;
    after.version += 1;
    diesel::update(tenant_authorizations::table.find((after.tenant_uid, after.authorization_id)))
        .set((
            tenant_authorizations::granted_scopes.eq(&after.granted_scopes),
            tenant_authorizations::requested_scopes.eq(&after.requested_scopes),
            tenant_authorizations::valid_until.eq(after.valid_until),
            tenant_authorizations::path.eq(after.path),
            tenant_authorizations::authorizer_name.eq(&after.authorizer_name),
            tenant_authorizations::authorizer_email.eq(&after.authorizer_email),
            tenant_authorizations::authorizer.eq(&after.authorizer),
            tenant_authorizations::update_time.eq(after.update_time),
            tenant_authorizations::version.eq(after.version),
        ))
        .execute(change.conn())
        .await?;
    let (before, after) = (before.told(last_used, now), after.told(last_used, now));
    tell(change, "authorization.updated", tenant, Some(&before), &after).await?;
    Ok(after)
}

/// Makes room for a new authorization where the time of the last one is over.
async fn expire(
    change: &mut Change<'_>,
    tenant: &TenantOfCall,
    Terms { application_id, environment, .. }: &Terms<'_>,
) -> Result<()> {
    let now = change.now;
    let expired: Vec<Authorization> = diesel::update(
        of_place(tenant.uid, application_id, environment)
            .filter(tenant_authorizations::state.eq(Fate::Active))
            .filter(tenant_authorizations::valid_until.is_not_null())
            .filter(tenant_authorizations::valid_until.assume_not_null().le(now)),
    )
    .set(tenant_authorizations::state.eq(Fate::Expired))
    .returning(Authorization::as_returning())
    .get_results(change.conn())
    .await?;
    for row in expired {
        book(change, &row).await?;
        tell(change, "authorization.expired", tenant, None, &row.told(None, now)).await?;
    }
    Ok(())
}

/// Counts anew what a tenant authorizes, after a row has changed that says so.
async fn book(change: &mut Change<'_>, row: &Authorization) -> Result<()> {
    let Authorization { tenant_uid, publisher_account_id, application_id, environment, .. } = row;
    counts::book(change.conn(), *tenant_uid, publisher_account_id, application_id, environment)
        .await
}

/// Refuses to take away from an application an environment in which tenants authorize it.
pub(super) async fn refuse_in_use(
    change: &mut Change<'_>,
    application_id: &str,
    environments: &[String],
) -> Result<()> {
    if environments.is_empty() {
        return Ok(());
    }
    let live = tenant_authorizations::table
        .filter(tenant_authorizations::application_id.eq(application_id))
        .filter(tenant_authorizations::environment.eq_any(environments))
        .filter(is_live(change.now));
    let is_authorized: bool = diesel::select(exists(live)).get_result(change.conn()).await?;
    let asks = requests::is_pending(change, application_id, environments).await?;
    let message = match (is_authorized, asks) {
        (false, false) => return Ok(()),
        (true, _) => format!(
            "tenants authorize \"{application_id}\" there: revoke that first, which ListAuthorizations shows"
        ),
        (false, true) => format!(
            "customers are asked to authorize \"{application_id}\" there: cancel that first, which \
             ListAuthorizationRequests shows"
        ),
    };
    let (kind, id) = (Kind::Application, application_id.to_owned());
    Err(Error::WrongState { reason: ErrorReason::RecordInUse, kind, id, message })
}

/// Whether a tenant has ever authorized an application.
pub(super) async fn was_granted(
    change: &mut Change<'_>,
    tenant_uid: Uuid,
    application_id: &str,
) -> Result<bool> {
    let granted = tenant_authorizations::table
        .filter(tenant_authorizations::tenant_uid.eq(tenant_uid))
        .filter(tenant_authorizations::application_id.eq(application_id));
    Ok(diesel::select(exists(granted)).get_result(change.conn()).await?)
}

/// Finds an authorization.
pub(super) async fn find(
    conn: &mut AsyncPgConnection,
    call: &Call,
    authorization_id: Uuid,
) -> Result<Used> {
    rows_of(call)
        .filter(tenant_authorizations::authorization_id.eq(authorization_id))
        .select((Authorization::as_select(), last_used_time()))
        .get_result(conn)
        .await
        .optional()?
        .ok_or_else(|| Error::not_found(Kind::Authorization, authorization_id.to_string()))
}

/// Why an authorization is to end.
pub(super) struct Revocation {
    pub(super) authorization_id: Uuid,
    contact: String,
    reason: String,
    etag: String,
}

impl Revocation {
    pub(super) fn read(request: &pb::RevokeAuthorizationRequest) -> Result<Self> {
        let mut fields = Fields::default();
        fields.take("request_id", request_id(&request.request_id));
        let authorization_id = fields.take(
            "authorization_id",
            request
                .authorization_id
                .parse()
                .map_err(|_| "is not a UUID: ListAuthorizations shows it".to_owned()),
        );
        let contact = fields.take("contact_email", required_email(&request.contact_email));
        let reason = fields.take("reason", text(&request.reason, 1, REASON_MAX));
        fields.finish()?;
        let (Some(authorization_id), Some(contact), Some(reason)) =
            (authorization_id, contact, reason)
        else {
            return Err(Error::internal("a field was refused without a violation"));
        };
        Ok(Self { authorization_id, contact, reason, etag: request.etag.clone() })
    }
}

/// Ends an authorization that was found, within the scope of its tenant.
pub(super) async fn revoke(
    change: &mut Change<'_>,
    (found, last_used): &Used,
    why: &Revocation,
) -> Result<pb::Authorization> {
    change.call.check_environment(Some(&found.environment))?;
    let place = tenant_authorizations::table.find((found.tenant_uid, found.authorization_id));
    let id = || found.authorization_id.to_string();
    let before: Authorization = place
        .select(Authorization::as_select())
        .for_update()
        .get_result(change.conn())
        .await
        .optional()?
        .ok_or_else(|| Error::not_found(Kind::Authorization, id()))?;
    check_etag(&why.etag, before.version, Kind::Authorization, &id())?;
    let publishes = change.call.caller.account.as_ref() == Some(&before.publisher_account_id);
    if !(publishes && change.call.caller.scope == KeyScope::Account) {
        // Of a protected tenant its own side is its own, and its protectors'.
        rooms::life::check_protection_of_keys(change, found.tenant_uid).await?;
    }
    let now = change.now;
    if before.state == Fate::Revoked {
        return Ok(before.told(*last_used, now));
    }
    let after = Authorization {
        state: Fate::Revoked,
        revoke_time: Some(now),
        requested_scopes: Vec::new(),
        revoked_by: Some(change.call.actor()),
        revoke_reason: Some(why.reason.clone()),
        revoke_contact: Some(why.contact.clone()),
        update_time: now,
        version: before.version + 1,
        ..before.clone()
    };
    diesel::update(place)
        .set((
            tenant_authorizations::state.eq(after.state),
            tenant_authorizations::requested_scopes.eq(&after.requested_scopes),
            tenant_authorizations::revoke_time.eq(after.revoke_time),
            tenant_authorizations::revoked_by.eq(&after.revoked_by),
            tenant_authorizations::revoke_reason.eq(&after.revoke_reason),
            tenant_authorizations::revoke_contact.eq(&after.revoke_contact),
            tenant_authorizations::update_time.eq(after.update_time),
            tenant_authorizations::version.eq(after.version),
        ))
        .execute(change.conn())
        .await?;
    book(change, &after).await?;
    let tenant = tenant_of(change, found.tenant_uid, &found.tenant_id).await?;
    requests::cancel_updates(change, found.authorization_id).await?;
    mails::put_revoked(change, found.tenant_uid, found.authorization_id).await?;
    let (before, after) = (before.told(*last_used, now), after.told(*last_used, now));
    tell(change, "authorization.revoked", &tenant, Some(&before), &after).await?;
    Ok(after)
}

/// Finds the tenant that a change lies within.
pub(super) async fn tenant_of(
    change: &mut Change<'_>,
    uid: Uuid,
    tenant_id: &str,
) -> Result<TenantOfCall> {
    let call = change.call;
    let found = rooms::store::by_uid(change.conn(), &call.scope, uid).await?;
    let found = found.ok_or_else(|| Error::not_found(Kind::Tenant, tenant_id))?;
    let rooms::model::Tenant { uid, tenant_id, account_id, .. } = found;
    Ok(TenantOfCall { uid, tenant_id, account_id, named: false })
}

async fn tell(
    change: &mut Change<'_>,
    kind: &'static str,
    tenant: &TenantOfCall,
    before: Option<&pb::Authorization>,
    after: &pb::Authorization,
) -> Result<()> {
    change
        .record(Event {
            kind,
            account_id: Some(&tenant.account_id),
            tenant: Some((tenant.uid, &tenant.tenant_id)),
            resource_type: "authorization",
            resource_id: &after.authorization_id,
            before: before.map(json_of),
            after: Some(json_of(after)),
        })
        .await?;
    publishers::copy(change, kind, &tenant.account_id, before, after).await
}

impl Authorization {
    pub(super) fn tenant_uid(&self) -> Uuid {
        self.tenant_uid
    }

    pub(super) fn tenant_id(&self) -> &str {
        &self.tenant_id
    }

    pub(super) fn application_id(&self) -> &str {
        &self.application_id
    }

    pub(super) fn publisher_account_id(&self) -> &str {
        &self.publisher_account_id
    }

    pub(super) fn environment(&self) -> &str {
        &self.environment
    }

    pub(super) fn valid_until(&self) -> Option<DateTime<Utc>> {
        self.valid_until
    }

    pub(super) fn version(&self) -> i64 {
        self.version
    }

    /// What the application asks for besides.
    pub(super) fn requested(&self) -> impl Iterator<Item = &String> {
        self.requested_scopes.iter().flatten()
    }

    /// What the application may do while it is live.
    pub(super) fn granted(&self) -> impl Iterator<Item = &String> {
        self.granted_scopes.iter().flatten()
    }

    fn state_at(&self, now: DateTime<Utc>) -> pb::AuthorizationState {
        match self.state {
            Fate::Revoked => pb::AuthorizationState::Revoked,
            Fate::Active if !self.is_live_at(now) => pb::AuthorizationState::Expired,
            Fate::Active if self.requested_scopes.is_empty() => pb::AuthorizationState::Active,
            Fate::Active => pb::AuthorizationState::ReapprovalRequired,
            Fate::Expired => pb::AuthorizationState::Expired,
        }
    }

    /// Whether it is good at a time.
    pub(super) fn is_live_at(&self, now: DateTime<Utc>) -> bool {
        self.state == Fate::Active && self.valid_until.is_none_or(|end| now < end)
    }

    /// How it looks from outside at a time, if it was used last at another.
    pub(super) fn told(
        self,
        last_used: Option<DateTime<Utc>>,
        now: DateTime<Utc>,
    ) -> pb::Authorization {
        let state = self.state_at(now);
        let active = self.is_live_at(now) && last_used.is_some_and(|last| now - last < ACTIVE_FOR);
        let Self {
            tenant_uid: _,
            authorization_id,
            tenant_id,
            application_id,
            publisher_account_id,
            environment,
            state: _,
            granted_scopes,
            requested_scopes,
            path,
            authorizer_name,
            authorizer_email,
            authorizer,
            grant_time,
            valid_until,
            revoke_time,
            revoked_by,
            revoke_reason,
            revoke_contact,
            update_time: _,
            version,
        } = self;
        let path = match path {
            Path::Operator => pb::ConsentPath::Operator,
            Path::TenantAdmin => pb::ConsentPath::TenantAdmin,
        };
        pb::Authorization {
            authorization_id: authorization_id.to_string(),
            tenant_id,
            application_id,
            environment,
            state: state.into(),
            granted_scopes: granted_scopes.into_iter().flatten().collect(),
            // What was asked for and not decided on ends with the authorization.
            requested_scopes: if state == pb::AuthorizationState::ReapprovalRequired {
                requested_scopes.into_iter().flatten().collect()
            } else {
                Vec::new()
            },
            authorized_by: Some(pb::AuthorizedBy {
                name: authorizer_name,
                email: authorizer_email,
                path: path.into(),
                actor: authorizer,
            }),
            grant_time: Some(timestamp(grant_time)),
            valid_from: Some(timestamp(grant_time)),
            valid_until: valid_until.map(timestamp),
            revoke_time: revoke_time.map(timestamp),
            revoked_by: revoked_by.unwrap_or_default(),
            revoke_reason: revoke_reason.unwrap_or_default(),
            revoke_contact: revoke_contact.unwrap_or_default(),
            last_used_time: last_used.map(timestamp),
            active,
            etag: etag(version),
            publisher_account_id,
        }
    }
}
