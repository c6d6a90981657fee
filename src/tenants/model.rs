//! What a tenant is: its row, its states and its place in the tree.

use chrono::{DateTime, TimeDelta, Utc};
use diesel::prelude::*;
use serde_json::Value;
use uuid::Uuid;

use super::placement::PLACE;
use crate::{
    config::Settings,
    error::{Error, Kind, Result},
    pb::{self, ErrorReason},
    rpc::Call,
    schema::tenants,
    text_enum,
};

/// How long a trial lasts (3-14).
pub const TRIAL: TimeDelta = TimeDelta::days(60);

/// How many levels the tree of tenants may have, the root's included.
pub const DEPTH_MAX: usize = 5;

text_enum! {
    /// Place in the product hierarchy (1-06).
    pub enum TenantType {
        /// A main tenant.
        Product = "PRODUCT",
        /// A sub-tenant.
        Client = "CLIENT",
    }
}

text_enum! {
    /// What kind of organisation it is (2-03).
    pub enum OrganizationKind {
        /// Uses the platform itself.
        Enterprise = "ENTERPRISE",
        /// Serves tenants below it.
        ServiceProvider = "SERVICE_PROVIDER",
    }
}

text_enum! {
    /// What it uses the platform for (3-15).
    pub enum ServiceLine {
        /// Authentication.
        Authentication = "AUTHENTICATION",
        /// Issuance.
        Issuance = "ISSUANCE",
    }
}

text_enum! {
    /// Under which contract it runs (3-07).
    pub enum ContractMode {
        /// On trial.
        Trial = "TRIAL",
        /// In earnest.
        Production = "PRODUCTION",
    }
}

text_enum! {
    /// Where it is in its life (4-07).
    pub enum TenantState {
        /// Waits for approval.
        PendingApproval = "PENDING_APPROVAL",
        /// In use.
        Active = "ACTIVE",
        /// Refused.
        Rejected = "REJECTED",
        /// Deleted, for now.
        Deleted = "DELETED",
    }
}

text_enum! {
    /// How far a lock goes (3-22).
    pub enum LockMode {
        /// Reading goes on.
        ReadOnly = "READ_ONLY",
        /// Nothing goes on.
        Full = "FULL",
    }
}

/// One customer environment of the platform.
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
#[derive(Clone, Debug, PartialEq, HasQuery, Insertable, AsChangeset)]
#[diesel(table_name = tenants, primary_key(uid), treat_none_as_null = true)]
#[diesel(check_for_backend(diesel::pg::Pg))]
pub struct Tenant {
    /// The id that machines use.
    pub uid: Uuid,
    /// The account that operates it; for good.
    #[diesel(skip_update)]
    pub account_id: String,
    /// The id that people use.
    pub tenant_id: String,
    /// Given or generated (1-03, 1-04).
    pub code: String,
    /// Display name.
    pub name: String,
    /// What it is for.
    pub description: String,
    /// Place in the product hierarchy.
    #[diesel(column_name = type_)]
    pub tenant_type: TenantType,
    /// What kind of organisation it is.
    pub organization_kind: OrganizationKind,
    /// What it uses the platform for.
    pub service_line: ServiceLine,
    /// The tenant directly above.
    pub parent_uid: Option<Uuid>,
    /// All tenants above, from the root down.
    pub ancestors: Vec<Option<Uuid>>,
    /// Which of the two namespaces its name is in (1-08).
    pub console: bool,
    /// Free text for sorting.
    pub tag: String,
    /// Where it is in its life.
    pub state: TenantState,
    /// What undelete brings back.
    pub state_before_delete: Option<TenantState>,
    /// Its own lock, if it has one; perhaps one that has ended.
    #[diesel(embed)]
    pub lock: LockColumns,
    /// Whether only a protected caller may change or delete it (1-46).
    pub protected: bool,
    /// Under which contract it runs.
    pub contract_mode: ContractMode,
    /// When its trial is over, if it is on one (3-14).
    pub trial_expire_time: Option<DateTime<Utc>>,
    /// A DNS name, or empty.
    pub hostname: String,
    /// A domain of the directory.
    pub default_domain: Option<String>,
    /// An e-mail address, or empty.
    pub support_email: String,
    /// Whom to talk to.
    #[diesel(embed)]
    pub contact: Contact,
    /// Where the organisation is.
    #[diesel(embed)]
    pub address: Address,
    /// The reseller it belongs to.
    pub reseller_id: Option<String>,
    /// The backend that it is placed on (2-20).
    pub backend_id: Option<String>,
    /// The first administrator, as JSON (3-04).
    pub admin_user: Option<Value>,
    /// True only for a service provider (2-04).
    pub use_custom_routing_profile: bool,
    /// Stored and returned (2-11).
    pub use_tenant_languages: bool,
    /// Whether the service provider has an identity provider of its own (3-25).
    pub sp_idp: bool,
    /// A JSON object of the caller's own (1-13).
    pub profile: Option<Value>,
    /// A JSON object of text values.
    pub labels: Value,
    /// Who did what, and when.
    #[diesel(embed)]
    pub history: History,
    /// Until when it can be undeleted.
    pub purge_time: Option<DateTime<Utc>>,
    /// When it was created.
    #[diesel(skip_update)]
    pub create_time: DateTime<Utc>,
    /// When it was changed last.
    pub update_time: DateTime<Utc>,
    /// Counts the changes.
    pub version: i64,
}

