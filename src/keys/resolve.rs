//! Reads what is known of keys: many of them by one statement.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, OnceLock},
};

use chrono::{DateTime, Utc};
use diesel::{
    QueryDsl, QueryResult, Queryable,
    dsl::exists,
    pg::Pg,
    query_builder::{AstPass, Query, QueryFragment, QueryId},
    sql_types::{
        Array, BigInt, Bool, Bytea, Integer, Jsonb, Nullable, SmallInt, Text, Timestamptz,
        Uuid as SqlUuid,
    },
};
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use serde_json::Value;
use uuid::Uuid;

use super::{
    known::{ApiGrants, App, Bound, External, KeyKind, Known, KnownTenant, Owner, Stored},
    limits::Limits,
    master::MasterKey,
    model::{KeyScope, roles_named},
    rules::{DeviceRules, GeoRules},
    secret::{Digest, KeyRef},
    usage::Noted,
};
use crate::{
    allowlist,
    authorizations::known::{End, Granted},
    error::{Error, Result, causes},
    schema::imported_keys,
    tenants::model::{LockMode, Standing, TenantState},
};

/// By what a key is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum By {
    /// By what its text leads to.
    Ref(KeyRef),
    /// By the digest of its text, as keys are that were made elsewhere.
    Digest([u8; 32]),
}

/// What was found of the keys that were asked for.
pub struct Found {
    /// The keys, by what they were asked for; of one that cannot be read, why.
    pub keys: HashMap<By, Result<Known, Arc<str>>>,
    /// The state of the database that this is of, as a `pg_snapshot`.
    pub snapshot: Option<Arc<str>>,
}

/// The one statement that keys are resolved by. Diesel prepares it once for each connection, as it does not
/// with text that has no type of its own.
#[derive(QueryId)]
struct Resolve {
    routes: Vec<i64>,
    numbers: Vec<i64>,
    digests: Vec<Vec<u8>>,
}

impl Query for Resolve {
    type SqlType = Columns;
}

/// Both kinds of keys have the same columns here. Where none is found there is one row, of the snapshot alone:
/// that a key is not there is true of a state too. Locks reach down the tree: they are looked up where they
/// were set (3-22). Of what the tenant lets the application of an installation do, that alone is read which has not
/// ended, at most one.
const BEFORE_ROUTES: &str = "\
with asked as materialized (
    select route, number from unnest(";
const BEFORE_NUMBERS: &str = ", ";
const BEFORE_DIGESTS: &str = ") as by_ref (route, number)
    union all
    select route, number from imported_keys where digest = any(";
const AFTER_DIGESTS: &str = ")
), key as (
    select key.route, key.number, key.scope, key.account_id, key.tenant_uid, key.roles, key.environment,
           key.reseller_id, key.backend_ids, key.digest, key.master_key_version, key.old_digest,
           key.old_master_key_version, key.old_end_time, key.enabled, key.expire_time, key.revoke_time,
           key.rate_requests, key.rate_window_seconds, key.credits_amount, key.credits_refill_amount,
           key.credits_refill_seconds, key.limits_version,
           null::text as app_key_id, null::jsonb as device, null::jsonb as geo
        from asked join api_keys as key using (route, number)
    union all
    select key.route, key.number, null, null, key.tenant_uid, null, key.environment,
           null, null, key.digest, key.master_key_version, key.old_digest,
           key.old_master_key_version, key.old_end_time, key.enabled, key.expire_time, key.revoke_time,
           key.rate_requests, key.rate_window_seconds, key.credits_amount, key.credits_refill_amount,
           key.credits_refill_seconds, key.limits_version,
           key.app_key_id, key.device, key.geo
        from asked join external_keys as key using (route, number)
)
select moment.snapshot, key.route is not null as is_there,
       coalesce(key.route, 0) as route, coalesce(key.number, 0) as number, key.scope, key.account_id,
       key.tenant_uid, key.roles, key.environment, key.reseller_id, key.backend_ids,
       coalesce(key.digest, '') as digest, coalesce(key.master_key_version, 0::smallint) as master_key_version,
       key.old_digest, key.old_master_key_version, key.old_end_time, coalesce(key.enabled, false) as enabled,
       key.expire_time, key.revoke_time, key.rate_requests, key.rate_window_seconds, key.credits_amount,
       key.credits_refill_amount, key.credits_refill_seconds, coalesce(key.limits_version, 0) as limits_version,
       key.app_key_id, key.device, key.geo,
       tenant.tenant_id, tenant.account_id as tenant_account_id, tenant.ancestors, tenant.state,
       tenant.trial_expire_time, tenant.lock_mode, tenant.unlock_time,
       (select jsonb_agg(jsonb_build_array(above.lock_mode, above.unlock_time) order by above.uid)
            from tenants as above
            where above.uid = any(tenant.ancestors) and above.lock_mode is not null) as locks_above,
       coalesce(of_tenant.enabled, of_account.enabled) as list_enabled,
       coalesce(of_tenant.rules, of_account.rules) as list_rules,
       installation.installation_id, installation.product_code, installation.package_code,
       installation.ttl_hours, config.config, installation.application_id, granted.authorization_id,
       granted.valid_until, granted.granted_scopes
    from (select pg_current_snapshot()::text as snapshot) as moment
    left join key on true
    left join tenants as tenant on tenant.uid = key.tenant_uid
    left join tenant_ip_allowlists as of_tenant
        on of_tenant.tenant_uid = key.tenant_uid
    left join account_ip_allowlists as of_account
        on of_account.account_id = key.account_id and key.tenant_uid is null
    left join tenant_app_keys as app_key
        on app_key.tenant_uid = key.tenant_uid and app_key.app_key_id = key.app_key_id
    left join tenant_installations as installation
        on installation.tenant_uid = key.tenant_uid
            and installation.installation_id = app_key.installation_id
    left join tenant_app_key_configs as config
        on config.tenant_uid = key.tenant_uid and config.app_key_id = key.app_key_id
            and config.environment = key.environment
    left join tenant_authorizations as granted
        on granted.tenant_uid = key.tenant_uid and granted.application_id = installation.application_id
            and granted.environment = key.environment
            and granted.state = 'ACTIVE'";

impl QueryFragment<Pg> for Resolve {
    fn walk_ast<'b>(&'b self, mut out: AstPass<'_, 'b, Pg>) -> QueryResult<()> {
        out.push_sql(BEFORE_ROUTES);
        out.push_bind_param::<Array<BigInt>, _>(&self.routes)?;
        out.push_sql(BEFORE_NUMBERS);
        out.push_bind_param::<Array<BigInt>, _>(&self.numbers)?;
        out.push_sql(BEFORE_DIGESTS);
        out.push_bind_param::<Array<Bytea>, _>(&self.digests)?;
        out.push_sql(AFTER_DIGESTS);
        Ok(())
    }
}

