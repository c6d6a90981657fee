//! What an operation is: its row, its states, and the rules of what leads from one to the next.

use chrono::{DateTime, TimeDelta, Utc};
use diesel::prelude::*;
use uuid::Uuid;

use crate::{
    error::{Error, Kind, Result},
    pb::ErrorReason,
    schema::operations,
    text_enum,
};

text_enum! {
    /// Where an operation is in its life.
    pub enum OperationState {
        /// It waits.
        Scheduled = "SCHEDULED",
        /// Work on it was begun.
        Processing = "PROCESSING",
        /// It is done: the tenant is there.
        Completed = "COMPLETED",
        /// It is done: there is no tenant.
        Failed = "FAILED",
        /// It was cancelled before it was done.
        Cancelled = "CANCELLED",
    }
}

/// What goes on after the call that asked for it.
#[derive(Clone, HasQuery, Insertable)]
#[diesel(table_name = operations, check_for_backend(diesel::pg::Pg))]
pub struct Operation {
    /// UUIDv7.
    pub operation_id: Uuid,
    /// The account of the tenant to be.
    pub account_id: String,
    /// The tenant of the call.
    pub tenant_uid: Option<Uuid>,
    /// The same by its id.
    pub tenant_of_call: Option<String>,
    /// Whether the metadata of the call named it.
    pub names_tenant: bool,
    /// The account that the metadata of the call named, for a key of the system.
    pub names_account: Option<String>,
    /// The key that called.
    pub credential_id: Uuid,
    /// What ties it to its cause.
    pub correlation_id: String,
    /// Where it is in its life.
    pub state: OperationState,
    /// The name of the tenant to be.
    pub subject: String,
    /// The id of the tenant to be, as far as it is known.
    pub tenant_id: Option<String>,
    /// How often work on it was begun.
    pub attempts: i32,
    /// When work on it was begun last.
    pub attempt_time: Option<DateTime<Utc>>,
    /// When it was asked for.
    pub init_time: DateTime<Utc>,
    /// When work on it began.
    pub processing_start_time: Option<DateTime<Utc>>,
    /// When it was done.
    pub processing_end_time: Option<DateTime<Utc>>,
    /// Why there is no tenant: an encoded `google.rpc.Status`.
    pub error: Option<Vec<u8>>,
    /// The data key, for its creator.
    pub creator_key: Vec<u8>,
    /// The data key, for whoever works on it.
    pub worker_key: Option<Vec<u8>>,
    /// What was asked for, encrypted.
    pub request: Option<Vec<u8>>,
    /// What came of it, encrypted, until it is taken.
    pub result: Option<Vec<u8>>,
    /// When the result was taken.
    pub take_time: Option<DateTime<Utc>>,
    /// When it is forgotten.
    pub expire_time: Option<DateTime<Utc>>,
}

impl Operation {
    /// Its name outside.
    pub fn name(&self) -> String {
        format!("operations/{}", self.operation_id)
    }

    /// Whether nothing more will come of it.
    pub fn is_done(&self) -> bool {
        self.processing_end_time.is_some()
    }

    /// Work on it begins, maybe not for the first time.
    pub fn begin(&mut self, now: DateTime<Utc>) {
        self.state = OperationState::Processing;
        self.attempts = self.attempts.saturating_add(1);
        self.attempt_time = Some(now);
        self.processing_start_time.get_or_insert(now);
    }

    /// The tenant is there.
    pub fn complete(
        &mut self,
        tenant_id: String,
        result: Vec<u8>,
        now: DateTime<Utc>,
        kept: TimeDelta,
    ) {
        self.tenant_id = Some(tenant_id);
        self.result = Some(result);
        self.end(OperationState::Completed, now, kept);
    }

    /// There will be no tenant.
    pub fn fail(&mut self, error: Vec<u8>, now: DateTime<Utc>, kept: TimeDelta) {
        self.error = Some(error);
        self.end(OperationState::Failed, now, kept);
    }

    /// There is to be no tenant.
    pub fn cancel(&mut self, error: Vec<u8>, now: DateTime<Utc>, kept: TimeDelta) {
        self.error = Some(error);
        self.end(OperationState::Cancelled, now, kept);
    }

