//! The server as its clients see it: real sockets, a real database, real files. One file a topic.

#![expect(unreachable_pub, reason = "a test has no public interface")]
#![expect(
    clippy::disallowed_methods,
    reason = "tests may use real time and random input"
)]

mod attachments;
mod blob_stores;
mod bucket;
mod client_shares;
mod connections;
mod content;
mod copy;
mod crash;
mod database_shares;
mod decoders;
mod delivery;
mod direct_uploads;
mod documentation;
mod downloads;
mod ephemeral;
mod ephemeral_urls;
mod error_length;
mod fetch_egress;
mod fetch_loops;
mod fetch_redirects;
mod fetch_revalidation;
mod fetch_shares;
mod flooding_origins;
mod gc;
mod hostile_http2;
mod hostile_origins;
mod hostile_server;
mod layering;
mod lists;
mod media_urls;
mod operations;
mod program;
mod retention;
mod sandbox;
mod sends;
mod strip_metadata;
mod tenancy;
mod uploads;
mod variants;
mod voice_memos;
