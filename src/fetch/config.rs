//! Defines the settings of the client that fetches media URLs.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use ipnet::IpNet;

use super::EgressPolicy;
use crate::budget;
use crate::setting::{self, List, MAX_COUNT, number, seconds};

#[derive(Args, Clone, Debug)]
#[group(skip)]
#[command(next_help_heading = "Media URLs")]
pub struct Config {
    /// Networks that media URLs may reach although they are not public, such as
    /// `127.0.0.0/8,10.1.0.0/16`
    #[arg(
        id = "fetch-allow-nets",
        long,
        value_name = "NETWORKS",
        default_value = ""
    )]
    pub allow_nets: List<IpNet>,
    /// Ports that media URLs may name besides 443, such as `8443,9443`
    #[arg(
        id = "fetch-allow-ports",
        long,
        value_name = "PORTS",
        default_value = ""
    )]
    pub allow_ports: List<u16>,
    /// PEM file of certificate authorities trusted for media URLs besides the public ones
    #[arg(id = "fetch-ca-file", long, value_name = "FILE")]
    pub ca_file: Option<PathBuf>,
    /// Maximum size of a fetched file, in bytes
    #[arg(
        id = "fetch-max-bytes", long, default_value_t = 10_485_760,
        value_parser = number::<u64>(1..)
    )]
    pub max_bytes: u64,
    /// Time allowed for fetching one file, including redirects
    #[arg(id = "fetch-timeout-seconds", long, default_value = "30", value_parser = seconds(1))]
    pub timeout: Duration,
    /// Time an origin may send nothing, before the response header and between parts of the file
    #[arg(id = "fetch-idle-timeout-seconds", long, default_value = "10", value_parser = seconds(1))]
    pub idle_timeout: Duration,
    /// Time allowed for resolving a host name
    #[arg(
        id = "fetch-resolve-timeout-seconds", long, default_value = "5", value_parser = seconds(1)
    )]
    pub resolve_timeout: Duration,
    /// Time allowed for a TLS connection to the origin
    #[arg(
        id = "fetch-connect-timeout-seconds", long, default_value = "10", value_parser = seconds(1)
    )]
    pub connect_timeout: Duration,
    /// Maximum number of redirects followed
    #[arg(
        id = "fetch-max-redirects", long, default_value_t = 5,
        value_parser = number::<usize>(..=MAX_COUNT)
    )]
    pub max_redirects: usize,
    // hyper refuses a buffer smaller than the minimum of 8,192 bytes.
    /// Maximum size of an origin's response header, in bytes
    #[arg(
        id = "fetch-max-header-bytes", long, default_value_t = 65_536,
        value_parser = number::<usize>(8192..=MAX_COUNT)
    )]
    pub max_header_bytes: usize,
    /// Maximum number of files fetched at the same time
    #[arg(
        id = "fetch-max-concurrent", long, default_value_t = 64,
        value_parser = number::<u64>(1..=MAX_COUNT)
    )]
    pub max_concurrent: u64,
    /// Maximum number of files fetched at the same time for one partner
    #[arg(
        id = "fetch-max-concurrent-per-partner", long, default_value_t = 16,
        value_parser = number::<u64>(1..=MAX_COUNT)
    )]
    pub max_concurrent_per_partner: u64,
    /// Maximum number of fetches of one partner that wait; further ones get 503
    #[arg(
        id = "fetch-max-queued-per-partner", long, default_value_t = 128,
        value_parser = number::<usize>(1..=MAX_COUNT)
    )]
    pub max_queued_per_partner: usize,
    /// Time a fetch may wait before it gets 503
    #[arg(
        id = "fetch-queue-timeout-seconds", long, default_value = "30", value_parser = seconds(1)
    )]
    pub queue_timeout: Duration,
}

impl Default for Config {
    fn default() -> Self {
        setting::defaults()
    }
}

impl Config {
    pub(crate) fn egress_policy(&self) -> EgressPolicy {
        EgressPolicy {
            nets: self.allow_nets.to_vec(),
            ports: self.allow_ports.to_vec(),
        }
    }

    /// Returns the limits on running and waiting fetches, in total and per partner.
    pub(super) fn fetches(&self) -> budget::Limits {
        budget::Limits {
            total: self.max_concurrent,
            share: self.max_concurrent_per_partner,
            max_queued: self.max_queued_per_partner,
            queue_timeout: self.queue_timeout,
        }
    }
}
