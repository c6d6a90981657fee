//! What comes to be with a tenant, in its transaction: its OAuth client, an installation with keys, its
//! first administrator, an API key and an entitlement.

use chrono::{DateTime, Utc};
use secrecy::ExposeSecret as _;
use serde_json::{Value, json};

use super::model::{ContractMode, Tenant, TenantType};
use crate::{
    entitlements::{self, NewEntitlement},
    error::{Error, Result},
    keys::{
        installations::{self, NewInstallation},
        issue::{self, Owner},
        limits::Limits,
        master::MasterKey,
        model::KeyScope,
        oauth::{self, NewOAuthClient},
        wire::{NewApiKey, read_roles},
    },
    pb::{self, ErrorReason},
    rpc::{TenantOfCall, mutate::Change},
    wire::{Fields, email, prose, text},
};

const USER_ID_MAX: usize = 100;
const NAME_MAX: usize = 80;
const DESCRIPTION_MAX: usize = 1_000;

/// The role of an API key that nothing is said of (3-06).
const DEFAULT_ROLE: &str = "tenant-admin";

/// What a request has besides the tenant.
#[derive(Debug)]
pub struct Companions {
    oauth_client: Option<NewOAuthClient>,
    application: Option<NewInstallation>,
    /// As it is stored.
    pub(super) admin_user: Option<Value>,
    admin_key: Option<NewApiKey>,
    entitlement: Option<NewEntitlement>,
}

impl Companions {
    /// Reads the parts of a request; nothing where something is wrong with one of them.
    pub(super) fn read(
        request: &pb::CreateTenantRequest,
        now: DateTime<Utc>,
        fields: &mut Fields,
    ) -> Option<Self> {
        let oauth_client = request.oauth_client.as_ref().map(|pb| NewOAuthClient::read(pb, fields));
        let application =
            request.application.as_ref().map(|pb| NewInstallation::read(pb, now, fields));
        let admin_user = request.admin_user.as_ref().map(|pb| read_admin_user(pb, fields));
        let admin_key = request.admin_api_application.as_ref().map(|pb| read_admin_key(pb, fields));
        let entitlement = request.entitlement.as_ref().map(|pb| {
            let mut pb = pb.clone();
            if pb.r#type() == pb::EntitlementType::Unspecified {
                pb.set_type(pb::EntitlementType::Users);
            }
            NewEntitlement::read(&pb, "", fields)
        });
        // Read all, then see whether something is wrong with any.
        Some(Self {
            oauth_client: all_of(oauth_client)?,
            application: all_of(application)?,
            admin_user: all_of(admin_user)?,
            admin_key: all_of(admin_key)?,
            entitlement: all_of(entitlement)?,
        })
    }

    /// Under which contract the tenant is to be, if the entitlement says.
    pub(super) fn contract_mode(&self) -> Option<ContractMode> {
        self.entitlement.as_ref().map(NewEntitlement::contract_mode)
    }

    /// Checks that a tenant below a service provider has an entitlement (3-08).
    pub(super) fn check_below(&self, parent: Option<&Tenant>) -> Result<()> {
        if self.entitlement.is_none() && parent.is_some_and(Tenant::is_provider) {
            return Err(Error::invalid(
                "entitlement",
                "is required below a SERVICE_PROVIDER: its contract_mode and quantity at least",
            ));
        }
        Ok(())
    }

    /// Makes them for a tenant that is stored already, and holds its parent; answers what it made.
    pub(super) async fn create(
        &self,
        change: &mut Change<'_>,
        master: &MasterKey,
        tenant: &Tenant,
    ) -> Result<pb::CreateTenantResponse> {
        let owner = TenantOfCall {
            uid: tenant.uid,
            tenant_id: tenant.tenant_id.clone(),
            account_id: tenant.account_id.clone(),
            named: false,
        };
        let mut answer = pb::CreateTenantResponse::default();
        if let Some(entitlement) = &self.entitlement {
            entitlements::set(change, tenant, entitlement).await?;
        }
        let heir_of = tenant.parent_uid.filter(|_| tenant.tenant_type == TenantType::Client);
        let new = self.oauth_client.as_ref();
        if let Some(secret) = oauth::give(change, master, &owner, heir_of, new).await? {
            secret.expose_secret().clone_into(&mut answer.oauth_client_secret);
        }
        if let Some(new) = &self.application {
            let made = installations::install(change, master, &owner, new).await?;
            answer.installation = Some(made.installation);
            answer.external_key = Some(made.external_key);
            made.text.reveal().clone_into(&mut answer.external_key_secret);
        }
        if let Some(new) = &self.admin_key {
            let creator = &change.call.caller;
            // Whoever may create the tenant may make its first key, as long as the key does not
            // outlive its creator's, or leave the environment of that.
            let new = NewApiKey {
                environment: creator.environment.clone(),
                expire_time: creator.expire_time,
                ..new.clone()
            };
            let (key, text) = issue::grant(change, master, &Owner::Tenant(owner), &new).await?;
            answer.admin_api_key = Some(key);
            text.reveal().clone_into(&mut answer.admin_api_key_secret);
        }
        Ok(answer)
    }
}

