//! App keys, and what they say to services (1-25 to 1-28).

use chrono::{DateTime, Utc};
use diesel::{dsl::not, pg::Pg, prelude::*, result::DatabaseErrorKind};
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use rand::{TryRngCore as _, rngs::OsRng};
use serde_json::{Map, Value};
use uuid::Uuid;

use super::{
    external_keys,
    installations::{self, Installation, tell},
};
use crate::{
    directory::environments,
    error::{Error, Kind, Result},
    filter::{self, Condition, Field, FieldKind, Test},
    listing::{Listing, no_condition},
    page::{Asked, Place},
    pb,
    rpc::{
        Call, TenantOfCall,
        mutate::{Change, check_etag, etag},
        permit::json_of,
    },
    schema::{tenant_app_key_configs, tenant_app_keys},
    seek,
    server::Shared,
    tenants::{life::check_protection_of_keys, store},
    wire::{Fields, id, read_json, struct_of_json, text, timestamp},
};

/// Under which name a configuration has what all services receive (1-27).
const COMMON: &str = "commonFields";

/// In which section, and where in it, there is what may be inherited from elsewhere (1-26). The first is in the
/// section of a service, too.
const THROTTLING: [(&str, &str); 2] = [("SOAJS", "THROTTLING"), ("gateway", "throttling")];

const SERVICE_NAME_MAX: usize = 80;

/// An app key never changes.
const VERSION: i64 = 1;

/// What external keys are of.
#[derive(Clone, Debug, HasQuery, Insertable)]
#[diesel(table_name = tenant_app_keys, primary_key(tenant_uid, app_key_id))]
#[diesel(check_for_backend(Pg))]
pub struct AppKey {
    /// Whose it is.
    pub tenant_uid: Uuid,
    /// 16 random bytes as hexadecimal digits.
    pub app_key_id: String,
    /// Of which installation it is.
    pub installation_id: String,
    /// When it was created.
    pub create_time: DateTime<Utc>,
}

/// What an app key says to services in an environment.
#[derive(Clone, Debug, PartialEq, Eq, HasQuery, Insertable)]
#[diesel(table_name = tenant_app_key_configs, primary_key(tenant_uid, app_key_id, environment))]
#[diesel(check_for_backend(Pg))]
struct Document {
    tenant_uid: Uuid,
    app_key_id: String,
    environment: String,
    /// By the name of the service.
    config: Value,
    update_time: DateTime<Utc>,
    version: i64,
}

/// What a service receives of a configuration: the entries of `commonFields` and its own section under its
/// name, which wins. Nothing of other services (1-27).
pub fn effective(config: &Value, service_name: &str) -> Value {
    let mut told = config.get(COMMON).and_then(Value::as_object).cloned().unwrap_or_default();
    // What is for all is no service of its own.
    let section = config.get(service_name).filter(|_| !["", COMMON].contains(&service_name));
    if let Some(section) = section {
        told.insert(service_name.to_owned(), section.clone());
    }
    Value::Object(told)
}

/// Reads configurations by environment (1-26).
///
/// # Errors
///
/// What is wrong with them.
pub(super) fn read_configs(config: &prost_types::Struct) -> Result<Vec<(String, Value)>, String> {
    let Some(Value::Object(environments)) = read_json(Some(config))? else {
        return Err("is no object".to_owned());
    };
    let mut read = Vec::<(String, Value)>::new();
    for (name, config) in environments {
        let environment = id(&name.to_ascii_lowercase())
            .map_err(|why| format!("has the environment {name:?}, which {why}"))?;
        if read.iter().any(|(known, _)| *known == environment) {
            return Err(format!("has the environment {environment:?} twice"));
        }
        let Value::Object(sections) = config else {
            return Err(format!("has for {name:?} no object, such as {{\"billing\": {{…}}}}"));
        };
        let sections = read_sections(sections).map_err(|why| {
            format!("{why}, for {name:?}, which is the environment: what is said to services stands by that")
        })?;
        read.push((environment, sections));
    }
    Ok(read)
}

/// Reads what is said to services in one environment: a section for each. What is not to be inherited is
/// told from what is not said (1-26).
fn read_sections(mut sections: Map<String, Value>) -> Result<Value, String> {
    if let Some((name, _)) = sections.iter().find(|(_, section)| !section.is_object()) {
        return Err(format!("has for {name:?} no object, such as {{\"url\": …}}"));
    }
    if sections.contains_key("") {
        return Err("has a section without a name".to_owned());
    }
    for place in THROTTLING {
        settle_at(&mut sections, place);
    }
    // For one service.
    for section in sections.values_mut().filter_map(Value::as_object_mut) {
        settle_at(section, THROTTLING[0]);
    }
    Ok(Value::Object(sections))
}

