//! Keys that were made elsewhere, imported by the hashes of their texts.
//!
//! A stream, so that a million keys are one call, whose caller sees how far it is. Each of its messages
//! is a change like any other, in a transaction of its own: there is nothing to be undone where a stream
//! breaks off, and nothing to be remembered either, since a key that is there already is passed over.
//!
//! What is stored of a text is the digest of its SHA-256, as of every secret; a dump of the database
//! cannot be tested against guesses. Unlike other keys an imported one is found by that digest, which the
//! table `imported_keys` leads to its row.

use std::{
    collections::{BTreeSet, HashMap},
    panic::AssertUnwindSafe,
    sync::Arc,
    time::Duration,
};

use chrono::{DateTime, Utc};
use diesel::{
    prelude::*,
    result::{DatabaseErrorKind, Error as DieselError},
};
use diesel_async::RunQueryDsl;
use futures_util::FutureExt as _;
use tokio::{
    sync::mpsc,
    time::{Instant, sleep_until},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use super::{
    app_keys,
    external_keys::{self as keys, Beside, ExternalKey, NewExternalKey},
    installations,
    master::MasterKey,
    model::{new_refs, route_of_tenant},
    secret::KeyRef,
};
use crate::{
    db::Role,
    directory::environments,
    error::{Error, Kind, Result, source_of},
    events::outbox::Event,
    pb,
    rpc::{Call, TenantOfCall, mutate::Change, observe::dressed, permit::json_of},
    schema::{external_keys, imported_keys, key_credits, tenant_app_keys, tenant_installations},
    server::Shared,
    tenants,
    wire::Fields,
};

/// How many keys a message has at most: what one transaction holds its locks for.
const KEYS_MAX: usize = 500;

/// How long a message may take, like a call of its own.
const MESSAGE_TIMEOUT: Duration = Duration::from_secs(30);

/// The answers of a stream.
pub type Answers = ReceiverStream<Result<pb::ImportKeysResponse, Status>>;

/// Begins an import.
pub fn start(
    shared: Arc<Shared>,
    call: Arc<Call>,
    requests: Streaming<pb::ImportKeysRequest>,
) -> Answers {
    let (out, answers) = mpsc::channel(1);
    let correlation_id = call.correlation_id.clone();
    let last_word = out.clone();
    let import = Import { shared, call, requests, out, told: pb::ImportKeysResponse::default() };
    tokio::spawn(async move {
        // A stream that breaks off must not look like one that has ended.
        let ended = AssertUnwindSafe(import.run()).catch_unwind().await;
        let ended = ended.unwrap_or_else(|_| Err(Error::internal("the import panicked")));
        if let Err(error) = ended {
            tracing::info!(error = %error, correlation.id = &*correlation_id, "a stream ended");
            // Whoever has gone hears nothing, and needs not.
            let _ = last_word.send(Err(dressed(&Status::from(error), &correlation_id))).await;
        }
    });
    ReceiverStream::new(answers)
}

/// An import under way.
struct Import {
    shared: Arc<Shared>,
    call: Arc<Call>,
    requests: Streaming<pb::ImportKeysRequest>,
    out: mpsc::Sender<Result<pb::ImportKeysResponse, Status>>,
    /// How far it is.
    told: pb::ImportKeysResponse,
}

impl Import {
    /// Imports what comes until the caller ends, or goes.
    async fn run(mut self) -> Result<()> {
        self.call.own_tenant()?;
        loop {
            // Whoever has gone is noticed below.
            let _ = self.out.send(Ok(self.told.clone())).await;
            let request = tokio::select! {
                request = self.requests.message() => request.map_err(|status| ours(&status))?,
                () = self.out.closed() => return Ok(()),
                () = sleep_until(self.call.deadline) => return Err(Error::DeadlineExceeded),
                () = self.shared.feed.closed() => {
                    return Err(Error::DatabaseAway(
                        "the service stops: import again from the beginning, on another node".into(),
                    ));
                }
            };
            let Some(request) = request else {
                return Ok(());
            };
            let pb::ImportKeysResponse { imported, passed_over, external_key_ids } =
                self.import(&request).await?;
            self.told.imported += imported;
            self.told.passed_over += passed_over;
            self.told.external_key_ids = external_key_ids;
        }
    }

    /// Imports the keys of a message, as a call of its own.
    async fn import(&self, request: &pb::ImportKeysRequest) -> Result<pb::ImportKeysResponse> {
        let deadline = self.call.deadline.min(Instant::now() + MESSAGE_TIMEOUT);
        // As the key of the call is now: what it may give away may have become less since the stream began.
        let call = self.shared.identifier().admit_still(&self.call, deadline).await?;
        let keys = read(request, self.shared.clock.now())?;
        let tenant = call.own_tenant()?;
        let master = &self.shared.master;
        let act = async |change: &mut Change<'_>| import(change, master, tenant, &keys).await;
        self.shared.mutator.mutate(&call, request, act).await
    }
}

/// What ended the requests, in our words.
fn ours(status: &Status) -> Error {
    match source_of(status) {
        Some(Error::Invalid(violations)) => Error::Invalid(violations.clone()),
        _ => Error::of_foreign(status),
    }
}

/// A key that is to be imported.
struct NewKey {
    sha256: [u8; 32],
    app_key_id: String,
    key: NewExternalKey,
}

/// Reads the keys of a message at a time, which their ends must lie after.
fn read(request: &pb::ImportKeysRequest, now: DateTime<Utc>) -> Result<Vec<NewKey>> {
    let number = request.keys.len();
    if !(1..=KEYS_MAX).contains(&number) {
        return Err(Error::invalid("keys", format!("are {number}, and must be 1 to {KEYS_MAX}")));
    }
    let mut fields = Fields::default();
    let mut places = HashMap::new();
    let mut keys = Vec::with_capacity(number);
    for (place, imported) in request.keys.iter().enumerate() {
        let at = format!("keys[{place}]");
        let field = format!("{at}.sha256");
        let sha256 = fields.take(&field, read_sha256(&imported.sha256));
        if let Some(first) = sha256.and_then(|sha256| places.insert(sha256, place)) {
            fields.refuse(&field, format!("is that of keys[{first}] too: send each key once"));
        }
        let Some(key) = &imported.external_key else {
            fields.refuse(&format!("{at}.external_key"), "is required");
            continue;
        };
        let at = format!("{at}.external_key");
        let app_key_id =
            fields.take(&format!("{at}.app_key_id"), app_keys::read_id(&key.app_key_id));
        let key = NewExternalKey::read(key, &at, now, &mut fields);
        if let (Some(sha256), Some(app_key_id), Some(key)) = (sha256, app_key_id, key) {
            keys.push(NewKey { sha256, app_key_id, key });
        }
    }
    fields.finish()?;
    Ok(keys)
}

fn read_sha256(bytes: &[u8]) -> Result<[u8; 32], String> {
    bytes.try_into().map_err(|_| {
        format!(
            "has {} bytes; a SHA-256 has 32, and is sent as such, not in hex: in JSON as base64",
            bytes.len()
        )
    })
}

/// Imports keys: those that are not there yet.
async fn import(
    change: &mut Change<'_>,
    master: &MasterKey,
    tenant: &TenantOfCall,
    keys: &[NewKey],
) -> Result<pb::ImportKeysResponse> {
    tenants::store::hold(change.conn(), tenant).await?;
    tenants::life::check_protection_of_keys(change, tenant.uid).await?;
    for new in keys {
        change.call.check_end(new.key.expire_time)?;
    }
    let app_keys = find_app_keys(change, tenant, keys).await?;
    // As whoever adds to them does; in one order, so that two imports never wait for each other.
    for installation_id in app_keys.values().map(|(id, ..)| id).collect::<BTreeSet<_>>() {
        installations::hold(change, tenant, installation_id).await?;
    }
    for environment in keys.iter().map(|key| &key.key.environment).collect::<BTreeSet<_>>() {
        change.call.check_environment(Some(environment))?;
        environments::find(change.conn(), environment).await?;
    }

    let (known, meets_others) = find_known(change, master, tenant, keys).await?;
    let new = keys.iter().zip(&known).filter(|(_, known)| known.is_none()).map(|(key, _)| key);
    let new = insert(change, master, tenant, &new.collect::<Vec<_>>(), meets_others).await?;
    tell(change, master, tenant, &app_keys, &new).await?;

    let mut inserted = new.iter().map(|(key, _)| KeyRef { route: key.route, number: key.number });
    let refs = known.iter().filter_map(|known| known.or_else(|| inserted.next()));
    let external_key_ids = refs.map(|key_ref| key_ref.public_id(master).to_string()).collect();
    let count = |number: usize| i64::try_from(number).map_err(Error::internal);
    Ok(pb::ImportKeysResponse {
        imported: count(new.len())?,
        passed_over: count(keys.len() - new.len())?,
        external_key_ids,
    })
}

/// Of what an app key is: its installation, and the product and the package of that.
type AppKey = (String, String, String);

/// Finds the app keys of keys.
async fn find_app_keys(
    change: &mut Change<'_>,
    tenant: &TenantOfCall,
    keys: &[NewKey],
) -> Result<HashMap<String, AppKey>> {
    let ids = keys.iter().map(|key| &key.app_key_id).collect::<BTreeSet<_>>();
    let of_installation = tenant_app_keys::tenant_uid
        .eq(tenant_installations::tenant_uid)
        .and(tenant_app_keys::installation_id.eq(tenant_installations::installation_id));
    let found: Vec<(String, AppKey)> = tenant_app_keys::table
        .inner_join(tenant_installations::table.on(of_installation))
        .filter(tenant_app_keys::tenant_uid.eq(tenant.uid))
        .filter(tenant_app_keys::app_key_id.eq_any(&ids))
        .select((
            tenant_app_keys::app_key_id,
            (
                tenant_installations::installation_id,
                tenant_installations::product_code,
                tenant_installations::package_code,
            ),
        ))
        .load(change.conn())
        .await?;
    let found = found.into_iter().collect::<HashMap<_, _>>();
    match ids.into_iter().find(|id| !found.contains_key(*id)) {
        Some(missing) => Err(Error::not_found(Kind::AppKey, missing)),
        None => Ok(found),
    }
}

/// Finds those keys that are there already, of the app key that they are to be of, by whichever version of the
/// master key their digests were made. What else is said of them may have been changed since. Answers beside whether
/// there are hashes that are those of other tenants' keys.
///
/// # Errors
///
/// A hash that is that of another key of the tenant.
async fn find_known(
    change: &mut Change<'_>,
    master: &MasterKey,
    tenant: &TenantOfCall,
    keys: &[NewKey],
) -> Result<(Vec<Option<KeyRef>>, bool)> {
    let mut places = HashMap::new();
    for version in master.versions() {
        for (place, key) in keys.iter().enumerate() {
            places.insert(digest(master, version, &key.sha256)?, place);
        }
    }
    // A digest leads to one key, be it one that the caller cannot see. The verifier alone sees them all,
    // and of each nothing but where its row lies.
    change.take_on(Role::Verifier).await?;
    let found: Vec<(Vec<u8>, i64, i64)> = imported_keys::table
        .filter(imported_keys::digest.eq_any(places.keys()))
        .select((imported_keys::digest, imported_keys::route, imported_keys::number))
        .load(change.conn())
        .await?;
    change.take_on(Role::Service).await?;
    let mut known = vec![None; keys.len()];
    if found.is_empty() {
        return Ok((known, false));
    }

    let numbers = found.iter().map(|(.., number)| *number).collect::<Vec<_>>();
    let own: Vec<((i64, i64), String)> = external_keys::table
        .filter(external_keys::tenant_uid.eq(tenant.uid))
        .filter(external_keys::route.eq(route_of_tenant(tenant.uid)))
        .filter(external_keys::number.eq_any(numbers))
        .select(((external_keys::route, external_keys::number), external_keys::app_key_id))
        .load(change.conn())
        .await?;
    let own = own.into_iter().collect::<HashMap<_, _>>();
    let mut found = found
        .into_iter()
        .filter_map(|(digest, route, number)| Some((*places.get(&digest)?, (route, number))))
        .collect::<Vec<_>>();
    found.sort_unstable();
    let mut meets_others = false;
    for (place, (route, number)) in found {
        match own.get(&(route, number)) {
            None => meets_others = true,
            Some(of) if *of == keys[place].app_key_id => {
                known[place] = Some(KeyRef { route, number });
            }
            Some(_) => return Err(taken(format!("keys[{place}].sha256"))),
        }
    }
    Ok((known, meets_others))
}

fn taken(id: String) -> Error {
    Error::AlreadyExists { kind: Kind::ExternalKey, what: "hash", id }
}

fn digest(master: &MasterKey, version: i16, sha256: &[u8; 32]) -> Result<Vec<u8>> {
    let digest = master.digest_of_sha256(version, sha256);
    digest
        .map(|digest| digest.as_bytes().to_vec())
        .ok_or_else(|| Error::internal("a version of the master key is missing"))
}

/// Stores new keys; answers them in their order, with what they were made of.
async fn insert<'a>(
    change: &mut Change<'_>,
    master: &MasterKey,
    tenant: &TenantOfCall,
    new: &[&'a NewKey],
    meets_others: bool,
) -> Result<Vec<(ExternalKey, &'a NewKey)>> {
    let (now, creator) = (change.now, change.call.actor());
    let count = u16::try_from(new.len()).map_err(Error::internal)?;
    let refs = new_refs(route_of_tenant(tenant.uid), now, count);
    let mut rows = Vec::with_capacity(new.len());
    for (new, key_ref) in new.iter().zip(refs) {
        let (NewKey { sha256, app_key_id, key }, creator) = (new, creator.clone());
        let stored = master.digest_now(sha256);
        rows.push(key.row(key_ref, tenant.uid, app_key_id.clone(), stored, creator, now));
    }
    if rows.is_empty() {
        return Ok(Vec::new());
    }
    diesel::insert_into(external_keys::table)
        .values(&rows)
        .execute(change.conn())
        .await
        .map_err(met)?;
    let mut digests = rows
        .iter()
        .map(|row| {
            (
                imported_keys::digest.eq(&row.digest),
                imported_keys::master_key_version.eq(row.master_key_version),
                imported_keys::route.eq(row.route),
                imported_keys::number.eq(row.number),
                imported_keys::tenant_uid.eq(row.tenant_uid),
            )
        })
        .zip(&rows)
        .collect::<Vec<_>>();
    // In one order, so that imports of the same keys wait for each other and never in a circle.
    digests.sort_by(|(_, one), (_, other)| one.digest.cmp(&other.digest));
    let digests = digests.into_iter().map(|(values, _)| values).collect::<Vec<_>>();
    // That hashes are those of keys of others is told to nobody who does not mean it: not to a rehearsal, which
    // would meet them here; not where anything else stands against the import; and never which of them.
    if !change.rehearses() {
        if meets_others {
            return Err(taken("one of keys[].sha256".to_owned()));
        }
        diesel::insert_into(imported_keys::table)
            .values(digests)
            .execute(change.conn())
            .await
            .map_err(met)?;
    }
    let credits = rows
        .iter()
        .filter_map(|row| {
            Some((
                key_credits::route.eq(row.route),
                key_credits::number.eq(row.number),
                key_credits::tenant_uid.eq(row.tenant_uid),
                key_credits::limits_version.eq(row.limits_version),
                key_credits::remaining.eq(row.credits_amount?),
                key_credits::granted.eq(0),
                key_credits::refill_time.eq(now),
            ))
        })
        .collect::<Vec<_>>();
    if !credits.is_empty() {
        diesel::insert_into(key_credits::table).values(credits).execute(change.conn()).await?;
    }
    Ok(rows.into_iter().zip(new.iter().copied()).collect())
}

/// Somebody else was faster: with the same key, or in deleting what it is of. The next attempt sees it.
fn met(error: DieselError) -> Error {
    match &error {
        DieselError::DatabaseError(
            DatabaseErrorKind::UniqueViolation | DatabaseErrorKind::ForeignKeyViolation,
            _,
        ) => Error::Contended(error),
        _ => error.into(),
    }
}

/// Tells of each key, in their order.
async fn tell(
    change: &mut Change<'_>,
    master: &MasterKey,
    tenant: &TenantOfCall,
    app_keys: &HashMap<String, AppKey>,
    new: &[(ExternalKey, &NewKey)],
) -> Result<()> {
    if new.is_empty() {
        return Ok(());
    }
    let now = change.now;
    let told = new
        .iter()
        .map(|(row, _)| {
            let of = app_keys.get(&row.app_key_id).cloned().unwrap_or_default();
            let beside = Beside::of(&tenant.tenant_id, of);
            keys::message(row.clone(), beside, master, now)
        })
        .collect::<Result<Vec<_>>>()?;
    let of_tenant = (tenant.uid, &*tenant.tenant_id);
    let events = told.iter().map(|key| Event {
        kind: "external_key.imported",
        account_id: Some(&tenant.account_id),
        tenant: Some(of_tenant),
        resource_type: "external_key",
        resource_id: &key.external_key_id,
        before: None,
        after: Some(json_of(key)),
    });
    change.record_all(of_tenant, events.collect()).await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn imported(sha256: Vec<u8>, label: &str) -> pb::ImportedKey {
        let external_key = pb::ExternalKey {
            app_key_id: "0123456789abcdef0123456789ABCDEF".into(),
            label: label.into(),
            environment: "Production".into(),
            ..Default::default()
        };
        pb::ImportedKey { sha256, external_key: Some(external_key) }
    }

    fn refused(keys: Vec<pb::ImportedKey>) -> Vec<String> {
        let request = pb::ImportKeysRequest { keys, ..Default::default() };
        match read(&request, DateTime::UNIX_EPOCH) {
            Err(Error::Invalid(violations)) => {
                violations.into_iter().map(|violation| violation.field).collect()
            }
            _ => Vec::new(),
        }
    }

    #[test]
    fn each_key_of_a_message_is_checked_and_named_by_its_place() {
        let one = imported(vec![1; 32], "one");
        let mut two = imported(vec![2; 31], "");
        let three = pb::ImportedKey { sha256: vec![3; 32], external_key: None };

        assert_eq!(refused(vec![one.clone()]), Vec::<String>::new());
        assert_eq!(refused(Vec::new()), ["keys"]);
        assert_eq!(refused(vec![one.clone(); 501]), ["keys"]);
        assert_eq!(refused(vec![one.clone(), one.clone()]), ["keys[1].sha256"]);
        assert_eq!(
            refused(vec![one.clone(), two.clone(), three]),
            ["keys[1].sha256", "keys[1].external_key.label", "keys[2].external_key"]
        );
        let key = two.external_key.as_mut().unwrap();
        key.app_key_id = "x".into();
        key.exp_date = "tomorrow".into();
        key.geo = Some(pb::GeoRules { allow: vec!["nowhere".into()], deny: Vec::new() });
        key.credits = Some(pb::Credits { amount: Some(-1), ..Default::default() });
        assert_eq!(
            refused(vec![one, two])[1..],
            [
                "keys[1].external_key.app_key_id",
                "keys[1].external_key.label",
                "keys[1].external_key.exp_date",
                "keys[1].external_key.geo.allow[0]",
                "keys[1].external_key.credits.amount",
            ]
        );
    }

    #[test]
    fn a_key_ends_at_a_time_or_with_a_day_not_both() {
        let mut key = imported(vec![1; 32], "one");
        let external_key = key.external_key.as_mut().unwrap();
        external_key.expire_time = Some(prost_types::Timestamp { seconds: 86_400, nanos: 0 });
        external_key.exp_date = "1970-01-05".into();

        assert_eq!(refused(vec![key]), ["keys[0].external_key.exp_date"]);
    }
}