/// What of a tenant decides whether its keys work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Where it is in its life.
    pub state: TenantState,
    /// When its trial is over.
    pub trial_expire_time: Option<DateTime<Utc>>,
    /// Its own lock and those above it, with their ends; perhaps ended ones.
    pub locks: Vec<(LockMode, Option<DateTime<Utc>>)>,
}

impl Standing {
    /// Why its keys do not work at a time, unless they do.
    pub fn inactive(&self, now: DateTime<Utc>) -> Option<String> {
        match (self.state, self.trial_expire_time) {
            (TenantState::Active, Some(end)) if end <= now => {
                Some(format!("on a trial that ended at {end}"))
            }
            (TenantState::Active, _) => None,
            (state, _) => Some(state.as_str().to_owned()),
        }
    }

    /// The strictest lock in force at a time.
    pub fn lock(&self, now: DateTime<Utc>) -> Option<LockMode> {
        strictest(&self.locks, now).map(|(mode, _)| mode)
    }

    /// The next instant after a time at which time alone changes whether its keys work: the end of a trial or of a
    /// lock.
    pub fn changes_at(&self, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let unlocks = self.locks.iter().filter_map(|(_, end)| *end);
        self.trial_expire_time.into_iter().chain(unlocks).filter(|instant| *instant > now).min()
    }
}

/// The strictest of the locks that are in force at a time; of equal ones the one that lasts longest.
pub fn strictest(
    locks: &[(LockMode, Option<DateTime<Utc>>)],
    now: DateTime<Utc>,
) -> Option<(LockMode, Option<DateTime<Utc>>)> {
    locks
        .iter()
        .filter(|(_, end)| end.is_none_or(|end| now < end))
        .max_by_key(|(mode, end)| (*mode == LockMode::Full, end.is_none(), *end))
        .copied()
}

/// A tenant's own lock as it is stored: the first four are there together or not at all.
#[derive(Clone, Debug, Default, PartialEq, Eq, Queryable, Selectable, Insertable, AsChangeset)]
#[diesel(table_name = tenants, treat_none_as_null = true, check_for_backend(diesel::pg::Pg))]
pub struct LockColumns {
    /// How far it goes.
    #[diesel(column_name = lock_mode)]
    pub mode: Option<LockMode>,
    /// Why it was set.
    #[diesel(column_name = lock_reason)]
    pub reason: Option<String>,
    /// When it was set.
    #[diesel(column_name = lock_time)]
    pub time: Option<DateTime<Utc>>,
    /// Who set it.
    #[diesel(column_name = locked_by)]
    pub by: Option<String>,
    /// When it ends by itself.
    #[diesel(column_name = unlock_time)]
    pub end: Option<DateTime<Utc>>,
}

