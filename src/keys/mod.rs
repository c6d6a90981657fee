//! Keys: the master key (`master`), the text of a key (`secret`) and what of it the limits say (`limits`).
//!
//! API keys: what one is and may do (`model`, `roles`), how it comes to be (`issue`), changes (`patch`), is kept
//! (`store`), listed (`list`) and looks from outside (`wire`), and the calls on them (`api_keys`).
//!
//! What tenants run: `installations`, the `app_keys` of those, and the keys that their clients send
//! (`external_keys`), brought along from elsewhere (`import`); as which OAuth client a tenant's users sign in
//! (`oauth`).
//!
//! Verification, in the order of its steps: what a node knows (`cache`, of what is `known`), how it asks for the rest
//! (`resolve`), what stands against a key (`verdict`, with the `rules` of from where), how often it was used
//! (`meter`) and when last (`usage`), and the answer (`verify`).
//!
//! The RPCs are in `service`.

pub mod api_keys;
pub mod app_keys;
pub mod cache;
pub mod external_keys;
pub mod import;
pub mod installations;
pub mod issue;
pub mod known;
pub mod limits;
pub mod list;
pub mod master;
pub mod meter;
pub mod model;
pub mod oauth;
mod patch;
pub mod resolve;
pub mod roles;
pub mod rules;
pub mod secret;
pub mod service;
pub mod store;
pub mod usage;
pub mod verdict;
pub mod verify;
pub mod wire;
