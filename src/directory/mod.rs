//! What tenants point at: accounts, environments, domains, backends, resellers, products and templates,
//! each in a room of its own, and the RPCs (`service`).

pub mod accounts;
pub mod backends;
pub mod domains;
pub mod environments;
pub mod products;
pub mod resellers;
pub mod service;
pub mod templates;

use diesel::result::{DatabaseErrorKind, Error as DieselError};
use prost::{Message, Name};

use crate::{
    error::{Error, Kind, Result},
    events::outbox::Event,
    pb::ErrorReason,
    rpc::{Call, mutate::Change, permit::json_of},
};

/// The account that a key of the system acts on when nothing names one.
pub const DEFAULT_ACCOUNT: &str = "default";

/// The account that a request speaks of: the one it names, else the account of the call, else the
/// default.
///
/// # Errors
///
/// When it is no id, or another account than that of the call.
pub(crate) fn account_of(call: &Call, field: &str, named: &str) -> Result<String> {
    call.check_account(field, named)?;
    let own = call.account.as_deref().unwrap_or(DEFAULT_ACCOUNT);
    call.account_id(field, if named.is_empty() { own } else { named }).map(str::to_owned)
}

/// Selects what an account owns as far as a call may see it: of all accounts, or of its own.
macro_rules! owned_by_account {
    ($table:ident) => {
        pub(super) fn rows_of(
            call: &$crate::rpc::Call,
        ) -> diesel::dsl::Filter<$table::table, $crate::filter::Condition<$table::table>> {
            let within: $crate::filter::Condition<$table::table> =
                match (&call.scope, &call.account) {
                    ($crate::db::Scope::System, _) => {
                        Box::new($table::account_id.eq($table::account_id))
                    }
                    (_, Some(account)) => Box::new($table::account_id.eq(account.clone())),
                    (_, None) => Box::new($table::account_id.ne($table::account_id)),
                };
            diesel::QueryDsl::filter($table::table, within)
        }
    };
}
pub(crate) use owned_by_account;

/// Records what happened to a record of the directory.
pub(crate) async fn tell<M: Message + Name>(
    change: &mut Change<'_>,
    kind: &'static str,
    account_id: Option<&str>,
    resource_id: &str,
    before: Option<&M>,
    after: Option<&M>,
) -> Result<()> {
    let resource_type = kind.split_once('.').map_or(kind, |(resource, _)| resource);
    change
        .record(Event {
            kind,
            account_id,
            tenant: None,
            resource_type,
            resource_id,
            before: before.map(json_of),
            after: after.map(json_of),
        })
        .await
}

/// What deleting a record means to which others still point.
fn still_in_use(error: DieselError, kind: Kind, id: &str, by: &str) -> Error {
    match error {
        DieselError::DatabaseError(
            DatabaseErrorKind::ForeignKeyViolation | DatabaseErrorKind::RestrictViolation,
            _,
        ) => in_use(kind, id, by),
        other => other.into(),
    }
}

/// Refuses to delete a record to which others still point.
fn in_use(kind: Kind, id: &str, by: &str) -> Error {
    Error::WrongState {
        reason: ErrorReason::RecordInUse,
        kind,
        id: id.to_owned(),
        message: format!("\"{id}\" is still in use by {by}: remove or change those first"),
    }
}
