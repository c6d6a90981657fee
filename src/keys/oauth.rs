//! As which OAuth client the users of a tenant sign in: one for each tenant (1-12 to 1-19).

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use diesel::prelude::*;
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

use super::master::MasterKey;
use crate::{
    error::{Error, Kind, Result},
    events::outbox::Event,
    mask::masked,
    pb::{self, ErrorReason},
    rpc::{
        Call, TenantOfCall,
        mutate::{Change, check_etag, etag},
        permit::json_of,
    },
    schema::tenant_oauth_clients,
    server::Shared,
    tenants, text_enum,
    wire::{Fields, text, timestamp},
};

const SECRET_MAX: usize = 256;
const URI_MAX: usize = 500;
const GRANTS_MAX: usize = 16;
const PINS_MAX: usize = 100;

text_enum! {
    /// Where users sign in.
    pub enum LoginMode {
        /// With the platform's user directory.
        Urac = "URAC",
        /// With an OAuth provider.
        OAuth = "OAUTH",
    }
}

/// The OAuth client of a tenant.
#[derive(Clone, Debug, PartialEq, Eq, HasQuery, Insertable, AsChangeset)]
#[diesel(table_name = tenant_oauth_clients, primary_key(tenant_uid))]
#[diesel(check_for_backend(diesel::pg::Pg))]
pub struct OAuthClient {
    /// Whose it is.
    pub tenant_uid: Uuid,
    /// What is stored of the secret.
    pub secret_digest: Vec<u8>,
    /// The version of the master key that made the digest.
    pub master_key_version: i16,
    /// Where users are sent back to, or empty.
    pub redirect_uri: String,
    /// By which grants tokens are given.
    pub grants: Vec<Option<String>>,
    /// Whether nobody can sign in as it.
    pub disabled: bool,
    /// The kind of the older product.
    #[diesel(column_name = type_)]
    pub client_type: i16,
    /// Where users sign in.
    pub login_mode: LoginMode,
    /// For which products a PIN is asked.
    pub pin: Value,
    /// When it was created.
    #[diesel(skip_update)]
    pub create_time: DateTime<Utc>,
    /// When it was changed last.
    pub update_time: DateTime<Utc>,
    /// Counts the changes.
    pub version: i64,
}

/// What a caller says of an OAuth client.
#[derive(Clone, Debug)]
pub struct NewOAuthClient {
    /// None where one is to be generated (1-16).
    secret: Option<SecretString>,
    redirect_uri: String,
    grants: Vec<String>,
    disabled: bool,
    client_type: i16,
    login_mode: LoginMode,
    pin: BTreeMap<String, bool>,
}

impl NewOAuthClient {
    /// Reads the field `oauth_client` of a request; nothing where something is wrong with it.
    pub fn read(pb: &pb::OAuthClient, fields: &mut Fields) -> Option<Self> {
        let secret = fields.take("oauth_client.secret", read_secret(pb.secret.as_deref()));
        let redirect_uri = fields.take("oauth_client.redirect_uri", read_uri(&pb.redirect_uri));
        let grants = fields.take("oauth_client.grants", read_grants(&pb.grants));
        let disabled = fields.take("oauth_client.disabled", read_disabled(pb.disabled));
        let client_type = match pb.r#type {
            Some(1) => Ok(1),
            Some(2) => Ok(2),
            None => Err("is required: 1 or 2".to_owned()),
            Some(other) => Err(format!("is {other}, not 1 or 2")),
        };
        let client_type = fields.take("oauth_client.type", client_type);
        let login_mode = fields.take("oauth_client.login_mode", read_mode(pb.login_mode));
        let pin = fields.take("oauth_client.pin", read_pin(&pb.pin));
        let login_mode = login_mode?;
        Some(Self {
            secret: secret?,
            redirect_uri: redirect_uri?,
            grants: grants?,
            disabled: disabled?,
            client_type: client_type?,
            login_mode,
            pin: pin.filter(|_| login_mode == LoginMode::Urac).unwrap_or_default(),
        })
    }

    /// What a tenant has of which nothing is said (1-15).
    fn unsaid() -> Self {
        Self {
            secret: None,
            redirect_uri: String::new(),
            grants: ["password", "refresh_token"].map(str::to_owned).to_vec(),
            disabled: true,
            client_type: 2,
            login_mode: LoginMode::Urac,
            pin: BTreeMap::new(),
        }
    }
}

