//! What accounts publish and tenants authorize: `applications`, with how they look from outside (`wire`) and are listed
//! (`list`), the `clients` as which they prove themselves, what tenants let them do (`grants`), and the RPCs
//! (`service`).

pub mod applications;
mod clients;
mod grants;
mod list;
pub mod service;
mod wire;

use diesel::result::{DatabaseErrorKind, Error as DieselError};

use crate::error::Error;

/// Somebody else was faster in deleting what a new row is of. The next attempt sees that.
fn overtaken(error: DieselError) -> Error {
    match &error {
        DieselError::DatabaseError(DatabaseErrorKind::ForeignKeyViolation, _) => {
            Error::Contended(error)
        }
        _ => error.into(),
    }
}
