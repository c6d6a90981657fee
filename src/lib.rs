//! Tenantry, the control plane for tenants.
//!
//! The way in is [`start`], which finds or makes what serving needs; [`server`] is the stack that every
//! call goes through, [`rpc`] the corridor that it walks, and behind it lie the rooms: [`tenants`],
//! [`groups`], [`settings`], [`usage`],
//! [`entitlements`], [`directory`], [`keys`] and [`events`]. `ARCHITECTURE.md` shows them on a map.

pub mod allowlist;
pub mod cli;
pub mod clock;
pub mod config;
pub mod db;
pub mod directory;
pub mod edge;
pub mod entitlements;
pub mod error;
pub mod events;
pub mod filter;
pub mod groups;
pub mod keys;
pub mod page;
pub mod rpc;
#[expect(unreachable_pub, reason = "written by Diesel")]
// Clippy lets tests import all they like.
#[cfg_attr(not(test), expect(clippy::wildcard_imports, reason = "written by Diesel"))]
pub(crate) mod schema;
pub mod seed;
pub mod server;
pub mod settings;
pub mod start;
pub mod telemetry;
pub mod tenants;
pub mod usage;
pub mod wire;

/// The messages, clients and servers that the protos declare.
#[expect(clippy::pedantic, clippy::allow_attributes, reason = "generated; not ours to word")]
pub mod pb {
    tonic::include_proto!("tenantry.v1");
}
