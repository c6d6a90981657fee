//! How many tenants authorize an application, or any of an account (0-02, 0-03): counted when an authorization
//! changes, so that nobody counts when it is asked.
//!
//! What is counted is kept in two tables. `authorized_tenants` has a row for each tenant, application and environment,
//! and one for each tenant, account and environment, with how many authorizations are stored as live.
//! `authorized_tenant_counts` has the sums of those rows that have any, in slots, so that changes of several tenants
//! seldom wait for each other. Both are written by one function of the database, which counts anew what there is and
//! believes nobody: [`book`] says no more than where to look.
//!
//! Time alone ends an authorization too. Until that is marked (`expiry`), a count leaves out those whose time is
//! over, so that it is exact at each moment.

use chrono::{DateTime, Utc};
use diesel::{
    prelude::*,
    sql_query,
    sql_types::{self, Array, BigInt, Nullable, Text, Timestamptz},
};
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use uuid::Uuid;

use crate::{
    db::Scope,
    directory::{account_of, accounts},
    error::{Error, Kind, Result},
    pb,
    rpc::Call,
    schema::application_ids,
    wire::{Fields, id},
};

/// Counts anew what a tenant authorizes, after one of its authorizations has become live or has ceased to be, or was
/// revoked.
///
/// Once in a change, or several times for the same tenant, application and environment: the counters are the last
/// locks that a transaction takes, in an order that lets none wait for the other in a circle.
///
/// # Errors
///
/// What the database reports.
pub async fn book(
    conn: &mut AsyncPgConnection,
    tenant_uid: Uuid,
    publisher_account_id: &str,
    application_id: &str,
    environment: &str,
) -> Result<()> {
    let publishers = [publisher_account_id];
    book_all(conn, &[tenant_uid], &publishers, &[application_id], &[environment]).await
}

/// As [`book`], for several at once, the parts of each at the same place of all lists.
///
/// # Errors
///
/// What the database reports.
pub async fn book_all(
    conn: &mut AsyncPgConnection,
    tenants: &[Uuid],
    publishers: &[&str],
    applications: &[&str],
    environments: &[&str],
) -> Result<()> {
    sql_query("select book_authorizations($1, $2, $3, $4)")
        .bind::<Array<sql_types::Uuid>, _>(tenants)
        .bind::<Array<Text>, _>(publishers)
        .bind::<Array<Text>, _>(applications)
        .bind::<Array<Text>, _>(environments)
        .execute(conn)
        .await?;
    Ok(())
}

/// As [`book`], for all that a tenant authorizes, after some of that was removed.
///
/// # Errors
///
/// What the database reports.
pub async fn book_tenant(conn: &mut AsyncPgConnection, tenant_uid: Uuid) -> Result<()> {
    sql_query(
        "select book_authorizations(array_agg(tenant_uid), array_agg(publisher_account_id),
                 array_agg(application_id), array_agg(environment))
             from authorized_tenants where tenant_uid = $1 and application_id <> ''",
    )
    .bind::<sql_types::Uuid, _>(tenant_uid)
    .execute(conn)
    .await?;
    Ok(())
}

/// What is published: one application, or all of an account.
pub(super) struct Published {
    /// Whose it is.
    pub(super) account_id: String,
    /// Which application; empty for all of the account.
    pub(super) application_id: String,
}

