//! What a tenant runs of products, and the keys that its clients send (1-20 to 1-37).
//!
//! An *installation* is of a package. It holds *app keys*, ids that stand for a configuration in each
//! environment; of an app key are the *external keys*, whose texts clients send and which are good in one
//! environment each.

use chrono::{DateTime, Days, NaiveDate, Utc};
use diesel::prelude::*;
use diesel_async::RunQueryDsl;
use rand::{TryRngCore as _, rngs::OsRng};
use serde_json::Value;
use uuid::Uuid;

use super::{
    master::MasterKey,
    model::{new_ref, route_of_tenant},
    secret::{self, KeyRef, KeySecret, KeyText},
};
use crate::{
    allowlist::model::address,
    config::cidr::Cidr,
    directory::{environments, products},
    error::{Error, Result},
    events::outbox::Event,
    pb,
    rpc::{
        Call, TenantOfCall,
        mutate::{Change, etag},
        permit::json_of,
    },
    schema::{external_keys, tenant_app_key_configs, tenant_app_keys, tenant_installations},
    server::Shared,
    tenants::model::generated_id_of,
    wire::{Fields, id, prose, read_json, text, timestamp},
};

/// For how many hours verifiers may keep what a key resolves to (1-22).
const TTL_HOURS: [i16; 9] = [6, 12, 24, 48, 72, 96, 120, 144, 168];
const DESCRIPTION_MAX: usize = 1_000;
pub(super) const LABEL_MAX: usize = 80;
const PATTERNS_MAX: usize = 100;

/// What a tenant runs of a product.
#[derive(Clone, Debug, HasQuery, Insertable)]
#[diesel(table_name = tenant_installations, primary_key(tenant_uid, installation_id))]
#[diesel(check_for_backend(diesel::pg::Pg))]
pub struct Installation {
    /// Whose it is.
    pub tenant_uid: Uuid,
    /// Generated, immutable.
    pub installation_id: String,
    /// The account of the tenant.
    pub account_id: String,
    /// What it is for.
    pub description: String,
    /// The product.
    pub product_code: String,
    /// The package of it, alone.
    pub package_code: String,
    /// For how many hours verifiers may keep what a key of it resolves to.
    pub ttl_hours: i16,
    /// When it was created.
    pub create_time: DateTime<Utc>,
    /// When it was changed last.
    pub update_time: DateTime<Utc>,
    /// Counts the changes.
    pub version: i64,
}

/// A key that clients of an installation send.
#[derive(Clone, Debug, HasQuery, Insertable)]
#[diesel(table_name = external_keys, primary_key(route, number))]
#[diesel(check_for_backend(diesel::pg::Pg))]
pub struct ExternalKey {
    /// Leads to the tenant; with `number` the primary key.
    pub route: i64,
    /// The key's own number.
    pub number: i64,
    /// Whose it is.
    pub tenant_uid: Uuid,
    /// The app key that it is of.
    pub app_key_id: String,
    /// What people call it.
    pub label: String,
    /// The only environment that it is good in.
    pub environment: String,
    /// Its end.
    pub expire_time: Option<DateTime<Utc>>,
    /// From which devices it may be used, as JSON of `DeviceRules`.
    pub device: Option<Value>,
    /// From where it may be used, as JSON of `GeoRules`.
    pub geo: Option<Value>,
    /// Whether it is good at all.
    pub enabled: bool,
    /// What is stored of the secret.
    pub digest: Vec<u8>,
    /// The version of the master key that made the digest.
    pub master_key_version: i16,
    /// Who made it.
    pub created_by: String,
    /// When it was made.
    pub create_time: DateTime<Utc>,
    /// When it was changed last.
    pub update_time: DateTime<Utc>,
    /// When it was revoked.
    pub revoke_time: Option<DateTime<Utc>>,
    /// Who revoked it.
    pub revoked_by: Option<String>,
    /// Why it was revoked.
    pub revoke_reason: Option<String>,
    /// Counts the changes.
    pub version: i64,
    /// What was stored of the secret before the last rotation.
    pub old_digest: Option<Vec<u8>>,
    /// The version of the master key that made that.
    pub old_master_key_version: Option<i16>,
    /// Until when the old secret is good.
    pub old_end_time: Option<DateTime<Utc>>,
    /// How many uses of a window there are.
    pub rate_requests: Option<i64>,
    /// How long a window is.
    pub rate_window_seconds: Option<i32>,
    /// How many uses there are altogether, or after a refill.
    pub credits_amount: Option<i64>,
    /// How many a refill adds.
    pub credits_refill_amount: Option<i64>,
    /// How often it is refilled.
    pub credits_refill_seconds: Option<i32>,
    /// Counts how often the limits were set.
    pub limits_version: i64,
}

