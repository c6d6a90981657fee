//! What accounts publish and tenants authorize: `applications`, the `clients` as which they prove themselves, what
//! tenants let them do (`grants`), and the RPCs (`service`).

pub mod applications;
mod clients;
mod grants;
pub mod service;

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
