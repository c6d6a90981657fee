//! New external keys: what callers say of them, and how they come to be.

use chrono::{DateTime, Days, NaiveDate, TimeDelta, Utc};
use diesel_async::RunQueryDsl;
use uuid::Uuid;

use super::{
    LABEL_MAX,
    model::{Beside, ExternalKey, message},
    store::refused,
    tell_of,
    wire::check_rules,
};
use crate::{
    directory::environments,
    error::Result,
    keys::{
        installations::Installation,
        limits::{self, Limits},
        master::MasterKey,
        model::{new_ref, route_of_tenant},
        secret::{self, Digest, KeyRef, KeySecret, KeyText},
    },
    pb,
    rpc::{TenantOfCall, mutate::Change, permit::json_of},
    schema::external_keys,
    wire::{Fields, id, is_storable, text, time},
};

/// What a caller says of a new external key.
#[derive(Clone, Debug)]
pub struct NewExternalKey {
    pub(in crate::keys) label: String,
    /// The environment, whether or not it is there.
    pub(in crate::keys) environment: String,
    pub(in crate::keys) expire_time: Option<DateTime<Utc>>,
    pub(super) device: Option<pb::DeviceRules>,
    pub(super) geo: Option<pb::GeoRules>,
    pub(super) enabled: bool,
    pub(in crate::keys) limits: Limits,
}

impl NewExternalKey {
    /// Reads the first key of an installation at a place of a request.
    pub(in crate::keys) fn read_first(
        pb: &pb::NewExternalKey,
        at: &str,
        now: DateTime<Utc>,
        fields: &mut Fields,
    ) -> Option<Self> {
        let label = fields.take(&format!("{at}.label"), text(&pb.label, 1, LABEL_MAX));
        let environment = fields.take(&format!("{at}.env"), read_environment(&pb.env));
        let expire_time = fields.take(&format!("{at}.exp_date"), read_last_day(&pb.exp_date, now));
        check_rules(pb.device.as_ref(), pb.geo.as_ref(), at, fields);
        Some(Self {
            label: label?,
            environment: environment?,
            expire_time: expire_time?,
            device: pb.device.clone(),
            geo: pb.geo.clone(),
            enabled: true,
            limits: Limits::default(),
        })
    }

    /// Reads an external key at a place of a request, at a time that its end must lie after.
    pub fn read(
        pb: &pb::ExternalKey,
        at: &str,
        now: DateTime<Utc>,
        fields: &mut Fields,
    ) -> Option<Self> {
        let label = fields.take(&format!("{at}.label"), text(&pb.label, 1, LABEL_MAX));
        let environment =
            fields.take(&format!("{at}.environment"), read_environment(&pb.environment));
        let expire_time = fields.take(&place_of_end(pb, at), read_end(pb, now));
        check_rules(pb.device.as_ref(), pb.geo.as_ref(), at, fields);
        let rate = limits::read_rate(pb.rate_limit.as_ref(), &format!("{at}.rate_limit"), fields);
        let credits = limits::read_credits(pb.credits.as_ref(), &format!("{at}.credits"), fields);
        Some(Self {
            label: label?,
            environment: environment?,
            expire_time: expire_time?,
            device: pb.device.clone(),
            geo: pb.geo.clone(),
            enabled: pb.enabled.unwrap_or(true),
            limits: Limits { rate, credits },
        })
    }
    /// The row of such a key, with the digest of its secret and the version of the master key that made it.
    pub(in crate::keys) fn row(
        &self,
        KeyRef { route, number }: KeyRef,
        tenant_uid: Uuid,
        app_key_id: String,
        (digest, master_key_version): (Digest, i16),
        created_by: String,
        now: DateTime<Utc>,
    ) -> ExternalKey {
        let mut key = ExternalKey {
            route,
            number,
            tenant_uid,
            app_key_id,
            label: self.label.clone(),
            environment: self.environment.clone(),
            expire_time: self.expire_time,
            device: self.device.as_ref().map(json_of),
            geo: self.geo.as_ref().map(json_of),
            enabled: self.enabled,
            digest: digest.as_bytes().to_vec(),
            master_key_version,
            created_by,
            create_time: now,
            update_time: now,
            revoke_time: None,
            revoked_by: None,
            revoke_reason: None,
            version: 1,
            old_digest: None,
            old_master_key_version: None,
            old_end_time: None,
            rate_requests: None,
            rate_window_seconds: None,
            credits_amount: None,
            credits_refill_amount: None,
            credits_refill_seconds: None,
            limits_version: 0,
        };
        if self.limits != Limits::default() {
            key.set_limits(self.limits);
        }
        key
    }
}