impl LockColumns {
    /// How far it goes at a time; nothing where there is none or it has ended.
    pub fn at(&self, now: DateTime<Utc>) -> Option<LockMode> {
        self.mode.filter(|_| self.end.is_none_or(|end| now < end))
    }
}

/// Whom to talk to (2-08).
#[derive(Clone, Debug, Default, PartialEq, Eq, Queryable, Selectable, Insertable, AsChangeset)]
#[diesel(table_name = tenants, check_for_backend(diesel::pg::Pg))]
pub struct Contact {
    /// The person or desk.
    #[diesel(column_name = contact_name)]
    pub name: String,
    /// The number.
    #[diesel(column_name = contact_phone_number)]
    pub phone_number: String,
    /// The address.
    #[diesel(column_name = contact_email)]
    pub email: String,
}

/// Where an organisation is (2-09, 4-06).
#[derive(Clone, Debug, Default, PartialEq, Eq, Queryable, Selectable, Insertable, AsChangeset)]
#[diesel(table_name = tenants, check_for_backend(diesel::pg::Pg))]
pub struct Address {
    /// The first line.
    #[diesel(column_name = address_street_address)]
    pub street_address: String,
    /// The second line.
    #[diesel(column_name = address_extended_address)]
    pub extended_address: String,
    /// The town.
    #[diesel(column_name = address_locality)]
    pub locality: String,
    /// The state or province.
    #[diesel(column_name = address_region)]
    pub region: String,
    /// The post code.
    #[diesel(column_name = address_post_code)]
    pub post_code: String,
    /// The name of the country.
    #[diesel(column_name = address_country)]
    pub country: String,
}

/// The transitions so far; none is ever cleared (4-07).
#[derive(Clone, Debug, Default, PartialEq, Eq, Queryable, Selectable, Insertable, AsChangeset)]
#[diesel(table_name = tenants, treat_none_as_null = true, check_for_backend(diesel::pg::Pg))]
#[expect(missing_docs, reason = "each says what it is")]
pub struct History {
    #[diesel(skip_update)]
    pub created_by: String,
    pub approve_time: Option<DateTime<Utc>>,
    pub approved_by: Option<String>,
    pub reject_time: Option<DateTime<Utc>>,
    pub rejection_reason: Option<String>,
    pub rejected_by: Option<String>,
    pub delete_time: Option<DateTime<Utc>>,
    pub deleted_by: Option<String>,
}

/// The external ids of the telephony platform: its data of a tenant, all or nothing (2-17).
pub const TENANT_DATA: [&str; 4] = ["1", "2", "3", "4"];

/// A tenant and what of it lies in other tables: what one answer needs.
#[derive(Clone, Debug, PartialEq)]
pub struct TenantRecord {
    /// Its row.
    pub tenant: Tenant,
    /// The id of the tenant directly above; empty where none.
    pub parent_tenant_id: String,
    /// What others call it, by whose id it is (2-10).
    pub external_ids: std::collections::BTreeMap<String, String>,
    /// The strictest lock in force above it, and its end.
    pub lock_above: Option<(LockMode, Option<DateTime<Utc>>)>,
    /// When it was so: a lock may have ended since.
    pub as_of: DateTime<Utc>,
}

impl TenantRecord {
    /// What a caller sees of it: where it is placed concerns only those who place tenants (2-28).
    pub fn seen_by(self, call: &Call, settings: &Settings) -> pb::Tenant {
        let backend = self.tenant.backend_id.clone().filter(|_| call.caller.may(PLACE));
        pb::Tenant {
            backend_id: backend,
            ..self.with_data(settings.auto_create.tenant_data).into()
        }
    }

    /// Whether the telephony platform has data of it: of all tenants if the operator has it so, else of
    /// those with a reseller and of those that had it once (2-17).
    pub fn has_data(&self, of_all: bool) -> bool {
        of_all
            || self.tenant.reseller_id.is_some()
            || TENANT_DATA.iter().all(|key| self.external_ids.contains_key(*key))
    }

    /// Adds, empty, what is missing of the data of the telephony platform.
    pub fn add_data(&mut self) {
        for key in TENANT_DATA {
            self.external_ids.entry(key.to_owned()).or_default();
        }
    }