/// Settles what may be inherited at a place, and drops what nothing is left of.
fn settle_at(sections: &mut Map<String, Value>, (name, part): (&str, &str)) {
    let Some(Value::Object(section)) = sections.get_mut(name) else {
        return;
    };
    if section.get_mut(part).is_some_and(|entries| !settle(entries)) {
        section.remove(part);
    }
    if section.is_empty() {
        sections.remove(name);
    }
}

/// Settles what is `"null"` or `"--inherit--"`; false where nothing is left.
fn settle(value: &mut Value) -> bool {
    match value {
        Value::String(word) if word == "--inherit--" => false,
        Value::String(word) if word == "null" => {
            *value = Value::Null;
            true
        }
        Value::Object(entries) => {
            entries.retain(|_, entry| settle(entry));
            !entries.is_empty()
        }
        _ => true,
    }
}

/// Reads the id of an app key.
pub(super) fn read_id(value: &str) -> Result<String, String> {
    if value.is_empty() {
        Err("is required: ListAppKeys shows it".to_owned())
    } else if value.len() == 32 && value.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        Ok(value.to_ascii_lowercase())
    } else {
        Err("is not of 32 hexadecimal digits".to_owned())
    }
}

/// 16 random bytes as 32 hexadecimal digits (1-25).
fn new_id() -> Result<String> {
    let mut bytes = [0; 16];
    OsRng.try_fill_bytes(&mut bytes).map_err(Error::internal)?;
    Ok(Uuid::from_bytes(bytes).simple().to_string())
}

/// Makes an app key of an installation, which the change holds, with what it says in each environment.
///
/// # Errors
///
/// When an environment is unknown, or what the database reports.
pub(super) async fn add(
    change: &mut Change<'_>,
    installation: &Installation,
    tenant: &TenantOfCall,
    configs: &[(String, Value)],
) -> Result<AppKey> {
    for (environment, _) in configs {
        change.call.check_environment(Some(environment))?;
        environments::find(change.conn(), environment).await?;
    }
    let app_key = AppKey {
        tenant_uid: tenant.uid,
        app_key_id: new_id()?,
        installation_id: installation.installation_id.clone(),
        create_time: change.now,
    };
    diesel::insert_into(tenant_app_keys::table).values(&app_key).execute(change.conn()).await?;
    let configs = configs
        .iter()
        .map(|(environment, config)| {
            Document::new(&app_key, environment.clone(), config.clone(), change.now)
        })
        .collect::<Vec<_>>();
    if !configs.is_empty() {
        diesel::insert_into(tenant_app_key_configs::table)
            .values(&configs)
            .execute(change.conn())
            .await?;
    }
    // What it says to services may hold their secrets; the event does not.
    let told = json_of(&pb::AppKey::from(app_key.clone()));
    tell(change, tenant, "app_key.created", &app_key.app_key_id, (None, Some(told))).await?;
    Ok(app_key)
}

impl Document {
    fn new(app_key: &AppKey, environment: String, config: Value, now: DateTime<Utc>) -> Self {
        Self {
            tenant_uid: app_key.tenant_uid,
            app_key_id: app_key.app_key_id.clone(),
            environment,
            config,
            update_time: now,
            // Higher than any that it had before it was removed, so that no etag comes back.
            version: now.timestamp_micros(),
        }
    }
}

/// Finds an app key of a tenant.
async fn find(conn: &mut AsyncPgConnection, tenant: &TenantOfCall, id: &str) -> Result<AppKey> {
    AppKey::query()
        .filter(tenant_app_keys::tenant_uid.eq(tenant.uid))
        .filter(tenant_app_keys::app_key_id.eq(id))
        .get_result(conn)
        .await
        .optional()?
        .ok_or_else(|| Error::not_found(Kind::AppKey, id))
}

/// Finds an app key and its installation, and keeps them from being deleted until the transaction ends.
///
/// # Errors
///
/// When it is not there, or what the database reports.
pub(super) async fn hold(
    change: &mut Change<'_>,
    tenant: &TenantOfCall,
    id: &str,
) -> Result<(AppKey, Installation)> {
    let app_key = find(change.conn(), tenant, id).await?;
    let installation = installations::hold(change, tenant, &app_key.installation_id)
        .await
        .map_err(|error| gone_with_its_installation(error, id))?;
    // Whoever was deleting it had to be waited for.
    let app_key = find(change.conn(), tenant, id).await?;
    Ok((app_key, installation))
}

