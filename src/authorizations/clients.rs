//! As which clients applications prove themselves, another one in each environment they are published in (0-26).

use chrono::{DateTime, TimeDelta, Utc};
use diesel::{pg::Pg, prelude::*};
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use secrecy::{ExposeSecret as _, SecretString};
use sha2::{Digest as _, Sha256};

use super::overtaken;
use crate::{
    error::Result,
    keys::{
        master::MasterKey,
        secret::{Digest, random},
    },
    pb,
    schema::{application_clients, environments},
};

/// What the texts of client secrets begin with, so that scanners find them.
const PREFIX: &str = "tcs_";

/// The client of an application in one environment.
#[derive(Clone, PartialEq, Eq, HasQuery, Insertable, AsChangeset)]
#[diesel(table_name = application_clients, primary_key(application_id, environment))]
#[diesel(treat_none_as_null = true, check_for_backend(Pg))]
#[expect(clippy::struct_field_names, reason = "the columns' own names")]
pub(super) struct Client {
    pub application_id: String,
    pub environment: String,
    /// Generated, immutable.
    #[diesel(skip_update)]
    pub client_id: String,
    secret_digest: Vec<u8>,
    master_key_version: i16,
    old_secret_digest: Option<Vec<u8>>,
    old_master_key_version: Option<i16>,
    old_end_time: Option<DateTime<Utc>>,
}

/// A client, and its secret where that is new.
pub(super) struct WithSecret {
    pub client: Client,
    secret: SecretString,
}

impl WithSecret {
    /// Makes a client of an application in an environment.
    pub(super) fn generate(master: &MasterKey, application_id: &str, environment: &str) -> Self {
        let (secret, secret_digest, master_key_version) = generate(master);
        let client = Client {
            application_id: application_id.to_owned(),
            environment: environment.to_owned(),
            client_id: hex::encode(random::<16>()),
            secret_digest,
            master_key_version,
            old_secret_digest: None,
            old_master_key_version: None,
            old_end_time: None,
        };
        Self { client, secret }
    }

    /// How it looks from outside, the only time that it is shown.
    pub(super) fn told(&self) -> pb::ApplicationClient {
        pb::ApplicationClient {
            environment: self.client.environment.clone(),
            client_id: self.client.client_id.clone(),
            client_secret: self.secret.expose_secret().to_owned(),
        }
    }
}

impl Client {
    /// Gives it a new secret, beside which the one before stays good for a while.
    pub(super) fn rotate(
        mut self,
        master: &MasterKey,
        overlap: TimeDelta,
        now: DateTime<Utc>,
    ) -> WithSecret {
        let (secret, digest, version) = generate(master);
        let old = std::mem::replace(&mut self.secret_digest, digest);
        let old_version = std::mem::replace(&mut self.master_key_version, version);
        let stays = !overlap.is_zero();
        self.old_secret_digest = stays.then_some(old);
        self.old_master_key_version = stays.then_some(old_version);
        self.old_end_time = stays.then(|| now + overlap);
        WithSecret { client: self, secret }
    }

    /// Whether a secret is its own at a time; compared in constant time.
    pub(super) fn has_secret(&self, master: &MasterKey, secret: &str, now: DateTime<Utc>) -> bool {
        let sha256 = Sha256::digest(secret).into();
        let is = |version: i16, stored: &[u8]| {
            let stored = Digest::from_slice(stored);
            stored.is_some() && master.digest_of_sha256(version, &sha256) == stored
        };
        let old = match (&self.old_secret_digest, self.old_master_key_version, self.old_end_time) {
            (Some(digest), Some(version), Some(end)) => now < end && is(version, digest),
            _ => false,
        };
        is(self.master_key_version, &self.secret_digest) || old
    }
}

/// Makes a secret; answers it with what is stored of it.
fn generate(master: &MasterKey) -> (SecretString, Vec<u8>, i16) {
    let secret = format!("{PREFIX}{}", hex::encode(random::<32>()));
    let (digest, version) = master.digest_now(&Sha256::digest(&secret).into());
    (secret.into(), digest.as_bytes().to_vec(), version)
}

/// Finds the clients of applications, in the order of their environments (0-01).
pub(super) async fn of(
    conn: &mut AsyncPgConnection,
    application_ids: &[&str],
) -> Result<Vec<Client>> {
    Ok(application_clients::table
        .inner_join(
            environments::table
                .on(environments::environment_id.eq(application_clients::environment)),
        )
        .filter(application_clients::application_id.eq_any(application_ids))
        .order((
            application_clients::application_id,
            environments::position,
            environments::environment_id,
        ))
        .select(Client::as_select())
        .load(conn)
        .await?)
}

/// Finds the client that an id is said to be of.
pub(super) async fn find(conn: &mut AsyncPgConnection, client_id: &str) -> Result<Option<Client>> {
    Ok(Client::query()
        .filter(application_clients::client_id.eq(client_id))
        .get_result(conn)
        .await
        .optional()?)
}

/// Stores new clients.
pub(super) async fn insert(conn: &mut AsyncPgConnection, new: &[WithSecret]) -> Result<()> {
    let new = new.iter().map(|new| &new.client).collect::<Vec<_>>();
    diesel::insert_into(application_clients::table)
        .values(new)
        .execute(conn)
        .await
        .map_err(overtaken)?;
    Ok(())
}

/// Stores a client whose secret has changed.
pub(super) async fn update(conn: &mut AsyncPgConnection, client: &Client) -> Result<()> {
    diesel::update(application_clients::table.find((&client.application_id, &client.environment)))
        .set(client)
        .execute(conn)
        .await?;
    Ok(())
}

/// Deletes the clients of an application in all but some environments.
pub(super) async fn delete_others(
    conn: &mut AsyncPgConnection,
    application_id: &str,
    kept: &[String],
) -> Result<()> {
    diesel::delete(
        application_clients::table
            .filter(application_clients::application_id.eq(application_id))
            .filter(diesel::dsl::not(application_clients::environment.eq_any(kept))),
    )
    .execute(conn)
    .await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_good_until_its_overlap_ends_and_looks_like_one() {
        let master = MasterKey::sample();
        let now = DateTime::UNIX_EPOCH;
        let first = WithSecret::generate(&master, "app", "sod");
        let old = first.secret.expose_secret().to_owned();

        let second = first.client.rotate(&master, TimeDelta::hours(1), now);

        let new = second.secret.expose_secret();
        let pattern = regex::Regex::new(r"\btcs_[0-9a-f]{64}\b").unwrap();
        assert!(pattern.is_match(new) && *new != old);
        let end = now + TimeDelta::hours(1);
        let is = |secret: &str, at| second.client.has_secret(&master, secret, at);
        assert!(is(new, now) && is(new, end));
        assert!(is(&old, end - TimeDelta::microseconds(1)) && !is(&old, end));
        assert!(!is("", now) && !is(&new[..new.len() - 1], now));
        let third = second.client.clone().rotate(&master, TimeDelta::zero(), now);
        assert!(!third.client.has_secret(&master, new, now), "without an overlap it ends at once");
    }
}
