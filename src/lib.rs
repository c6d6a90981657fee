//! Tenantry, the control plane for tenants.
//!
//! The way in is [`start`], which finds or makes what serving needs; [`server`] is the stack that every
//! call goes through, [`rpc`] the corridor that it walks, and behind it lie the rooms: [`tenants`],
//! [`groups`], [`app_data`], [`settings`], [`usage`], [`entitlements`], [`purge`], [`directory`], [`keys`],
//! [`operations`] and [`events`]. `ARCHITECTURE.md` shows them on a map.

pub mod allowlist;
pub mod app_data;
pub mod authorizations;
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
pub mod listing;
pub mod mail;
pub mod mask;
pub mod nodes;
pub mod operations;
pub mod page;
pub mod purge;
pub mod revision;
pub mod rpc;
#[expect(unreachable_pub, reason = "written by Diesel")]
// Clippy lets tests import all they like.
#[cfg_attr(not(test), expect(clippy::wildcard_imports, reason = "written by Diesel"))]
pub(crate) mod schema;
pub(crate) mod sealed;
pub mod seed;
pub mod server;
pub mod settings;
pub mod start;
pub mod telemetry;
pub mod tenants;
pub mod usage;
pub mod wire;

/// What is generated of the protos, in modules as their packages are, by which they find each other.
#[expect(
    clippy::pedantic,
    clippy::allow_attributes,
    missing_docs,
    unreachable_pub,
    reason = "generated; not ours to word"
)]
mod generated {
    pub mod tenantry {
        pub mod v1 {
            tonic::include_proto!("tenantry.v1");
        }
    }
    pub mod google {
        pub mod longrunning {
            tonic::include_proto!("google.longrunning");
        }
    }
}

// Messages with secrets say nothing of themselves.
include!(concat!(env!("OUT_DIR"), "/silent.rs"));

/// The messages, clients and servers that the protos declare.
pub use generated::tenantry::v1 as pb;

/// The same of Google's operations.
pub use generated::google::longrunning;
