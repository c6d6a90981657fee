//! What a tenant says to a request: yes or no, by a key or on the page of its link.

use chrono::{DateTime, Utc};
use diesel_async::AsyncPgConnection;
use uuid::Uuid;

use super::{
    applications::not_published,
    asking::offer_of,
    grants::{self, By, Changed, Path, Terms},
    requests::{self, AuthorizationRequest, Outcome, Side, Wish},
};
use crate::{
    error::{Error, Kind, Result},
    keys::model::KeyScope,
    pb::{self, ErrorReason},
    rpc::{Call, TenantOfCall, mutate::Change},
    tenants as rooms,
    tenants::model::{Tenant, TenantRecord, TenantState},
    wire::{Fields, text},
};

const REASON_MAX: usize = 500;

/// Who decides.
pub(super) struct Decider {
    /// The name that they gave; empty where a key is used.
    pub(super) name: String,
    /// Their address, where one alone had the link.
    pub(super) email: String,
    /// Who that is, for the record.
    pub(super) actor: String,
}

impl Decider {
    /// Whoever has the key of a call.
    pub(super) fn of_key(call: &Call) -> Self {
        Self { name: String::new(), email: String::new(), actor: call.actor() }
    }
}

/// Finds a request from the side of the tenant that is asked; answers which that is.
pub(super) async fn find(conn: &mut AsyncPgConnection, call: &Call, id: Uuid) -> Result<Uuid> {
    let found = requests::find(conn, call, Side::Tenant, id).await?;
    found.tenant_uid.ok_or_else(|| Error::internal("a request to nobody, seen by whom it asks"))
}

/// Why a tenant decides nothing at a time: it is not active, or locked, be it from above.
pub(super) fn refusal(
    record: &TenantRecord,
    now: DateTime<Utc>,
) -> Option<(ErrorReason, &'static str)> {
    if record.tenant.state != TenantState::Active {
        let why = "the tenant is not ACTIVE: it decides nothing until it is";
        Some((ErrorReason::TenantNotActive, why))
    } else if record.tenant.lock.at(now).is_some() || record.lock_above.is_some() {
        let why = "the tenant, or one above it, is locked: it decides nothing until it is unlocked";
        Some((ErrorReason::TenantLocked, why))
    } else {
        None
    }
}

/// Finds the tenant that is asked, which may decide now, and holds it.
async fn hold_tenant(change: &mut Change<'_>, uid: Uuid) -> Result<TenantOfCall> {
    rooms::store::hold_state(change.conn(), uid).await?;
    let (scope, now) = (change.call.scope.clone(), change.now);
    let row = rooms::store::by_uid(change.conn(), &scope, uid).await?;
    let row = row.ok_or_else(|| Error::not_found(Kind::Tenant, uid.to_string()))?;
    let record = rooms::store::complete_one(change.conn(), now, row).await?;
    let by_link = change.call.caller.link.is_some();
    match refusal(&record, now) {
        // Keys are checked for locks on their way in, and those from above are not bound by them.
        Some((ErrorReason::TenantLocked, _)) if !by_link => {}
        Some((reason, message)) => {
            return Err(Error::WrongState {
                reason,
                kind: Kind::Tenant,
                id: record.tenant.tenant_id,
                message: message.to_owned(),
            });
        }
        None => {}
    }
    if !by_link {
        rooms::life::check_protection_of_keys(change, uid).await?;
    }
    let Tenant { uid, tenant_id, account_id, .. } = record.tenant;
    Ok(TenantOfCall { uid, tenant_id, account_id, named: false })
}

