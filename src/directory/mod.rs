//! What tenants point at: accounts, environments and domains, each in a room of its own, and the RPCs
//! (`service`).

pub mod accounts;
pub mod domains;
pub mod environments;
pub mod service;

use diesel::result::{DatabaseErrorKind, Error as DieselError};

use crate::{
    error::{Error, Kind},
    pb::ErrorReason,
};

/// What deleting a record means to which others still point.
fn still_in_use(error: DieselError, kind: Kind, id: &str, by: &str) -> Error {
    match error {
        DieselError::DatabaseError(
            DatabaseErrorKind::ForeignKeyViolation | DatabaseErrorKind::RestrictViolation,
            _,
        ) => Error::WrongState {
            reason: ErrorReason::RecordInUse,
            kind,
            id: id.to_owned(),
            message: format!("\"{id}\" is still in use by {by}: remove or change those first"),
        },
        other => other.into(),
    }
}
