//! Where a call comes from, seen through the proxies that we trust.

use std::net::{IpAddr, SocketAddr};

use http::HeaderMap;

use crate::config::Cidr;

/// Where a call comes from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Client {
    /// Its address, as far as that is known.
    pub ip: Option<IpAddr>,
    /// Whether a proxy that we do not trust says that it calls for another: then `ip` is the proxy's.
    pub forwarded_by_stranger: bool,
}

impl Client {
    /// Reads it from the connection and the headers of a call.
    pub fn of(peer: Option<IpAddr>, headers: &HeaderMap, trusted: &[Cidr]) -> Self {
        let is_trusted = |peer: IpAddr| trusted.iter().any(|range| range.contains(peer));
        Self {
            ip: peer.map(|peer| client_ip(peer, headers, trusted)),
            forwarded_by_stranger: headers.contains_key("x-forwarded-for")
                && !peer.is_some_and(is_trusted),
        }
    }
}

/// The address of the client: the right-most hop of `x-forwarded-for` that is not a trusted proxy.
///
/// Each proxy appends the address that it was called from, so a hop is believed only as far as all
/// to its right are trusted; whatever a client itself wrote stands further left.
fn client_ip(peer: IpAddr, headers: &HeaderMap, trusted: &[Cidr]) -> IpAddr {
    let mut client = peer.to_canonical();
    let lines = headers.get_all("x-forwarded-for").iter().rev();
    let hops = lines.flat_map(|line| line.to_str().unwrap_or_default().rsplit(','));
    for hop in hops {
        let is_trusted = trusted.iter().any(|range| range.contains(client));
        match address(hop.trim()) {
            Some(hop) if is_trusted => client = hop.to_canonical(),
            _ => break,
        }
    }
    client
}

/// Reads an address, with or without a port.
fn address(hop: &str) -> Option<IpAddr> {
    let bare = hop.strip_prefix('[').and_then(|hop| hop.strip_suffix(']')).unwrap_or(hop);
    bare.parse().ok().or_else(|| Some(hop.parse::<SocketAddr>().ok()?.ip()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(peer: &str, lines: &[&str]) -> String {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append("x-forwarded-for", line.parse().unwrap());
        }
        let trusted = ["10.0.0.0/8".parse().unwrap(), "fd00::/8".parse().unwrap()];
        client_ip(peer.parse().unwrap(), &headers, &trusted).to_string()
    }

    #[test]
    fn what_a_stranger_forwards_is_not_believed() {
        assert_eq!(seen("192.0.2.1", &["198.51.100.7"]), "192.0.2.1");
        assert_eq!(seen("10.0.0.1", &["203.0.113.9, 192.0.2.1"]), "192.0.2.1");
    }

    #[test]
    fn trusted_proxies_are_seen_through() {
        assert_eq!(seen("10.0.0.1", &[]), "10.0.0.1");
        assert_eq!(seen("10.0.0.1", &["198.51.100.7"]), "198.51.100.7");
        assert_eq!(seen("10.0.0.1", &["198.51.100.7, 10.0.0.2"]), "198.51.100.7");
        assert_eq!(seen("10.0.0.1", &["198.51.100.7", "10.0.0.2"]), "198.51.100.7");
        assert_eq!(seen("::ffff:10.0.0.1", &["::ffff:198.51.100.7"]), "198.51.100.7");
        assert_eq!(seen("fd00::1", &["[2001:db8::7]:443"]), "2001:db8::7");
        assert_eq!(seen("10.0.0.1", &["198.51.100.7:5000"]), "198.51.100.7");
    }

    #[test]
    fn a_hop_that_is_no_address_ends_the_belief() {
        assert_eq!(seen("10.0.0.1", &["198.51.100.7, unknown"]), "10.0.0.1");
        assert_eq!(seen("10.0.0.1", &["198.51.100.7,, 10.0.0.2"]), "10.0.0.2");
    }
}
