//! Environments: the ordered set that keys and authorizations belong to (0-01).

use chrono::{DateTime, Utc};
use diesel::{dsl::not, pg::Pg, prelude::*};
use diesel_async::{AsyncPgConnection, RunQueryDsl};

use super::still_in_use;
use crate::{
    error::{Error, Kind, Result},
    events::outbox::Event,
    filter::{self, Condition, Field, FieldKind, Test},
    keys::secret::ANY_ENVIRONMENT,
    listing::{Listing, no_condition},
    mask::masked,
    page::{Asked, Place},
    pb,
    rpc::{
        Call,
        mutate::{Change, check_etag, etag},
        permit::json_of,
    },
    schema::environments,
    seek,
    wire::{Fields, id, reference, request_id, text, timestamp},
};

const POSITION_MAX: i32 = 10_000;

/// A world of its own for keys and authorizations.
#[derive(Clone, Debug, PartialEq, Eq, HasQuery, Insertable, AsChangeset)]
#[diesel(table_name = environments, primary_key(environment_id), check_for_backend(Pg))]
pub struct Environment {
    /// Chosen, immutable.
    pub environment_id: String,
    /// Display name.
    pub name: String,
    /// Place in lists.
    pub position: i32,
    /// When it was created.
    pub create_time: DateTime<Utc>,
    /// When it was changed last.
    pub update_time: DateTime<Utc>,
    /// Counts the changes.
    pub version: i64,
}

/// Finds an environment; everybody sees all of them.
///
/// # Errors
///
/// Not found, or what the database reports.
pub async fn find(conn: &mut AsyncPgConnection, environment_id: &str) -> Result<Environment> {
    Environment::query()
        .filter(environments::environment_id.eq(environment_id))
        .get_result(conn)
        .await
        .optional()?
        .ok_or_else(|| Error::not_found(Kind::Environment, environment_id))
}

/// What a caller may say of a new environment.
pub(super) struct NewEnvironment {
    environment_id: String,
    name: String,
    position: Option<i32>,
}

impl TryFrom<&pb::CreateEnvironmentRequest> for NewEnvironment {
    type Error = Error;

    fn try_from(request: &pb::CreateEnvironmentRequest) -> Result<Self> {
        let pb =
            request.environment.as_ref().ok_or(Error::invalid("environment", "is required"))?;
        let mut fields = Fields::default();
        fields.take("request_id", request_id(&request.request_id));
        let environment_id = fields.take("environment.environment_id", id(&pb.environment_id));
        if pb.environment_id == ANY_ENVIRONMENT {
            fields.refuse("environment.environment_id", "\"any\" stands for every environment");
        }
        let name = fields.take("environment.name", read_name(pb));
        let position = fields.take("environment.position", read_position(pb.position));
        fields.finish()?;
        let (Some(environment_id), Some(name), Some(position)) = (environment_id, name, position)
        else {
            return Err(Error::internal("a field was refused without a violation"));
        };
        Ok(Self { environment_id, name, position })
    }
}

fn read_name(pb: &pb::Environment) -> Result<String, String> {
    text(pb.name.as_deref().unwrap_or_default(), 1, 80)
}

fn read_position(position: Option<i32>) -> Result<Option<i32>, String> {
    match position {
        Some(position) if !(0..=POSITION_MAX).contains(&position) => {
            Err(format!("is not 0 to {POSITION_MAX}"))
        }
        position => Ok(position),
    }
}

/// Creates an environment, behind all others unless it says where.
pub(super) async fn create(change: &mut Change<'_>, new: &NewEnvironment) -> Result<Environment> {
    let position = if let Some(position) = new.position {
        position
    } else {
        let last: Option<i32> = environments::table
            .select(diesel::dsl::max(environments::position))
            .get_result(change.conn())
            .await?;
        last.map_or(1, |last| last.saturating_add(1).min(POSITION_MAX))
    };
    let environment = Environment {
        environment_id: new.environment_id.clone(),
        name: new.name.clone(),
        position,
        create_time: change.now,
        update_time: change.now,
        version: 1,
    };
    let rows = diesel::insert_into(environments::table)
        .values(&environment)
        .on_conflict_do_nothing()
        .execute(change.conn())
        .await?;
    if rows == 0 {
        let id = environment.environment_id;
        return Err(Error::AlreadyExists { kind: Kind::Environment, what: "environment_id", id });
    }
    tell(change, "environment.created", None, Some(&environment)).await?;
    Ok(environment)
}

/// Changes the name or the place of an environment.
pub(super) async fn update(
    change: &mut Change<'_>,
    request: &pb::UpdateEnvironmentRequest,
) -> Result<Environment> {
    let pb = request.environment.as_ref().ok_or(Error::invalid("environment", "is required"))?;
    let present = [("name", pb.name.is_some()), ("position", pb.position.is_some())];
    let named = masked(request.update_mask.as_ref(), &present, FIXED)?;
    let mut fields = Fields::default();
    let name = named.contains(&"name").then(|| fields.take("environment.name", read_name(pb)));
    let position = named.contains(&"position").then(|| {
        fields.take(
            "environment.position",
            read_position(pb.position)
                .and_then(|position| position.ok_or("is required".to_owned())),
        )
    });
    fields.finish()?;

    let environment_id = reference("environment.environment_id", &pb.environment_id)?;
    let before = hold(change, environment_id).await?;
    let sent = if request.etag.is_empty() { &pb.etag } else { &request.etag };
    check_etag(sent, before.version, Kind::Environment, environment_id)?;
    let mut after = before.clone();
    after.name = name.flatten().unwrap_or(after.name);
    after.position = position.flatten().unwrap_or(after.position);
    if after == before {
        return Ok(before);
    }
    after.update_time = change.now;
    after.version += 1;
    diesel::update(environments::table.find(environment_id))
        .set(&after)
        .execute(change.conn())
        .await?;
    tell(change, "environment.updated", Some(&before), Some(&after)).await?;
    Ok(after)
}

