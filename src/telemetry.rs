//! What the server says about itself: log lines, traces and metrics.
//!
//! Log lines go to standard error, as text or JSON. Traces and metrics go to an OpenTelemetry
//! collector when `otlp.endpoint` names one, and cost nothing when it does not.
//!
//! # One call, one trace
//!
//! A call's span is named [`RPC`] and becomes the child of the caller's `traceparent`. Whether it is
//! traced is decided *before* the span is made, by [`Sampling::parent_of_traced`], since an
//! OpenTelemetry span costs as much as a short call even if it is thrown away. The span of a call
//! that is not traced has the target [`UNSAMPLED`].
//!
//! Spans and events inside a traced call follow it. Spans outside of calls, and those of other
//! crates, are never exported: the exporter's own calls would beget spans without end.
//!
//! The usual `OTEL_…` variables hold: `OTEL_TRACES_SAMPLER_ARG` is the share of calls to trace
//! where the caller has not decided (from 0 to 1, by default 1), and the exporters read
//! `OTEL_EXPORTER_OTLP_HEADERS`, `OTEL_EXPORTER_OTLP_TIMEOUT`, `OTEL_BSP_…`,
//! `OTEL_METRIC_EXPORT_INTERVAL` and `OTEL_RESOURCE_ATTRIBUTES`. `OTEL_TRACES_SAMPLER` is not read:
//! sampling is always by the parent, then by that share.

use std::{collections::HashMap, io::IsTerminal as _, time::Duration};

use http::{HeaderMap, HeaderName};
use opentelemetry::{
    Context, KeyValue, global,
    metrics::{Histogram, Meter},
    propagation::TextMapPropagator as _,
    trace::{Link, SpanKind, TraceContextExt as _, TraceId, TracerProvider as _},
};
use opentelemetry_otlp::{ExporterBuildError, MetricExporter, SpanExporter, WithExportConfig as _};
use opentelemetry_sdk::{
    Resource,
    metrics::SdkMeterProvider,
    propagation::TraceContextPropagator,
    trace::{Sampler, SamplingResult, SdkTracerProvider, ShouldSample},
};
use tracing::{Level, Metadata, Subscriber};
use tracing_subscriber::{
    EnvFilter, Layer, Registry,
    filter::{FilterExt as _, LevelFilter, dynamic_filter_fn, filter_fn},
    fmt::MakeWriter,
    layer::{Context as LayerContext, SubscriberExt as _},
    registry::LookupSpan,
};

use crate::config::{LogFormat, Settings};

/// Name of the span of a call, the only kind of span that starts a trace here.
pub const RPC: &str = "rpc";

/// Target of the span of a call that is logged but not traced.
pub const UNSAMPLED: &str = "tenantry::unsampled";

/// Starts logging and, if a collector is set, the export of traces and metrics.
///
/// To be called once, inside the Tokio runtime (the exporters' connections live on it). Keep the
/// guard until the end, then call [`Guard::shutdown`].
pub fn init(settings: &Settings) -> Result<Guard, TelemetryError> {
    let (subscriber, guard) = assemble(settings)?;

    // Before logging begins, since OpenTelemetry logs that these were set.
    global::set_text_map_propagator(TraceContextPropagator::new());
    if let Some(exports) = &guard.exports {
        global::set_tracer_provider(exports.traces.clone());
        global::set_meter_provider(exports.metrics.clone());
    }
    tracing::subscriber::set_global_default(subscriber)
        .map_err(|_| TelemetryError::AlreadyStarted)?;

    Ok(guard)
}

/// Keeps traces and metrics flowing; without it, what is not yet sent is lost.
#[derive(Debug)]
#[must_use = "dropping the guard ends the export"]
pub struct Guard {
    exports: Option<Exports>,
}

