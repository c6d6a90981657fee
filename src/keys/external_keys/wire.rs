//! From where an external key may be used: the rules that are said of it, read (1-36, 1-37). Whether they
//! are kept is another matter.

use super::LABEL_MAX;
use crate::{
    allowlist::model::address,
    config::cidr::Cidr,
    pb,
    wire::{Fields, text},
};

const PATTERNS_MAX: usize = 100;

/// Checks the fields `device` and `geo` at a place of a request.
pub(super) fn check_rules(
    device: Option<&pb::DeviceRules>,
    geo: Option<&pb::GeoRules>,
    at: &str,
    fields: &mut Fields,
) {
    if let Some(device) = device {
        check_devices(device, &format!("{at}.device"), fields);
    }
    if let Some(geo) = geo {
        check_networks(&geo.allow, &format!("{at}.geo.allow"), fields);
        check_networks(&geo.deny, &format!("{at}.geo.deny"), fields);
    }
}

fn check_networks(networks: &[String], at: &str, fields: &mut Fields) {
    if networks.len() > PATTERNS_MAX {
        fields.refuse(
            at,
            format!("are {}, of which at most {PATTERNS_MAX} are allowed", networks.len()),
        );
        return;
    }
    for (number, network) in networks.iter().enumerate() {
        if network.parse::<Cidr>().is_err() && address(network).is_err() {
            fields.refuse(
                &format!("{at}[{number}]"),
                "is not a network such as 10.0.0.0/8 or 2001:db8::/32, or an address",
            );
        }
    }
}

fn check_devices(rules: &pb::DeviceRules, at: &str, fields: &mut Fields) {
    for (list, patterns) in [("allow", &rules.allow), ("deny", &rules.deny)] {
        if patterns.len() > PATTERNS_MAX {
            let number = patterns.len();
            fields.refuse(
                &format!("{at}.{list}"),
                format!("are {number}, of which at most {PATTERNS_MAX} are allowed"),
            );
            continue;
        }
        for (number, pattern) in patterns.iter().enumerate() {
            let at = format!("{at}.{list}[{number}]");
            let pb::DevicePattern { family, major, minor, patch, os } = pattern;
            check_pattern(family, [major, minor, patch], &at, fields);
            if let Some(pb::OsPattern { family, major, minor, patch }) = os {
                check_pattern(family, [major, minor, patch], &format!("{at}.os"), fields);
            }
        }
    }
}

fn check_pattern(
    family: &str,
    version: [&Option<pb::VersionPattern>; 3],
    at: &str,
    fields: &mut Fields,
) {
    fields.take(&format!("{at}.family"), text(family, 0, LABEL_MAX));
    for (part, pattern) in ["major", "minor", "patch"].into_iter().zip(version) {
        let Some(pb::VersionPattern { equals, min, max }) = pattern else {
            continue;
        };
        let mut number = |name: &str, value: &str| {
            fields.take(&format!("{at}.{part}.{name}"), read_version(value)).flatten()
        };
        let equals_number = number("equals", equals);
        let (min, max) = (number("min", min), number("max", max));
        let whole = format!("{at}.{part}");
        if equals_number.is_some() && (min.is_some() || max.is_some()) {
            fields.refuse(&whole, "has equals beside min or max: send one or the others");
        } else if min.zip(max).is_some_and(|(min, max)| min > max) {
            fields.refuse(&whole, "has a min above its max");
        }
    }
}

/// Reads a number of a version; nothing for any.
fn read_version(value: &str) -> Result<Option<u32>, String> {
    match value {
        "" | "*" => Ok(None),
        digits if digits.len() <= 9 && digits.bytes().all(|byte| byte.is_ascii_digit()) => {
            Ok(digits.parse().ok())
        }
        _ => Err("is not a number of up to 9 digits, or *".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 1-37
    #[test]
    fn a_pattern_of_devices_is_checked_in_every_part() {
        let version = |equals: &str, min: &str, max: &str| {
            Some(pb::VersionPattern { equals: equals.into(), min: min.into(), max: max.into() })
        };
        let refused = |pattern: pb::DevicePattern| {
            let rules = pb::DeviceRules { allow: vec![pattern], deny: Vec::new() };
            let mut fields = Fields::default();
            check_devices(&rules, "device", &mut fields);
            fields.finish().is_err()
        };
        let major = |major| pb::DevicePattern { major, ..Default::default() };

        assert!(!refused(major(version("12", "", ""))));
        assert!(!refused(major(version("", "9", "10"))));
        assert!(!refused(major(version("*", "", ""))));
        assert!(refused(major(version("", "10", "9"))));
        assert!(refused(major(version("1", "1", ""))));
        assert!(refused(major(version("1.2", "", ""))));
        let os = pb::OsPattern { patch: version("x", "", ""), ..Default::default() };
        assert!(refused(pb::DevicePattern { os: Some(os), ..Default::default() }));
    }
}
