//! Applications: what accounts publish, and what tenants authorize (0-26).

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use diesel::{dsl::exists, pg::Pg, prelude::*};
use diesel_async::{AsyncPgConnection, RunQueryDsl};

use super::{
    clients::{self, Client, WithSecret},
    grants,
    wire::Said,
};
use crate::{
    directory::{account_of, accounts, environments, owned_by_account, tell},
    error::{Error, Kind, Result},
    keys::{api_keys::read_overlap, master::MasterKey},
    mask::{check_fixed, masked, said as fixed},
    pb::{self, ErrorReason},
    rpc::{
        Call,
        mutate::{Change, check_etag},
    },
    schema::{application_ids, applications},
    tenants::model::generated_id_of,
    text_enum,
    wire::{Fields, id, reference, request_id},
};

text_enum! {
    /// As whom an application acts.
    pub enum RunAs {
        /// As the user that is signed in.
        User = "USER",
        /// As itself.
        System = "SYSTEM",
    }
}

/// What an account publishes.
#[derive(Clone, Debug, PartialEq, Eq, HasQuery, Insertable, AsChangeset)]
#[diesel(table_name = applications, primary_key(application_id), check_for_backend(Pg))]
pub struct Application {
    /// Chosen or generated, immutable.
    pub application_id: String,
    /// Whose it is.
    #[diesel(skip_update)]
    pub account_id: String,
    /// What customers read.
    pub name: String,
    /// What it does.
    pub description: String,
    /// Where more is said of it, or empty.
    pub homepage_url: String,
    /// As whom it acts.
    pub run_as: RunAs,
    /// What it asks for.
    pub scopes: Vec<Option<String>>,
    /// When it was created.
    #[diesel(skip_update)]
    pub create_time: DateTime<Utc>,
    /// When it was changed last.
    pub update_time: DateTime<Utc>,
    /// Counts the changes.
    pub version: i64,
}

owned_by_account!(applications);

/// An application with its clients, in the order of their environments.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Record {
    pub(super) application: Application,
    pub(super) clients: Vec<Client>,
}

impl Record {
    fn environments(&self) -> impl Iterator<Item = &String> {
        self.clients.iter().map(|client| &client.environment)
    }
}

/// Adds the clients of applications.
pub(super) async fn complete(
    conn: &mut AsyncPgConnection,
    applications: Vec<Application>,
) -> Result<Vec<Record>> {
    let ids = applications.iter().map(|it| &*it.application_id).collect::<Vec<_>>();
    let mut clients = HashMap::<String, Vec<Client>>::new();
    for client in clients::of(conn, &ids).await? {
        clients.entry(client.application_id.clone()).or_default().push(client);
    }
    let record = |application: Application| {
        let clients = clients.remove(&application.application_id).unwrap_or_default();
        Record { application, clients }
    };
    Ok(applications.into_iter().map(record).collect())
}

async fn complete_one(conn: &mut AsyncPgConnection, application: Application) -> Result<Record> {
    let record = complete(conn, vec![application]).await?.pop();
    record.ok_or_else(|| Error::internal("one application in, none out"))
}

fn not_found(application_id: &str) -> Error {
    Error::not_found(Kind::Application, application_id)
}

/// Finds an application.
pub(super) async fn find(
    conn: &mut AsyncPgConnection,
    call: &Call,
    application_id: &str,
) -> Result<Record> {
    let found = rows_of(call)
        .filter(applications::application_id.eq(application_id))
        .select(Application::as_select())
        .get_result(conn)
        .await
        .optional()?
        .ok_or_else(|| not_found(application_id))?;
    complete_one(conn, found).await
}

/// Whether a call reaches an application.
pub(super) async fn is_reached(change: &mut Change<'_>, application_id: &str) -> Result<bool> {
    let found = rows_of(change.call).filter(applications::application_id.eq(application_id));
    Ok(diesel::select(exists(found)).get_result(change.conn()).await?)
}

/// Finds an application as the caller has read it, and keeps others from changing it until the transaction ends.
async fn hold(change: &mut Change<'_>, application_id: &str, sent_etag: &str) -> Result<Record> {
    let found = rows_of(change.call)
        .filter(applications::application_id.eq(application_id))
        .select(Application::as_select())
        .for_update()
        .get_result(change.conn())
        .await
        .optional()?
        .ok_or_else(|| not_found(application_id))?;
    check_etag(sent_etag, found.version, Kind::Application, application_id)?;
    complete_one(change.conn(), found).await
}

