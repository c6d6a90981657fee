//! From where and from which devices a key may be used (1-36, 1-37): the rules of its row, decoded once,
//! and what they say of a use.
//!
//! What is denied is denied, whatever is allowed, so [`GeoRules::denies`] is asked before
//! [`GeoRules::allows`]. A list that is empty restricts nothing. A list that is not refuses whoever does
//! not say what it asks for: otherwise to stay silent would be the way around it.
//!
//! Whether a pattern of devices matches may be unknown, where the device leaves out a part that the
//! pattern asks for. Each list takes that as its refusal.

use std::{fmt, net::IpAddr};

use serde_json::Value;
use woothee::{parser::Parser, woothee::VALUE_UNKNOWN};

use crate::{
    config::cidr::Cidr,
    error::{Error, Result},
    pb,
    rpc::permit::message_of,
    wire::{Fields, text},
};

const TEXT_MAX: usize = 80;

/// From where a key may be used.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GeoRules {
    allow: Box<[Cidr]>,
    deny: Box<[Cidr]>,
}

impl GeoRules {
    /// Decodes what a key's row holds, JSON of `GeoRules`; none restricts nothing.
    ///
    /// # Errors
    ///
    /// [`Error::Internal`] where it is anything else: rules that cannot be read must not count as none.
    pub fn of_stored(stored: Option<&Value>) -> Result<Self> {
        let Some(stored) = stored else {
            return Ok(Self::default());
        };
        let pb::GeoRules { allow, deny } = message_of(stored.clone())?;
        let networks = |texts: Vec<String>| {
            texts.iter().map(|text| text.parse().map_err(Error::internal)).collect::<Result<_>>()
        };
        Ok(Self { allow: networks(allow)?, deny: networks(deny)? })
    }

    /// Says whether an address is denied; one that is not known is, where any is.
    pub fn denies(&self, ip: Option<IpAddr>) -> bool {
        !self.deny.is_empty()
            && ip.is_none_or(|ip| self.deny.iter().any(|range| range.contains(ip)))
    }

    /// Says whether an address is allowed; one that is not known is only where all are.
    pub fn allows(&self, ip: Option<IpAddr>) -> bool {
        self.allow.is_empty()
            || ip.is_some_and(|ip| self.allow.iter().any(|range| range.contains(ip)))
    }

    /// Says whether there is anything that they ask for.
    pub fn is_empty(&self) -> bool {
        self.allow.is_empty() && self.deny.is_empty()
    }

    /// How many bytes they take beside their own size, for caches that are bounded by that.
    pub fn heap_bytes(&self) -> usize {
        size_of_val(&*self.allow) + size_of_val(&*self.deny)
    }
}

/// From which devices a key may be used.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeviceRules {
    allow: Box<[Pattern]>,
    deny: Box<[Pattern]>,
}

impl DeviceRules {
    /// Decodes what a key's row holds, JSON of `DeviceRules`; none restricts nothing.
    ///
    /// # Errors
    ///
    /// As [`GeoRules::of_stored`].
    pub fn of_stored(stored: Option<&Value>) -> Result<Self> {
        let Some(stored) = stored else {
            return Ok(Self::default());
        };
        let pb::DeviceRules { allow, deny } = message_of(stored.clone())?;
        let patterns = |patterns: Vec<pb::DevicePattern>| {
            patterns.into_iter().map(Pattern::read).collect::<Result<_>>()
        };
        Ok(Self { allow: patterns(allow)?, deny: patterns(deny)? })
    }

    /// Says whether a device is denied.
    ///
    /// Whoever leaves out what a pattern asks for is denied, unless something that is told rules the
    /// pattern out: of a `Chrome` without a version it is not known that it is none of the old ones that
    /// are denied, but it is no `Firefox`. A device that is not known at all is denied where any is.
    pub fn denies(&self, device: Option<&Device>) -> bool {
        !self.deny.is_empty()
            && device.is_none_or(|device| {
                self.deny.iter().any(|pattern| pattern.matches(device) != Match::No)
            })
    }

