//! What can go wrong, and the one table that says how it looks from outside.
//!
//! A variant stands for what a caller would do differently: mend the request, ask for a right, read
//! again, wait. Everything a method, a layer or a library reports becomes one of these, and a
//! [`Status`] is made of it only here. What the sources of errors say never leaves the service; the
//! log line of the call has it, with all its causes.

use std::{net::IpAddr, sync::Arc, time::Duration};

use diesel::result::{DatabaseErrorKind, Error as DieselError};
use diesel_async::pooled_connection::deadpool::PoolError;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, FieldViolation, PreconditionViolation, QuotaViolation, StatusExt};

use crate::pb::ErrorReason;

/// The domain of every `google.rpc.ErrorInfo`.
pub const DOMAIN: &str = "tenantry";

/// How long a caller is asked to wait before it tries again.
const RETRY_AFTER: Duration = Duration::from_millis(250);

/// The result of everything that a handler calls.
pub type Result<T, E = Error> = std::result::Result<T, E>;

type Source = Box<dyn std::error::Error + Send + Sync>;

/// Why a call was refused or could not be answered.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The request is wrong in itself; every violation of it is told at once.
    #[error("{}", summary(.0))]
    Invalid(Vec<Violation>),
    /// No key, or none that is good. One message for all cases, so that guesses learn nothing.
    #[error(
        "the call carries no valid API key: send the metadata `authorization: Bearer <key>` with a \
         key that is neither expired nor revoked"
    )]
    Unauthenticated,
    /// The key is good and may not do this.
    #[error("{message}")]
    Forbidden {
        /// The permission that would allow it.
        permission: String,
        /// What was refused and what would help.
        message: String,
    },
    /// The key may call the method, and may not say this.
    #[error(
        "{field} is for keys with the permission {permission} only: leave it out, or use a key with a \
         role that has it (ListRoles shows them)"
    )]
    ParameterForbidden {
        /// What was said.
        field: &'static str,
        /// The permission that would allow it.
        permission: &'static str,
    },
    /// The key may not be used from where the call comes.
    #[error(
        "the key cannot be used from {}: its IP allow-list does not have it",
        .0.map_or("an unknown address".to_owned(), |ip| ip.to_string())
    )]
    IpNotAllowed(Option<IpAddr>),
    /// The metadata names another account or tenant than the key or the request.
    #[error("{0}")]
    Mismatch(String),
    /// Nothing of the kind is within the caller's reach.
    #[error("no {} has the id \"{id}\" within the reach of this key{}", .kind.noun(), .kind.remedy())]
    NotFound {
        /// What was looked for.
        kind: Kind,
        /// By what.
        id: String,
    },
    /// Something unique is taken.
    #[error("the {what} \"{id}\" is {}", .kind.taken())]
    AlreadyExists {
        /// What is there already.
        kind: Kind,
        /// Which of its attributes is taken.
        what: &'static str,
        /// The taken value.
        id: String,
    },
    /// The request is right, but not in the state that things are in.
    #[error("{message}")]
    WrongState {
        /// Which rule stands against it.
        reason: ErrorReason,
        /// What the state belongs to.
        kind: Kind,
        /// Which one.
        id: String,
        /// What is the case and what to do.
        message: String,
    },
    /// A number of things is as high as it may be.
    #[error("{message}")]
    LimitReached {
        /// Which limit.
        reason: ErrorReason,
        /// What has the limit.
        kind: Kind,
        /// Which one.
        id: String,
        /// What the limit is and what to do.
        message: String,
    },
    /// The etag sent is not that of the stored record.
    #[error(
        "the {} \"{id}\" was changed since the etag was read: read it again and repeat the change", .kind.noun()
    )]
    Stale {
        /// What was changed.
        kind: Kind,
        /// Which one.
        id: String,
    },
    /// The cursor leads to what is not there any more, or not yet.
    #[error("start_cursor: {0}: read what you keep anew, and watch from now on")]
    CursorExpired(&'static str),
    /// What a stream may tell has changed with the place of a tenant.
    #[error("the tenant \"{0}\" of the key was moved: start again with the cursor")]
    TenantMoved(String),
    /// The `request_id` was used before for another request.
    #[error("the request_id \"{request_id}\" was used {how}")]
    IdempotencyConflict {
        /// The id.
        request_id: String,
        /// How it was used, and what to do.
        how: &'static str,
    },
    /// Concurrent changes came in each other's way, again and again.
    #[error("concurrent changes of the same records: try again")]
    Contended(#[source] DieselError),
    /// The method does not exist.
    #[error("there is no such method: list the methods with `grpcurl <address> list`")]
    MethodUnknown,
    /// A message was larger than the limit.
    #[error("{0}")]
    MessageTooLarge(String),
    /// The time that the caller gave is over.
    #[error(
        "the deadline of the call passed before it was done, or the time that one statement of it may \
         take; a mutation may have happened: repeat it with the same request_id"
    )]
    DeadlineExceeded,
    /// The caller went away.
    #[error("the call was cancelled")]
    Cancelled,
    /// The database cannot be reached or is too busy.
    #[error(
        "the database is not available: try again; what was to be changed may be: repeat that with the same \
         request_id"
    )]
    DatabaseAway(#[source] Source),
    /// The database has not come as far as the caller asks for.
    #[error(
        "{0}: the database has not come to this revision: try again, unless it is of another database, or the \
         database was put back to an earlier state; then leave it out"
    )]
    RevisionAhead(String),
    /// All connections to the database are taken.
    #[error("the service has more calls under way than it takes on: try again")]
    Overloaded(#[source] Source),
    /// A bug of ours.
    #[error("an internal error occurred: tell the operator the correlation id")]
    Internal(#[source] Source),
}

/// One thing that is wrong with a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The path of the field, such as `tenant.contact.email`, or the metadata key.
    pub field: String,
    /// Which rule it breaks.
    pub reason: ErrorReason,
    /// What is wrong with it and what would be right.
    pub description: String,
}