/// What there is to be granted of an application.
pub(super) struct Offer {
    /// The account that publishes it.
    pub(super) account_id: String,
    /// What it asks for.
    pub(super) scopes: Vec<String>,
}

/// Finds what an application that a call reaches asks for in an environment, and keeps it so until the transaction
/// ends.
pub(super) async fn offer(
    change: &mut Change<'_>,
    application_id: &str,
    environment: &str,
) -> Result<Offer> {
    let found = rows_of(change.call)
        .filter(applications::application_id.eq(application_id))
        .select(Application::as_select())
        .for_share()
        .get_result(change.conn())
        .await
        .optional()?
        .ok_or_else(|| not_found(application_id))?;
    let record = complete_one(change.conn(), found).await?;
    if !record.environments().any(|it| it == environment) {
        environments::find(change.conn(), environment).await?;
        return Err(not_published(application_id, environment));
    }
    let Application { account_id, scopes, .. } = record.application;
    Ok(Offer { account_id, scopes: scopes.into_iter().flatten().collect() })
}

/// Checks that the key of a call may have a say in environments, and give away secrets in some of them, which have no
/// end (4-15, 4-17).
fn check_say(call: &Call, environments: &[String], with_secrets: &[String]) -> Result<()> {
    for environment in environments {
        call.check_environment(Some(environment))?;
    }
    if with_secrets.is_empty() { Ok(()) } else { call.check_end(None) }
}

/// Checks that environments are there.
async fn require(change: &mut Change<'_>, environments: &[String]) -> Result<()> {
    for environment in environments {
        environments::find(change.conn(), environment).await?;
    }
    Ok(())
}

/// Publishes an application.
pub(super) async fn create(
    change: &mut Change<'_>,
    master: &MasterKey,
    request: &pb::CreateApplicationRequest,
) -> Result<pb::CreateApplicationResponse> {
    let pb = request.application.as_ref().ok_or(Error::invalid("application", "is required"))?;
    let account_id = account_of(change.call, "application.account_id", &pb.account_id)?;
    let mut fields = Fields::default();
    fields.take("request_id", request_id(&request.request_id));
    let application_id = match &*pb.application_id {
        "" => Some(generated_id_of("a")),
        chosen => fields.take("application.application_id", id(chosen)),
    };
    let said = Said::read(pb, &FIELDS_SAID, &mut fields);
    fields.finish()?;
    let (
        Some(application_id),
        Said {
            name: Some(name),
            description: Some(description),
            homepage_url: Some(homepage_url),
            run_as: Some(run_as),
            environments: Some(environments),
            scopes: Some(scopes),
        },
    ) = (application_id, said)
    else {
        return Err(Error::internal("a field was refused without a violation"));
    };
    accounts::require(change.conn(), &account_id).await?;
    check_say(change.call, &environments, &environments)?;
    require(change, &environments).await?;
    let now = change.now;
    let application = Application {
        application_id,
        account_id,
        name,
        description,
        homepage_url,
        run_as,
        scopes,
        create_time: now,
        update_time: now,
        version: 1,
    };
    insert(change, &application).await?;
    let new = environments
        .iter()
        .map(|environment| WithSecret::generate(master, &application.application_id, environment))
        .collect::<Vec<_>>();
    clients::insert(change.conn(), &new).await?;
    let told = pb::Application::from(complete_one(change.conn(), application).await?);
    record(change, "application.created", None, Some(&told)).await?;
    let clients = tell_secrets(&new, &told);
    Ok(pb::CreateApplicationResponse { application: Some(told), clients })
}

/// How many ids an account may claim, those of deleted applications too: they are given to nobody else.
const CLAIMS_MAX: i64 = 10_000;

async fn insert(change: &mut Change<'_>, application: &Application) -> Result<()> {
    let Application { application_id, account_id, .. } = application;
    let claims: i64 = application_ids::table
        .filter(application_ids::account_id.eq(account_id))
        .count()
        .get_result(change.conn())
        .await?;
    if claims >= CLAIMS_MAX {
        return Err(Error::LimitReached {
            reason: ErrorReason::ApplicationLimitExceeded,
            kind: Kind::Account,
            id: account_id.clone(),
            message: format!(
                "the account has had {CLAIMS_MAX} applications, whose ids stay taken: change one of those there \
                 are instead"
            ),
        });
    }
    let claim = (
        application_ids::application_id.eq(application_id),
        application_ids::account_id.eq(account_id),
    );
    let rows = diesel::insert_into(application_ids::table)
        .values(claim)
        .on_conflict_do_nothing()
        .execute(change.conn())
        .await?;
    if rows == 0 {
        let id = application_id.clone();
        return Err(Error::AlreadyExists { kind: Kind::Application, what: "application_id", id });
    }
    diesel::insert_into(applications::table).values(application).execute(change.conn()).await?;
    Ok(())
}