impl Guard {
    /// Sends what is left and stops, without holding up a thread that serves others.
    ///
    /// Takes seconds at worst, when the collector does not answer.
    pub async fn shutdown(self) {
        if self.exports.is_some() {
            // A panic in the exporters is not worth failing an orderly end for.
            tokio::task::spawn_blocking(move || drop(self)).await.ok();
        }
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        let Some(exports) = self.exports.take() else { return };

        for result in [exports.traces.shutdown(), exports.metrics.shutdown()] {
            if let Err(error) = result {
                tracing::warn!(%error, "the last traces or metrics were not delivered");
            }
        }
    }
}

/// Why telemetry cannot start.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The log filter cannot be read.
    #[error("`log.filter` must be a filter such as \"info\" or \"warn,tenantry=debug\"")]
    Filter(#[source] tracing_subscriber::filter::ParseError),
    /// The exporters cannot be made.
    #[error("traces and metrics cannot be exported to `otlp.endpoint` {endpoint}")]
    Exporter {
        /// The collector that was set.
        endpoint: String,
        /// What the exporter says.
        source: ExporterBuildError,
    },
    /// The share of calls to trace is not one.
    #[error("OTEL_TRACES_SAMPLER_ARG is \"{0}\", but must be a number from 0 to 1, such as 0.01")]
    Share(String),
    /// There is no Tokio runtime to export on.
    #[error("telemetry with `otlp.endpoint` must be started inside a Tokio runtime")]
    NoRuntime,
    /// Something else in this process collects logs already.
    #[error("logging was started already in this process; start telemetry once")]
    AlreadyStarted,
}

/// Decides which calls are traced.
#[derive(Debug, Clone, Copy)]
pub struct Sampling {
    /// Share of calls to trace where the caller has not decided; none if nothing is exported.
    share: Option<f64>,
}

impl Sampling {
    /// Reads how many calls to trace.
    pub fn new(settings: &Settings) -> Result<Self, TelemetryError> {
        let share = std::env::var("OTEL_TRACES_SAMPLER_ARG").unwrap_or_default();
        let share = read_share(&share)?;

        Ok(Self { share: settings.otlp.endpoint.is_some().then_some(share) })
    }

    /// Gives the parent for the span of a call if the call is to be traced.
    ///
    /// The caller's decision holds; where it has made none, chance decides.
    pub fn parent_of_traced(&self, headers: &HeaderMap) -> Option<Context> {
        let share = self.share?;
        let parent = parent_context(headers);

        if parent.has_active_span() {
            return parent.span().span_context().is_sampled().then_some(parent);
        }
        (rand::random::<f64>() < share).then(|| parent.with_value(Picked))
    }
}

/// Reads the caller's trace from `traceparent` and `tracestate`.
///
/// Gives an empty context where there is none. As W3C asks, a malformed `traceparent`, or more than
/// one, counts as none, and a malformed `tracestate` is dropped alone; neither fails the call.
pub fn parent_context(headers: &HeaderMap) -> Context {
    let mut parents = headers.get_all(TRACEPARENT).iter();
    let (Some(parent), None) = (parents.next(), parents.next()) else {
        return Context::new();
    };
    let Some(parent) = parent.to_str().ok().map(str::trim).filter(|text| is_traceparent(text))
    else {
        return Context::new();
    };

    // W3C allows the state to be spread over several headers, in order.
    let states = headers.get_all(TRACESTATE).iter().filter_map(|state| state.to_str().ok());
    let fields = HashMap::from([
        (TRACEPARENT.as_str().to_owned(), parent.to_owned()),
        (TRACESTATE.as_str().to_owned(), states.collect::<Vec<_>>().join(",")),
    ]);
    TraceContextPropagator::new().extract_with_context(&Context::new(), &fields)
}

/// The measurements of calls.
///
/// Without a collector, recording does nothing.
#[derive(Debug, Clone, Default)]
pub struct Metrics {
    call_duration: Option<Histogram<f64>>,
}

impl Metrics {
    /// Makes the instruments, on the meter that [`init`] has set up.
    pub fn new(settings: &Settings) -> Self {
        if settings.otlp.endpoint.is_none() {
            return Self::default();
        }
        Self::on(&global::meter(SERVICE))
    }

