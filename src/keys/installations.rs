//! What a tenant runs of products (1-20 to 1-24).
//!
//! An *installation* is of a package. It holds *app keys* (`app_keys`), ids that stand for a configuration
//! in each environment; of an app key are the *external keys* (`external_keys`), whose texts clients send
//! and which are good in one environment each.
//!
//! Whoever adds to an installation holds it against being deleted, and whoever deletes holds it alone: what
//! hangs on it is never left over. Locks go from the tenant over the installation to its keys.

use chrono::{DateTime, Utc};
use diesel::{dsl::not, pg::Pg, prelude::*};
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use serde_json::Value;
use uuid::Uuid;

use super::{
    app_keys,
    external_keys::{self, NewExternalKey},
    master::MasterKey,
    secret::KeyText,
};
use crate::{
    authorizations,
    directory::{environments, products},
    error::{Error, Kind, Result},
    events::outbox::Event,
    filter::{self, Condition, Field, FieldKind, Term, Test},
    listing::{Listing, no_condition},
    mask::{check_fixed, masked, said},
    page::{Asked, Place},
    pb,
    rpc::{
        Call, TenantOfCall,
        mutate::{Change, check_etag, etag},
        permit::json_of,
    },
    schema::tenant_installations,
    seek,
    server::Shared,
    tenants::{life::check_protection_of_keys, model::generated_id_of, store},
    wire::{Fields, id, prose, reference, timestamp},
};

/// For how many hours verifiers may keep what a key resolves to (1-22).
const TTL_HOURS: [i16; 9] = [6, 12, 24, 48, 72, 96, 120, 144, 168];
const DESCRIPTION_MAX: usize = 1_000;

/// What a tenant runs of a product.
#[derive(Clone, Debug, PartialEq, Eq, HasQuery, Insertable)]
#[diesel(table_name = tenant_installations, primary_key(tenant_uid, installation_id))]
#[diesel(check_for_backend(Pg))]
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
    /// The application whose keys its keys are.
    pub application_id: Option<String>,
}

/// What a caller says of a new installation.
#[derive(Clone, Debug)]
struct NewPackage {
    description: String,
    product_code: String,
    package_code: String,
    ttl_hours: i16,
    application_id: Option<String>,
}

/// What a caller says of an installation that comes to be with its tenant.
#[derive(Clone, Debug)]
pub struct NewInstallation {
    package: NewPackage,
    /// By environment.
    config: Vec<(String, Value)>,
    key: NewExternalKey,
}

impl NewPackage {
    /// Reads the fields of an installation at a place of a request.
    fn read(
        (description, product_code, package_code): (&str, &str, &str),
        ttl_hours: i32,
        at: &str,
        fields: &mut Fields,
    ) -> Option<Self> {
        let description =
            fields.take(&format!("{at}.description"), prose(description, DESCRIPTION_MAX));
        let bare = products::read_package_code(product_code, package_code);
        let product_code =
            fields.take(&format!("{at}.product_code"), products::read_code(product_code));
        let package_code = fields.take(&format!("{at}.package_code"), bare);
        let ttl_hours = fields.take(&format!("{at}.ttl_hours"), read_ttl(ttl_hours));
        Some(Self {
            description: description?,
            product_code: product_code?,
            package_code: package_code?,
            ttl_hours: ttl_hours?,
            application_id: None,
        })
    }
}

impl NewInstallation {
    /// Reads the field `application` of a request at a time; nothing where something is wrong with it.
    pub fn read(pb: &pb::NewInstallation, now: DateTime<Utc>, fields: &mut Fields) -> Option<Self> {
        let texts = (&*pb.description, &*pb.product_code, &*pb.package_code);
        let package = NewPackage::read(texts, pb.ttl_hours, "application", fields);
        let Some(app_key) = &pb.app_key else {
            fields.refuse("application.app_key", "is required");
            return None;
        };
        let config = match &app_key.config {
            Some(config) => app_keys::read_configs(config),
            None => Err("is required, and may be empty".to_owned()),
        };
        let config = fields.take("application.app_key.config", config);
        let Some(key) = &app_key.ext_key else {
            fields.refuse("application.app_key.ext_key", "is required");
            return None;
        };
        let key = NewExternalKey::read_first(key, "application.app_key.ext_key", now, fields);
        Some(Self { package: package?, config: config?, key: key? })
    }
}

