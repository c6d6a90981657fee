//! App data: small documents that applications keep of the end users of a tenant (2-27).
//!
//! They belong to end users more than to anybody else, so events tell that one was made, changed or
//! deleted, but never what is in it: what is deleted is gone.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use diesel::{dsl::not, pg::Pg, prelude::*, result::Error as DieselError, sql_types};
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use serde_json::Value;
use uuid::Uuid;

use crate::{
    error::{Error, Kind, Result},
    events::outbox::Event,
    filter::{self, Condition, Field, FieldKind, Test},
    listing::{Listing, no_condition},
    page::{Asked, Place},
    pb, purge,
    rpc::{
        Call, TenantOfCall,
        mutate::{Change, check_etag, etag},
        permit::json_of,
    },
    schema::tenant_end_user_app_data as app_data,
    seek,
    tenants::store,
    wire::{Fields, id, read_json, request_id, struct_of_json, text, timestamp},
};

const END_USER_ID_MAX: usize = 128;
/// How many applications a deletion may exclude.
const EXCLUDED_MAX: usize = 100;
/// How many documents go at a time with their tenant, so that no statement takes long.
const DOCUMENTS_MAX: i64 = 5_000;

/// What an application keeps of an end user.
#[derive(Clone, Debug, PartialEq, HasQuery, Insertable, AsChangeset)]
#[diesel(table_name = app_data, primary_key(tenant_uid, application_id, end_user_id))]
#[diesel(check_for_backend(Pg))]
pub struct Document {
    /// The tenant of the end user.
    pub tenant_uid: Uuid,
    /// Who keeps it.
    pub application_id: String,
    /// Of whom, in the words of the application.
    pub end_user_id: String,
    /// A JSON object of the application's own.
    pub data: Value,
    /// When it was created.
    pub create_time: DateTime<Utc>,
    /// When it was changed last.
    pub update_time: DateTime<Utc>,
    /// Counts the changes.
    pub version: i64,
}

/// Which document of a tenant is meant.
pub struct Name {
    application_id: String,
    end_user_id: String,
}

impl Name {
    fn read(
        prefix: &str,
        application_id: &str,
        end_user_id: &str,
        fields: &mut Fields,
    ) -> Option<Self> {
        let application_id = fields.take(&format!("{prefix}application_id"), id(application_id));
        let end_user_id =
            fields.take(&format!("{prefix}end_user_id"), text(end_user_id, 1, END_USER_ID_MAX));
        Some(Self { application_id: application_id?, end_user_id: end_user_id? })
    }

    /// Both ids, as errors tell them.
    fn told(&self) -> String {
        format!("{}/{}", self.application_id, self.end_user_id)
    }
}

/// A document that is to be kept.
pub struct NewDocument {
    name: Name,
    data: Value,
    etag: String,
}

impl TryFrom<&pb::PutEndUserAppDataRequest> for NewDocument {
    type Error = Error;

    fn try_from(request: &pb::PutEndUserAppDataRequest) -> Result<Self> {
        let pb = request
            .end_user_app_data
            .as_ref()
            .ok_or(Error::invalid("end_user_app_data", "is required"))?;
        let mut fields = Fields::default();
        fields.take("request_id", request_id(&request.request_id));
        let prefix = "end_user_app_data.";
        let name = Name::read(prefix, &pb.application_id, &pb.end_user_id, &mut fields);
        let data = read_json(pb.data.as_ref());
        let data = data.and_then(|data| data.ok_or("is required: {} is an empty one".to_owned()));
        let data = fields.take("end_user_app_data.data", data);
        fields.finish()?;
        let (Some(name), Some(data)) = (name, data) else {
            return Err(Error::internal("a field was refused without a violation"));
        };
        let etag = if request.etag.is_empty() { &pb.etag } else { &request.etag };
        Ok(Self { name, data, etag: etag.clone() })
    }
}

/// Reads which document is to be deleted.
///
/// # Errors
///
/// Everything that is wrong with it.
pub fn read_deletion(request: &pb::DeleteEndUserAppDataRequest) -> Result<Name> {
    let mut fields = Fields::default();
    fields.take("request_id", request_id(&request.request_id));
    let name = Name::read("", &request.application_id, &request.end_user_id, &mut fields);
    fields.finish()?;
    name.ok_or_else(|| Error::internal("a field was refused without a violation"))
}

/// Checks the applications whose app data outlives its tenant.
///
/// # Errors
///
/// Everything that is wrong with them.
pub fn check_excluded(ids: &[String]) -> Result<()> {
    let mut fields = Fields::default();
    if ids.len() > EXCLUDED_MAX {
        let why = format!("are {}, of which at most {EXCLUDED_MAX} are allowed", ids.len());
        return Err(Error::invalid("excluded_app_ids", why));
    }
    for (place, excluded) in ids.iter().enumerate() {
        fields.take(&format!("excluded_app_ids[{place}]"), id(excluded));
    }
    fields.finish()
}

