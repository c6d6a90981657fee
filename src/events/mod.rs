//! What happened, for the audit log and for whoever follows it.

pub mod outbox;