/// Marks a request as decided on.
async fn decide(
    change: &mut Change<'_>,
    before: &AuthorizationRequest,
    decider: &Decider,
    (state, kind): (Outcome, &'static str),
    tenant: &TenantOfCall,
    with: (Option<Uuid>, Option<String>),
) -> Result<AuthorizationRequest> {
    let now = change.now;
    let (authorization_id, decline_reason) = with;
    let after = AuthorizationRequest {
        state,
        authorization_id: authorization_id.or(before.authorization_id),
        decided_by: Some(decider.actor.clone()),
        decider_name: Some(decider.name.clone()),
        decide_time: Some(now),
        decline_reason,
        update_time: now,
        version: before.version + 1,
        ..before.clone()
    };
    requests::keep(change, &after).await?;
    requests::tell(change, kind, Some(tenant), Some(before), &after).await?;
    Ok(after)
}

/// Says yes.
pub(super) async fn approve(
    change: &mut Change<'_>,
    (id, tenant_uid): (Uuid, Uuid),
    decider: Decider,
    sent_etag: &str,
) -> Result<pb::ApproveAuthorizationRequestResponse> {
    let request = requests::hold_pending(change, id, sent_etag).await?;
    let call = change.call;
    if request.requested_by == call.actor() {
        return Err(Error::Forbidden {
            permission: "AUTHORIZATIONS:APPROVE".to_owned(),
            message: "the key that asked does not answer for the customer: use a key of the tenant"
                .to_owned(),
        });
    }
    call.check_end(request.valid_until)?;
    if request.valid_until.is_some_and(|end| end <= change.now) {
        return Err(over(id));
    }
    let tenant = hold_tenant(change, tenant_uid).await?;
    let (application_id, environment) = (&request.application_id, &request.environment);
    let offer = offer_of(change.conn(), application_id, environment).await?;
    let offer = offer
        .filter(|offer| offer.is_published)
        .ok_or_else(|| not_published(application_id, environment))?;
    let held = match (request.kind, request.authorization_id) {
        (Wish::Update, Some(id)) => Some(grants::hold_live(change, tenant.uid, id).await?),
        _ => None,
    };
    let had = held.iter().flat_map(|(held, _)| held.granted()).collect::<Vec<_>>();
    let scopes = request.scopes();
    // As whom it acts is a part of what is said yes to.
    if !offer.stands(&request, |scope| had.contains(&scope)) {
        return Err(Error::WrongState {
            reason: ErrorReason::ApplicationChanged,
            kind: Kind::Application,
            id: application_id.clone(),
            message: "the application asks for something else by now than with this request: ask anew with \
                      RequestAuthorization"
                .to_owned(),
        });
    }
    let is_of_tenant = call.caller.link.is_some() || call.caller.scope == KeyScope::Tenant;
    let by = By {
        path: if is_of_tenant { Path::TenantAdmin } else { Path::Operator },
        name: decider.name.clone(),
        email: decider.email.clone(),
        actor: decider.actor.clone(),
    };
    let authorization = match held {
        Some(before) => {
            let to = Changed {
                granted: scopes,
                requested: Vec::new(),
                valid_until: request.valid_until,
                by: Some(by),
            };
            grants::change(change, &tenant, before, to).await?
        }
        None => {
            let terms = Terms {
                application_id,
                publisher_account_id: &request.publisher_account_id,
                environment,
                scopes,
                valid_until: request.valid_until,
            };
            grants::put(change, &tenant, terms, by).await?
        }
    };
    let came_of_it = authorization.authorization_id.parse().map_err(Error::internal)?;
    let as_approved = (Outcome::Approved, "authorization_request.approved");
    let after =
        decide(change, &request, &decider, as_approved, &tenant, (Some(came_of_it), None)).await?;
    Ok(pb::ApproveAuthorizationRequestResponse {
        authorization_request: Some(after.told(change.now)),
        authorization: Some(authorization),
    })
}

/// What would be authorized has ended before anybody said yes.
fn over(id: Uuid) -> Error {
    Error::WrongState {
        reason: ErrorReason::RequestNotPending,
        kind: Kind::AuthorizationRequest,
        id: id.to_string(),
        message: "the time is over that was asked for: ask anew with RequestAuthorization"
            .to_owned(),
    }
}

/// Reads why somebody says no.
pub(super) fn read_reason(reason: &str) -> Result<String, String> {
    text(reason, 1, REASON_MAX)
}

/// Reads which request is declined, and why.
pub(super) fn read_decline(
    request: &pb::DeclineAuthorizationRequestRequest,
) -> Result<(Uuid, String)> {
    let mut fields = Fields::default();
    let id = &request.authorization_request_id;
    let id = requests::read_named(&mut fields, id, &request.request_id);
    let reason = fields.take("reason", read_reason(&request.reason));
    fields.finish()?;
    id.zip(reason).ok_or_else(|| Error::internal("a field was refused without a violation"))
}

/// Says no.
pub(super) async fn decline(
    change: &mut Change<'_>,
    (id, tenant_uid): (Uuid, Uuid),
    decider: Decider,
    reason: &str,
    sent_etag: &str,
) -> Result<pb::AuthorizationRequest> {
    let request = requests::hold_pending(change, id, sent_etag).await?;
    let tenant = hold_tenant(change, tenant_uid).await?;
    let as_declined = (Outcome::Declined, "authorization_request.declined");
    let why = (None, Some(reason.to_owned()));
    let after = decide(change, &request, &decider, as_declined, &tenant, why).await?;
    forget_wish(change, &after).await?;
    Ok(after.told(change.now))
}

/// Takes from an authorization what it asked for and does not get.
pub(super) async fn forget_wish(
    change: &mut Change<'_>,
    request: &AuthorizationRequest,
) -> Result<()> {
    let (Wish::Update, Some(uid), Some(id)) =
        (request.kind, request.tenant_uid, request.authorization_id)
    else {
        return Ok(());
    };
    let held = match grants::hold_live(change, uid, id).await {
        Ok(held) => held,
        // What has ended asks for nothing.
        Err(Error::WrongState { .. }) => return Ok(()),
        Err(error) => return Err(error),
    };
    let before = &held.0;
    let tenant = grants::tenant_of(change, uid, before.tenant_id()).await?;
    let to = Changed {
        granted: before.granted().cloned().collect(),
        requested: Vec::new(),
        valid_until: before.valid_until(),
        by: None,
    };
    grants::change(change, &tenant, held, to).await?;
    Ok(())
}
