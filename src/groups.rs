//! Groups: parts of a tenant, such as its sites, each with users of its own (2-32).

use chrono::{DateTime, Utc};
use diesel::{
    dsl::{Filter, not},
    pg::Pg,
    prelude::*,
    result::{DatabaseErrorKind, Error as DieselError},
};
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use uuid::Uuid;

use crate::{
    db::Scope,
    error::{Error, Kind, Result},
    events::outbox::Event,
    filter::{self, Condition, Field, FieldKind, Test},
    listing::{Listing, no_condition},
    mask::masked,
    page::{Asked, Place},
    pb::{self, ErrorReason},
    rpc::{
        Call, TenantOfCall,
        mutate::{Change, check_etag, etag},
        permit::json_of,
    },
    schema::tenant_groups,
    seek,
    tenants::{
        model::{Address, Contact, generated_id_of},
        store,
        wire::{read_address, read_contact, read_phone_number},
    },
    wire::{Fields, dns_name, id, reference, request_id, text, timestamp},
};

const NAME_MAX: usize = 80;
const DOMAIN_MAX: usize = 80;
const DIALING_CODE_MAX: usize = 10;

/// A group of users within a tenant.
#[derive(Clone, Debug, PartialEq, Eq, HasQuery, Insertable, AsChangeset)]
#[diesel(table_name = tenant_groups, primary_key(tenant_uid, group_id))]
#[diesel(treat_none_as_null = true, check_for_backend(Pg))]
pub struct Group {
    /// The tenant that it belongs to.
    pub tenant_uid: Uuid,
    /// Given or generated, immutable.
    pub group_id: String,
    /// Display name, unique within the tenant.
    pub name: String,
    /// How many users it may have; none: no limit.
    pub user_limit: Option<i32>,
    /// How many users it has.
    pub user_count: i32,
    /// A domain of the directory.
    pub default_domain: Option<String>,
    /// The name that is shown to whom it calls.
    pub cli_name: String,
    /// The number that is shown to whom it calls.
    pub cli_phone_number: String,
    /// What is dialled before local numbers.
    pub location_dialing_code: String,
    /// A name of the IANA time zone database, or empty.
    pub time_zone: String,
    /// Whom to talk to: the person or desk.
    pub contact_name: String,
    /// Whom to talk to: the number.
    pub contact_phone_number: String,
    /// Whom to talk to: the e-mail address.
    pub contact_email: String,
    /// Where it is: the first line.
    pub address_street_address: String,
    /// Where it is: the second line.
    pub address_extended_address: String,
    /// Where it is: the town.
    pub address_locality: String,
    /// Where it is: the state or province.
    pub address_region: String,
    /// Where it is: the post code.
    pub address_post_code: String,
    /// Where it is: the name of the country.
    pub address_country: String,
    /// The reseller it belongs to.
    pub reseller_id: Option<String>,
    /// The account of that reseller, which is the account of the tenant.
    pub reseller_account_id: Option<String>,
    /// When it was created.
    pub create_time: DateTime<Utc>,
    /// When it was changed last.
    pub update_time: DateTime<Utc>,
    /// Counts the changes.
    pub version: i64,
}

impl Group {
    /// A group of which nothing but its name is known.
    fn blank(tenant_uid: Uuid, group_id: String, now: DateTime<Utc>) -> Self {
        Self {
            tenant_uid,
            group_id,
            name: String::new(),
            user_limit: None,
            user_count: 0,
            default_domain: None,
            cli_name: String::new(),
            cli_phone_number: String::new(),
            location_dialing_code: String::new(),
            time_zone: String::new(),
            contact_name: String::new(),
            contact_phone_number: String::new(),
            contact_email: String::new(),
            address_street_address: String::new(),
            address_extended_address: String::new(),
            address_locality: String::new(),
            address_region: String::new(),
            address_post_code: String::new(),
            address_country: String::new(),
            reseller_id: None,
            reseller_account_id: None,
            create_time: now,
            update_time: now,
            version: 1,
        }
    }
}

