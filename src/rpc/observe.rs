//! The outermost layer: gives a call its ids and its deadline, and tells of it once when it is over.
//!
//! It sees the refusals of everything below it, so here every error gets the details that all errors
//! carry, and here the one log line of a call is written, with the whole chain of causes.

use std::{
    error::Error as _,
    net::IpAddr,
    panic::AssertUnwindSafe,
    sync::{Arc, OnceLock},
    time::Duration,
};

use axum::{
    extract::Request,
    response::{IntoResponse as _, Response},
};
use futures_util::FutureExt as _;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use tokio::time::Instant;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};
use tracing::{Instrument as _, Span, field::Empty};
use tracing_opentelemetry::OpenTelemetrySpanExt as _;

use super::{
    Call,
    client::Client,
    metadata::Metadata,
    permit::{Method, is_closed},
};
use crate::{
    authorizations::consent::CONSENT,
    clock::Clock,
    config::Cidr,
    edge::Peer,
    error::{Error, causes, name_of, source_of},
    pb::ErrorReason,
    telemetry::{Metrics, Sampling, UNSAMPLED},
};

/// How long a call may take whose caller gave no deadline.
const DEADLINE_DEFAULT: Duration = Duration::from_secs(30);

/// How long a stream may go on whose caller gave no deadline: for as long as the caller listens.
const STREAM_DEADLINE_DEFAULT: Duration = Duration::from_hours(10 * 365 * 24);

/// How far ahead a deadline counts; a later one is cut to this.
const DEADLINE_MAX: Duration = Duration::from_hours(1);

/// What the layer needs.
#[derive(Debug)]
pub struct Observer {
    /// Makes correlation ids.
    pub clock: Arc<Clock>,
    /// Counts and times the calls.
    pub metrics: Metrics,
    /// Picks the calls that are traced.
    pub sampling: Sampling,
    /// Whose `x-forwarded-for` is believed.
    pub trusted_proxies: Vec<Cidr>,
}

/// What is known of a call before anybody knows whose it is.
#[derive(Clone, Debug)]
pub struct Observed {
    /// Given by the caller, or made.
    pub correlation_id: Arc<str>,
    /// When the caller stops waiting.
    pub deadline: Instant,
    /// What is called, if it is one of ours.
    pub method: Option<&'static Method>,
    /// What it carries.
    pub metadata: Metadata,
    /// Where it comes from.
    pub client: Client,
    /// Filled when the caller is known, for the log line and the answer.
    pub call: Arc<OnceLock<Arc<Call>>>,
}

