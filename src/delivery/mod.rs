//! Delivery: takes messages out of the outbox, hands them to the gateway, and records what became of them.

mod gateway;
mod loopback;
mod worker;

pub use gateway::{Failure, Gateway, Outcome, OutgoingMessage, OutgoingPart, PartContent};
pub use loopback::Loopback;
pub use worker::Worker;