fn read_secret(secret: Option<&str>) -> Result<Option<SecretString>, String> {
    match secret {
        None => Err("is required; send it empty to have one generated".to_owned()),
        Some("") => Ok(None),
        // As it was given: a secret that is trimmed is another one.
        Some(secret)
            if secret.chars().count() <= SECRET_MAX && !secret.contains(char::is_control) =>
        {
            Ok(Some(secret.into()))
        }
        Some(_) => Err(format!("has more than {SECRET_MAX} characters, or control characters")),
    }
}

fn read_uri(uri: &str) -> Result<String, String> {
    let uri = text(uri, 1, URI_MAX)?;
    let is_absolute = uri
        .parse::<http::Uri>()
        .is_ok_and(|uri| uri.scheme().is_some() && uri.authority().is_some());
    if is_absolute && !uri.contains('#') {
        Ok(uri)
    } else {
        Err("is not an absolute URI such as https://example.com/callback, without \"#\"".to_owned())
    }
}

fn read_grants(grants: &[String]) -> Result<Vec<String>, String> {
    if !(1..=GRANTS_MAX).contains(&grants.len()) {
        return Err(format!("are {}, and must be 1 to {GRANTS_MAX}", grants.len()));
    }
    let plain =
        |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"_:.-".contains(&byte);
    let mut read = Vec::<String>::new();
    for grant in grants {
        if !(1..=64).contains(&grant.len()) || !grant.bytes().all(plain) {
            return Err("has one that is not 1 to 64 of a-z, 0-9 and _:.-".to_owned());
        }
        if !read.contains(grant) {
            read.push(grant.clone());
        }
    }
    Ok(read)
}

fn read_mode(mode: i32) -> Result<LoginMode, String> {
    match pb::OAuthLoginMode::try_from(mode) {
        Ok(pb::OAuthLoginMode::Urac) => Ok(LoginMode::Urac),
        Ok(pb::OAuthLoginMode::Oauth) => Ok(LoginMode::OAuth),
        Ok(pb::OAuthLoginMode::Unspecified) | Err(_) => {
            Err("is required: O_AUTH_LOGIN_MODE_URAC or O_AUTH_LOGIN_MODE_OAUTH".to_owned())
        }
    }
}

/// Reads for which products a PIN is asked; of those without `enabled`, nothing is said (1-19).
fn read_pin(pins: &BTreeMap<String, pb::OAuthPin>) -> Result<BTreeMap<String, bool>, String> {
    if pins.len() > PINS_MAX {
        return Err(format!("are {}, of which at most {PINS_MAX} are allowed", pins.len()));
    }
    let plain = |code: &String| {
        (1..=64).contains(&code.len()) && code.bytes().all(|byte| byte.is_ascii_alphanumeric())
    };
    if !pins.keys().all(plain) {
        return Err("has a key that is no product code: 1 to 64 letters and digits".to_owned());
    }
    Ok(pins.iter().filter_map(|(code, pin)| Some((code.clone(), pin.enabled?))).collect())
}

