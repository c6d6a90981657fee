//! The RPCs of `EventService`.

use std::sync::Arc;

use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::{answer::WatchEventsResponse, list::Query, watch};
use crate::{
    pb::{self, event_service_server::EventService},
    rpc::Call,
    server::Shared,
};

/// `EventService`.
pub struct Events(pub Arc<Shared>);

#[tonic::async_trait]
impl EventService for Events {
    type WatchEventsStream = ReceiverStream<Result<WatchEventsResponse, Status>>;

    async fn list_events(
        &self,
        request: Request<pb::ListEventsRequest>,
    ) -> Result<Response<pb::ListEventsResponse>, Status> {
        let (call, request) = Call::of(request)?;
        let query = Query::read(&call, &request)?;

        let page = async |conn: &mut _| query.run(conn, &call.scope).await;
        let (events, next_page_token) = self.0.read(&call, page).await?;

        Ok(Response::new(pb::ListEventsResponse { events, next_page_token }))
    }

    async fn watch_events(
        &self,
        request: Request<pb::WatchEventsRequest>,
    ) -> Result<Response<Self::WatchEventsStream>, Status> {
        let (call, request) = Call::of(request)?;

        let answers = watch::start(self.0.clone(), call, request).await?;

        Ok(Response::new(ReceiverStream::new(answers)))
    }
}
