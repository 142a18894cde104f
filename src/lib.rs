#![doc = include_str!("../ARCHITECTURE.md")]

pub mod app;
pub mod attachments;
pub mod background;
pub mod blob;
pub mod budget;
pub mod cli;
pub mod clock;
pub mod config;
pub mod db;
pub mod delivery;
pub mod domain;
pub mod fetch;
pub mod http;
pub mod id;
pub mod maintenance;
pub mod media;
pub mod messages;
pub mod metrics;
mod pace;
pub mod partners;
pub mod quote;
pub mod sandbox;
pub mod send;
pub mod storage;
pub mod transcode;
pub mod url_signing;
