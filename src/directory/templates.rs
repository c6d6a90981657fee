//! Templates: what new tenants have unless their creator says otherwise (2-18).

use chrono::{DateTime, Utc};
use diesel::{dsl::not, pg::Pg, prelude::*};
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use serde_json::Value;

use super::{account_of, accounts, owned_by_account, tell};
use crate::{
    error::{Error, Kind, Result},
    filter::{self, Condition, Field, FieldKind, Test},
    listing::{Listing, no_condition},
    mask::masked,
    page::{Asked, Place},
    pb,
    rpc::{
        Call,
        mutate::{Change, check_etag, etag},
        permit::{json_of, message_of},
    },
    schema::tenant_templates,
    seek,
    tenants::wire::check_defaults,
    wire::{Fields, id, reference, request_id, timestamp},
};

/// The one thing that templates are for.
const CATEGORY: &str = "tenant";

/// What new tenants have unless their creator says otherwise.
#[derive(Clone, Debug, PartialEq, Eq, HasQuery, Insertable, AsChangeset)]
#[diesel(table_name = tenant_templates, primary_key(account_id, template_id))]
#[diesel(check_for_backend(Pg))]
pub struct TenantTemplate {
    /// Whose it is.
    pub account_id: String,
    /// Chosen, immutable.
    pub template_id: String,
    /// What it is for.
    pub category: String,
    /// A tenant as JSON, with the names of the proto.
    pub defaults: Value,
    /// When it was created.
    pub create_time: DateTime<Utc>,
    /// When it was changed last.
    pub update_time: DateTime<Utc>,
    /// Counts the changes.
    pub version: i64,
}

owned_by_account!(tenant_templates);

/// Finds what a template of an account gives to a new tenant (2-18).
///
/// # Errors
///
/// `TEMPLATE_NOT_FOUND`, or what the database reports.
pub async fn defaults(
    conn: &mut AsyncPgConnection,
    account_id: &str,
    template_id: &str,
) -> Result<pb::Tenant> {
    let defaults: Value = tenant_templates::table
        .find((account_id, template_id))
        .select(tenant_templates::defaults)
        .get_result(conn)
        .await
        .optional()?
        .ok_or_else(|| Error::not_found(Kind::TenantTemplate, template_id))?;
    message_of(defaults)
}

/// Finds a template.
pub(super) async fn find(
    conn: &mut AsyncPgConnection,
    call: &Call,
    request: &pb::GetTenantTemplateRequest,
) -> Result<pb::TenantTemplate> {
    let account_id = account_of(call, "account_id", &request.account_id)?;
    let template_id = reference("template_id", &request.template_id)?;
    rows_of(call)
        .filter(tenant_templates::account_id.eq(account_id))
        .filter(tenant_templates::template_id.eq(template_id))
        .select(TenantTemplate::as_select())
        .get_result(conn)
        .await
        .optional()?
        .ok_or_else(|| Error::not_found(Kind::TenantTemplate, template_id))?
        .try_into()
}

/// Finds a template and keeps others from changing it until the transaction ends.
async fn hold(change: &mut Change<'_>, account_id: &str, id: &str) -> Result<TenantTemplate> {
    rows_of(change.call)
        .filter(tenant_templates::account_id.eq(account_id))
        .filter(tenant_templates::template_id.eq(id))
        .select(TenantTemplate::as_select())
        .for_update()
        .get_result(change.conn())
        .await
        .optional()?
        .ok_or_else(|| Error::not_found(Kind::TenantTemplate, id))
}

/// Creates a template.
pub(super) async fn create(
    change: &mut Change<'_>,
    request: &pb::CreateTenantTemplateRequest,
) -> Result<pb::TenantTemplate> {
    let pb =
        request.tenant_template.as_ref().ok_or(Error::invalid("tenant_template", "is required"))?;
    let account_id = account_of(change.call, "tenant_template.account_id", &pb.account_id)?;
    let mut fields = Fields::default();
    fields.take("request_id", request_id(&request.request_id));
    let template_id = fields.take("tenant_template.template_id", id(&pb.template_id));
    fields.take("tenant_template.category", check_category(&pb.category));
    let defaults = pb.defaults.clone().unwrap_or_default();
    check_defaults(&defaults, "tenant_template.defaults", &mut fields);
    fields.finish()?;
    let template_id =
        template_id.ok_or_else(|| Error::internal("an id was refused without a violation"))?;
    accounts::require(change.conn(), &account_id).await?;
    let now = change.now;
    let new = TenantTemplate {
        account_id,
        template_id,
        category: CATEGORY.to_owned(),
        defaults: json_of(&defaults),
        create_time: now,
        update_time: now,
        version: 1,
    };
    let rows = diesel::insert_into(tenant_templates::table)
        .values(&new)
        .on_conflict_do_nothing()
        .execute(change.conn())
        .await?;
    if rows == 0 {
        let id = new.template_id;
        return Err(Error::AlreadyExists { kind: Kind::TenantTemplate, what: "template_id", id });
    }
    let told = pb::TenantTemplate::try_from(new)?;
    let owner = Some(&*told.account_id);
    tell(change, "tenant_template.created", owner, &told.template_id, None, Some(&told)).await?;
    Ok(told)
}

fn check_category(category: &str) -> Result<(), String> {
    match category {
        "" | CATEGORY => Ok(()),
        _ => Err(format!("is not \"{CATEGORY}\", the only one there is")),
    }
}

const FIXED: &[&str] =
    &["template_id", "account_id", "category", "create_time", "update_time", "etag"];

