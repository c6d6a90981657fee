//! One connection to Postgres, in clear or with TLS, as its URL says.

use std::sync::{Arc, LazyLock};

use diesel::{ConnectionError, ConnectionResult};
use diesel_async::{AsyncConnection as _, AsyncPgConnection};
use tokio_postgres::{CancelToken, Config, NoTls, config::SslMode};
use tokio_postgres_rustls::MakeRustlsConnect;
use tokio_rustls::rustls::{ClientConfig, RootCertStore, crypto::ring};

use crate::error::causes;

/// TLS with the certificates that the system trusts; `SSL_CERT_FILE` and `SSL_CERT_DIR` name others.
static TLS: LazyLock<Result<MakeRustlsConnect, String>> = LazyLock::new(|| {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    if let (0, _) = roots.add_parsable_certificates(found.certs) {
        let cause = found.errors.first().map(|error| format!(": {error}")).unwrap_or_default();
        return Err(format!(
            "no certificate is trusted, so the database's own cannot be verified: set \
             SSL_CERT_FILE{cause}"
        ));
    }
    ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map(|config| config.with_root_certificates(roots).with_no_client_auth())
        .map(MakeRustlsConnect::new)
        .map_err(|error| error.to_string())
});

/// Whether connections to the database of a URL are encrypted.
pub(super) fn is_encrypted(url: &str) -> bool {
    url.parse::<Config>().is_ok_and(|config| config.get_ssl_mode() == SslMode::Require)
}

/// Asks Postgres to end the statement of a connection that nobody waits for any more.
pub(super) async fn cancel(token: CancelToken, encrypted: bool) {
    let done = match (encrypted, TLS.clone()) {
        (true, Ok(tls)) => token.cancel_query(tls).await,
        (true, Err(_)) => return,
        (false, _) => token.cancel_query(NoTls).await,
    };
    if let Err(error) = done {
        // It ends by its own timeout then.
        tracing::debug!(error = causes(&error), "a statement could not be cancelled");
    }
}

/// Connects to the database of a URL.
///
/// With `sslmode=require` in the URL the connection is encrypted and the server's certificate
/// verified, its name too; there is no half-way, which an attacker could lead us down. Any other mode
/// means in clear, as over a Unix socket.
///
/// # Errors
///
/// What is wrong with the URL, the server or its certificate.
pub async fn connect(url: &str) -> ConnectionResult<AsyncPgConnection> {
    let bad = |error: tokio_postgres::Error| ConnectionError::BadConnection(causes(&error));
    let config: Config = url.parse().map_err(bad)?;
    if config.get_ssl_mode() != SslMode::Require {
        return AsyncPgConnection::establish(url).await;
    }
    let tls = TLS.clone().map_err(ConnectionError::BadConnection)?;
    let (client, connection) = config.connect(tls).await.map_err(bad)?;
    AsyncPgConnection::try_from_client_and_connection(client, connection).await
}
