//! Backends: the parts of the platform that tenants are placed on (2-20). They are the system's, and
//! nobody else sees them (2-28).

use chrono::{DateTime, Utc};
use diesel::{
    dsl::not,
    pg::Pg,
    prelude::*,
    result::{DatabaseErrorKind, Error as DieselError},
};
use diesel_async::{AsyncPgConnection, RunQueryDsl};

use super::{in_use, still_in_use, tell};
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
    },
    schema::{api_keys, backends},
    seek,
    wire::{Fields, id, reference, request_id, text, timestamp},
};

/// How long an external name may be, in characters.
pub const NAME_MAX: usize = 80;

/// A part of the platform.
#[derive(Clone, Debug, PartialEq, HasQuery, Insertable, AsChangeset)]
#[diesel(table_name = backends, primary_key(backend_id), check_for_backend(Pg))]
pub struct Backend {
    /// Chosen, immutable.
    pub backend_id: String,
    /// What others call it.
    pub external_name: String,
    /// When it was created.
    pub create_time: DateTime<Utc>,
    /// When it was changed last.
    pub update_time: DateTime<Utc>,
    /// Counts the changes.
    pub version: i64,
}

/// Finds a backend.
pub(super) async fn find(
    conn: &mut AsyncPgConnection,
    request: &pb::GetBackendRequest,
) -> Result<Backend> {
    let backend_id = reference("backend_id", &request.backend_id)?;
    backends::table
        .filter(backends::backend_id.eq(backend_id))
        .select(Backend::as_select())
        .get_result(conn)
        .await
        .optional()?
        .ok_or_else(|| Error::not_found(Kind::Backend, backend_id))
}

/// Finds a backend by what others call it.
///
/// # Errors
///
/// What the database reports.
pub async fn named(conn: &mut AsyncPgConnection, external_name: &str) -> Result<Option<String>> {
    Ok(backends::table
        .filter(backends::external_name.eq(external_name))
        .select(backends::backend_id)
        .get_result(conn)
        .await
        .optional()?)
}

/// Checks that there are these backends, and keeps them there until the transaction ends.
///
/// # Errors
///
/// `BACKEND_NOT_FOUND` for the first that is not there, or what the database reports.
pub async fn hold_all(conn: &mut AsyncPgConnection, ids: &[String]) -> Result<()> {
    if ids.is_empty() {
        return Ok(());
    }
    let held: Vec<String> = backends::table
        .filter(backends::backend_id.eq_any(ids))
        .select(backends::backend_id)
        .order(backends::backend_id)
        .for_share()
        .load(conn)
        .await?;
    match ids.iter().find(|id| !held.contains(id)) {
        Some(missing) => Err(Error::not_found(Kind::Backend, missing)),
        None => Ok(()),
    }
}

/// Finds a backend and keeps others from changing it until the transaction ends.
async fn hold(change: &mut Change<'_>, backend_id: &str) -> Result<Backend> {
    backends::table
        .filter(backends::backend_id.eq(backend_id))
        .select(Backend::as_select())
        .for_update()
        .get_result(change.conn())
        .await
        .optional()?
        .ok_or_else(|| Error::not_found(Kind::Backend, backend_id))
}

/// Creates a backend.
pub(super) async fn create(
    change: &mut Change<'_>,
    request: &pb::CreateBackendRequest,
) -> Result<pb::Backend> {
    let pb = request.backend.as_ref().ok_or(Error::invalid("backend", "is required"))?;
    let mut fields = Fields::default();
    fields.take("request_id", request_id(&request.request_id));
    let backend_id = fields.take("backend.backend_id", id(&pb.backend_id));
    let external_name = fields.take("backend.external_name", read_name(pb));
    fields.finish()?;
    let (Some(backend_id), Some(external_name)) = (backend_id, external_name) else {
        return Err(Error::internal("a field was refused without a violation"));
    };
    let now = change.now;
    let new = Backend {
        backend_id: backend_id.clone(),
        external_name,
        create_time: now,
        update_time: now,
        version: 1,
    };
    let rows = diesel::insert_into(backends::table)
        .values(&new)
        .on_conflict(backends::backend_id)
        .do_nothing()
        .execute(change.conn())
        .await
        .map_err(|error| name_is_taken(error, &new.external_name))?;
    if rows == 0 {
        return Err(Error::AlreadyExists {
            kind: Kind::Backend,
            what: "backend_id",
            id: backend_id,
        });
    }
    let told = pb::Backend::from(new);
    tell(change, "backend.created", None, &told.backend_id, None, Some(&told)).await?;
    Ok(told)
}

fn name_is_taken(error: DieselError, name: &str) -> Error {
    match &error {
        DieselError::DatabaseError(DatabaseErrorKind::UniqueViolation, information)
            if information.constraint_name() == Some("backends_external_name_key") =>
        {
            Error::AlreadyExists { kind: Kind::Backend, what: "external_name", id: name.to_owned() }
        }
        _ => error.into(),
    }
}

fn read_name(pb: &pb::Backend) -> Result<String, String> {
    text(pb.external_name.as_deref().unwrap_or_default(), 1, NAME_MAX)
}

const FIXED: &[&str] = &["backend_id", "create_time", "update_time", "etag"];

