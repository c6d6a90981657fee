//! Who calls, for whom, and whether the method is permitted.
//!
//! Checks in this order, and the first failure answers: the form of the metadata, the key, the
//! metadata that is demanded and against the key, the IP allow-list, the state of the key's tenant and
//! the locks on it, the permission, and only then what the metadata names: whoever may not call the
//! method does not learn what exists.

use std::{sync::Arc, time::Duration};

use axum::{
    body::{Body, Bytes, HttpBody as _},
    extract::Request,
    response::{IntoResponse as _, Response},
};
use bytes::BytesMut;
use chrono::{DateTime, Utc};
use diesel_async::AsyncPgConnection;
use futures_util::FutureExt as _;
use http::HeaderValue;
use http_body_util::BodyExt as _;
use secrecy::{ExposeSecret as _, SecretString};
use tokio::time::Instant;
use tonic::Status;
use uuid::Uuid;

use super::{
    Call, Caller, TenantOfCall,
    client::Client,
    metadata::Metadata,
    observe::Observed,
    permit::{Method, Right, is_closed},
};
use crate::{
    clock::Clock,
    db::{Database, Scope},
    directory,
    error::{Error, Kind, Result, Violation},
    keys::{
        self,
        cache::KeyCache,
        known::{ApiGrants, KeyKind, Known},
        master::MasterKey,
        model::KeyScope,
        roles::{APP_PUBLISHER, RESELLER, Role},
        secret::KeyRef,
        usage::Usage,
    },
    pb::ErrorReason,
    purge,
    tenants::{
        self,
        model::{LockMode, Standing},
    },
};

/// What the layer needs.
pub struct Identifier {
    /// Finds what the metadata names.
    pub database: Database,
    /// Knows keys.
    pub keys: Arc<KeyCache>,
    /// Notes that keys are used.
    pub usage: Arc<Usage>,
    /// Reads keys.
    pub master: Arc<MasterKey>,
    /// Tells whether a key has expired.
    pub clock: Arc<Clock>,
    /// Whether calls that act on a tenant must name it and its account (4-01).
    pub strict_metadata: bool,
}

/// A call that was admitted before.
#[derive(Clone, Copy, Debug)]
pub struct Earlier<'a> {
    /// What was called.
    pub method: &'static Method,
    /// The key that called.
    pub key_id: Uuid,
    /// The account that the metadata named.
    pub account: Option<&'a str>,
    /// The tenant that the metadata named.
    pub tenant: Option<&'a str>,
    /// What tied the call to its cause.
    pub correlation_id: &'a str,
    /// The text of the key, where it is still known: a secret that was rotated away ends what was begun with it.
    pub bearer: Option<&'a SecretString>,
}

/// Lets a call through to its handler with a [`Call`] among its extensions, or refuses it.
///
/// Health and reflection, which are open, and pages go through as they are.
pub async fn identify<Answer>(
    identifier: &Identifier,
    mut request: Request,
    observed: Observed,
    go_on: impl FnOnce(Request) -> Answer,
) -> Response
where
    Answer: Future<Output = Response>,
{
    if !is_closed(request.uri().path()) {
        // A page acts in the name of whoever came by its link.
        request.extensions_mut().insert(observed);
        return go_on(request).await;
    }
    if !observed.metadata.is_grpc {
        return http::StatusCode::UNSUPPORTED_MEDIA_TYPE.into_response();
    }
    let admitted = match observed.method {
        Some(method) => identifier.let_in(method, &observed, &mut request).await,
        None => Err(Error::MethodUnknown),
    };
    match admitted {
        Ok(call) => {
            request.extensions_mut().insert(call);
            go_on(request).await
        }
        Err(error) => Status::from(error).into_http(),
    }
}

/// How large a message is at most, with what frames it: what tonic decodes where it is told nothing else.
const BODY_MAX: usize = (4 << 20) + 5;

/// How long a message may take to come, whatever the deadline of its call: it is held until it is whole.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);

/// Reads a body to its end; answers whether it had to be waited for.
async fn whole(mut body: Body) -> Result<(Bytes, bool)> {
    let mut message = BytesMut::new();
    let mut until = None;
    loop {
        let next = match body.frame().now_or_never() {
            Some(next) => next,
            None => {
                let until = *until.get_or_insert_with(|| Instant::now() + BODY_TIMEOUT);
                let next = tokio::time::timeout_at(until, body.frame()).await;
                next.map_err(|_| Error::DeadlineExceeded)?
            }
        };
        let Some(frame) = next else { break };
        let frame = frame.map_err(|error| Error::of_foreign(&Status::from_error(error.into())))?;
        // The other kind is trailers, which say nothing here.
        let Ok(data) = frame.into_data() else { continue };
        if message.len() + data.len() > BODY_MAX {
            let why = "the request has more than 4 MiB: send less at once";
            return Err(Error::MessageTooLarge(why.to_owned()));
        }
        if message.is_empty() && body.is_end_stream() {
            // As nearly all come: in one piece.
            return Ok((data, until.is_some()));
        }
        message.extend_from_slice(&data);
    }
    Ok((message.freeze(), until.is_some()))
}

