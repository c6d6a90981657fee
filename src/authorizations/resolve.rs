//! Reads what is known of what tenants authorize: many authorizations by one statement, as keys are read.

use std::{collections::HashMap, sync::Arc};

use chrono::{DateTime, Utc};
use diesel::{
    QueryResult, Queryable,
    pg::Pg,
    query_builder::{AstPass, Query, QueryFragment, QueryId},
    sql_types::{Array, Bool, Jsonb, Nullable, Text, Timestamptz, Uuid as SqlUuid},
};
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use serde_json::Value;
use uuid::Uuid;

use super::known::{End, Granted, KnownAuthorization, Place};
use crate::{
    error::{Error, Result, causes},
    keys::{known::KnownTenant, resolve::locks_of, usage::Noted},
    tenants::model::{LockMode, Standing, TenantState},
};

/// The one statement that authorizations are resolved by, prepared once for each connection.
#[derive(QueryId)]
struct Resolve {
    tenants: Vec<String>,
    applications: Vec<String>,
    environments: Vec<String>,
}

impl Query for Resolve {
    type SqlType = Columns;
}

/// Of what a tenant has said in one place, that which holds, else the last word. Where nothing is found there is one
/// row, of the snapshot alone. What waits to be approved anew is as good as it was.
const BEFORE_TENANTS: &str = "\
with asked as materialized (
    select tenant_id, application_id, environment from unnest(";
const BETWEEN: &str = ", ";
const AFTER_ENVIRONMENTS: &str = ") as named (tenant_id, application_id, environment)
), granted as (
    select asked.tenant_id, asked.application_id, asked.environment, claim.tenant_uid, last.*
        from asked
        join tenant_directory as claim on claim.kind = 'TENANT_ID' and claim.key = asked.tenant_id
        join lateral (
            select authorization_id, publisher_account_id, granted_scopes, valid_until, state,
                   state = 'ACTIVE' as is_live
                from tenant_authorizations as one
                where one.tenant_uid = claim.tenant_uid and one.application_id = asked.application_id
                    and one.environment = asked.environment
                order by is_live desc, one.grant_time desc, one.authorization_id desc
                limit 1
        ) as last on true
)
select moment.snapshot, tenant.uid, granted.tenant_id, granted.application_id, granted.environment,
       tenant.account_id, tenant.ancestors, tenant.state, tenant.trial_expire_time, tenant.lock_mode,
       tenant.unlock_time,
       (select jsonb_agg(jsonb_build_array(above.lock_mode, above.unlock_time) order by above.uid)
            from tenants as above
            where above.uid = any(tenant.ancestors) and above.lock_mode is not null) as locks_above,
       granted.authorization_id, granted.publisher_account_id, granted.granted_scopes, granted.valid_until,
       granted.state = 'REVOKED' as is_revoked, granted.is_live
    from (select pg_current_snapshot()::text as snapshot) as moment
    left join granted on true
    left join tenants as tenant on tenant.uid = granted.tenant_uid";

impl QueryFragment<Pg> for Resolve {
    fn walk_ast<'b>(&'b self, mut out: AstPass<'_, 'b, Pg>) -> QueryResult<()> {
        out.push_sql(BEFORE_TENANTS);
        out.push_bind_param::<Array<Text>, _>(&self.tenants)?;
        out.push_sql(BETWEEN);
        out.push_bind_param::<Array<Text>, _>(&self.applications)?;
        out.push_sql(BETWEEN);
        out.push_bind_param::<Array<Text>, _>(&self.environments)?;
        out.push_sql(AFTER_ENVIRONMENTS);
        Ok(())
    }
}

/// The columns of a row, in the order of the statement.
type Columns = (
    Text,
    Nullable<SqlUuid>,
    Nullable<Text>,
    Nullable<Text>,
    Nullable<Text>,
    Nullable<Text>,
    Nullable<Array<Nullable<SqlUuid>>>,
    Nullable<Text>,
    Nullable<Timestamptz>,
    Nullable<Text>,
    Nullable<Timestamptz>,
    Nullable<Jsonb>,
    Nullable<SqlUuid>,
    Nullable<Text>,
    Nullable<Array<Nullable<Text>>>,
    Nullable<Timestamptz>,
    Nullable<Bool>,
    Nullable<Bool>,
);

