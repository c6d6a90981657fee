//! Tests through real gRPC on a real port, against a real Postgres: a file a promise.

#![expect(clippy::unwrap_used, reason = "a test ends where its harness cannot go on")]
#![expect(
    clippy::format_push_string,
    clippy::large_futures,
    clippy::too_many_lines,
    reason = "a table reads best as one piece"
)]
#![expect(unreachable_pub, reason = "everything here is for the tests beside it")]

mod allowlist;
mod app;
mod app_data;
mod applications;
mod authorizations;
mod authorized_tenants;
mod bad_input;
mod browser;
mod catalog;
mod checks;
mod consent;
mod contract;
mod crash;
mod creation;
mod database_tls;
mod directory;
mod entitlements;
mod errors;
mod events;
mod external_keys;
mod fleet;
mod groups;
mod import;
mod installations;
mod isolation;
mod key_usage;
mod keys;
mod life;
mod lists;
mod mailbox;
mod metadata;
mod meter;
mod mutations;
mod oauth;
mod operations;
mod placement;
mod purge;
mod remedies;
mod requirements;
mod resellers;
mod search;
mod seed;
mod settings;
mod start;
mod story;
mod tenants;
mod tools;
mod usage;
mod verify;
mod walls;
mod web;