    /// Records a call that has ended, by its method (`tenantry.v1.KeyService/VerifyKey`).
    ///
    /// Calls of anything else are counted together: a name that a stranger makes up must not become
    /// a series of its own.
    pub fn record(&self, method: Option<&'static str>, code: tonic::Code, took: Duration) {
        let Some(call_duration) = &self.call_duration else { return };
        let (service, method) =
            method.and_then(|name| name.split_once('/')).unwrap_or((OTHER, OTHER));

        let attributes = [
            KeyValue::new("rpc.system", "grpc"),
            KeyValue::new("rpc.service", service),
            KeyValue::new("rpc.method", method),
            KeyValue::new("rpc.grpc.status_code", i64::from(i32::from(code))),
        ];
        call_duration.record(took.as_secs_f64() * 1000.0, &attributes);
    }

    fn on(meter: &Meter) -> Self {
        let call_duration = meter
            .f64_histogram("rpc.server.duration")
            .with_unit("ms")
            .with_description("How long calls took, from their arrival to their answer.")
            .with_boundaries(DURATION_BOUNDS_MS.to_vec())
            .build();

        Self { call_duration: Some(call_duration) }
    }
}

const SERVICE: &str = env!("CARGO_PKG_NAME");

/// What OpenTelemetry has for the names of methods that do not exist.
const OTHER: &str = "_OTHER";

const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// Finer at the lower end than OpenTelemetry's default, which begins at 5 ms: a warm key check
/// takes well below one.
const DURATION_BOUNDS_MS: [f64; 16] = [
    0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0, 500.0, 1000.0, 2500.0, 5000.0,
    10000.0,
];

/// Marks the parent of a call that [`Sampling`] has picked, lest chance be asked twice.
#[derive(Debug)]
struct Picked;

/// Samples spans that have no parent: those picked before, and of others a share.
#[derive(Debug, Clone)]
struct PickedOrShare(f64);

impl ShouldSample for PickedOrShare {
    fn should_sample(
        &self,
        parent: Option<&Context>,
        trace_id: TraceId,
        name: &str,
        kind: &SpanKind,
        attributes: &[KeyValue],
        links: &[Link],
    ) -> SamplingResult {
        let is_picked = parent.is_some_and(|parent| parent.get::<Picked>().is_some());
        let share = if is_picked { 1.0 } else { self.0 };

        Sampler::TraceIdRatioBased(share)
            .should_sample(parent, trace_id, name, kind, attributes, links)
    }
}

#[derive(Debug)]
struct Exports {
    traces: SdkTracerProvider,
    metrics: SdkMeterProvider,
}

/// Puts logging and export together, without making them the process's.
fn assemble(settings: &Settings) -> Result<(impl Subscriber + use<>, Guard), TelemetryError> {
    let share = Sampling::new(settings)?.share.unwrap_or_default();
    let endpoint = settings.otlp.endpoint.as_deref();
    let exports = endpoint.map(|endpoint| exports_to(endpoint, share)).transpose()?;
    let log = log_layer(settings, std::io::stderr, std::io::stderr().is_terminal())?;
    let traces = exports.as_ref().map(|exports| trace_layer(&exports.traces).boxed());
    // A layer that is not there asks to be asked about everything, each span of each library.
    let layers = std::iter::once(log).chain(traces).collect::<Vec<_>>();

    Ok((Registry::default().with(layers), Guard { exports }))
}

fn exports_to(endpoint: &str, share: f64) -> Result<Exports, TelemetryError> {
    tokio::runtime::Handle::try_current().map_err(|_| TelemetryError::NoRuntime)?;
    let failed = |source| TelemetryError::Exporter { endpoint: endpoint.to_owned(), source };
    let spans =
        SpanExporter::builder().with_tonic().with_endpoint(endpoint).build().map_err(failed)?;
    let metrics =
        MetricExporter::builder().with_tonic().with_endpoint(endpoint).build().map_err(failed)?;
    let resource = Resource::builder()
        .with_service_name(SERVICE)
        .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
        .build();

    Ok(Exports {
        traces: SdkTracerProvider::builder()
            .with_batch_exporter(spans)
            .with_sampler(Sampler::ParentBased(Box::new(PickedOrShare(share))))
            .with_resource(resource.clone())
            .build(),
        metrics: SdkMeterProvider::builder()
            .with_periodic_exporter(metrics)
            .with_resource(resource)
            .build(),
    })
}