    /// The same with the data of the telephony platform, where that has any: a tenant may be stored
    /// without, from before the operator had it of all.
    #[must_use]
    pub fn with_data(mut self, of_all: bool) -> Self {
        if self.has_data(of_all) {
            self.add_data();
        }
        self
    }

    /// The same with another row.
    #[must_use]
    pub fn with(&self, tenant: Tenant) -> Self {
        Self { tenant, ..self.clone() }
    }
}

impl Tenant {
    /// Marks the row as changed.
    pub fn touch(&mut self, now: DateTime<Utc>) {
        self.update_time = now;
        self.version += 1;
    }

    /// Approves it (4-07).
    ///
    /// # Errors
    ///
    /// When it does not wait for approval.
    pub fn approve(&mut self, by: String, now: DateTime<Utc>) -> Result<()> {
        self.check_waits()?;
        self.state = TenantState::Active;
        self.history.approve_time = Some(now);
        self.history.approved_by = Some(by);
        self.touch(now);
        Ok(())
    }

    /// Rejects it for a reason (4-07).
    ///
    /// # Errors
    ///
    /// When it does not wait for approval.
    pub fn reject(&mut self, by: String, reason: String, now: DateTime<Utc>) -> Result<()> {
        self.check_waits()?;
        self.state = TenantState::Rejected;
        self.history.reject_time = Some(now);
        self.history.rejected_by = Some(by);
        self.history.rejection_reason = Some(reason);
        self.touch(now);
        Ok(())
    }

    fn check_waits(&self) -> Result<()> {
        match self.state {
            TenantState::PendingApproval => Ok(()),
            state => Err(self.refuse_transition(&format!(
                "is {}: only one that is PENDING_APPROVAL can be approved or rejected",
                state.as_str()
            ))),
        }
    }

    /// Ends its own lock (3-22).
    ///
    /// # Errors
    ///
    /// When it has none in force.
    pub fn unlock(&mut self, now: DateTime<Utc>) -> Result<()> {
        if self.lock.at(now).is_none() {
            return Err(self.refuse_transition(
                "has no lock of its own: a lock in effective_lock is ended on the tenant above",
            ));
        }
        self.lock = LockColumns::default();
        self.touch(now);
        Ok(())
    }

    /// Makes it a service provider (3-24).
    ///
    /// # Errors
    ///
    /// When it is one already, or is not ACTIVE.
    pub fn promote(&mut self, now: DateTime<Utc>) -> Result<()> {
        if self.organization_kind == OrganizationKind::ServiceProvider {
            return Err(self.refuse_transition("is a SERVICE_PROVIDER already"));
        }
        if self.state != TenantState::Active {
            return Err(self.not_active("only an ACTIVE tenant becomes a SERVICE_PROVIDER"));
        }
        self.organization_kind = OrganizationKind::ServiceProvider;
        self.touch(now);
        Ok(())
    }

    /// Refuses what a tenant in its state does not take.
    pub fn not_active(&self, why: &str) -> Error {
        Error::WrongState {
            reason: ErrorReason::TenantNotActive,
            kind: Kind::Tenant,
            id: self.tenant_id.clone(),
            message: format!("the tenant \"{}\" is {}: {why}", self.tenant_id, self.state.as_str()),
        }
    }

    /// Puts it under a contract: a trial ends 60 days after it began (3-14).
    pub fn set_contract(&mut self, mode: ContractMode, now: DateTime<Utc>) {
        self.contract_mode = mode;
        self.trial_expire_time = (mode == ContractMode::Trial).then(|| now + TRIAL);
    }

    /// Deletes it until `purge_time`.
    ///
    /// # Errors
    ///
    /// When it is deleted already.
    pub fn delete(
        &mut self,
        by: String,
        now: DateTime<Utc>,
        purge_time: DateTime<Utc>,
    ) -> Result<()> {
        if self.state == TenantState::Deleted {
            return Err(self.refuse_transition(
                "is deleted already: leave it, or bring it back with UndeleteTenant",
            ));
        }
        self.state_before_delete = Some(self.state);
        self.state = TenantState::Deleted;
        self.history.delete_time = Some(now);
        self.history.deleted_by = Some(by);
        self.purge_time = Some(purge_time);
        self.touch(now);
        Ok(())
    }

