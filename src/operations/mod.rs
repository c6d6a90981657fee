//! Operations: what goes on after the call that asked for it. So far, tenants that are created by
//! `CreateTenantAsync` (3-02).
//!
//! A call that begins an operation stores it, encrypted, with its event and the answer to its
//! `request_id`. From then on it is a row that any node may work on: [`worker`] claims it, becomes the
//! caller once more, with the rights that the caller's key has by then, and creates the tenant in the
//! same transaction in which the operation is completed. Whoever works on a row holds its lock; a node
//! that dies loses its locks, and with them its claim. That is all there is to it: no leases, no queue.
//!
//! Its result is encrypted so that its creator alone can read it, see `vault`, and is given once.

pub mod model;
pub mod service;
pub(crate) mod store;
mod vault;
pub(crate) mod wire;
pub mod worker;

pub(crate) use service::{schedule, take};

use tokio::sync::{Notify, broadcast};
use uuid::Uuid;

/// How many ends of operations one who waits may be behind before it looks for itself.
const ENDS_KEPT: usize = 256;

/// Wakes those who wait within this process. Other nodes are not heard: whoever waits also looks, from
/// time to time.
pub struct Signals {
    /// Wakes the worker.
    pub scheduled: Notify,
    ended: broadcast::Sender<Uuid>,
}

impl Default for Signals {
    fn default() -> Self {
        Self { scheduled: Notify::default(), ended: broadcast::Sender::new(ENDS_KEPT) }
    }
}

impl Signals {
    /// Tells that an operation is done.
    fn tell_end(&self, operation_id: Uuid) {
        // Nobody waits: that is no failure.
        let _ = self.ended.send(operation_id);
    }

    /// Begins to listen; ends from now on are heard.
    fn listen(&self) -> broadcast::Receiver<Uuid> {
        self.ended.subscribe()
    }
}

/// Waits until an operation is done, or so many others are that this may have been missed.
async fn end_of(operation_id: Uuid, ends: &mut broadcast::Receiver<Uuid>) {
    while ends.recv().await.is_ok_and(|ended| ended != operation_id) {}
}