/// What a caller says of an installation that comes to be with its tenant.
#[derive(Clone, Debug)]
pub struct NewInstallation {
    description: String,
    product_code: String,
    package_code: String,
    ttl_hours: i16,
    /// By environment.
    config: Vec<(String, Value)>,
    key: NewExternalKey,
}

/// What a caller says of an external key.
#[derive(Clone, Debug)]
struct NewExternalKey {
    label: String,
    environment: String,
    expire_time: Option<DateTime<Utc>>,
    device: Option<pb::DeviceRules>,
    geo: Option<pb::GeoRules>,
}

impl NewInstallation {
    /// Reads the field `application` of a request at a time; nothing where something is wrong with it.
    pub fn read(pb: &pb::NewInstallation, now: DateTime<Utc>, fields: &mut Fields) -> Option<Self> {
        let description = prose(&pb.description, DESCRIPTION_MAX);
        let description = fields.take("application.description", description);
        let product_code = products::read_code(&pb.product_code);
        let product_code = fields.take("application.product_code", product_code);
        let package_code = products::read_package_code(&pb.product_code, &pb.package_code);
        let package_code = fields.take("application.package_code", package_code);
        let ttl_hours = fields.take("application.ttl_hours", read_ttl(pb.ttl_hours));
        let Some(app_key) = &pb.app_key else {
            fields.refuse("application.app_key", "is required");
            return None;
        };
        let config =
            fields.take("application.app_key.config", read_config(app_key.config.as_ref()));
        let Some(key) = &app_key.ext_key else {
            fields.refuse("application.app_key.ext_key", "is required");
            return None;
        };
        let key = NewExternalKey::read(key, "application.app_key.ext_key", now, fields);
        Some(Self {
            description: description?,
            product_code: product_code?,
            package_code: package_code?,
            ttl_hours: ttl_hours?,
            config: config?,
            key: key?,
        })
    }
}

fn read_ttl(hours: i32) -> Result<i16, String> {
    let known = i16::try_from(hours).ok().filter(|hours| TTL_HOURS.contains(hours));
    known.ok_or_else(|| {
        let all = TTL_HOURS.map(|hours| hours.to_string()).join(", ");
        format!("is required: one of {all}")
    })
}

/// Reads a configuration by environment (1-26).
fn read_config(config: Option<&prost_types::Struct>) -> Result<Vec<(String, Value)>, String> {
    let Some(Value::Object(environments)) = read_json(config)? else {
        return Err("is required, and may be empty".to_owned());
    };
    let mut read = Vec::<(String, Value)>::new();
    for (name, config) in environments {
        let environment = id(&name.to_ascii_lowercase())
            .map_err(|why| format!("has the environment {name:?}, which {why}"))?;
        if !config.is_object() {
            return Err(format!("has for {name:?} no object, such as {{\"billing\": {{…}}}}"));
        }
        if read.iter().any(|(known, _)| *known == environment) {
            return Err(format!("has the environment {environment:?} twice"));
        }
        read.push((environment, config));
    }
    Ok(read)
}

impl NewExternalKey {
    fn read(
        pb: &pb::NewExternalKey,
        at: &str,
        now: DateTime<Utc>,
        fields: &mut Fields,
    ) -> Option<Self> {
        let label = fields.take(&format!("{at}.label"), text(&pb.label, 1, LABEL_MAX));
        let environment = fields.take(&format!("{at}.env"), id(&pb.env.to_ascii_lowercase()));
        let expire_time = fields.take(&format!("{at}.exp_date"), read_last_day(&pb.exp_date, now));
        if let Some(device) = &pb.device {
            check_devices(device, &format!("{at}.device"), fields);
        }
        if let Some(geo) = &pb.geo {
            check_networks(&geo.allow, &format!("{at}.geo.allow"), fields);
            check_networks(&geo.deny, &format!("{at}.geo.deny"), fields);
        }
        Some(Self {
            label: label?,
            environment: environment?,
            expire_time: expire_time?,
            device: pb.device.clone(),
            geo: pb.geo.clone(),
        })
    }
}

