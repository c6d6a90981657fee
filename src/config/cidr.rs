//! Ranges of IP addresses, as settings name them.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    str::FromStr,
};

use serde::{Deserialize, Serialize};

/// A range of IP addresses, written `10.0.0.0/8`, or one address.
///
/// IPv4 addresses mapped into IPv6 (`::ffff:10.0.0.1`), as a dual-stack socket reports them, count
/// as the IPv4 addresses they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Cidr {
    network: IpAddr,
    prefix: u8,
}

impl Cidr {
    /// Says whether the address lies in the range.
    pub fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();

        address.is_ipv4() == self.network.is_ipv4()
            && network_of(address, self.prefix) == self.network
    }

    /// The first and the last address of the range.
    pub fn range(&self) -> (IpAddr, IpAddr) {
        let host_bits = u32::from(width(self.network) - self.prefix);
        let last = match self.network {
            IpAddr::V4(v4) => {
                let mask = u32::MAX.checked_shl(host_bits).unwrap_or(0);
                IpAddr::V4(Ipv4Addr::from_bits(v4.to_bits() | !mask))
            }
            IpAddr::V6(v6) => {
                let mask = u128::MAX.checked_shl(host_bits).unwrap_or(0);
                IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() | !mask))
            }
        };
        (self.network, last)
    }
}

impl FromStr for Cidr {
    type Err = NotACidr;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix)),
            None => (text, None),
        };
        let written: IpAddr = address.parse().map_err(|_| NotACidr)?;
        let mut prefix = match prefix {
            // Rust reads `+8` and `08` as 8; an address list is no place for either.
            Some(digits) => digits
                .parse()
                .ok()
                .filter(|number: &u8| number.to_string() == digits)
                .ok_or(NotACidr)?,
            None => width(written),
        };
        if prefix > width(written) {
            return Err(NotACidr);
        }

        let mut address = written;
        if written != written.to_canonical() && prefix >= MAPPED_PREFIX {
            address = written.to_canonical();
            prefix -= MAPPED_PREFIX;
        }
        Ok(Self { network: network_of(address, prefix), prefix })
    }
}

impl TryFrom<String> for Cidr {
    type Error = NotACidr;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<Cidr> for String {
    fn from(range: Cidr) -> Self {
        range.to_string()
    }
}

impl std::fmt::Display for Cidr {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{}/{}", self.network, self.prefix)
    }
}

/// A text that is neither an IP address nor a range of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("write an IP address, or a range such as 10.0.0.0/8")]
pub struct NotACidr;

/// Length of the prefix `::ffff:0:0/96` under which IPv4 is mapped into IPv6.
const MAPPED_PREFIX: u8 = 96;

fn width(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

/// Clears the bits of an address behind the prefix.
fn network_of(address: IpAddr, prefix: u8) -> IpAddr {
    let host_bits = u32::from(width(address) - prefix);
    match address {
        IpAddr::V4(v4) => {
            let mask = u32::MAX.checked_shl(host_bits).unwrap_or(0);
            IpAddr::V4(Ipv4Addr::from_bits(v4.to_bits() & mask))
        }
        IpAddr::V6(v6) => {
            let mask = u128::MAX.checked_shl(host_bits).unwrap_or(0);
            IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & mask))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_contains_what_its_prefix_says() {
        let cases = [
            ("10.0.0.0/8", "10.255.0.1", true),
            ("10.0.0.0/8", "11.0.0.1", false),
            ("10.9.9.9/8", "10.0.0.1", true),
            ("10.0.0.0/8", "::ffff:10.0.0.1", true),
            ("::ffff:10.0.0.0/104", "10.0.0.1", true),
            ("192.0.2.1", "192.0.2.1", true),
            ("192.0.2.1", "192.0.2.2", false),
            ("0.0.0.0/0", "203.0.113.9", true),
            ("0.0.0.0/0", "2001:db8::1", false),
            ("::/0", "2001:db8::1", true),
            ("2001:db8::/32", "2001:db8:1::1", true),
            ("2001:db8::/32", "2001:db9::1", false),
        ];

        for (range, address, expected) in cases {
            let range: Cidr = range.parse().unwrap();
            assert_eq!(range.contains(address.parse().unwrap()), expected, "{range} {address}");
        }
    }

    #[test]
    fn what_is_no_range_is_refused() {
        for text in ["", "10.0.0", "10.0.0.0/33", "::/129", "10.0.0.0/", "10.0.0.0/+8", "host"] {
            assert_eq!(text.parse::<Cidr>(), Err(NotACidr), "{text}");
        }
    }
}
