//! Domains: the DNS names at system level that tenants may have as their default (2-05, 2-19).

use chrono::{DateTime, Utc};
use diesel::{dsl::not, pg::Pg, prelude::*};
use diesel_async::{AsyncPgConnection, RunQueryDsl};

use super::still_in_use;
use crate::{
    error::{Error, Kind, Result},
    events::outbox::Event,
    filter::{self, Condition, Field, FieldKind, Test},
    listing::{Listing, no_condition},
    page::{Asked, Place},
    pb,
    rpc::{
        Call,
        mutate::{Change, check_etag, etag},
        permit::json_of,
    },
    schema::domains,
    seek,
    wire::{dns_name, timestamp},
};

/// How long a domain's name may be (2-05).
const NAME_MAX: usize = 80;

/// A DNS domain.
#[derive(Clone, Debug, PartialEq, Eq, HasQuery, Insertable)]
#[diesel(table_name = domains, check_for_backend(Pg))]
pub struct Domain {
    /// The DNS name, in lower case.
    pub domain_id: String,
    /// When it was created.
    pub create_time: DateTime<Utc>,
    /// Counts the changes.
    pub version: i64,
}

/// Reads the name of a domain.
pub(super) fn read_name(name: &str) -> Result<String, String> {
    dns_name(name, NAME_MAX)?.ok_or_else(|| "is required".to_owned())
}

/// Finds a domain; the policies of the table say who sees which.
pub(super) async fn find(conn: &mut AsyncPgConnection, domain_id: &str) -> Result<Domain> {
    Domain::query()
        .filter(domains::domain_id.eq(domain_id.to_ascii_lowercase()))
        .get_result(conn)
        .await
        .optional()?
        .ok_or_else(|| Error::not_found(Kind::Domain, domain_id))
}

/// Creates a domain unless it is there already (2-19).
///
/// # Errors
///
/// What the database reports.
pub async fn ensure(change: &mut Change<'_>, domain_id: &str) -> Result<()> {
    insert(change, domain_id).await.map(|_| ())
}

/// Creates a domain.
pub(super) async fn create(change: &mut Change<'_>, domain_id: &str) -> Result<Domain> {
    let id = domain_id.to_owned();
    insert(change, domain_id).await?.ok_or(Error::AlreadyExists {
        kind: Kind::Domain,
        what: "domain_id",
        id,
    })
}

async fn insert(change: &mut Change<'_>, domain_id: &str) -> Result<Option<Domain>> {
    let domain = Domain { domain_id: domain_id.to_owned(), create_time: change.now, version: 1 };
    let rows = diesel::insert_into(domains::table)
        .values(&domain)
        .on_conflict_do_nothing()
        .execute(change.conn())
        .await?;
    if rows == 0 {
        return Ok(None);
    }
    tell(change, "domain.created", None, Some(&domain)).await?;
    Ok(Some(domain))
}

/// Deletes a domain that no tenant has.
pub(super) async fn delete(
    change: &mut Change<'_>,
    domain_id: &str,
    sent_etag: &str,
) -> Result<()> {
    let domain = find(change.conn(), domain_id).await?;
    check_etag(sent_etag, domain.version, Kind::Domain, domain_id)?;
    // A domain never changes, so there is nothing to hold; another may have deleted it meanwhile.
    let rows = diesel::delete(domains::table.filter(domains::domain_id.eq(&domain.domain_id)))
        .execute(change.conn())
        .await
        .map_err(|error| still_in_use(error, Kind::Domain, domain_id, "tenants or groups"))?;
    if rows == 0 {
        return Err(Error::not_found(Kind::Domain, domain_id));
    }
    tell(change, "domain.deleted", Some(&domain), None).await
}

async fn tell(
    change: &mut Change<'_>,
    kind: &'static str,
    before: Option<&Domain>,
    after: Option<&Domain>,
) -> Result<()> {
    let json = |domain: &Domain| json_of(&pb::Domain::from(domain.clone()));
    let Some(Domain { domain_id, .. }) = after.or(before) else {
        return Err(Error::internal("an event of nothing"));
    };
    change
        .record(Event {
            kind,
            account_id: None,
            tenant: None,
            resource_type: "domain",
            resource_id: domain_id,
            before: before.map(json),
            after: after.map(json),
        })
        .await
}

const FIELDS: &[Field] = &[
    Field { name: "domain_id", kind: FieldKind::Text },
    Field { name: "create_time", kind: FieldKind::Time },
];

const ORDERS: &[&str] = &["domain_id", "create_time"];

/// A list of domains that was asked for.
pub(super) struct Query(Listing);

impl Query {
    /// Reads a request.
    pub(super) fn read(call: &Call, request: &pb::ListDomainsRequest) -> Result<Self> {
        let pb::ListDomainsRequest { page_size, page_token, filter, order_by } = request;
        let asked = Asked { page_size: *page_size, page_token, filter, order_by, more: "" };
        Listing::read(call, asked, FIELDS, ORDERS).map(Self)
    }

    /// Reads the page.
    pub(super) async fn run(
        &self,
        conn: &mut AsyncPgConnection,
        _: &Call,
    ) -> Result<(Vec<Domain>, String)> {
        let Listing { page, terms, order } = &self.0;
        let mut query = domains::table.into_boxed::<Pg>();
        for term in terms {
            let condition: Condition<domains::table> = match (term.field, &term.test) {
                ("domain_id", Test::Text(test)) => filter::text(domains::domain_id, test),
                ("create_time", Test::Time(comparison, time)) => {
                    filter::time(domains::create_time, *comparison, *time)
                }
                (field, _) => {
                    return Err(no_condition(field));
                }
            };
            query =
                if term.negated { query.filter(not(condition)) } else { query.filter(condition) };
        }
        let behind = |place: &Place| domains::domain_id.gt(place.id.clone());
        let after = page.after.as_ref();
        let down = order.descending;
        let query = match order.field {
            "create_time" => {
                let after = match after {
                    Some(place) => Some((page.time(place)?, behind(place))),
                    None => None,
                };
                seek!(query, domains::create_time, after, down)
            }
            _ => {
                let after = after.map(|place| (place.value.clone(), behind(place)));
                seek!(query, domains::domain_id, after, down)
            }
        };
        let mut found: Vec<Domain> = query
            .then_order_by(domains::domain_id)
            .limit(page.limit())
            .select(Domain::as_select())
            .load(conn)
            .await?;
        let token = page.finish(&mut found, |row| {
            let value = match order.field {
                "create_time" => row.create_time.timestamp_micros().to_string(),
                _ => row.domain_id.clone(),
            };
            Place { value, id: row.domain_id.clone() }
        });
        Ok((found, token))
    }
}

impl From<Domain> for pb::Domain {
    fn from(Domain { domain_id, create_time, version }: Domain) -> Self {
        Self { domain_id, create_time: Some(timestamp(create_time)), etag: etag(version) }
    }
}