/// The columns of a row, in the order of the statement: found by their names, forty of them would take longer
/// than all else.
type Columns = (
    Text,
    Bool,
    BigInt,
    BigInt,
    Nullable<Text>,
    Nullable<Text>,
    Nullable<SqlUuid>,
    Nullable<Array<Nullable<Text>>>,
    Nullable<Text>,
    Nullable<Text>,
    Nullable<Array<Nullable<Text>>>,
    Bytea,
    SmallInt,
    Nullable<Bytea>,
    Nullable<SmallInt>,
    Nullable<Timestamptz>,
    Bool,
    Nullable<Timestamptz>,
    Nullable<Timestamptz>,
    Nullable<BigInt>,
    Nullable<Integer>,
    Nullable<BigInt>,
    Nullable<BigInt>,
    Nullable<Integer>,
    BigInt,
    Nullable<Text>,
    Nullable<Jsonb>,
    Nullable<Jsonb>,
    Nullable<Text>,
    Nullable<Text>,
    Nullable<Array<Nullable<SqlUuid>>>,
    Nullable<Text>,
    Nullable<Timestamptz>,
    Nullable<Text>,
    Nullable<Timestamptz>,
    Nullable<Jsonb>,
    Nullable<Bool>,
    Nullable<Jsonb>,
    Nullable<Text>,
    Nullable<Text>,
    Nullable<Text>,
    Nullable<SmallInt>,
    Nullable<Jsonb>,
    Nullable<Text>,
    Nullable<SqlUuid>,
    Nullable<Timestamptz>,
    Nullable<Array<Nullable<Text>>>,
);