/// Reads the last day of a key: the key ends with it, in UTC (1-30).
pub(super) fn read_last_day(
    date: &str,
    now: DateTime<Utc>,
) -> Result<Option<DateTime<Utc>>, String> {
    if date.is_empty() {
        return Ok(None);
    }
    let day = date
        .parse::<NaiveDate>()
        .ok()
        .or_else(|| DateTime::parse_from_rfc3339(date).ok().map(|time| time.to_utc().date_naive()))
        .ok_or("is not a day such as 2027-01-31")?;
    let end = day
        .checked_add_days(Days::new(1))
        .filter(|_| (0..10_000).contains(&chrono::Datelike::year(&day)))
        .and_then(|next| next.and_hms_opt(0, 0, 0))
        .ok_or("is not a day of the years up to 9999")?
        .and_utc();
    if end <= now { Err("is over".to_owned()) } else { Ok(Some(end)) }
}

pub(super) fn check_networks(networks: &[String], at: &str, fields: &mut Fields) {
    if networks.len() > PATTERNS_MAX {
        fields.refuse(
            at,
            format!("are {}, of which at most {PATTERNS_MAX} are allowed", networks.len()),
        );
        return;
    }
    for (number, network) in networks.iter().enumerate() {
        if network.parse::<Cidr>().is_err() && address(network).is_err() {
            fields.refuse(
                &format!("{at}[{number}]"),
                "is not a network such as 10.0.0.0/8 or 2001:db8::/32, or an address",
            );
        }
    }
}

pub(super) fn check_devices(rules: &pb::DeviceRules, at: &str, fields: &mut Fields) {
    for (list, patterns) in [("allow", &rules.allow), ("deny", &rules.deny)] {
        if patterns.len() > PATTERNS_MAX {
            let number = patterns.len();
            fields.refuse(
                &format!("{at}.{list}"),
                format!("are {number}, of which at most {PATTERNS_MAX} are allowed"),
            );
            continue;
        }
        for (number, pattern) in patterns.iter().enumerate() {
            let at = format!("{at}.{list}[{number}]");
            let pb::DevicePattern { family, major, minor, patch, os } = pattern;
            check_pattern(family, [major, minor, patch], &at, fields);
            if let Some(pb::OsPattern { family, major, minor, patch }) = os {
                check_pattern(family, [major, minor, patch], &format!("{at}.os"), fields);
            }
        }
    }
}

fn check_pattern(
    family: &str,
    version: [&Option<pb::VersionPattern>; 3],
    at: &str,
    fields: &mut Fields,
) {
    fields.take(&format!("{at}.family"), text(family, 0, LABEL_MAX));
    for (part, pattern) in ["major", "minor", "patch"].into_iter().zip(version) {
        let Some(pb::VersionPattern { equals, min, max }) = pattern else {
            continue;
        };
        let mut number = |name: &str, value: &str| {
            fields.take(&format!("{at}.{part}.{name}"), read_version(value)).flatten()
        };
        let equals_number = number("equals", equals);
        let (min, max) = (number("min", min), number("max", max));
        let whole = format!("{at}.{part}");
        if equals_number.is_some() && (min.is_some() || max.is_some()) {
            fields.refuse(&whole, "has equals beside min or max: send one or the others");
        } else if min.zip(max).is_some_and(|(min, max)| min > max) {
            fields.refuse(&whole, "has a min above its max");
        }
    }
}

/// Reads a number of a version; nothing for any.
fn read_version(value: &str) -> Result<Option<u32>, String> {
    match value {
        "" | "*" => Ok(None),
        digits if digits.len() <= 9 && digits.bytes().all(|byte| byte.is_ascii_digit()) => {
            Ok(digits.parse().ok())
        }
        _ => Err("is not a number of up to 9 digits, or *".to_owned()),
    }
}

/// What came to be with an installation.
#[derive(Debug)]
pub struct Installed {
    /// The installation.
    pub installation: pb::Installation,
    /// The external key of its app key.
    pub external_key: pb::ExternalKey,
    /// The text of that.
    pub text: KeyText,
}

