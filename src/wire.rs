//! What the messages of every service have in common: fields read with all their violations at once,
//! times, and enums that are stored as text.

use chrono::{DateTime, Utc};
use prost_types::{Struct, value::Kind as JsonKind};
use serde_json::{Map, Value};

use crate::{
    error::{Error, Result, Violation},
    pb::ErrorReason,
};

/// Collects what is wrong with a request, so that its caller learns all of it in one answer.
#[derive(Debug, Default)]
pub struct Fields {
    violations: Vec<Violation>,
}

impl Fields {
    /// Notes a violation.
    pub fn refuse(&mut self, field: &str, description: impl Into<String>) {
        self.violations.push(Violation::field(field, description));
    }

    /// Notes a violation with a reason of its own.
    pub fn refuse_as(&mut self, reason: ErrorReason, field: &str, text: impl Into<String>) {
        self.violations.push(Violation::of(reason, field, text));
    }

    /// Takes the value or notes the violation that stands in its place.
    pub fn take<T>(&mut self, field: &str, value: Result<T, String>) -> Option<T> {
        value.map_err(|description| self.refuse(field, description)).ok()
    }

    /// Adds violations that others found.
    pub fn add(&mut self, violations: Vec<Violation>) {
        self.violations.extend(violations);
    }

    /// Adds what others found within a part of the request, `prefix` in the place of theirs.
    pub fn absorb(&mut self, others: Self, theirs: &str, prefix: &str) {
        self.violations.extend(others.violations.into_iter().map(|mut violation| {
            if let Some(rest) = violation.field.strip_prefix(theirs) {
                violation.field = format!("{prefix}{rest}");
            }
            violation
        }));
    }

    /// Ends the reading: an error if anything was refused.
    ///
    /// # Errors
    ///
    /// All violations noted, the first of which gives the error its reason.
    pub fn finish(self) -> Result<()> {
        if self.violations.is_empty() { Ok(()) } else { Err(Error::Invalid(self.violations)) }
    }
}

/// Text of a length between the limits, without control characters; the ends are trimmed.
///
/// # Errors
///
/// What is wrong and what would be right.
pub fn text(value: &str, min: usize, max: usize) -> Result<String, String> {
    let trimmed = value.trim();
    let length = trimmed.chars().count();
    if let Some(control) = trimmed.chars().find(|c| c.is_control()) {
        Err(format!("holds the control character U+{:04X}: remove it", u32::from(control)))
    } else if let Some(hidden) = trimmed.chars().find(|c| is_hidden(*c)) {
        let why = "which is not seen, or turns the direction of what is: remove it";
        Err(format!("holds the character U+{:04X}, {why}", u32::from(hidden)))
    } else if length < min {
        Err("is required".to_owned())
    } else if length > max {
        Err(format!("has {length} characters, of which at most {max} are allowed"))
    } else {
        Ok(trimmed.to_owned())
    }
}

/// Whether a character makes text look like other text. What joins letters of some scripts is none of these.
fn is_hidden(c: char) -> bool {
    matches!(c, '\u{061C}' | '\u{200B}' | '\u{200E}' | '\u{200F}' | '\u{2028}'..='\u{202E}'
        | '\u{2060}'..='\u{2069}' | '\u{FEFF}' | '\u{FFF9}'..='\u{FFFB}' | '\u{E0000}'..='\u{E007F}')
}

/// Text as [`text`], but with line breaks and tabs.
///
/// # Errors
///
/// What is wrong and what would be right.
pub fn prose(value: &str, max: usize) -> Result<String, String> {
    text(&value.replace(['\n', '\t', '\r'], " "), 0, max)?;
    Ok(value.trim().to_owned())
}

/// An id that its creator chooses: 1 to 30 characters of `[a-z0-9-]`.
///
/// # Errors
///
/// What is wrong and what would be right.
pub fn id(value: &str) -> Result<String, String> {
    check_id(value).map(|()| value.to_owned())
}

/// Checks what [`id`] takes.
///
/// # Errors
///
/// As [`id`].
pub fn check_id(value: &str) -> Result<(), String> {
    let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if value.is_empty() {
        Err("is required".to_owned())
    } else if value.len() <= 30 && value.chars().all(fits) {
        Ok(())
    } else if uuid::Uuid::try_parse(value).is_ok() {
        Err("is a uid, not an id: LookupTenant finds a tenant by its uid".to_owned())
    } else {
        Err("is not 1 to 30 characters of a-z, 0-9 and \"-\"".to_owned())
    }
}

/// The id by which a request names something; what could be no id is refused before it is looked up.
///
/// # Errors
///
/// What is wrong and what would be right.
pub fn reference<'a>(field: &str, value: &'a str) -> Result<&'a str> {
    check_id(value).map(|()| value).map_err(|why| Error::invalid(field, why))
}

