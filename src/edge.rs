//! The edge: accepts connections, bounds what each may cost, and ends them in order.
//!
//! HTTP/1.1 and HTTP/2 share one port, with or without TLS. Every limit is set here, by name, since
//! the ready-made servers leave some of them open: a client may then hold streams, memory or a
//! shutdown for as long as it likes. What a *call* may cost (its deadline, the size of its message,
//! its share of the machine) is not decided here but by the layers around the service.
//!
//! The life of a connection: accept → TLS handshake → first request → any number of requests → end.
//! Each step but the last has a deadline, so a peer that stops talking is gone within seconds:
//!
//! | The peer stops … | … and is cut after |
//! |---|---|
//! | in the TLS handshake | [`HANDSHAKE_TIMEOUT`] |
//! | before the head of its first request is complete | [`FIRST_REQUEST_TIMEOUT`] |
//! | later, over HTTP/1.1, between or in heads of requests | [`FIRST_REQUEST_TIMEOUT`] |
//! | later, over HTTP/2, pings included | [`KEEP_ALIVE_INTERVAL`] + [`KEEP_ALIVE_TIMEOUT`] |
//! | during a drain | what is left of the drain |
//!
//! Not bounded in time, only in memory: a peer that keeps its connection alive and does not send the
//! rest of a body, or does not read an answer. The deadlines of calls end the former.

use std::{
    convert::Infallible,
    error::Error as StdError,
    future::pending,
    io,
    net::SocketAddr,
    path::{Path, PathBuf},
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use axum::body::Body;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
    service::TowerToHyperService,
};
use rustls_pki_types::{
    CertificateDer, PrivateKeyDer,
    pem::{self, PemObject},
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::{JoinError, JoinSet},
    time::{Instant, sleep, sleep_until, timeout},
};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        self, RootCertStore, ServerConfig,
        crypto::{CryptoProvider, ring},
        server::{WebPkiClientVerifier, danger::ClientCertVerifier},
    },
};
use tower::{Service, ServiceExt};

/// Connections held at a time; more wait in the kernel's backlog.
///
/// Callers hold few, long-lived connections and proxies stand before many callers, so there is one
/// total and no share per address. The limit of open files should lie above it.
pub const MAX_CONNECTIONS: usize = 4096;

/// The time from accept to the end of the TLS handshake.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);

/// The time from accept to the end of the head of the first request.
///
/// Over HTTP/1.1 it bounds each later head too, and with it the wait between two requests.
pub const FIRST_REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// How often a quiet HTTP/2 peer is pinged: below the minute after which NATs and load balancers
/// begin to forget a connection.
pub const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(20);

/// How long a pinged peer may take to answer: longer than a slow network needs, and short enough
/// that with the interval a dead peer is gone in half a minute.
pub const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(10);

/// Requests in flight on one HTTP/2 connection; further streams are refused.
///
/// Enough for a busy proxy, and a factor in what one connection can hold: see [`SEND_BUFFER`].
pub const MAX_CONCURRENT_STREAMS: u32 = 256;

/// Streams that the server may have had to reset for the peer's faults before the connection ends.
///
/// A correct client causes none. Without a limit, a peer makes the server start and abandon work at
/// the price of one bad frame each ("`MadeYouReset`", CVE-2025-8671).
pub const MAX_LOCAL_ERROR_RESETS: usize = 128;

/// Streams that the peer reset before the server came to them; more end the connection.
///
/// Bounds "rapid reset" (CVE-2023-44487), where each reset frees a stream and the next follows.
pub const MAX_PENDING_RESETS: usize = 20;

/// The size of a request's header list, names and values and 32 bytes for each of them.
///
/// A key, a trace context and a correlation id need less than 1 KiB.
pub const MAX_HEADER_LIST: u32 = 16 * 1024;

/// The size of a frame: the protocol's least, so that no large frame delays those of other streams.
pub const MAX_FRAME: u32 = 16 * 1024;

/// Bytes that a peer may send on a stream ahead of their being read.
///
/// Most messages fit; a larger one takes a few more round trips, which its sender pays for.
pub const STREAM_WINDOW: u32 = 64 * 1024;

/// Bytes that a peer may send on a connection ahead of their being read.
///
/// Sixteen streams can be full before they hold up the others, and a connection costs no more than
/// 1 MiB of unread input, however many streams it has.
pub const CONNECTION_WINDOW: u32 = 1024 * 1024;

/// Bytes of an answer kept for a stream whose peer does not read.
///
/// Times [`MAX_CONCURRENT_STREAMS`], a peer that never opens its window costs 16 MiB.
pub const SEND_BUFFER: usize = 64 * 1024;

/// The buffer of an HTTP/1.1 connection, and so the largest head of a request: the same as
/// [`MAX_HEADER_LIST`], so that neither protocol admits what the other refuses.
pub const HTTP1_BUFFER: usize = 16 * 1024;

/// The pause after the system refused to accept, mostly for want of file descriptors: time for some
/// connections to end, where trying at once would only burn a core.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The protocols offered in the TLS handshake, the preferred one first.
const ALPN: [&[u8]; 2] = [b"h2", b"http/1.1"];

/// The address at the other end of the connection, in the extensions of every request.
///
/// Behind a proxy this is the proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer(pub SocketAddr);

/// The PEM files that TLS is set up from, read once at start.
#[derive(Clone, Debug)]
pub struct TlsFiles {
    /// The server's certificate, followed by those that lead to its authority.
    pub cert: PathBuf,
    /// The private key of the certificate.
    pub key: PathBuf,
    /// The authorities of client certificates; if set, a client without one is refused.
    pub client_ca: Option<PathBuf>,
}