/// Runs a call within a span, with a deadline, and tells of it when it is over.
pub async fn observe<Answer>(
    observer: &Observer,
    request: Request,
    go_on: impl FnOnce(Request, Observed) -> Answer,
) -> Response
where
    Answer: Future<Output = Response>,
{
    let start = Instant::now();
    let path = told(request.uri().path()).to_owned();
    let method = Method::find(&path);
    let (metadata, once) = Metadata::read(request.headers());
    let peer = request.extensions().get::<Peer>().map(|peer| peer.0.ip());
    let client = metadata.client(peer, request.headers(), &observer.trusted_proxies);

    let is_grpc = metadata.is_grpc;
    let made = || Arc::from(&*observer.clock.uuid().to_string());
    let (correlation_id, form) = match metadata.correlation_id() {
        Ok(given) => (given.map_or_else(made, Arc::from), once),
        Err(violation) => (made(), once.and(Err(violation))),
    };
    let span = span_of(observer.sampling, (method, &path), &correlation_id, request.headers());
    let call = Arc::new(OnceLock::new());

    let mut response = match form.and_then(|()| metadata.timeout()) {
        Err(violation) => refusal(Error::Invalid(vec![violation]), is_grpc),
        Ok(timeout) => {
            // A browser has no deadline of its own.
            let timeout = timeout.filter(|_| is_grpc);
            let streams = method.is_some_and(|method| method.streams);
            let otherwise = if streams { STREAM_DEADLINE_DEFAULT } else { DEADLINE_DEFAULT };
            let deadline = start + timeout.map_or(otherwise, |timeout| timeout.min(DEADLINE_MAX));
            let seen = Observed {
                correlation_id: correlation_id.clone(),
                deadline,
                method,
                metadata,
                client,
                call: call.clone(),
            };
            let going_on = AssertUnwindSafe(go_on(request, seen)).catch_unwind();
            // The future is dropped at the deadline: its transaction rolls back, its connection closes. So it
            // is where it panics; what it shares with others is as between two statements then.
            match tokio::time::timeout_at(deadline, going_on.instrument(span.clone())).await {
                Ok(Ok(response)) => response,
                Ok(Err(_)) => refusal(Error::internal("the call panicked"), is_grpc),
                Err(_) => refusal(Error::DeadlineExceeded, is_grpc),
            }
        }
    };

    let mut told = Told::default();
    if is_grpc {
        told = dress(&mut response, &correlation_id);
    } else if let Some(status) = response.extensions().get::<Status>() {
        told.code = status.code();
    }
    let call = call.get().map(|call| &**call);
    let headers = response.headers_mut();
    let mut correlates = header(&correlation_id);
    // Of one call only: in the connection's table of headers it would push out those of all.
    correlates.set_sensitive(true);
    headers.insert(CORRELATION_ID, correlates);
    if let Some(tenant) = call.and_then(|call| call.tenant.as_ref()) {
        headers.insert(TENANT_ID, header(&tenant.tenant_id));
    }

    let elapsed = start.elapsed();
    observer.metrics.record(method.map(Method::name), told.code, elapsed);
    span.in_scope(|| {
        let named = (method, &*path);
        log(named, is_grpc, &response, &told, call, client.ip, elapsed, &correlation_id);
    });
    response
}

/// A path as logs and traces may have it: of one that is not known, and may be that of a link misspelt, nothing is told,
/// and neither is the secret of one that is.
fn told(path: &str) -> &str {
    let is_ours = |path: &str| path == "/" || is_closed(path) || path.starts_with("/grpc.");
    match path {
        link if link.starts_with(CONSENT) => CONSENT,
        known if is_ours(known) => known,
        _ => "/unknown",
    }
}

const CORRELATION_ID: HeaderName = HeaderName::from_static("x-correlation-id");
const TENANT_ID: HeaderName = HeaderName::from_static("x-tenant-id");

/// What the log line says of the outcome.
struct Told {
    code: Code,
    reason: Option<ErrorReason>,
    status: Option<Status>,
}

impl Default for Told {
    fn default() -> Self {
        Self { code: Code::Ok, reason: None, status: None }
    }
}

/// Gives a failed answer the details that all errors carry.
fn dress(response: &mut Response, correlation_id: &str) -> Told {
    let Some(status) = response.extensions().get::<Status>().cloned().or_else(|| {
        Status::from_header_map(response.headers()).filter(|status| status.code() != Code::Ok)
    }) else {
        return Told::default();
    };
    let ours = match source_of(&status) {
        Some(_) => status,
        None => match Error::of_foreign(&status) {
            // What health and reflection answer by their own protocols stays as it is.
            Error::Internal(_) if !matches!(status.code(), Code::Internal | Code::Unknown) => {
                status
            }
            error => Status::from(error),
        },
    };

    *response = dressed(&ours, correlation_id).into_http();
    Told { code: ours.code(), reason: source_of(&ours).map(Error::reason), status: Some(ours) }
}

/// A refusal with the details that all errors carry.
pub(crate) fn dressed(status: &Status, correlation_id: &str) -> Status {
    let mut details: ErrorDetails = status.get_error_details();
    details.set_request_info(correlation_id, "");
    Status::with_error_details(status.code(), status.message(), details)
}

