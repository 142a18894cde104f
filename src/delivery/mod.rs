//! Delivery: leases messages from the outbox, hands them to the gateway, and records the outcome.

mod gateway;
mod loopback;
mod receipts;
mod worker;

pub use gateway::{Failure, Gateway, Outcome, OutgoingMessage, OutgoingPart, PartContent};
pub use loopback::Loopback;
pub use receipts::Receipts;
pub use worker::Worker;