impl Group {
    /// Makes its reseller one of the account of its tenant; the table has no others.
    fn bind_reseller(&mut self, tenant: &TenantOfCall) {
        self.reseller_account_id = self.reseller_id.as_ref().map(|_| tenant.account_id.clone());
    }
}

/// The groups of a tenant within a scope: of a reseller, its own alone (2-30).
fn groups_in(
    scope: &Scope,
    tenant_uid: Uuid,
) -> Filter<tenant_groups::table, Condition<tenant_groups::table>> {
    let of_tenant = tenant_groups::tenant_uid.eq(tenant_uid);
    let within: Condition<tenant_groups::table> = match scope.clone() {
        Scope::Reseller { reseller, .. } => {
            Box::new(of_tenant.and(tenant_groups::reseller_id.is_not_distinct_from(Some(reseller))))
        }
        _ => Box::new(of_tenant),
    };
    QueryDsl::filter(tenant_groups::table, within)
}

/// Finds a group of a tenant.
///
/// # Errors
///
/// Not found within the scope, or what the database reports.
pub async fn find(
    conn: &mut AsyncPgConnection,
    scope: &Scope,
    tenant: &TenantOfCall,
    group_id: &str,
) -> Result<Group> {
    groups_in(scope, tenant.uid)
        .filter(tenant_groups::group_id.eq(group_id))
        .select(Group::as_select())
        .get_result(conn)
        .await
        .optional()?
        .ok_or_else(|| Error::not_found(Kind::Group, group_id))
}

/// Finds a group and keeps others from changing it until the transaction ends.
async fn hold(change: &mut Change<'_>, tenant: &TenantOfCall, group_id: &str) -> Result<Group> {
    groups_in(&change.call.scope, tenant.uid)
        .filter(tenant_groups::group_id.eq(group_id))
        .select(Group::as_select())
        .for_update()
        .get_result(change.conn())
        .await
        .optional()?
        .ok_or_else(|| Error::not_found(Kind::Group, group_id))
}

/// What a caller says of a group: a new one, or what is to change of one.
pub struct Patch {
    group_id: Option<String>,
    etag: String,
    named: Vec<&'static str>,
    parts: Parts,
}

/// The fields that a caller may set. Absent ones are empty.
struct Parts {
    name: String,
    user_limit: Option<i32>,
    user_count: i32,
    default_domain: Option<String>,
    cli_name: String,
    cli_phone_number: String,
    location_dialing_code: String,
    time_zone: String,
    contact: Contact,
    address: Address,
    reseller_id: Option<String>,
}

/// Reads what is said of a new group.
///
/// # Errors
///
/// Everything that is wrong with it.
pub fn read_new(request: &pb::CreateGroupRequest) -> Result<Patch> {
    let pb = request.group.as_ref().ok_or(Error::invalid("group", "is required"))?;
    let named = present(pb).iter().map(|(name, _)| *name).collect::<Vec<_>>();
    let mut fields = Fields::default();
    fields.take("request_id", request_id(&request.request_id));
    let group_id = fields.take("group.group_id", optional_id(&pb.group_id));
    let parts = Parts::read(pb, &named, &mut fields);
    fields.finish()?;
    let (Some(group_id), Some(parts)) = (group_id, parts) else {
        return Err(Error::internal("a field was refused without a violation"));
    };
    Ok(Patch { group_id, etag: String::new(), named, parts })
}

impl Patch {
    /// Reads what is to change of a group.
    ///
    /// # Errors
    ///
    /// Everything that is wrong with it.
    pub fn read(request: &pb::UpdateGroupRequest) -> Result<Self> {
        let pb = request.group.as_ref().ok_or(Error::invalid("group", "is required"))?;
        let named = masked(request.update_mask.as_ref(), &present(pb), FIXED)?;
        let mut fields = Fields::default();
        let parts = Parts::read(pb, &named, &mut fields);
        fields.finish()?;
        let parts = parts.ok_or_else(|| Error::internal("refused without a violation"))?;
        let group_id = Some(reference("group.group_id", &pb.group_id)?.to_owned());
        let etag = if request.etag.is_empty() { &pb.etag } else { &request.etag };
        Ok(Self { group_id, etag: etag.clone(), named, parts })
    }