/// Why the edge could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum EdgeError {
    /// The address cannot be listened on.
    #[error("cannot listen on {address}: set `listen` to an address of this machine and free port")]
    Listen {
        /// The address of the settings.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// A file cannot be read.
    #[error("cannot read {}, the file of `{setting}`", file.display())]
    Read {
        /// The setting that names the file.
        setting: &'static str,
        /// The file.
        file: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file is no PEM, or does not hold what it should.
    ///
    /// The fault is told in our words: those of the parser quote lines, which may hold the key.
    #[error("{}, the file of `{setting}`, {fault}: it must be PEM with {wanted}", file.display())]
    Pem {
        /// The setting that names the file.
        setting: &'static str,
        /// The file.
        file: PathBuf,
        /// What is wrong.
        fault: &'static str,
        /// What should be in it.
        wanted: &'static str,
    },
    /// Certificate and key do not serve, mostly because they do not belong together.
    #[error(
        "the certificate {} cannot be used with the key {}: set `tls.cert` and `tls.key` to a pair",
        cert.display(),
        key.display()
    )]
    Pair {
        /// The file of the certificate.
        cert: PathBuf,
        /// The file of the key.
        key: PathBuf,
        /// What the TLS library said.
        source: rustls::Error,
    },
    /// The authorities of client certificates do not serve.
    #[error("{}, the file of `tls.client_ca`, holds an unusable certificate", file.display())]
    ClientCa {
        /// The file.
        file: PathBuf,
        /// What the TLS library said.
        source: Box<dyn StdError + Send + Sync>,
    },
}

/// How a drain ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Drained {
    /// Every connection ended by itself, its requests answered.
    Clean,
    /// The time was up and the rest was cut off.
    Forced {
        /// How many connections were left.
        connections: usize,
    },
}

/// The limits that tests shorten; all others are constants.
#[derive(Clone, Copy)]
struct Limits {
    connections: usize,
    handshake: Duration,
    first_request: Duration,
    keep_alive_interval: Duration,
    keep_alive_timeout: Duration,
    drain: Duration,
}

/// A bound port, ready to serve.
pub struct Edge {
    listener: TcpListener,
    address: SocketAddr,
    tls: Option<TlsAcceptor>,
    limits: Limits,
}

impl Edge {
    /// Reads the TLS files and binds the port, which from then on queues connections.
    ///
    /// `drain` is the time that open connections get to end once [`Self::serve`] is told to stop.
    ///
    /// # Errors
    ///
    /// When a file or the address is not usable; the error names it.
    pub async fn bind(
        listen: SocketAddr,
        tls: Option<TlsFiles>,
        drain: Duration,
    ) -> Result<Self, EdgeError> {
        let tls = match tls {
            Some(files) => Some(TlsAcceptor::from(Arc::new(tls_config(&files).await?))),
            None => None,
        };
        let refused = |source| EdgeError::Listen { address: listen, source };
        let listener = TcpListener::bind(listen).await.map_err(refused)?;
        let address = listener.local_addr().map_err(refused)?;
        let limits = Limits {
            connections: MAX_CONNECTIONS,
            handshake: HANDSHAKE_TIMEOUT,
            first_request: FIRST_REQUEST_TIMEOUT,
            keep_alive_interval: KEEP_ALIVE_INTERVAL,
            keep_alive_timeout: KEEP_ALIVE_TIMEOUT,
            drain,
        };
        Ok(Self { listener, address, tls, limits })
    }

    /// Tells the address bound, with the port that the system chose if port 0 was asked for.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Serves until `shutdown` resolves, then drains; tells how that ended.
    ///
    /// On shutdown the port is closed, every peer is told to open no more requests, and those in
    /// flight get the time of the drain. A peer that does not take part cannot prolong it.
    pub async fn serve<S>(self, service: S, shutdown: impl Future<Output = ()> + Send) -> Drained
    where
        S: Service<Request<Incoming>, Response = Response<Body>, Error = Infallible>,
        S: Clone + Send + 'static,
        S::Future: Send,
    {
        let Self { listener, tls, limits, .. } = self;
        let host = Arc::new(Host { http: http_limits(&limits), tls, limits });
        let (stop, stopping) = watch::channel(false);
        let mut connections = JoinSet::new();
        let mut accepting = true;
        let mut shutdown = pin!(shutdown);
        loop {
            tokio::select! {
                biased;
                () = &mut shutdown => break,
                Some(ended) = connections.join_next() => report_panic(ended),
                (socket, peer) = accept(&listener, &mut accepting),
                    if connections.len() < limits.connections =>
                {
                    let host = Arc::clone(&host);
                    connections.spawn(host.attend(socket, peer, service.clone(), stopping.clone()));
                }
            }
        }
        drop(listener);
        stop.send_replace(true);
        drain(connections, limits.drain).await
    }
}