/// What stands in [`Columns`].
#[derive(Queryable)]
#[diesel(check_for_backend(Pg))]
struct Row {
    snapshot: String,
    tenant_uid: Option<Uuid>,
    tenant_id: Option<String>,
    application_id: Option<String>,
    environment: Option<String>,
    account_id: Option<String>,
    ancestors: Option<Vec<Option<Uuid>>>,
    tenant_state: Option<TenantState>,
    trial_expire_time: Option<DateTime<Utc>>,
    lock_mode: Option<LockMode>,
    unlock_time: Option<DateTime<Utc>>,
    locks_above: Option<Value>,
    authorization_id: Option<Uuid>,
    publisher_account_id: Option<String>,
    scopes: Option<Vec<Option<String>>>,
    valid_until: Option<DateTime<Utc>>,
    is_revoked: Option<bool>,
    is_live: Option<bool>,
}

/// The rows of authorizations, as the database answers them.
pub struct Rows(Vec<Row>);

/// What was found of the places that were asked for.
pub struct Found {
    /// What tenants let applications do there; of what cannot be read, why.
    pub authorizations: HashMap<Arc<Place>, Result<KnownAuthorization, Arc<str>>>,
    /// The state of the database that this is of, as a `pg_snapshot`.
    pub snapshot: Option<Arc<str>>,
}

/// Reads what tenants let applications do at some places: only the role of the verifier may, of any tenant.
///
/// # Errors
///
/// What the database reports.
pub async fn load(conn: &mut AsyncPgConnection, places: &[Arc<Place>]) -> QueryResult<Rows> {
    let column = |of: fn(&Place) -> &String| places.iter().map(|place| of(place).clone()).collect();
    let resolve = Resolve {
        tenants: column(|place| &place.tenant_id),
        applications: column(|place| &place.application_id),
        environments: column(|place| &place.environment),
    };
    Ok(Rows(resolve.load(conn).await?))
}

impl Rows {
    /// Decodes them.
    pub fn decode(self) -> Found {
        let mut found = Found { authorizations: HashMap::new(), snapshot: None };
        for mut row in self.0 {
            let snapshot = std::mem::take(&mut row.snapshot);
            found.snapshot.get_or_insert_with(|| snapshot.into());
            let place = (row.tenant_id.take(), row.application_id.take(), row.environment.take());
            if let (Some(tenant_id), Some(application_id), Some(environment), Some(_)) =
                (place.0, place.1, place.2, row.tenant_uid)
            {
                let place = Arc::new(Place { tenant_id, application_id, environment });
                let known = row.decode(&place).map_err(|why| causes(&why).into());
                found.authorizations.insert(place, known);
            }
        }
        found
    }
}

impl Row {
    fn decode(self, place: &Arc<Place>) -> Result<KnownAuthorization> {
        let (Some(uid), Some(account_id), Some(state)) =
            (self.tenant_uid, self.account_id, self.tenant_state)
        else {
            return Err(Error::internal("an authorization has a tenant that is not there"));
        };
        let (Some(authorization_id), Some(publisher_account_id)) =
            (self.authorization_id, self.publisher_account_id)
        else {
            return Err(Error::internal("an authorization without an id was found"));
        };
        let mut locks = locks_of(self.locks_above.as_ref())?;
        locks.extend(self.lock_mode.map(|mode| (mode, self.unlock_time)));
        let end = match (self.is_live, self.is_revoked) {
            (Some(true), _) => End::None,
            (_, Some(true)) => End::Revoked,
            _ => End::Expired,
        };
        Ok(KnownAuthorization {
            place: place.clone(),
            tenant: KnownTenant {
                uid,
                tenant_id: place.tenant_id.clone(),
                account_id,
                ancestors: self.ancestors.into_iter().flatten().flatten().collect(),
                standing: Standing { state, trial_expire_time: self.trial_expire_time, locks },
            },
            publisher_account_id,
            granted: Granted {
                authorization_id,
                end,
                valid_until: self.valid_until,
                scopes: self.scopes.into_iter().flatten().flatten().collect(),
                noted: Noted::default(),
            },
        })
    }
}
