//! The egress policy: decides which addresses, ports and host names a fetch may connect to (SSRF
//! protection). Pure: does no DNS lookup and opens no connection.
//!
//! Denies names for local use, and the address ranges that the IANA special-purpose address
//! registries (RFC 6890) do not list as globally reachable. The source of each range is next to it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

const fn v4(a: u8, b: u8, c: u8, d: u8, prefix: u8) -> Ipv4Net {
    Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), prefix)
}

/// IPv4 ranges that fetches must not reach because they are not public, each with its source.
static DENIED_V4: &[(Ipv4Net, &str)] = &[
    (v4(0, 0, 0, 0, 8), "this network, RFC 1122 section 3.2.1.3"),
    (v4(10, 0, 0, 0, 8), "private, RFC 1918"),
    (
        v4(100, 64, 0, 0, 10),
        "shared by a carrier's customers, RFC 6598",
    ),
    (v4(127, 0, 0, 0, 8), "loopback, RFC 1122 section 3.2.1.3"),
    // A public address that belongs to the platform in Azure (Microsoft, "What is IP address
    // 168.63.129.16?").
    (v4(168, 63, 129, 16, 32), "platform address of Azure"),
    (
        v4(169, 254, 0, 0, 16),
        "link-local and cloud metadata, RFC 3927",
    ),
    (v4(172, 16, 0, 0, 12), "private, RFC 1918"),
    (v4(192, 0, 0, 0, 24), "protocol assignments, RFC 6890"),
    (v4(192, 0, 2, 0, 24), "documentation, RFC 5737"),
    (v4(192, 88, 99, 0, 24), "6to4 relays, RFC 7526"),
    (v4(192, 168, 0, 0, 16), "private, RFC 1918"),
    (v4(198, 18, 0, 0, 15), "benchmarks, RFC 2544"),
    (v4(198, 51, 100, 0, 24), "documentation, RFC 5737"),
    (v4(203, 0, 113, 0, 24), "documentation, RFC 5737"),
    (v4(224, 0, 0, 0, 4), "multicast, RFC 5771"),
    // This range includes the broadcast address 255.255.255.255 (RFC 919).
    (v4(240, 0, 0, 0, 4), "reserved, RFC 1112 section 4"),
];

/// The only IPv6 range allocated for global unicast (RFC 4291 section 2.4, IANA IPv6 address
/// space). Native IPv6 addresses outside it are denied.
const GLOBAL_V6: Ipv6Net = Ipv6Net::new_assert(Ipv6Addr::new(0x2000, 0, 0, 0, 0, 0, 0, 0), 3);

/// IPv6 ranges inside [`GLOBAL_V6`] that fetches must not reach because they are not public, each
/// with its source.
static DENIED_V6: &[(Ipv6Net, &str)] = &[
    // This range includes benchmark addresses (RFC 5180) and ORCHID (RFC 4843, RFC 7343).
    (
        Ipv6Net::new_assert(Ipv6Addr::new(0x2001, 0, 0, 0, 0, 0, 0, 0), 23),
        "protocol assignments, RFC 2928",
    ),
    (
        Ipv6Net::new_assert(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0), 32),
        "documentation, RFC 3849",
    ),
    (
        Ipv6Net::new_assert(Ipv6Addr::new(0x3ffe, 0, 0, 0, 0, 0, 0, 0), 16),
        "the former 6bone, RFC 3701",
    ),
    (
        Ipv6Net::new_assert(Ipv6Addr::new(0x3fff, 0, 0, 0, 0, 0, 0, 0), 20),
        "documentation, RFC 9637",
    ),
];

/// Top-level domains that are reserved or for local use; hosts below them are denied.
static LOCAL_NAMES: &[&str] = &[
    "alt",       // RFC 9476
    "arpa",      // RFC 3172, and home.arpa of RFC 8375
    "corp",      // ICANN, name collision: will never be delegated
    "home",      // ICANN, name collision
    "internal",  // ICANN resolution 2024.07.29.06
    "intranet",  // RFC 6762 appendix G
    "invalid",   // RFC 6761 section 6.4
    "lan",       // RFC 6762 appendix G
    "local",     // RFC 6762 section 3
    "localhost", // RFC 6761 section 6.3
    "mail",      // ICANN, name collision
    "onion",     // RFC 7686
    "private",   // RFC 6762 appendix G
];