/// What was sent, where it was right; nothing where it was wrong.
#[expect(clippy::option_option, reason = "what was not sent is not wrong")]
fn all_of<T>(part: Option<Option<T>>) -> Option<Option<T>> {
    match part {
        None => Some(None),
        Some(read) => read.map(Some),
    }
}

/// Reads who administers a tenant first, but for locale and status (3-04, 3-05).
fn read_admin_user(pb: &pb::AdminUser, fields: &mut Fields) -> Option<Value> {
    let user_id = fields.take("admin_user.user_id", text(&pb.user_id, 1, USER_ID_MAX));
    let first_name = fields.take("admin_user.first_name", text(&pb.first_name, 0, NAME_MAX));
    let last_name = fields.take("admin_user.last_name", text(&pb.last_name, 0, NAME_MAX));
    let email = fields.take("admin_user.email", email(&pb.email));
    Some(json!({
        "user_id": user_id?, "first_name": first_name?, "last_name": last_name?, "email": email?,
    }))
}

/// The first administrator as messages carry it (3-05).
pub(super) fn admin_user(stored: &Value) -> pb::AdminUser {
    let text = |field: &str| stored[field].as_str().unwrap_or_default().to_owned();
    pb::AdminUser {
        user_id: text("user_id"),
        first_name: text("first_name"),
        last_name: text("last_name"),
        email: text("email"),
        locale: "English".to_owned(),
        status: "ACTIVE".to_owned(),
    }
}

/// Reads what is said of the tenant's first API key (3-06).
fn read_admin_key(pb: &pb::AdminApiApplication, fields: &mut Fields) -> Option<NewApiKey> {
    let at = |field: &str| format!("admin_api_application.{field}");
    let name = fields.take(&at("name"), text(&pb.name, 1, NAME_MAX));
    let description = fields.take(&at("description"), prose(&pb.description, DESCRIPTION_MAX));
    let default = [DEFAULT_ROLE.to_owned()];
    let roles = if pb.roles.is_empty() { &default[..] } else { &pb.roles };
    let roles = read_roles(roles).and_then(|roles| {
        match roles.iter().find(|role| !role.scopes.contains(&KeyScope::Tenant)) {
            Some(role) => Err(format!("has {:?}, which a key of a tenant cannot hold", role.id)),
            None => Ok(roles),
        }
    });
    let roles = fields.take(&at("roles"), roles);
    if !pb.sp_role_id.is_empty() {
        fields.refuse_as(
            ErrorReason::SpRoleNotSupported,
            &at("sp_role_id"),
            "is not supported: leave it out, and name roles",
        );
        return None;
    }
    Some(NewApiKey {
        name: Some(name?),
        description: description?,
        scope: Some(KeyScope::Tenant),
        account_id: None,
        tenant_id: None,
        roles: roles?,
        environment: None,
        reseller_id: None,
        backend_ids: Vec::new(),
        expire_time: None,
        enabled: true,
        limits: Limits::default(),
    })
}