/// Reads the id of an application, or nothing.
fn read_application(application_id: &str) -> Result<Option<String>, String> {
    if application_id.is_empty() { Ok(None) } else { id(application_id).map(Some) }
}

fn read_ttl(hours: i32) -> Result<i16, String> {
    let known = i16::try_from(hours).ok().filter(|hours| TTL_HOURS.contains(hours));
    known.ok_or_else(|| {
        let all = TTL_HOURS.map(|hours| hours.to_string()).join(", ");
        if hours == 0 {
            format!("is required: one of {all}")
        } else {
            format!("is {hours}, not one of {all}")
        }
    })
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
    let installation = add(change, tenant, &new.package).await?;
    // Before anything is made of it: all that is wrong with a request should be found early.
    environments::find(change.conn(), &new.key.environment).await?;
    let app_key = app_keys::add(change, &installation, tenant, &new.config).await?;
    let app_key_id = app_key.app_key_id;
    // As the first API key of a tenant, it ends with the key that made it where no end is asked for.
    let mut key = new.key.clone();
    key.expire_time = key.expire_time.or(change.call.caller.expire_time);
    let (external_key, text) =
        external_keys::issue(change, master, tenant, &installation, app_key_id, &key).await?;
    Ok(Installed { installation: installation.into(), external_key, text })
}

/// Installs a package for a tenant, without keys.
async fn add(
    change: &mut Change<'_>,
    tenant: &TenantOfCall,
    new: &NewPackage,
) -> Result<Installation> {
    let (account, now) = (&tenant.account_id, change.now);
    products::require_package(change.conn(), account, &new.product_code, &new.package_code).await?;
    if let Some(application_id) = &new.application_id {
        authorizations::require(change, tenant, application_id).await?;
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
        application_id: new.application_id.clone(),
    };
    diesel::insert_into(tenant_installations::table)
        .values(&installation)
        .execute(change.conn())
        .await
        .map_err(|error| refused(error, &installation))?;
    tell_of(change, tenant, "installation.created", None, Some(&installation)).await?;
    Ok(installation)
}

/// What the constraints of the table mean to a caller: the package was there a moment ago.
fn refused(error: diesel::result::Error, installation: &Installation) -> Error {
    use diesel::result::{DatabaseErrorKind::ForeignKeyViolation, Error::DatabaseError};
    match &error {
        DatabaseError(ForeignKeyViolation, information)
            if information.constraint_name() == Some("tenant_installations_package_fkey") =>
        {
            let Installation { product_code, package_code, .. } = installation;
            Error::not_found(Kind::Product, format!("{product_code}_{package_code}"))
        }
        _ => error.into(),
    }
}

/// Installs a package.
///
/// # Errors
///
/// What the method says.
pub async fn create(
    shared: &Shared,
    call: &Call,
    request: &pb::CreateInstallationRequest,
) -> Result<pb::CreateInstallationResponse> {
    let tenant = call.own_tenant()?;
    let new = read_new(request)?;

    shared
        .mutator
        .mutate(call, request, async |change: &mut Change<'_>| {
            store::hold(change.conn(), tenant).await?;
            check_protection_of_keys(change, tenant.uid).await?;
            let installation = Some(add(change, tenant, &new).await?.into());
            Ok(pb::CreateInstallationResponse { installation })
        })
        .await
}

fn read_new(request: &pb::CreateInstallationRequest) -> Result<NewPackage> {
    let pb = request.installation.as_ref().ok_or(Error::invalid("installation", "is required"))?;
    let mut fields = Fields::default();
    let texts = (&*pb.description, &*pb.product_code, &*pb.package_code);
    let new = NewPackage::read(texts, pb.ttl_hours, "installation", &mut fields);
    let application_id =
        fields.take("installation.application_id", read_application(&pb.application_id));
    fields.finish()?;
    let new = new.zip(application_id);
    let new = new.map(|(new, application_id)| NewPackage { application_id, ..new });
    new.ok_or_else(|| Error::internal("a field was refused without a violation"))
}

/// Gets an installation.
///
/// # Errors
///
/// What the method says.
pub async fn get(
    shared: &Shared,
    call: &Call,
    request: &pb::GetInstallationRequest,
) -> Result<pb::GetInstallationResponse> {
    let tenant = call.own_tenant()?;
    let id = reference("installation_id", &request.installation_id)?;

    let found = shared.read(call, async |conn| find(conn, tenant, id).await).await?;

    Ok(pb::GetInstallationResponse { installation: Some(found.into()) })
}