impl Violation {
    /// A field whose value breaks a rule of its own.
    pub fn field(field: impl Into<String>, description: impl Into<String>) -> Self {
        Self::of(ErrorReason::InvalidField, field, description)
    }

    /// A violation with a reason of its own.
    pub fn of(
        reason: ErrorReason,
        field: impl Into<String>,
        description: impl Into<String>,
    ) -> Self {
        Self {
            field: shortened(field.into(), 80),
            reason,
            description: shortened(description.into(), 600),
        }
    }
}

/// The kinds of records that errors speak of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A tenant.
    Tenant,
    /// The tenant above another.
    ParentTenant,
    /// An account.
    Account,
    /// An environment.
    Environment,
    /// A domain.
    Domain,
    /// An API key.
    ApiKey,
    /// What an account publishes.
    Application,
    /// That a tenant lets an application act on it.
    Authorization,
    /// That a tenant is asked to.
    AuthorizationRequest,
    /// What a tenant runs of a product.
    Installation,
    /// What external keys hang on.
    AppKey,
    /// A key that clients of an installation send.
    ExternalKey,
    /// As which OAuth client the users of a tenant sign in.
    OAuthClient,
    /// An IP allow-list.
    IpAllowlist,
    /// A reseller.
    Reseller,
    /// A backend.
    Backend,
    /// A product, or a package of it.
    Product,
    /// A template for tenants.
    TenantTemplate,
    /// A group of a tenant.
    Group,
    /// The service settings of a tenant, together.
    ServiceSettings,
    /// What a tenant used in a period.
    UsageRecord,
    /// What a tenant may use.
    Entitlement,
    /// What goes on after the call that asked for it.
    Operation,
    /// What an application keeps of an end user.
    AppData,
}