/// What makes a request safe to repeat: 1 to 128 visible ASCII characters, or nothing.
///
/// # Errors
///
/// What would be right.
pub fn request_id(value: &str) -> Result<(), String> {
    if value.len() <= 128 && value.bytes().all(|byte| byte.is_ascii_graphic()) {
        Ok(())
    } else {
        Err("is not 1 to 128 visible ASCII characters".to_owned())
    }
}

/// A DNS name in lower case, or nothing for an empty one.
///
/// # Errors
///
/// What is wrong and what would be right.
pub fn dns_name(value: &str, max: usize) -> Result<Option<String>, String> {
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
    };
    let name = value.to_ascii_lowercase();
    if name.is_empty() {
        Ok(None)
    } else if name.len() <= max && name.split('.').all(label) {
        Ok(Some(name))
    } else {
        Err(format!(
            "is not a DNS name of up to {max} characters: labels of a-z, 0-9 and \"-\", joined by \".\""
        ))
    }
}

/// An e-mail address of up to 80 characters, or an empty text.
///
/// # Errors
///
/// What is wrong and what would be right.
pub fn email(value: &str) -> Result<String, String> {
    let value = text(value, 0, 80)?;
    let is_address = || {
        let (local, domain) = value.rsplit_once('@')?;
        let plain = |c: char| c.is_alphanumeric() || ".!#$%&'*+/=?^_`{|}~-".contains(c);
        // Dots divide words, of which none is empty (RFC 5322, 3.2.3).
        let has_words = local.split('.').all(|word| !word.is_empty());
        (has_words && local.chars().all(plain)).then_some(())?;
        dns_name(domain, 80).ok().flatten()
    };
    if value.is_empty() || is_address().is_some() {
        Ok(value)
    } else {
        Err("is not an e-mail address such as info@example.com".to_owned())
    }
}

/// A time as messages carry it.
pub fn timestamp(time: DateTime<Utc>) -> prost_types::Timestamp {
    prost_types::Timestamp {
        seconds: time.timestamp(),
        nanos: i32::try_from(time.timestamp_subsec_nanos()).unwrap_or(999_999_999),
    }
}

/// Whether a time is one of those that people mean: after 1970 and before 10000, which Postgres and
/// the wire can hold.
pub fn is_storable(time: &DateTime<Utc>) -> bool {
    (1..253_402_300_800).contains(&time.timestamp())
}

/// A time that a message carried.
///
/// # Errors
///
/// When it is none.
pub fn time(timestamp: &prost_types::Timestamp) -> Result<DateTime<Utc>, String> {
    u32::try_from(timestamp.nanos)
        .ok()
        // More would be a leap second here, and none to others.
        .filter(|nanos| *nanos < 1_000_000_000)
        .and_then(|nanos| DateTime::from_timestamp(timestamp.seconds, nanos))
        .filter(is_storable)
        .and_then(|time| DateTime::from_timestamp_micros(time.timestamp_micros()))
        .ok_or_else(|| "is not a time between 1970 and 9999".to_owned())
}

const JSON_BYTES_MAX: usize = 64 * 1024;
/// Recursion must end somewhere.
const JSON_DEPTH_MAX: usize = 32;

/// Reads a JSON object of the caller's own: up to 64 KiB, and up to 32 levels deep.
///
/// # Errors
///
/// What is wrong with it.
pub fn read_json(object: Option<&Struct>) -> Result<Option<Value>, String> {
    let Some(object) = object else {
        return Ok(None);
    };
    let value = json_of_struct(object, JSON_DEPTH_MAX)?;
    let bytes = value.to_string().len();
    if bytes > JSON_BYTES_MAX {
        return Err(format!("has {bytes} bytes, of which at most {JSON_BYTES_MAX} are allowed"));
    }
    Ok(Some(value))
}

fn json_of_struct(object: &Struct, depth: usize) -> Result<Value, String> {
    let entry = |(key, value): (&String, &prost_types::Value)| {
        if key.contains('\0') {
            return Err("holds a NUL in a key".to_owned());
        }
        Ok((key.clone(), json_of_value(value, depth)?))
    };
    object.fields.iter().map(entry).collect::<Result<Map<_, _>, _>>().map(Value::Object)
}

fn json_of_value(value: &prost_types::Value, depth: usize) -> Result<Value, String> {
    let depth = depth
        .checked_sub(1)
        .ok_or_else(|| format!("is nested more than {JSON_DEPTH_MAX} levels deep"))?;
    Ok(match &value.kind {
        None | Some(JsonKind::NullValue(_)) => Value::Null,
        Some(JsonKind::BoolValue(value)) => Value::Bool(*value),
        Some(JsonKind::NumberValue(value)) => serde_json::Number::from_f64(*value)
            .map(Value::Number)
            .ok_or("holds a number that is not finite")?,
        Some(JsonKind::StringValue(value)) if value.contains('\0') => {
            return Err("holds a NUL".to_owned());
        }
        Some(JsonKind::StringValue(value)) => Value::String(value.clone()),
        Some(JsonKind::StructValue(object)) => json_of_struct(object, depth)?,
        Some(JsonKind::ListValue(list)) => list
            .values
            .iter()
            .map(|value| json_of_value(value, depth))
            .collect::<Result<Vec<_>, _>>()
            .map(Value::Array)?,
    })
}