/// Installs a package for a tenant, with an app key and an external key of it.
///
/// # Errors
///
/// When the package or an environment is unknown, or what the database reports.
pub async fn install(
    change: &mut Change<'_>,
    master: &MasterKey,
    tenant: &TenantOfCall,
    new: &NewInstallation,
) -> Result<Installed> {
    let (account, now) = (&tenant.account_id, change.now);
    products::require_package(change.conn(), account, &new.product_code, &new.package_code).await?;
    let named = new.config.iter().map(|(environment, _)| environment);
    for environment in named.chain([&new.key.environment]) {
        environments::find(change.conn(), environment).await?;
    }

    let installation = Installation {
        tenant_uid: tenant.uid,
        installation_id: generated_id_of("i"),
        account_id: account.clone(),
        description: new.description.clone(),
        product_code: new.product_code.clone(),
        package_code: new.package_code.clone(),
        ttl_hours: new.ttl_hours,
        create_time: now,
        update_time: now,
        version: 1,
    };
    diesel::insert_into(tenant_installations::table)
        .values(&installation)
        .execute(change.conn())
        .await?;
    let told = pb::Installation::from(installation);
    tell(change, tenant, "installation.created", &told.installation_id, json_of(&told)).await?;

    let app_key_id = app_key_id()?;
    diesel::insert_into(tenant_app_keys::table)
        .values((
            tenant_app_keys::tenant_uid.eq(tenant.uid),
            tenant_app_keys::app_key_id.eq(&app_key_id),
            tenant_app_keys::installation_id.eq(&told.installation_id),
            tenant_app_keys::create_time.eq(now),
        ))
        .execute(change.conn())
        .await?;
    let configs = new
        .config
        .iter()
        .map(|(environment, config)| {
            (
                tenant_app_key_configs::tenant_uid.eq(tenant.uid),
                tenant_app_key_configs::app_key_id.eq(&app_key_id),
                tenant_app_key_configs::environment.eq(environment),
                tenant_app_key_configs::config.eq(config),
                tenant_app_key_configs::update_time.eq(now),
                tenant_app_key_configs::version.eq(1_i64),
            )
        })
        .collect::<Vec<_>>();
    diesel::insert_into(tenant_app_key_configs::table)
        .values(configs)
        .execute(change.conn())
        .await?;
    // What it says to services may hold their secrets; the event does not.
    let app_key = serde_json::json!({
        "app_key_id": app_key_id, "installation_id": told.installation_id,
    });
    tell(change, tenant, "app_key.created", &app_key_id, app_key).await?;

    let (external_key, text) = issue(change, master, tenant, app_key_id, &new.key).await?;
    Ok(Installed { installation: told, external_key, text })
}

/// 16 random bytes as 32 hexadecimal digits (1-25).
fn app_key_id() -> Result<String> {
    let mut bytes = [0; 16];
    OsRng.try_fill_bytes(&mut bytes).map_err(Error::internal)?;
    Ok(Uuid::from_bytes(bytes).simple().to_string())
}

/// Issues an external key of an app key.
async fn issue(
    change: &mut Change<'_>,
    master: &MasterKey,
    tenant: &TenantOfCall,
    app_key_id: String,
    new: &NewExternalKey,
) -> Result<(pb::ExternalKey, KeyText)> {
    let secret = KeySecret::generate();
    let version = master.current_version();
    let digest = master
        .digest(version, &secret)
        .ok_or_else(|| Error::internal("the current version of the master key is missing"))?;
    let key_ref = new_ref(route_of_tenant(tenant.uid), change.now);
    let key = ExternalKey {
        route: key_ref.route,
        number: key_ref.number,
        tenant_uid: tenant.uid,
        app_key_id,
        label: new.label.clone(),
        environment: new.environment.clone(),
        expire_time: new.expire_time,
        device: new.device.as_ref().map(json_of),
        geo: new.geo.as_ref().map(json_of),
        enabled: true,
        digest: digest.as_bytes().to_vec(),
        master_key_version: version,
        created_by: change.call.actor(),
        create_time: change.now,
        update_time: change.now,
        revoke_time: None,
        revoked_by: None,
        revoke_reason: None,
        version: 1,
        old_digest: None,
        old_master_key_version: None,
        old_end_time: None,
        rate_requests: None,
        rate_window_seconds: None,
        credits_amount: None,
        credits_refill_amount: None,
        credits_refill_seconds: None,
        limits_version: 0,
    };
    diesel::insert_into(external_keys::table).values(&key).execute(change.conn()).await?;
    let text = secret::mint(master, Some(&new.environment), key_ref, &secret);
    let told = key.message(master, new);
    tell(change, tenant, "external_key.created", &told.external_key_id, json_of(&told)).await?;
    Ok((told, text))
}

impl ExternalKey {
    /// The key as messages carry it, with the rules that it was made with.
    fn message(self, master: &MasterKey, rules: &NewExternalKey) -> pb::ExternalKey {
        let key_ref = KeyRef { route: self.route, number: self.number };
        pb::ExternalKey {
            external_key_id: key_ref.public_id(master).to_string(),
            app_key_id: self.app_key_id,
            label: self.label,
            environment: self.environment,
            expire_time: self.expire_time.map(timestamp),
            device: rules.device.clone(),
            geo: rules.geo.clone(),
            enabled: Some(self.enabled),
            created_by: self.created_by,
            create_time: Some(timestamp(self.create_time)),
            etag: etag(self.version),
            ..Default::default()
        }
    }
}