async fn find(
    conn: &mut AsyncPgConnection,
    tenant: &TenantOfCall,
    id: &str,
) -> Result<Installation> {
    let found = named(tenant, id).get_result(conn).await.optional()?;
    found.ok_or_else(|| Error::not_found(Kind::Installation, id))
}

/// Finds an installation and keeps others from changing it or adding to it until the transaction ends.
pub(super) async fn hold_alone(
    change: &mut Change<'_>,
    tenant: &TenantOfCall,
    id: &str,
) -> Result<Installation> {
    let found = named(tenant, id).for_update().get_result(change.conn()).await.optional()?;
    found.ok_or_else(|| Error::not_found(Kind::Installation, id))
}

/// Finds an installation and keeps it from being deleted until the transaction ends, for what is added to
/// it. Others may add at the same time.
pub(super) async fn hold(
    change: &mut Change<'_>,
    tenant: &TenantOfCall,
    id: &str,
) -> Result<Installation> {
    let found = named(tenant, id).for_share().get_result(change.conn()).await.optional()?;
    found.ok_or_else(|| Error::not_found(Kind::Installation, id))
}

/// The installation of a tenant with an id.
#[diesel::dsl::auto_type]
fn named<'a>(tenant: &TenantOfCall, id: &'a str) -> _ {
    let uid: Uuid = tenant.uid;
    let columns: diesel::dsl::AsSelect<Installation, Pg> = Installation::as_select();
    tenant_installations::table
        .filter(tenant_installations::tenant_uid.eq(uid))
        .filter(tenant_installations::installation_id.eq(id))
        .select(columns)
}

/// Changes an installation.
///
/// # Errors
///
/// What the method says.
pub async fn update(
    shared: &Shared,
    call: &Call,
    request: &pb::UpdateInstallationRequest,
) -> Result<pb::UpdateInstallationResponse> {
    let tenant = call.own_tenant()?;
    let patch = Patch::read(request)?;

    shared
        .mutator
        .mutate(call, request, async |change: &mut Change<'_>| {
            let installation = Some(update_one(change, tenant, &patch).await?.into());
            Ok(pb::UpdateInstallationResponse { installation })
        })
        .await
}

/// What is to change of an installation.
struct Patch {
    installation_id: String,
    etag: String,
    named: Vec<&'static str>,
    /// Empty where it says nothing of the product.
    product_code: String,
    description: String,
    package_code: String,
    ttl_hours: i16,
    application_id: Option<String>,
}

const FIXED: &[&str] = &["installation_id", "package", "create_time", "update_time", "etag"];

impl Patch {
    fn read(request: &pb::UpdateInstallationRequest) -> Result<Self> {
        let pb =
            request.installation.as_ref().ok_or(Error::invalid("installation", "is required"))?;
        let mask = request.update_mask.as_ref();
        let present = [
            ("description", !pb.description.is_empty()),
            ("package_code", !pb.package_code.is_empty()),
            ("ttl_hours", pb.ttl_hours != 0),
            ("application_id", !pb.application_id.is_empty()),
        ];
        let named = masked(mask, &present, FIXED)?;
        let mut fields = Fields::default();
        let description =
            fields.take("installation.description", prose(&pb.description, DESCRIPTION_MAX));
        let ttl_hours = if named.contains(&"ttl_hours") { read_ttl(pb.ttl_hours) } else { Ok(0) };
        let ttl_hours = fields.take("installation.ttl_hours", ttl_hours);
        let application_id =
            fields.take("installation.application_id", read_application(&pb.application_id));
        fields.finish()?;
        let installation_id =
            reference("installation.installation_id", &pb.installation_id)?.to_owned();
        let etag = if request.etag.is_empty() { &pb.etag } else { &request.etag };
        Ok(Self {
            installation_id,
            etag: etag.clone(),
            named,
            product_code: said(mask, &pb.product_code).to_owned(),
            description: description.unwrap_or_default(),
            package_code: pb.package_code.clone(),
            ttl_hours: ttl_hours.unwrap_or_default(),
            application_id: application_id.flatten(),
        })
    }