/// What stands in [`Columns`].
#[derive(Queryable)]
#[diesel(check_for_backend(Pg))]
struct Row {
    snapshot: String,
    is_there: bool,
    route: i64,
    number: i64,
    scope: Option<KeyScope>,
    account_id: Option<String>,
    tenant_uid: Option<Uuid>,
    roles: Option<Vec<Option<String>>>,
    environment: Option<String>,
    reseller_id: Option<String>,
    backend_ids: Option<Vec<Option<String>>>,
    digest: Vec<u8>,
    master_key_version: i16,
    old_digest: Option<Vec<u8>>,
    old_master_key_version: Option<i16>,
    old_end_time: Option<DateTime<Utc>>,
    enabled: bool,
    expire_time: Option<DateTime<Utc>>,
    revoke_time: Option<DateTime<Utc>>,
    rate_requests: Option<i64>,
    rate_window_seconds: Option<i32>,
    credits_amount: Option<i64>,
    credits_refill_amount: Option<i64>,
    credits_refill_seconds: Option<i32>,
    limits_version: i64,
    app_key_id: Option<String>,
    device: Option<Value>,
    geo: Option<Value>,
    tenant_id: Option<String>,
    tenant_account_id: Option<String>,
    ancestors: Option<Vec<Option<Uuid>>>,
    state: Option<TenantState>,
    trial_expire_time: Option<DateTime<Utc>>,
    lock_mode: Option<LockMode>,
    unlock_time: Option<DateTime<Utc>>,
    locks_above: Option<Value>,
    list_enabled: Option<bool>,
    list_rules: Option<Value>,
    installation_id: Option<String>,
    product_code: Option<String>,
    package_code: Option<String>,
    ttl_hours: Option<i16>,
    config: Option<Value>,
    application_id: Option<String>,
    authorization_id: Option<Uuid>,
    valid_until: Option<DateTime<Utc>>,
    granted_scopes: Option<Vec<Option<String>>>,
}

/// The rows of keys, as the database answers them.
pub struct Rows(Vec<Row>);

/// Reads the rows of keys of any owner: only the role of the verifier may.
///
/// # Errors
///
/// What the database reports.
pub async fn load(conn: &mut AsyncPgConnection, asked: &[By]) -> QueryResult<Rows> {
    let mut resolve = Resolve { routes: Vec::new(), numbers: Vec::new(), digests: Vec::new() };
    for one in asked {
        match one {
            By::Ref(key_ref) => {
                resolve.routes.push(key_ref.route);
                resolve.numbers.push(key_ref.number);
            }
            By::Digest(digest) => resolve.digests.push(digest.to_vec()),
        }
    }
    Ok(Rows(resolve.load(conn).await?))
}

/// Whether there are keys that were made elsewhere.
///
/// # Errors
///
/// What the database reports.
pub async fn has_imported(conn: &mut AsyncPgConnection) -> QueryResult<bool> {
    let any = imported_keys::table.select(imported_keys::route);
    diesel::select(exists(any)).get_result(conn).await
}

impl Rows {
    /// Decodes them. A key that was asked for by its ref and by its digest is there by both.
    pub fn decode(mut self, master: &MasterKey, asked: &[By]) -> Found {
        let asked = asked.iter().collect::<HashSet<_>>();
        let mut found = Found { keys: HashMap::new(), snapshot: None };
        for row in &mut self.0 {
            let snapshot = std::mem::take(&mut row.snapshot);
            found.snapshot.get_or_insert_with(|| snapshot.into());
            if !row.is_there {
                continue;
            }
            let by_ref = By::Ref(KeyRef { route: row.route, number: row.number });
            let digests = [Some(&*row.digest), row.old_digest.as_deref()];
            let digests = digests.into_iter().flatten().filter_map(|it| it.try_into().ok());
            for by in std::iter::once(by_ref).chain(digests.map(By::Digest)) {
                if asked.contains(&by) {
                    let known = row.decode(master).map_err(|why| causes(&why).into());
                    found.keys.insert(by, known);
                }
            }
        }
        found
    }
}

impl Row {
    fn decode(&self, master: &MasterKey) -> Result<Known> {
        let key_ref = KeyRef { route: self.route, number: self.number };
        let old_secret = match (&self.old_digest, self.old_master_key_version, self.old_end_time) {
            (Some(digest), Some(version), Some(end)) => {
                Some(Box::new((Stored { digest: digest_of(digest)?, version }, end)))
            }
            _ => None,
        };
        let limits = Limits::of_columns(
            (self.rate_requests, self.rate_window_seconds),
            (self.credits_amount, self.credits_refill_amount, self.credits_refill_seconds),
        );
        let limits = (limits != Limits::default()).then(|| Box::new((limits, self.limits_version)));
        let digest = digest_of(&self.digest)?;
        Ok(Known {
            key_ref,
            id: key_ref.public_id(master),
            secret: Stored { digest, version: self.master_key_version },
            old_secret,
            environment: self.environment.as_deref().map(Arc::from),
            enabled: self.enabled,
            expire_time: self.expire_time,
            revoke_time: self.revoke_time,
            limits,
            owner: Arc::new(self.owner()?),
            kind: self.kind()?,
            caller: OnceLock::new(),
            noted: Noted::default(),
        })
    }