fn gone_with_its_installation(error: Error, id: &str) -> Error {
    match error {
        Error::NotFound { .. } => Error::not_found(Kind::AppKey, id),
        other => other,
    }
}

/// The app keys of an installation.
pub(super) async fn ids_of(
    change: &mut Change<'_>,
    installation: &Installation,
) -> Result<Vec<String>> {
    Ok(tenant_app_keys::table
        .filter(tenant_app_keys::tenant_uid.eq(installation.tenant_uid))
        .filter(tenant_app_keys::installation_id.eq(&installation.installation_id))
        .select(tenant_app_keys::app_key_id)
        .load(change.conn())
        .await?)
}

/// Deletes app keys of a tenant, whose installation the change holds alone, with what they say and their
/// external keys; answers how many of those.
pub(super) async fn remove(
    change: &mut Change<'_>,
    tenant: &TenantOfCall,
    ids: &[String],
) -> Result<usize> {
    let external_keys = external_keys::remove(change, tenant, ids).await?;
    diesel::delete(
        tenant_app_key_configs::table
            .filter(tenant_app_key_configs::tenant_uid.eq(tenant.uid))
            .filter(tenant_app_key_configs::app_key_id.eq_any(ids)),
    )
    .execute(change.conn())
    .await?;
    diesel::delete(
        tenant_app_keys::table
            .filter(tenant_app_keys::tenant_uid.eq(tenant.uid))
            .filter(tenant_app_keys::app_key_id.eq_any(ids)),
    )
    .execute(change.conn())
    .await?;
    Ok(external_keys)
}

/// Makes an app key.
///
/// # Errors
///
/// What the method says.
pub async fn create(
    shared: &Shared,
    call: &Call,
    request: &pb::CreateAppKeyRequest,
) -> Result<pb::CreateAppKeyResponse> {
    let tenant = call.own_tenant()?;
    let mut fields = Fields::default();
    let configs = request.config.as_ref().map_or(Ok(Vec::new()), read_configs);
    let configs = fields.take("config", configs);
    fields.take("installation_id", id(&request.installation_id));
    fields.finish()?;
    let configs = configs.unwrap_or_default();

    shared
        .mutator
        .mutate(call, request, async |change: &mut Change<'_>| {
            store::hold(change.conn(), tenant).await?;
            check_protection_of_keys(change, tenant.uid).await?;
            let installation =
                installations::hold(change, tenant, &request.installation_id).await?;
            let app_key = Some(add(change, &installation, tenant, &configs).await?.into());
            Ok(pb::CreateAppKeyResponse { app_key })
        })
        .await
}

/// Lists app keys, page by page.
///
/// # Errors
///
/// What the method says.
pub async fn list(
    shared: &Shared,
    call: &Call,
    request: &pb::ListAppKeysRequest,
) -> Result<pb::ListAppKeysResponse> {
    let tenant = call.own_tenant()?;
    let query = Query::read(call, request)?;

    let (found, next_page_token) =
        shared.read(call, async |conn| query.run(conn, tenant).await).await?;

    let app_keys = found.into_iter().map(pb::AppKey::from).collect();
    Ok(pb::ListAppKeysResponse { app_keys, next_page_token })
}

/// Deletes an app key with its external keys.
///
/// # Errors
///
/// What the method says.
pub async fn delete(
    shared: &Shared,
    call: &Call,
    request: &pb::DeleteAppKeyRequest,
) -> Result<pb::DeleteAppKeyResponse> {
    let tenant = call.own_tenant()?;
    let id = read_id(&request.app_key_id).map_err(|why| Error::invalid("app_key_id", why))?;

    shared
        .mutator
        .mutate(call, request, async |change: &mut Change<'_>| {
            change.call.check_environment(None)?;
            store::hold(change.conn(), tenant).await?;
            check_protection_of_keys(change, tenant.uid).await?;
            let app_key = find(change.conn(), tenant, &id).await?;
            installations::hold_alone(change, tenant, &app_key.installation_id)
                .await
                .map_err(|error| gone_with_its_installation(error, &id))?;
            // Whoever else was deleting it had to be waited for.
            let app_key = find(change.conn(), tenant, &id).await?;
            check_etag(&request.etag, VERSION, Kind::AppKey, &id)?;
            let number = remove(change, tenant, std::slice::from_ref(&id)).await?;
            let told = json_of(&pb::AppKey::from(app_key));
            tell(change, tenant, "app_key.deleted", &id, (Some(told), None)).await?;
            let external_keys = i32::try_from(number).unwrap_or(i32::MAX);
            Ok(pb::DeleteAppKeyResponse { external_keys })
        })
        .await
}