    fn apply(&self, installation: &mut Installation) -> Result<()> {
        let product_code = &installation.product_code;
        check_fixed("installation.product_code", &self.product_code, product_code)?;
        for path in &self.named {
            match *path {
                "description" => installation.description.clone_from(&self.description),
                "package_code" => {
                    installation.package_code =
                        products::read_package_code(product_code, &self.package_code)
                            .map_err(|why| Error::invalid("installation.package_code", why))?;
                }
                "application_id" => installation.application_id.clone_from(&self.application_id),
                _ => installation.ttl_hours = self.ttl_hours,
            }
        }
        Ok(())
    }
}

async fn update_one(
    change: &mut Change<'_>,
    tenant: &TenantOfCall,
    patch: &Patch,
) -> Result<Installation> {
    change.call.check_environment(None)?;
    store::hold(change.conn(), tenant).await?;
    check_protection_of_keys(change, tenant.uid).await?;
    let before = hold_alone(change, tenant, &patch.installation_id).await?;
    check_etag(&patch.etag, before.version, Kind::Installation, &before.installation_id)?;
    let mut after = before.clone();
    patch.apply(&mut after)?;
    if after == before {
        return Ok(before);
    }
    if after.package_code != before.package_code {
        let (product, package) = (&after.product_code, &after.package_code);
        products::require_package(change.conn(), &tenant.account_id, product, package).await?;
    }
    if let Some(application_id) = &after.application_id
        && after.application_id != before.application_id
    {
        authorizations::require(change, tenant, application_id).await?;
    }
    after.update_time = change.now;
    after.version += 1;
    diesel::update(tenant_installations::table.find((tenant.uid, &after.installation_id)))
        .set((
            tenant_installations::description.eq(&after.description),
            tenant_installations::package_code.eq(&after.package_code),
            tenant_installations::ttl_hours.eq(after.ttl_hours),
            tenant_installations::update_time.eq(after.update_time),
            tenant_installations::version.eq(after.version),
            tenant_installations::application_id.eq(&after.application_id),
        ))
        .execute(change.conn())
        .await
        .map_err(|error| refused(error, &after))?;
    tell_of(change, tenant, "installation.updated", Some(&before), Some(&after)).await?;
    Ok(after)
}

/// Deletes an installation with all its keys.
///
/// # Errors
///
/// What the method says.
pub async fn delete(
    shared: &Shared,
    call: &Call,
    request: &pb::DeleteInstallationRequest,
) -> Result<pb::DeleteInstallationResponse> {
    let tenant = call.own_tenant()?;
    let id = reference("installation_id", &request.installation_id)?;

    shared
        .mutator
        .mutate(call, request, async |change: &mut Change<'_>| {
            delete_one(change, tenant, id, &request.etag).await
        })
        .await
}

async fn delete_one(
    change: &mut Change<'_>,
    tenant: &TenantOfCall,
    id: &str,
    sent_etag: &str,
) -> Result<pb::DeleteInstallationResponse> {
    change.call.check_environment(None)?;
    store::hold(change.conn(), tenant).await?;
    check_protection_of_keys(change, tenant.uid).await?;
    let installation = hold_alone(change, tenant, id).await?;
    check_etag(sent_etag, installation.version, Kind::Installation, id)?;
    let app_keys = app_keys::ids_of(change, &installation).await?;
    let external_keys = app_keys::remove(change, tenant, &app_keys).await?;
    diesel::delete(tenant_installations::table.find((tenant.uid, id)))
        .execute(change.conn())
        .await?;
    tell_of(change, tenant, "installation.deleted", Some(&installation), None).await?;
    let number = |number: usize| i32::try_from(number).unwrap_or(i32::MAX);
    Ok(pb::DeleteInstallationResponse {
        app_keys: number(app_keys.len()),
        external_keys: number(external_keys),
    })
}

async fn tell_of(
    change: &mut Change<'_>,
    tenant: &TenantOfCall,
    kind: &'static str,
    before: Option<&Installation>,
    after: Option<&Installation>,
) -> Result<()> {
    let json = |one: &Installation| json_of(&pb::Installation::from(one.clone()));
    let id = after.or(before).map_or("", |one| &one.installation_id);
    tell(change, tenant, kind, id, (before.map(json), after.map(json))).await
}

/// Records what happened to an installation or to what hangs on it: how it was before and is after.
pub(super) async fn tell(
    change: &mut Change<'_>,
    tenant: &TenantOfCall,
    kind: &'static str,
    resource_id: &str,
    (before, after): (Option<Value>, Option<Value>),
) -> Result<()> {
    change
        .record(Event {
            kind,
            account_id: Some(&tenant.account_id),
            tenant: Some((tenant.uid, &tenant.tenant_id)),
            resource_type: kind.split_once('.').map_or(kind, |(resource, _)| resource),
            resource_id,
            before,
            after,
        })
        .await
}

