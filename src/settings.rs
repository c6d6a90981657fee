//! Service settings: which services of the platform are on for a tenant (4-14).

use diesel::{dsl::not, pg::Pg, prelude::*};
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

use crate::{
    error::{Error, Kind, Result},
    events::outbox::Event,
    filter::{self, Condition, Field, FieldKind, Test},
    listing::{Listing, no_condition},
    page::{Asked, Place},
    pb,
    rpc::{Call, TenantOfCall, mutate::Change, permit::json_of},
    schema::tenant_service_settings,
    seek,
    tenants::store,
    wire::{Fields, request_id},
};

/// How many settings one request may name.
const NAMED_MAX: usize = 100;
/// How many settings a tenant may have.
const SETTINGS_MAX: usize = 1_000;

/// One service of the platform, on or off.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, HasQuery, Insertable, AsChangeset)]
#[diesel(table_name = tenant_service_settings, primary_key(tenant_uid, name))]
#[diesel(check_for_backend(Pg))]
pub struct Setting {
    /// The tenant that it is of.
    pub tenant_uid: Uuid,
    /// Which service.
    pub name: String,
    /// Whether it is on.
    pub enabled: bool,
}

/// All settings of a tenant, by name.
async fn all(conn: &mut AsyncPgConnection, tenant_uid: Uuid) -> Result<Vec<Setting>> {
    let mut settings: Vec<Setting> = Setting::query()
        .filter(tenant_service_settings::tenant_uid.eq(tenant_uid))
        .load(conn)
        .await?;
    // Here and not by the database, whose order depends on its collation.
    settings.sort();
    Ok(settings)
}

/// The etag of a whole set: the same settings have the same one.
fn etag(settings: &[Setting]) -> String {
    let mut hash = Sha256::new();
    for Setting { name, enabled, .. } in settings {
        hash.update(name);
        hash.update([0, u8::from(*enabled)]);
    }
    hex::encode(&hash.finalize()[..8])
}

/// Reads what a caller wants set.
///
/// # Errors
///
/// Everything that is wrong with it.
pub fn read(
    tenant: &TenantOfCall,
    request: &pb::UpdateServiceSettingsRequest,
) -> Result<Vec<Setting>> {
    let mut fields = Fields::default();
    fields.take("request_id", request_id(&request.request_id));
    if request.settings.len() > NAMED_MAX {
        let number = request.settings.len();
        let why = format!("are {number}, of which at most {NAMED_MAX} are allowed");
        return Err(Error::invalid("settings", why));
    }
    let mut read = Vec::<Setting>::new();
    for (place, pb::ServiceSetting { name, enabled }) in request.settings.iter().enumerate() {
        let field = format!("settings[{place}].name");
        if read.iter().any(|setting| setting.name == *name) {
            fields.refuse(&field, "is named before: name each setting once");
        } else if let Some(name) = fields.take(&field, read_name(name)) {
            read.push(Setting { tenant_uid: tenant.uid, name, enabled: *enabled });
        }
    }
    fields.finish()?;
    Ok(read)
}

fn read_name(name: &str) -> Result<String, String> {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'.' || b == b'-';
    if (1..=64).contains(&name.len()) && name.bytes().all(plain) {
        Ok(name.to_owned())
    } else {
        Err("is not 1 to 64 characters of a-z, 0-9, \".\" and \"-\"".to_owned())
    }
}

