//! Keys: the master key (`master`), the text of a key (`secret`), what a key is and when it is good
//! (`model`, `roles`, `verdict`), how keys are kept (`store`), how they look from outside (`wire`), and
//! the RPCs (`service`).

pub mod list;
pub mod master;
pub mod model;
pub mod roles;
pub mod secret;
pub mod service;
pub mod store;
pub mod verdict;
pub mod wire;
