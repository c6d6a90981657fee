//! Entitlements: how much of the platform a tenant may use (3-07 to 3-13).
//!
//! What lies below a service provider takes from the provider's own entitlement of the same type: what
//! its direct children hold together is never more than it has. Whoever gives or takes holds the
//! provider's row first, so that two of them never see the same rest.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use diesel::{dsl::not, pg::Pg, prelude::*};
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use uuid::Uuid;

use crate::{
    db::Scope,
    error::{Error, Kind, Result, Violation},
    events::outbox::Event,
    filter::{Condition, Field, FieldKind, Test},
    listing::{Listing, no_condition},
    page::{Asked, Place},
    pb::{self, ErrorReason},
    rpc::{
        Call, TenantOfCall,
        mutate::{Change, check_etag, etag},
        permit::json_of,
    },
    schema::{tenant_entitlements, tenants},
    seek,
    tenants::{
        model::{ContractMode, OrganizationKind, ServiceLine, Tenant, TenantState},
        store,
    },
    text_enum,
    wire::{Fields, request_id, text, time, timestamp},
};

const CONTRACT_NUMBER_MAX: usize = 80;
const BUNDLE_MAX: usize = 64;
const BUNDLES_MAX: usize = 50;

text_enum! {
    /// What it is an entitlement to.
    pub enum EntitlementType {
        /// Users.
        Users = "USERS",
        /// Transactions.
        Transactions = "TRANSACTIONS",
    }
}

text_enum! {
    /// Whether it counts.
    pub enum EntitlementStatus {
        /// It does.
        Active = "ACTIVE",
        /// Not for now.
        Inactive = "INACTIVE",
        /// It has ended.
        Terminated = "TERMINATED",
    }
}

const TYPES: [EntitlementType; 2] = [EntitlementType::Users, EntitlementType::Transactions];

/// How much of the platform a tenant may use.
#[derive(Clone, Debug, PartialEq, Eq, HasQuery, Insertable, AsChangeset)]
#[diesel(table_name = tenant_entitlements, primary_key(tenant_uid, type_))]
#[diesel(treat_none_as_null = true, check_for_backend(Pg))]
pub struct Entitlement {
    /// Whose it is.
    pub tenant_uid: Uuid,
    /// What it is an entitlement to.
    #[diesel(column_name = type_)]
    pub entitlement_type: EntitlementType,
    /// UUIDv7.
    pub entitlement_id: Uuid,
    /// Whether it counts.
    pub status: EntitlementStatus,
    /// How much.
    pub quantity: i64,
    /// Under which contract.
    pub contract_mode: ContractMode,
    /// The number of the contract, or empty.
    pub contract_number: String,
    /// From when.
    pub start_time: DateTime<Utc>,
    /// Until when, if it ends.
    pub end_time: Option<DateTime<Utc>>,
    /// What an ISSUANCE tenant may issue.
    pub service_bundles: Vec<Option<String>>,
    /// When it was created.
    pub create_time: DateTime<Utc>,
    /// When it was changed last.
    pub update_time: DateTime<Utc>,
    /// Counts the changes.
    pub version: i64,
}

/// An entitlement and what is left of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    /// Its row.
    pub entitlement: Entitlement,
    /// What the direct children of a service provider leave of it; all of it for others.
    pub remaining: i64,
}

impl Entitlement {
    /// How much of it can be given to children at a time.
    fn available(&self, now: DateTime<Utc>) -> i64 {
        let is_over = self.end_time.is_some_and(|end| end <= now);
        if self.status == EntitlementStatus::Active && !is_over { self.quantity } else { 0 }
    }

    /// How much of its provider's it takes.
    fn taken(&self) -> i64 {
        if self.status == EntitlementStatus::Active { self.quantity } else { 0 }
    }

    fn bundles(&self) -> impl Iterator<Item = &str> {
        self.service_bundles.iter().flatten().map(String::as_str)
    }
}