/// Waits for the next connection, whatever befalls the ones before it.
///
/// `accepting` tells whether the last try went well, so that a lasting failure is logged once.
async fn accept(listener: &TcpListener, accepting: &mut bool) -> (TcpStream, Peer) {
    loop {
        match listener.accept().await {
            Ok((socket, address)) => {
                *accepting = true;
                return (socket, Peer(address));
            }
            Err(error) if befell_the_peer(&error) => {}
            Err(error) => {
                if std::mem::replace(accepting, false) {
                    tracing::error!(%error, "cannot accept connections; trying on");
                }
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Whether a failed accept says something about that one connection only.
fn befell_the_peer(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted)
}

/// Waits for the connections to end, and cuts off those that have not when the time is up.
async fn drain(mut connections: JoinSet<()>, time: Duration) -> Drained {
    let all_ended = async {
        while let Some(ended) = connections.join_next().await {
            report_panic(ended);
        }
    };
    if timeout(time, all_ended).await.is_ok() {
        return Drained::Clean;
    }
    let left = connections.len();
    connections.shutdown().await;
    Drained::Forced { connections: left }
}

/// Logs the panic of a connection, which ends that connection and no other.
fn report_panic(ended: Result<(), JoinError>) {
    if let Err(error) = ended {
        tracing::error!(%error, "a connection ended in a panic");
    }
}

/// What all connections have in common.
struct Host {
    http: auto::Builder<TokioExecutor>,
    tls: Option<TlsAcceptor>,
    limits: Limits,
}

impl Host {
    /// Takes one connection from accept to its end.
    async fn attend<S>(
        self: Arc<Self>,
        socket: TcpStream,
        peer: Peer,
        service: S,
        mut stopping: watch::Receiver<bool>,
    ) where
        S: Service<Request<Incoming>, Response = Response<Body>, Error = Infallible>,
        S: Clone + Send + 'static,
        S::Future: Send,
    {
        let due = Instant::now() + self.limits.first_request;
        // Answers are small and complete: waiting for more to send would only delay them.
        if let Err(error) = socket.set_nodelay(true) {
            tracing::debug!(peer = %peer.0, %error, "the connection was gone before it began");
            return;
        }
        let Some(tls) = &self.tls else {
            return self.converse(socket, peer, service, due, stopping).await;
        };
        let handshake = tokio::select! {
            () = stopped(&mut stopping) => return,
            handshake = timeout(self.limits.handshake, tls.accept(socket)) => handshake,
        };
        match handshake {
            Ok(Ok(stream)) => self.converse(stream, peer, service, due, stopping).await,
            Ok(Err(error)) => tracing::debug!(peer = %peer.0, %error, "the TLS handshake failed"),
            Err(_) => tracing::debug!(peer = %peer.0, "the TLS handshake took too long"),
        }
    }

    /// Speaks HTTP until either side ends it, or no request has come when the first is `due`.
    async fn converse<I, S>(
        &self,
        io: I,
        peer: Peer,
        service: S,
        due: Instant,
        mut stopping: watch::Receiver<bool>,
    ) where
        I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
        S: Service<Request<Incoming>, Response = Response<Body>, Error = Infallible>,
        S: Clone + Send + 'static,
        S::Future: Send,
    {
        let asked = Arc::new(AtomicBool::new(false));
        let mark = Arc::clone(&asked);
        let service = service.map_request(move |mut request: Request<Incoming>| {
            mark.store(true, Ordering::Relaxed);
            request.extensions_mut().insert(peer);
            request
        });
        let service = TowerToHyperService::new(service);
        let mut connection = pin!(self.http.serve_connection(TokioIo::new(io), service));
        let mut overdue = pin!(async {
            sleep_until(due).await;
            if asked.load(Ordering::Relaxed) {
                pending::<()>().await;
            }
        });
        let mut draining = false;
        loop {
            tokio::select! {
                biased;
                ended = connection.as_mut() => {
                    if let Err(error) = ended {
                        tracing::debug!(peer = %peer.0, error, "the connection failed");
                    }
                    return;
                }
                () = overdue.as_mut() => {
                    tracing::debug!(peer = %peer.0, "no request came in time");
                    return;
                }
                () = stopped(&mut stopping), if !draining => {
                    draining = true;
                    connection.as_mut().graceful_shutdown();
                }
            }
        }
    }
}

/// Waits for the shutdown. A dropped sender is one, too.
async fn stopped(stopping: &mut watch::Receiver<bool>) {
    let _ = stopping.wait_for(|stopping| *stopping).await;
}

/// Sets every limit of both protocols; none is left to a default of the libraries.
fn http_limits(limits: &Limits) -> auto::Builder<TokioExecutor> {
    let mut http = auto::Builder::new(TokioExecutor::new());
    http.http1()
        .timer(TokioTimer::new())
        .keep_alive(true)
        .header_read_timeout(limits.first_request)
        .max_buf_size(HTTP1_BUFFER);
    http.http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(limits.keep_alive_interval)
        .keep_alive_timeout(limits.keep_alive_timeout)
        .max_concurrent_streams(MAX_CONCURRENT_STREAMS)
        .max_local_error_reset_streams(MAX_LOCAL_ERROR_RESETS)
        .max_pending_accept_reset_streams(MAX_PENDING_RESETS)
        .max_header_list_size(MAX_HEADER_LIST)
        .max_frame_size(MAX_FRAME)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buf_size(SEND_BUFFER);
    http
}

/// Makes the TLS settings out of their files.
async fn tls_config(files: &TlsFiles) -> Result<ServerConfig, EdgeError> {
    let certificates = read_certificates("tls.cert", &files.cert).await?;
    let key = read_key(&files.key).await?;
    // Named, so that it does not hang on which other providers a dependency may link in.
    let provider = Arc::new(ring::default_provider());
    let unusable =
        |source| EdgeError::Pair { cert: files.cert.clone(), key: files.key.clone(), source };
    let config = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .expect("the provider has ciphers for TLS 1.2 and 1.3");
    let config = match &files.client_ca {
        Some(file) => config.with_client_cert_verifier(client_verifier(file, provider).await?),
        None => config.with_no_client_auth(),
    };
    let mut config = config.with_single_cert(certificates, key).map_err(unusable)?;
    config.alpn_protocols = ALPN.map(<[u8]>::to_vec).to_vec();
    Ok(config)
}

/// Makes the check that a client has a certificate of one of the authorities in `file`.
async fn client_verifier(
    file: &Path,
    provider: Arc<CryptoProvider>,
) -> Result<Arc<dyn ClientCertVerifier>, EdgeError> {
    let unusable = |source| EdgeError::ClientCa { file: file.to_owned(), source };
    let mut authorities = RootCertStore::empty();
    for certificate in read_certificates("tls.client_ca", file).await? {
        authorities.add(certificate).map_err(|error| unusable(error.into()))?;
    }
    WebPkiClientVerifier::builder_with_provider(Arc::new(authorities), provider)
        .build()
        .map_err(|error| unusable(error.into()))
}

/// Reads all certificates of a PEM file, at least one.
async fn read_certificates(
    setting: &'static str,
    file: &Path,
) -> Result<Vec<CertificateDer<'static>>, EdgeError> {
    let text = read(setting, file).await?;
    let certificates: Vec<_> = CertificateDer::pem_slice_iter(&text)
        .collect::<Result<_, _>>()
        .map_err(|error| not_pem(setting, file, "a certificate", &error))?;
    if certificates.is_empty() {
        return Err(not_pem(setting, file, "a certificate", &pem::Error::NoItemsFound));
    }
    Ok(certificates)
}

/// Reads the first private key of a PEM file.
async fn read_key(file: &Path) -> Result<PrivateKeyDer<'static>, EdgeError> {
    let text = read("tls.key", file).await?;
    PrivateKeyDer::from_pem_slice(&text)
        .map_err(|error| not_pem("tls.key", file, "an unencrypted private key", &error))
}

async fn read(setting: &'static str, file: &Path) -> Result<Vec<u8>, EdgeError> {
    tokio::fs::read(file).await.map_err(|source| EdgeError::Read {
        setting,
        file: file.to_owned(),
        source,
    })
}

fn not_pem(
    setting: &'static str,
    file: &Path,
    wanted: &'static str,
    error: &pem::Error,
) -> EdgeError {
    let fault = match error {
        pem::Error::NoItemsFound => "holds none",
        pem::Error::MissingSectionEnd { .. } => "breaks off before an END line",
        pem::Error::IllegalSectionStart { .. } => "has a BEGIN line that does not end in dashes",
        pem::Error::Base64Decode(_) => "has a section that is not base64",
        _ => "cannot be parsed",
    };
    EdgeError::Pem { setting, file: file.to_owned(), fault, wanted }
}

#[cfg(test)]
mod tests {
    use std::{net::Ipv4Addr, sync::atomic::AtomicUsize};

    use axum::{Extension, Router, routing::any};
    use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
    use rustls_pki_types::ServerName;
    use tempfile::TempDir;
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        sync::{Notify, oneshot},
        task::JoinHandle,
    };
    use tokio_rustls::{
        TlsConnector,
        client::TlsStream,
        rustls::{ClientConfig, ProtocolVersion},
    };

    use super::*;

    /// Longer than anything here takes; reached only when a test fails.
    const PATIENCE: Duration = Duration::from_secs(20);
    /// A timeout that a test waits for.
    const SHORT: Duration = Duration::from_millis(300);

    const DATA: u8 = 0;
    const HEADERS: u8 = 1;
    const RST_STREAM: u8 = 3;
    const SETTINGS: u8 = 4;
    const PING: u8 = 6;
    const GOAWAY: u8 = 7;
    const WINDOW_UPDATE: u8 = 8;
    const CONTINUATION: u8 = 9;
    const END_STREAM: u8 = 1;
    const ACK: u8 = 1;
    const END_HEADERS: u8 = 4;
    const REFUSED_STREAM: u32 = 7;
    const ENHANCE_YOUR_CALM: u32 = 11;
    /// The header `:status: 431`, packed.
    const TOO_LARGE: [u8; 5] = [0x48, 0x83, 0x69, 0x90, 0xff];
    /// The header `:status: 200`, packed.
    const OK: u8 = 0x88;

    async fn soon<T>(future: impl Future<Output = T>) -> T {
        timeout(PATIENCE, future).await.expect("the test waits for something that does not come")
    }

    /// What the test's service does and has seen.
    #[derive(Default)]
    struct Calls {
        count: AtomicUsize,
        entered: Notify,
        release: Notify,
        dropped: Arc<Notify>,
    }

    struct NotifyOnDrop(Arc<Notify>);

    impl Drop for NotifyOnDrop {
        fn drop(&mut self) {
            self.0.notify_one();
        }
    }

    fn service(calls: &Arc<Calls>) -> Router {
        let quick = Arc::clone(calls);
        let slow = Arc::clone(calls);
        Router::new()
            .route(
                "/quick",
                any(move |Extension(Peer(peer)): Extension<Peer>| async move {
                    quick.count.fetch_add(1, Ordering::Relaxed);
                    peer.to_string()
                }),
            )
            .route(
                "/slow",
                any(move || async move {
                    let _guard = NotifyOnDrop(Arc::clone(&slow.dropped));
                    slow.count.fetch_add(1, Ordering::Relaxed);
                    slow.entered.notify_one();
                    slow.release.notified().await;
                    "finished"
                }),
            )
    }

    struct Server {
        address: SocketAddr,
        calls: Arc<Calls>,
        shutdown: Option<oneshot::Sender<()>>,
        served: JoinHandle<Drained>,
    }

    impl Server {
        async fn start(change: impl FnOnce(&mut Limits)) -> Self {
            Self::start_with(None, change).await
        }

        async fn start_with(tls: Option<TlsFiles>, change: impl FnOnce(&mut Limits)) -> Self {
            let any_port = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
            let mut edge = Edge::bind(any_port, tls, PATIENCE).await.unwrap();
            change(&mut edge.limits);
            let address = edge.local_addr();
            let calls = Arc::new(Calls::default());
            let (shutdown, told) = oneshot::channel();
            let served = tokio::spawn(edge.serve(service(&calls), async {
                let _ = told.await;
            }));
            Self { address, calls, shutdown: Some(shutdown), served }
        }

        async fn connect(&self) -> TcpStream {
            TcpStream::connect(self.address).await.unwrap()
        }

        fn stop(&mut self) {
            self.shutdown.take().unwrap().send(()).unwrap();
        }

        async fn drained(self) -> Drained {
            soon(self.served).await.unwrap()
        }
    }

    /// An HTTP/1.1 request after which the server closes the connection.
    fn last_request(path: &str) -> String {
        format!("GET {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")
    }

    /// Sends the text and returns all that comes back until the connection ends.
    async fn exchange(mut io: impl AsyncRead + AsyncWrite + Unpin, text: &str) -> String {
        io.write_all(text.as_bytes()).await.unwrap();
        read_to_end(io).await
    }

    /// Reads until the connection ends; a reset is an end, too.
    async fn read_to_end(mut io: impl AsyncRead + Unpin) -> String {
        let mut answer = Vec::new();
        let _ = soon(io.read_to_end(&mut answer)).await;
        String::from_utf8_lossy(&answer).into_owned()
    }

    #[derive(Debug)]
    struct Frame {
        kind: u8,
        flags: u8,
        stream: u32,
        payload: Vec<u8>,
    }

    impl Frame {
        fn number_at(&self, start: usize) -> u32 {
            u32::from_be_bytes(self.payload[start..start + 4].try_into().unwrap())
        }

        fn setting(&self, id: u16) -> Option<u32> {
            let entries = self.payload.chunks(6);
            let mut found = entries.filter(|entry| entry[..2] == id.to_be_bytes());
            found.next().map(|entry| u32::from_be_bytes(entry[2..].try_into().unwrap()))
        }
    }

    /// An HTTP/2 client that does only what it is told, so that it can misbehave.
    struct Raw<I> {
        io: I,
        out: Vec<u8>,
    }

    impl<I: AsyncRead + AsyncWrite + Unpin> Raw<I> {
        async fn new(io: I) -> Self {
            let mut raw = Self { io, out: b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec() };
            raw.push(SETTINGS, 0, 0, &[]);
            raw.flush().await;
            raw
        }

        fn push(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
            let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
            self.out.extend_from_slice(&length[1..]);
            self.out.extend_from_slice(&[kind, flags]);
            self.out.extend_from_slice(&stream.to_be_bytes());
            self.out.extend_from_slice(payload);
        }

        /// Opens a stream whose body is still to come.
        fn push_request(&mut self, stream: u32, path: &str) {
            self.push(HEADERS, END_HEADERS, stream, &request_head(path));
        }

        /// Writes what was pushed; a server that has hung up is found out by reading.
        async fn flush(&mut self) {
            let _ = self.io.write_all(&self.out).await;
            self.out.clear();
        }

        async fn frame(&mut self) -> Option<Frame> {
            let mut head = [0; 9];
            soon(self.io.read_exact(&mut head)).await.ok()?;
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
            let mut payload = vec![0; usize::try_from(length).unwrap()];
            soon(self.io.read_exact(&mut payload)).await.ok()?;
            let stream = u32::from_be_bytes(head[5..].try_into().unwrap());
            Some(Frame { kind: head[3], flags: head[4], stream, payload })
        }

        async fn frame_of(&mut self, kind: u8) -> Frame {
            self.frame_of_either(kind, kind).await
        }

        async fn frame_of_either(&mut self, one: u8, other: u8) -> Frame {
            loop {
                let frame = self.frame().await.expect("the frame comes before the end");
                if frame.kind == one || frame.kind == other {
                    return frame;
                }
            }
        }

        /// Answers pings until the head of an answer comes.
        async fn answer(&mut self) -> Frame {
            loop {
                let frame = self.frame().await.expect("the answer comes before the end");
                if frame.kind == HEADERS {
                    return frame;
                }
                self.answer_ping(&frame).await;
            }
        }

        /// Answers pings until the connection ends, and returns all frames.
        async fn rest(&mut self) -> Vec<Frame> {
            let mut frames = Vec::new();
            while let Some(frame) = self.frame().await {
                self.answer_ping(&frame).await;
                frames.push(frame);
            }
            frames
        }

        async fn answer_ping(&mut self, frame: &Frame) {
            if frame.kind == PING && frame.flags != ACK {
                self.push(PING, ACK, 0, &frame.payload);
                self.flush().await;
            }
        }

        async fn goaway_reason(&mut self) -> u32 {
            self.frame_of(GOAWAY).await.number_at(4)
        }
    }

    /// The packed headers of a POST.
    fn request_head(path: &str) -> Vec<u8> {
        let mut head = vec![0x83, 0x86, 0x04, u8::try_from(path.len()).unwrap()];
        head.extend_from_slice(path.as_bytes());
        head.extend_from_slice(&[0x01, 1, b'a']);
        head
    }

    /// As many headers `x: ` as asked for; each counts 33 bytes.
    fn tiny_headers(count: usize) -> Vec<u8> {
        [0, 1, b'x', 0].repeat(count)
    }

    #[tokio::test]
    async fn both_protocols_are_served_on_one_port_and_requests_know_their_peer() {
        let server = Server::start(|_| ()).await;

        let first = server.connect().await;
        let own_address = first.local_addr().unwrap();
        let answer = exchange(first, &last_request("/quick")).await;
        let mut second = Raw::new(server.connect().await).await;
        second.push(HEADERS, END_HEADERS | END_STREAM, 1, &request_head("/quick"));
        second.flush().await;
        let head = second.frame_of(HEADERS).await;
        let body = second.frame_of(DATA).await;

        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        assert!(answer.ends_with(&own_address.to_string()), "{answer}");
        assert_eq!((head.stream, head.payload[0]), (1, OK));
        assert_eq!(body.payload, second.io.local_addr().unwrap().to_string().as_bytes());
    }

    #[tokio::test]
    async fn the_limits_of_http2_are_announced() {
        let server = Server::start(|_| ()).await;

        let settings = Raw::new(server.connect().await).await.frame_of(SETTINGS).await;

        assert_eq!(settings.setting(3), Some(MAX_CONCURRENT_STREAMS));
        assert_eq!(settings.setting(4), Some(STREAM_WINDOW));
        // The least frame size is the protocol's own, which need not be said.
        assert_eq!(settings.setting(5).unwrap_or(16_384), MAX_FRAME);
        assert_eq!(settings.setting(6), Some(MAX_HEADER_LIST));
    }

    #[tokio::test]
    async fn a_stream_above_the_limit_is_refused_and_the_others_live() {
        let server = Server::start(|_| ()).await;
        let mut client = Raw::new(server.connect().await).await;

        for number in 0..=MAX_CONCURRENT_STREAMS {
            client.push_request(number * 2 + 1, "/slow");
        }
        client.flush().await;
        let reset = client.frame_of(RST_STREAM).await;
        server.calls.release.notify_one();
        let answer = client.frame_of(HEADERS).await;

        assert_eq!(reset.stream, MAX_CONCURRENT_STREAMS * 2 + 1);
        assert_eq!(reset.number_at(0), REFUSED_STREAM);
        assert!(answer.stream < reset.stream);
        assert!(server.calls.count.load(Ordering::Relaxed) <= MAX_CONCURRENT_STREAMS as usize);
    }

    #[tokio::test]
    async fn a_connection_whose_first_request_does_not_come_is_closed() {
        let server = Server::start(|limits| limits.first_request = SHORT).await;
        let mut mute = server.connect().await;
        let mut half_preface = server.connect().await;
        let mut half_head = server.connect().await;
        let mut half_request = Raw::new(server.connect().await).await;

        half_preface.write_all(b"PRI * HT").await.unwrap();
        half_head.write_all(b"GET /quick HTTP/1.1\r\nhost:").await.unwrap();
        half_request.push(HEADERS, 0, 1, &request_head("/quick"));
        half_request.flush().await;

        read_to_end(&mut mute).await;
        read_to_end(&mut half_preface).await;
        read_to_end(&mut half_head).await;
        half_request.rest().await;
        assert_eq!(server.calls.count.load(Ordering::Relaxed), 0);
    }

    #[tokio::test]
    async fn a_connection_that_has_asked_outlives_the_time_for_its_first_request() {
        let server = Server::start(|limits| limits.first_request = SHORT * 4).await;
        let mut mute = server.connect().await;
        let mut client = Raw::new(server.connect().await).await;
        client.push_request(1, "/slow");
        client.flush().await;
        soon(server.calls.entered.notified()).await;
        let mut later = server.connect().await;

        // Both were accepted around the client; when they are closed, its time is up as well.
        read_to_end(&mut mute).await;
        read_to_end(&mut later).await;
        server.calls.release.notify_one();
        let answer = client.frame_of(HEADERS).await;

        assert_eq!(answer.payload[0], OK);
    }

    #[tokio::test]
    async fn an_http1_connection_without_a_further_request_is_closed() {
        let server = Server::start(|limits| limits.first_request = SHORT).await;

        let request = "GET /quick HTTP/1.1\r\nhost: a\r\n\r\n";
        let answer = exchange(server.connect().await, request).await;

        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }

    #[tokio::test]
    async fn a_peer_that_answers_no_pings_is_closed_and_one_that_does_is_not() {
        let server = Server::start(|limits| {
            limits.keep_alive_interval = SHORT;
            limits.keep_alive_timeout = SHORT * 4;
        })
        .await;
        let mut lively = Raw::new(server.connect().await).await;
        lively.push_request(1, "/slow");
        lively.flush().await;
        soon(server.calls.entered.notified()).await;
        let mut dead = Raw::new(server.connect().await).await;
        dead.push_request(1, "/slow");
        dead.flush().await;

        let lively = tokio::spawn(async move { lively.answer().await });
        read_to_end(&mut dead.io).await;
        server.calls.release.notify_one();
        let answer = soon(lively).await.unwrap();

        assert_eq!(answer.payload[0], OK);
    }

    #[tokio::test]
    async fn a_tls_handshake_that_stalls_is_cut() {
        let files = Certificates::new();
        let tls = files.server(None);
        let server = Server::start_with(Some(tls), |limits| limits.handshake = SHORT).await;

        let answer = read_to_end(server.connect().await).await;

        assert_eq!(answer, "");
    }

    #[tokio::test]
    async fn a_connection_above_the_cap_waits_until_another_ends() {
        let server = Server::start(|limits| limits.connections = 1).await;
        let mut first = Raw::new(server.connect().await).await;
        first.frame_of(SETTINGS).await;

        let mut second = server.connect().await;
        second.write_all(last_request("/quick").as_bytes()).await.unwrap();
        let waiting = timeout(SHORT, second.readable()).await;
        drop(first);
        let answer = read_to_end(second).await;

        assert!(waiting.is_err(), "nothing comes while the other is there");
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }

    #[tokio::test]
    async fn a_drain_finishes_what_is_in_flight_and_cuts_what_stalls() {
        let mut server = Server::start(|limits| limits.drain = SHORT * 6).await;
        let mut stalled = Raw::new(server.connect().await).await;
        stalled.frame_of(SETTINGS).await;
        let mut client = Raw::new(server.connect().await).await;
        client.push_request(1, "/slow");
        client.flush().await;
        soon(server.calls.entered.notified()).await;

        let begin = Instant::now();
        server.stop();
        let goaway = client.frame_of(GOAWAY).await;
        let newcomer = TcpStream::connect(server.address).await;
        server.calls.release.notify_one();
        let rest = client.rest().await;
        let in_flight_took = begin.elapsed();
        let drained = server.drained().await;

        assert_eq!(goaway.number_at(4), 0, "nobody is at fault");
        assert_eq!(newcomer.unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
        let body = rest.iter().find(|frame| frame.kind == DATA).expect("the answer has a body");
        assert_eq!(body.payload, b"finished");
        assert_eq!(drained, Drained::Forced { connections: 1 });
        assert!(in_flight_took < begin.elapsed());
        assert!(begin.elapsed() >= SHORT * 6);
        assert!(stalled.rest().await.iter().any(|frame| frame.kind == GOAWAY));
    }

    #[tokio::test]
    async fn a_request_still_running_at_the_deadline_is_dropped() {
        let mut server = Server::start(|limits| limits.drain = SHORT).await;
        let mut client = Raw::new(server.connect().await).await;
        client.push_request(1, "/slow");
        client.flush().await;
        soon(server.calls.entered.notified()).await;

        server.stop();
        let calls = Arc::clone(&server.calls);
        let drained = server.drained().await;

        assert_eq!(drained, Drained::Forced { connections: 1 });
        soon(calls.dropped.notified()).await;
    }

    #[tokio::test]
    async fn idle_and_silent_connections_do_not_hold_up_a_drain() {
        let mut server = Server::start(|limits| limits.first_request = PATIENCE * 2).await;
        let silent = server.connect().await;
        let mut half_preface = server.connect().await;
        half_preface.write_all(b"PRI * HT").await.unwrap();
        let mut idle = server.connect().await;
        let request = b"GET /quick HTTP/1.1\r\nhost: a\r\n\r\n";
        idle.write_all(request).await.unwrap();
        soon(idle.readable()).await.unwrap();

        server.stop();
        let drained = server.drained().await;

        assert_eq!(drained, Drained::Clean);
        assert_eq!(read_to_end(silent).await, "");
        assert_eq!(read_to_end(half_preface).await, "");
    }

    #[tokio::test]
    async fn a_handshake_does_not_hold_up_a_drain() {
        let files = Certificates::new();
        let tls = Some(files.server(None));
        let mut server = Server::start_with(tls, |limits| limits.handshake = PATIENCE * 2).await;
        let stalled = server.connect().await;
        let probe = connect_tls(&server, files.client(None)).await.unwrap();
        exchange(probe, &last_request("/quick")).await;

        server.stop();
        let drained = server.drained().await;

        assert_eq!(drained, Drained::Clean);
        assert_eq!(read_to_end(stalled).await, "");
    }

    #[tokio::test]
    async fn a_header_list_above_the_limit_is_refused() {
        let server = Server::start(|_| ()).await;
        let mut client = Raw::new(server.connect().await).await;

        let mut head = request_head("/quick");
        head.extend(tiny_headers(MAX_HEADER_LIST as usize / 33 + 1));
        client.push(HEADERS, END_HEADERS | END_STREAM, 1, &head);
        client.flush().await;
        let answer = client.frame_of(HEADERS).await;
        let value = "x".repeat(HTTP1_BUFFER);
        let text = format!("GET /quick HTTP/1.1\r\nhost: a\r\nx: {value}\r\n\r\n");
        let http1_answer = exchange(server.connect().await, &text).await;

        assert!(answer.payload.starts_with(&TOO_LARGE), "{answer:?}");
        assert!(http1_answer.starts_with("HTTP/1.1 431"), "{http1_answer}");
        assert_eq!(server.calls.count.load(Ordering::Relaxed), 0);
    }

    #[tokio::test]
    async fn a_flood_of_continuations_ends_the_connection() {
        let server = Server::start(|_| ()).await;
        let mut client = Raw::new(server.connect().await).await;

        client.push(HEADERS, 0, 1, &request_head("/quick"));
        for _ in 0..100 {
            client.push(CONTINUATION, 0, 1, &tiny_headers(4000));
        }
        client.flush().await;

        assert_eq!(client.goaway_reason().await, ENHANCE_YOUR_CALM);
    }

    #[tokio::test]
    async fn rapid_resets_end_the_connection() {
        let server = Server::start(|_| ()).await;
        let mut client = Raw::new(server.connect().await).await;

        for number in 0..1000 {
            client.push_request(number * 2 + 1, "/quick");
            client.push(RST_STREAM, 0, number * 2 + 1, &8_u32.to_be_bytes());
        }
        client.flush().await;

        assert_eq!(client.goaway_reason().await, ENHANCE_YOUR_CALM);
    }

    #[tokio::test]
    async fn provoked_resets_end_the_connection() {
        let server = Server::start(|_| ()).await;
        let mut client = Raw::new(server.connect().await).await;

        let mut streams = (0..).map(|number| number * 2 + 1);
        let mut provoked = 0;
        let reason = loop {
            let stream = streams.next().unwrap();
            client.push_request(stream, "/slow");
            client.push(WINDOW_UPDATE, 0, stream, &0x7fff_ffff_u32.to_be_bytes());
            client.flush().await;
            let frame = client.frame_of_either(RST_STREAM, GOAWAY).await;
            if frame.kind == GOAWAY {
                break frame.number_at(4);
            }
            provoked += 1;
            assert!(provoked <= MAX_LOCAL_ERROR_RESETS, "the limit holds");
        };

        assert_eq!(reason, ENHANCE_YOUR_CALM);
        assert_eq!(provoked, MAX_LOCAL_ERROR_RESETS);
    }

    /// An authority and the certificates that it has signed, as files.
    struct Certificates {
        folder: TempDir,
        authority: Issuer<'static, KeyPair>,
    }

    impl Certificates {
        fn new() -> Self {
            let key = KeyPair::generate().unwrap();
            let mut authority = CertificateParams::default();
            authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            let pem = authority.self_signed(&key).unwrap().pem();
            let folder = tempfile::tempdir().unwrap();
            std::fs::write(folder.path().join("ca"), pem).unwrap();
            let files = Self { folder, authority: Issuer::new(authority, key) };
            files.certify("server");
            files.certify("client");
            files
        }

        fn path(&self, name: &str) -> PathBuf {
            self.folder.path().join(name)
        }

        fn certify(&self, name: &str) {
            let key = KeyPair::generate().unwrap();
            let params = CertificateParams::new(["localhost".to_owned()]).unwrap();
            let pem = params.signed_by(&key, &self.authority).unwrap().pem();
            std::fs::write(self.path(name), pem).unwrap();
            std::fs::write(self.path(&format!("{name}.key")), key.serialize_pem()).unwrap();
        }

        fn server(&self, client_ca: Option<&str>) -> TlsFiles {
            TlsFiles {
                cert: self.path("server"),
                key: self.path("server.key"),
                client_ca: client_ca.map(|name| self.path(name)),
            }
        }

        fn client(&self, name: Option<&str>) -> ClientConfig {
            let mut roots = RootCertStore::empty();
            roots.add(CertificateDer::from_pem_file(self.path("ca")).unwrap()).unwrap();
            let provider = Arc::new(ring::default_provider());
            let config = ClientConfig::builder_with_provider(provider)
                .with_safe_default_protocol_versions()
                .unwrap()
                .with_root_certificates(roots);
            let Some(name) = name else { return config.with_no_client_auth() };
            let chain = vec![CertificateDer::from_pem_file(self.path(name)).unwrap()];
            let key = PrivateKeyDer::from_pem_file(self.path(&format!("{name}.key"))).unwrap();
            config.with_client_auth_cert(chain, key).unwrap()
        }

        async fn error(&self, files: TlsFiles) -> EdgeError {
            let any_port = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
            let edge = Edge::bind(any_port, Some(files), PATIENCE).await;
            edge.err().expect("the files are not good")
        }
    }

    async fn connect_tls(
        server: &Server,
        config: ClientConfig,
    ) -> io::Result<TlsStream<TcpStream>> {
        let name = ServerName::try_from("localhost").unwrap();
        let connector = TlsConnector::from(Arc::new(config));
        soon(connector.connect(name, server.connect().await)).await
    }

    #[tokio::test]
    async fn tls_serves_the_protocol_that_the_handshake_chose() {
        let files = Certificates::new();
        let server = Server::start_with(Some(files.server(None)), |_| ()).await;
        let mut http2 = files.client(None);
        http2.alpn_protocols = vec![b"http/1.1".to_vec(), b"h2".to_vec()];

        let plain = connect_tls(&server, files.client(None)).await.unwrap();
        let http1_answer = exchange(plain, &last_request("/quick")).await;
        let stream = connect_tls(&server, http2).await.unwrap();
        let alpn = stream.get_ref().1.alpn_protocol().map(<[u8]>::to_vec);
        let version = stream.get_ref().1.protocol_version();
        let mut client = Raw::new(stream).await;
        client.push_request(1, "/quick");
        client.flush().await;
        let http2_answer = client.frame_of(HEADERS).await;

        assert!(http1_answer.starts_with("HTTP/1.1 200"), "{http1_answer}");
        assert_eq!(alpn.as_deref(), Some(&b"h2"[..]));
        assert_eq!(version, Some(ProtocolVersion::TLSv1_3));
        assert_eq!(http2_answer.payload[0], OK);
    }

    #[tokio::test]
    async fn with_client_ca_only_a_client_with_its_certificate_is_served() {
        let files = Certificates::new();
        let stranger = Certificates::new();
        let tls = files.server(Some("ca"));
        let server = Server::start_with(Some(tls), |_| ()).await;

        let known = connect_tls(&server, files.client(Some("client"))).await.unwrap();
        let answer = exchange(known, &last_request("/quick")).await;
        // The client's half of the handshake ends before the server has judged its certificate.
        let mut without = connect_tls(&server, files.client(None)).await.unwrap();
        let refused = soon(without.read_u8()).await;
        let mut roots_of_ours = files.client(Some("client"));
        roots_of_ours.client_auth_cert_resolver =
            stranger.client(Some("client")).client_auth_cert_resolver;
        let mut foreign = connect_tls(&server, roots_of_ours).await.unwrap();
        let foreign_refused = soon(foreign.read_u8()).await;

        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        let refused = refused.unwrap_err().to_string();
        assert!(refused.contains("CertificateRequired"), "{refused}");
        assert!(foreign_refused.is_err());
        assert_eq!(server.calls.count.load(Ordering::Relaxed), 1);
    }

    #[tokio::test]
    async fn an_error_names_the_file_and_its_fault() {
        let files = Certificates::new();
        let good = files.server(None);

        let missing = files.error(TlsFiles { cert: files.path("gone"), ..good.clone() }).await;
        let swapped = files.error(TlsFiles { key: files.path("server"), ..good.clone() }).await;
        let other_key = TlsFiles { key: files.path("client.key"), ..good.clone() };
        let unpaired = files.error(other_key).await;
        let no_authority = TlsFiles { client_ca: Some(files.path("server.key")), ..good };
        let no_authority = files.error(no_authority).await;

        assert!(missing.to_string().contains("gone, the file of `tls.cert`"), "{missing}");
        let fault = "server, the file of `tls.key`, holds none: it must be PEM with an unencrypted";
        assert!(swapped.to_string().contains(fault), "{swapped}");
        assert!(matches!(unpaired, EdgeError::Pair { .. }), "{unpaired}");
        assert!(no_authority.to_string().contains("`tls.client_ca`, holds none"));
    }

    #[tokio::test]
    async fn an_error_about_the_key_does_not_print_it() {
        let files = Certificates::new();
        let key = std::fs::read_to_string(files.path("server.key")).unwrap();
        std::fs::write(files.path("server.key"), key.replace('\n', "")).unwrap();

        let error = files.error(files.server(None)).await;

        let secret = &key.lines().nth(1).unwrap()[..20];
        assert!(!format!("{error} {error:?}").contains(secret));
        let as_numbers = format!("{:?}", secret.as_bytes());
        assert!(!format!("{error:?}").contains(as_numbers.trim_matches(['[', ']'])));
        assert!(error.to_string().contains("END line") || error.to_string().contains("BEGIN line"));
    }

    #[tokio::test]
    async fn a_taken_address_is_named() {
        let server = Server::start(|_| ()).await;

        let error = Edge::bind(server.address, None, PATIENCE).await.err().unwrap();

        assert!(error.to_string().contains(&server.address.to_string()), "{error}");
    }
}