/// Policy that allows public addresses, port 443, and the networks and ports that the operator
/// adds.
#[derive(Clone, Debug, Default)]
pub struct EgressPolicy {
    /// Networks allowed in addition to public addresses.
    pub nets: Vec<IpNet>,
    /// Ports allowed in addition to 443.
    pub ports: Vec<u16>,
}

impl EgressPolicy {
    #[must_use]
    pub fn allows_port(&self, port: u16) -> bool {
        port == 443 || self.ports.contains(&port)
    }

    /// Returns true if the operator allows a network that contains this address.
    #[must_use]
    pub fn contains(&self, ip: IpAddr) -> bool {
        self.nets.iter().any(|net| net.contains(&ip))
            || matches!(ip, IpAddr::V6(ip) if ip.to_ipv4_mapped().is_some_and(|ip| self.contains(ip.into())))
    }

    /// Checks that a fetch may connect to an address.
    ///
    /// # Errors
    /// The address is denied; the error is the reason, for the log.
    pub fn check_address(&self, ip: IpAddr) -> Result<(), &'static str> {
        if self.contains(ip) {
            return Ok(());
        }
        match ip {
            IpAddr::V4(ip) => DENIED_V4
                .iter()
                .find(|(net, _)| net.contains(&ip))
                .map_or(Ok(()), |(_, reason)| Err(*reason)),
            IpAddr::V6(ip) => match embedded_ipv4(ip) {
                Some(embedded) => embedded
                    .into_iter()
                    .flatten()
                    .try_for_each(|ip| self.check_address(ip.into())),
                None if !GLOBAL_V6.contains(&ip) => {
                    Err("outside global unicast, RFC 4291 section 2.4")
                }
                None => DENIED_V6
                    .iter()
                    .find(|(net, _)| net.contains(&ip))
                    .map_or(Ok(()), |(_, reason)| Err(*reason)),
            },
        }
    }
}

/// Returns the IPv4 addresses embedded in an IPv6 address that belongs to a transition mechanism.
/// Packets to such an address are forwarded to the embedded ones, so these are checked instead.
fn embedded_ipv4(ip: Ipv6Addr) -> Option<[Option<Ipv4Addr>; 2]> {
    let segments = ip.segments();
    let v4 =
        |high: u16, low: u16| Some(Ipv4Addr::from_bits(u32::from(high) << 16 | u32::from(low)));
    match segments {
        // IPv4-mapped and IPv4-compatible, RFC 4291 section 2.5.5; NAT64, RFC 6052 section 2.1;
        // 6to4, RFC 3056 section 2. `::` and `::1` are IPv4-compatible: 0.0.0.0 and 0.0.0.1.
        [0, 0, 0, 0, 0, 0 | 0xffff, high, low]
        | [0x64, 0xff9b, 0, 0, 0, 0, high, low]
        | [0x2002, high, low, ..] => Some([v4(high, low), None]),
        // Teredo, RFC 4380 section 4: embeds the server's address, and the client's with inverted
        // bits.
        [0x2001, 0, server_high, server_low, _, _, high, low] => {
            Some([v4(server_high, server_low), v4(!high, !low)])
        }
        // ISATAP, RFC 5214 section 6.1: works with any prefix, so the prefix must be public as
        // well.
        [_, _, _, _, 0 | 0x200, 0x5efe, high, low] if GLOBAL_V6.contains(&ip) => {
            Some([v4(high, low), None])
        }
        _ => None,
    }
}

