//! Resellers: who sells the tenants of an account on (2-31).

use chrono::{DateTime, Utc};
use diesel::{dsl::not, pg::Pg, prelude::*};
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use serde_json::Value;

use super::{account_of, accounts, owned_by_account, still_in_use, tell};
use crate::{
    db::Scope,
    error::{Error, Kind, Result},
    filter::{self, Condition, Field, FieldKind, Test},
    listing::{Listing, no_condition},
    mask::masked,
    page::{Asked, Place},
    pb,
    rpc::{
        Call,
        mutate::{Change, check_etag, etag},
    },
    schema::resellers,
    seek,
    wire::{Fields, id, read_json, reference, request_id, struct_of_json, text, timestamp},
};

/// Who sells tenants on.
#[derive(Clone, Debug, PartialEq, HasQuery, Insertable, AsChangeset)]
#[diesel(table_name = resellers, primary_key(account_id, reseller_id), treat_none_as_null = true)]
#[diesel(check_for_backend(Pg))]
pub struct Reseller {
    /// Whose it is.
    pub account_id: String,
    /// Chosen, immutable.
    pub reseller_id: String,
    /// What others call it, or empty.
    pub external_name: String,
    /// A JSON object of the caller's own.
    pub extra_data: Option<Value>,
    /// When it was created.
    pub create_time: DateTime<Utc>,
    /// When it was changed last.
    pub update_time: DateTime<Utc>,
    /// Counts the changes.
    pub version: i64,
}

owned_by_account!(resellers);

/// The resellers that a call may see: a key that is bound to one sees that one (2-30).
fn resellers_of(call: &Call) -> resellers::BoxedQuery<'static, Pg> {
    let all = rows_of(call).into_boxed();
    match &call.scope {
        Scope::Reseller { reseller, .. } => all.filter(resellers::reseller_id.eq(reseller.clone())),
        _ => all,
    }
}

/// Checks that an account has a reseller.
///
/// # Errors
///
/// `RESELLER_NOT_FOUND`, or what the database reports.
pub async fn require(
    conn: &mut AsyncPgConnection,
    account_id: &str,
    reseller_id: &str,
) -> Result<()> {
    let found: i64 =
        resellers::table.find((account_id, reseller_id)).count().get_result(conn).await?;
    if found == 1 { Ok(()) } else { Err(Error::not_found(Kind::Reseller, reseller_id)) }
}

/// Creates a reseller unless it is there already; its name is its id (2-16).
///
/// # Errors
///
/// What the database reports.
pub async fn ensure(change: &mut Change<'_>, account_id: &str, reseller_id: &str) -> Result<()> {
    let new = Reseller {
        account_id: account_id.to_owned(),
        reseller_id: reseller_id.to_owned(),
        external_name: reseller_id.to_owned(),
        extra_data: None,
        create_time: change.now,
        update_time: change.now,
        version: 1,
    };
    insert(change, new).await.map(|_| ())
}

async fn insert(change: &mut Change<'_>, new: Reseller) -> Result<Option<pb::Reseller>> {
    let rows = diesel::insert_into(resellers::table)
        .values(&new)
        .on_conflict_do_nothing()
        .execute(change.conn())
        .await?;
    if rows == 0 {
        return Ok(None);
    }
    let told = pb::Reseller::from(new);
    tell(change, "reseller.created", Some(&told.account_id), &told.reseller_id, None, Some(&told))
        .await?;
    Ok(Some(told))
}

/// Finds a reseller.
pub(super) async fn find(
    conn: &mut AsyncPgConnection,
    call: &Call,
    request: &pb::GetResellerRequest,
) -> Result<Reseller> {
    let account_id = account_of(call, "account_id", &request.account_id)?;
    let reseller_id = reference("reseller_id", &request.reseller_id)?;
    resellers_of(call)
        .filter(resellers::account_id.eq(account_id))
        .filter(resellers::reseller_id.eq(reseller_id))
        .select(Reseller::as_select())
        .get_result(conn)
        .await
        .optional()?
        .ok_or_else(|| Error::not_found(Kind::Reseller, reseller_id))
}