/// Finds a document and keeps others from changing it until the transaction ends.
async fn hold(
    conn: &mut AsyncPgConnection,
    tenant: &TenantOfCall,
    name: &Name,
) -> Result<Option<Document>> {
    Ok(app_data::table
        .find((tenant.uid, &name.application_id, &name.end_user_id))
        .select(Document::as_select())
        .for_update()
        .get_result(conn)
        .await
        .optional()?)
}

/// Keeps a document, in the place of one that is there.
///
/// # Errors
///
/// When the tenant is deleted, or the document is not as the caller has read it.
pub async fn put(
    change: &mut Change<'_>,
    tenant: &TenantOfCall,
    new: &NewDocument,
) -> Result<Document> {
    // Nothing is added to a tenant while it is deleted with all that it has (2-27).
    store::hold(change.conn(), tenant).await?;
    let now = change.now;
    let mut document = Document {
        tenant_uid: tenant.uid,
        application_id: new.name.application_id.clone(),
        end_user_id: new.name.end_user_id.clone(),
        data: new.data.clone(),
        create_time: now,
        update_time: now,
        version: 1,
    };
    // Tried first, since it waits for whoever is adding the same document.
    let added = diesel::insert_into(app_data::table)
        .values(&document)
        .on_conflict_do_nothing()
        .execute(change.conn())
        .await?;
    if added == 1 {
        check_etag(&new.etag, 0, Kind::AppData, &new.name.told())?;
        tell(change, tenant, "end_user_app_data.created", None, Some(&document)).await?;
        return Ok(document);
    }
    let before = hold(change.conn(), tenant, &new.name).await?;
    // Deleted between the two: the next try adds it.
    let before = before.ok_or(Error::Contended(DieselError::NotFound))?;
    check_etag(&new.etag, before.version, Kind::AppData, &new.name.told())?;
    if before.data == document.data {
        return Ok(before);
    }

    document.create_time = before.create_time;
    document.version = before.version + 1;
    diesel::update(app_data::table.find((
        tenant.uid,
        &document.application_id,
        &document.end_user_id,
    )))
    .set(&document)
    .execute(change.conn())
    .await?;
    tell(change, tenant, "end_user_app_data.updated", Some(&before), Some(&document)).await?;
    Ok(document)
}

/// Deletes a document, also of a tenant that is deleted or purged.
///
/// # Errors
///
/// When it is not there or not as the caller has read it.
pub async fn delete(
    change: &mut Change<'_>,
    tenant: &TenantOfCall,
    name: &Name,
    sent_etag: &str,
) -> Result<()> {
    // The tenant or what is left of it: whoever takes the last document takes the tombstone too, and no
    // purge ends around that.
    if store::hold_state(change.conn(), tenant.uid).await?.is_none() {
        purge::hold(change.conn(), tenant.uid).await?;
    }
    let document = hold(change.conn(), tenant, name).await?;
    let document = document.ok_or_else(|| Error::not_found(Kind::AppData, name.told()))?;
    check_etag(sent_etag, document.version, Kind::AppData, &name.told())?;
    diesel::delete(app_data::table.find((tenant.uid, &name.application_id, &name.end_user_id)))
        .execute(change.conn())
        .await?;
    tell(change, tenant, "end_user_app_data.deleted", Some(&document), None).await?;
    purge::forget(change.conn(), tenant.uid).await
}

#[derive(QueryableByName)]
struct Gone {
    #[diesel(sql_type = sql_types::Text)]
    application_id: String,
    #[diesel(sql_type = sql_types::BigInt)]
    number: i64,
}

/// Deletes the documents of a tenant, which the change holds, but for those of excluded applications;
/// answers how many of which went. One event tells of all of an application (2-27).
///
/// # Errors
///
/// What the database reports.
pub async fn delete_all(
    change: &mut Change<'_>,
    tenant: &TenantOfCall,
    excluded: &[String],
) -> Result<Vec<pb::DeletedAppData>> {
    let mut gone = BTreeMap::<String, i64>::new();
    loop {
        let some: Vec<Gone> = diesel::sql_query(format!(
            "with gone as (
                 delete from tenant_end_user_app_data
                 where tenant_uid = $1 and (application_id, end_user_id) in (
                     select application_id, end_user_id from tenant_end_user_app_data
                     where tenant_uid = $1 and application_id <> all ($2)
                     limit {DOCUMENTS_MAX}
                 )
                 returning application_id
             )
             select application_id, count(*) as number from gone group by application_id"
        ))
        .bind::<sql_types::Uuid, _>(tenant.uid)
        .bind::<sql_types::Array<sql_types::Text>, _>(excluded)
        .load(change.conn())
        .await?;
        if some.is_empty() {
            break;
        }
        for Gone { application_id, number } in some {
            *gone.entry(application_id).or_default() += number;
        }
    }
    let mut told = Vec::new();
    for (application_id, document_count) in gone {
        let deleted = pb::DeletedAppData { application_id, document_count };
        record(
            change,
            tenant,
            "end_user_app_data.cleared",
            &deleted.application_id,
            (Some(json_of(&deleted)), None),
        )
        .await?;
        told.push(deleted);
    }
    Ok(told)
}

