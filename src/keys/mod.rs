//! Keys: the master key (`master`), the text of a key (`secret`), what a key is and when it is good
//! (`model`, `roles`, `verdict`), how keys come to be (`issue`), change (`patch`), are kept (`store`) and look from outside
//! (`wire`), what tenants run and the keys that its clients send (`installations`), as which OAuth client
//! a tenant's users sign in (`oauth`), from where and how often keys may be used (`rules`, `limits`, `meter`)
//! and when they were (`usage`), and the RPCs (`service`).

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