    /// Changes a group as the patch says.
    fn apply(&self, group: &mut Group) -> Result<()> {
        for path in &self.named {
            self.parts.apply(path, group);
        }
        if let Some(limit) = group.user_limit.filter(|limit| *limit < group.user_count) {
            let (field, why) = if self.named.contains(&"user_count") {
                ("group.user_count", format!("is more than the user_limit, {limit}"))
            } else {
                let count = group.user_count;
                ("group.user_limit", format!("is less than the user_count, {count}"))
            };
            return Err(Error::invalid(field, why));
        }
        Ok(())
    }
}

fn optional_id(value: &str) -> Result<Option<String>, String> {
    if value.is_empty() { Ok(None) } else { id(value).map(Some) }
}

/// What can be said of a group, and whether it is.
fn present(pb: &pb::Group) -> [(&'static str, bool); 20] {
    let contact = pb.contact.clone().unwrap_or_default();
    let address = pb.address.clone().unwrap_or_default();
    [
        ("name", pb.name.is_some()),
        ("user_limit", pb.user_limit.is_some()),
        ("user_count", pb.user_count.is_some()),
        ("default_domain", pb.default_domain.is_some()),
        ("cli_name", pb.cli_name.is_some()),
        ("cli_phone_number", pb.cli_phone_number.is_some()),
        ("location_dialing_code", pb.location_dialing_code.is_some()),
        ("time_zone", pb.time_zone.is_some()),
        // With an empty mask, the parts that are not empty are named one by one.
        ("contact", false),
        ("contact.name", !contact.name.is_empty()),
        ("contact.phone_number", !contact.phone_number.is_empty()),
        ("contact.email", !contact.email.is_empty()),
        ("address", false),
        ("address.street_address", !address.street_address.is_empty()),
        ("address.extended_address", !address.extended_address.is_empty()),
        ("address.locality", !address.locality.is_empty()),
        ("address.region", !address.region.is_empty()),
        ("address.post_code", !address.post_code.is_empty()),
        ("address.country", !address.country.is_empty()),
        ("reseller_id", pb.reseller_id.is_some()),
    ]
}

const FIXED: &[&str] = &["group_id", "create_time", "update_time", "etag"];

impl Parts {
    /// Reads the fields that are named; the others count as absent, and are not checked.
    fn read(pb: &pb::Group, named: &[&str], fields: &mut Fields) -> Option<Self> {
        let is_named = |field: &str| {
            named.iter().any(|path| path.split('.').next().is_some_and(|head| head == field))
        };
        let of = |field: &str, value: &Option<String>| {
            value.clone().filter(|_| is_named(field)).unwrap_or_default()
        };
        let number = |field: &str, value: Option<i32>| match value.filter(|_| is_named(field)) {
            Some(value) if value < 0 => Err("is negative".to_owned()),
            value => Ok(value),
        };
        let least = usize::from(is_named("name"));
        let name = fields.take("group.name", text(&of("name", &pb.name), least, NAME_MAX));
        let user_limit = fields.take("group.user_limit", number("user_limit", pb.user_limit));
        let user_count = fields.take("group.user_count", number("user_count", pb.user_count));
        let domain = of("default_domain", &pb.default_domain);
        let default_domain = fields.take("group.default_domain", dns_name(&domain, DOMAIN_MAX));
        let cli_name =
            fields.take("group.cli_name", text(&of("cli_name", &pb.cli_name), 0, NAME_MAX));
        let cli_number = of("cli_phone_number", &pb.cli_phone_number);
        let cli_phone_number =
            fields.take("group.cli_phone_number", read_phone_number(&cli_number));
        let code = of("location_dialing_code", &pb.location_dialing_code);
        let location_dialing_code =
            fields.take("group.location_dialing_code", read_dialing_code(&code));
        let zone = of("time_zone", &pb.time_zone);
        let time_zone = fields.take("group.time_zone", read_time_zone(&zone));
        let contact = pb.contact.clone().filter(|_| is_named("contact")).unwrap_or_default();
        let contact = read_contact("group.contact", &contact, fields);
        let address = pb.address.clone().filter(|_| is_named("address")).unwrap_or_default();
        let address = read_address("group.address", &address, fields);
        let reseller = of("reseller_id", &pb.reseller_id);
        let reseller_id = fields.take("group.reseller_id", optional_id(&reseller));
        Some(Self {
            name: name?,
            user_limit: user_limit?,
            user_count: user_count?.unwrap_or_default(),
            default_domain: default_domain?,
            cli_name: cli_name?,
            cli_phone_number: cli_phone_number?,
            location_dialing_code: location_dialing_code?,
            time_zone: time_zone?,
            contact: contact?,
            address: address?,
            reseller_id: reseller_id?,
        })
    }

    fn apply(&self, path: &str, group: &mut Group) {
        let Self { contact, address, .. } = self;
        let of = |prefix: &str| path == prefix || !path.contains('.');
        match path {
            "name" => group.name.clone_from(&self.name),
            "user_limit" => group.user_limit = self.user_limit,
            "user_count" => group.user_count = self.user_count,
            "default_domain" => group.default_domain.clone_from(&self.default_domain),
            "cli_name" => group.cli_name.clone_from(&self.cli_name),
            "cli_phone_number" => group.cli_phone_number.clone_from(&self.cli_phone_number),
            "location_dialing_code" => {
                group.location_dialing_code.clone_from(&self.location_dialing_code);
            }
            "time_zone" => group.time_zone.clone_from(&self.time_zone),
            "reseller_id" => group.reseller_id.clone_from(&self.reseller_id),
            _ if path.starts_with("contact") => {
                if of("contact.name") {
                    group.contact_name.clone_from(&contact.name);
                }
                if of("contact.phone_number") {
                    group.contact_phone_number.clone_from(&contact.phone_number);
                }
                if of("contact.email") {
                    group.contact_email.clone_from(&contact.email);
                }
            }
            _ => {
                if of("address.street_address") {
                    group.address_street_address.clone_from(&address.street_address);
                }
                if of("address.extended_address") {
                    group.address_extended_address.clone_from(&address.extended_address);
                }
                if of("address.locality") {
                    group.address_locality.clone_from(&address.locality);
                }
                if of("address.region") {
                    group.address_region.clone_from(&address.region);
                }
                if of("address.post_code") {
                    group.address_post_code.clone_from(&address.post_code);
                }
                if of("address.country") {
                    group.address_country.clone_from(&address.country);
                }
            }
        }
    }
}

fn read_dialing_code(value: &str) -> Result<String, String> {
    let code = text(value, 0, DIALING_CODE_MAX + 1)?;
    let digits = code.strip_prefix('+').unwrap_or(&code);
    if digits.len() <= DIALING_CODE_MAX
        && digits.bytes().all(|byte| byte.is_ascii_digit())
        && (code.is_empty() || !digits.is_empty())
    {
        Ok(code)
    } else {
        Err(format!("is not of up to {DIALING_CODE_MAX} digits, possibly after \"+\""))
    }
}

fn read_time_zone(value: &str) -> Result<String, String> {
    if value.is_empty() || value.parse::<chrono_tz::Tz>().is_ok() {
        Ok(value.to_owned())
    } else {
        Err("is not a name of the IANA time zone database such as Europe/Brussels".to_owned())
    }
}

/// Creates a group in a tenant.
///
/// # Errors
///
/// When the tenant is deleted, the id or the name is taken, or the domain does not exist.
pub async fn create(change: &mut Change<'_>, tenant: &TenantOfCall, new: &Patch) -> Result<Group> {
    let group_id = new.group_id.clone().unwrap_or_else(|| generated_id_of("g"));
    let mut group = Group::blank(tenant.uid, group_id, change.now);
    new.apply(&mut group)?;
    group.bind_reseller(tenant);
    // An empty tenant is not deleted from under its first group, nor the other way round (2-24).
    store::hold(change.conn(), tenant).await?;
    diesel::insert_into(tenant_groups::table)
        .values(&group)
        .execute(change.conn())
        .await
        .map_err(|error| refused(error, &group))?;
    tell(change, tenant, "group.created", None, Some(&group)).await?;
    Ok(group)
}

/// Changes a group.
///
/// # Errors
///
/// When it is not there or not as the caller has read it; else as [`create`].
pub async fn update(
    change: &mut Change<'_>,
    tenant: &TenantOfCall,
    patch: &Patch,
) -> Result<Group> {
    let group_id = patch.group_id.as_deref().unwrap_or_default();
    // The tenant before its group: locks go from the root to the leaves.
    store::hold(change.conn(), tenant).await?;
    let before = hold(change, tenant, group_id).await?;
    check_etag(&patch.etag, before.version, Kind::Group, group_id)?;
    let mut after = before.clone();
    patch.apply(&mut after)?;
    after.bind_reseller(tenant);
    if after == before {
        return Ok(before);
    }
    keep(change, tenant, &before, &mut after).await?;
    Ok(after)
}

/// Stores a group that has changed, and tells of it.
async fn keep(
    change: &mut Change<'_>,
    tenant: &TenantOfCall,
    before: &Group,
    after: &mut Group,
) -> Result<()> {
    after.update_time = change.now;
    after.version += 1;
    diesel::update(tenant_groups::table.find((tenant.uid, &after.group_id)))
        .set(&*after)
        .execute(change.conn())
        .await
        .map_err(|error| refused(error, after))?;
    tell(change, tenant, "group.updated", Some(before), Some(after)).await
}

/// Deletes a group.
///
/// # Errors
///
/// When it is not there or not as the caller has read it.
pub async fn delete(
    change: &mut Change<'_>,
    tenant: &TenantOfCall,
    group_id: &str,
    sent_etag: &str,
) -> Result<()> {
    let group = hold(change, tenant, group_id).await?;
    check_etag(sent_etag, group.version, Kind::Group, group_id)?;
    diesel::delete(tenant_groups::table.find((tenant.uid, group_id)))
        .execute(change.conn())
        .await?;
    tell(change, tenant, "group.deleted", Some(&group), None).await
}

/// What the constraints of the table mean to a caller. Only the database knows of groups and domains
/// that the caller cannot see.
fn refused(error: DieselError, group: &Group) -> Error {
    let DieselError::DatabaseError(kind, information) = &error else {
        return error.into();
    };
    let taken = |what: &'static str, id: &str| Error::AlreadyExists {
        kind: Kind::Group,
        what,
        id: id.to_owned(),
    };
    match (kind, information.constraint_name()) {
        (DatabaseErrorKind::UniqueViolation, Some("tenant_groups_pkey")) => {
            taken("group_id", &group.group_id)
        }
        (DatabaseErrorKind::UniqueViolation, Some("tenant_groups_name_key")) => {
            taken("name", &group.name)
        }
        (DatabaseErrorKind::ForeignKeyViolation, Some("tenant_groups_default_domain_fkey")) => {
            Error::not_found(Kind::Domain, group.default_domain.clone().unwrap_or_default())
        }
        (DatabaseErrorKind::ForeignKeyViolation, Some("tenant_groups_reseller_fkey")) => {
            Error::not_found(Kind::Reseller, group.reseller_id.clone().unwrap_or_default())
        }
        _ => error.into(),
    }
}