/// Lists installations, page by page.
///
/// # Errors
///
/// What the method says.
pub async fn list(
    shared: &Shared,
    call: &Call,
    request: &pb::ListInstallationsRequest,
) -> Result<pb::ListInstallationsResponse> {
    let tenant = call.own_tenant()?;
    let query = Query::read(call, request)?;

    let (found, next_page_token) =
        shared.read(call, async |conn| query.run(conn, tenant).await).await?;

    let installations = found.into_iter().map(pb::Installation::from).collect();
    Ok(pb::ListInstallationsResponse { installations, next_page_token })
}

const FIELDS: &[Field] = &[
    Field { name: "installation_id", kind: FieldKind::Text },
    Field { name: "description", kind: FieldKind::Text },
    Field { name: "product_code", kind: FieldKind::Text },
    Field { name: "package_code", kind: FieldKind::Text },
    Field { name: "create_time", kind: FieldKind::Time },
];

const ORDERS: &[&str] = &["create_time", "installation_id", "product_code"];

/// A list of installations that was asked for.
struct Query(Listing);

impl Query {
    fn read(call: &Call, request: &pb::ListInstallationsRequest) -> Result<Self> {
        let pb::ListInstallationsRequest { page_size, page_token, filter, order_by } = request;
        let asked = Asked { page_size: *page_size, page_token, filter, order_by, more: "" };
        Listing::read(call, asked, FIELDS, ORDERS).map(Self)
    }

    /// Reads the page; answers its installations and the token of the next one.
    async fn run(
        &self,
        conn: &mut AsyncPgConnection,
        tenant: &TenantOfCall,
    ) -> Result<(Vec<Installation>, String)> {
        let Listing { page, terms, order } = &self.0;
        let mut query = tenant_installations::table
            .filter(tenant_installations::tenant_uid.eq(tenant.uid))
            .into_boxed::<Pg>();
        for term in terms {
            let condition = condition(term)?;
            query =
                if term.negated { query.filter(not(condition)) } else { query.filter(condition) };
        }
        let behind = |place: &Place| tenant_installations::installation_id.gt(place.id.clone());
        let after = page.after.as_ref();
        let down = order.descending;
        let query = match order.field {
            "installation_id" => {
                let after = after.map(|place| (place.value.clone(), behind(place)));
                seek!(query, tenant_installations::installation_id, after, down)
            }
            "product_code" => {
                let after = after.map(|place| (place.value.clone(), behind(place)));
                seek!(query, tenant_installations::product_code, after, down)
            }
            _ => {
                let after = match after {
                    Some(place) => Some((page.time(place)?, behind(place))),
                    None => None,
                };
                seek!(query, tenant_installations::create_time, after, down)
            }
        };
        let mut found: Vec<Installation> = query
            .then_order_by(tenant_installations::installation_id)
            .limit(page.limit())
            .select(Installation::as_select())
            .load(conn)
            .await?;
        // What is left of a row when its only long text is not counted.
        let bytes = |row: &Installation| row.description.len() + 400;
        let token = page.finish_within(&mut found, bytes, |row| {
            let value = match order.field {
                "installation_id" => row.installation_id.clone(),
                "product_code" => row.product_code.clone(),
                _ => row.create_time.timestamp_micros().to_string(),
            };
            Place { value, id: row.installation_id.clone() }
        });
        Ok((found, token))
    }
}

fn condition(term: &Term) -> Result<Condition<tenant_installations::table>> {
    Ok(match (term.field, &term.test) {
        ("installation_id", Test::Text(test)) => {
            filter::text(tenant_installations::installation_id, test)
        }
        ("description", Test::Text(test)) => filter::text(tenant_installations::description, test),
        ("product_code", Test::Text(test)) => {
            filter::text(tenant_installations::product_code, test)
        }
        ("package_code", Test::Text(test)) => {
            filter::text(tenant_installations::package_code, test)
        }
        ("create_time", Test::Time(comparison, time)) => {
            filter::time(tenant_installations::create_time, *comparison, *time)
        }
        (field, _) => {
            return Err(no_condition(field));
        }
    })
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
            application_id,
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
            application_id: application_id.unwrap_or_default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
}