#[expect(clippy::too_many_arguments, reason = "the one log line tells all there is to tell")]
fn log(
    (declared, path): (Option<&Method>, &str),
    is_grpc: bool,
    response: &Response,
    told: &Told,
    call: Option<&Call>,
    client_ip: Option<IpAddr>,
    elapsed: Duration,
    correlation_id: &str,
) {
    let is_quiet = told.status.is_none() && declared.is_some_and(|method| method.quiet);
    if is_quiet && !tracing::enabled!(tracing::Level::DEBUG) {
        return;
    }
    let method = path.trim_start_matches('/');
    let code =
        if is_grpc { format!("{:?}", told.code) } else { response.status().as_u16().to_string() };
    let reason = told.reason.map(name_of);
    let duration_ms = elapsed.as_secs_f64() * 1000.0;
    let client_ip = client_ip.map(|address| address.to_string());
    let key = call.map(|call| call.caller.key_id.to_string());
    let account = call.and_then(|call| call.account.as_deref());
    let tenant = call.and_then(|call| call.tenant.as_ref()).map(|tenant| &*tenant.tenant_id);
    macro_rules! line {
        ($level:expr, $($extra:tt)*) => {
            tracing::event!(
                $level, rpc.method = method, rpc.code = code, error.reason = reason,
                duration_ms, correlation.id = correlation_id, key.id = key, account.id = account,
                tenant.id = tenant, client.ip = client_ip, $($extra)*
            )
        };
    }
    match (&told.status, told.code) {
        (Some(status), Code::Internal | Code::Unknown | Code::DataLoss) => {
            line!(tracing::Level::ERROR, error = causes_of(status), "call failed");
        }
        (Some(status), Code::Unavailable) => {
            line!(tracing::Level::WARN, error = causes_of(status), "call failed");
        }
        (Some(status), _) => {
            line!(tracing::Level::INFO, error = status.message(), "call refused");
        }
        (None, _) if is_quiet => line!(tracing::Level::DEBUG, "call"),
        (None, _) => line!(tracing::Level::INFO, "call"),
    }
}

/// A status shows itself with its code; its message alone reads better.
fn causes_of(status: &Status) -> String {
    status.source().map_or_else(|| status.message().to_owned(), causes)
}

fn span_of(
    sampling: Sampling,
    (declared, path): (Option<&Method>, &str),
    correlation_id: &str,
    headers: &HeaderMap,
) -> Span {
    let name = path.trim_start_matches('/');
    let (service, method) = name.split_once('/').unwrap_or((name, ""));
    macro_rules! span {
        ($($target:tt)*) => {
            tracing::info_span!(
                $($target)* "rpc",
                otel.name = name,
                otel.kind = "server",
                rpc.system = "grpc",
                rpc.service = service,
                rpc.method = method,
                correlation.id = correlation_id,
                key.id = Empty,
                account.id = Empty,
                tenant.id = Empty,
            )
        };
    }
    let Some(parent) = sampling.parent_of_traced(headers) else {
        // Of which there are too many to be told of one by one, nothing is told within either.
        if declared.is_some_and(|method| method.quiet) {
            return Span::none();
        }
        return span!(target: UNSAMPLED,);
    };
    let span = span!();
    // Fails only where no OpenTelemetry layer listens, and then there is nothing to link.
    let _ = span.set_parent(parent);
    span
}

fn refusal(error: Error, is_grpc: bool) -> Response {
    let (status, is_wrong) = (Status::from(error), StatusCode::BAD_REQUEST);
    match (is_grpc, status.code()) {
        (true, _) => status.into_http(),
        (false, Code::InvalidArgument) => is_wrong.into_response(),
        (false, Code::DeadlineExceeded) => StatusCode::SERVICE_UNAVAILABLE.into_response(),
        (false, _) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

fn header(text: &str) -> HeaderValue {
    HeaderValue::from_str(text).unwrap_or(HeaderValue::from_static(""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_secret_of_a_link_is_in_no_path_that_is_told() {
        for path in [
            "/consent/secret",
            "//consent/secret",
            "/Consent/secret",
            "/%63onsent/secret",
            "/./consent/secret",
            "/x/../consent/secret",
            "/prefix/consent/secret",
            "/consent%2Fsecret",
            "/consent/secret/",
        ] {
            assert!(!told(path).contains("secret"), "{path}");
        }
        let method = "/tenantry.v1.TenantService/GetTenant";
        assert_eq!(told(method), method);
    }
}
