//! What accounts publish and tenants authorize: `applications`, the `clients` as which they prove themselves, and
//! the RPCs (`service`).

pub mod applications;
mod clients;
pub mod service;