fn log_layer<S, W>(
    settings: &Settings,
    writer: W,
    is_terminal: bool,
) -> Result<Box<dyn Layer<S> + Send + Sync>, TelemetryError>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let chosen =
        EnvFilter::builder().parse(&settings.log.filter).map_err(TelemetryError::Filter)?;
    // Spans carry the correlation id, which a line needs however high its level.
    let ours = filter_fn(|metadata| metadata.is_span() && is_ours(metadata))
        .with_max_level_hint(LevelFilter::INFO);
    let filter = chosen.or(ours);
    let lines = tracing_subscriber::fmt::layer().with_writer(writer).with_ansi(is_terminal);

    Ok(match settings.log.format {
        LogFormat::Text => lines.with_filter(filter).boxed(),
        LogFormat::Json => {
            let lines = lines.json().flatten_event(true).with_current_span(false);
            lines.with_filter(filter).boxed()
        }
    })
}

fn trace_layer<S>(traces: &SdkTracerProvider) -> impl Layer<S> + use<S>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    let filter = dynamic_filter_fn(is_exported)
        .with_callsite_filter(|metadata| {
            if is_ours(metadata) {
                tracing::subscriber::Interest::sometimes()
            } else {
                tracing::subscriber::Interest::never()
            }
        })
        .with_max_level_hint(LevelFilter::INFO);

    tracing_opentelemetry::layer()
        .with_tracer(traces.tracer(SERVICE))
        // Each of these costs time or bytes a span and tells little.
        .with_location(false)
        .with_threads(false)
        .with_tracked_inactivity(false)
        .with_target(false)
        .with_filter(filter)
}

/// Says whether a span or event goes to the collector: a traced call, and what is inside of one.
fn is_exported<S>(metadata: &Metadata<'_>, context: &LayerContext<'_, S>) -> bool
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    let begins_trace =
        metadata.is_span() && metadata.name() == RPC && metadata.target() != UNSAMPLED;

    // The context sees only spans that this filter has let through.
    is_ours(metadata) && (begins_trace || context.lookup_current().is_some())
}

fn is_ours(metadata: &Metadata<'_>) -> bool {
    let rest = metadata.target().strip_prefix(SERVICE);

    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
        && *metadata.level() <= Level::INFO
}

fn read_share(text: &str) -> Result<f64, TelemetryError> {
    if text.is_empty() {
        return Ok(1.0);
    }
    text.parse()
        .ok()
        .filter(|share| (0.0..=1.0).contains(share))
        .ok_or_else(|| TelemetryError::Share(text.to_owned()))
}

/// Checks the form of a `traceparent`, which the propagator takes more loosely than W3C.
fn is_traceparent(text: &str) -> bool {
    const VERSION_0_LENGTH: usize = 55;

    let fields: Vec<&str> = text.split('-').collect();
    let lengths = fields.iter().take(4).map(|field| field.len());
    let is_hex = |field: &&str| field.bytes().all(|it| matches!(it, b'0'..=b'9' | b'a'..=b'f'));

    lengths.eq([2, 32, 16, 2])
        && fields.iter().take(4).all(is_hex)
        && fields[0] != "ff"
        // A later version may append fields.
        && (fields[0] != "00" || text.len() == VERSION_0_LENGTH)
}

#[cfg(test)]
mod tests {
    use std::{
        io,
        path::Path,
        sync::{Arc, Mutex},
    };