impl Kind {
    fn noun(self) -> &'static str {
        match self {
            Self::Tenant => "tenant",
            Self::ParentTenant => "parent tenant",
            Self::Account => "account",
            Self::Environment => "environment",
            Self::Domain => "domain",
            Self::ApiKey => "API key",
            Self::Application => "application",
            Self::Authorization => "authorization",
            Self::AuthorizationRequest => "request for an authorization",
            Self::Installation => "installation",
            Self::AppKey => "app key",
            Self::ExternalKey => "external key",
            Self::OAuthClient => "OAuth client",
            Self::IpAllowlist => "IP allow-list",
            Self::Reseller => "reseller",
            Self::Backend => "backend",
            Self::Product => "product or package",
            Self::TenantTemplate => "tenant template",
            Self::Group => "group",
            Self::ServiceSettings => "set of service settings of the tenant",
            Self::UsageRecord => "usage record",
            Self::Entitlement => "entitlement of the tenant",
            Self::Operation => "operation",
            Self::AppData => "app data",
        }
    }

    /// What helps where none is found; nothing where the id alone is to be mended.
    fn remedy(self) -> &'static str {
        match self {
            Self::Domain => {
                ": ListDomains shows those there are; CreateDomain makes one, and so does \
                 auto_create_domain of a tenant"
            }
            Self::Account => ": ListAccounts shows those there are, CreateAccount makes one",
            Self::Environment => ": ListEnvironments shows those there are",
            Self::ParentTenant => ": parent_tenant_id names a tenant of the same account",
            Self::Reseller => ": ListResellers shows those there are, CreateReseller makes one",
            Self::Backend => ": ListBackends shows those there are",
            Self::Product => ": ListProducts shows those there are, with their packages",
            Self::TenantTemplate => ": ListTenantTemplates shows those there are",
            Self::Application => ": ListApplications shows those there are",
            Self::Authorization => ": ListAuthorizations shows those there are",
            Self::AuthorizationRequest => {
                ": ListAuthorizationRequests shows those that it sees, and a tenant decides on those that it is asked"
            }
            Self::Installation => ": ListInstallations shows those of the tenant of the call",
            Self::AppKey => ": ListAppKeys shows those of the tenant of the call",
            Self::ExternalKey => ": ListExternalKeys shows those there are",
            Self::Tenant
            | Self::ApiKey
            | Self::OAuthClient
            | Self::IpAllowlist
            | Self::ServiceSettings
            | Self::UsageRecord
            | Self::Entitlement => "",
            Self::Operation => ": ListOperations shows those there are",
            Self::Group => ": ListGroups shows those of the tenant of the call",
            Self::AppData => ": ListEndUserAppData shows those of the tenant of the call",
        }
    }

    /// Why something unique cannot be had, and what to do about it.
    fn taken(self) -> &'static str {
        match self {
            Self::UsageRecord => "recorded already: what was recorded never changes",
            // An import names the place of the hash in the request; the hash itself is nobody's business.
            Self::ExternalKey => {
                "that of another key already: leave it out, or find out which of the two it is"
            }
            Self::Tenant => {
                "already taken: choose another; the id of a tenant is never given twice, not even after \
                 it was purged"
            }
            Self::Authorization => {
                "authorized already in this environment, as ListAuthorizations shows: change that with \
                 RequestAuthorizationUpdate, or revoke it first"
            }
            Self::AuthorizationRequest => {
                "asked already and has not answered: wait, or send or cancel that request, which \
                 ListAuthorizationRequests shows"
            }
            Self::Application => {
                "already taken: choose another; the id of an application is never given twice, not even after \
                 it was deleted"
            }
            _ => "already taken: choose another",
        }
    }

    fn not_found(self) -> ErrorReason {
        match self {
            Self::Tenant => ErrorReason::TenantNotFound,
            Self::ParentTenant => ErrorReason::ParentNotFound,
            Self::Account => ErrorReason::AccountNotFound,
            Self::Environment => ErrorReason::EnvironmentNotFound,
            Self::Domain => ErrorReason::DomainNotFound,
            Self::ApiKey | Self::AppKey | Self::ExternalKey => ErrorReason::KeyNotFound,
            Self::Application | Self::Installation => ErrorReason::ApplicationNotFound,
            Self::Authorization => ErrorReason::AuthorizationNotFound,
            Self::AuthorizationRequest => ErrorReason::AuthorizationRequestNotFound,
            // Every tenant has them, be they empty, and they are never looked up.
            Self::IpAllowlist
            | Self::OAuthClient
            | Self::ServiceSettings
            | Self::UsageRecord
            | Self::Entitlement => ErrorReason::Internal,
            Self::Reseller => ErrorReason::ResellerNotFound,
            Self::Backend => ErrorReason::BackendNotFound,
            Self::Product => ErrorReason::ProductOrPackageUnknown,
            Self::TenantTemplate => ErrorReason::TemplateNotFound,
            Self::Group => ErrorReason::GroupNotFound,
            Self::Operation => ErrorReason::OperationNotFound,
            Self::AppData => ErrorReason::AppDataNotFound,
        }
    }

    fn already_exists(self) -> ErrorReason {
        match self {
            Self::Tenant | Self::ParentTenant => ErrorReason::TenantAlreadyExists,
            Self::Account => ErrorReason::AccountAlreadyExists,
            Self::Environment => ErrorReason::EnvironmentAlreadyExists,
            Self::Domain => ErrorReason::DomainAlreadyExists,
            Self::Group => ErrorReason::GroupAlreadyExists,
            Self::UsageRecord => ErrorReason::UsageAlreadyRecorded,
            // Keys and operations have generated ids; two cannot meet. The others are set, not created.
            Self::ApiKey
            | Self::Installation
            | Self::AppKey
            | Self::OAuthClient
            | Self::IpAllowlist
            | Self::ServiceSettings
            | Self::Entitlement
            | Self::Operation
            | Self::AppData => ErrorReason::Internal,
            Self::ExternalKey => ErrorReason::KeyAlreadyExists,
            Self::Application => ErrorReason::ApplicationAlreadyExists,
            Self::Authorization => ErrorReason::AuthorizationExists,
            Self::AuthorizationRequest => ErrorReason::RequestAlreadyPending,
            Self::Reseller => ErrorReason::ResellerAlreadyExists,
            Self::Backend => ErrorReason::BackendAlreadyExists,
            Self::Product => ErrorReason::ProductAlreadyExists,
            Self::TenantTemplate => ErrorReason::TemplateAlreadyExists,
        }
    }
}

