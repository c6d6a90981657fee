//! Tenants: what one is (`model`), how it is kept (`store`), how it looks from outside (`wire`), how
//! it is listed (`list`) and searched for (`search`), how it is created (`create`) with what comes with it
//! (`companions`) and changed (`update`), where it is placed (`placement`), what else happens to it
//! (`life`, and `deletion` in the end), and the RPCs (`service`).

pub mod companions;
pub(crate) mod create;
mod deletion;
pub mod life;
pub mod list;
pub mod model;
mod placement;
pub(crate) mod search;
pub mod service;
pub mod store;
mod update;
pub mod wire;