pub(super) fn read_environment(value: &str) -> Result<String, String> {
    id(&value.to_ascii_lowercase())
}

/// The field that says when a key ends.
pub(super) fn place_of_end(pb: &pb::ExternalKey, at: &str) -> String {
    let field = if pb.exp_date.is_empty() { "expire_time" } else { "exp_date" };
    format!("{at}.{field}")
}

/// Reads when a key ends, which is said in one of two ways.
pub(super) fn read_end(
    pb: &pb::ExternalKey,
    now: DateTime<Utc>,
) -> Result<Option<DateTime<Utc>>, String> {
    let Some(end) = &pb.expire_time else {
        return read_last_day(&pb.exp_date, now);
    };
    if !pb.exp_date.is_empty() {
        return Err("stands beside expire_time: send one of them".to_owned());
    }
    let end = time(end)?;
    if end <= now { Err("does not lie ahead".to_owned()) } else { Ok(Some(end)) }
}

/// Reads the last day of a key: the key ends with it, in UTC (1-30).
fn read_last_day(date: &str, now: DateTime<Utc>) -> Result<Option<DateTime<Utc>>, String> {
    if date.is_empty() {
        return Ok(None);
    }
    let day = date
        .parse::<NaiveDate>()
        .ok()
        .or_else(|| DateTime::parse_from_rfc3339(date).ok().map(|time| time.to_utc().date_naive()))
        .ok_or("is not a day such as 2027-01-31")?;
    let end = day
        .checked_add_days(Days::new(1))
        .filter(|_| (0..10_000).contains(&chrono::Datelike::year(&day)))
        .and_then(|next| next.and_hms_opt(0, 0, 0))
        .ok_or("is not a day of the years up to 9999")?
        .and_utc();
    // The last day ends with the last time that there is a form for.
    let end = if is_storable(&end) { end } else { end - TimeDelta::microseconds(1) };
    if end <= now { Err("is over".to_owned()) } else { Ok(Some(end)) }
}

/// Issues an external key of an app key, whose installation the change holds.
///
/// # Errors
///
/// When the environment or the app key is unknown, or what the database reports.
pub async fn issue(
    change: &mut Change<'_>,
    master: &MasterKey,
    tenant: &TenantOfCall,
    installation: &Installation,
    app_key_id: String,
    new: &NewExternalKey,
) -> Result<(pb::ExternalKey, KeyText)> {
    change.call.check_environment(Some(&new.environment))?;
    change.call.check_end(new.expire_time)?;
    environments::find(change.conn(), &new.environment).await?;
    let secret = KeySecret::generate();
    let key_ref = new_ref(route_of_tenant(tenant.uid), change.now);
    let stored = master.digest_now(&secret.sha256());
    let key = new.row(key_ref, tenant.uid, app_key_id, stored, change.call.actor(), change.now);
    diesel::insert_into(external_keys::table)
        .values(&key)
        .execute(change.conn())
        .await
        .map_err(|error| refused(error, &key))?;
    if new.limits.credits.is_some() {
        let limits = (key.limits_version, key.limits().credits);
        limits::begin(change, key_ref, Some(tenant.uid), limits).await?;
    }
    let text = secret::mint(master, Some(&new.environment), key_ref, &secret);
    let told = message(key, Beside::new(tenant, installation), master, change.now)?;
    tell_of(change, tenant, "external_key.created", None, &told).await?;
    Ok((told, text))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> DateTime<Utc> {
        text.parse().unwrap()
    }

    /// 1-30
    #[test]
    fn a_key_is_good_until_the_end_of_its_last_day() {
        let now = at("2026-11-23T18:00:00Z");
        let end = |date: &str| read_last_day(date, now);

        assert_eq!(end("").unwrap(), None);
        assert_eq!(end("2026-11-23").unwrap(), Some(at("2026-11-24T00:00:00Z")));
        assert_eq!(end("2026-12-31").unwrap(), Some(at("2027-01-01T00:00:00Z")));
        assert_eq!(end("2027-01-31T23:30:00-02:00").unwrap(), Some(at("2027-02-02T00:00:00Z")));
        for wrong in ["2026-11-22", "tomorrow", "2026-13-01", "31.1.2027", "20270131", "\0"] {
            assert!(end(wrong).is_err(), "{wrong}");
        }
    }
}