    fn owner(&self) -> Result<Owner> {
        let list = self.list_enabled.zip(self.list_rules.clone());
        let allowlist = allowlist::store::enforced(list)?;
        let tenant = match (self.tenant_uid, &self.tenant_id, &self.tenant_account_id, self.state) {
            (Some(uid), Some(tenant_id), Some(account_id), Some(state)) => {
                let mut locks = locks_of(self.locks_above.as_ref())?;
                locks.extend(self.lock_mode.map(|mode| (mode, self.unlock_time)));
                let trial_expire_time = self.trial_expire_time;
                Some(KnownTenant {
                    uid,
                    tenant_id: tenant_id.clone(),
                    account_id: account_id.clone(),
                    ancestors: self.ancestors.iter().flatten().flatten().copied().collect(),
                    standing: Standing { state, trial_expire_time, locks },
                })
            }
            (None, ..) => None,
            _ => return Err(Error::internal("a key has a tenant that is not there")),
        };
        let of_tenant = tenant.as_ref().map(|tenant| tenant.account_id.clone());
        Ok(Owner { account_id: self.account_id.clone().or(of_tenant), tenant, allowlist })
    }

    fn kind(&self) -> Result<KeyKind> {
        if let Some(scope) = self.scope {
            let roles = roles_named(self.roles.as_deref().unwrap_or_default());
            let backends = self.backend_ids.iter().flatten().flatten().cloned().collect();
            let reseller = self.reseller_id.clone();
            return Ok(KeyKind::Api(ApiGrants::new(scope, roles, reseller, backends)));
        }
        let missing = || Error::internal("an external key hangs on nothing");
        let app = App {
            app_key_id: self.app_key_id.clone().ok_or_else(missing)?,
            installation_id: self.installation_id.clone().ok_or_else(missing)?,
            product_code: self.product_code.clone().ok_or_else(missing)?,
            package_code: self.package_code.clone().ok_or_else(missing)?,
            ttl_hours: self.ttl_hours.ok_or_else(missing)?,
            config: self.config.clone().unwrap_or_default(),
            bound: self.bound(),
        };
        let geo = GeoRules::of_stored(self.geo.as_ref())?;
        let devices = DeviceRules::of_stored(self.device.as_ref())?;
        // As text it is about as much as decoded.
        let granted = app.bound.as_ref().and_then(|bound| bound.granted.as_ref());
        let bytes = geo.heap_bytes()
            + devices.heap_bytes()
            + app.config.to_string().len()
            + granted.map_or(0, Granted::heap_bytes);
        Ok(KeyKind::External(Box::new(External { app: Arc::new(app), geo, devices, bytes })))
    }

    fn bound(&self) -> Option<Bound> {
        let scopes = || self.granted_scopes.iter().flatten().flatten().cloned().collect();
        let granted = self.authorization_id.map(|authorization_id| Granted {
            authorization_id,
            end: End::None,
            valid_until: self.valid_until,
            scopes: scopes(),
            noted: Noted::default(),
        });
        Some(Bound { application_id: self.application_id.clone()?, granted })
    }
}

fn digest_of(stored: &[u8]) -> Result<Digest> {
    Digest::from_slice(stored).ok_or_else(|| Error::internal("a digest has another length"))
}

/// Reads locks as the statement tells them: each a mode and an end, which may be null.
pub(crate) fn locks_of(locks: Option<&Value>) -> Result<Vec<(LockMode, Option<DateTime<Utc>>)>> {
    let unreadable = || Error::internal("a lock cannot be read");
    let read = |lock: &Value| {
        let mode = match lock[0].as_str() {
            Some("READ_ONLY") => LockMode::ReadOnly,
            Some("FULL") => LockMode::Full,
            _ => return Err(unreadable()),
        };
        let end = match lock[1].as_str() {
            None => None,
            Some(text) => Some(text.parse().map_err(|_| unreadable())?),
        };
        Ok((mode, end))
    };
    locks.and_then(Value::as_array).into_iter().flatten().map(read).collect()
}