impl Identifier {
    /// Admits a call, as its key is when its message has come: whoever holds a message back holds no right that
    /// was taken away meanwhile.
    async fn let_in(
        &self,
        method: &'static Method,
        observed: &Observed,
        request: &mut Request,
    ) -> Result<Arc<Call>> {
        // First, so that nobody makes the service read what it will not answer.
        let admitted = self.admit(method, observed).await?;
        if method.takes_stream {
            // Each of its messages is a call of its own.
            return Ok(admitted);
        }
        let (message, waited) = whole(std::mem::take(request.body_mut())).await?;
        *request.body_mut() = Body::from(message);
        if waited { self.admit(method, observed).await } else { Ok(admitted) }
    }

    async fn admit(&self, method: &'static Method, observed: &Observed) -> Result<Arc<Call>> {
        let Metadata { account_id, tenant_id, .. } = &observed.metadata;
        let account = named("x-account-id", account_id.as_ref())?;
        let tenant = named("x-tenant-id", tenant_id.as_ref())?;

        let (caller, bearer, known) = self.caller(observed).await?;
        let mut call = Call {
            correlation_id: observed.correlation_id.clone(),
            deadline: observed.deadline,
            method: method.name(),
            client: observed.client,
            bearer,
            account: caller.account.clone(),
            tenant: caller.tenant.clone(),
            scope: caller.own_scope(),
            caller,
        };
        let checked = match self.check(&mut call, method, (account, tenant), &known) {
            Ok(()) => self.resolve(&mut call, method, account, tenant).await,
            refused => refused,
        };
        let span = tracing::Span::current();
        if !span.is_none() {
            span.record("key.id", tracing::field::display(call.caller.key_id));
            span.record("account.id", call.account.as_deref());
            span.record("tenant.id", call.tenant.as_ref().map(|it| it.tenant_id.as_str()));
        }
        // For the log and the answer, of refusals too.
        let call = Arc::new(call);
        let _ = observed.call.set(call.clone());
        checked.map(|()| call)
    }

    /// Checks what needs no look-up, and sets how far the call reaches.
    fn check(
        &self,
        call: &mut Call,
        method: &Method,
        (account, tenant): (Option<&str>, Option<&str>),
        known: &Known,
    ) -> Result<()> {
        self.demand_metadata(method, &call.caller, account, tenant)?;
        compare(&call.caller, account, tenant)?;
        if !known.owner.allowlist.admits(call.client.ip) {
            return Err(Error::IpNotAllowed(call.client.ip));
        }
        self.check_right(call, method, standing_of(known))
    }

    /// Checks whether the key works and may call the method, and sets how far the call reaches.
    fn check_right(
        &self,
        call: &mut Call,
        method: &Method,
        standing: Option<&Standing>,
    ) -> Result<()> {
        if let (Some(tenant), Some(standing)) = (&call.caller.tenant, standing) {
            check_standing(&tenant.tenant_id, standing, method, self.clock.now())?;
        }
        call.scope = permit(method, &call.caller)?;
        Ok(())
    }

    /// Admits a call once more that went on after its answer, as its key is now: with the rights that it
    /// has, if it still has any.
    ///
    /// From where it comes is checked where that is still so. Nothing can be sealed for the caller, whose secret
    /// is not known any more.
    ///
    /// # Errors
    ///
    /// What the call would be refused with now.
    pub async fn admit_again(
        &self,
        earlier: Earlier<'_>,
        client: Option<Client>,
        deadline: Instant,
    ) -> Result<Call> {
        let Earlier { method, key_id, account, tenant, correlation_id, bearer } = earlier;
        let key_ref = KeyRef::from_public_id(key_id, &self.master);
        let now = self.clock.now();
        let known = self.resolve_key(key_ref, now, deadline).await?;
        if let Some(bearer) = bearer {
            let parsed = keys::secret::parse(&self.master, bearer.expose_secret());
            let sha256 = parsed.map_err(|_| Error::Unauthenticated)?.secret.sha256();
            if !known.has_secret(&self.master, &sha256, now) {
                return Err(Error::Unauthenticated);
            }
        }
        let caller = caller_of(&known)?;
        let mut call = Call {
            correlation_id: correlation_id.into(),
            deadline,
            method: method.name(),
            client: client.unwrap_or_default(),
            bearer: SecretString::from(self.clock.uuid().to_string()),
            account: caller.account.clone(),
            tenant: caller.tenant.clone(),
            scope: caller.own_scope(),
            caller,
        };
        compare(&call.caller, account, tenant)?;
        if client.is_some_and(|client| !known.owner.allowlist.admits(client.ip)) {
            return Err(Error::IpNotAllowed(call.client.ip));
        }
        self.check_right(&mut call, method, standing_of(&known))?;
        self.resolve(&mut call, method, account, tenant).await?;
        Ok(call)
    }