    /// Says whether a device is allowed: only who tells all that a pattern asks for matches it, and one
    /// that is not known at all is allowed only where all are.
    pub fn allows(&self, device: Option<&Device>) -> bool {
        self.allow.is_empty()
            || device.is_some_and(|device| {
                self.allow.iter().any(|pattern| pattern.matches(device) == Match::Yes)
            })
    }

    /// Says whether there is anything that they ask for.
    pub fn is_empty(&self) -> bool {
        self.allow.is_empty() && self.deny.is_empty()
    }

    /// How many bytes they take beside their own size, for caches that are bounded by that.
    pub fn heap_bytes(&self) -> usize {
        let texts = |pattern: &Pattern| {
            let length = |text: &Option<Box<str>>| text.as_ref().map_or(0, |text| text.len());
            length(&pattern.client.family) + length(&pattern.system.family)
        };
        [&self.allow, &self.deny]
            .into_iter()
            .map(|list| size_of_val(&**list) + list.iter().map(texts).sum::<usize>())
            .sum()
    }
}

/// Whether a pattern matches. From what rules it out most to what does least: of several parts the least
/// one counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Match {
    /// Something that the device tells rules it out.
    No,
    /// The device does not tell something that it asks for.
    Unknown,
    Yes,
}

impl Match {
    fn of(told: Option<bool>) -> Self {
        match told {
            None => Self::Unknown,
            Some(false) => Self::No,
            Some(true) => Self::Yes,
        }
    }
}

/// Devices; a part that is absent says nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Pattern {
    client: Product,
    system: Product,
}

/// A program with its versions, as a pattern tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Product {
    /// In lower case.
    family: Option<Box<str>>,
    /// The least and the greatest of each number.
    version: [Option<(u32, u32)>; 3],
}

impl Pattern {
    fn read(pb: pb::DevicePattern) -> Result<Self> {
        let pb::DevicePattern { family, major, minor, patch, os } = pb;
        let client = Product::read(&family, [major, minor, patch])?;
        let pb::OsPattern { family, major, minor, patch } = os.unwrap_or_default();
        Ok(Self { client, system: Product::read(&family, [major, minor, patch])? })
    }

    fn matches(&self, device: &Device) -> Match {
        let client = self.client.matches(&device.client, |asked, told| asked == told);
        client.min(self.system.matches(&device.system, |asked, told| told.contains(asked)))
    }
}

impl Product {
    fn read(family: &str, version: [Option<pb::VersionPattern>; 3]) -> Result<Self> {
        let family = Some(folded(family)).filter(|family| !matches!(&**family, "" | "*"));
        let [major, minor, patch] = version;
        Ok(Self { family, version: [numbers(major)?, numbers(minor)?, numbers(patch)?] })
    }

    fn matches(&self, told: &Told, fits: impl Fn(&str, &str) -> bool) -> Match {
        let family = self.family.as_deref().map_or(Match::Yes, |asked| {
            Match::of(told.family.as_deref().map(|told| fits(asked, told)))
        });
        let numbers = self.version.iter().zip(told.version).map(|(asked, told)| {
            asked.map_or(Match::Yes, |(min, max)| {
                Match::of(told.map(|number| (min..=max).contains(&number)))
            })
        });
        numbers.fold(family, Match::min)
    }
}

/// The numbers that a pattern asks for, compared as numbers: as texts 9 would come after 10.
fn numbers(pattern: Option<pb::VersionPattern>) -> Result<Option<(u32, u32)>> {
    let number = |text: String| match &*text {
        "" | "*" => Ok(None),
        digits => digits.parse::<u32>().map(Some).map_err(Error::internal),
    };
    let pb::VersionPattern { equals, min, max } = pattern.unwrap_or_default();
    let equals = number(equals)?;
    let (min, max) = (equals.or(number(min)?), equals.or(number(max)?));
    Ok((min.is_some() || max.is_some()).then(|| (min.unwrap_or(0), max.unwrap_or(u32::MAX))))
}

fn folded(text: &str) -> Box<str> {
    text.trim().to_lowercase().into()
}

/// What a key is used from, as far as it tells.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Device {
    client: Told,
    system: Told,
}

/// A program with its version, as a device tells it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Told {
    /// In lower case.
    family: Option<Box<str>>,
    version: [Option<u32>; 3],
}