impl Published {
    /// Finds what a request speaks of, which an account publishes whose the caller's key is, or any for the system.
    pub(super) async fn find(
        conn: &mut AsyncPgConnection,
        call: &Call,
        application_id: &str,
        account_id: &str,
    ) -> Result<Self> {
        if !matches!(call.scope, Scope::System | Scope::Account(_) | Scope::Publisher(_)) {
            return Err(Error::Forbidden {
                permission: "AUTHORIZATIONS:VIEW".to_owned(),
                message: "who authorizes an application is told to the account that publishes it: use a key of \
                          that account, or ListAuthorizations"
                    .to_owned(),
            });
        }
        let mut fields = Fields::default();
        for (field, value) in [("application_id", application_id), ("account_id", account_id)] {
            if !value.is_empty() {
                fields.take(field, id(value));
            }
        }
        if !application_id.is_empty() && !account_id.is_empty() {
            fields.refuse("account_id", "cannot be given together with application_id");
        }
        fields.finish()?;
        if application_id.is_empty() {
            let account_id = account_of(call, "account_id", account_id)?;
            if call.scope == Scope::System {
                accounts::require(conn, &account_id).await?;
            }
            return Ok(Self { account_id, application_id: String::new() });
        }
        let account_id = application_ids::table
            .find(application_id)
            .select(application_ids::account_id)
            .get_result::<String>(conn)
            .await
            .optional()?
            .filter(|account| match &call.scope {
                Scope::Account(own) | Scope::Publisher(own) => own == account,
                _ => true,
            })
            .ok_or_else(|| Error::not_found(Kind::Application, application_id))?;
        Ok(Self { account_id, application_id: application_id.to_owned() })
    }
}

#[derive(QueryableByName)]
struct Count {
    #[diesel(sql_type = Text)]
    environment: String,
    #[diesel(sql_type = BigInt)]
    tenant_count: i64,
}

/// What the counters say, less the tenants whose time is over and that nobody has marked yet.
const COUNT: &str = "
    select environment_id as environment,
        (coalesce(counted.tenants, 0) - coalesce(ended.tenants, 0))::bigint as tenant_count
    from environments
    left join (
        select environment, sum(tenants) as tenants
        from authorized_tenant_counts
        where publisher_account_id = $1 and application_id = $2
        group by environment
    ) as counted on counted.environment = environment_id
    left join (
        select due.environment, count(*) as tenants
        from (
            select tenant_uid, environment, count(*) as number
            from tenant_authorizations
            where publisher_account_id = $1 and $2 in ('', application_id)
                and state = 'ACTIVE' and valid_until <= $3
            group by tenant_uid, environment
        ) as due
        join authorized_tenants as authorized on authorized.tenant_uid = due.tenant_uid
            and authorized.publisher_account_id = $1 and authorized.application_id = $2
            and authorized.environment = due.environment and authorized.live = due.number
        group by due.environment
    ) as ended on ended.environment = environment_id
    order by position, environment_id";

/// As [`COUNT`], of one tenant.
const COUNT_ONE: &str = "
    select environment_id as environment,
        (select count(distinct tenant_uid) from tenant_authorizations
         where tenant_uid = $4 and publisher_account_id = $1 and $2 in ('', application_id)
             and environment = environment_id and state = 'ACTIVE'
             and (valid_until is null or valid_until > $3)) as tenant_count
    from environments
    order by position, environment_id";

/// Counts the tenants that authorize what a request speaks of, in each environment.
pub(super) async fn count(
    conn: &mut AsyncPgConnection,
    call: &Call,
    request: &pb::CountAuthorizedTenantsRequest,
    now: DateTime<Utc>,
) -> Result<Vec<pb::AuthorizedTenantCount>> {
    let pb::CountAuthorizedTenantsRequest { application_id, account_id } = request;
    let published = Published::find(conn, call, application_id, account_id).await?;
    let named = call.tenant.as_ref().filter(|tenant| tenant.named).map(|tenant| tenant.uid);
    let query = sql_query(if named.is_none() { COUNT } else { COUNT_ONE })
        .bind::<Text, _>(published.account_id)
        .bind::<Text, _>(published.application_id)
        .bind::<Timestamptz, _>(now);
    let counts: Vec<Count> = match named {
        None => query.load(conn).await?,
        Some(_) => query.bind::<Nullable<sql_types::Uuid>, _>(named).load(conn).await?,
    };
    let told = |Count { environment, tenant_count }| pb::AuthorizedTenantCount {
        environment,
        tenant_count,
    };
    Ok(counts.into_iter().map(told).collect())
}
