//! The metadata that the service reads, in one pass over all that a call carries.

use std::{net::IpAddr, time::Duration};

use http::{HeaderMap, HeaderValue};

use super::client::Client;
use crate::{config::Cidr, error::Violation, pb::ErrorReason};

/// What a call carries besides its message, as it was sent.
#[derive(Clone, Debug, Default)]
pub struct Metadata {
    /// `authorization`: the key of the caller.
    pub authorization: Option<HeaderValue>,
    /// `x-account-id`: the account that it acts on.
    pub account_id: Option<HeaderValue>,
    /// `x-tenant-id`: the tenant that it acts on.
    pub tenant_id: Option<HeaderValue>,
    /// `x-correlation-id`: what ties it to its cause.
    pub correlation_id: Option<HeaderValue>,
    /// `grpc-timeout`: how long its caller waits.
    pub timeout: Option<HeaderValue>,
    /// Whether it is a gRPC call, by its `content-type`.
    pub is_grpc: bool,
    /// Whether somebody says that it was forwarded.
    pub is_forwarded: bool,
}

impl Metadata {
    /// Reads it; where something is there twice that may be there once, says so beside.
    pub fn read(headers: &HeaderMap) -> (Self, Result<(), Violation>) {
        let mut metadata = Self::default();
        let mut twice = None;
        let mut traces = None;
        for (name, value) in headers {
            let place = match name.as_str() {
                "content-type" => {
                    metadata.is_grpc = is_grpc(value);
                    continue;
                }
                "x-forwarded-for" => {
                    metadata.is_forwarded = true;
                    continue;
                }
                "authorization" => &mut metadata.authorization,
                "x-account-id" => &mut metadata.account_id,
                "x-tenant-id" => &mut metadata.tenant_id,
                "x-correlation-id" => &mut metadata.correlation_id,
                "grpc-timeout" => &mut metadata.timeout,
                "traceparent" => &mut traces,
                _ => continue,
            };
            if place.replace(value.clone()).is_some() {
                twice = Some(name);
            }
        }
        if let Some(authorization) = &mut metadata.authorization {
            // So that it cannot be printed.
            authorization.set_sensitive(true);
        }
        let once = match twice {
            None => Ok(()),
            Some(name) => Err(Violation::of(
                ErrorReason::InvalidMetadata,
                name.as_str(),
                "is there more than once: send it once",
            )),
        };
        (metadata, once)
    }

    /// Where the call comes from.
    pub fn client(&self, peer: Option<IpAddr>, headers: &HeaderMap, trusted: &[Cidr]) -> Client {
        if self.is_forwarded {
            return Client::of(peer, headers, trusted);
        }
        Client { ip: peer.map(|peer| peer.to_canonical()), forwarded_by_stranger: false }
    }

    /// The correlation id that the caller gave: 1 to 128 visible ASCII characters (4-02).
    ///
    /// # Errors
    ///
    /// When it is none.
    pub fn correlation_id(&self) -> Result<Option<&str>, Violation> {
        let Some(value) = &self.correlation_id else {
            return Ok(None);
        };
        let visible = |bytes: &[u8]| bytes.iter().all(u8::is_ascii_graphic);
        match value.to_str() {
            Ok(text) if (1..=128).contains(&text.len()) && visible(text.as_bytes()) => {
                Ok(Some(text))
            }
            _ => Err(Violation::of(
                ErrorReason::InvalidMetadata,
                "x-correlation-id",
                "is not 1 to 128 visible ASCII characters",
            )),
        }
    }

    /// How long the caller waits, where it says so.
    ///
    /// # Errors
    ///
    /// When that cannot be read.
    pub fn timeout(&self) -> Result<Option<Duration>, Violation> {
        let Some(timeout) = &self.timeout else {
            return Ok(None);
        };
        timeout.to_str().ok().and_then(read_timeout).map(Some).ok_or_else(|| {
            Violation::of(
                ErrorReason::InvalidMetadata,
                "grpc-timeout",
                "is not 1 to 8 digits and one of the units H, M, S, m, u, n",
            )
        })
    }

    /// The text of the key in `authorization: Bearer <key>`.
    pub fn bearer(&self) -> Option<&str> {
        let (scheme, key) = self.authorization.as_ref()?.to_str().ok()?.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then(|| key.trim())
    }
}

/// Whether a content type is that of a gRPC call.
pub fn is_grpc(content_type: &HeaderValue) -> bool {
    content_type.as_bytes().starts_with(b"application/grpc")
}

/// Reads a timeout as the gRPC protocol writes it.
fn read_timeout(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if !(1..=8).contains(&digits.len()) || !digits.bytes().all(|digit| digit.is_ascii_digit()) {
        return None;
    }
    let amount = digits.parse::<u64>().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(amount * 3600),
        "M" => Duration::from_secs(amount * 60),
        "S" => Duration::from_secs(amount),
        "m" => Duration::from_millis(amount),
        "u" => Duration::from_micros(amount),
        "n" => Duration::from_nanos(amount),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timeout_is_read_as_the_protocol_writes_it() {
        assert_eq!(read_timeout("5S"), Some(Duration::from_secs(5)));
        assert_eq!(read_timeout("99999999m"), Some(Duration::from_millis(99_999_999)));
        for wrong in ["", "S", "1x", "-5S", "5", "123456789S", "1.5S", "5 S", "5Sä", "ä"] {
            assert_eq!(read_timeout(wrong), None, "{wrong:?}");
        }
    }

    #[test]
    fn metadata_that_is_there_twice_is_refused() {
        for key in [
            "authorization",
            "x-account-id",
            "x-tenant-id",
            "x-correlation-id",
            "grpc-timeout",
            "traceparent",
        ] {
            let mut headers = HeaderMap::new();
            headers.append(key, HeaderValue::from_static("1S"));
            assert!(Metadata::read(&headers).1.is_ok(), "{key}");

            headers.append(key, HeaderValue::from_static("1S"));

            assert_eq!(Metadata::read(&headers).1.unwrap_err().field, key);
        }
    }

    #[test]
    fn a_key_is_not_printed() {
        let mut headers = HeaderMap::new();
        headers.append("authorization", HeaderValue::from_static("Bearer tk_secret"));

        let printed = format!("{:?}", Metadata::read(&headers).0);

        assert!(printed.contains("authorization") && !printed.contains("secret"), "{printed}");
    }

    #[test]
    fn a_correlation_id_is_visible_ascii() {
        let given = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert("x-correlation-id", HeaderValue::from_bytes(text.as_bytes()).unwrap());
            Metadata::read(&headers).0.correlation_id().map(|id| id.map(str::to_owned))
        };

        assert_eq!(given("abc-1").unwrap().as_deref(), Some("abc-1"));
        for wrong in ["", "a b", "a\tb", "ä", &"a".repeat(129)] {
            assert!(given(wrong).is_err(), "{wrong:?}");
        }
    }
}
