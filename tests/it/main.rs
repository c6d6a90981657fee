//! Tests through real gRPC on a real port, against a real Postgres: a file a promise.

mod app;
mod smoke;