/// Checks that a tenant, which the change holds, has no groups (2-24).
///
/// # Errors
///
/// `TENANT_NOT_EMPTY`, or what the database reports.
pub async fn check_none(change: &mut Change<'_>, tenant: &TenantOfCall) -> Result<()> {
    let number: i64 = tenant_groups::table
        .filter(tenant_groups::tenant_uid.eq(tenant.uid))
        .count()
        .get_result(change.conn())
        .await?;
    if number == 0 {
        return Ok(());
    }
    let id = tenant.tenant_id.clone();
    let message = format!(
        "the tenant \"{id}\" has {number} groups: delete those first, or send \
         delete_even_if_non_empty"
    );
    Err(Error::WrongState { reason: ErrorReason::TenantNotEmpty, kind: Kind::Tenant, id, message })
}

/// Deletes all groups of a tenant, which the change holds; answers their ids in order (2-25, 2-26).
///
/// # Errors
///
/// What the database reports.
pub async fn delete_all(change: &mut Change<'_>, tenant: &TenantOfCall) -> Result<Vec<String>> {
    let of_tenant = tenant_groups::tenant_uid.eq(tenant.uid);
    let mut gone: Vec<Group> = diesel::delete(tenant_groups::table.filter(of_tenant))
        .returning(Group::as_returning())
        .get_results(change.conn())
        .await?;
    gone.sort_by(|one, other| one.group_id.cmp(&other.group_id));
    for group in &gone {
        tell(change, tenant, "group.deleted", Some(group), None).await?;
    }
    Ok(gone.into_iter().map(|group| group.group_id).collect())
}

