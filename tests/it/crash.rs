//! A change whose answer was lost with the service is made once, and answered when it is asked again.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use nix::sys::signal::Signal;
use tenantry::{
    longrunning::{ListOperationsRequest, WaitOperationRequest, operation::Result as Outcome},
    pb::{self, key_service_client::KeyServiceClient},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, copy},
    net::{TcpListener, TcpStream},
};
use tonic::transport::Endpoint;

use crate::{
    app::{Metadata, tenant},
    start::{Folder, Running, command, run, until},
};

/// A wire that, once cut, carries requests but no answers.
struct Wire {
    address: SocketAddr,
    is_cut: Arc<AtomicBool>,
}

impl Wire {
    async fn to(server: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let is_cut = Arc::new(AtomicBool::new(false));
        let cut = is_cut.clone();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let Ok(server) = TcpStream::connect(&server).await else { continue };
                let (mut from_client, mut to_client) = client.into_split();
                let (mut from_server, mut to_server) = server.into_split();
                tokio::spawn(async move { copy(&mut from_client, &mut to_server).await });
                let cut = cut.clone();
                tokio::spawn(async move {
                    let mut buffer = [0; 4096];
                    while let Ok(length @ 1..) = from_server.read(&mut buffer).await {
                        let is_cut = cut.load(Ordering::SeqCst);
                        if !is_cut && to_client.write_all(&buffer[..length]).await.is_err() {
                            break;
                        }
                    }
                });
            }
        });
        Self { address, is_cut }
    }
}

fn keys(
    address: &str,
    root: &str,
) -> KeyServiceClient<
    tonic::service::interceptor::InterceptedService<tonic::transport::Channel, Metadata>,
> {
    let channel = Endpoint::from_shared(format!("http://{address}")).unwrap().connect_lazy();
    KeyServiceClient::with_interceptor(channel, Metadata::bearer(root))
}

#[tokio::test]
async fn a_change_whose_answer_was_lost_with_the_service_happens_once_and_is_answered_again() {
    let folder = Folder::new("lost-answer");
    let first = run(command(&folder.0), &folder.0);
    let root = first.root();
    let wire = Wire::to(first.address.clone()).await;
    let request = pb::CreateApiKeyRequest {
        api_key: Some(pb::ApiKey {
            name: "whose answer is lost".into(),
            roles: vec!["auditor".to_owned()],
            ..Default::default()
        }),
        request_id: "before-the-crash".into(),
        ..Default::default()
    };
    let named = async |address: &str| {
        let list = keys(address, &root).list_api_keys(pb::ListApiKeysRequest::default()).await;
        let keys = list.unwrap().into_inner().api_keys;
        keys.into_iter().filter(|key| key.name == "whose answer is lost").collect::<Vec<_>>()
    };

    // The connection is made before the wire is cut.
    let mut caller = keys(&wire.address.to_string(), &root);
    caller.who_am_i(pb::WhoAmIRequest {}).await.unwrap();
    wire.is_cut.store(true, Ordering::SeqCst);
    let sent = request.clone();
    let lost = tokio::spawn(async move { caller.create_api_key(sent).await });
    until("the commit", async || !named(&first.address).await.is_empty()).await;
    assert!(!lost.is_finished(), "nobody was answered yet");
    first.end(Signal::SIGKILL).await;
    lost.await.unwrap().unwrap_err();

    let second = run(command(&folder.0), &folder.0);
    let again = keys(&second.address, &root).create_api_key(request).await.unwrap().into_inner();

    assert_eq!(named(&second.address).await, [again.api_key.unwrap()]);
    keys(&second.address, &again.secret).who_am_i(pb::WhoAmIRequest {}).await.unwrap();
}

#[tokio::test]
async fn a_service_killed_amid_changes_leaves_none_of_them_half_done() {
    let folder = Folder::new("amid-changes");
    let first = run(command(&folder.0), &folder.0);
    let new = |number: usize| pb::CreateTenantRequest {
        tenant: Some(pb::Tenant {
            default_domain: Some(format!("d{number}.example.com")),
            ..tenant(&format!("t{number}"))
        }),
        auto_create_domain: Some(true),
        request_id: format!("request-{number}"),
        ..Default::default()
    };

    let calls: Vec<_> = (0..40)
        .map(|number| {
            let mut caller = first.tenants();
            tokio::spawn(async move { caller.create_tenant(new(number)).await })
        })
        .collect();
    until("the first change", async || first.has("t0").await.is_ok_and(|is_there| is_there)).await;
    first.end(Signal::SIGKILL).await;
    let mut answered = Vec::new();
    for call in calls {
        answered.push(call.await.unwrap().ok());
    }
    let second = run(command(&folder.0), &folder.0);

    for (number, answer) in answered.into_iter().enumerate() {
        let again = second.tenants().create_tenant(new(number)).await.unwrap().into_inner();
        if let Some(answer) = answer {
            assert_eq!(again, answer.into_inner(), "what was answered is what is kept");
        }
    }
    let all = second.tenants().list_tenants(pb::ListTenantsRequest::default()).await.unwrap();
    assert_eq!(all.into_inner().tenants.len(), 40);
}

/// 3-02: whatever becomes of the service, each operation ends once, with one tenant.
#[tokio::test]
async fn operations_that_a_killed_service_was_at_end_once_each() {
    const ALL: usize = 40;
    let folder = Folder::new("amid-operations");
    let first = run(command(&folder.0), &folder.0);
    let mut names = Vec::new();
    for number in 0..ALL {
        let request = pb::CreateTenantAsyncRequest {
            tenant: Some(tenant(&format!("t{number}"))),
            ..Default::default()
        };
        names.push(first.tenants().create_tenant_async(request).await.unwrap().into_inner().name);
    }
    let done = async |running: &Running| {
        let request = ListOperationsRequest { filter: "done = true".into(), ..Default::default() };
        let list = running.operations().list_operations(request).await;
        list.map_or(0, |list| list.into_inner().operations.len())
    };

    until("the first end", async || done(&first).await > 0).await;
    first.end(Signal::SIGKILL).await;
    let second = run(command(&folder.0), &folder.0);
    for name in &names {
        let request = WaitOperationRequest { name: name.clone(), timeout: None };
        let ended = second.operations().wait_operation(request).await.unwrap().into_inner();
        assert!(matches!(ended.result, Some(Outcome::Response(_))), "{ended:?}");
    }

    let all = second.tenants().list_tenants(pb::ListTenantsRequest::default()).await.unwrap();
    assert_eq!(all.into_inner().tenants.len(), ALL);
    let take = pb::TakeTenantResultRequest { operation: names[0].clone(), ..Default::default() };
    let taken = second.tenants().take_tenant_result(take).await.unwrap().into_inner();
    assert_eq!(taken.tenant.unwrap().tenant_id, "t0");
}
