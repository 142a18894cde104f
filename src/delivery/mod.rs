//! Delivers messages: leases them from the outbox, hands them to the gateway, and records the
//! outcome.

mod gateway;
mod loopback;
mod receipts;
mod worker;

pub use gateway::{Accepted, Gateway, GatewayError, MediaFile, OutgoingMessage, OutgoingPart};
pub use loopback::Loopback;
pub use receipts::Receipts;
pub use worker::DeliveryWorker;