/// Gives a new tenant its OAuth client: the one that is said, else a copy of that of the parent where
/// there is one (1-12), else one that is disabled (1-15). Answers its secret where it was generated.
///
/// # Errors
///
/// What the database reports.
pub async fn give(
    change: &mut Change<'_>,
    master: &MasterKey,
    tenant: &TenantOfCall,
    heir_of: Option<Uuid>,
    new: Option<&NewOAuthClient>,
) -> Result<Option<SecretString>> {
    let inherited = match (new, heir_of) {
        (None, Some(parent)) => find(change.conn(), parent).await?,
        _ => None,
    };
    let (now, uid) = (change.now, tenant.uid);
    let (client, generated) = match (inherited, new) {
        (Some(parents), _) => {
            let copy = OAuthClient {
                tenant_uid: uid,
                create_time: now,
                update_time: now,
                version: 1,
                ..parents
            };
            (copy, None)
        }
        (None, Some(new)) => make(master, uid, new, now)?,
        (None, None) => make(master, uid, &NewOAuthClient::unsaid(), now)?,
    };
    diesel::insert_into(tenant_oauth_clients::table).values(&client).execute(change.conn()).await?;
    // One of which nothing is said is part of what every new tenant is.
    if new.is_some() || generated.is_none() {
        tell(change, "oauth_client.created", tenant, None, &client).await?;
    }
    Ok(generated)
}

async fn find(conn: &mut AsyncPgConnection, tenant_uid: Uuid) -> Result<Option<OAuthClient>> {
    Ok(OAuthClient::query()
        .filter(tenant_oauth_clients::tenant_uid.eq(tenant_uid))
        .get_result(conn)
        .await
        .optional()?)
}

/// Finds the client of a tenant as the caller has read it, and keeps others from changing it until the
/// transaction ends.
async fn hold(change: &mut Change<'_>, tenant: &TenantOfCall, etag: &str) -> Result<OAuthClient> {
    // It is one for all environments.
    change.call.check_environment(None)?;
    tenants::store::hold(change.conn(), tenant).await?;
    let client = tenant_oauth_clients::table
        .find(tenant.uid)
        .select(OAuthClient::as_select())
        .for_update()
        .get_result(change.conn())
        .await
        .optional()?
        .ok_or_else(|| Error::not_found(Kind::OAuthClient, &tenant.tenant_id))?;
    check_etag(etag, client.version, Kind::OAuthClient, &tenant.tenant_id)?;
    tenants::life::check_protection_of_keys(change, tenant.uid).await?;
    Ok(client)
}

/// Stores a client that has changed, and tells of it.
async fn keep(
    change: &mut Change<'_>,
    kind: &'static str,
    tenant: &TenantOfCall,
    before: &OAuthClient,
    mut after: OAuthClient,
) -> Result<pb::OAuthClient> {
    after.update_time = change.now;
    after.version += 1;
    diesel::update(tenant_oauth_clients::table.find(tenant.uid))
        .set(&after)
        .execute(change.conn())
        .await?;
    tell(change, kind, tenant, Some(before), &after).await?;
    Ok(after.into())
}

/// Generates a secret: a UUID, which is what clients are used to (1-16).
#[expect(clippy::disallowed_methods, reason = "a secret tells no time")]
fn generate() -> SecretString {
    SecretString::from(Uuid::new_v4().to_string())
}

/// What is stored of a secret, and under which version of the master key.
fn digest(master: &MasterKey, secret: &SecretString) -> (Vec<u8>, i16) {
    let (digest, version) = master.digest_now(&Sha256::digest(secret.expose_secret()).into());
    (digest.as_bytes().to_vec(), version)
}

fn make(
    master: &MasterKey,
    tenant_uid: Uuid,
    new: &NewOAuthClient,
    now: DateTime<Utc>,
) -> Result<(OAuthClient, Option<SecretString>)> {
    let generated = new.secret.is_none().then(generate);
    let secret = new.secret.as_ref().or(generated.as_ref());
    let secret = secret.ok_or_else(|| Error::internal("no secret was given and none made"))?;
    let (secret_digest, master_key_version) = digest(master, secret);
    let client = OAuthClient {
        tenant_uid,
        secret_digest,
        master_key_version,
        redirect_uri: new.redirect_uri.clone(),
        grants: new.grants.iter().cloned().map(Some).collect(),
        disabled: new.disabled,
        client_type: new.client_type,
        login_mode: new.login_mode,
        pin: json!(new.pin),
        create_time: now,
        update_time: now,
        version: 1,
    };
    Ok((client, generated))
}

