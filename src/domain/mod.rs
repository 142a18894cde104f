//! Defines the domain types with their rules, states and limits. This module does no I/O and knows
//! nothing of HTTP or SQL.

pub mod api_key;
pub mod attachment;
pub mod base_url;
pub mod blob_key;
pub mod chat;
pub mod client_address;
pub mod disposition;
pub mod fetch_url;
pub mod filename;
pub mod handle;
pub mod message;
pub mod object_headers;
pub mod page;
pub mod part;
pub mod tier;
pub mod url_match;
pub mod validators;
pub mod voice_memo;
