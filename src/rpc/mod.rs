//! The corridor that every call walks, outside to inside: `metadata` is read; `observe` gives it ids, a
//! deadline and its log line; `identify` finds out who calls and for whom, and whether the method is permitted;
//! `mutate` makes a change happen once, with its event.

pub mod client;
pub mod codec;
pub mod identify;
pub mod metadata;
pub mod mutate;
pub mod observe;
pub mod permit;

use std::sync::Arc;

use chrono::{DateTime, Utc};
use secrecy::SecretString;
use tokio::time::Instant;
use tonic::Request;
use uuid::Uuid;

use crate::{
    db::Scope,
    error::{Error, Result, Violation},
    keys::{model::KeyScope, roles::Role},
    pb::ErrorReason,
    wire,
};

/// A call that has come as far as a handler: identified and permitted.
#[derive(Clone, Debug)]
pub struct Call {
    /// Ties together everything that happens because of this call (4-02).
    pub correlation_id: Arc<str>,
    /// When its caller stops waiting.
    pub deadline: Instant,
    /// The method, such as `tenantry.v1.TenantService/GetTenant`.
    pub method: &'static str,
    /// Where it comes from.
    pub client: client::Client,
    /// Whose key it carries.
    pub caller: Arc<Caller>,
    /// The whole text of that key: stored answers are encrypted under it.
    pub bearer: SecretString,
    /// The account that it acts on, where it has one.
    pub account: Option<String>,
    /// The tenant that it acts on, where it has one.
    pub tenant: Option<TenantOfCall>,
    /// How far the caller reaches with this method.
    pub scope: Scope,
}

/// Whose key a call carries, and what the key may do.
#[derive(Clone, Debug)]
pub struct Caller {
    /// The public id of the key.
    pub key_id: Uuid,
    /// Whose key it is.
    pub scope: KeyScope,
    /// The account of an account's or tenant's key.
    pub account: Option<String>,
    /// The tenant of a tenant's key.
    pub tenant: Option<TenantOfCall>,
    /// The reseller that the key is bound to.
    pub reseller: Option<String>,
    /// On which backends the role `multi-backend-admin` places tenants.
    pub backends: Vec<String>,
    /// The environment that the key is bound to.
    pub environment: Option<String>,
    /// When the key ends.
    pub expire_time: Option<DateTime<Utc>>,
    /// What it may do.
    pub roles: Vec<&'static Role>,
    /// The request that is decided on by a link, where that stands in the place of a key.
    pub link: Option<Uuid>,
}

/// The tenant that a call acts on, or that a key belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TenantOfCall {
    /// Its UUID.
    pub uid: Uuid,
    /// Its id.
    pub tenant_id: String,
    /// Its account.
    pub account_id: String,
    /// Whether it was named by `x-tenant-id`, not only taken from the key.
    pub named: bool,
}

impl Caller {
    /// Whether one of its roles grants a permission.
    pub fn may(&self, permission: &str) -> bool {
        self.roles.iter().any(|role| role.grants(permission))
    }

    /// The scope of the key as such: what belongs to its owner.
    pub fn own_scope(&self) -> Scope {
        match (&self.tenant, &self.account) {
            (Some(tenant), _) => Scope::Tenant(tenant.uid),
            (None, Some(account)) => Scope::Account(account.clone()),
            (None, None) => Scope::System,
        }
    }
}

impl Call {
    /// Takes the call from a request that came through the corridor.
    ///
    /// # Errors
    ///
    /// [`Error::Unauthenticated`] when it did not: what the corridor missed is closed.
    pub fn of<M>(request: Request<M>) -> Result<(Arc<Self>, M)> {
        let (_, mut extensions, message) = request.into_parts();
        let call = extensions.remove::<Arc<Self>>().ok_or(Error::Unauthenticated)?;
        Ok((call, message))
    }

    /// The actor as events and records name it.
    pub fn actor(&self) -> String {
        match self.caller.link {
            Some(request) => format!("consent:{request}"),
            None => format!("api_key:{}", self.caller.key_id),
        }
    }

    /// The account and the tenant that its metadata named: what [`identify::Earlier`] asks for.
    pub fn named(&self) -> (Option<&str>, Option<&str>) {
        let account = match (self.caller.scope, &self.scope) {
            (KeyScope::System, Scope::Account(named)) => Some(&**named),
            // Other keys have an account of their own, and can name no other.
            _ => None,
        };
        let tenant = self.tenant.as_ref().filter(|tenant| tenant.named);
        (account, tenant.map(|tenant| &*tenant.tenant_id))
    }

    /// The id of the tenant that a request speaks of: the one it names, else the tenant of the call.
    ///
    /// # Errors
    ///
    /// When it is no id, the request and `x-tenant-id` name different tenants, or neither names one.
    pub fn tenant_id<'a>(&'a self, field: &str, named: &'a str) -> Result<&'a str> {
        if !named.is_empty() {
            wire::reference(field, named)?;
        }
        match (&self.tenant, named) {
            (None, "") => Err(Error::invalid(
                field,
                "is required, since the call has no tenant: name it here or in x-tenant-id",
            )),
            (Some(tenant), "") => Ok(&tenant.tenant_id),
            (Some(tenant), named) if tenant.named && tenant.tenant_id != named => {
                Err(Error::Mismatch(format!(
                    "x-tenant-id names another tenant than {field}: send only one of them"
                )))
            }
            (_, named) => Ok(named),
        }
    }