/// A stored JSON object as messages carry it; nothing where it is no object.
pub fn struct_of_json(value: Value) -> Option<Struct> {
    match value {
        Value::Object(object) => Some(struct_of_object(object)),
        _ => None,
    }
}

fn struct_of_object(object: Map<String, Value>) -> Struct {
    let fields = object.into_iter().map(|(key, value)| (key, value_of_json(value))).collect();
    Struct { fields }
}

fn value_of_json(value: Value) -> prost_types::Value {
    let kind = match value {
        Value::Null => JsonKind::NullValue(0),
        Value::Bool(value) => JsonKind::BoolValue(value),
        // Numbers came in as doubles, so they are.
        Value::Number(value) => JsonKind::NumberValue(value.as_f64().unwrap_or_default()),
        Value::String(value) => JsonKind::StringValue(value),
        Value::Array(values) => JsonKind::ListValue(prost_types::ListValue {
            values: values.into_iter().map(value_of_json).collect(),
        }),
        Value::Object(object) => JsonKind::StructValue(struct_of_object(object)),
    };
    prost_types::Value { kind: Some(kind) }
}

/// An enum whose values are stored as text, with the checks of the database on the same words.
#[macro_export]
macro_rules! text_enum {
    (
        $(#[$meta:meta])*
        pub enum $name:ident { $($(#[$value_meta:meta])* $value:ident = $text:literal,)+ }
    ) => {
        $(#[$meta])*
        #[derive(
            Clone, Copy, Debug, PartialEq, Eq, Hash,
            diesel::expression::AsExpression, diesel::deserialize::FromSqlRow,
        )]
        #[diesel(sql_type = diesel::sql_types::Text)]
        pub enum $name { $($(#[$value_meta])* $value,)+ }

        impl $name {
            /// Every value as it is stored, and as filters name it.
            pub const TEXTS: &'static [&'static str] = &[$($text,)+];

            /// The value as it is stored.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$value => $text,)+ }
            }
        }

        impl diesel::serialize::ToSql<diesel::sql_types::Text, diesel::pg::Pg> for $name {
            fn to_sql<'b>(
                &'b self,
                out: &mut diesel::serialize::Output<'b, '_, diesel::pg::Pg>,
            ) -> diesel::serialize::Result {
                <str as diesel::serialize::ToSql<diesel::sql_types::Text, diesel::pg::Pg>>::to_sql(
                    self.as_str(),
                    out,
                )
            }
        }

        impl diesel::deserialize::FromSql<diesel::sql_types::Text, diesel::pg::Pg> for $name {
            fn from_sql(bytes: diesel::pg::PgValue<'_>) -> diesel::deserialize::Result<Self> {
                match std::str::from_utf8(bytes.as_bytes())? {
                    $($text => Ok(Self::$value),)+
                    other => Err(format!("\"{other}\" is no {}", stringify!($name)).into()),
                }
            }
        }
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_has_1_to_30_plain_characters() {
        assert!(id("foo-1").is_ok() && id(&"a".repeat(30)).is_ok());
        for wrong in ["", "Foo", "a b", "a_b", "a\0", "ä", &"a".repeat(31)] {
            assert!(id(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn text_is_trimmed_and_free_of_control_characters() {
        assert_eq!(text("  Enterprise Test ", 1, 80).unwrap(), "Enterprise Test");
        for wrong in
            ["", "   ", "a\0b", "a\nb", "a\u{85}b", "a\u{202E}b", "\u{200B}", &"a".repeat(81)]
        {
            assert!(text(wrong, 1, 80).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn an_email_address_has_a_mailbox_and_a_domain() {
        for right in ["", "info@enterprise.be", "info@enterprise.test.be", "a.b+c@localhost"] {
            assert!(email(right).is_ok(), "{right}");
        }
        for wrong in [
            "info",
            "@x.be",
            "a@",
            "a@b@c",
            "a b@c.be",
            "a@-x.be",
            "a\n@x.be",
            ".a@x.be",
            "a.@x.be",
            "a..b@x.be",
        ] {
            assert!(email(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_dns_name_is_stored_in_lower_case() {
        assert_eq!(dns_name("NetAxis.BE", 80).unwrap().unwrap(), "netaxis.be");
        for wrong in ["a..b", ".", "-a.be", "a_b.be", "a b", &"a".repeat(64)] {
            assert!(dns_name(wrong, 80).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_time_survives_the_way_there_and_back() {
        let then = DateTime::from_timestamp_micros(1_795_427_998_123_456).unwrap();

        assert_eq!(time(&timestamp(then)).unwrap(), then);
        assert!(time(&prost_types::Timestamp { seconds: i64::MAX, nanos: 0 }).is_err());
        for nanos in [-1, 1_000_000_000, 1_500_000_000] {
            assert!(time(&prost_types::Timestamp { seconds: 59, nanos }).is_err(), "{nanos}");
        }
    }
}
