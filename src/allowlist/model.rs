//! What an allow-list says of an address: pure.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::{
    config::Cidr,
    error::{Result, Violation},
    pb,
    wire::{Fields, text},
};

const RULES_MAX: usize = 500;

/// A named, inclusive range of addresses of one kind (4-12).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rule {
    /// What the range is.
    pub name: String,
    /// Its first address.
    pub start: IpAddr,
    /// Its last address.
    pub end: IpAddr,
}

impl Rule {
    /// Whether an address lies in the range.
    pub fn covers(&self, ip: IpAddr) -> bool {
        let ip = ip.to_canonical();
        // Across the kinds, std orders all of IPv4 before all of IPv6.
        ip.is_ipv4() == self.start.is_ipv4() && (self.start..=self.end).contains(&ip)
    }
}

/// Reads the rules of a request, noting what is wrong with each.
pub fn read_rules(rules: &[pb::IpRule], fields: &mut Fields) -> Vec<Rule> {
    if rules.len() > RULES_MAX {
        fields.refuse(
            "rules",
            format!("are {}, of which at most {RULES_MAX} are allowed", rules.len()),
        );
        return Vec::new();
    }
    let mut read = Vec::with_capacity(rules.len());
    for (number, rule) in rules.iter().enumerate() {
        let at = |field: &str| format!("rules[{number}].{field}");
        let name = fields.take(&at("name"), text(&rule.name, 1, 80));
        let range = match (&*rule.cidr, &*rule.start, &*rule.end) {
            ("", start, end) => {
                let start = fields.take(&at("start"), address(start));
                let end = fields.take(&at("end"), address(end));
                start.zip(end)
            }
            (cidr, "", "") => {
                let range = cidr.parse::<Cidr>().map(|cidr| cidr.range());
                fields.take(&at("cidr"), range.map_err(|why| why.to_string()))
            }
            _ => {
                fields
                    .refuse(&at("cidr"), "stands instead of start and end: send one or the other");
                None
            }
        };
        let (Some(name), Some((start, end))) = (name, range) else {
            continue;
        };
        if start.is_ipv4() != end.is_ipv4() {
            fields.refuse(&at("end"), "is of another kind than start: both are IPv4, or both IPv6");
        } else if start > end {
            fields.refuse(&at("start"), "is above end");
        } else {
            read.push(Rule { name, start, end });
        }
    }
    read
}

/// Reads an address.
///
/// # Errors
///
/// That it is none.
pub fn address(text: &str) -> Result<IpAddr, String> {
    match text {
        "" => Err("is required: an IPv4 or IPv6 address".to_owned()),
        text => text
            .parse::<IpAddr>()
            .map(|ip| ip.to_canonical())
            .map_err(|_| "is not an IPv4 or IPv6 address".to_owned()),
    }
}

/// What of an enabled list the verifier keeps: where it is enabled, the rules.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Enforced(pub Option<Vec<Rule>>);

impl Enforced {
    /// Whether a key may be used from an address. One that is not known lies in no range: a
    /// restriction whose input is missing refuses.
    pub fn admits(&self, ip: Option<IpAddr>) -> bool {
        match &self.0 {
            None => true,
            Some(rules) => ip.is_some_and(|ip| rules.iter().any(|rule| rule.covers(ip))),
        }
    }
}

/// That the metadata names nothing that has a list.
pub fn nobody() -> Vec<Violation> {
    vec![Violation::of(
        pb::ErrorReason::InvalidMetadata,
        "x-tenant-id",
        "is required, or x-account-id for the list of an account, since the key has neither",
    )]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(name: &str, start: &str, end: &str, cidr: &str) -> pb::IpRule {
        let text = str::to_owned;
        pb::IpRule { name: text(name), start: text(start), end: text(end), cidr: text(cidr) }
    }

    fn read(rules: &[pb::IpRule]) -> Result<Vec<Rule>> {
        let mut fields = Fields::default();
        let read = read_rules(rules, &mut fields);
        fields.finish().map(|()| read)
    }

    #[test]
    fn a_range_has_both_its_ends_and_no_address_of_the_other_kind() {
        let rules = read(&[
            rule("pair", "192.0.2.10", "192.0.2.20", ""),
            rule("mapped", "::ffff:198.51.100.1", "::ffff:198.51.100.1", ""),
            rule("network", "", "", "2001:db8::/126"),
        ])
        .unwrap();
        let covered = |ip: &str| Enforced(Some(rules.clone())).admits(Some(ip.parse().unwrap()));

        for ip in ["192.0.2.10", "192.0.2.20", "::ffff:192.0.2.15", "198.51.100.1", "2001:db8::3"] {
            assert!(covered(ip), "{ip}");
        }
        for ip in ["192.0.2.9", "192.0.2.21", "198.51.100.2", "2001:db8::4", "::1", "0.0.0.0"] {
            assert!(!covered(ip), "{ip}");
        }
    }

    #[test]
    fn an_enabled_list_without_rules_or_without_an_address_admits_nobody() {
        let anyone = read(&[rule("all", "0.0.0.0", "255.255.255.255", "")]).unwrap();

        assert!(Enforced::default().admits(None));
        assert!(!Enforced(Some(Vec::new())).admits(Some([192, 0, 2, 1].into())));
        assert!(!Enforced(Some(anyone)).admits(None));
    }

    #[test]
    fn each_wrong_rule_is_told_by_its_place() {
        let wrong = [
            rule("", "192.0.2.1", "192.0.2.1", ""),
            rule("a", "192.0.2.2", "192.0.2.1", ""),
            rule("a", "192.0.2.1", "::1", ""),
            rule("a", "", "", "192.0.2.0/33"),
            rule("a", "192.0.2.1", "", "192.0.2.0/24"),
            rule("a", "192.0.2.1", "", ""),
            rule("a", "192.0.2.999", "192.0.2.1", ""),
        ];
        let told = read(&wrong).unwrap_err();

        let crate::error::Error::Invalid(violations) = told else { panic!("{told:?}") };
        let fields = violations.iter().map(|violation| &*violation.field).collect::<Vec<_>>();
        assert_eq!(
            fields,
            [
                "rules[0].name",
                "rules[1].start",
                "rules[2].end",
                "rules[3].cidr",
                "rules[4].cidr",
                "rules[5].end",
                "rules[6].start",
            ]
        );
    }
}
