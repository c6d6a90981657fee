//! The schema: what it must be, how it gets there, and whether it is there.

use diesel::{prelude::*, result::DatabaseErrorKind, sql_types};
use diesel_async::{
    AsyncMigrationHarness, AsyncPgConnection, RunQueryDsl, SimpleAsyncConnection as _,
};
use diesel_migrations::{EmbeddedMigrations, MigrationHarness as _, embed_migrations};
use secrecy::{ExposeSecret as _, SecretString};
use tokio::time::Instant;

use super::{Database, Scope, connect};
use crate::error::{Error, causes};

/// The migrations, embedded in the binary.
pub const MIGRATIONS: EmbeddedMigrations = embed_migrations!("migrations");

/// The roles that transactions take on; the first owns everything and serves no call.
const ROLES: &[&str] = &[
    "tenantry_owner",
    "tenantry_service",
    "tenantry_verifier",
    "tenantry_worker",
    "tenantry_operator",
    "tenantry_purger",
    "tenantry_feed",
    "tenantry_expiry",
    "tenantry_meter",
    "tenantry_mailer",
];

/// Why the schema cannot be brought up to date, or not be used.
#[derive(Debug, thiserror::Error)]
pub enum MigrateError {
    /// The database cannot be reached.
    #[error("the database of migrate.database_url cannot be used: {0}")]
    Connect(#[from] diesel::ConnectionError),
    /// A URL is none.
    #[error("{setting} is not a Postgres URL: {source}")]
    Url {
        /// Which setting.
        setting: &'static str,
        /// What is wrong with it.
        source: tokio_postgres::Error,
    },
    /// A statement failed.
    #[error(
        "the roles of the database cannot be prepared (the login of migrate.database_url must be \
             allowed to create roles): {0}"
    )]
    Prepare(#[from] diesel::result::Error),
    /// A migration failed.
    #[error("a migration failed, and what it did is undone: {0}")]
    Migration(Box<dyn std::error::Error + Send + Sync>),
    /// The schema is not that of this binary.
    #[error("{0}")]
    Unknown(String),
    /// The schema cannot be read.
    #[error("the schema of the database cannot be read: {}", causes(.0))]
    Unreadable(#[from] Error),
}

/// Brings the schema up to date; answers the names of the migrations that were run.
///
/// `owner` may create roles; `service` is the URL that the service will use, whose login is made
/// where it does not exist and may afterwards take on the roles that serving needs.
///
/// # Errors
///
/// What stands against it; nothing is half done.
pub async fn migrate(
    owner: &SecretString,
    service: &SecretString,
) -> Result<Vec<String>, MigrateError> {
    let mut conn = connect(owner.expose_secret()).await?;
    refuse_newer(&mut conn).await?;
    prepare_roles(&mut conn).await?;
    prepare_login(&mut conn, owner, service).await?;
    conn.batch_execute("set role tenantry_owner").await?;
    let mut harness = AsyncMigrationHarness::new(conn);
    let done = harness
        .run_pending_migrations(MIGRATIONS)
        .map_err(MigrateError::Migration)?
        .iter()
        .map(ToString::to_string)
        .collect();
    let mut conn = harness.into_inner();
    // The service asks at its start whether it knows the schema.
    conn.batch_execute("grant select on __diesel_schema_migrations to tenantry_service").await?;
    Ok(done)
}

/// Refuses a schema that a newer tenantry made: this one could neither serve it nor add to it.
async fn refuse_newer(conn: &mut AsyncPgConnection) -> Result<(), MigrateError> {
    let found = diesel::sql_query(
        "select count(*) as number from pg_tables where tablename = '__diesel_schema_migrations'",
    )
    .get_result::<Count>(conn)
    .await?
    .number;
    if found == 0 {
        return Ok(());
    }
    conn.batch_execute("set role tenantry_owner").await?;
    let applied = __diesel_schema_migrations::table
        .select(__diesel_schema_migrations::version)
        .load::<String>(conn)
        .await?;
    conn.batch_execute("reset role").await?;
    let known = known_versions();
    match applied.iter().filter(|version| !known.contains(version)).count() {
        0 => Ok(()),
        newer => Err(MigrateError::Unknown(too_new(newer))),
    }
}

fn too_new(newer: usize) -> String {
    format!(
        "the schema of the database has {newer} migrations that this tenantry does not know: \
         run the tenantry that made them, or a newer one"
    )
}

/// Undoes the newest migration; answers its name.
///
/// # Errors
///
/// What stands against it.
pub async fn undo(owner: &SecretString) -> Result<String, MigrateError> {
    let mut conn = connect(owner.expose_secret()).await?;
    conn.batch_execute("set role tenantry_owner").await?;
    let mut harness = AsyncMigrationHarness::new(conn);
    let undone =
        harness.revert_last_migration(MIGRATIONS).map_err(MigrateError::Migration)?.to_string();
    Ok(undone)
}

/// Makes the roles that do not exist. They belong to the cluster, not to the database, so no
/// migration can have them.
async fn prepare_roles(conn: &mut AsyncPgConnection) -> Result<(), MigrateError> {
    for role in ROLES {
        // Another database's migration may be making the same roles at the same time.
        conn.batch_execute(&format!(
            "do $$ begin
                 if not exists (select from pg_roles where rolname = '{role}') then
                     create role {role} nologin noinherit nobypassrls;
                 end if;
             exception when duplicate_object or unique_violation then null;
             end $$"
        ))
        .await?;
        grant(conn, role, None).await?;
    }
    conn.batch_execute(
        "grant usage, create on schema public to tenantry_owner;
         grant usage on schema public to tenantry_service, tenantry_verifier, tenantry_worker,
             tenantry_operator, tenantry_purger, tenantry_feed, tenantry_expiry, tenantry_meter,
             tenantry_mailer;
         -- For extensions that Postgres trusts.
         do $$ begin
             execute format('grant create on database %I to tenantry_owner', current_database());
         end $$",
    )
    .await?;
    Ok(())
}

/// Lets the login of the service take on the roles that serving needs, and makes it where there is
/// none.
async fn prepare_login(
    conn: &mut AsyncPgConnection,
    owner: &SecretString,
    service: &SecretString,
) -> Result<(), MigrateError> {
    let read = |setting, url: &SecretString| {
        url.expose_secret()
            .parse::<tokio_postgres::Config>()
            .map_err(|source| MigrateError::Url { setting, source })
    };
    let login = read("database_url", service)?;
    let same = read("migrate.database_url", owner)?.get_user() == login.get_user();
    let Some(user) = login.get_user().filter(|_| !same) else {
        return Ok(());
    };
    let name = format!("\"{}\"", user.replace('"', "\"\""));
    let exists = diesel::sql_query("select count(*) as number from pg_roles where rolname = $1")
        .bind::<sql_types::Text, _>(user)
        .get_result::<Count>(conn)
        .await?
        .number;
    if exists == 0 {
        let password = match login.get_password() {
            None => String::new(),
            Some(password) => {
                format!(" password {}", literal(&String::from_utf8_lossy(password)))
            }
        };
        // It inherits nothing: a connection that takes on no role has no right at all.
        let made = conn
            .batch_execute(&format!("create role {name} login noinherit nobypassrls{password}"))
            .await;
        match made {
            Err(diesel::result::Error::DatabaseError(DatabaseErrorKind::UniqueViolation, _))
            | Ok(()) => {}
            Err(error) => return Err(error.into()),
        }
    }
    for role in &ROLES[1..] {
        grant(conn, role, Some(user)).await?;
    }
    Ok(())
}

/// Lets a login, or the one that migrates, take on a role, unless it may already.
async fn grant(
    conn: &mut AsyncPgConnection,
    role: &str,
    login: Option<&str>,
) -> Result<(), MigrateError> {
    let member = login.map_or("current_user".to_owned(), literal);
    // From version 16 on, who may take on a role need not inherit it, and whoever makes a role is its
    // member without being allowed to take it on.
    conn.batch_execute(&format!(
        "do $do$ declare member text := {member}; begin
             if current_setting('server_version_num')::int < 160000 then
                 if not pg_has_role(member, '{role}', 'member') then
                     execute format('grant {role} to %I', member);
                 end if;
             elsif not pg_has_role(member, '{role}', 'set') then
                 execute format('grant {role} to %I with inherit false, set true', member);
             end if;
         end $do$"
    ))
    .await?;
    Ok(())
}

/// A text as SQL writes it.
fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

#[derive(QueryableByName)]
struct Count {
    #[diesel(sql_type = sql_types::BigInt)]
    number: i64,
}

diesel::table! {
    /// What has been run; written by Diesel.
    __diesel_schema_migrations (version) {
        /// The migration's number.
        version -> Text,
    }
}

/// Checks that the schema is the one that this binary knows.
///
/// # Errors
///
/// A message that says what to run.
pub async fn check(database: &Database, deadline: Instant) -> Result<(), MigrateError> {
    let known = known_versions();
    let mut transaction = database.begin(&Scope::System, None, deadline).await.map_err(no_role)?;
    let applied = __diesel_schema_migrations::table
        .select(__diesel_schema_migrations::version)
        .order(__diesel_schema_migrations::version)
        .load::<String>(transaction.conn())
        .await
        .map_err(|error| no_role(error.into()))?;
    transaction.commit().await?;
    if applied == known {
        return Ok(());
    }
    let newer = applied.iter().filter(|version| !known.contains(version)).count();
    let missing = known.iter().filter(|version| !applied.contains(version)).count();
    Err(MigrateError::Unknown(if newer > 0 {
        too_new(newer)
    } else {
        format!(
            "the schema of the database lacks {missing} migrations: run `tenantry migrate` with \
             migrate.database_url set to the owner's URL, then start again"
        )
    }))
}

/// A database that was never migrated has neither the roles nor the table.
fn no_role(error: Error) -> MigrateError {
    match error {
        Error::Internal(source) => MigrateError::Unknown(format!(
            "the database is not prepared for tenantry ({source}): run `tenantry migrate` with \
             migrate.database_url set to the owner's URL, then start again"
        )),
        other => other.into(),
    }
}

fn known_versions() -> Vec<String> {
    use diesel::migration::{Migration, MigrationSource};
    let migrations: Vec<Box<dyn Migration<diesel::pg::Pg>>> =
        MIGRATIONS.migrations().expect("they were embedded by the build");
    let mut versions = migrations
        .iter()
        .map(|migration| migration.name().version().to_string())
        .collect::<Vec<_>>();
    versions.sort();
    versions
}