/// To which groups of a tenant the tenant's new reseller is passed on (2-13 to 2-15).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heirs {
    /// To none.
    None,
    /// To those that have the reseller that the tenant had, or none where it had none.
    Alike,
    /// To all.
    All,
}

/// Gives groups of a tenant, which the change holds, the tenant's new reseller.
///
/// # Errors
///
/// What the database reports.
pub async fn pass_on_reseller(
    change: &mut Change<'_>,
    tenant: &TenantOfCall,
    old: Option<&str>,
    new: Option<&str>,
    heirs: Heirs,
) -> Result<()> {
    let of_tenant = tenant_groups::table
        .filter(tenant_groups::tenant_uid.eq(tenant.uid))
        .filter(tenant_groups::reseller_id.is_distinct_from(new))
        .select(Group::as_select())
        .order(tenant_groups::group_id)
        .for_update();
    let groups: Vec<Group> = match heirs {
        Heirs::None => return Ok(()),
        Heirs::All => of_tenant.load(change.conn()).await?,
        Heirs::Alike => {
            let alike = tenant_groups::reseller_id.is_not_distinct_from(old);
            of_tenant.filter(alike).load(change.conn()).await?
        }
    };
    for before in groups {
        let mut after = before.clone();
        after.reseller_id = new.map(str::to_owned);
        after.bind_reseller(tenant);
        keep(change, tenant, &before, &mut after).await?;
    }
    Ok(())
}

