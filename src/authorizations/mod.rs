//! What accounts publish and tenants authorize: `applications`, the `clients` as which they prove themselves, what
//! tenants let them do (`grants`), and the RPCs (`service`).

pub mod applications;
mod clients;
mod grants;
pub mod service;
