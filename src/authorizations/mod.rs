//! What accounts publish and tenants authorize: `applications`, with how they look from outside (`wire`) and are listed
//! (`list`), and the `clients` as which they prove themselves; what tenants let them do (`grants`, listed by `history`), until its time is over
//! (`expiry`); how they come to: accounts ask (`asking`), `requests` wait, `mails` go out, and tenants say yes or no
//! (`deciding`), by a key or on a page (`consent`), or let the time pass (`overdue`). Whether an application may: `check`
//! (the methods), `verdict` (the checks, pure), `known` (what has to be known for them) and `resolve` (how that is read).
//! Which tenants authorize one (`authorized`), how many (`counts`), and what the accounts of applications are told of
//! those (`publishers`); and the RPCs (`service`).

pub mod applications;
pub mod asking;
mod authorized;
mod check;
mod clients;
pub mod consent;
pub mod counts;
mod deciding;
pub mod expiry;
mod grants;
mod history;
pub mod known;
mod list;
pub(crate) mod mails;
pub mod overdue;
pub mod publishers;
mod requests;
pub mod resolve;
pub mod service;
mod verdict;
mod wire;

use diesel::result::{DatabaseErrorKind, Error as DieselError};

use crate::{
    error::{Error, Kind, Result},
    rpc::{TenantOfCall, mutate::Change},
};

/// Checks that there is an application that a call reaches, or that a tenant has authorized.
///
/// # Errors
///
/// [`Error::NotFound`], or what the database reports.
pub async fn require(
    change: &mut Change<'_>,
    tenant: &TenantOfCall,
    application_id: &str,
) -> Result<()> {
    if applications::is_reached(change, application_id).await?
        || grants::was_granted(change, tenant.uid, application_id).await?
    {
        return Ok(());
    }
    Err(Error::not_found(Kind::Application, application_id))
}

/// Somebody else was faster in deleting what a new row is of. The next attempt sees that.
fn overtaken(error: DieselError) -> Error {
    match &error {
        DieselError::DatabaseError(DatabaseErrorKind::ForeignKeyViolation, _) => {
            Error::Contended(error)
        }
        _ => error.into(),
    }
}