/// Gets what an app key says to services in an environment.
///
/// # Errors
///
/// What the method says.
pub async fn get_config(
    shared: &Shared,
    call: &Call,
    request: &pb::GetKeyConfigRequest,
) -> Result<pb::GetKeyConfigResponse> {
    let tenant = call.own_tenant()?;
    let mut fields = Fields::default();
    let app_key_id = fields.take("app_key_id", read_id(&request.app_key_id));
    let environment = fields.take("environment", id(&request.environment.to_ascii_lowercase()));
    let service = fields.take("service_name", text(&request.service_name, 0, SERVICE_NAME_MAX));
    fields.finish()?;
    let (Some(app_key_id), Some(environment), Some(service)) = (app_key_id, environment, service)
    else {
        return Err(Error::internal("a field was refused without a violation"));
    };

    call.check_environment(Some(&environment))?;

    let found = shared
        .read(call, async |conn| {
            let app_key = find(conn, tenant, &app_key_id).await?;
            environments::find(conn, &environment).await?;
            let place = (tenant.uid, &app_key.app_key_id, &environment);
            let found = tenant_app_key_configs::table.find(place).select(Document::as_select());
            Ok(found.get_result(conn).await.optional()?)
        })
        .await?;

    let mut told = message(&app_key_id, &environment, found.as_ref());
    if let Some(found) = found.filter(|_| !service.is_empty()) {
        told.config = struct_of_json(effective(&found.config, &service));
    }
    Ok(pb::GetKeyConfigResponse { key_config: Some(told) })
}

/// Replaces what an app key says to services in an environment.
///
/// # Errors
///
/// What the method says.
pub async fn update_config(
    shared: &Shared,
    call: &Call,
    request: &pb::UpdateKeyConfigRequest,
) -> Result<pb::UpdateKeyConfigResponse> {
    let tenant = call.own_tenant()?;
    let new = NewConfig::read(request)?;

    shared
        .mutator
        .mutate(call, request, async |change: &mut Change<'_>| {
            let key_config = Some(replace(change, tenant, &new).await?);
            let revision = change.revision().await?;
            Ok(pb::UpdateKeyConfigResponse { key_config, revision })
        })
        .await
}

/// What a caller says that an app key is to say.
struct NewConfig {
    app_key_id: String,
    environment: String,
    /// An empty one removes what is there.
    config: Value,
    etag: String,
}

impl NewConfig {
    fn read(request: &pb::UpdateKeyConfigRequest) -> Result<Self> {
        let pb = request.key_config.as_ref().ok_or(Error::invalid("key_config", "is required"))?;
        let mut fields = Fields::default();
        let app_key_id = fields.take("key_config.app_key_id", read_id(&pb.app_key_id));
        let environment = id(&pb.environment.to_ascii_lowercase());
        let environment = fields.take("key_config.environment", environment);
        let config = match read_json(pb.config.as_ref()) {
            Ok(Some(Value::Object(sections))) => read_sections(sections),
            Ok(_) => Err("is required: an empty one removes what is there".to_owned()),
            Err(why) => Err(why),
        };
        let config = fields.take("key_config.config", config);
        fields.finish()?;
        let (Some(app_key_id), Some(environment), Some(config)) = (app_key_id, environment, config)
        else {
            return Err(Error::internal("a field was refused without a violation"));
        };
        let etag = if request.etag.is_empty() { &pb.etag } else { &request.etag };
        Ok(Self { app_key_id, environment, config, etag: etag.clone() })
    }
}