async fn tell(
    change: &mut Change<'_>,
    tenant: &TenantOfCall,
    kind: &'static str,
    before: Option<&Document>,
    after: Option<&Document>,
) -> Result<()> {
    let json = |document: &Document| {
        json_of(&pb::EndUserAppData { data: None, ..document.clone().into() })
    };
    let Some(Document { application_id, .. }) = after.or(before) else {
        return Err(Error::internal("an event of nothing"));
    };
    let payload = (before.map(json), after.map(json));
    record(change, tenant, kind, application_id, payload).await
}

/// Records what happened to the data of an application. The resource is the application: an end user is
/// named in the payload alone, which an expunged tenant's events lose.
async fn record(
    change: &mut Change<'_>,
    tenant: &TenantOfCall,
    kind: &'static str,
    application_id: &str,
    (before, after): (Option<Value>, Option<Value>),
) -> Result<()> {
    change
        .record(Event {
            kind,
            account_id: Some(&tenant.account_id),
            tenant: Some((tenant.uid, &tenant.tenant_id)),
            resource_type: "end_user_app_data",
            resource_id: application_id,
            before,
            after,
        })
        .await
}

const FIELDS: &[Field] = &[
    Field { name: "application_id", kind: FieldKind::Text },
    Field { name: "end_user_id", kind: FieldKind::Text },
    Field { name: "create_time", kind: FieldKind::Time },
    Field { name: "update_time", kind: FieldKind::Time },
];
const ORDERS: &[&str] = &["application_id", "end_user_id"];

/// A list of documents that was asked for.
pub struct Query(Listing);

impl Query {
    /// Reads a request.
    ///
    /// # Errors
    ///
    /// What is wrong with its filter, order or page.
    pub fn read(call: &Call, request: &pb::ListEndUserAppDataRequest) -> Result<Self> {
        let pb::ListEndUserAppDataRequest { page_size, page_token, filter, order_by } = request;
        let asked = Asked { page_size: *page_size, page_token, filter, order_by, more: "" };
        Listing::read(call, asked, FIELDS, ORDERS).map(Self)
    }

    /// Reads the page; answers its documents and the token of the next one.
    ///
    /// # Errors
    ///
    /// What the database reports.
    pub async fn run(
        &self,
        conn: &mut AsyncPgConnection,
        tenant: &TenantOfCall,
    ) -> Result<(Vec<Document>, String)> {
        let Listing { page, terms, order } = &self.0;
        let mut query =
            app_data::table.filter(app_data::tenant_uid.eq(tenant.uid)).into_boxed::<Pg>();
        for term in terms {
            let condition: Condition<app_data::table> = match (term.field, &term.test) {
                ("application_id", Test::Text(test)) => {
                    filter::text(app_data::application_id, test)
                }
                ("end_user_id", Test::Text(test)) => filter::text(app_data::end_user_id, test),
                ("create_time", Test::Time(comparison, time)) => {
                    filter::time(app_data::create_time, *comparison, *time)
                }
                ("update_time", Test::Time(comparison, time)) => {
                    filter::time(app_data::update_time, *comparison, *time)
                }
                (field, _) => {
                    return Err(no_condition(field));
                }
            };
            query =
                if term.negated { query.filter(not(condition)) } else { query.filter(condition) };
        }
        let after = page.after.as_ref();
        let down = order.descending;
        let by_user = order.field == "end_user_id";
        let query = if by_user {
            let after = after
                .map(|place| (place.value.clone(), app_data::application_id.gt(place.id.clone())));
            seek!(query, app_data::end_user_id, after, down).then_order_by(app_data::application_id)
        } else {
            let after = after
                .map(|place| (place.value.clone(), app_data::end_user_id.gt(place.id.clone())));
            seek!(query, app_data::application_id, after, down).then_order_by(app_data::end_user_id)
        };
        let mut found: Vec<Document> =
            query.limit(page.limit()).select(Document::as_select()).load(conn).await?;
        let bytes = |row: &Document| row.data.to_string().len();
        let token = page.finish_within(&mut found, bytes, |row| {
            let (user, application) = (row.end_user_id.clone(), row.application_id.clone());
            let (value, id) = if by_user { (user, application) } else { (application, user) };
            Place { value, id }
        });
        Ok((found, token))
    }
}

impl From<Document> for pb::EndUserAppData {
    fn from(document: Document) -> Self {
        let Document {
            tenant_uid: _,
            application_id,
            end_user_id,
            data,
            create_time,
            update_time,
            version,
        } = document;
        Self {
            end_user_id,
            application_id,
            data: struct_of_json(data),
            create_time: Some(timestamp(create_time)),
            update_time: Some(timestamp(update_time)),
            etag: etag(version),
        }
    }
}