    use opentelemetry::{metrics::MeterProvider as _, trace::SpanId};
    use opentelemetry_proto::tonic::{
        collector::{
            metrics::v1::{
                ExportMetricsServiceRequest, ExportMetricsServiceResponse,
                metrics_service_server::{MetricsService, MetricsServiceServer},
            },
            trace::v1::{
                ExportTraceServiceRequest, ExportTraceServiceResponse,
                trace_service_server::{TraceService, TraceServiceServer},
            },
        },
        common::v1::{KeyValue as Attribute, any_value::Value},
        metrics::v1::{Metric, metric::Data},
        trace::v1::Span as ExportedSpan,
    };
    use tonic::{
        Request, Response, Status,
        transport::{Server, server::TcpIncoming},
    };
    use tracing::subscriber::with_default;
    use tracing_opentelemetry::OpenTelemetrySpanExt as _;

    use super::*;

    const TRACE_ID: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
    const SPAN_ID: &str = "00f067aa0ba902b7";

    /// Stands in for an OpenTelemetry collector.
    #[derive(Clone, Default)]
    struct Collector {
        traces: Arc<Mutex<Vec<ExportTraceServiceRequest>>>,
        metrics: Arc<Mutex<Vec<ExportMetricsServiceRequest>>>,
    }

    impl Collector {
        /// Serves on the current runtime; the settings lead to it.
        fn start() -> (Self, Settings) {
            let collector = Self::default();
            let incoming = TcpIncoming::bind(([127, 0, 0, 1], 0).into()).unwrap();
            let mut settings = Settings::default_for_tests(Path::new("/data"));
            let address = incoming.local_addr().unwrap();
            settings.otlp.endpoint = Some(format!("http://{address}"));
            let server = Server::builder()
                .add_service(TraceServiceServer::new(collector.clone()))
                .add_service(MetricsServiceServer::new(collector.clone()));
            tokio::spawn(server.serve_with_incoming(incoming));
            (collector, settings)
        }

        fn spans(&self) -> Vec<ExportedSpan> {
            let requests = self.traces.lock().unwrap().clone();
            let resources = requests.into_iter().flat_map(|request| request.resource_spans);
            let scopes = resources.flat_map(|resource| resource.scope_spans);
            scopes.flat_map(|scope| scope.spans).collect()
        }

        fn metrics(&self) -> Vec<Metric> {
            let requests = self.metrics.lock().unwrap().clone();
            let resources = requests.into_iter().flat_map(|request| request.resource_metrics);
            let scopes = resources.flat_map(|resource| resource.scope_metrics);
            scopes.flat_map(|scope| scope.metrics).collect()
        }
    }

    #[tonic::async_trait]
    impl TraceService for Collector {
        async fn export(
            &self,
            request: Request<ExportTraceServiceRequest>,
        ) -> Result<Response<ExportTraceServiceResponse>, Status> {
            self.traces.lock().unwrap().push(request.into_inner());
            Ok(Response::new(ExportTraceServiceResponse::default()))
        }
    }

