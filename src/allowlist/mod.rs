//! From where API keys work: the lists of IP addresses of tenants and accounts, what they say (`model`)
//! and how they are kept (`store`).

pub mod model;
pub mod store;