    /// As [`Identifier::admit_again`], for what a stream does next: as long as its key reaches as far as it did.
    ///
    /// # Errors
    ///
    /// As [`Identifier::admit_again`], and [`Error::Unauthenticated`] for another reach, which is another call.
    pub async fn admit_still(&self, call: &Call, deadline: Instant) -> Result<Call> {
        let (account, tenant) = call.named();
        let earlier = Earlier {
            method: Method::find(&format!("/{}", call.method)).ok_or(Error::MethodUnknown)?,
            key_id: call.caller.key_id,
            account,
            tenant,
            correlation_id: &call.correlation_id,
            bearer: Some(&call.bearer),
        };
        let mut again = self.admit_again(earlier, Some(call.client), deadline).await?;
        if again.scope != call.scope {
            return Err(Error::Unauthenticated);
        }
        again.bearer = call.bearer.clone();
        Ok(again)
    }

    /// Finds a key that works.
    async fn resolve_key(
        &self,
        key_ref: KeyRef,
        now: DateTime<Utc>,
        deadline: Instant,
    ) -> Result<Arc<Known>> {
        let found = self.keys.find(key_ref, None, deadline).await?.known;
        found.filter(|known| known.is_good(now)).ok_or(Error::Unauthenticated)
    }

    /// Checks that what the call acts on is named, where the operator wants it so (4-01). A call that may
    /// act on an account means a tenant only if its key has one.
    fn demand_metadata(
        &self,
        method: &Method,
        caller: &Caller,
        account: Option<&str>,
        tenant: Option<&str>,
    ) -> Result<()> {
        if !self.strict_metadata {
            return Ok(());
        }
        let either = method.acts_on_tenant_or_account;
        let demanded = [
            ("x-account-id", account, method.acts_on_tenant || either),
            ("x-tenant-id", tenant, method.acts_on_tenant || (either && caller.tenant.is_some())),
        ];
        let missing = demanded
            .into_iter()
            .filter(|(_, value, is_demanded)| *is_demanded && value.is_none())
            .map(|(key, ..)| Violation::of(ErrorReason::InvalidMetadata, key, "is required"))
            .collect::<Vec<_>>();
        if missing.is_empty() { Ok(()) } else { Err(Error::Invalid(missing)) }
    }

    /// Finds whose key the call carries.
    async fn caller(&self, observed: &Observed) -> Result<(Arc<Caller>, SecretString, Arc<Known>)> {
        let text = observed.metadata.bearer().ok_or(Error::Unauthenticated)?;
        let parsed = keys::secret::parse(&self.master, text).map_err(|_| Error::Unauthenticated)?;

        let now = self.clock.now();
        let known = self.resolve_key(parsed.key_ref, now, observed.deadline).await?;
        if !known.has_secret(&self.master, &parsed.secret.sha256(), now) {
            return Err(Error::Unauthenticated);
        }
        let caller = caller_of(&known)?;
        self.usage.note(&known, now);
        Ok((caller, SecretString::from(text), known))
    }

    /// Puts the account and the tenant that the metadata names into the call, if they are within the
    /// caller's reach.
    async fn resolve(
        &self,
        call: &mut Call,
        method: &Method,
        account: Option<&str>,
        tenant: Option<&str>,
    ) -> Result<()> {
        if let (Some(account), KeyScope::System) = (account, call.caller.scope) {
            let exists = async |conn: &mut _| directory::accounts::require(conn, account).await;
            self.database.read(&Scope::System, call.deadline, exists).await?;
            call.account = Some(account.to_owned());
            call.scope = Scope::Account(account.to_owned());
        }
        match (tenant, &mut call.tenant) {
            (None, _) => {}
            (Some(named), Some(own)) if own.tenant_id == named => own.named = true,
            (Some(named), _) => {
                let scope = &call.scope;
                let find = async |conn: &mut AsyncPgConnection| match tenants::store::find_ref(
                    conn, scope, named,
                )
                .await
                {
                    Err(Error::NotFound { .. }) if method.acts_on_purged_tenant => {
                        purge::find_ref(conn, scope, named).await
                    }
                    found => found,
                };
                let found = self.database.read(scope, call.deadline, find).await?;
                call.account = Some(found.account_id.clone());
                call.tenant = Some(found);
            }
        }
        Ok(())
    }
}

