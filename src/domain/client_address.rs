//! Identifies clients by address, so that each gets its own share of a budget.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Length of the IPv6 prefix that identifies a client, in bits. Networks assign prefixes of 64 bits
/// (RFC 4291 section 2.5.1), so a client can change the rest at will.
const IPV6_PREFIX: u32 = 64;

/// The address of the client that sent a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientAddress {
    ip: IpAddr,
    /// True if a trusted proxy named the address.
    forwarded: bool,
}

impl ClientAddress {
    /// Returns the address of the peer of a connection.
    #[must_use]
    pub fn of_peer(ip: IpAddr) -> Self {
        Self {
            ip: ip.to_canonical(),
            forwarded: false,
        }
    }

    /// Returns the address that a trusted proxy named.
    #[must_use]
    pub fn forwarded(ip: IpAddr) -> Self {
        Self {
            ip: ip.to_canonical(),
            forwarded: true,
        }
    }

    /// Returns true if a trusted proxy named the address. Such clients share connections, so their
    /// requests are counted instead.
    #[must_use]
    pub fn is_forwarded(&self) -> bool {
        self.forwarded
    }
}

impl Default for ClientAddress {
    /// Returns the holder of requests without a connection.
    fn default() -> Self {
        Self::of_peer(Ipv4Addr::UNSPECIFIED.into())
    }
}

/// Formats the name of the holder in budgets: the address, or the prefix of an IPv6 address.
impl fmt::Display for ClientAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.ip {
            IpAddr::V4(ip) => ip.fmt(f),
            IpAddr::V6(ip) => {
                let prefix = Ipv6Addr::from_bits(ip.to_bits() & (u128::MAX << (128 - IPV6_PREFIX)));
                write!(f, "{prefix}/{IPV6_PREFIX}")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_one_prefix_are_one_holder() {
        for (address, holder) in [
            ("192.0.2.7", "192.0.2.7"),
            ("::ffff:192.0.2.7", "192.0.2.7"),
            ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
            ("2001:db8:1:2::", "2001:db8:1:2::/64"),
        ] {
            assert_eq!(
                ClientAddress::of_peer(address.parse().expect("address")).to_string(),
                holder
            );
        }
    }
}