/// Finds a reseller and keeps others from changing it until the transaction ends.
async fn hold(change: &mut Change<'_>, account_id: &str, reseller_id: &str) -> Result<Reseller> {
    rows_of(change.call)
        .filter(resellers::account_id.eq(account_id))
        .filter(resellers::reseller_id.eq(reseller_id))
        .select(Reseller::as_select())
        .for_update()
        .get_result(change.conn())
        .await
        .optional()?
        .ok_or_else(|| Error::not_found(Kind::Reseller, reseller_id))
}

/// Creates a reseller.
pub(super) async fn create(
    change: &mut Change<'_>,
    request: &pb::CreateResellerRequest,
) -> Result<pb::Reseller> {
    let pb = request.reseller.as_ref().ok_or(Error::invalid("reseller", "is required"))?;
    let account_id = account_of(change.call, "reseller.account_id", &pb.account_id)?;
    let mut fields = Fields::default();
    fields.take("request_id", request_id(&request.request_id));
    let reseller_id = fields.take("reseller.reseller_id", id(&pb.reseller_id));
    let external_name = fields.take("reseller.external_name", read_name(pb));
    let extra_data = fields.take("reseller.extra_data", read_json(pb.extra_data.as_ref()));
    fields.finish()?;
    let (Some(reseller_id), Some(external_name), Some(extra_data)) =
        (reseller_id, external_name, extra_data)
    else {
        return Err(Error::internal("a field was refused without a violation"));
    };
    accounts::require(change.conn(), &account_id).await?;
    let now = change.now;
    let new = Reseller {
        account_id,
        reseller_id: reseller_id.clone(),
        external_name,
        extra_data,
        create_time: now,
        update_time: now,
        version: 1,
    };
    insert(change, new).await?.ok_or(Error::AlreadyExists {
        kind: Kind::Reseller,
        what: "reseller_id",
        id: reseller_id,
    })
}

fn read_name(pb: &pb::Reseller) -> Result<String, String> {
    text(pb.external_name.as_deref().unwrap_or_default(), 0, 80)
}

const FIXED: &[&str] = &["reseller_id", "account_id", "create_time", "update_time", "etag"];

/// Changes a reseller.
pub(super) async fn update(
    change: &mut Change<'_>,
    request: &pb::UpdateResellerRequest,
) -> Result<pb::Reseller> {
    let pb = request.reseller.as_ref().ok_or(Error::invalid("reseller", "is required"))?;
    let account_id = account_of(change.call, "reseller.account_id", &pb.account_id)?;
    let present =
        [("external_name", pb.external_name.is_some()), ("extra_data", pb.extra_data.is_some())];
    let named = masked(request.update_mask.as_ref(), &present, FIXED)?;
    let mut fields = Fields::default();
    let external_name = fields.take("reseller.external_name", read_name(pb));
    let extra_data = fields.take("reseller.extra_data", read_json(pb.extra_data.as_ref()));
    fields.finish()?;

    let reseller_id = reference("reseller.reseller_id", &pb.reseller_id)?;
    let before = hold(change, &account_id, reseller_id).await?;
    let sent = if request.etag.is_empty() { &pb.etag } else { &request.etag };
    check_etag(sent, before.version, Kind::Reseller, reseller_id)?;
    let mut after = before.clone();
    if named.contains(&"external_name") {
        after.external_name = external_name.unwrap_or_default();
    }
    if named.contains(&"extra_data") {
        after.extra_data = extra_data.flatten();
    }
    if after == before {
        return Ok(before.into());
    }
    after.update_time = change.now;
    after.version += 1;
    diesel::update(resellers::table.find((&after.account_id, &after.reseller_id)))
        .set(&after)
        .execute(change.conn())
        .await?;
    let (before, after) = (pb::Reseller::from(before), pb::Reseller::from(after));
    let owner = Some(&*account_id);
    tell(change, "reseller.updated", owner, &after.reseller_id, Some(&before), Some(&after))
        .await?;
    Ok(after)
}

