//! Fills a database with tenants, for benchmarks and load tests.
//!
//! The rows are made by Postgres itself from their numbers (`seed/rows.sql`), so that the same seed makes
//! the same tenants, and nothing but three numbers crosses the wire. They are written as the owner of the
//! tables, beside the service: no call made them, so there are no events of them.
//!
//! Each step is one transaction, and the tenants come in the order of their numbers. A run that was
//! interrupted therefore goes on where it ended, and a later one adds to what is there.

use diesel::{QueryableByName, sql_query, sql_types};
use diesel_async::{AsyncPgConnection, RunQueryDsl as _, SimpleAsyncConnection as _};
use secrecy::{ExposeSecret as _, SecretString};

use crate::db::connect;

/// How many tenants are written in one transaction.
const STEP: i64 = 5000;

/// Which tenants there are to be.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// How many, those of earlier runs included.
    pub tenants: u32,
    /// Which ones: another seed makes others.
    pub seed: u16,
    /// Also where there are tenants that this seed did not make.
    pub beside_others: bool,
}

/// Why a database cannot be filled.
#[derive(Debug, thiserror::Error)]
pub enum SeedError {
    /// The database cannot be reached.
    #[error("the database cannot be used: {0}")]
    Connect(#[from] diesel::ConnectionError),
    /// Somebody may need what is there.
    #[error(
        "the database has {0} tenants that this seed did not make: use another database, or say \
         --beside-others"
    )]
    Others(i64),
    /// A statement failed.
    #[error("the tenants cannot be written (has the schema been migrated?): {0}")]
    Write(#[from] diesel::result::Error),
}

#[derive(QueryableByName)]
struct Found {
    #[diesel(sql_type = sql_types::BigInt)]
    own: i64,
    #[diesel(sql_type = sql_types::BigInt)]
    others: i64,
}

/// Fills a database as its owner; `progress` is told how many of the tenants there are.
///
/// # Errors
///
/// What stands against it; what is written already stays.
pub async fn fill(
    owner: &SecretString,
    plan: Plan,
    progress: impl Fn(i64),
) -> Result<(), SeedError> {
    let mut conn = connect(owner.expose_secret()).await?;
    conn.batch_execute("set role tenantry_owner").await?;
    let Found { own, others } = found(&mut conn, plan.seed).await?;
    if others > 0 && !plan.beside_others {
        return Err(SeedError::Others(others));
    }
    conn.batch_execute(include_str!("seed/functions.sql")).await?;
    let (mut from, end) = (own, i64::from(plan.tenants));
    progress(from);
    while from < end {
        let to = end.min(from + STEP);
        sql_query(include_str!("seed/rows.sql"))
            .bind::<sql_types::BigInt, _>(i64::from(plan.seed))
            .bind::<sql_types::BigInt, _>(from)
            .bind::<sql_types::BigInt, _>(to)
            .execute(&mut conn)
            .await?;
        from = to;
        progress(from);
    }
    // Else the first readers would do it, and the planner would know nothing until then.
    conn.batch_execute("vacuum (analyze) accounts, tenants, tenant_directory, tenant_external_ids")
        .await?;
    Ok(())
}

async fn found(conn: &mut AsyncPgConnection, seed: u16) -> Result<Found, SeedError> {
    let query = "
        select count(*) filter (where created_by = $1) as own,
            count(*) filter (where created_by <> $1) as others
        from tenants";
    let found = sql_query(query)
        .bind::<sql_types::Text, _>(format!("tenantry seed {seed}"))
        .get_result(conn)
        .await?;
    Ok(found)
}