/// Changes a backend.
pub(super) async fn update(
    change: &mut Change<'_>,
    request: &pb::UpdateBackendRequest,
) -> Result<pb::Backend> {
    let pb = request.backend.as_ref().ok_or(Error::invalid("backend", "is required"))?;
    let present = [("external_name", pb.external_name.is_some())];
    let named = masked(request.update_mask.as_ref(), &present, FIXED)?;
    let external_name = if named.is_empty() {
        None
    } else {
        Some(read_name(pb).map_err(|why| Error::invalid("backend.external_name", why))?)
    };
    let backend_id = reference("backend.backend_id", &pb.backend_id)?;
    let before = hold(change, backend_id).await?;
    let sent = if request.etag.is_empty() { &pb.etag } else { &request.etag };
    check_etag(sent, before.version, Kind::Backend, backend_id)?;
    let mut after = before.clone();
    after.external_name = external_name.unwrap_or(after.external_name);
    if after == before {
        return Ok(before.into());
    }
    after.update_time = change.now;
    after.version += 1;
    diesel::update(backends::table.find(&after.backend_id))
        .set(&after)
        .execute(change.conn())
        .await
        .map_err(|error| name_is_taken(error, &after.external_name))?;
    let (before, after) = (pb::Backend::from(before), pb::Backend::from(after));
    tell(change, "backend.updated", None, &after.backend_id, Some(&before), Some(&after)).await?;
    Ok(after)
}

/// Deletes a backend to which nothing belongs.
pub(super) async fn delete(
    change: &mut Change<'_>,
    request: &pb::DeleteBackendRequest,
) -> Result<()> {
    let backend_id = reference("backend_id", &request.backend_id)?;
    let before = hold(change, backend_id).await?;
    check_etag(&request.etag, before.version, Kind::Backend, backend_id)?;
    // An array has no foreign key; whoever issues a key holds its backends.
    let keys: i64 = api_keys::table
        .filter(api_keys::backend_ids.contains(vec![Some(backend_id)]))
        .filter(api_keys::revoke_time.is_null())
        .count()
        .get_result(change.conn())
        .await?;
    if keys > 0 {
        return Err(in_use(Kind::Backend, backend_id, "keys"));
    }
    diesel::delete(backends::table.find(backend_id))
        .execute(change.conn())
        .await
        .map_err(|error| still_in_use(error, Kind::Backend, backend_id, "tenants"))?;
    let before = pb::Backend::from(before);
    tell(change, "backend.deleted", None, backend_id, Some(&before), None).await
}

const FIELDS: &[Field] = &[
    Field { name: "backend_id", kind: FieldKind::Text },
    Field { name: "external_name", kind: FieldKind::Text },
    Field { name: "create_time", kind: FieldKind::Time },
];

const ORDERS: &[&str] = &["backend_id", "external_name", "create_time"];

/// Reads a page of backends and the token of the next one.
pub(super) async fn list(
    conn: &mut AsyncPgConnection,
    call: &Call,
    request: &pb::ListBackendsRequest,
) -> Result<(Vec<Backend>, String)> {
    let pb::ListBackendsRequest { page_size, page_token, filter, order_by } = request;
    let asked = Asked { page_size: *page_size, page_token, filter, order_by, more: "" };
    let list = Listing::read(call, asked, FIELDS, ORDERS)?;
    let mut query = backends::table.into_boxed::<Pg>();
    for term in &list.terms {
        let condition: Condition<backends::table> = match (term.field, &term.test) {
            ("backend_id", Test::Text(test)) => filter::text(backends::backend_id, test),
            ("external_name", Test::Text(test)) => filter::text(backends::external_name, test),
            ("create_time", Test::Time(comparison, time)) => {
                filter::time(backends::create_time, *comparison, *time)
            }
            (field, _) => return Err(no_condition(field)),
        };
        query = if term.negated { query.filter(not(condition)) } else { query.filter(condition) };
    }
    let after =
        list.page.after.clone().map(|place| (place.value, backends::backend_id.gt(place.id)));
    let down = list.order.descending;
    let query = match list.order.field {
        "external_name" => seek!(query, backends::external_name, after, down),
        "create_time" => {
            let after = match (&list.page.after, after) {
                (Some(place), Some((_, behind))) => Some((list.page.time(place)?, behind)),
                _ => None,
            };
            seek!(query, backends::create_time, after, down)
        }
        _ => seek!(query, backends::backend_id, after, down),
    };
    let mut found: Vec<Backend> = query
        .then_order_by(backends::backend_id)
        .limit(list.page.limit())
        .select(Backend::as_select())
        .load(conn)
        .await?;
    let token = list.page.finish(&mut found, |row| {
        let value = match list.order.field {
            "external_name" => row.external_name.clone(),
            "create_time" => row.create_time.timestamp_micros().to_string(),
            _ => row.backend_id.clone(),
        };
        Place { value, id: row.backend_id.clone() }
    });
    Ok((found, token))
}

impl From<Backend> for pb::Backend {
    fn from(backend: Backend) -> Self {
        let Backend { backend_id, external_name, create_time, update_time, version } = backend;
        Self {
            backend_id,
            external_name: Some(external_name),
            create_time: Some(timestamp(create_time)),
            update_time: Some(timestamp(update_time)),
            etag: etag(version),
        }
    }
}