/// Deletes a reseller to which nothing belongs.
pub(super) async fn delete(
    change: &mut Change<'_>,
    request: &pb::DeleteResellerRequest,
) -> Result<()> {
    let account_id = account_of(change.call, "account_id", &request.account_id)?;
    let reseller_id = reference("reseller_id", &request.reseller_id)?;
    let before = hold(change, &account_id, reseller_id).await?;
    check_etag(&request.etag, before.version, Kind::Reseller, reseller_id)?;
    diesel::delete(resellers::table.find((&account_id, reseller_id)))
        .execute(change.conn())
        .await
        .map_err(|error| {
            still_in_use(error, Kind::Reseller, reseller_id, "tenants, groups or keys")
        })?;
    let before = pb::Reseller::from(before);
    tell(change, "reseller.deleted", Some(&account_id), reseller_id, Some(&before), None).await
}

const FIELDS: &[Field] = &[
    Field { name: "reseller_id", kind: FieldKind::Text },
    Field { name: "external_name", kind: FieldKind::Text },
    Field { name: "create_time", kind: FieldKind::Time },
];

const ORDERS: &[&str] = &["reseller_id", "external_name", "create_time"];

/// Reads a page of resellers and the token of the next one.
pub(super) async fn list(
    conn: &mut AsyncPgConnection,
    call: &Call,
    request: &pb::ListResellersRequest,
) -> Result<(Vec<Reseller>, String)> {
    let pb::ListResellersRequest { page_size, page_token, filter, order_by } = request;
    let asked = Asked { page_size: *page_size, page_token, filter, order_by, more: "" };
    let list = Listing::read(call, asked, FIELDS, ORDERS)?;
    let mut query = resellers_of(call);
    for term in &list.terms {
        let condition: Condition<resellers::table> = match (term.field, &term.test) {
            ("reseller_id", Test::Text(test)) => filter::text(resellers::reseller_id, test),
            ("external_name", Test::Text(test)) => filter::text(resellers::external_name, test),
            ("create_time", Test::Time(comparison, time)) => {
                filter::time(resellers::create_time, *comparison, *time)
            }
            (field, _) => return Err(no_condition(field)),
        };
        query = if term.negated { query.filter(not(condition)) } else { query.filter(condition) };
    }
    let after = list.owner_and_id()?.map(|(value, account, id)| {
        let same = resellers::account_id.eq(account.clone());
        let behind = resellers::account_id.gt(account).or(same.and(resellers::reseller_id.gt(id)));
        (value, behind)
    });
    let down = list.order.descending;
    let query = match list.order.field {
        "external_name" => seek!(query, resellers::external_name, after, down),
        "create_time" => {
            let after = match (&list.page.after, after) {
                (Some(place), Some((_, behind))) => Some((list.page.time(place)?, behind)),
                _ => None,
            };
            seek!(query, resellers::create_time, after, down)
        }
        _ => seek!(query, resellers::reseller_id, after, down),
    };
    let mut found: Vec<Reseller> = query
        .then_order_by((resellers::account_id, resellers::reseller_id))
        .limit(list.page.limit())
        .select(Reseller::as_select())
        .load(conn)
        .await?;
    let bytes = |row: &Reseller| row.extra_data.as_ref().map_or(0, |data| data.to_string().len());
    let token = list.page.finish_within(&mut found, bytes, |row| {
        let value = match list.order.field {
            "external_name" => row.external_name.clone(),
            "create_time" => row.create_time.timestamp_micros().to_string(),
            _ => row.reseller_id.clone(),
        };
        Place { value, id: format!("{}/{}", row.account_id, row.reseller_id) }
    });
    Ok((found, token))
}

impl From<Reseller> for pb::Reseller {
    fn from(reseller: Reseller) -> Self {
        let Reseller {
            account_id,
            reseller_id,
            external_name,
            extra_data,
            create_time,
            update_time,
            version,
        } = reseller;
        Self {
            reseller_id,
            account_id,
            external_name: Some(external_name),
            extra_data: extra_data.and_then(struct_of_json),
            create_time: Some(timestamp(create_time)),
            update_time: Some(timestamp(update_time)),
            etag: etag(version),
        }
    }
}
