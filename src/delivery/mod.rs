//! Delivery: takes messages out of the outbox, hands them to the gateway, and records what became of them.

mod gateway;
mod loopback;
mod receipts;
mod worker;

pub use gateway::{Failure, Gateway, Outcome, OutgoingMessage, OutgoingPart, PartContent};
pub use loopback::Loopback;
pub use receipts::Receipts;
pub use worker::Worker;
