//! What happened, for the audit log and for whoever follows it.
//!
//! - `outbox` writes an event in the transaction of the change;
//! - `store` reads events, `list` page by page;
//! - `feed` polls for what is new, once for the whole node;
//! - `watch` tells it to one caller, from the cursor on that the caller keeps, in `answer`s;
//! - `expiry` tells ahead of what ends.
//!
//! # The order
//!
//! Transactions commit in another order than they begin in, and whoever remembers the highest number it
//! has seen misses those that come late. So an event has a [`cursor::Place`]: the *position* that the
//! database gives it when it is written, and a time behind that. The position is the number of the
//! transaction, or the first number not yet given away, whichever is higher. Two things follow:
//!
//! - No event will come with a position below the oldest running transaction. What lies below is
//!   *settled*, and is told in its order.
//! - Who changes what another has just changed had to wait for the end of its transaction, and tells of
//!   it afterwards. By then no number of that transaction is new any more. So the events of one resource
//!   lie in the order of its changes, also where the later transaction has the lower number.

pub mod answer;
pub mod cursor;
pub mod expiry;
pub mod feed;
pub mod kinds;
mod list;
pub mod outbox;
pub mod service;
pub mod store;
mod watch;