impl Error {
    /// One violation of one field.
    pub fn invalid(field: impl Into<String>, description: impl Into<String>) -> Self {
        Self::Invalid(vec![Violation::field(field, description)])
    }

    /// Nothing of the kind within the caller's reach.
    pub fn not_found(kind: Kind, id: impl Into<String>) -> Self {
        Self::NotFound { kind, id: shortened(id.into(), 80) }
    }

    /// A permission that the key lacks.
    pub fn permission_missing(permission: &str) -> Self {
        Self::Forbidden {
            permission: permission.to_owned(),
            message: format!(
                "the key lacks the permission {permission}: use a key with a role that has it \
                 (ListRoles shows them)"
            ),
        }
    }

    /// A fault of ours that a library reported.
    pub fn internal(source: impl Into<Source>) -> Self {
        Self::Internal(source.into())
    }

    /// What tonic itself reported, in our words.
    pub(crate) fn of_foreign(status: &Status) -> Self {
        match status.code() {
            Code::InvalidArgument | Code::Internal | Code::Unimplemented
                if is_about_framing(status.message()) =>
            {
                Self::undecodable(status.message())
            }
            Code::Unimplemented => Self::MethodUnknown,
            // How tonic reports a message above the limit, in both directions.
            Code::OutOfRange | Code::ResourceExhausted => {
                Self::MessageTooLarge(format!("{}: send less at once", status.message()))
            }
            Code::DeadlineExceeded => Self::DeadlineExceeded,
            Code::Cancelled => Self::Cancelled,
            // The client went away amid its request: nobody hears the answer.
            Code::Unknown if status.message().contains("error reading a body") => Self::Cancelled,
            _ => Self::internal(status.clone()),
        }
    }

    /// A message that is not what the method takes.
    pub(crate) fn undecodable(detail: &str) -> Self {
        Self::Invalid(vec![Violation::of(
            ErrorReason::InvalidMessage,
            "",
            format!("the request cannot be decoded as the message that the method takes: {detail}"),
        )])
    }

    /// Whether the same may succeed later, with nothing mended.
    pub(crate) fn may_pass(&self) -> bool {
        matches!(
            self,
            Self::Contended(_)
                | Self::DeadlineExceeded
                | Self::DatabaseAway(_)
                | Self::RevisionAhead(_)
                | Self::Overloaded(_)
        )
    }