/// Returns true if a host name is for local use: a single label, or a name below one of the
/// [`LOCAL_NAMES`]. The name must be in lower case and without a trailing dot.
pub(super) fn is_local_name(name: &str) -> bool {
    name.rsplit_once('.')
        .is_none_or(|(_, last)| LOCAL_NAMES.contains(&last))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn public(ip: &str) -> bool {
        EgressPolicy::default()
            .check_address(ip.parse().expect(ip))
            .is_ok()
    }

    #[test]
    fn addresses_at_range_edges_are_classified() {
        for (net, _) in DENIED_V4 {
            let first = net.network().to_bits();
            let last = net.broadcast().to_bits();
            for (bits, denied) in [
                (Some(first), true),
                (Some(last), true),
                (first.checked_sub(1), false),
            ] {
                let Some(ip) = bits.map(Ipv4Addr::from_bits) else {
                    continue;
                };
                let neighbour_is_denied = DENIED_V4.iter().any(|(other, _)| other.contains(&ip));
                assert_eq!(
                    public(&ip.to_string()),
                    !(denied || neighbour_is_denied),
                    "{ip}"
                );
            }
        }
        for ip in [
            "1.0.0.0",
            "9.255.255.255",
            "11.0.0.0",
            "100.63.255.255",
            "100.128.0.0",
            "126.255.255.255",
            "128.0.0.0",
            "169.253.255.255",
            "169.255.0.0",
            "172.15.255.255",
            "172.32.0.0",
            "192.0.1.0",
            "192.0.3.0",
            "192.167.255.255",
            "192.169.0.0",
            "198.17.255.255",
            "198.20.0.0",
            "223.255.255.255",
            "168.63.129.15",
        ] {
            assert!(public(ip), "{ip}");
        }
    }

    #[test]
    fn ipv6_is_classified_by_range_and_embedded_ipv4() {
        for ip in [
            "2606:4700:4700::1111",
            "2001:4860:4860::8888",
            "2001:200::1",
            "3ffd:ffff::1",
            "::ffff:93.184.215.14",
            "::93.184.215.14",
            "64:ff9b::93.184.215.14",
            "2002:5db8:d70e::1",
            "2001:0:5db8:d70e:8000:63bf:a247:28f1",
            "2606:4700::5efe:5db8:d70e",
        ] {
            assert!(public(ip), "{ip}");
        }
        for ip in [
            "::",
            "::1",
            "::127.0.0.1",
            "::ffff:127.0.0.1",
            "::ffff:169.254.169.254",
            "::ffff:0:93.184.215.14",
            "64:ff9b::10.0.0.1",
            "64:ff9b:1::93.184.215.14",
            "100::1",
            "2001::1",
            "2001:2::1",
            "2001:10::1",
            "2001:20::1",
            "2001:db8::1",
            "2002:7f00:1::",
            "2002:a9fe:a9fe::",
            "2001:0:7f00:1:8000:63bf:a247:28f1",
            "2001:0:5db8:d70e:8000:63bf:80ff:fffe",
            "2606:4700::5efe:a00:1",
            "2606:4700::200:5efe:7f00:1",
            "3fff::1",
            "3ffe::1",
            "4000::1",
            "5f00::1",
            "fc00::1",
            "fd00:ec2::254",
            "fe80::1",
            "fec0::1",
            "ff02::1",
        ] {
            assert!(!public(ip), "{ip}");
        }
    }

    #[test]
    fn configured_networks_and_ports_are_allowed() {
        let policy = EgressPolicy {
            nets: vec!["127.0.0.0/8".parse().expect("net")],
            ports: vec![8443],
        };
        for (ip, expected) in [
            ("127.0.0.1", true),
            ("::ffff:127.0.0.1", true),
            ("10.0.0.1", false),
            ("::1", false),
        ] {
            assert_eq!(
                policy.check_address(ip.parse().expect(ip)).is_ok(),
                expected,
                "{ip}"
            );
        }
        assert!(policy.allows_port(443) && policy.allows_port(8443) && !policy.allows_port(80));
    }

    #[test]
    fn names_for_local_use_are_recognised() {
        for name in [
            "localhost",
            "a.localhost",
            "intranet",
            "printer.local",
            "db.corp",
            "metadata.google.internal",
            "kubernetes.default.svc.cluster.local",
            "router.home.arpa",
            "x.onion",
        ] {
            assert!(is_local_name(name), "{name}");
        }
        for name in [
            "example.com",
            "local.example.com",
            "a.test",
            "localhost.example",
        ] {
            assert!(!is_local_name(name), "{name}");
        }
    }

    proptest! {
        #[test]
        fn embedded_ipv4_decides(bits: u32) {
            let ip = Ipv4Addr::from_bits(bits);
            let alone = EgressPolicy::default().check_address(ip.into()).is_ok();
            let [a, b, c, d] = ip.octets();
            for v6 in [
                format!("::ffff:{ip}"),
                format!("64:ff9b::{ip}"),
                format!("2002:{:x}:{:x}::1", u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d])),
            ] {
                prop_assert_eq!(public(&v6), alone, "{}", v6);
            }
        }
    }
}
