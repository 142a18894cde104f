//! Parses arbitrary text as a media URL: an accepted URL has one reading, and no address that the
//! standard library classifies as private.

#![no_main]

use std::net::IpAddr;

use haversack::domain::fetch_url::{FetchUrl, MAX_URL_LENGTH};
use haversack::fetch::EgressPolicy;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let Ok(url) = FetchUrl::parse(text) else {
        return;
    };
    let written = url.as_url().as_str();
    if written.len() <= MAX_URL_LENGTH {
        assert_eq!(FetchUrl::parse(written).as_ref(), Ok(&url), "{written}");
    }
    assert_eq!(url.as_url().scheme(), "https");
    assert!(url.as_url().username().is_empty() && url.as_url().password().is_none());
    assert_eq!(url.fingerprint().len(), 64);
    if let Some(query) = url.as_url().query().filter(|query| query.len() > 8) {
        assert!(!url.to_string().contains(&format!("?{query}")));
    }
    let ip: IpAddr = match url.as_url().host() {
        Some(url::Host::Ipv4(ip)) => ip.into(),
        Some(url::Host::Ipv6(ip)) => ip.into(),
        _ => return,
    };
    if EgressPolicy::default().check_address(ip).is_ok() {
        let ip = ip.to_canonical();
        assert!(
            !ip.is_loopback() && !ip.is_unspecified() && !ip.is_multicast(),
            "{ip}"
        );
        if let IpAddr::V4(ip) = ip {
            assert!(
                !ip.is_private()
                    && !ip.is_link_local()
                    && !ip.is_broadcast()
                    && !ip.is_documentation(),
                "{ip}"
            );
        }
    }
});