/// Replaces one document. Those of other environments and app keys are rows of their own, which other
/// changes may replace at the same time.
async fn replace(
    change: &mut Change<'_>,
    tenant: &TenantOfCall,
    new: &NewConfig,
) -> Result<pb::KeyConfig> {
    let NewConfig { app_key_id, environment, config, etag } = new;
    change.call.check_environment(Some(environment))?;
    store::hold(change.conn(), tenant).await?;
    check_protection_of_keys(change, tenant.uid).await?;
    let (app_key, _) = hold(change, tenant, app_key_id).await?;
    environments::find(change.conn(), environment).await?;
    let place = (tenant.uid, app_key_id, environment);
    let before: Option<Document> = tenant_app_key_configs::table
        .find(place)
        .select(Document::as_select())
        .for_update()
        .get_result(change.conn())
        .await
        .optional()?;
    // Of no version is what is not there.
    let version = before.as_ref().map_or(0, |before| before.version);
    check_etag(etag, version, Kind::AppKey, app_key_id)?;

    let now = change.now;
    let is_empty = config.as_object().is_some_and(Map::is_empty);
    let after = match &before {
        Some(before) if before.config == *config => Some(before.clone()),
        None if is_empty => None,
        Some(_) if is_empty => {
            diesel::delete(tenant_app_key_configs::table.find(place))
                .execute(change.conn())
                .await?;
            None
        }
        Some(before) => {
            let version = before.version + 1;
            diesel::update(tenant_app_key_configs::table.find(place))
                .set((
                    tenant_app_key_configs::config.eq(config),
                    tenant_app_key_configs::update_time.eq(now),
                    tenant_app_key_configs::version.eq(version),
                ))
                .execute(change.conn())
                .await?;
            Some(Document { config: config.clone(), update_time: now, version, ..before.clone() })
        }
        None => {
            let after = Document::new(&app_key, environment.clone(), config.clone(), now);
            diesel::insert_into(tenant_app_key_configs::table)
                .values(&after)
                .execute(change.conn())
                .await
                .map_err(|error| refused(error, environment))?;
            Some(after)
        }
    };
    if after != before {
        let told = |config: Option<&Document>| {
            // It may hold secrets of services.
            let told = message(app_key_id, environment, config);
            json_of(&pb::KeyConfig { config: None, ..told })
        };
        let told = (Some(told(before.as_ref())), Some(told(after.as_ref())));
        tell(change, tenant, "key_config.updated", app_key_id, told).await?;
    }
    Ok(message(app_key_id, environment, after.as_ref()))
}

/// What the constraints of the table mean. Where two set what was not set before, one of them finds it
/// when it tries again.
fn refused(error: diesel::result::Error, environment: &str) -> Error {
    let diesel::result::Error::DatabaseError(kind, information) = &error else {
        return error.into();
    };
    match (kind, information.constraint_name()) {
        (DatabaseErrorKind::UniqueViolation, _) => Error::Contended(error),
        (
            DatabaseErrorKind::ForeignKeyViolation,
            Some("tenant_app_key_configs_environment_fkey"),
        ) => Error::not_found(Kind::Environment, environment),
        _ => error.into(),
    }
}

fn message(app_key_id: &str, environment: &str, config: Option<&Document>) -> pb::KeyConfig {
    let empty = || Value::Object(Map::new());
    pb::KeyConfig {
        app_key_id: app_key_id.to_owned(),
        environment: environment.to_owned(),
        config: struct_of_json(config.map_or_else(empty, |config| config.config.clone())),
        update_time: config.map(|config| timestamp(config.update_time)),
        etag: config.map(|config| etag(config.version)).unwrap_or_default(),
    }
}

impl From<AppKey> for pb::AppKey {
    fn from(app_key: AppKey) -> Self {
        let AppKey { tenant_uid: _, app_key_id, installation_id, create_time } = app_key;
        Self {
            app_key_id,
            installation_id,
            create_time: Some(timestamp(create_time)),
            etag: etag(VERSION),
        }
    }
}

const FIELDS: &[Field] = &[
    Field { name: "app_key_id", kind: FieldKind::Text },
    Field { name: "installation_id", kind: FieldKind::Text },
    Field { name: "create_time", kind: FieldKind::Time },
];

const ORDERS: &[&str] = &["create_time", "app_key_id"];

/// A list of app keys that was asked for.
struct Query(Listing);

impl Query {
    fn read(call: &Call, request: &pb::ListAppKeysRequest) -> Result<Self> {
        let pb::ListAppKeysRequest { page_size, page_token, filter, order_by } = request;
        let asked = Asked { page_size: *page_size, page_token, filter, order_by, more: "" };
        Listing::read(call, asked, FIELDS, ORDERS).map(Self)
    }

