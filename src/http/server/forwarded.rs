//! Parses the hops in `Forwarded` (RFC 7239) and `X-Forwarded-For` headers, in header order.
//! Performs no I/O.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

/// Returns the `for` address of each element of a `Forwarded` header, or `None` for an element
/// without a valid address.
pub(super) fn hops(header: &str) -> Vec<Option<IpAddr>> {
    if header.is_empty() {
        return Vec::new();
    }
    let Some(elements) = split(header, ',') else {
        return vec![None];
    };
    elements.into_iter().map(hop).collect()
}

/// Returns the address of each entry of an `X-Forwarded-For` header, or `None` for an invalid
/// entry.
pub(super) fn de_facto_hops(header: &str) -> Vec<Option<IpAddr>> {
    if header.is_empty() {
        return Vec::new();
    }
    header.split(',').map(|entry| node(entry.trim())).collect()
}

fn hop(element: &str) -> Option<IpAddr> {
    let pairs = split(element, ';')?;
    let mut named = pairs.into_iter().filter_map(|pair| {
        let (name, value) = pair.trim().split_once('=')?;
        name.eq_ignore_ascii_case("for").then_some(value)
    });
    let value = named.next()?;
    if named.next().is_some() {
        return None;
    }
    // Escape sequences are not decoded, because no character of an address needs escaping.
    node(
        value
            .strip_prefix('"')
            .map_or(Some(value), |quoted| quoted.strip_suffix('"'))?,
    )
}

/// Parses an IP address, with or without brackets and a port (RFC 7239 section 6).
fn node(text: &str) -> Option<IpAddr> {
    let bracketed = || {
        text.strip_prefix('[')?
            .strip_suffix(']')?
            .parse::<Ipv6Addr>()
            .ok()
            .map(IpAddr::from)
    };
    let with_port = || text.parse::<SocketAddr>().ok().map(|address| address.ip());
    text.parse().ok().or_else(with_port).or_else(bracketed)
}

/// Splits text at separators outside quoted strings. Returns `None` if a quoted string is not
/// terminated.
fn split(text: &str, separator: char) -> Option<Vec<&str>> {
    let (mut parts, mut start) = (Vec::new(), 0);
    let (mut is_quoted, mut is_escaped) = (false, false);
    for (at, c) in text.char_indices() {
        match c {
            _ if is_escaped => is_escaped = false,
            '\\' if is_quoted => is_escaped = true,
            '"' => is_quoted = !is_quoted,
            c if c == separator && !is_quoted => {
                parts.push(&text[start..at]);
                start = at + c.len_utf8();
            }
            _ => {}
        }
    }
    parts.push(&text[start..]);
    (!is_quoted).then_some(parts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn separators_in_quoted_strings_do_not_split() {
        let ip = |text: &str| Some(text.parse::<IpAddr>().expect("address"));
        assert_eq!(
            hops("for=\"_a,b;c\\\",\", for=192.0.2.1;host=\"x,y\""),
            vec![None, ip("192.0.2.1")]
        );
        assert_eq!(hops("proto=https"), vec![None]);
        assert_eq!(hops("for=192.0.2.1;for=192.0.2.2"), vec![None]);
        assert_eq!(
            de_facto_hops("::1, [::1], [::1]:1,x"),
            vec![ip("::1"), ip("::1"), ip("::1"), None]
        );
    }
}