/// What is shown of new clients, in the order of their environments.
fn tell_secrets(new: &[WithSecret], application: &pb::Application) -> Vec<pb::ApplicationClient> {
    let of = |environment: &String| new.iter().find(|it| it.client.environment == *environment);
    application.environments.iter().filter_map(of).map(WithSecret::told).collect()
}

/// What can be said of an application.
const FIELDS_SAID: [&str; 6] =
    ["name", "description", "homepage_url", "run_as", "environments", "scopes"];

const FIXED: &[&str] =
    &["application_id", "account_id", "client_ids", "create_time", "update_time", "etag"];

/// Changes an application; its environments and its scopes each as a whole.
pub(super) async fn update(
    change: &mut Change<'_>,
    master: &MasterKey,
    request: &pb::UpdateApplicationRequest,
) -> Result<pb::UpdateApplicationResponse> {
    let pb = request.application.as_ref().ok_or(Error::invalid("application", "is required"))?;
    let present = [
        ("name", pb.name.is_some()),
        ("description", pb.description.is_some()),
        ("homepage_url", pb.homepage_url.is_some()),
        ("run_as", pb.run_as != 0),
        ("environments", !pb.environments.is_empty()),
        ("scopes", !pb.scopes.is_empty()),
    ];
    let named = masked(request.update_mask.as_ref(), &present, FIXED)?;
    let mut fields = Fields::default();
    let said = Said::read(pb, &named, &mut fields);
    if !pb.account_id.is_empty() {
        fields.take("application.account_id", id(&pb.account_id));
    }
    fields.finish()?;
    change.call.check_account("application.account_id", &pb.account_id)?;

    let application_id = reference("application.application_id", &pb.application_id)?;
    let sent = if request.etag.is_empty() { &pb.etag } else { &request.etag };
    let before = hold(change, application_id, sent).await?;
    let account_id = &before.application.account_id;
    check_fixed(
        "application.account_id",
        fixed(request.update_mask.as_ref(), &pb.account_id),
        account_id,
    )?;
    let mut after = before.application.clone();
    after.name = said.name.unwrap_or(after.name);
    after.description = said.description.unwrap_or(after.description);
    after.homepage_url = said.homepage_url.unwrap_or(after.homepage_url);
    after.run_as = said.run_as.unwrap_or(after.run_as);
    after.scopes = said.scopes.unwrap_or(after.scopes);
    let is_in = |environment: &String| before.environments().any(|it| it == environment);
    let kept = said.environments;
    let left = |kept: &Vec<String>| {
        let left = before.environments().filter(|environment| !kept.contains(environment));
        left.cloned().collect::<Vec<_>>()
    };
    let left = kept.as_ref().map(left).unwrap_or_default();
    let leaves = !left.is_empty();
    let new = kept.iter().flatten().filter(|environment| !is_in(environment)).cloned();
    let new = new.collect::<Vec<_>>();
    if after == before.application && !leaves && new.is_empty() {
        let application = Some(before.into());
        return Ok(pb::UpdateApplicationResponse { application, clients: Vec::new() });
    }

    if after != before.application {
        // It says of all environments what the application is.
        change.call.check_environment(None)?;
    }
    check_say(change.call, &[&new[..], &left].concat(), &new)?;
    require(change, &new).await?;
    if before.application.run_as == RunAs::User && after.run_as == RunAs::System {
        // Nobody said yes to that (0-22).
        let all = before.environments().cloned().collect::<Vec<_>>();
        grants::refuse_in_use(change, application_id, &all).await?;
    }
    grants::refuse_in_use(change, application_id, &left).await?;
    let generate = |environment: &String| WithSecret::generate(master, application_id, environment);
    let new = new.iter().map(generate).collect::<Vec<_>>();
    if let Some(kept) = kept.filter(|_| leaves) {
        clients::delete_others(change.conn(), application_id, &kept).await?;
    }
    clients::insert(change.conn(), &new).await?;
    let after = keep(change, after).await?;
    record(change, "application.updated", Some(&before.into()), Some(&after)).await?;
    let clients = tell_secrets(&new, &after);
    Ok(pb::UpdateApplicationResponse { application: Some(after), clients })
}