async fn tell(
    change: &mut Change<'_>,
    tenant: &TenantOfCall,
    kind: &'static str,
    before: Option<&Group>,
    after: Option<&Group>,
) -> Result<()> {
    let json = |group: &Group| json_of(&pb::Group::from(group.clone()));
    let Some(Group { group_id, .. }) = after.or(before) else {
        return Err(Error::internal("an event of nothing"));
    };
    change
        .record(Event {
            kind,
            account_id: Some(&tenant.account_id),
            tenant: Some((tenant.uid, &tenant.tenant_id)),
            resource_type: "group",
            resource_id: group_id,
            before: before.map(json),
            after: after.map(json),
        })
        .await
}

const FIELDS: &[Field] = &[
    Field { name: "group_id", kind: FieldKind::Text },
    Field { name: "name", kind: FieldKind::Text },
    Field { name: "create_time", kind: FieldKind::Time },
];

const ORDERS: &[&str] = &["name", "group_id", "create_time"];

/// A list of groups that was asked for.
pub struct Query(Listing);

impl Query {
    /// Reads a request.
    ///
    /// # Errors
    ///
    /// What is wrong with its filter, order or page.
    pub fn read(call: &Call, request: &pb::ListGroupsRequest) -> Result<Self> {
        let pb::ListGroupsRequest { page_size, page_token, filter, order_by } = request;
        let asked = Asked { page_size: *page_size, page_token, filter, order_by, more: "" };
        Listing::read(call, asked, FIELDS, ORDERS).map(Self)
    }

