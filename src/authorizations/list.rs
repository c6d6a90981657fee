//! Which applications a list shows, in which order.

use diesel::{
    dsl::{exists, not},
    pg::Pg,
    prelude::*,
};
use diesel_async::{AsyncPgConnection, RunQueryDsl};

use super::applications::{Application, Record, RunAs, complete, rows_of};
use crate::{
    error::Result,
    filter::{self, Condition, Field, FieldKind, Test, TextTest},
    listing::{Listing, no_condition},
    page::{Asked, Place},
    pb,
    rpc::Call,
    schema::{application_clients, applications},
    seek,
};

const FIELDS: &[Field] = &[
    Field { name: "application_id", kind: FieldKind::Text },
    Field { name: "account_id", kind: FieldKind::Text },
    Field { name: "name", kind: FieldKind::Text },
    Field { name: "environment", kind: FieldKind::Id },
    Field { name: "run_as", kind: FieldKind::Choice { prefix: "RUN_AS_", words: RunAs::TEXTS } },
    Field { name: "create_time", kind: FieldKind::Time },
];

const ORDERS: &[&str] = &["application_id", "name", "create_time"];

/// Reads a page of applications and the token of the next one.
pub(super) async fn list(
    conn: &mut AsyncPgConnection,
    call: &Call,
    request: &pb::ListApplicationsRequest,
) -> Result<(Vec<Record>, String)> {
    let pb::ListApplicationsRequest { page_size, page_token, filter, order_by } = request;
    let asked = Asked { page_size: *page_size, page_token, filter, order_by, more: "" };
    let list = Listing::read(call, asked, FIELDS, ORDERS)?;
    let mut query = rows_of(call).into_boxed::<Pg>();
    for term in &list.terms {
        let condition: Condition<applications::table> = match (term.field, &term.test) {
            ("application_id", Test::Text(test)) => {
                filter::text(applications::application_id, test)
            }
            ("account_id", Test::Text(test)) => filter::text(applications::account_id, test),
            ("name", Test::Text(test)) => filter::text(applications::name, test),
            ("environment", Test::Text(TextTest::Equals(environment))) => Box::new(exists(
                application_clients::table
                    .filter(application_clients::application_id.eq(applications::application_id))
                    .filter(application_clients::environment.eq(environment.to_ascii_lowercase())),
            )),
            ("run_as", Test::Choice(word)) => Box::new(applications::run_as.eq(*word)),
            ("create_time", Test::Time(comparison, time)) => {
                filter::time(applications::create_time, *comparison, *time)
            }
            (field, _) => return Err(no_condition(field)),
        };
        query = if term.negated { query.filter(not(condition)) } else { query.filter(condition) };
    }
    let after = list.page.after.clone();
    let after = after.map(|place| (place.value, applications::application_id.gt(place.id)));
    let down = list.order.descending;
    let query = match list.order.field {
        "name" => seek!(query, applications::name, after, down),
        "create_time" => {
            let after = match (&list.page.after, after) {
                (Some(place), Some((_, behind))) => Some((list.page.time(place)?, behind)),
                _ => None,
            };
            seek!(query, applications::create_time, after, down)
        }
        _ => seek!(query, applications::application_id, after, down),
    };
    let found: Vec<Application> = query
        .then_order_by(applications::application_id)
        .limit(list.page.limit())
        .select(Application::as_select())
        .load(conn)
        .await?;
    let mut found = complete(conn, found).await?;
    let bytes = |record: &Record| {
        let Application { name, description, homepage_url, scopes, .. } = &record.application;
        let scopes = scopes.iter().flatten();
        let clients = record.clients.iter().map(|client| client.environment.len() * 2 + 40);
        scopes.map(String::len).chain(clients).sum::<usize>()
            + name.len()
            + description.len()
            + homepage_url.len()
            + 200
    };
    let token =
        list.page.finish_within(&mut found, bytes, |Record { application: row, .. }| {
            let value = match list.order.field {
                "name" => row.name.clone(),
                "create_time" => row.create_time.timestamp_micros().to_string(),
                _ => row.application_id.clone(),
            };
            Place { value, id: row.application_id.clone() }
        });
    Ok((found, token))
}
