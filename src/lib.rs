//! Tenantry, the control plane for tenants.
//!
//! The way in is [`start`], which finds or makes what serving needs; [`server`] is the stack that every
//! call goes through, [`rpc`] the corridor that it walks, and behind it lie the rooms: [`tenants`],
//! [`directory`], [`keys`] and [`events`]. `ARCHITECTURE.md` shows them on a map.

pub mod cli;
pub mod config;
pub mod start;
pub mod server;
pub mod edge;
pub mod rpc;
pub mod tenants;
pub mod directory;
pub mod keys;
pub mod events;
pub mod db;
pub mod filter;
pub mod page;
pub mod wire;
pub mod error;
pub mod clock;
pub mod telemetry;
pub(crate) mod schema;

/// The messages, clients and servers that the protos declare.
pub mod pb {
    tonic::include_proto!("tenantry.v1");
}