    fn code(&self) -> Code {
        match self {
            Self::Invalid(_) => Code::InvalidArgument,
            Self::Unauthenticated => Code::Unauthenticated,
            Self::Forbidden { .. }
            | Self::ParameterForbidden { .. }
            | Self::IpNotAllowed(_)
            | Self::Mismatch(_) => Code::PermissionDenied,
            Self::NotFound { .. } => Code::NotFound,
            Self::AlreadyExists { .. } => Code::AlreadyExists,
            Self::WrongState { .. } | Self::IdempotencyConflict { .. } => Code::FailedPrecondition,
            Self::CursorExpired(_) => Code::OutOfRange,
            Self::Stale { .. } | Self::TenantMoved(_) | Self::Contended(_) => Code::Aborted,
            Self::MethodUnknown => Code::Unimplemented,
            Self::MessageTooLarge(_) | Self::LimitReached { .. } => Code::ResourceExhausted,
            Self::DeadlineExceeded => Code::DeadlineExceeded,
            Self::Cancelled => Code::Cancelled,
            Self::DatabaseAway(_) | Self::RevisionAhead(_) | Self::Overloaded(_) => {
                Code::Unavailable
            }
            Self::Internal(_) => Code::Internal,
        }
    }

    /// The machine-readable reason, as documented in `error_reason.proto`.
    pub fn reason(&self) -> ErrorReason {
        match self {
            Self::Invalid(violations) => {
                violations.first().map_or(ErrorReason::InvalidField, |first| first.reason)
            }
            Self::Unauthenticated => ErrorReason::CredentialInvalid,
            Self::Forbidden { .. } => ErrorReason::PermissionMissing,
            Self::ParameterForbidden { .. } => ErrorReason::UnauthorizedParameterForUserLevel,
            Self::IpNotAllowed(_) => ErrorReason::IpNotAllowed,
            Self::Mismatch(_) => ErrorReason::TenantMismatch,
            Self::NotFound { kind, .. } => kind.not_found(),
            Self::AlreadyExists { kind, .. } => kind.already_exists(),
            Self::WrongState { reason, .. } | Self::LimitReached { reason, .. } => *reason,
            Self::Stale { .. } => ErrorReason::EtagMismatch,
            Self::CursorExpired(_) => ErrorReason::CursorExpired,
            Self::TenantMoved(_) => ErrorReason::TenantMoved,
            Self::IdempotencyConflict { .. } => ErrorReason::IdempotencyConflict,
            Self::Contended(_) => ErrorReason::Contended,
            Self::MethodUnknown => ErrorReason::MethodUnknown,
            Self::MessageTooLarge(_) => ErrorReason::MessageTooLarge,
            Self::DeadlineExceeded => ErrorReason::DeadlineExceeded,
            Self::Cancelled => ErrorReason::Cancelled,
            Self::DatabaseAway(_) => ErrorReason::DatabaseUnavailable,
            Self::RevisionAhead(_) => ErrorReason::RevisionAhead,
            Self::Overloaded(_) => ErrorReason::Overloaded,
            Self::Internal(_) => ErrorReason::Internal,
        }
    }

    /// Everything dynamic in the message, so that programs need not parse it.
    fn metadata(&self) -> Vec<(&'static str, String)> {
        match self {
            Self::Invalid(violations) => {
                violations.first().map(|first| ("field", first.field.clone())).into_iter().collect()
            }
            Self::Forbidden { permission, .. } => vec![("permission", permission.clone())],
            Self::ParameterForbidden { field, permission } => {
                vec![("field", (*field).to_owned()), ("permission", (*permission).to_owned())]
            }
            Self::IpNotAllowed(ip) => ip.map(|ip| ("ip", ip.to_string())).into_iter().collect(),
            Self::NotFound { kind, id }
            | Self::Stale { kind, id }
            | Self::WrongState { kind, id, .. }
            | Self::LimitReached { kind, id, .. } => {
                vec![("kind", kind.noun().to_owned()), ("id", id.clone())]
            }
            Self::AlreadyExists { kind, what, id } => vec![
                ("kind", kind.noun().to_owned()),
                ("attribute", (*what).to_owned()),
                ("id", id.clone()),
            ],
            Self::CursorExpired(_) => vec![("field", "start_cursor".to_owned())],
            Self::RevisionAhead(field) => vec![("field", field.clone())],
            Self::TenantMoved(id) => {
                vec![("kind", Kind::Tenant.noun().to_owned()), ("id", id.clone())]
            }
            Self::IdempotencyConflict { request_id, .. } => {
                vec![("request_id", request_id.clone())]
            }
            Self::Unauthenticated
            | Self::Mismatch(_)
            | Self::Contended(_)
            | Self::MethodUnknown
            | Self::MessageTooLarge(_)
            | Self::DeadlineExceeded
            | Self::Cancelled
            | Self::DatabaseAway(_)
            | Self::Overloaded(_)
            | Self::Internal(_) => Vec::new(),
        }
    }

