//! Declares the connection settings.

use std::net::SocketAddr;
use std::time::Duration;

use clap::Args;
use ipnet::IpNet;

use crate::budget;
use crate::pace::Pace;
use crate::setting::{self, List, number, seconds};

#[derive(Args, Clone, Debug)]
#[group(skip)]
#[command(next_help_heading = "Connections")]
pub struct Config {
    /// Address and port to listen on; port 0 selects a free one
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8080")]
    pub listen: SocketAddr,
    /// Networks of reverse proxies whose `Forwarded` or `X-Forwarded-For` header names the client,
    /// such as `127.0.0.1/32,10.1.0.0/16`
    #[arg(long, value_name = "NETWORKS", default_value = "")]
    pub trusted_proxies: List<IpNet>,
    /// Maximum number of open connections; further ones wait to be accepted
    #[arg(long, default_value_t = 4096, value_parser = number::<u64>(1..))]
    pub max_connections: u64,
    /// Maximum number of connections from one client address; further ones get 503 and are closed
    #[arg(long, default_value_t = 1024, value_parser = number::<u64>(1..))]
    pub max_connections_per_address: u64,
    /// Time allowed for a whole request header, from the start of the connection or the last
    /// response
    #[arg(id = "header-timeout-seconds", long, default_value = "10", value_parser = seconds(1))]
    pub header_timeout: Duration,
    // hyper refuses a smaller buffer.
    /// Maximum size of a request header, in bytes
    #[arg(long, default_value_t = 16_384, value_parser = number::<usize>(8192..))]
    pub max_header_bytes: usize,
    /// Time allowed without a byte in a transfer, in either direction
    #[arg(id = "idle-timeout-seconds", long, default_value = "30", value_parser = seconds(1))]
    pub idle_timeout: Duration,
    /// Time a client may fall behind the minimum rate of a download
    #[arg(id = "download-grace-seconds", long, default_value = "30", value_parser = seconds(0))]
    pub download_grace: Duration,
    /// Minimum rate at which a client must read a response, in bytes per second
    #[arg(long, default_value_t = 2048, value_parser = number::<u64>(1..))]
    pub download_min_bytes_per_second: u64,
    /// Time running requests have to finish after SIGTERM or Ctrl-C
    #[arg(id = "shutdown-grace-seconds", long, default_value = "30", value_parser = seconds(0))]
    pub shutdown_grace: Duration,
}

impl Default for Config {
    fn default() -> Self {
        setting::defaults()
    }
}

impl Config {
    /// Returns the connection limits, in total and per client address.
    pub(crate) fn connections(&self) -> budget::Limits {
        budget::Limits::without_queue(self.max_connections, self.max_connections_per_address)
    }

    /// Returns the limits on running requests through trusted proxies, in total and per client
    /// address. They equal the connection limits, because one proxy connection may carry requests
    /// of many clients.
    pub(crate) fn proxied_requests(&self) -> budget::Limits {
        self.connections()
    }

    /// Returns the minimum rate at which a client must read a response.
    pub(super) fn download_pace(&self) -> Pace {
        let (grace, rate) = (self.download_grace, self.download_min_bytes_per_second);
        Pace::sustained(self.idle_timeout, grace, rate)
    }
}