    /// Forgets what was asked for, and with it who else could have read the result.
    fn end(&mut self, state: OperationState, now: DateTime<Utc>, kept: TimeDelta) {
        self.state = state;
        self.processing_end_time = Some(now);
        self.expire_time = Some(now + kept);
        self.request = None;
        self.worker_key = None;
    }

    /// Gives the encrypted result, once.
    ///
    /// # Errors
    ///
    /// When there is none: it is not done, failed, or was given before.
    pub fn take(&mut self, now: DateTime<Utc>) -> Result<Vec<u8>> {
        if let Some(result) = self.result.take() {
            self.take_time = Some(now);
            return Ok(result);
        }
        let (reason, message) = match self.state {
            OperationState::Scheduled | OperationState::Processing => (
                ErrorReason::InvalidStateTransition,
                "the operation is not done: wait for it with WaitOperation",
            ),
            OperationState::Failed | OperationState::Cancelled => (
                ErrorReason::InvalidStateTransition,
                "the operation has no result: GetOperation tells why",
            ),
            OperationState::Completed => (
                ErrorReason::ResultAlreadyConsumed,
                "the result was taken before: it is given once, and again only to the request_id \
                 that took it",
            ),
        };
        Err(self.refuse(reason, message))
    }

    /// Checks that it can be forgotten.
    ///
    /// # Errors
    ///
    /// When it is not done.
    pub fn check_done(&self) -> Result<()> {
        if self.is_done() {
            return Ok(());
        }
        let message = "the operation is not done: cancel it first, or wait for it";
        Err(self.refuse(ErrorReason::InvalidStateTransition, message))
    }

    fn refuse(&self, reason: ErrorReason, message: &str) -> Error {
        Error::WrongState {
            reason,
            kind: Kind::Operation,
            id: self.name(),
            message: message.to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn operation() -> Operation {
        Operation {
            operation_id: Uuid::nil(),
            account_id: "acme".to_owned(),
            tenant_uid: None,
            tenant_of_call: None,
            names_tenant: false,
            names_account: None,
            credential_id: Uuid::nil(),
            correlation_id: String::new(),
            state: OperationState::Scheduled,
            subject: String::new(),
            tenant_id: None,
            attempts: 0,
            attempt_time: None,
            init_time: DateTime::UNIX_EPOCH,
            processing_start_time: None,
            processing_end_time: None,
            error: None,
            creator_key: Vec::new(),
            worker_key: Some(Vec::new()),
            request: Some(Vec::new()),
            result: None,
            take_time: None,
            expire_time: None,
        }
    }

    #[test]
    fn what_is_begun_again_keeps_the_time_of_its_beginning() {
        let then = DateTime::UNIX_EPOCH;
        let mut operation = operation();

        operation.begin(then);
        operation.begin(then + TimeDelta::days(1));

        assert_eq!((operation.attempts, operation.processing_start_time), (2, Some(then)));
        assert!(!operation.is_done());
    }

    #[test]
    fn what_is_done_has_forgotten_the_request_and_ends_after_it_was_kept() {
        let then = DateTime::UNIX_EPOCH;
        let mut operation = operation();

        operation.complete("foo".to_owned(), vec![1], then, TimeDelta::days(30));

        assert!(operation.is_done() && operation.request.is_none());
        assert!(operation.worker_key.is_none());
        assert_eq!(operation.expire_time, Some(then + TimeDelta::days(30)));
    }

    #[test]
    fn a_result_is_given_once_and_only_where_there_is_one() {
        let then = DateTime::UNIX_EPOCH;
        let mut waiting = operation();
        let mut failed = operation();
        failed.fail(Vec::new(), then, TimeDelta::days(1));
        let mut completed = operation();
        completed.complete("foo".to_owned(), vec![1], then, TimeDelta::days(1));

        assert_eq!(completed.take(then).unwrap(), [1]);
        for mut operation in [waiting.clone(), failed] {
            let refusal = operation.take(then).unwrap_err();
            assert_eq!(refusal.reason(), ErrorReason::InvalidStateTransition);
        }
        let again = completed.take(then).unwrap_err();
        assert_eq!(again.reason(), ErrorReason::ResultAlreadyConsumed);
        assert!(waiting.check_done().is_err());
        waiting.cancel(Vec::new(), then, TimeDelta::days(1));
        assert!(waiting.check_done().is_ok());
    }
}