impl fmt::Display for Told {
    /// As rules name it: a family, and the numbers of its version.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.family.as_deref().unwrap_or("nothing that is named"))?;
        for (place, number) in self.version.iter().map_while(|number| *number).enumerate() {
            write!(f, "{}{number}", if place == 0 { " " } else { "." })?;
        }
        Ok(())
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} on {}", self.client, self.system)
    }
}

impl Told {
    fn new(family: &str, version: &str) -> Self {
        let family = Some(folded(family)).filter(|family| !family.is_empty());
        let mut numbers = version
            .split(|character: char| !character.is_ascii_digit())
            .filter(|digits| !digits.is_empty())
            // What no pattern could ask for counts as not told.
            .map(|digits| digits.parse().ok());
        let version = std::array::from_fn(|_| numbers.next().flatten());
        Self { family, version }
    }
}

impl Device {
    /// Reads `device` of a request.
    ///
    /// `prefix` is the place of the message that has it, with its dot: empty, or `requests[2].`.
    pub fn read(device: &pb::Device, prefix: &str, fields: &mut Fields) -> Option<Self> {
        let pb::Device { family, version, os_family, os_version } = device;
        let mut part = |name: &str, value: &str| {
            fields.take(&format!("{prefix}device.{name}"), text(value, 0, TEXT_MAX))
        };
        let (family, version) = (part("family", family), part("version", version));
        let (os_family, os_version) =
            (part("os_family", os_family), part("os_version", os_version));
        Some(Self {
            client: Told::new(&family?, &version?),
            system: Told::new(&os_family?, &os_version?),
        })
    }

