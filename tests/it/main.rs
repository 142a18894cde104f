//! The server as its clients see it: real sockets, a real database, real files. One file a topic.

#![expect(unreachable_pub, reason = "a test has no public interface")]

mod attachments;
mod blob_stores;
mod bucket;
mod connections;
mod content;
mod crash;
mod database_shares;
mod decoders;
mod delivery;
mod delivery_forms;
mod downloads;
mod ephemeral;
mod ephemeral_urls;
mod flooding_origins;
mod greedy_clients;
mod hostile_http2;
mod hostile_origins;
mod hostile_server;
mod lists;
mod media_urls;
mod moving;
mod operations;
mod own_hosts;
mod privacy;
mod program;
mod retention;
mod sandbox;
mod sends;
mod short_errors;
mod tenancy;
mod uploads;
mod voice_memos;
