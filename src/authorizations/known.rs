//! What is known of what tenants let applications do: all that a check needs, read once.
//!
//! As of keys, what time alone changes stays as it is stored and is compared with the clock at each check.

use std::{
    hash::{Hash, Hasher},
    sync::Arc,
};

use chrono::{DateTime, Utc};
use quick_cache::Equivalent;
use uuid::Uuid;

use crate::keys::{known::KnownTenant, usage::Noted};

/// Where an authorization is looked for: what it says who lets whom act where. At most one there is good.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The id of the tenant.
    pub tenant_id: String,
    /// The application.
    pub application_id: String,
    /// The environment.
    pub environment: String,
}

/// A [`Place`] as a request names it: to look there takes no copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PlaceRef<'a> {
    /// The id of the tenant.
    pub tenant_id: &'a str,
    /// The application.
    pub application_id: &'a str,
    /// The environment.
    pub environment: &'a str,
}

impl Place {
    /// The same, as it is looked for.
    pub fn by_ref(&self) -> PlaceRef<'_> {
        let Self { tenant_id, application_id, environment } = self;
        PlaceRef { tenant_id, application_id, environment }
    }
}

impl Hash for Place {
    /// As that of its [`PlaceRef`]: the one is found by the other.
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.by_ref().hash(state);
    }
}

impl Equivalent<Arc<Place>> for PlaceRef<'_> {
    fn equivalent(&self, place: &Arc<Place>) -> bool {
        *self == place.by_ref()
    }
}

impl From<PlaceRef<'_>> for Place {
    fn from(place: PlaceRef<'_>) -> Self {
        Self {
            tenant_id: place.tenant_id.to_owned(),
            application_id: place.application_id.to_owned(),
            environment: place.environment.to_owned(),
        }
    }
}

/// What a tenant lets an application do at a place, or let it do last.
#[derive(Debug)]
pub struct KnownAuthorization {
    /// Where it was looked for.
    pub place: Arc<Place>,
    /// The tenant.
    pub tenant: KnownTenant,
    /// The account of the application, the other side of it.
    pub publisher_account_id: String,
    /// What it lets the application do.
    pub granted: Granted,
}

/// What an authorization lets an application do.
#[derive(Debug, PartialEq)]
pub struct Granted {
    /// Its id.
    pub authorization_id: Uuid,
    /// What became of it, but by time.
    pub end: End,
    /// Until when it is good.
    pub valid_until: Option<DateTime<Utc>>,
    /// What the application may do.
    pub scopes: Vec<String>,
    /// When it was noted last that it was used.
    pub noted: Noted,
}

/// How an authorization has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Not, unless its time is over.
    None,
    /// It was revoked.
    Revoked,
    /// Its time was over when another took its place.
    Expired,
}

impl Granted {
    /// How it has ended at a time.
    pub fn end_at(&self, now: DateTime<Utc>) -> End {
        match self.end {
            End::None if self.valid_until.is_some_and(|until| until <= now) => End::Expired,
            end => end,
        }
    }

    /// Whether it is good at a time.
    pub fn is_live(&self, now: DateTime<Utc>) -> bool {
        self.end_at(now) == End::None
    }

    /// Whether it lets the application do something.
    pub fn grants(&self, scope: &str) -> bool {
        self.scopes.iter().any(|granted| granted == scope)
    }

    /// When time alone ends it, if that lies ahead.
    pub fn changes_at(&self, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
        self.valid_until.filter(|until| self.end == End::None && *until > now)
    }

    /// How much it takes, about, besides itself.
    pub fn heap_bytes(&self) -> usize {
        self.scopes.iter().map(|scope| scope.len() + size_of::<String>()).sum()
    }
}

#[cfg(test)]
mod tests {
    use std::hash::{BuildHasher as _, RandomState};

    use chrono::TimeDelta;

    use super::*;

    #[test]
    fn a_place_is_found_as_a_request_names_it() {
        let named = PlaceRef { tenant_id: "foo", application_id: "crm", environment: "sod" };
        let place = Arc::new(Place::from(named));
        let hasher = RandomState::new();

        assert!(named.equivalent(&place));
        assert_eq!(hasher.hash_one(named), hasher.hash_one(&place));
        let other = PlaceRef { tenant_id: "foocrm", application_id: "", ..named };
        assert!(!other.equivalent(&place));
    }

    #[test]
    fn an_authorization_is_good_until_its_end() {
        let now = DateTime::UNIX_EPOCH;
        let later = now + TimeDelta::seconds(1);
        let granted = |end, valid_until| Granted {
            authorization_id: Uuid::nil(),
            end,
            valid_until,
            scopes: vec!["read".into()],
            noted: Noted::default(),
        };

        assert!(granted(End::None, None).is_live(now));
        assert!(granted(End::None, Some(later)).is_live(now));
        assert_eq!(granted(End::None, Some(later)).changes_at(now), Some(later));
        assert_eq!(granted(End::None, Some(later)).end_at(later), End::Expired);
        assert_eq!(granted(End::Revoked, Some(later)).end_at(later), End::Revoked);
        assert_eq!(granted(End::Revoked, Some(later)).changes_at(now), None);
        assert_eq!(granted(End::Expired, None).end_at(now), End::Expired);
        assert!(granted(End::None, None).grants("read"));
        assert!(!granted(End::None, None).grants("rea"));
    }
}