    fn details(&self) -> ErrorDetails {
        let reason = self.reason();
        let mut metadata = self.metadata();
        metadata.extend(legacy_code(reason).map(|code| ("legacy_code", code.to_owned())));

        let mut details = ErrorDetails::with_error_info(
            name_of(reason),
            DOMAIN,
            metadata
                .into_iter()
                .map(|(key, value)| (key.to_owned(), value))
                .collect::<std::collections::HashMap<_, _>>(),
        );
        match self {
            Self::Invalid(violations) => {
                details.set_bad_request(
                    violations
                        .iter()
                        .take(VIOLATIONS_TOLD)
                        .map(|violation| {
                            FieldViolation::new(&violation.field, &violation.description)
                        })
                        .collect::<Vec<_>>(),
                );
            }
            Self::WrongState { id, message, .. } => {
                details.set_precondition_failure(vec![PreconditionViolation::new(
                    name_of(reason),
                    id,
                    message,
                )]);
            }
            Self::LimitReached { kind, id, message, .. } => {
                let subject = format!("{}:{id}", kind.noun());
                details.set_quota_failure(vec![QuotaViolation::new(subject, message)]);
            }
            Self::Contended(_) | Self::DatabaseAway(_) | Self::Overloaded(_) => {
                details.set_retry_info(Some(RETRY_AFTER));
            }
            _ => {}
        }
        details
    }
}

/// The name of a reason on the wire: without the prefix that the enum needs in the proto.
pub fn name_of(reason: ErrorReason) -> &'static str {
    reason.as_str_name().trim_start_matches("ERROR_REASON_")
}

/// The number that the products before Tenantry gave to the same error.
fn legacy_code(reason: ErrorReason) -> Option<&'static str> {
    Some(match reason {
        ErrorReason::TenantNotFound => "450",
        ErrorReason::TenantAlreadyExists => "451",
        ErrorReason::ParentRequired => "452",
        ErrorReason::ParentNotFound => "453",
        ErrorReason::CannotDeleteSelf => "462",
        ErrorReason::KeyNotFound => "473",
        ErrorReason::ApplicationNotFound => "472",
        ErrorReason::OauthTypeConflict => "459",
        ErrorReason::ProductOrPackageUnknown => "460",
        ErrorReason::ResellerAlreadyExists => "11",
        ErrorReason::RecordProtected => "500",
        ErrorReason::UnauthorizedParameterForUserLevel => "58",
        ErrorReason::NoBackendAvailable => "61",
        ErrorReason::EnvironmentNotFound => "501",
        _ => return None,
    })
}

/// How many violations an error tells, and how many of them in its message. Errors travel in headers,
/// of which some clients take no more than 8 KiB.
const VIOLATIONS_TOLD: usize = 20;
const VIOLATIONS_SUMMED: usize = 10;

fn summary(violations: &[Violation]) -> String {
    let told = |violation: &Violation| match violation.field.as_str() {
        "" => violation.description.clone(),
        field => format!("{field}: {}", violation.description),
    };
    let mut told = violations.iter().take(VIOLATIONS_SUMMED).map(told).collect::<Vec<_>>();
    if let Some(more @ 1..) = violations.len().checked_sub(VIOLATIONS_SUMMED) {
        told.push(format!("and {more} more"));
    }
    told.join("; ")
}

fn is_about_framing(message: &str) -> bool {
    [
        "protocol error",
        "decod",
        "Unexpected EOF",
        "compress",
        "Missing request message",
        "tonic-web",
    ]
    .iter()
    .any(|part| message.contains(part))
}