impl From<Installation> for pb::Installation {
    fn from(installation: Installation) -> Self {
        let Installation {
            tenant_uid: _,
            installation_id,
            account_id: _,
            description,
            product_code,
            package_code,
            ttl_hours,
            create_time,
            update_time,
            version,
        } = installation;
        Self {
            installation_id,
            description,
            package: format!("{product_code}_{package_code}"),
            product_code,
            package_code,
            ttl_hours: ttl_hours.into(),
            create_time: Some(timestamp(create_time)),
            update_time: Some(timestamp(update_time)),
            etag: etag(version),
        }
    }
}

async fn tell(
    change: &mut Change<'_>,
    tenant: &TenantOfCall,
    kind: &'static str,
    resource_id: &str,
    after: Value,
) -> Result<()> {
    change
        .record(Event {
            kind,
            account_id: Some(&tenant.account_id),
            tenant: Some((tenant.uid, &tenant.tenant_id)),
            resource_type: kind.split_once('.').map_or(kind, |(resource, _)| resource),
            resource_id,
            before: None,
            after: Some(after),
        })
        .await
}

/// Not there yet.
pub async fn create(
    _shared: &Shared,
    _call: &Call,
    _request: &pb::CreateInstallationRequest,
) -> Result<pb::CreateInstallationResponse> {
    Err(Error::MethodUnknown)
}

/// Not there yet.
pub async fn get(
    _shared: &Shared,
    _call: &Call,
    _request: &pb::GetInstallationRequest,
) -> Result<pb::GetInstallationResponse> {
    Err(Error::MethodUnknown)
}

/// Not there yet.
pub async fn list(
    _shared: &Shared,
    _call: &Call,
    _request: &pb::ListInstallationsRequest,
) -> Result<pb::ListInstallationsResponse> {
    Err(Error::MethodUnknown)
}

/// Not there yet.
pub async fn update(
    _shared: &Shared,
    _call: &Call,
    _request: &pb::UpdateInstallationRequest,
) -> Result<pb::UpdateInstallationResponse> {
    Err(Error::MethodUnknown)
}

/// Not there yet.
pub async fn delete(
    _shared: &Shared,
    _call: &Call,
    _request: &pb::DeleteInstallationRequest,
) -> Result<pb::DeleteInstallationResponse> {
    Err(Error::MethodUnknown)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> DateTime<Utc> {
        text.parse().unwrap()
    }

    /// 1-30
    #[test]
    fn a_key_is_good_until_the_end_of_its_last_day() {
        let now = at("2026-11-23T18:00:00Z");
        let end = |date: &str| read_last_day(date, now);

        assert_eq!(end("").unwrap(), None);
        assert_eq!(end("2026-11-23").unwrap(), Some(at("2026-11-24T00:00:00Z")));
        assert_eq!(end("2026-12-31").unwrap(), Some(at("2027-01-01T00:00:00Z")));
        assert_eq!(end("2027-01-31T23:30:00-02:00").unwrap(), Some(at("2027-02-02T00:00:00Z")));
        for wrong in ["2026-11-22", "tomorrow", "2026-13-01", "31.1.2027", "20270131", "\0"] {
            assert!(end(wrong).is_err(), "{wrong}");
        }
    }

    /// 1-22
    #[test]
    fn an_installation_is_kept_for_one_of_nine_times() {
        for hours in TTL_HOURS {
            assert_eq!(read_ttl(hours.into()), Ok(hours));
        }
        for wrong in [0, 1, 7, 169, -6, 65_542] {
            assert!(read_ttl(wrong).unwrap_err().contains("6, 12, 24"), "{wrong}");
        }
    }

    /// 1-37
    #[test]
    fn a_pattern_of_devices_is_checked_in_every_part() {
        let version = |equals: &str, min: &str, max: &str| {
            Some(pb::VersionPattern { equals: equals.into(), min: min.into(), max: max.into() })
        };
        let refused = |pattern: pb::DevicePattern| {
            let rules = pb::DeviceRules { allow: vec![pattern], deny: Vec::new() };
            let mut fields = Fields::default();
            check_devices(&rules, "device", &mut fields);
            fields.finish().is_err()
        };
        let major = |major| pb::DevicePattern { major, ..Default::default() };

        assert!(!refused(major(version("12", "", ""))));
        assert!(!refused(major(version("", "9", "10"))));
        assert!(!refused(major(version("*", "", ""))));
        assert!(refused(major(version("", "10", "9"))));
        assert!(refused(major(version("1", "1", ""))));
        assert!(refused(major(version("1.2", "", ""))));
        let os = pb::OsPattern { patch: version("x", "", ""), ..Default::default() };
        assert!(refused(pb::DevicePattern { os: Some(os), ..Default::default() }));
    }
}