    /// The tenant that a call on what a tenant owns acts on.
    ///
    /// # Errors
    ///
    /// When neither the metadata nor the key names one.
    pub fn own_tenant(&self) -> Result<&TenantOfCall> {
        self.tenant.as_ref().ok_or_else(|| {
            Error::Invalid(vec![Violation::of(
                ErrorReason::InvalidMetadata,
                "x-tenant-id",
                "is required, since the key has no tenant that the call could act on",
            )])
        })
    }

    /// The tenant of the call, for what no tenant does for itself: the key has to reach it from above.
    ///
    /// # Errors
    ///
    /// As [`Call::own_tenant`], and [`Error::Forbidden`] for a key of the tenant itself.
    pub fn tenant_below(&self, permission: &str) -> Result<&TenantOfCall> {
        let tenant = self.own_tenant()?;
        if self.caller.tenant.as_ref().is_none_or(|own| own.uid != tenant.uid) {
            return Ok(tenant);
        }
        Err(Error::Forbidden {
            permission: permission.to_owned(),
            message:
                "no key does this for its own tenant: name one below it in x-tenant-id, or use \
                      a key from above it"
                    .to_owned(),
        })
    }

    /// The id of the account that a request speaks of: the one it names, else the account of the call.
    ///
    /// # Errors
    ///
    /// When it is no id, the request and `x-account-id` name different accounts, or neither names one.
    pub fn account_id<'a>(&'a self, field: &str, named: &'a str) -> Result<&'a str> {
        if !named.is_empty() {
            wire::reference(field, named)?;
        }
        // A key of the system has no account but the one that the metadata names.
        let by_metadata = self.caller.scope == KeyScope::System;
        match (&self.account, named) {
            (None, "") => Err(Error::invalid(
                field,
                "is required, since the call has no account: name it here or in x-account-id",
            )),
            (Some(account), "") => Ok(account),
            (Some(account), named) if by_metadata && account != named => Err(Error::Mismatch(
                format!("x-account-id names another account than {field}: send only one of them"),
            )),
            (_, named) => Ok(named),
        }
    }

    /// Checks that an account that a request names is the account of the call.
    ///
    /// # Errors
    ///
    /// When they differ.
    pub fn check_account(&self, field: &str, named: &str) -> Result<()> {
        match &self.account {
            Some(account) if !named.is_empty() && account != named => Err(Error::Mismatch(
                format!("{field} names another account than the key or x-account-id: leave it out"),
            )),
            _ => Ok(()),
        }
    }

    /// What the method asks for first.
    fn permission(&self) -> String {
        let method = permit::Method::find(&format!("/{}", self.method));
        let permission = method.and_then(|method| method.right.permissions().next());
        permission.unwrap_or_default().to_owned()
    }

    /// Checks that the key of the call may have a say in an environment, or in all of them: one that is bound to
    /// an environment has none in others, which are worlds of their own (4-17).
    ///
    /// # Errors
    ///
    /// [`Error::Forbidden`] for a key that is bound to another one.
    pub fn check_environment(&self, environment: Option<&str>) -> Result<()> {
        match &self.caller.environment {
            Some(bound) if environment != Some(bound) => Err(Error::Forbidden {
                permission: self.permission(),
                message: format!(
                    "the calling key is bound to the environment \"{bound}\" and has no say in {}: use a key \
                     that is not bound to another",
                    environment
                        .map_or("what is good in others".to_owned(), |it| format!("\"{it}\""))
                ),
            }),
            _ => Ok(()),
        }
    }

    /// Checks that what the call gives away does not outlive the key of the call (4-15).
    ///
    /// # Errors
    ///
    /// [`Error::Forbidden`] for a later end, or none.
    pub fn check_end(&self, expire_time: Option<DateTime<Utc>>) -> Result<()> {
        match self.caller.expire_time {
            Some(end) if expire_time.is_none_or(|asked| asked > end) => Err(Error::Forbidden {
                permission: self.permission(),
                message: format!(
                    "the calling key ends at {end}: set expire_time to that time or before, or use a key that \
                     lasts longer"
                ),
            }),
            _ => Ok(()),
        }
    }

    /// The same call with the whole reach of a key of the system, whichever account the metadata
    /// names: accounts, environments and domains belong to none.
    #[must_use]
    pub fn unnarrowed(self: Arc<Self>) -> Arc<Self> {
        match (self.caller.scope, &self.scope) {
            (KeyScope::System, Scope::System) | (KeyScope::Account | KeyScope::Tenant, _) => self,
            (KeyScope::System, _) => self.within(Scope::System),
        }
    }

    /// The same call with another reach.
    #[must_use]
    pub fn within(&self, scope: Scope) -> Arc<Self> {
        Arc::new(Self { scope, ..self.clone() })
    }

    /// As [`Call::unnarrowed`], and for keys of the system alone.
    ///
    /// # Errors
    ///
    /// [`Error::Forbidden`] for keys of accounts and tenants.
    pub fn on_system(self: Arc<Self>, what: &str) -> Result<Arc<Self>> {
        if self.caller.scope == KeyScope::System {
            return Ok(self.unnarrowed());
        }
        Err(Error::Forbidden {
            permission: "DIRECTORY:EDIT".to_owned(),
            message: format!("{what} belong to the system: use a key with the scope SYSTEM"),
        })
    }
}
