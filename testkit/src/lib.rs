//! Building blocks of the integration tests: a real server on a real socket with a clock that the
//! test moves ([`TestApp`]), clients ([`Api`], [`raw`]), an origin and a bucket that misbehave on
//! demand ([`Origin`], [`BucketServer`]), the program as a process ([`program`]), and the sample
//! files ([`corpus()`]).
//!
//! Nothing here asserts what haversack does; assertions belong to the tests.

#![expect(
    clippy::disallowed_methods,
    reason = "names of schemas and objects must differ between runs"
)]
#![expect(
    clippy::must_use_candidate,
    reason = "a test that ignores a result asserts nothing, and needs no warning to see it"
)]

mod api;
mod app;
pub mod bucket;
mod cases;
mod corpus;
pub mod origin;
pub mod postgres;
pub mod program;
pub mod raw;
mod source;
mod wait;

pub use api::{Api, Response, Uploaded, text};
pub use app::{LINE, RECIPIENT, RIVAL_LINE, SECOND_LINE, TestApp, on_disk};
pub use bucket::BucketServer;
pub use cases::{each_case, each_case_async, each_case_concurrently};
pub use corpus::{corpus, fault};
pub use origin::Origin;
pub use source::source_files;
pub use wait::{until, within};