    /// Brings it back into the state that it had before.
    ///
    /// # Errors
    ///
    /// When it is not deleted, or its time is over.
    pub fn undelete(&mut self, now: DateTime<Utc>) -> Result<()> {
        match (self.state_before_delete, self.purge_time) {
            (Some(before), Some(purge_time)) if now < purge_time => {
                self.state = before;
                self.state_before_delete = None;
                self.purge_time = None;
                self.touch(now);
                Ok(())
            }
            (Some(_), _) => {
                Err(self.refuse_transition("is past its purge time: it cannot be brought back"))
            }
            (None, _) => {
                Err(self.refuse_transition("is not deleted: there is nothing to bring back"))
            }
        }
    }

    /// Checks that it may be the parent of a tenant; `field` of the request names it.
    ///
    /// # Errors
    ///
    /// The rule it breaks (1-10, and the depth of the tree).
    pub fn check_parent_of(&self, field: &str, child: TenantType) -> Result<()> {
        let is_provider = self.is_provider();
        if self.state != TenantState::Active {
            return Err(Error::WrongState {
                reason: ErrorReason::TenantNotActive,
                kind: Kind::ParentTenant,
                id: self.tenant_id.clone(),
                message: format!(
                    "the parent tenant is {}: it takes no children",
                    self.state.as_str()
                ),
            });
        }
        if self.tenant_type == TenantType::Client && !is_provider {
            return Err(Error::invalid(
                field,
                "names a tenant that is neither a PRODUCT nor a SERVICE_PROVIDER",
            ));
        }
        if child == TenantType::Product && !is_provider {
            return Err(Error::invalid(
                field,
                "a PRODUCT has no parent unless that is a SERVICE_PROVIDER",
            ));
        }
        if self.ancestors.len() + 2 > DEPTH_MAX {
            return Err(Error::invalid(
                field,
                format!("the tree of tenants would have more than {DEPTH_MAX} levels"),
            ));
        }
        Ok(())
    }

    /// Checks that a tenant under a contract may stand below it: below a provider on trial, all are
    /// (3-14).
    ///
    /// # Errors
    ///
    /// `CONTRACT_MODE_NOT_ALLOWED`.
    pub fn check_contract_of(&self, mode: ContractMode) -> Result<()> {
        if !self.is_provider()
            || self.contract_mode == ContractMode::Production
            || mode == ContractMode::Trial
        {
            return Ok(());
        }
        Err(Error::WrongState {
            reason: ErrorReason::ContractModeNotAllowed,
            kind: Kind::ParentTenant,
            id: self.tenant_id.clone(),
            message: format!(
                "the service provider \"{}\" is a TRIAL: so are the tenants below it, until it is \
                 PRODUCTION itself",
                self.tenant_id
            ),
        })
    }

    /// Whether it serves tenants below it.
    pub fn is_provider(&self) -> bool {
        self.organization_kind == OrganizationKind::ServiceProvider
    }

    /// The path from the root down to it: the ancestors of its children.
    pub fn path(&self) -> Vec<Option<Uuid>> {
        self.ancestors.iter().copied().chain([Some(self.uid)]).collect()
    }

    /// Refuses what does not lead on from where it is in its life.
    pub(super) fn refuse_transition(&self, what: &str) -> Error {
        Error::WrongState {
            reason: ErrorReason::InvalidStateTransition,
            kind: Kind::Tenant,
            id: self.tenant_id.clone(),
            message: format!("the tenant \"{}\" {what}", self.tenant_id),
        }
    }
}

/// A code of `length` characters (1-04).
pub fn generated_code(length: usize) -> String {
    generated(b"ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789", length)
}

/// An id for a tenant whose creator chose none: short enough to say, long enough not to meet another.
pub fn generated_id() -> String {
    generated_id_of("t")
}

/// An id as [`generated_id`] for something else, after the letter that tells it apart.
pub fn generated_id_of(letter: &str) -> String {
    format!("{letter}-{}", generated(b"abcdefghijklmnopqrstuvwxyz0123456789", 12))
}

