//! The outermost layer: gives a call its ids and its deadline, and tells of it once when it is over.
//!
//! It sees the refusals of everything below it, so here every error gets the details that all errors
//! carry, and here the one log line of a call is written, with the whole chain of causes.

use std::{
    error::Error as _,
    net::IpAddr,
    sync::{Arc, OnceLock},
    time::Duration,
};

use axum::{
    extract::{Request, State},
    middleware::Next,
    response::Response,
};
use http::{HeaderMap, HeaderValue};
use tokio::time::Instant;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};
use tracing::{Instrument as _, Span, field::Empty};
use tracing_opentelemetry::OpenTelemetrySpanExt as _;

use super::{Call, client::Client, permit::Method};
use crate::{
    clock::Clock,
    config::Cidr,
    edge::Peer,
    error::{Error, Violation, causes, name_of, source_of},
    pb::ErrorReason,
    telemetry::{Metrics, Sampling, UNSAMPLED},
};

/// How long a call may take whose caller gave no deadline.
const DEADLINE_DEFAULT: Duration = Duration::from_secs(30);

/// How long a stream may go on whose caller gave no deadline: for as long as the caller listens.
const STREAM_DEADLINE_DEFAULT: Duration = Duration::from_hours(10 * 365 * 24);

/// How far ahead a deadline counts; a later one is cut to this.
const DEADLINE_MAX: Duration = Duration::from_hours(1);

/// The metadata that the service reads; each may be there once.
const READ_ONCE: &[&str] = &[
    "authorization",
    "x-account-id",
    "x-tenant-id",
    "x-correlation-id",
    "grpc-timeout",
    "traceparent",
];

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

/// What a call has got before anybody knows whose it is.
#[derive(Clone, Debug)]
pub struct Observed {
    /// Given by the caller, or made.
    pub correlation_id: String,
    /// When the caller stops waiting.
    pub deadline: Instant,
    /// What is called, if it is one of ours.
    pub method: Option<&'static Method>,
    /// Where the call comes from.
    pub client: Client,
    /// Filled when the caller is known, for the log line and the answer.
    pub call: Arc<OnceLock<Call>>,
}

/// Runs a call within a span, with a deadline, and tells of it when it is over.
pub async fn observe(
    State(observer): State<Arc<Observer>>,
    mut request: Request,
    next: Next,
) -> Response {
    let start = Instant::now();
    let is_grpc = is_grpc(request.headers());
    let path = request.uri().path().to_owned();
    let method = Method::find(&path);
    let peer = request.extensions().get::<Peer>().map(|peer| peer.0.ip());
    let client = Client::of(peer, request.headers(), &observer.trusted_proxies);

    let (correlation_id, form) = match correlation_id(request.headers()) {
        Ok(Some(given)) => (given, check_form(method, request.headers())),
        Ok(None) => (observer.clock.uuid().to_string(), check_form(method, request.headers())),
        Err(violation) => (observer.clock.uuid().to_string(), Err(violation)),
    };
    let span = span_of(observer.sampling, (method, &path), &correlation_id, request.headers());
    let call = Arc::new(OnceLock::new());

    let mut response = match form {
        Err(violation) => refusal(Error::Invalid(vec![violation])),
        Ok(left) => {
            let deadline = start + left;
            let correlation_id = correlation_id.clone();
            request.extensions_mut().insert(Observed {
                correlation_id,
                client,
                deadline,
                method,
                call: call.clone(),
            });
            // The future is dropped at the deadline: its transaction rolls back, its connection closes.
            tokio::time::timeout_at(deadline, next.run(request).instrument(span.clone()))
                .await
                .unwrap_or_else(|_| refusal(Error::DeadlineExceeded))
        }
    };

    let mut told = Told::default();
    if is_grpc {
        told = dress(&mut response, &correlation_id);
    } else if let Some(status) = response.extensions().get::<Status>() {
        told.code = status.code();
    }
    let headers = response.headers_mut();
    headers.insert("x-correlation-id", header(&correlation_id));
    if let Some(tenant) = call.get().and_then(|call| call.tenant.as_ref()) {
        headers.insert("x-tenant-id", header(&tenant.tenant_id));
    }

    let elapsed = start.elapsed();
    observer.metrics.record(method.map(Method::name), told.code, elapsed);
    span.in_scope(|| {
        let named = (method, &*path);
        log(named, is_grpc, &response, &told, call.get(), client.ip, elapsed, &correlation_id);
    });
    response
}

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

