#![doc = include_str!("../ARCHITECTURE.md")]

pub mod api;
pub mod app;
pub mod blob;
pub mod budget;
pub mod cdn;
pub mod cli;
pub mod clock;
pub mod config;
pub mod convert;
pub mod db;
pub mod delivery;
pub mod domain;
pub mod fetch;
pub mod id;
pub mod media;
pub mod metrics;
mod pace;
pub mod place;
pub mod quote;
pub mod sandbox;
pub mod server;
pub mod service;
