//! The server as its clients see it: real sockets, a real database, real files. One file a topic.

#![expect(unreachable_pub, reason = "a test has no public interface")]

mod attachments;
mod blob_stores;
mod bucket;
mod connections;
mod content;
mod crash;
mod database_shares;
mod delivery;
mod delivery_forms;
mod downloads;
mod ephemeral;
mod ephemeral_urls;
mod hostile_http2;
mod hostile_origins;
mod lists;
mod media_urls;
mod moving;
mod operations;
mod privacy;
mod program;
mod retention;
mod sends;
mod short_errors;
mod support;
mod tenancy;
mod uploads;
mod voice_memos;