fn generated(alphabet: &[u8], length: usize) -> String {
    use rand::Rng as _;
    let mut rng = rand::rng();
    (0..length).map(|_| char::from(alphabet[rng.random_range(..alphabet.len())])).collect()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A tenant that has only what it must have.
    pub(crate) fn sample() -> Tenant {
        Tenant {
            uid: Uuid::from_u128(1),
            account_id: "acme".to_owned(),
            tenant_id: "foo".to_owned(),
            code: "FOO01".to_owned(),
            name: "Foo".to_owned(),
            description: String::new(),
            tenant_type: TenantType::Product,
            organization_kind: OrganizationKind::Enterprise,
            service_line: ServiceLine::Authentication,
            parent_uid: None,
            ancestors: Vec::new(),
            console: false,
            tag: String::new(),
            state: TenantState::Active,
            state_before_delete: None,
            lock: LockColumns::default(),
            protected: false,
            contract_mode: ContractMode::Production,
            trial_expire_time: None,
            hostname: String::new(),
            default_domain: None,
            support_email: String::new(),
            contact: Contact::default(),
            address: Address::default(),
            reseller_id: None,
            backend_id: None,
            admin_user: None,
            use_custom_routing_profile: false,
            use_tenant_languages: false,
            sp_idp: false,
            profile: None,
            labels: serde_json::json!({}),
            history: History::default(),
            purge_time: None,
            create_time: DateTime::UNIX_EPOCH,
            update_time: DateTime::UNIX_EPOCH,
            version: 1,
        }
    }

    #[test]
    fn undelete_brings_back_the_state_before_and_clears_no_stamp() {
        let mut tenant = sample();
        tenant.state = TenantState::Rejected;
        let now = DateTime::UNIX_EPOCH + TimeDelta::days(1);

        tenant.delete("me".to_owned(), now, now + TimeDelta::days(30)).unwrap();
        tenant.undelete(now + TimeDelta::days(29)).unwrap();

        assert_eq!(tenant.state, TenantState::Rejected);
        assert_eq!(tenant.history.delete_time, Some(now));
        assert_eq!(tenant.history.deleted_by.as_deref(), Some("me"));
    }

    #[test]
    fn a_tenant_cannot_be_undeleted_once_its_purge_time_has_come() {
        let mut tenant = sample();
        let purge_time = DateTime::UNIX_EPOCH + TimeDelta::days(30);
        tenant.delete("me".to_owned(), DateTime::UNIX_EPOCH, purge_time).unwrap();

        assert!(tenant.undelete(purge_time).is_err());
        assert!(tenant.delete("me".to_owned(), purge_time, purge_time).is_err());
    }

    #[test]
    fn a_parent_is_active_and_a_product_or_a_service_provider() {
        let product = sample();
        let provider = Tenant { organization_kind: OrganizationKind::ServiceProvider, ..sample() };
        let client = Tenant { tenant_type: TenantType::Client, ..sample() };
        let deleted = Tenant { state: TenantState::Deleted, ..sample() };
        let deep = Tenant { ancestors: vec![Some(Uuid::nil()); 4], ..provider.clone() };

        assert!(product.check_parent_of("parent_tenant_id", TenantType::Client).is_ok());
        assert!(product.check_parent_of("parent_tenant_id", TenantType::Product).is_err());
        assert!(provider.check_parent_of("parent_tenant_id", TenantType::Product).is_ok());
        assert!(client.check_parent_of("parent_tenant_id", TenantType::Client).is_err());
        assert!(deleted.check_parent_of("parent_tenant_id", TenantType::Client).is_err());
        assert!(deep.check_parent_of("parent_tenant_id", TenantType::Client).is_err());
    }

    #[test]
    fn a_generated_code_has_the_characters_of_the_rule() {
        let code = generated_code(5);

        assert!(
            code.len() == 5 && code.chars().all(|c| c.is_ascii_uppercase() || c.is_ascii_digit())
        );
        assert!(crate::wire::id(&generated_id()).is_ok());
    }
}