fn refusal(error: Error) -> Response {
    Status::from(error).into_http()
}

fn header(text: &str) -> HeaderValue {
    HeaderValue::from_str(text).unwrap_or(HeaderValue::from_static(""))
}

/// Whether a request is a gRPC call.
pub(crate) fn is_grpc(headers: &HeaderMap) -> bool {
    headers
        .get(http::header::CONTENT_TYPE)
        .is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"))
}

/// The correlation id that the caller gave: 1 to 128 visible ASCII characters (4-02).
fn correlation_id(headers: &HeaderMap) -> Result<Option<String>, Violation> {
    let Some(value) = headers.get("x-correlation-id") else {
        return Ok(None);
    };
    let visible = |bytes: &[u8]| bytes.iter().all(u8::is_ascii_graphic);
    match value.to_str() {
        Ok(text) if (1..=128).contains(&text.len()) && visible(text.as_bytes()) => {
            Ok(Some(text.to_owned()))
        }
        _ => Err(Violation::of(
            ErrorReason::InvalidMetadata,
            "x-correlation-id",
            "is not 1 to 128 visible ASCII characters",
        )),
    }
}

/// Checks the metadata as such; answers how long the call may take.
fn check_form(method: Option<&Method>, headers: &HeaderMap) -> Result<Duration, Violation> {
    if let Some(key) = READ_ONCE.iter().find(|key| headers.get_all(**key).iter().count() > 1) {
        return Err(Violation::of(
            ErrorReason::InvalidMetadata,
            *key,
            "is there more than once: send it once",
        ));
    }
    let Some(timeout) = headers.get("grpc-timeout") else {
        let streams = method.is_some_and(|method| method.streams);
        return Ok(if streams { STREAM_DEADLINE_DEFAULT } else { DEADLINE_DEFAULT });
    };
    timeout.to_str().ok().and_then(read_timeout).map(|left| left.min(DEADLINE_MAX)).ok_or_else(
        || {
            Violation::of(
                ErrorReason::InvalidMetadata,
                "grpc-timeout",
                "is not 1 to 8 digits and one of the units H, M, S, m, u, n",
            )
        },
    )
}

/// Reads a timeout as the gRPC protocol writes it.
fn read_timeout(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if !(1..=8).contains(&digits.len()) || !digits.bytes().all(|digit| digit.is_ascii_digit()) {
        return None;
    }
    let amount = digits.parse::<u64>().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(amount * 3600),
        "M" => Duration::from_secs(amount * 60),
        "S" => Duration::from_secs(amount),
        "m" => Duration::from_millis(amount),
        "u" => Duration::from_micros(amount),
        "n" => Duration::from_nanos(amount),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timeout_is_read_as_the_protocol_writes_it() {
        assert_eq!(read_timeout("5S"), Some(Duration::from_secs(5)));
        assert_eq!(read_timeout("99999999m"), Some(Duration::from_millis(99_999_999)));
        for wrong in ["", "S", "1x", "-5S", "5", "123456789S", "1.5S", "5 S", "5Sä", "ä"] {
            assert_eq!(read_timeout(wrong), None, "{wrong:?}");
        }
    }

    #[test]
    fn metadata_that_is_there_twice_is_refused() {
        for key in READ_ONCE {
            let mut headers = HeaderMap::new();
            headers.append(*key, HeaderValue::from_static("1S"));
            assert!(check_form(None, &headers).is_ok(), "{key}");

            headers.append(*key, HeaderValue::from_static("1S"));

            assert_eq!(check_form(None, &headers).unwrap_err().field, *key);
        }
    }

    #[test]
    fn a_correlation_id_is_visible_ascii() {
        let given = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert("x-correlation-id", HeaderValue::from_bytes(text.as_bytes()).unwrap());
            correlation_id(&headers)
        };

        assert_eq!(given("abc-1").unwrap().as_deref(), Some("abc-1"));
        for wrong in ["", "a b", "a\tb", "ä", &"a".repeat(129)] {
            assert!(given(wrong).is_err(), "{wrong:?}");
        }
    }
}
