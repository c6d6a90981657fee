//! What is not plain gRPC on the same port: gRPC-Web, as browsers speak it, and HTTP.

use axum::body::Body;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::app::App;

/// Sends one HTTP/1.1 request with a body; answers everything that comes back.
pub async fn http(
    app: &App,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> String {
    let mut request =
        format!("{method} {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n");
    for (name, value) in headers {
        request.push_str(&format!("{name}: {value}\r\n"));
    }
    request.push_str(&format!("content-length: {}\r\n\r\n", body.len()));
    let mut stream = TcpStream::connect(app.address).await.unwrap();
    stream.write_all(&[request.as_bytes(), body].concat()).await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    String::from_utf8_lossy(&answer).into_owned()
}

/// A connection of HTTP/2, for requests as no client of gRPC makes them.
pub async fn http2(app: &App) -> http2::SendRequest<Body> {
    let stream = TcpStream::connect(app.address).await.unwrap();
    let shaken = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await;
    let (sender, connection) = shaken.unwrap();
    tokio::spawn(connection);
    sender
}

/// An empty message, framed.
pub const EMPTY: &[u8] = &[0; 5];

pub const GRPC_WEB: (&str, &str) = ("content-type", "application/grpc-web+proto");

#[tokio::test]
async fn a_browser_calls_as_others_do() {
    let app = App::start().await;
    let bearer = format!("Bearer {}", app.root);
    let headers = [GRPC_WEB, ("authorization", &bearer), ("x-correlation-id", "from-a-browser")];

    let answer = http(&app, "POST", "/tenantry.v1.KeyService/WhoAmI", &headers, EMPTY).await;

    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(answer.contains("system-admin"), "{answer}");
    assert!(answer.contains("x-correlation-id: from-a-browser"), "{answer}");
    assert!(answer.contains("grpc-status:0"), "{answer}");
}

#[tokio::test]
async fn a_browser_without_a_key_is_refused_as_others_are() {
    let app = App::start().await;

    let answer = http(&app, "POST", "/tenantry.v1.KeyService/WhoAmI", &[GRPC_WEB], EMPTY).await;

    assert!(answer.contains("x-correlation-id: "), "{answer}");
    assert!(answer.replace(": ", ":").contains("grpc-status:16"), "{answer}");
}

#[tokio::test]
async fn a_probe_without_grpc_gets_a_page_and_a_wrong_path_is_not_found() {
    let app = App::start().await;

    let page = http(&app, "GET", "/", &[], b"").await;
    let nothing = http(&app, "GET", "/nothing", &[], b"").await;

    assert!(page.starts_with("HTTP/1.1 200"), "{page}");
    assert!(nothing.starts_with("HTTP/1.1 404"), "{nothing}");
    assert!(nothing.contains("x-correlation-id: "), "{nothing}");
}

#[tokio::test]
async fn a_call_in_another_language_is_refused_as_such() {
    let app = App::start().await;
    let bearer = format!("Bearer {}", app.root);
    let path = "/tenantry.v1.KeyService/WhoAmI";

    let json = [("content-type", "application/json"), ("authorization", &*bearer)];
    let json = http(&app, "POST", path, &json, b"{}").await;
    let gzip = [GRPC_WEB, ("authorization", &*bearer), ("grpc-encoding", "gzip")];
    let gzip = http(&app, "POST", path, &gzip, &[1, 0, 0, 0, 1, 0]).await;
    let cut = [GRPC_WEB, ("authorization", &*bearer)];
    let cut = http(&app, "POST", path, &cut, &[0, 0, 0, 0, 9, 1]).await;

    let text = [("content-type", "application/grpc-web-text"), ("authorization", &*bearer)];
    let not_base64 = http(&app, "POST", path, &text, b"!!!!").await;

    assert!(json.starts_with("HTTP/1.1 415"), "{json}");
    assert!(not_base64.replace(": ", ":").contains("grpc-status:3"), "{not_base64}");
    for answer in [gzip, cut] {
        assert!(answer.replace(": ", ":").contains("grpc-status:3"), "{answer}");
        assert!(answer.contains("x-correlation-id"), "{answer}");
    }
}

#[tokio::test]
async fn a_kind_of_grpc_web_that_is_none_is_answered_and_ends_nothing() {
    let app = App::start().await;
    let mut sender = http2(&app).await;

    for kind in ["application/grpc-web+json", "application/grpc-web; charset=utf-8"] {
        let request = http::Request::post("http://localhost/tenantry.v1.KeyService/WhoAmI")
            .header("content-type", kind)
            .body(Body::from(EMPTY));

        let answer = sender.send_request(request.unwrap()).await.unwrap();

        assert_eq!(answer.headers()["grpc-status"], "16", "{kind}: nobody without a key");
        assert!(answer.headers().contains_key("x-correlation-id"), "{kind}");
    }
}