/// Whose key it is. Only API keys call.
fn caller_of(known: &Known) -> Result<Arc<Caller>> {
    let KeyKind::Api(ApiGrants { scope, roles, reseller_id, backend_ids, .. }) = &known.kind else {
        return Err(Error::Unauthenticated);
    };
    let caller = || Caller {
        key_id: known.id,
        scope: *scope,
        account: known.owner.account_id.clone(),
        tenant: known.owner.tenant.as_ref().map(|tenant| TenantOfCall {
            uid: tenant.uid,
            tenant_id: tenant.tenant_id.clone(),
            account_id: tenant.account_id.clone(),
            named: false,
        }),
        reseller: reseller_id.clone(),
        backends: backend_ids.clone(),
        environment: known.environment.as_deref().map(str::to_owned),
        expire_time: known.expire_time,
        roles: roles.clone(),
        link: None,
    };
    Ok(known.caller.get_or_init(|| Arc::new(caller())).clone())
}

/// Whether the key's tenant lets it work.
fn standing_of(known: &Known) -> Option<&Standing> {
    known.owner.tenant.as_ref().map(|tenant| &tenant.standing)
}

fn named<'a>(key: &str, value: Option<&'a HeaderValue>) -> Result<Option<&'a str>> {
    let Some(value) = value else {
        return Ok(None);
    };
    match value.to_str() {
        Ok(id) if crate::wire::check_id(id).is_ok() => Ok(Some(id)),
        _ => Err(Error::Invalid(vec![Violation::of(
            ErrorReason::InvalidMetadata,
            key,
            "is not an id: 1 to 30 characters of a-z, 0-9 and \"-\"",
        )])),
    }
}

/// Checks that the state of a tenant and the locks on it let its keys call a method.
fn check_standing(
    tenant_id: &str,
    standing: &Standing,
    method: &Method,
    now: DateTime<Utc>,
) -> Result<()> {
    let refuse = |reason, message| {
        Err(Error::WrongState { reason, kind: Kind::Tenant, id: tenant_id.to_owned(), message })
    };
    if let Some(why) = standing.inactive(now) {
        return refuse(
            ErrorReason::TenantNotActive,
            format!("the tenant of the key is {why}: its keys work while it is ACTIVE only"),
        );
    }
    let only_reads = match &method.right {
        Right::AnyValidKey => true,
        Right::Permission(permission) | Right::EitherPermission(permission, _) => {
            // To tell whether a key is good changes nothing either.
            [":VIEW", ":VERIFY", ":CHECK"].iter().any(|verb| permission.ends_with(verb))
        }
    };
    match standing.lock(now) {
        None => Ok(()),
        Some(LockMode::ReadOnly) if only_reads => Ok(()),
        Some(mode) => refuse(
            ErrorReason::TenantLocked,
            format!(
                "the tenant of the key, or one above it, is locked ({}): ask whoever operates it to \
                 unlock it",
                mode.as_str()
            ),
        ),
    }
}

/// Compares what the metadata names with what the key is bound to.
fn compare(caller: &Caller, account: Option<&str>, tenant: Option<&str>) -> Result<()> {
    if let (Some(named), Some(own)) = (account, &caller.account)
        && named != own
    {
        return Err(Error::Mismatch(
            "x-account-id names another account than that of the key: leave it out or use a key of \
             that account"
                .to_owned(),
        ));
    }
    if let (Some(named), Some(own)) = (tenant, &caller.tenant)
        && named != own.tenant_id
        && !caller.roles.iter().any(|role| role.reaches_below)
    {
        return Err(Error::Mismatch(
            "x-tenant-id names another tenant than that of the key: leave it out or use a key of \
             that tenant"
                .to_owned(),
        ));
    }
    Ok(())
}