/// Finds an environment and keeps others from changing it until the transaction ends.
async fn hold(change: &mut Change<'_>, environment_id: &str) -> Result<Environment> {
    environments::table
        .find(environment_id)
        .select(Environment::as_select())
        .for_update()
        .get_result(change.conn())
        .await
        .optional()?
        .ok_or_else(|| Error::not_found(Kind::Environment, environment_id))
}

/// Deletes an environment to which no key is bound.
pub(super) async fn delete(
    change: &mut Change<'_>,
    environment_id: &str,
    sent_etag: &str,
) -> Result<()> {
    let environment = hold(change, environment_id).await?;
    check_etag(sent_etag, environment.version, Kind::Environment, environment_id)?;
    diesel::delete(environments::table.find(environment_id)).execute(change.conn()).await.map_err(
        |error| {
            still_in_use(
                error,
                Kind::Environment,
                environment_id,
                "keys, configurations, applications or authorizations",
            )
        },
    )?;
    tell(change, "environment.deleted", Some(&environment), None).await
}

async fn tell(
    change: &mut Change<'_>,
    kind: &'static str,
    before: Option<&Environment>,
    after: Option<&Environment>,
) -> Result<()> {
    let json = |environment: &Environment| json_of(&pb::Environment::from(environment.clone()));
    let Some(Environment { environment_id, .. }) = after.or(before) else {
        return Err(Error::internal("an event of nothing"));
    };
    change
        .record(Event {
            kind,
            account_id: None,
            tenant: None,
            resource_type: "environment",
            resource_id: environment_id,
            before: before.map(json),
            after: after.map(json),
        })
        .await
}

const FIXED: &[&str] = &["environment_id", "create_time", "update_time", "etag"];

const FIELDS: &[Field] = &[
    Field { name: "environment_id", kind: FieldKind::Text },
    Field { name: "name", kind: FieldKind::Text },
    Field { name: "create_time", kind: FieldKind::Time },
];

const ORDERS: &[&str] = &["position", "environment_id", "name"];

/// A list of environments that was asked for.
pub(super) struct Query(Listing);

impl Query {
    /// Reads a request.
    pub(super) fn read(call: &Call, request: &pb::ListEnvironmentsRequest) -> Result<Self> {
        let pb::ListEnvironmentsRequest { page_size, page_token, filter, order_by } = request;
        let asked = Asked { page_size: *page_size, page_token, filter, order_by, more: "" };
        Listing::read(call, asked, FIELDS, ORDERS).map(Self)
    }

    /// Reads the page.
    pub(super) async fn run(
        &self,
        conn: &mut AsyncPgConnection,
        _: &Call,
    ) -> Result<(Vec<Environment>, String)> {
        let Listing { page, terms, order } = &self.0;
        let mut query = environments::table.into_boxed::<Pg>();
        for term in terms {
            let condition: Condition<environments::table> = match (term.field, &term.test) {
                ("environment_id", Test::Text(test)) => {
                    filter::text(environments::environment_id, test)
                }
                ("name", Test::Text(test)) => filter::text(environments::name, test),
                ("create_time", Test::Time(comparison, time)) => {
                    filter::time(environments::create_time, *comparison, *time)
                }
                (field, _) => {
                    return Err(no_condition(field));
                }
            };
            query =
                if term.negated { query.filter(not(condition)) } else { query.filter(condition) };
        }
        let behind = |place: &Place| environments::environment_id.gt(place.id.clone());
        let after = page.after.as_ref();
        let down = order.descending;
        let query = match order.field {
            "name" => {
                let after = after.map(|place| (place.value.clone(), behind(place)));
                seek!(query, environments::name, after, down)
            }
            "environment_id" => {
                let after = after.map(|place| (place.value.clone(), behind(place)));
                seek!(query, environments::environment_id, after, down)
            }
            _ => {
                let after = match after {
                    Some(place) => {
                        let position = place.value.parse::<i32>();
                        Some((position.map_err(|_| page.misplaced())?, behind(place)))
                    }
                    None => None,
                };
                seek!(query, environments::position, after, down)
            }
        };
        let mut found: Vec<Environment> = query
            .then_order_by(environments::environment_id)
            .limit(page.limit())
            .select(Environment::as_select())
            .load(conn)
            .await?;
        let token = page.finish(&mut found, |row| {
            let value = match order.field {
                "name" => row.name.clone(),
                "environment_id" => row.environment_id.clone(),
                _ => row.position.to_string(),
            };
            Place { value, id: row.environment_id.clone() }
        });
        Ok((found, token))
    }
}

impl From<Environment> for pb::Environment {
    fn from(environment: Environment) -> Self {
        let Environment { environment_id, name, position, create_time, update_time, version } =
            environment;
        Self {
            environment_id,
            name: Some(name),
            position: Some(position),
            create_time: Some(timestamp(create_time)),
            update_time: Some(timestamp(update_time)),
            etag: etag(version),
        }
    }
}