/// Sets services on or off; answers all settings as they are then.
///
/// # Errors
///
/// When the tenant is deleted, the settings are not as the caller has read them, or would be too many.
pub async fn update(
    change: &mut Change<'_>,
    tenant: &TenantOfCall,
    named: &[Setting],
    remove_others: bool,
    sent_etag: &str,
) -> Result<pb::UpdateServiceSettingsResponse> {
    // Held, so that two changes of the set come one after the other.
    let scope = &change.call.scope;
    let held = store::find_for_update(change.conn(), scope, &tenant.tenant_id).await?;
    store::refuse_deleted(&tenant.tenant_id, held.state)?;
    let before = all(change.conn(), tenant.uid).await?;
    if !sent_etag.is_empty() && sent_etag != etag(&before) {
        return Err(Error::Stale { kind: Kind::ServiceSettings, id: tenant.tenant_id.clone() });
    }
    let is_named = |setting: &&Setting| named.iter().any(|named| named.name == setting.name);
    let others = before.iter().filter(|setting| !remove_others && !is_named(setting));
    let mut after = others.chain(named).cloned().collect::<Vec<_>>();
    after.sort();
    if after.len() > SETTINGS_MAX {
        let number = after.len();
        let why = format!("would be {number} in all, of which at most {SETTINGS_MAX} are allowed");
        return Err(Error::invalid("settings", why));
    }
    let answer = answer(&after);
    if after == before {
        return Ok(answer);
    }

    if remove_others {
        let kept = named.iter().map(|setting| &setting.name).collect::<Vec<_>>();
        diesel::delete(
            tenant_service_settings::table
                .filter(tenant_service_settings::tenant_uid.eq(tenant.uid))
                .filter(tenant_service_settings::name.ne_all(kept)),
        )
        .execute(change.conn())
        .await?;
    }
    diesel::insert_into(tenant_service_settings::table)
        .values(named)
        .on_conflict((tenant_service_settings::tenant_uid, tenant_service_settings::name))
        .do_update()
        .set(
            tenant_service_settings::enabled
                .eq(diesel::upsert::excluded(tenant_service_settings::enabled)),
        )
        .execute(change.conn())
        .await?;
    let json = |settings: &[Setting]| Some(json_of(&self::answer(settings)));
    change
        .record(Event {
            kind: "service_settings.updated",
            account_id: Some(&tenant.account_id),
            tenant: Some((tenant.uid, &tenant.tenant_id)),
            resource_type: "service_settings",
            resource_id: &tenant.tenant_id,
            before: json(&before),
            after: json(&after),
        })
        .await?;
    Ok(answer)
}

fn answer(settings: &[Setting]) -> pb::UpdateServiceSettingsResponse {
    let etag = etag(settings);
    let settings = settings.iter().cloned().map(pb::ServiceSetting::from).collect();
    pb::UpdateServiceSettingsResponse { settings, etag }
}

const FIELDS: &[Field] = &[
    Field { name: "name", kind: FieldKind::Text },
    Field { name: "enabled", kind: FieldKind::Bool },
];

/// A list of settings that was asked for.
pub struct Query(Listing);

impl Query {
    /// Reads a request.
    ///
    /// # Errors
    ///
    /// What is wrong with its filter, order or page.
    pub fn read(call: &Call, request: &pb::ListServiceSettingsRequest) -> Result<Self> {
        let pb::ListServiceSettingsRequest { page_size, page_token, filter, order_by } = request;
        let asked = Asked { page_size: *page_size, page_token, filter, order_by, more: "" };
        Listing::read(call, asked, FIELDS, &["name"]).map(Self)
    }

    /// Reads the page.
    ///
    /// # Errors
    ///
    /// What the database reports.
    pub async fn run(
        &self,
        conn: &mut AsyncPgConnection,
        tenant: &TenantOfCall,
    ) -> Result<pb::ListServiceSettingsResponse> {
        let Listing { page, terms, order } = &self.0;
        let mut query = tenant_service_settings::table
            .filter(tenant_service_settings::tenant_uid.eq(tenant.uid))
            .into_boxed::<Pg>();
        for term in terms {
            let condition: Condition<tenant_service_settings::table> =
                match (term.field, &term.test) {
                    ("name", Test::Text(test)) => filter::text(tenant_service_settings::name, test),
                    ("enabled", Test::Bool(value)) => {
                        Box::new(tenant_service_settings::enabled.eq(*value))
                    }
                    (field, _) => {
                        return Err(no_condition(field));
                    }
                };
            query =
                if term.negated { query.filter(not(condition)) } else { query.filter(condition) };
        }
        let behind = |place: &Place| tenant_service_settings::name.gt(place.id.clone());
        let after = page.after.as_ref().map(|place| (place.value.clone(), behind(place)));
        let query = seek!(query, tenant_service_settings::name, after, order.descending);
        let mut found: Vec<Setting> =
            query.limit(page.limit()).select(Setting::as_select()).load(conn).await?;
        let next_page_token =
            page.finish(&mut found, |row| Place { value: row.name.clone(), id: row.name.clone() });
        let etag = etag(&all(conn, tenant.uid).await?);
        let settings = found.into_iter().map(pb::ServiceSetting::from).collect();
        Ok(pb::ListServiceSettingsResponse { settings, next_page_token, etag })
    }
}

impl From<Setting> for pb::ServiceSetting {
    fn from(Setting { tenant_uid: _, name, enabled }: Setting) -> Self {
        Self { name, enabled }
    }
}