async fn tell(
    change: &mut Change<'_>,
    kind: &'static str,
    tenant: &TenantOfCall,
    before: Option<&OAuthClient>,
    after: &OAuthClient,
) -> Result<()> {
    let json = |client: &OAuthClient| json_of(&pb::OAuthClient::from(client.clone()));
    change
        .record(Event {
            kind,
            account_id: Some(&tenant.account_id),
            tenant: Some((tenant.uid, &tenant.tenant_id)),
            resource_type: "oauth_client",
            resource_id: &tenant.tenant_id,
            before: before.map(json),
            after: Some(json(after)),
        })
        .await
}

impl From<OAuthClient> for pb::OAuthClient {
    fn from(client: OAuthClient) -> Self {
        let OAuthClient {
            tenant_uid: _,
            secret_digest: _,
            master_key_version: _,
            redirect_uri,
            grants,
            disabled,
            client_type,
            login_mode,
            pin,
            create_time,
            update_time,
            version,
        } = client;
        let login_mode = match login_mode {
            LoginMode::Urac => pb::OAuthLoginMode::Urac,
            LoginMode::OAuth => pb::OAuthLoginMode::Oauth,
        };
        let pin = pin.as_object().cloned().unwrap_or_default().into_iter();
        let pin = pin.map(|(code, enabled)| (code, pb::OAuthPin { enabled: enabled.as_bool() }));
        Self {
            secret: None,
            redirect_uri,
            grants: grants.into_iter().flatten().collect(),
            disabled: Some(disabled),
            r#type: Some(client_type.into()),
            login_mode: login_mode.into(),
            pin: pin.collect(),
            create_time: Some(timestamp(create_time)),
            update_time: Some(timestamp(update_time)),
            etag: etag(version),
        }
    }
}

/// What is to change of a client. What is not named is none.
#[derive(Debug)]
struct Patch {
    named: Vec<&'static str>,
    /// None where one is to be generated.
    secret: Option<SecretString>,
    redirect_uri: String,
    grants: Vec<String>,
    disabled: Option<bool>,
    client_type: Option<i16>,
    login_mode: Option<LoginMode>,
    pin: BTreeMap<String, bool>,
}

/// What a mask may name to no effect.
const FIXED: &[&str] = &["create_time", "update_time", "etag"];