    #[tonic::async_trait]
    impl MetricsService for Collector {
        async fn export(
            &self,
            request: Request<ExportMetricsServiceRequest>,
        ) -> Result<Response<ExportMetricsServiceResponse>, Status> {
            self.metrics.lock().unwrap().push(request.into_inner());
            Ok(Response::new(ExportMetricsServiceResponse::default()))
        }
    }

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let parse = |(name, value): &(&'static str, &str)| {
            (HeaderName::from_static(name), value.parse().unwrap())
        };
        pairs.iter().map(parse).collect()
    }

    fn traceparent(flags: &str) -> HeaderMap {
        headers(&[("traceparent", &format!("00-{TRACE_ID}-{SPAN_ID}-{flags}"))])
    }

    /// Walks a call with a span and an event inside, as the server does.
    fn call(sampling: Sampling, headers: &HeaderMap) {
        let span = if let Some(parent) = sampling.parent_of_traced(headers) {
            let span = tracing::info_span!("rpc", correlation.id = "c-1");
            span.set_parent(parent).unwrap();
            span
        } else {
            tracing::info_span!(target: UNSAMPLED, "rpc", correlation.id = "c-1")
        };
        span.in_scope(|| {
            let inner = tracing::info_span!("db.tenants.find");
            inner.in_scope(|| tracing::info!("found"));
            tracing::info_span!(target: "h2", "frame").in_scope(|| {});
        });
    }

    fn text_of(attributes: &[Attribute], key: &str) -> Option<String> {
        let value = attributes.iter().find(|it| it.key == key)?.value.clone()?.value?;
        match value {
            Value::StringValue(text) => Some(text),
            Value::IntValue(number) => Some(number.to_string()),
            _ => None,
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_call_reaches_the_collector_as_a_child_of_its_caller() {
        let (collector, settings) = Collector::start();
        let (subscriber, guard) = assemble(&settings).unwrap();
        let sampling = Sampling { share: Some(0.0) };

        with_default(subscriber, || {
            call(sampling, &traceparent("01"));
            tracing::info_span!("outside of any call").in_scope(|| {});
        });
        guard.shutdown().await;

        let spans = collector.spans();
        let names: Vec<_> = spans.iter().map(|span| span.name.as_str()).collect();
        assert_eq!(names, ["db.tenants.find", "rpc"]);
        let (inner, rpc) = (&spans[0], &spans[1]);
        assert_eq!(rpc.trace_id, TraceId::from_hex(TRACE_ID).unwrap().to_bytes());
        assert_eq!(rpc.parent_span_id, SpanId::from_hex(SPAN_ID).unwrap().to_bytes());
        assert_eq!(inner.trace_id, rpc.trace_id);
        assert_eq!(inner.parent_span_id, rpc.span_id);
        assert_eq!(inner.events.len(), 1);
        assert_eq!(text_of(&rpc.attributes, "correlation.id").as_deref(), Some("c-1"));
        let requests = collector.traces.lock().unwrap();
        let resource = requests[0].resource_spans[0].resource.clone().unwrap().attributes;
        assert_eq!(text_of(&resource, "service.name").as_deref(), Some("tenantry"));
        let version = text_of(&resource, "service.version");
        assert_eq!(version.as_deref(), Some(env!("CARGO_PKG_VERSION")));
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_call_without_a_caller_begins_a_trace() {
        let (collector, settings) = Collector::start();
        let (subscriber, guard) = assemble(&settings).unwrap();

        with_default(subscriber, || call(Sampling { share: Some(1.0) }, &HeaderMap::new()));
        guard.shutdown().await;

        let spans = collector.spans();
        assert_eq!(spans.len(), 2);
        assert!(spans[1].parent_span_id.is_empty());
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_call_that_is_not_sampled_leaves_no_span() {
        let (collector, settings) = Collector::start();
        let (subscriber, guard) = assemble(&settings).unwrap();

        with_default(subscriber, || {
            call(Sampling { share: Some(1.0) }, &traceparent("00"));
            call(Sampling { share: Some(0.0) }, &HeaderMap::new());
        });
        guard.shutdown().await;

        assert_eq!(collector.spans(), []);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn chance_is_asked_once() {
        let (collector, settings) = Collector::start();
        let endpoint = settings.otlp.endpoint.as_deref().unwrap();
        let exports = exports_to(endpoint, 0.0).unwrap();
        let subscriber = Registry::default().with(trace_layer(&exports.traces));
        let guard = Guard { exports: Some(exports) };

        with_default(subscriber, || {
            call(Sampling { share: Some(1.0) }, &HeaderMap::new());
            let decided_late = tracing::info_span!("rpc");
            decided_late.set_parent(parent_context(&HeaderMap::new())).unwrap();
            let decided_by_caller = tracing::info_span!("rpc", by = "caller");
            decided_by_caller.set_parent(parent_context(&traceparent("01"))).unwrap();
        });
        guard.shutdown().await;

        let names: Vec<_> = collector.spans().into_iter().map(|span| span.name).collect();
        assert_eq!(names, ["db.tenants.find", "rpc", "rpc"]);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn methods_that_do_not_exist_are_counted_together() {
        let (collector, settings) = Collector::start();
        let (_subscriber, guard) = assemble(&settings).unwrap();
        let metrics = Metrics::on(&guard.exports.as_ref().unwrap().metrics.meter(SERVICE));

        for code in [tonic::Code::Unimplemented, tonic::Code::InvalidArgument] {
            metrics.record(None, code, Duration::ZERO);
            metrics.record(None, code, Duration::ZERO);
        }
        guard.shutdown().await;

        let Some(Data::Histogram(histogram)) = collector.metrics()[0].data.clone() else {
            panic!("a histogram was expected");
        };
        assert_eq!(histogram.data_points.len(), 2, "one a code");
        assert!(histogram.data_points.iter().all(|point| point.count == 2));
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn the_duration_of_calls_reaches_the_collector() {
        let (collector, settings) = Collector::start();
        let (_subscriber, guard) = assemble(&settings).unwrap();
        let meters = &guard.exports.as_ref().unwrap().metrics;
        let metrics = Metrics::on(&meters.meter(SERVICE));

        let took = Duration::from_micros(1500);
        let method = Some("tenantry.v1.KeyService/VerifyKey");
        metrics.record(method, tonic::Code::NotFound, took);
        guard.shutdown().await;

        let exported = collector.metrics();
        assert_eq!(exported.len(), 1);
        assert_eq!((&*exported[0].name, &*exported[0].unit), ("rpc.server.duration", "ms"));
        let Some(Data::Histogram(histogram)) = exported[0].data.clone() else {
            panic!("a histogram was expected: {:?}", exported[0].data);
        };
        let point = &histogram.data_points[0];
        assert_eq!((point.count, point.sum), (1, Some(1.5)));
        assert_eq!(text_of(&point.attributes, "rpc.method").as_deref(), Some("VerifyKey"));
        assert_eq!(text_of(&point.attributes, "rpc.grpc.status_code").as_deref(), Some("5"));
    }

    #[test]
    fn a_guard_that_outlives_the_runtime_still_ends() {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let mut settings = Settings::default_for_tests(Path::new("/data"));
        settings.otlp.endpoint = Some("http://127.0.0.1:1".to_owned());
        let (subscriber, guard) = runtime.block_on(async { assemble(&settings).unwrap() });
        with_default(subscriber, || call(Sampling { share: Some(1.0) }, &HeaderMap::new()));

        let start = std::time::Instant::now();
        drop(runtime);
        drop(guard);

        assert!(start.elapsed() < Duration::from_secs(30));
    }

    #[test]
    fn export_outside_a_runtime_is_refused() {
        let mut settings = Settings::default_for_tests(Path::new("/data"));
        settings.otlp.endpoint = Some("http://127.0.0.1:4317".to_owned());

        assert!(matches!(assemble(&settings), Err(TelemetryError::NoRuntime)));
    }

    #[test]
    fn without_a_collector_nothing_is_sampled_or_measured() {
        let settings = Settings::default_for_tests(Path::new("/data"));

        let sampling = Sampling::new(&settings).unwrap();

        assert!(sampling.parent_of_traced(&traceparent("01")).is_none());
        assert!(Metrics::new(&settings).call_duration.is_none());
        assert!(assemble(&settings).unwrap().1.exports.is_none());
    }

    #[test]
    fn a_share_is_a_number_from_0_to_1() {
        assert!((read_share("").unwrap() - 1.0).abs() < f64::EPSILON);
        assert!((read_share("0.25").unwrap() - 0.25).abs() < f64::EPSILON);
        for wrong in ["1.1", "-0.1", "NaN", "half"] {
            assert!(read_share(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_malformed_traceparent_counts_as_none() {
        let cases = [
            String::new(),
            "nonsense".to_owned(),
            format!("00-{TRACE_ID}-{SPAN_ID}"),
            format!("00-{TRACE_ID}-{SPAN_ID}-1"),
            format!("00-{TRACE_ID}-{SPAN_ID}-01-more"),
            format!("00-{TRACE_ID}-{SPAN_ID}-01-"),
            format!("ff-{TRACE_ID}-{SPAN_ID}-01"),
            format!("00-{}-{SPAN_ID}-01", TRACE_ID.to_uppercase()),
            format!("00-{}-{SPAN_ID}-01", "0".repeat(32)),
            format!("00-{TRACE_ID}-{}-01", "0".repeat(16)),
            format!("00-{}-{SPAN_ID}-01", &TRACE_ID[1..]),
        ];

        for text in cases {
            let context = parent_context(&headers(&[("traceparent", &text)]));
            assert!(!context.has_active_span(), "{text}");
        }
    }

    #[test]
    fn two_traceparents_count_as_none() {
        let one = format!("00-{TRACE_ID}-{SPAN_ID}-01");

        let context = parent_context(&headers(&[("traceparent", &one), ("traceparent", &one)]));

        assert!(!context.has_active_span());
    }

    #[test]
    fn a_later_version_is_read_as_far_as_it_is_known() {
        let later = format!("01-{TRACE_ID}-{SPAN_ID}-01-more");

        let context = parent_context(&headers(&[("traceparent", &later)]));

        assert_eq!(context.span().span_context().trace_id().to_string(), TRACE_ID);
    }

    #[test]
    fn the_state_may_be_spread_over_headers_and_is_dropped_alone_if_malformed() {
        let parent = format!("00-{TRACE_ID}-{SPAN_ID}-01");
        let spread = [("traceparent", &*parent), ("tracestate", "a=1"), ("tracestate", "b=2")];
        let malformed = [("traceparent", &*parent), ("tracestate", "=,=")];

        let spread = parent_context(&headers(&spread));
        let malformed = parent_context(&headers(&malformed));

        assert_eq!(spread.span().span_context().trace_state().get("b"), Some("2"));
        assert_eq!(malformed.span().span_context().trace_id().to_string(), TRACE_ID);
    }

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl Lines {
        fn text(&self) -> String {
            String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
        }
    }

    impl io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn logged(format: LogFormat, filter: &str, act: impl FnOnce()) -> String {
        let mut settings = Settings::default_for_tests(Path::new("/data"));
        settings.log.format = format;
        filter.clone_into(&mut settings.log.filter);
        let lines = Lines::default();
        let writer = lines.clone();
        let layer = log_layer(&settings, move || writer.clone(), false).unwrap();
        with_default(Registry::default().with(layer), act);
        lines.text()
    }

    #[test]
    fn a_line_has_its_correlation_id_however_high_its_level() {
        for format in [LogFormat::Text, LogFormat::Json] {
            let text = logged(format, "error", || {
                let span = tracing::info_span!(target: UNSAMPLED, "rpc", correlation.id = "c-1");
                span.in_scope(|| {
                    tracing::info!("quiet");
                    tracing::info_span!("db.tenants.find").in_scope(|| tracing::error!("loud"));
                });
            });

            assert_eq!(text.lines().count(), 1, "{text}");
            assert!(text.contains("loud") && text.contains("c-1"), "{text}");
        }
    }

    #[test]
    fn what_libraries_span_for_themselves_costs_nothing() {
        let settings = Settings::default_for_tests(Path::new("/data"));
        let (subscriber, _guard) = assemble(&settings).unwrap();

        let [ours, theirs] = with_default(Registry::default(), || {
            let ours = tracing::info_span!(target: "tenantry", "ours").metadata();
            [ours, tracing::debug_span!(target: "h2", "theirs").metadata()]
        });

        assert_eq!(subscriber.max_level_hint(), Some(LevelFilter::INFO));
        assert!(!subscriber.register_callsite(ours.unwrap()).is_never());
        assert!(subscriber.register_callsite(theirs.unwrap()).is_never());
    }

    #[test]
    fn a_json_line_is_one_flat_object() {
        let text = logged(LogFormat::Json, "info", || tracing::info!(tenant.id = "t-1", "made"));

        assert!(text.starts_with('{') && text.ends_with("}\n"), "{text}");
        assert!(text.contains("\"message\":\"made\",\"tenant.id\":\"t-1\""), "{text}");
    }
}