/// Stores an application that has changed, or whose clients have.
async fn keep(change: &mut Change<'_>, mut after: Application) -> Result<pb::Application> {
    after.update_time = change.now;
    after.version += 1;
    diesel::update(applications::table.find(&after.application_id))
        .set(&after)
        .execute(change.conn())
        .await?;
    Ok(complete_one(change.conn(), after).await?.into())
}

/// Deletes an application with its clients. Its id stays taken.
pub(super) async fn delete(
    change: &mut Change<'_>,
    request: &pb::DeleteApplicationRequest,
) -> Result<()> {
    let application_id = reference("application_id", &request.application_id)?;
    let before = hold(change, application_id, &request.etag).await?;
    change.call.check_environment(None)?;
    let environments = before.environments().cloned().collect::<Vec<_>>();
    grants::refuse_in_use(change, application_id, &environments).await?;
    diesel::delete(applications::table.find(application_id)).execute(change.conn()).await?;
    record(change, "application.deleted", Some(&before.into()), None).await
}

/// Gives an application a new client secret in an environment.
pub(super) async fn rotate(
    change: &mut Change<'_>,
    master: &MasterKey,
    request: &pb::RotateApplicationClientSecretRequest,
) -> Result<pb::RotateApplicationClientSecretResponse> {
    let mut fields = Fields::default();
    let application_id = fields.take("application_id", id(&request.application_id));
    let environment = fields.take("environment", id(&request.environment.to_ascii_lowercase()));
    let overlap = fields.take("overlap", read_overlap(request.overlap.as_ref()));
    fields.finish()?;
    let (Some(application_id), Some(environment), Some(overlap)) =
        (application_id, environment, overlap)
    else {
        return Err(Error::internal("a field was refused without a violation"));
    };
    let before = hold(change, &application_id, &request.etag).await?;
    let environments = [environment.clone()];
    check_say(change.call, &environments, &environments)?;
    let client = before.clients.iter().find(|client| client.environment == environment);
    let client = client.ok_or_else(|| not_published(&application_id, &environment))?;
    let rotated = client.clone().rotate(master, overlap, change.now);
    clients::update(change.conn(), &rotated.client).await?;
    let after = keep(change, before.application.clone()).await?;
    record(change, "application.rotated", Some(&before.into()), Some(&after)).await?;
    let client = Some(rotated.told());
    Ok(pb::RotateApplicationClientSecretResponse { application: Some(after), client })
}

pub(super) fn not_published(application_id: &str, environment: &str) -> Error {
    Error::WrongState {
        reason: ErrorReason::EnvironmentNotPublished,
        kind: Kind::Application,
        id: application_id.to_owned(),
        message: format!(
            "the application \"{application_id}\" is not published in \"{environment}\": add that to its \
             environments with UpdateApplication first"
        ),
    }
}

/// Finds the application whose client somebody proves to be, and the environment.
pub(super) async fn prove(
    conn: &mut AsyncPgConnection,
    call: &Call,
    master: &MasterKey,
    (client_id, secret): (&str, &str),
    now: DateTime<Utc>,
) -> Result<Option<(Record, String)>> {
    let Some(client) = clients::find(conn, client_id).await? else {
        return Ok(None);
    };
    // A verifier that is bound to another environment learns nothing of this one.
    let is_bound_elsewhere = call.check_environment(Some(&client.environment)).is_err();
    if !client.has_secret(master, secret, now) || is_bound_elsewhere {
        return Ok(None);
    }
    match find(conn, call, &client.application_id).await {
        Ok(record) => Ok(Some((record, client.environment))),
        Err(Error::NotFound { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

async fn record(
    change: &mut Change<'_>,
    kind: &'static str,
    before: Option<&pb::Application>,
    after: Option<&pb::Application>,
) -> Result<()> {
    let Some(it) = after.or(before) else {
        return Err(Error::internal("an event of nothing"));
    };
    let (account_id, id) = (it.account_id.clone(), it.application_id.clone());
    tell(change, kind, Some(&account_id), &id, before, after).await
}
