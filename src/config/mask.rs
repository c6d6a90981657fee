//! Hiding passwords in what is printed, rather too much than too little.

use secrecy::{ExposeSecret as _, SecretString};
use serde::{Serialize, Serializer};

/// What stands where a secret was.
pub(super) const MASK: &str = "***";

/// Serializes a database URL without its password.
pub(super) fn masked<'a, S: Serializer>(
    url: impl Into<Option<&'a SecretString>>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    url.into().map(|url| mask_url(url.expose_secret())).serialize(serializer)
}

/// Hides the password of a URL, and all of a text that is not clearly a URL.
pub(super) fn mask_url(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else {
        return MASK.to_owned();
    };
    let (authority, tail) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
    // A password with an unescaped slash or question mark makes its end a guess.
    if tail.contains('@') {
        return format!("{scheme}://{MASK}");
    }

    let authority = match authority.rsplit_once('@') {
        Some((user, host)) => match user.split_once(':') {
            Some((name, _)) => format!("{name}:{MASK}@{host}"),
            None => authority.to_owned(),
        },
        None => authority.to_owned(),
    };
    format!("{scheme}://{authority}{}", mask_query(tail))
}

/// Hides the values of query parameters that are passwords, such as `sslpassword`.
fn mask_query(tail: &str) -> String {
    let Some((path, query)) = tail.split_once('?') else {
        return tail.to_owned();
    };
    let parameters = query.split('&').map(|parameter| match parameter.split_once('=') {
        Some((key, _)) if key.to_lowercase().contains("password") => format!("{key}={MASK}"),
        _ => parameter.to_owned(),
    });
    format!("{path}?{}", parameters.collect::<Vec<_>>().join("&"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masking_hides_too_much_rather_than_too_little() {
        let cases = [
            ("postgres://host/db", "postgres://host/db"),
            ("postgres://user@host:5432/db", "postgres://user@host:5432/db"),
            ("postgres://user:a:b@host/db", "postgres://user:***@host/db"),
            ("postgres://user:a@b@host/db", "postgres://user:***@host/db"),
            ("postgres://user:a/b@host/db", "postgres://***"),
            ("postgres:///db?user=me&password=p@ss", "postgres://***"),
            ("postgres:///db?sslPassword=p&user=me", "postgres:///db?sslPassword=***&user=me"),
            ("host=h password=p", "***"),
        ];

        for (url, expected) in cases {
            assert_eq!(mask_url(url), expected);
        }
    }
}