    /// Reads the page; answers its groups and the token of the next one.
    ///
    /// # Errors
    ///
    /// What the database reports.
    pub async fn run(
        &self,
        conn: &mut AsyncPgConnection,
        scope: &Scope,
        tenant: &TenantOfCall,
    ) -> Result<(Vec<Group>, String)> {
        let Listing { page, terms, order } = &self.0;
        let mut query = groups_in(scope, tenant.uid).into_boxed::<Pg>();
        for term in terms {
            let condition: Condition<tenant_groups::table> = match (term.field, &term.test) {
                ("group_id", Test::Text(test)) => filter::text(tenant_groups::group_id, test),
                ("name", Test::Text(test)) => filter::text(tenant_groups::name, test),
                ("create_time", Test::Time(comparison, time)) => {
                    filter::time(tenant_groups::create_time, *comparison, *time)
                }
                (field, _) => {
                    return Err(no_condition(field));
                }
            };
            query =
                if term.negated { query.filter(not(condition)) } else { query.filter(condition) };
        }
        let behind = |place: &Place| tenant_groups::group_id.gt(place.id.clone());
        let after = page.after.as_ref();
        let down = order.descending;
        let query = match order.field {
            "group_id" => {
                let after = after.map(|place| (place.value.clone(), behind(place)));
                seek!(query, tenant_groups::group_id, after, down)
            }
            "create_time" => {
                let after = match after {
                    Some(place) => Some((page.time(place)?, behind(place))),
                    None => None,
                };
                seek!(query, tenant_groups::create_time, after, down)
            }
            _ => {
                let after = after.map(|place| (place.value.clone(), behind(place)));
                seek!(query, tenant_groups::name, after, down)
            }
        };
        let mut found: Vec<Group> = query
            .then_order_by(tenant_groups::group_id)
            .limit(page.limit())
            .select(Group::as_select())
            .load(conn)
            .await?;
        let token = page.finish(&mut found, |row| {
            let value = match order.field {
                "group_id" => row.group_id.clone(),
                "create_time" => row.create_time.timestamp_micros().to_string(),
                _ => row.name.clone(),
            };
            Place { value, id: row.group_id.clone() }
        });
        Ok((found, token))
    }
}

impl From<Group> for pb::Group {
    fn from(group: Group) -> Self {
        let Group {
            tenant_uid: _,
            group_id,
            name,
            user_limit,
            user_count,
            default_domain,
            cli_name,
            cli_phone_number,
            location_dialing_code,
            time_zone,
            contact_name,
            contact_phone_number,
            contact_email,
            address_street_address,
            address_extended_address,
            address_locality,
            address_region,
            address_post_code,
            address_country,
            reseller_id,
            reseller_account_id: _,
            create_time,
            update_time,
            version,
        } = group;
        let contact = pb::Contact {
            name: contact_name,
            phone_number: contact_phone_number,
            email: contact_email,
        };
        let address = pb::Address {
            street_address: address_street_address,
            extended_address: address_extended_address,
            locality: address_locality,
            region: address_region,
            post_code: address_post_code,
            country: address_country,
        };
        Self {
            group_id,
            name: Some(name),
            user_limit,
            user_count: Some(user_count),
            default_domain: Some(default_domain.unwrap_or_default()),
            cli_name: Some(cli_name),
            cli_phone_number: Some(cli_phone_number),
            location_dialing_code: Some(location_dialing_code),
            time_zone: Some(time_zone),
            contact: Some(contact).filter(|contact| *contact != pb::Contact::default()),
            address: Some(address).filter(|address| *address != pb::Address::default()),
            reseller_id: Some(reseller_id.unwrap_or_default()),
            create_time: Some(timestamp(create_time)),
            update_time: Some(timestamp(update_time)),
            etag: etag(version),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dialing_code_is_of_digits_possibly_after_a_plus() {
        for right in ["", "0", "+32", "0032", "1234567890"] {
            assert!(read_dialing_code(right).is_ok(), "{right}");
        }
        for wrong in ["+", "++32", "12a", "12345678901", "3 2"] {
            assert!(read_dialing_code(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_time_zone_is_one_of_the_iana_database() {
        for right in ["", "UTC", "Europe/Brussels", "America/Argentina/Buenos_Aires"] {
            assert!(read_time_zone(right).is_ok(), "{right}");
        }
        for wrong in ["Brussels", "europe/brussels", "Europe/Nowhere", "+02:00", "\0"] {
            assert!(read_time_zone(wrong).is_err(), "{wrong}");
        }
    }
}