/// Changes a template.
pub(super) async fn update(
    change: &mut Change<'_>,
    request: &pb::UpdateTenantTemplateRequest,
) -> Result<pb::TenantTemplate> {
    let pb =
        request.tenant_template.as_ref().ok_or(Error::invalid("tenant_template", "is required"))?;
    let account_id = account_of(change.call, "tenant_template.account_id", &pb.account_id)?;
    let present = [("defaults", pb.defaults.is_some())];
    let paths = masked(request.update_mask.as_ref(), &present, FIXED)?;
    let mut fields = Fields::default();
    fields.take("tenant_template.category", check_category(&pb.category));
    let defaults = pb.defaults.clone().unwrap_or_default();
    check_defaults(&defaults, "tenant_template.defaults", &mut fields);
    fields.finish()?;

    let template_id = reference("tenant_template.template_id", &pb.template_id)?;
    let before = hold(change, &account_id, template_id).await?;
    let sent = if request.etag.is_empty() { &pb.etag } else { &request.etag };
    check_etag(sent, before.version, Kind::TenantTemplate, template_id)?;
    let mut after = before.clone();
    if paths.contains(&"defaults") {
        after.defaults = json_of(&defaults);
    }
    if after == before {
        return before.try_into();
    }
    after.update_time = change.now;
    after.version += 1;
    diesel::update(tenant_templates::table.find((&account_id, template_id)))
        .set(&after)
        .execute(change.conn())
        .await?;
    let before = pb::TenantTemplate::try_from(before)?;
    let after = pb::TenantTemplate::try_from(after)?;
    let owner = Some(&*account_id);
    tell(change, "tenant_template.updated", owner, template_id, Some(&before), Some(&after))
        .await?;
    Ok(after)
}

/// Deletes a template; what tenants got of it stays theirs.
pub(super) async fn delete(
    change: &mut Change<'_>,
    request: &pb::DeleteTenantTemplateRequest,
) -> Result<()> {
    let account_id = account_of(change.call, "account_id", &request.account_id)?;
    let template_id = reference("template_id", &request.template_id)?;
    let before = hold(change, &account_id, template_id).await?;
    check_etag(&request.etag, before.version, Kind::TenantTemplate, template_id)?;
    diesel::delete(tenant_templates::table.find((&account_id, template_id)))
        .execute(change.conn())
        .await?;
    let before = pb::TenantTemplate::try_from(before)?;
    let owner = Some(&*account_id);
    tell(change, "tenant_template.deleted", owner, template_id, Some(&before), None).await
}

const FIELDS: &[Field] = &[
    Field { name: "template_id", kind: FieldKind::Text },
    Field { name: "create_time", kind: FieldKind::Time },
];

const ORDERS: &[&str] = &["template_id", "create_time"];

/// Reads a page of tenant_templates and the token of the next one.
pub(super) async fn list(
    conn: &mut AsyncPgConnection,
    call: &Call,
    request: &pb::ListTenantTemplatesRequest,
) -> Result<(Vec<TenantTemplate>, String)> {
    let pb::ListTenantTemplatesRequest { page_size, page_token, filter, order_by } = request;
    let asked = Asked { page_size: *page_size, page_token, filter, order_by, more: "" };
    let list = Listing::read(call, asked, FIELDS, ORDERS)?;
    let mut query = rows_of(call).into_boxed::<Pg>();
    for term in &list.terms {
        let condition: Condition<tenant_templates::table> = match (term.field, &term.test) {
            ("template_id", Test::Text(test)) => filter::text(tenant_templates::template_id, test),
            ("create_time", Test::Time(comparison, time)) => {
                filter::time(tenant_templates::create_time, *comparison, *time)
            }
            (field, _) => return Err(no_condition(field)),
        };
        query = if term.negated { query.filter(not(condition)) } else { query.filter(condition) };
    }
    let after = list.owner_and_id()?.map(|(value, account, id)| {
        let same = tenant_templates::account_id.eq(account.clone());
        let behind = tenant_templates::account_id
            .gt(account)
            .or(same.and(tenant_templates::template_id.gt(id)));
        (value, behind)
    });
    let down = list.order.descending;
    let query = match list.order.field {
        "create_time" => {
            let after = match (&list.page.after, after) {
                (Some(place), Some((_, behind))) => Some((list.page.time(place)?, behind)),
                _ => None,
            };
            seek!(query, tenant_templates::create_time, after, down)
        }
        _ => seek!(query, tenant_templates::template_id, after, down),
    };
    let mut found: Vec<TenantTemplate> = query
        .then_order_by((tenant_templates::account_id, tenant_templates::template_id))
        .limit(list.page.limit())
        .select(TenantTemplate::as_select())
        .load(conn)
        .await?;
    let bytes = |row: &TenantTemplate| row.defaults.to_string().len();
    let token = list.page.finish_within(&mut found, bytes, |row| {
        let value = match list.order.field {
            "create_time" => row.create_time.timestamp_micros().to_string(),
            _ => row.template_id.clone(),
        };
        Place { value, id: format!("{}/{}", row.account_id, row.template_id) }
    });
    Ok((found, token))
}

impl TryFrom<TenantTemplate> for pb::TenantTemplate {
    type Error = Error;

    /// Fails for a message that the service did not write.
    fn try_from(template: TenantTemplate) -> Result<Self> {
        let TenantTemplate {
            account_id,
            template_id,
            category,
            defaults,
            create_time,
            update_time,
            version,
        } = template;
        Ok(Self {
            template_id,
            account_id,
            category,
            defaults: Some(message_of(defaults)?),
            create_time: Some(timestamp(create_time)),
            update_time: Some(timestamp(update_time)),
            etag: etag(version),
        })
    }
}
