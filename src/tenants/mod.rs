//! Tenants: what one is (`model`), how it is kept (`store`), how it looks from outside (`wire`), how
//! it is listed (`list`), what happens to it once it is there (`life`, and `deletion` in the end), and the
//! RPCs (`service`).

mod deletion;
pub mod life;
pub mod list;
pub mod model;
pub mod service;
pub mod store;
pub mod wire;