/// Checks the permission; answers how far the roles that grant it reach.
fn permit(method: &Method, caller: &Caller) -> Result<Scope> {
    // The first that the key has says how far it reaches: the second shows less, not more tenants.
    let held = method.right.permissions().find(|permission| caller.may(permission));
    if let (Some(permission), None) = (method.right.permissions().next(), held) {
        return Err(Error::permission_missing(permission));
    }
    let granting = |role: &&&'static Role| held.is_none_or(|permission| role.grants(permission));
    let mut roles = caller.roles.iter().filter(granting).peekable();
    let has_any = roles.peek().is_some();
    let only_as = |id| has_any && roles.clone().all(|role| role.id == id);
    let (only_as_reseller, only_as_publisher) = (only_as(RESELLER), only_as(APP_PUBLISHER));
    // To check them is to ask as one whose application it is.
    let of_authorizations = held
        .is_some_and(|held| held.starts_with("AUTHORIZATIONS:") && held != "AUTHORIZATIONS:CHECK");
    Ok(match (caller.scope, &caller.account, &caller.tenant) {
        (KeyScope::System, ..) => Scope::System,
        (KeyScope::Account, Some(account), _) => match &caller.reseller {
            Some(reseller) if only_as_reseller => {
                Scope::Reseller { account: account.clone(), reseller: reseller.clone() }
            }
            // Of tenants, and what others may do with those, it has nothing to see.
            _ if only_as_publisher && of_authorizations => Scope::Publisher(account.clone()),
            _ => Scope::Account(account.clone()),
        },
        (KeyScope::Tenant, _, Some(tenant)) if roles.any(|role| role.reaches_below) => {
            Scope::Provider(tenant.uid)
        }
        (KeyScope::Tenant, _, Some(tenant)) => Scope::Tenant(tenant.uid),
        // A key without its owner does not pass the constraints of its table.
        (KeyScope::Account | KeyScope::Tenant, ..) => return Err(Error::Unauthenticated),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn caller(scope: KeyScope, roles: &[&str]) -> Caller {
        let tenant = TenantOfCall {
            uid: Uuid::from_u128(7),
            tenant_id: "foo".to_owned(),
            account_id: "acme".to_owned(),
            named: false,
        };
        Caller {
            key_id: Uuid::nil(),
            scope,
            account: (scope != KeyScope::System).then(|| "acme".to_owned()),
            tenant: (scope == KeyScope::Tenant).then_some(tenant),
            reseller: roles.contains(&RESELLER).then(|| "north".to_owned()),
            backends: Vec::new(),
            environment: None,
            expire_time: None,
            roles: roles.iter().filter_map(|id| Role::find(id)).collect(),
            link: None,
        }
    }

    fn view() -> &'static Method {
        Method::find("/tenantry.v1.TenantService/GetTenant").unwrap()
    }

    #[test]
    fn a_key_reaches_as_far_as_the_roles_that_grant_the_permission() {
        let reach = |scope, roles: &[&str]| permit(view(), &caller(scope, roles)).unwrap();

        assert_eq!(reach(KeyScope::System, &["auditor"]), Scope::System);
        assert_eq!(reach(KeyScope::Account, &["account-admin"]), Scope::Account("acme".into()));
        assert_eq!(reach(KeyScope::Tenant, &["tenant-admin"]), Scope::Tenant(Uuid::from_u128(7)));
        assert_eq!(reach(KeyScope::Tenant, &["auditor"]), Scope::Provider(Uuid::from_u128(7)));
        assert_eq!(
            reach(KeyScope::Account, &["reseller"]),
            Scope::Reseller { account: "acme".into(), reseller: "north".into() }
        );
    }

    #[test]
    fn a_role_that_reaches_below_lends_its_reach_to_no_other_permission() {
        let edit = Method::find("/tenantry.v1.TenantService/UpdateTenant").unwrap();

        let reach = permit(edit, &caller(KeyScope::Tenant, &["tenant-admin", "auditor"])).unwrap();

        assert_eq!(reach, Scope::Tenant(Uuid::from_u128(7)));
    }

    #[test]
    fn a_key_without_the_permission_is_refused_with_its_name() {
        let error = permit(view(), &caller(KeyScope::System, &["key-verifier"])).unwrap_err();

        assert!(error.to_string().contains("TENANTS:VIEW"), "{error}");
    }

    #[test]
    fn metadata_that_disagrees_with_the_key_is_refused() {
        let key = caller(KeyScope::Tenant, &["tenant-admin"]);

        assert!(compare(&key, Some("acme"), Some("foo")).is_ok());
        assert!(matches!(compare(&key, Some("other"), None), Err(Error::Mismatch(_))));
        assert!(matches!(compare(&key, None, Some("other")), Err(Error::Mismatch(_))));
    }
}