impl From<Error> for Status {
    fn from(error: Error) -> Self {
        let mut status = Self::with_error_details(error.code(), error.to_string(), error.details());
        status.set_source(Arc::new(error));
        status
    }
}

impl From<DieselError> for Error {
    /// Tells by kind and text: the library keeps the SQLSTATE of only some errors.
    fn from(error: DieselError) -> Self {
        let DieselError::DatabaseError(kind, information) = &error else {
            return match error {
                DieselError::BrokenTransactionManager => Self::DatabaseAway(error.into()),
                _ => Self::Internal(error.into()),
            };
        };
        let message = information.message();
        match kind {
            DatabaseErrorKind::SerializationFailure => Self::Contended(error),
            DatabaseErrorKind::ClosedConnection
            | DatabaseErrorKind::UnableToSendCommand
            | DatabaseErrorKind::ReadOnlyTransaction => Self::DatabaseAway(error.into()),
            _ if message.contains("deadlock detected") || message.contains("lock timeout") => {
                Self::Contended(error)
            }
            _ if message.contains("statement timeout") => Self::DeadlineExceeded,
            _ if message.contains("terminating connection")
                || message.contains("the database system is") =>
            {
                Self::DatabaseAway(error.into())
            }
            _ => Self::Internal(error.into()),
        }
    }
}

impl From<PoolError> for Error {
    fn from(error: PoolError) -> Self {
        match error {
            PoolError::Timeout(deadpool::managed::TimeoutType::Wait) => {
                Self::Overloaded(error.into())
            }
            _ => Self::DatabaseAway(error.into()),
        }
    }
}

/// Takes the source of a status back, for the log.
pub(crate) fn source_of(status: &Status) -> Option<&Error> {
    use std::error::Error as _;
    status.source()?.downcast_ref::<Error>()
}

/// A text, no longer than an error may repeat it.
fn shortened(text: String, most: usize) -> String {
    match text.char_indices().nth(most) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

/// The message of an error with those of everything that caused it; for logs and operators, since
/// callers are told the first alone.
pub fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let said = error.to_string();
        // Some say in their own words what their source says.
        if !text.contains(&said) {
            text.push_str(": ");
            text.push_str(&said);
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all_reasons() -> impl Iterator<Item = ErrorReason> {
        (1..200).filter_map(|number| ErrorReason::try_from(number).ok())
    }

    #[test]
    fn every_reason_has_the_form_that_aip_193_asks_for() {
        for reason in all_reasons() {
            let name = name_of(reason);

            assert!(name.len() <= 63 && !name.starts_with('_') && !name.ends_with('_'), "{name}");
            assert!(name.chars().all(|c| c.is_ascii_uppercase() || c == '_'), "{name}");
        }
    }

    #[test]
    fn the_cause_of_an_internal_error_stays_inside() {
        let error = Error::internal("relation \"tenants\" does not exist");

        let status = Status::from(error);

        assert_eq!(status.code(), Code::Internal);
        assert!(!status.message().contains("tenants"), "{}", status.message());
        assert!(!String::from_utf8_lossy(status.details()).contains("tenants"));
        assert!(source_of(&status).is_some());
    }

    #[test]
    fn all_violations_are_told_at_once() {
        let error = Error::Invalid(vec![
            Violation::field("tenant.name", "required"),
            Violation::of(ErrorReason::ImmutableField, "tenant.code", "cannot be changed"),
        ]);

        let status = Status::from(error);

        let details = status.get_error_details();
        let violations = &details.bad_request().unwrap().field_violations;
        assert_eq!(violations.len(), 2);
        assert_eq!(details.error_info().unwrap().reason, "INVALID_FIELD");
    }

    #[test]
    fn a_reason_with_a_number_in_an_older_product_carries_it() {
        let status = Status::from(Error::not_found(Kind::Tenant, "foo"));

        let details = status.get_error_details();
        let info = details.error_info().unwrap();
        assert_eq!(info.metadata["legacy_code"], "450");
        assert_eq!(info.metadata["id"], "foo");
        assert_eq!(info.domain, "tenantry");
    }
}