/// What a caller says of an entitlement.
#[derive(Clone, Debug)]
pub struct NewEntitlement {
    entitlement_type: EntitlementType,
    status: EntitlementStatus,
    quantity: i64,
    contract_mode: ContractMode,
    contract_number: String,
    start_time: Option<DateTime<Utc>>,
    end_time: Option<DateTime<Utc>>,
    service_bundles: Option<Vec<String>>,
    etag: String,
}

impl NewEntitlement {
    /// Reads an entitlement that a request has as its field `entitlement`; nothing where something is
    /// wrong with it.
    pub fn read(pb: &pb::Entitlement, etag: &str, fields: &mut Fields) -> Option<Self> {
        let entitlement_type = fields.take("entitlement.type", read_type(pb.r#type));
        let status = fields.take("entitlement.status", read_status(pb.status));
        let quantity = match pb.quantity {
            None => Err("is required".to_owned()),
            Some(quantity) if quantity < 0 => Err("is negative".to_owned()),
            Some(quantity) => Ok(quantity),
        };
        let quantity = fields.take("entitlement.quantity", quantity);
        let contract_mode = fields.take("entitlement.contract_mode", read_mode(pb.contract_mode));
        let contract_number = text(&pb.contract_number, 0, CONTRACT_NUMBER_MAX);
        let contract_number = fields.take("entitlement.contract_number", contract_number);
        let start_time = pb.start_time.as_ref().map(time).transpose();
        let start_time = fields.take("entitlement.start_time", start_time);
        let end_time = pb.end_time.as_ref().map(time).transpose();
        let end_time = fields.take("entitlement.end_time", end_time);
        let bundles = pb.issuance.as_ref().map(|issuance| read_bundles(&issuance.service_bundles));
        let bundles = fields.take("entitlement.issuance.service_bundles", bundles.transpose());
        let etag = if etag.is_empty() { &pb.etag } else { etag };
        Some(Self {
            entitlement_type: entitlement_type?,
            status: status?,
            quantity: quantity?,
            contract_mode: contract_mode?,
            contract_number: contract_number?,
            start_time: start_time?,
            end_time: end_time?,
            service_bundles: bundles?,
            etag: etag.to_owned(),
        })
    }
}

impl NewEntitlement {
    /// Under which kind of contract it is to be.
    pub fn contract_mode(&self) -> ContractMode {
        self.contract_mode
    }
}

impl TryFrom<&pb::SetEntitlementRequest> for NewEntitlement {
    type Error = Error;

    fn try_from(request: &pb::SetEntitlementRequest) -> Result<Self> {
        let pb =
            request.entitlement.as_ref().ok_or(Error::invalid("entitlement", "is required"))?;
        let mut fields = Fields::default();
        fields.take("request_id", request_id(&request.request_id));
        let new = Self::read(pb, &request.etag, &mut fields);
        fields.finish()?;
        new.ok_or_else(|| Error::internal("a field was refused without a violation"))
    }
}

fn read_type(value: i32) -> Result<EntitlementType, String> {
    match pb::EntitlementType::try_from(value) {
        Ok(pb::EntitlementType::Users) => Ok(EntitlementType::Users),
        Ok(pb::EntitlementType::Transactions) => Ok(EntitlementType::Transactions),
        Ok(pb::EntitlementType::Unspecified) | Err(_) => {
            Err("is required: ENTITLEMENT_TYPE_USERS or ENTITLEMENT_TYPE_TRANSACTIONS".to_owned())
        }
    }
}

fn read_status(value: i32) -> Result<EntitlementStatus, String> {
    match pb::EntitlementStatus::try_from(value) {
        Ok(pb::EntitlementStatus::Unspecified | pb::EntitlementStatus::Active) => {
            Ok(EntitlementStatus::Active)
        }
        Ok(pb::EntitlementStatus::Inactive) => Ok(EntitlementStatus::Inactive),
        Ok(pb::EntitlementStatus::Terminated) => Ok(EntitlementStatus::Terminated),
        Err(_) => Err("is ENTITLEMENT_STATUS_ and ACTIVE, INACTIVE or TERMINATED".to_owned()),
    }
}

fn read_mode(value: i32) -> Result<ContractMode, String> {
    match pb::ContractMode::try_from(value) {
        Ok(pb::ContractMode::Production) => Ok(ContractMode::Production),
        Ok(pb::ContractMode::Trial) => Ok(ContractMode::Trial),
        Ok(pb::ContractMode::Unspecified) | Err(_) => {
            Err("is required: CONTRACT_MODE_TRIAL or CONTRACT_MODE_PRODUCTION".to_owned())
        }
    }
}

fn read_bundles(bundles: &[String]) -> Result<Vec<String>, String> {
    if bundles.len() > BUNDLES_MAX {
        return Err(format!("are {}, of which at most {BUNDLES_MAX} are allowed", bundles.len()));
    }
    let mut read =
        bundles.iter().map(|bundle| text(bundle, 1, BUNDLE_MAX)).collect::<Result<Vec<_>, _>>()?;
    read.sort();
    read.dedup();
    Ok(read)
}

/// Sets the entitlement of a tenant to what the caller says, whether or not it has one of the type
/// already. The tenant and the one above it are held already, so that neither is deleted meanwhile.
///
/// # Errors
///
/// The rule it breaks: `ENTITLEMENT_EXCEEDED` where the provider has not that much left, or has given
/// out more than the new quantity; `CONTRACT_MODE_NOT_ALLOWED`; `ISSUANCE_BUNDLE_INVALID`; a time that
/// is not within the provider's.
pub async fn set(change: &mut Change<'_>, tenant: &Tenant, new: &NewEntitlement) -> Result<Held> {
    let provider = provider_of(change, tenant).await?;
    // The provider's before the tenant's own: locks go from the root to the leaves.
    let source = match &provider {
        Some(provider) => hold(change, provider.uid, new.entitlement_type).await?,
        None => None,
    };
    let before = hold(change, tenant.uid, new.entitlement_type).await?;
    let version = before.as_ref().map_or(0, |before| before.version);
    check_etag(&new.etag, version, Kind::Entitlement, &tenant.tenant_id)?;

    let now = change.now;
    let stored_start = before.as_ref().map(|before| before.start_time);
    let mut after = Entitlement {
        tenant_uid: tenant.uid,
        entitlement_type: new.entitlement_type,
        entitlement_id: before.as_ref().map_or_else(|| change.uuid(), |it| it.entitlement_id),
        status: new.status,
        quantity: new.quantity,
        contract_mode: new.contract_mode,
        contract_number: new.contract_number.clone(),
        start_time: new.start_time.or(stored_start).unwrap_or(now),
        end_time: new.end_time.or_else(|| source.as_ref().and_then(|source| source.end_time)),
        service_bundles: new.service_bundles.iter().flatten().cloned().map(Some).collect(),
        create_time: before.as_ref().map_or(now, |before| before.create_time),
        update_time: before.as_ref().map_or(now, |before| before.update_time),
        version,
    };
    check_fields(tenant, provider.is_some(), source.as_ref(), &after, now)?;
    if let (Some(provider), Some(source)) = (&provider, &source) {
        check_contract(provider, source, tenant, &after)?;
    }
    if let Some(provider) = &provider
        && after.taken() > before.as_ref().map_or(0, Entitlement::taken)
    {
        let given =
            given_out(change.conn(), provider.uid, after.entitlement_type, tenant.uid).await?;
        let has = source.as_ref().map_or(0, |source| source.available(now));
        check_quota(provider, after.entitlement_type, has, given, after.quantity)?;
    }
    let given = match tenant.organization_kind {
        OrganizationKind::ServiceProvider => {
            let field = "entitlement.issuance.service_bundles";
            check_children(change.conn(), tenant, after.entitlement_type, Some(&after), field)
                .await?
        }
        OrganizationKind::Enterprise => 0,
    };
    check_quota(tenant, after.entitlement_type, after.quantity, given, 0)?;

    let remaining = after.quantity - given;
    if before.as_ref() == Some(&after) {
        return Ok(Held { entitlement: after, remaining });
    }
    after.update_time = now;
    after.version += 1;
    diesel::insert_into(tenant_entitlements::table)
        .values(&after)
        .on_conflict((tenant_entitlements::tenant_uid, tenant_entitlements::type_))
        .do_update()
        .set(&after)
        .execute(change.conn())
        .await?;
    let before = before.map(|entitlement| {
        let remaining = (entitlement.quantity - given).max(0);
        Held { entitlement, remaining }
    });
    let after = Held { entitlement: after, remaining };
    tell(change, tenant, before, &after).await?;
    Ok(after)
}

/// Checks once more what a tenant holds of its provider, before it counts there: it comes back, or from
/// elsewhere. `field` is what of the request led there.
///
/// # Errors
///
/// `ENTITLEMENT_EXCEEDED` where the provider has not that much left, `CONTRACT_MODE_NOT_ALLOWED` and
/// `ISSUANCE_BUNDLE_INVALID` where it does not give such.
pub async fn check_again(change: &mut Change<'_>, tenant: &Tenant, field: &str) -> Result<()> {
    let Some(provider) = provider_of(change, tenant).await? else {
        return Ok(());
    };
    for entitlement_type in TYPES {
        let source = hold(change, provider.uid, entitlement_type).await?;
        let Some(own) = hold(change, tenant.uid, entitlement_type).await? else { continue };
        if own.taken() == 0 {
            continue;
        }
        let given = given_out(change.conn(), provider.uid, entitlement_type, tenant.uid).await?;
        let has = source.as_ref().map_or(0, |source| source.available(change.now));
        check_quota(&provider, entitlement_type, has, given, own.quantity)?;
        if let Some(source) = &source {
            check_contract(&provider, source, tenant, &own)?;
            check_bundle(source, tenant, &own, field)?;
        }
    }
    Ok(())
}

/// Checks that a tenant that becomes a service provider has what those below it hold already: from now
/// on they hold it of its own (3-08).
///
/// # Errors
///
/// As [`check_again`], for any of them.
pub async fn check_provider(change: &mut Change<'_>, provider: &Tenant) -> Result<()> {
    for entitlement_type in TYPES {
        let own = hold(change, provider.uid, entitlement_type).await?;
        let given =
            check_children(change.conn(), provider, entitlement_type, own.as_ref(), "tenant_id")
                .await?;
        let has = own.map_or(0, |own| own.available(change.now));
        check_quota(provider, entitlement_type, has, given, 0)?;
    }
    Ok(())
}

/// Checks what the direct children of a provider hold against what it has, or would have; answers how
/// much that is together.
async fn check_children(
    conn: &mut AsyncPgConnection,
    provider: &Tenant,
    entitlement_type: EntitlementType,
    source: Option<&Entitlement>,
    field: &str,
) -> Result<i64> {
    let held: Vec<(Tenant, Entitlement)> = tenants::table
        .inner_join(tenant_entitlements::table.on(tenant_entitlements::tenant_uid.eq(tenants::uid)))
        .filter(tenants::parent_uid.eq(provider.uid))
        .filter(tenants::state.ne(TenantState::Deleted))
        .filter(tenant_entitlements::type_.eq(entitlement_type))
        .filter(tenant_entitlements::status.eq(EntitlementStatus::Active))
        .select((Tenant::as_select(), Entitlement::as_select()))
        .load(conn)
        .await?;
    for (child, held) in held.iter().filter(|(_, held)| held.taken() > 0) {
        if let Some(source) = source {
            check_contract(provider, source, child, held)?;
            check_bundle(source, child, held, field)?;
        }
    }
    Ok(held.iter().fold(0, |sum, (_, held)| sum.saturating_add(held.quantity)))
}

/// The service provider directly above a tenant, from which it takes.
async fn provider_of(change: &mut Change<'_>, tenant: &Tenant) -> Result<Option<Tenant>> {
    let Some(parent_uid) = tenant.parent_uid else {
        return Ok(None);
    };
    let scope = &change.call.scope;
    let parent = store::by_uid(change.conn(), scope, parent_uid).await?;
    // Who may write here reaches above the tenant. Were the parent hidden, so would be its limits.
    let parent = parent.ok_or_else(|| Error::internal("the tenant above is out of reach"))?;
    Ok((parent.organization_kind == OrganizationKind::ServiceProvider).then_some(parent))
}

/// Finds an entitlement and keeps others from changing it, and from taking from it, until the
/// transaction ends.
async fn hold(
    change: &mut Change<'_>,
    tenant_uid: Uuid,
    entitlement_type: EntitlementType,
) -> Result<Option<Entitlement>> {
    Ok(tenant_entitlements::table
        .find((tenant_uid, entitlement_type))
        .select(Entitlement::as_select())
        .for_update()
        .get_result(change.conn())
        .await
        .optional()?)
}

/// What the direct children of a provider hold together, one of them left out.
async fn given_out(
    conn: &mut AsyncPgConnection,
    provider_uid: Uuid,
    entitlement_type: EntitlementType,
    but: Uuid,
) -> Result<i64> {
    let children = tenants::table
        .filter(tenants::parent_uid.eq(provider_uid))
        .filter(tenants::state.ne(TenantState::Deleted))
        .select(tenants::uid);
    let held: Vec<i64> = tenant_entitlements::table
        .filter(tenant_entitlements::type_.eq(entitlement_type))
        .filter(tenant_entitlements::status.eq(EntitlementStatus::Active))
        .filter(tenant_entitlements::tenant_uid.ne(but))
        .filter(tenant_entitlements::tenant_uid.eq_any(children))
        .select(tenant_entitlements::quantity)
        .load(conn)
        .await?;
    Ok(held.into_iter().fold(0, i64::saturating_add))
}

/// Checks that what is given out and what is asked for are within what a provider has.
fn check_quota(
    provider: &Tenant,
    entitlement_type: EntitlementType,
    has: i64,
    given: i64,
    asked: i64,
) -> Result<()> {
    let needed = given.saturating_add(asked);
    if needed <= has {
        return Ok(());
    }
    let (id, what) = (&provider.tenant_id, entitlement_type.as_str());
    Err(Error::LimitReached {
        reason: ErrorReason::EntitlementExceeded,
        kind: Kind::Tenant,
        id: id.clone(),
        message: format!(
            "the service provider \"{id}\" would have {has} {what}, of which {needed} would be given \
             out: lower what its children hold, or raise what it has"
        ),
    })
}

/// Checks that a provider on trial gives trials only (3-07).
fn check_contract(
    provider: &Tenant,
    source: &Entitlement,
    tenant: &Tenant,
    held: &Entitlement,
) -> Result<()> {
    if source.contract_mode == ContractMode::Production || held.contract_mode == ContractMode::Trial
    {
        return Ok(());
    }
    Err(Error::WrongState {
        reason: ErrorReason::ContractModeNotAllowed,
        kind: Kind::Tenant,
        id: tenant.tenant_id.clone(),
        message: format!(
            "the entitlement of the service provider \"{}\" is a TRIAL: it gives TRIAL entitlements \
             only, and \"{}\" has or is to have one that is PRODUCTION",
            provider.tenant_id, tenant.tenant_id
        ),
    })
}

/// Checks that what a tenant issues is what its provider may (3-09).
fn check_bundle(
    source: &Entitlement,
    tenant: &Tenant,
    held: &Entitlement,
    field: &str,
) -> Result<()> {
    if tenant.service_line != ServiceLine::Issuance {
        return Ok(());
    }
    let bundles = held.bundles().collect::<Vec<_>>();
    let gives = |bundle: &str| source.bundles().any(|given| given == bundle);
    if matches!(bundles[..], [one] if gives(one)) {
        return Ok(());
    }
    let why = format!(
        "\"{}\" has {bundles:?}, which is not exactly one of what its service provider may issue: \
         change one of the two entitlements first",
        tenant.tenant_id
    );
    Err(Error::Invalid(vec![Violation::of(ErrorReason::IssuanceBundleInvalid, field, why)]))
}

/// Checks what can be told from the entitlement and that of the provider.
fn check_fields(
    tenant: &Tenant,
    is_below_provider: bool,
    source: Option<&Entitlement>,
    after: &Entitlement,
    now: DateTime<Utc>,
) -> Result<()> {
    let mut violations = Vec::new();
    let mut refuse = |reason: ErrorReason, field: &str, why: String| {
        violations.push(Violation::of(reason, format!("entitlement.{field}"), why));
    };
    if after.start_time > now {
        refuse(ErrorReason::InvalidField, "start_time", "is in the future".to_owned());
    }
    if let Some(end) = after.end_time {
        if end <= after.start_time {
            let why = "is not after the start_time".to_owned();
            refuse(ErrorReason::InvalidField, "end_time", why);
        } else if let Some(limit) = source.and_then(|source| source.end_time)
            && end > limit
        {
            let why = format!("is after that of the service provider, {limit:?}");
            refuse(ErrorReason::InvalidField, "end_time", why);
        }
    }
    if tenant.service_line == ServiceLine::Issuance {
        let bundles = after.bundles().collect::<Vec<_>>();
        let gives = |bundle: &str| {
            source.is_some_and(|source| source.bundles().any(|given| given == bundle))
        };
        let why = match bundles[..] {
            [] => Some("is required for a tenant with the service line ISSUANCE"),
            [one] if is_below_provider && !gives(one) => Some("is none of the service provider's"),
            [_, _, ..] if is_below_provider => {
                Some("is to be exactly one below a service provider")
            }
            _ => None,
        };
        if let Some(why) = why {
            let field = "issuance.service_bundles";
            refuse(ErrorReason::IssuanceBundleInvalid, field, why.to_owned());
        }
    }
    if violations.is_empty() { Ok(()) } else { Err(Error::Invalid(violations)) }
}

async fn tell(
    change: &mut Change<'_>,
    tenant: &Tenant,
    before: Option<Held>,
    after: &Held,
) -> Result<()> {
    let json = |held: Held| json_of(&pb::Entitlement::from(held));
    let kind = if before.is_some() { "entitlement.updated" } else { "entitlement.created" };
    change
        .record(Event {
            kind,
            account_id: Some(&tenant.account_id),
            tenant: Some((tenant.uid, &tenant.tenant_id)),
            resource_type: "entitlement",
            resource_id: &after.entitlement.entitlement_id.to_string(),
            before: before.map(json),
            after: Some(json(after.clone())),
        })
        .await
}

/// Finds the tenant of a call and holds it and the one above it, for [`set`].
///
/// # Errors
///
/// Not found within the scope, deleted already, or what the database reports.
pub async fn hold_tenant(change: &mut Change<'_>, tenant: &TenantOfCall) -> Result<Tenant> {
    let scope = &change.call.scope;
    let found = store::find(change.conn(), scope, &tenant.tenant_id).await?;
    if let Some(parent) = found.parent_uid {
        store::hold_state(change.conn(), parent).await?;
    }
    let held = store::find_for_update(change.conn(), scope, &tenant.tenant_id).await?;
    store::refuse_deleted(&held.tenant_id, held.state)?;
    Ok(held)
}

/// The same call with the reach that the answer to a provider's own key is made with: what is left of
/// its entitlement depends on tenants that it does not see itself.
pub fn seeing_children(call: Arc<Call>) -> Arc<Call> {
    match call.scope {
        Scope::Tenant(uid) => call.within(Scope::Provider(uid)),
        _ => call,
    }
}

const FIELDS: &[Field] = &[
    Field {
        name: "type",
        kind: FieldKind::Choice { prefix: "ENTITLEMENT_TYPE_", words: EntitlementType::TEXTS },
    },
    Field {
        name: "status",
        kind: FieldKind::Choice { prefix: "ENTITLEMENT_STATUS_", words: EntitlementStatus::TEXTS },
    },
];

/// A list of entitlements that was asked for.
pub struct Query(Listing);

impl Query {
    /// Reads a request.
    ///
    /// # Errors
    ///
    /// What is wrong with its filter, order or page.
    pub fn read(call: &Call, request: &pb::ListEntitlementsRequest) -> Result<Self> {
        let pb::ListEntitlementsRequest { page_size, page_token, filter, order_by } = request;
        let asked = Asked { page_size: *page_size, page_token, filter, order_by, more: "" };
        Listing::read(call, asked, FIELDS, &["type"]).map(Self)
    }

    /// Reads the page; answers its entitlements and the token of the next one.
    ///
    /// # Errors
    ///
    /// What the database reports.
    pub async fn run(
        &self,
        conn: &mut AsyncPgConnection,
        tenant: &TenantOfCall,
    ) -> Result<(Vec<Held>, String)> {
        let Listing { page, terms, order } = &self.0;
        let mut query = tenant_entitlements::table
            .filter(tenant_entitlements::tenant_uid.eq(tenant.uid))
            .into_boxed::<Pg>();
        for term in terms {
            let condition: Condition<tenant_entitlements::table> = match (term.field, &term.test) {
                ("type", Test::Choice(word)) => Box::new(tenant_entitlements::type_.eq(*word)),
                ("status", Test::Choice(word)) => Box::new(tenant_entitlements::status.eq(*word)),
                (field, _) => {
                    return Err(no_condition(field));
                }
            };
            query =
                if term.negated { query.filter(not(condition)) } else { query.filter(condition) };
        }
        let behind = |place: &Place| tenant_entitlements::type_.gt(place.id.clone());
        let after = page.after.as_ref().map(|place| (place.value.clone(), behind(place)));
        let query = seek!(query, tenant_entitlements::type_, after, order.descending);
        let mut found: Vec<Entitlement> =
            query.limit(page.limit()).select(Entitlement::as_select()).load(conn).await?;
        let token = page.finish(&mut found, |row| {
            let value = row.entitlement_type.as_str().to_owned();
            Place { id: value.clone(), value }
        });

        let kind: OrganizationKind = tenants::table
            .find(tenant.uid)
            .select(tenants::organization_kind)
            .get_result(conn)
            .await?;
        let mut held = Vec::new();
        for entitlement in found {
            let given = match kind {
                OrganizationKind::ServiceProvider => {
                    given_out(conn, tenant.uid, entitlement.entitlement_type, tenant.uid).await?
                }
                OrganizationKind::Enterprise => 0,
            };
            let remaining = (entitlement.quantity - given).max(0);
            held.push(Held { entitlement, remaining });
        }
        Ok((held, token))
    }
}

impl From<Held> for pb::Entitlement {
    fn from(Held { entitlement, remaining }: Held) -> Self {
        let Entitlement {
            tenant_uid: _,
            entitlement_type,
            entitlement_id,
            status,
            quantity,
            contract_mode,
            contract_number,
            start_time,
            end_time,
            service_bundles,
            create_time,
            update_time,
            version,
        } = entitlement;
        let r#type = match entitlement_type {
            EntitlementType::Users => pb::EntitlementType::Users,
            EntitlementType::Transactions => pb::EntitlementType::Transactions,
        };
        let status = match status {
            EntitlementStatus::Active => pb::EntitlementStatus::Active,
            EntitlementStatus::Inactive => pb::EntitlementStatus::Inactive,
            EntitlementStatus::Terminated => pb::EntitlementStatus::Terminated,
        };
        let service_bundles = service_bundles.into_iter().flatten().collect::<Vec<_>>();
        Self {
            entitlement_id: entitlement_id.to_string(),
            r#type: r#type.into(),
            status: status.into(),
            quantity: Some(quantity),
            remaining,
            contract_mode: pb::ContractMode::from(contract_mode).into(),
            contract_number,
            start_time: Some(timestamp(start_time)),
            end_time: end_time.map(timestamp),
            issuance: Some(pb::Issuance { service_bundles })
                .filter(|issuance| !issuance.service_bundles.is_empty()),
            create_time: Some(timestamp(create_time)),
            update_time: Some(timestamp(update_time)),
            etag: etag(version),
        }
    }
}