    /// What a client says of itself; nothing where that says nothing.
    pub fn of_user_agent(text: &str) -> Option<Self> {
        let said = Parser::new().parse(text).filter(|said| said.name != VALUE_UNKNOWN)?;
        let told = |text| if text == VALUE_UNKNOWN { "" } else { text };
        // By the names that everybody uses: rules are written with those.
        let system = match said.os {
            "iPhone" | "iPad" | "iPod" => "iOS",
            "Mac OSX" => "Mac OS X",
            other => told(other),
        };
        Some(Self {
            client: Told::new(told(said.name), told(said.version)),
            system: Told::new(system, told(&said.os_version)),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    const CHROME: &str = "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) \
                          Chrome/120.0.6099.71 Safari/537.36";
    const IPHONE: &str = "Mozilla/5.0 (iPhone; CPU iPhone OS 17_2_1 like Mac OS X) AppleWebKit/605.1.15 \
                          (KHTML, like Gecko) Version/17.2 Mobile/15E148 Safari/604.1";

    fn geo(stored: &Value) -> GeoRules {
        GeoRules::of_stored(Some(stored)).unwrap()
    }

    fn devices(stored: &Value) -> DeviceRules {
        DeviceRules::of_stored(Some(stored)).unwrap()
    }

    fn device(family: &str, version: &str, os_family: &str, os_version: &str) -> Device {
        let pb = pb::Device {
            family: family.into(),
            version: version.into(),
            os_family: os_family.into(),
            os_version: os_version.into(),
        };
        let mut fields = Fields::default();
        let device = Device::read(&pb, "", &mut fields).unwrap();
        fields.finish().unwrap();
        device
    }

    /// 1-36
    #[test]
    fn a_place_is_refused_by_what_denies_or_does_not_allow_it() {
        let rules = geo(&json!({
            "allow": ["10.0.0.0/8", "2001:db8::/32", "203.0.113.7"],
            "deny": ["10.9.0.0/16", "2001:db8:bad::/48"],
        }));
        let table = [
            ("10.1.2.3", false, true),
            ("::ffff:10.1.2.3", false, true),
            ("10.9.2.3", true, true),
            ("::ffff:10.9.2.3", true, true),
            ("11.0.0.1", false, false),
            ("203.0.113.7", false, true),
            ("203.0.113.8", false, false),
            ("2001:db8::1", false, true),
            ("2001:db8:bad::1", true, true),
            ("2001:db9::1", false, false),
        ];

        for (ip, denied, allowed) in table {
            let parsed = Some(ip.parse().unwrap());
            assert_eq!((rules.denies(parsed), rules.allows(parsed)), (denied, allowed), "{ip}");
        }
    }

    /// 1-36
    #[test]
    fn a_list_that_is_empty_restricts_nothing_and_another_refuses_who_is_nowhere() {
        let here = Some("192.0.2.1".parse().unwrap());

        for nothing in
            [GeoRules::of_stored(None).unwrap(), geo(&json!({})), geo(&json!({"allow": []}))]
        {
            assert!(!nothing.denies(None) && nothing.allows(None) && nothing.is_empty());
            assert!(!nothing.denies(here) && nothing.allows(here));
        }
        assert!(geo(&json!({"deny": ["10.0.0.0/8"]})).denies(None));
        assert!(geo(&json!({"deny": ["10.0.0.0/8"]})).allows(None));
        assert!(!geo(&json!({"allow": ["0.0.0.0/0"]})).allows(None));
        assert!(!geo(&json!({"allow": ["0.0.0.0/0"]})).denies(None));
    }

    #[test]
    fn rules_that_cannot_be_read_are_not_taken_for_none() {
        for stored in [json!({"allow": ["nowhere"]}), json!({"alow": []}), json!([]), json!(null)] {
            assert!(GeoRules::of_stored(Some(&stored)).is_err(), "{stored}");
        }
        for stored in [json!({"deny": [{"major": {"min": "x"}}]}), json!({"deny": [1]})] {
            assert!(DeviceRules::of_stored(Some(&stored)).is_err(), "{stored}");
        }
    }

    /// 1-37
    #[test]
    fn a_device_matches_in_every_part_that_a_pattern_asks_for() {
        let chrome = device("Chrome", "120.0.1", "Windows 10", "10.0");
        let table = [
            (json!({}), true),
            (json!({"family": "*", "major": {"equals": "*"}, "os": {"family": "*"}}), true),
            (json!({"family": "cHROME"}), true),
            (json!({"family": "Chrom"}), false),
            (json!({"family": "Firefox"}), false),
            (json!({"major": {"equals": "120"}}), true),
            (json!({"major": {"equals": "12"}}), false),
            (json!({"major": {"min": "9"}}), true),
            (json!({"major": {"min": "120", "max": "120"}}), true),
            (json!({"major": {"min": "121"}}), false),
            (json!({"major": {"max": "119"}}), false),
            (json!({"major": {"max": "*"}, "patch": {"equals": "1"}}), true),
            (json!({"minor": {"equals": "0"}, "patch": {"min": "2"}}), false),
            (json!({"os": {"family": "windows"}}), true),
            (json!({"os": {"family": "DOWS 1"}}), true),
            (json!({"os": {"family": "mac"}}), false),
            (json!({"os": {"family": "windows", "major": {"min": "7"}}}), true),
            (json!({"family": "chrome", "os": {"minor": {"min": "1"}}}), false),
        ];

        for (pattern, expected) in table {
            let (allow, deny) = (json!({"allow": [pattern]}), json!({"deny": [pattern]}));
            assert_eq!(devices(&allow).allows(Some(&chrome)), expected, "{allow}");
            assert_eq!(devices(&deny).denies(Some(&chrome)), expected, "{deny}");
        }
    }

    /// 1-37
    #[test]
    fn what_a_device_leaves_out_is_held_against_it() {
        let old = json!({"family": "Chrome", "major": {"max": "99"}, "os": {"family": "Windows"}});
        let table = [
            (device("Chrome", "", "Windows", ""), true, false),
            (device("Chrome", "98", "", ""), true, false),
            (device("", "98", "Windows", ""), true, false),
            (device("", "", "", ""), true, false),
            (device("Chrome", "99999999999", "Windows", ""), true, false),
            // What is told rules the pattern out, whatever is not.
            (device("Firefox", "", "", ""), false, false),
            (device("Chrome", "100", "", ""), false, false),
            (device("", "", "Linux", ""), false, false),
            (device("Chrome", "98", "Windows", ""), true, true),
        ];

        for (device, denied, allowed) in table {
            assert_eq!(
                devices(&json!({"deny": [old]})).denies(Some(&device)),
                denied,
                "{device:?}"
            );
            assert_eq!(
                devices(&json!({"allow": [old]})).allows(Some(&device)),
                allowed,
                "{device:?}"
            );
        }
    }

    /// 1-37
    #[test]
    fn a_list_that_is_empty_restricts_no_device_and_another_refuses_who_is_none() {
        let any = json!([{}]);

        for nothing in [DeviceRules::of_stored(None).unwrap(), devices(&json!({"deny": []}))] {
            assert!(!nothing.denies(None) && nothing.allows(None) && nothing.is_empty());
        }
        assert!(devices(&json!({"deny": any})).denies(None));
        assert!(!devices(&json!({"allow": any})).allows(None));
        assert!(devices(&json!({"allow": any})).allows(Some(&Device::default())));
    }

    #[test]
    fn a_device_is_read_from_what_its_client_says() {
        assert_eq!(
            Device::of_user_agent(CHROME),
            Some(device("Chrome", "120.0.6099", "Windows 10", "NT 10.0"))
        );
        assert_eq!(Device::of_user_agent(IPHONE), Some(device("Safari", "17.2", "iOS", "17.2.1")));
        for nothing in ["", "-", "something else"] {
            assert_eq!(Device::of_user_agent(nothing), None, "{nothing}");
        }
    }

    #[test]
    fn a_device_is_told_in_any_case() {
        let told = pb::Device { family: "Firefox".into(), ..Default::default() };
        let mut fields = Fields::default();

        let read = Device::read(&told, "", &mut fields);

        assert_eq!(read, Some(device("firefox", "", "", "")));
        fields.finish().unwrap();
    }

    #[test]
    fn a_device_is_refused_in_each_part_that_is_too_long() {
        let long = || "1".repeat(81);
        let told = pb::Device {
            family: long(),
            version: long(),
            os_family: "\u{7}".into(),
            os_version: long(),
        };
        let mut fields = Fields::default();

        assert_eq!(Device::read(&told, "requests[2].", &mut fields), None);

        let Err(Error::Invalid(violations)) = fields.finish() else { panic!("not refused") };
        let places = violations.iter().map(|violation| &*violation.field).collect::<Vec<_>>();
        assert_eq!(
            places,
            [
                "requests[2].device.family",
                "requests[2].device.version",
                "requests[2].device.os_family",
                "requests[2].device.os_version",
            ]
        );
    }

    /// The bits of an address and whether it is IPv4, without any arithmetic.
    fn bits(ip: IpAddr, mapped_is_v4: bool) -> (bool, Vec<bool>) {
        let octets = match ip {
            IpAddr::V4(v4) => v4.octets().to_vec(),
            IpAddr::V6(v6) => v6.octets().to_vec(),
        };
        let bits = octets
            .iter()
            .flat_map(|octet| (0..8).rev().map(move |place| octet >> place & 1 == 1))
            .collect::<Vec<_>>();
        let is_mapped = bits.len() == 128
            && bits[..80].iter().all(|bit| !bit)
            && bits[80..96].iter().all(|&bit| bit);
        if is_mapped && mapped_is_v4 {
            (true, bits[96..].to_vec())
        } else {
            (bits.len() == 32, bits)
        }
    }

    /// Whether a network has an address, bit by bit.
    fn has(network: IpAddr, prefix: usize, ip: IpAddr) -> bool {
        let (is_v4, asked) = bits(network, prefix >= 96);
        let prefix = prefix - if is_v4 && network.is_ipv6() { 96 } else { 0 };
        let (told_v4, told) = bits(ip, true);
        is_v4 == told_v4 && asked.iter().zip(&told).take(prefix).all(|(asked, told)| asked == told)
    }

    fn any_ip() -> impl Strategy<Value = IpAddr> {
        prop_oneof![
            any::<u32>().prop_map(|bits| IpAddr::V4(Ipv4Addr::from_bits(bits))),
            any::<u128>().prop_map(|bits| IpAddr::V6(Ipv6Addr::from_bits(bits))),
            any::<u32>().prop_map(|bits| IpAddr::V6(Ipv4Addr::from_bits(bits).to_ipv6_mapped())),
        ]
    }

    fn width(ip: IpAddr) -> usize {
        if ip.is_ipv4() { 32 } else { 128 }
    }

    /// A network, and an address that differs from its own in some bits, or is another one.
    fn network_and_ip() -> impl Strategy<Value = (IpAddr, usize, IpAddr)> {
        let near = |network: IpAddr| {
            let flipped = (0..width(network)).prop_map(move |place| match network {
                IpAddr::V4(v4) => IpAddr::V4(Ipv4Addr::from_bits(v4.to_bits() ^ 1 << place)),
                IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() ^ 1 << place)),
            });
            let mapped = match network {
                IpAddr::V4(v4) => IpAddr::V6(v4.to_ipv6_mapped()),
                IpAddr::V6(v6) => v6.to_canonical(),
            };
            prop_oneof![flipped, Just(mapped), any_ip()]
        };
        any_ip().prop_flat_map(move |network| (Just(network), 0..=width(network), near(network)))
    }

    proptest! {
        #[test]
        fn a_range_has_the_addresses_that_share_its_bits((network, prefix, ip) in network_and_ip()) {
            let range: Cidr = format!("{network}/{prefix}").parse().unwrap();

            prop_assert_eq!(range.contains(ip), has(network, prefix, ip));
        }

        #[test]
        fn a_range_reaches_from_its_first_to_its_last_address(
            (network, prefix, ip) in network_and_ip(),
        ) {
            let range: Cidr = format!("{network}/{prefix}").parse().unwrap();
            let (first, last) = range.range();
            let ip = ip.to_canonical();

            // Addresses of IPv6 that are mapped into it are IPv4, and so in no range of IPv6.
            let between = first.is_ipv4() == ip.is_ipv4() && (first..=last).contains(&ip);
            prop_assert_eq!(range.contains(ip), between);
        }

        #[test]
        fn rules_of_places_are_those_of_their_bits(
            lists in prop::collection::vec((network_and_ip(), any::<bool>()), 0..6),
            ip in any_ip(),
            pick: prop::sample::Index,
        ) {
            let of = |is_allow: bool| {
                lists.iter().filter(move |(_, listed)| *listed == is_allow).map(|(network, _)| *network)
            };
            let texts = |is_allow: bool| {
                of(is_allow).map(|(network, prefix, _)| format!("{network}/{prefix}")).collect::<Vec<_>>()
            };
            let ip = if lists.is_empty() { ip } else { lists[pick.index(lists.len())].0.2 };

            let rules = geo(&json!({"allow": texts(true), "deny": texts(false)}));

            let listed = |is_allow| of(is_allow).any(|(network, prefix, _)| has(network, prefix, ip));
            prop_assert_eq!(rules.denies(Some(ip)), listed(false));
            prop_assert_eq!(rules.allows(Some(ip)), of(true).next().is_none() || listed(true));
        }

        #[test]
        fn versions_are_compared_as_numbers(
            told in 0_u32..2_000, min in 0_u32..2_000, max in 0_u32..2_000,
        ) {
            let pattern = json!({"minor": {"min": min.to_string(), "max": max.to_string()}});
            let device = device("", &format!("1.{told}"), "", "");

            let allows = devices(&json!({"allow": [pattern]})).allows(Some(&device));

            prop_assert_eq!(allows, min <= told && told <= max);
        }

        #[test]
        fn a_later_version_passes_each_min_that_an_earlier_one_passes(
            earlier in 0_u32..1_000_000, by in 0_u32..1_000_000, bound in 0_u32..1_000_000,
        ) {
            let allows = |number: u32, end: &str| {
                let rules = devices(&json!({"allow": [{"major": {end: bound.to_string()}}]}));
                rules.allows(Some(&device("", &number.to_string(), "", "")))
            };

            prop_assert!(!allows(earlier, "min") || allows(earlier + by, "min"));
            prop_assert!(!allows(earlier + by, "max") || allows(earlier, "max"));
        }

        #[test]
        fn nothing_that_a_client_says_makes_reading_it_panic(
            said in "(Mozilla/5\\.0 )?(\\(?(Windows|iPhone;|BlackBerry|Opera|DoCoMo/|Android) ?){0,3}[ -~é]{0,60}",
        ) {
            Device::of_user_agent(&said);
        }
    }
}