    /// Reads the page; answers its app keys and the token of the next one.
    async fn run(
        &self,
        conn: &mut AsyncPgConnection,
        tenant: &TenantOfCall,
    ) -> Result<(Vec<AppKey>, String)> {
        let Listing { page, terms, order } = &self.0;
        let mut query = tenant_app_keys::table
            .filter(tenant_app_keys::tenant_uid.eq(tenant.uid))
            .into_boxed::<Pg>();
        for term in terms {
            let condition: Condition<tenant_app_keys::table> = match (term.field, &term.test) {
                ("app_key_id", Test::Text(test)) => filter::text(tenant_app_keys::app_key_id, test),
                ("installation_id", Test::Text(test)) => {
                    filter::text(tenant_app_keys::installation_id, test)
                }
                ("create_time", Test::Time(comparison, time)) => {
                    filter::time(tenant_app_keys::create_time, *comparison, *time)
                }
                (field, _) => {
                    return Err(no_condition(field));
                }
            };
            query =
                if term.negated { query.filter(not(condition)) } else { query.filter(condition) };
        }
        let behind = |place: &Place| tenant_app_keys::app_key_id.gt(place.id.clone());
        let after = page.after.as_ref();
        let down = order.descending;
        let query = match order.field {
            "app_key_id" => {
                let after = after.map(|place| (place.value.clone(), behind(place)));
                seek!(query, tenant_app_keys::app_key_id, after, down)
            }
            _ => {
                let after = match after {
                    Some(place) => Some((page.time(place)?, behind(place))),
                    None => None,
                };
                seek!(query, tenant_app_keys::create_time, after, down)
            }
        };
        let mut found: Vec<AppKey> = query
            .then_order_by(tenant_app_keys::app_key_id)
            .limit(page.limit())
            .select(AppKey::as_select())
            .load(conn)
            .await?;
        let token = page.finish(&mut found, |row| {
            let value = match order.field {
                "app_key_id" => row.app_key_id.clone(),
                _ => row.create_time.timestamp_micros().to_string(),
            };
            Place { value, id: row.app_key_id.clone() }
        });
        Ok((found, token))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// 1-27
    #[test]
    fn a_service_receives_what_is_for_all_and_its_own_section() {
        let config = json!({
            "commonFields": {"region": "eu", "billing": "overridden"},
            "billing": {"url": "b"},
            "mail": {"password": "secret"},
        });

        let told = |service| effective(&config, service);

        assert_eq!(told("billing"), json!({"region": "eu", "billing": {"url": "b"}}));
        let common = json!({"region": "eu", "billing": "overridden"});
        for other in ["none", "", "commonFields"] {
            assert_eq!(told(other), common, "{other}");
        }
        assert_eq!(effective(&json!({}), "billing"), json!({}));
        assert_eq!(effective(&json!({"billing": {}}), "billing"), json!({"billing": {}}));
    }

    /// 1-26
    #[test]
    fn what_is_inherited_is_dropped_and_what_is_null_is_kept_as_null() {
        let read = |config: Value| match config {
            Value::Object(sections) => read_sections(sections).unwrap(),
            other => panic!("{other}"),
        };

        let said = json!({
            "SOAJS": {"THROTTLING": {"publicAPIStrategy": "null", "privateAPIStrategy": "--inherit--"}},
            "gateway": {"throttling": {"billing": {"publicAPIStrategy": "--inherit--", "apis": {}},
                "mail": "null"}},
            "billing": {"word": "null", "other": "--inherit--"},
        });
        let settled = json!({
            "SOAJS": {"THROTTLING": {"publicAPIStrategy": null}},
            "gateway": {"throttling": {"mail": null}},
            "billing": {"word": "null", "other": "--inherit--"},
        });

        assert_eq!(read(said), settled);
        let nothing = json!({
            "SOAJS": {"THROTTLING": {"publicAPIStrategy": "--inherit--"}}, "gateway": {}, "mail": {},
        });
        assert_eq!(read(nothing), json!({"mail": {}}));
        let more = json!({"gateway": {"throttling": {"a": "--inherit--"}, "x": 1}});
        assert_eq!(read(more), json!({"gateway": {"x": 1}}));
    }

    /// 1-26
    #[test]
    fn a_section_is_an_object() {
        for wrong in [json!("x"), json!(1), json!(null), json!([])] {
            let sections = Map::from_iter([("billing".to_owned(), wrong)]);
            assert!(read_sections(sections).unwrap_err().contains("billing"));
        }
    }

    /// 1-25
    #[test]
    fn the_id_of_an_app_key_is_of_32_digits() {
        assert_eq!(read_id(&"aB".repeat(16)).unwrap(), "ab".repeat(16));
        for wrong in ["", "x", &"g".repeat(32), &"a".repeat(33)] {
            assert!(read_id(wrong).is_err(), "{wrong}");
        }
        assert_eq!(read_id(&new_id().unwrap()).unwrap().len(), 32);
    }
}