/// What can be said of a client, and whether it is.
fn present(pb: &pb::OAuthClient) -> [(&'static str, bool); 7] {
    [
        ("secret", pb.secret.is_some()),
        ("redirect_uri", !pb.redirect_uri.is_empty()),
        ("grants", !pb.grants.is_empty()),
        ("disabled", pb.disabled.is_some()),
        ("type", pb.r#type.is_some()),
        ("login_mode", pb.login_mode != 0),
        ("pin", !pb.pin.is_empty()),
    ]
}

impl Patch {
    /// Reads what is to change (1-17).
    fn read(pb: &pb::OAuthClient, mask: Option<&prost_types::FieldMask>) -> Result<Self> {
        let named = masked(mask, &present(pb), FIXED)?;
        let mut fields = Fields::default();
        let mut patch = Self {
            named: named.clone(),
            secret: None,
            redirect_uri: String::new(),
            grants: Vec::new(),
            disabled: None,
            client_type: None,
            login_mode: None,
            pin: BTreeMap::new(),
        };
        for name in named {
            let at = format!("oauth_client.{name}");
            match name {
                "secret" => {
                    let secret = fields.take(&at, read_secret(pb.secret.as_deref()));
                    patch.secret = secret.flatten();
                }
                // It can be cleared: a client of which nothing was said has none either.
                "redirect_uri" if pb.redirect_uri.is_empty() => {}
                "redirect_uri" => {
                    let uri = fields.take(&at, read_uri(&pb.redirect_uri));
                    patch.redirect_uri = uri.unwrap_or_default();
                }
                "grants" => {
                    let grants = fields.take(&at, read_grants(&pb.grants));
                    patch.grants = grants.unwrap_or_default();
                }
                "disabled" => patch.disabled = fields.take(&at, read_disabled(pb.disabled)),
                "type" => patch.client_type = fields.take(&at, read_type(pb.r#type)),
                "login_mode" => patch.login_mode = fields.take(&at, read_mode(pb.login_mode)),
                _ => patch.pin = fields.take(&at, read_pin(&pb.pin)).unwrap_or_default(),
            }
        }
        fields.finish()?;
        Ok(patch)
    }

    /// Changes a client of a tenant; answers its secret where it was generated.
    fn apply(
        &self,
        master: &MasterKey,
        tenant_id: &str,
        client: &mut OAuthClient,
    ) -> Result<Option<SecretString>> {
        let mut generated = None;
        for name in &self.named {
            match *name {
                "secret" => {
                    let secret = match &self.secret {
                        Some(secret) => secret,
                        None => generated.insert(generate()),
                    };
                    (client.secret_digest, client.master_key_version) = digest(master, secret);
                }
                "redirect_uri" => client.redirect_uri.clone_from(&self.redirect_uri),
                "grants" => client.grants = self.grants.iter().cloned().map(Some).collect(),
                "pin" => client.pin = json!(self.pin),
                _ => {}
            }
        }
        client.disabled = self.disabled.unwrap_or(client.disabled);
        client.client_type = self.client_type.unwrap_or(client.client_type);
        client.login_mode = self.login_mode.unwrap_or(client.login_mode);
        if client.login_mode != LoginMode::Urac {
            client.pin = json!({});
        } else if client.client_type == FROM_SERVER_TO_SERVER {
            return Err(Error::WrongState {
                reason: ErrorReason::OauthTypeConflict,
                kind: Kind::OAuthClient,
                id: tenant_id.to_owned(),
                message:
                    "type 0, from server to server, is for OAuth 2.0 alone: set login_mode to \
                          O_AUTH_LOGIN_MODE_OAUTH, or type to 1 or 2"
                        .to_owned(),
            });
        }
        Ok(generated)
    }
}

/// A client that services sign in as, and no users (1-17).
const FROM_SERVER_TO_SERVER: i16 = 0;

fn read_disabled(disabled: Option<bool>) -> Result<bool, String> {
    disabled.ok_or_else(|| "is required: true or false".to_owned())
}

/// Reads the type that a client is to have; only one that is there can be of type 0 (1-17).
fn read_type(client_type: Option<i32>) -> Result<i16, String> {
    match client_type {
        Some(0) => Ok(FROM_SERVER_TO_SERVER),
        Some(1) => Ok(1),
        Some(2) => Ok(2),
        None => Err("is required: 0, 1 or 2".to_owned()),
        Some(other) => Err(format!("is {other}, not 0, 1 or 2")),
    }
}

/// Gets the client of the tenant of a call.
///
/// # Errors
///
/// What the method says.
pub async fn get(
    shared: &Shared,
    call: &Call,
    _request: &pb::GetOAuthClientRequest,
) -> Result<pb::GetOAuthClientResponse> {
    let tenant = call.own_tenant()?;

    let client = shared.read(call, async |conn| find(conn, tenant.uid).await).await?;
    let client = client.ok_or_else(|| Error::not_found(Kind::OAuthClient, &tenant.tenant_id))?;

    Ok(pb::GetOAuthClientResponse { oauth_client: Some(client.into()) })
}

/// Changes the client of the tenant of a call.
///
/// # Errors
///
/// What the method says.
pub async fn update(
    shared: &Shared,
    call: &Call,
    request: &pb::UpdateOAuthClientRequest,
) -> Result<pb::UpdateOAuthClientResponse> {
    let tenant = call.own_tenant()?;
    let pb = request.oauth_client.as_ref().ok_or(Error::invalid("oauth_client", "is required"))?;
    let patch = Patch::read(pb, request.update_mask.as_ref())?;
    let etag = if request.etag.is_empty() { &pb.etag } else { &request.etag };

    let mut answer = shared
        .mutator
        .mutate(call, request, async |change: &mut Change<'_>| {
            let before = hold(change, tenant, etag).await?;
            if patch.named.contains(&"secret") {
                // Which has no end.
                change.call.check_end(None)?;
            }
            let mut after = before.clone();
            let generated = patch.apply(&shared.master, &tenant.tenant_id, &mut after)?;
            let client = if after == before {
                before.into()
            } else {
                keep(change, "oauth_client.updated", tenant, &before, after).await?
            };
            let secret = generated.map(|secret| secret.expose_secret().to_owned());
            Ok(pb::UpdateOAuthClientResponse {
                oauth_client: Some(client),
                secret: secret.unwrap_or_default(),
            })
        })
        .await?;
    if request.validate_only {
        // It is not the client's, or was told to whoever asked in earnest.
        answer.secret.clear();
    }

    Ok(answer)
}

/// Gives the client of the tenant of a call a new secret.
///
/// # Errors
///
/// What the method says.
pub async fn rotate(
    shared: &Shared,
    call: &Call,
    request: &pb::RotateOAuthClientSecretRequest,
) -> Result<pb::RotateOAuthClientSecretResponse> {
    let tenant = call.own_tenant()?;

    let mut answer = shared
        .mutator
        .mutate(call, request, async |change: &mut Change<'_>| {
            let before = hold(change, tenant, &request.etag).await?;
            // The secret has no end.
            change.call.check_end(None)?;
            let secret = generate();
            let (secret_digest, master_key_version) = digest(&shared.master, &secret);
            let after = OAuthClient { secret_digest, master_key_version, ..before.clone() };
            let client = keep(change, "oauth_client.rotated", tenant, &before, after).await?;
            Ok(pb::RotateOAuthClientSecretResponse {
                oauth_client: Some(client),
                secret: secret.expose_secret().to_owned(),
            })
        })
        .await?;
    if request.validate_only {
        // It is not the client's, or was told to whoever asked in earnest.
        answer.secret.clear();
    }

    Ok(answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_redirect_uri_is_absolute() {
        for right in ["https://example.com/cb?x=1", "http://domain.com", "myapp://callback/x"] {
            assert!(read_uri(right).is_ok(), "{right}");
        }
        for wrong in ["", "example.com", "/cb", "https://", "https://example.com/#x", "not a uri"] {
            assert!(read_uri(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn grants_are_each_there_once_in_their_order() {
        let read = |grants: &[&str]| {
            read_grants(&grants.iter().map(|grant| (*grant).to_owned()).collect::<Vec<_>>())
        };

        assert_eq!(read(&["b", "a", "b"]).unwrap(), ["b", "a"]);
        assert!(read(&[]).is_err());
        assert!(read(&["Password"]).is_err());
        assert!(read(&[""]).is_err());
    }

    /// 1-19
    #[test]
    fn a_pin_without_enabled_is_dropped_and_all_are_where_users_sign_in_elsewhere() {
        let pin = |enabled| pb::OAuthPin { enabled };
        let said = |mode: pb::OAuthLoginMode| pb::OAuthClient {
            secret: Some("s".into()),
            redirect_uri: "https://example.com".into(),
            grants: vec!["password".into()],
            disabled: Some(false),
            r#type: Some(2),
            login_mode: mode.into(),
            pin: [("ABCD".to_owned(), pin(Some(true))), ("EFGH".to_owned(), pin(None))].into(),
            ..Default::default()
        };
        let read = |mode| NewOAuthClient::read(&said(mode), &mut Fields::default()).unwrap().pin;

        let urac = read(pb::OAuthLoginMode::Urac);
        assert_eq!(urac, [("ABCD".to_owned(), true)].into());
        assert!(read(pb::OAuthLoginMode::Oauth).is_empty());
    }
}
