//! A Postgres elsewhere is spoken to in TLS, and only if it is who it says.

use std::{fs, path::PathBuf, process::Command, sync::Arc};

use secrecy::ExposeSecret as _;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, copy_bidirectional},
    net::{TcpListener, TcpStream, UnixStream},
};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{ServerConfig, crypto::ring, pki_types::PrivateKeyDer},
};

use crate::{
    app::cluster,
    start::{Folder, command, output},
};

/// Where to find a database behind TLS, and the certificate to trust for it.
struct Encrypted {
    url: String,
    certificate: PathBuf,
    folder: Folder,
}

/// Speaks TLS for the tests' own Postgres, under the name `localhost`.
async fn encrypted(name: &str) -> Encrypted {
    let database = format!("encrypted_{name}");
    let (owner, _) = tenantry::start::create_database(cluster().await, &database).await.unwrap();
    let config: tokio_postgres::Config = owner.expose_secret().parse().unwrap();
    let [tokio_postgres::config::Host::Unix(folder)] = config.get_hosts() else {
        panic!("the tests' own Postgres listens on a socket");
    };
    let socket = folder.join(".s.PGSQL.5432");
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let tls = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(serve(listener, TlsAcceptor::from(Arc::new(tls)), socket));

    let folder = Folder::new(&database);
    fs::create_dir_all(&folder.0).unwrap();
    let certificate = folder.0.join("trusted.pem");
    fs::write(&certificate, made.cert.pem()).unwrap();
    let user = config.get_user().unwrap();
    let url = format!("postgres://{user}@localhost:{port}/{database}?sslmode=require");
    Encrypted { url, certificate, folder }
}

async fn serve(listener: TcpListener, tls: TlsAcceptor, socket: PathBuf) {
    while let Ok((client, _)) = listener.accept().await {
        let (tls, socket) = (tls.clone(), socket.clone());
        tokio::spawn(async move { relay(client, tls, socket).await });
    }
}

async fn relay(mut client: TcpStream, tls: TlsAcceptor, socket: PathBuf) -> std::io::Result<()> {
    // The request for TLS: its length and its code, and the answer that it may begin.
    client.read_exact(&mut [0; 8]).await?;
    client.write_all(b"S").await?;
    let mut client = tls.accept(client).await?;
    let mut postgres = UnixStream::connect(socket).await?;
    copy_bidirectional(&mut client, &mut postgres).await?;
    Ok(())
}

impl Encrypted {
    fn migrate(&self, url: &str) -> Command {
        let mut command = command(&self.folder.0);
        command.env("DATABASE_URL", url).arg("migrate");
        command
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_whose_certificate_is_trusted_is_used_over_tls() {
    let database = encrypted("trusted").await;
    let mut command = database.migrate(&database.url);
    command.env("SSL_CERT_FILE", &database.certificate);

    let (status, _, told) = output(command);

    assert!(status.success(), "{told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_whose_certificate_is_not_trusted_or_not_its_own_is_refused() {
    let database = encrypted("not_trusted").await;
    let not_trusted = database.migrate(&database.url);
    let mut not_its_own = database.migrate(&database.url.replace("localhost", "127.0.0.1"));
    not_its_own.env("SSL_CERT_FILE", &database.certificate);

    let (first, _, not_trusted) = output(not_trusted);
    let (second, _, not_its_own) = output(not_its_own);

    assert!(!first.success() && !second.success());
    assert!(not_trusted.contains("certificate"), "{not_trusted}");
    assert!(not_its_own.contains("certificate"), "{not_its_own}");
}
