//! How applications look from outside: read from requests, and told.

use chrono::{DateTime, Utc};

use super::applications::{Application, Record, RunAs};
use crate::{
    pb,
    rpc::mutate::etag,
    wire::{Fields, email, id, prose, text, time, timestamp},
};

const DESCRIPTION_MAX: usize = 1_000;
const URL_MAX: usize = 500;
const ENVIRONMENTS_MAX: usize = 100;
const SCOPE_MAX: usize = 100;

/// How many scopes an application asks for, and so how many can be granted.
pub(super) const SCOPES_MAX: usize = 100;

/// Reads what is said of an application, of some of its fields, noting what is wrong.
pub(super) struct Said {
    pub(super) name: Option<String>,
    pub(super) description: Option<String>,
    pub(super) homepage_url: Option<String>,
    pub(super) run_as: Option<RunAs>,
    pub(super) environments: Option<Vec<String>>,
    pub(super) scopes: Option<Vec<Option<String>>>,
}

impl Said {
    pub(super) fn read(pb: &pb::Application, named: &[&str], fields: &mut Fields) -> Self {
        let is = |field: &str| named.contains(&field);
        let optional = |text: &Option<String>| text.clone().unwrap_or_default();
        let name = text(&optional(&pb.name), 1, 80);
        let description = prose(&optional(&pb.description), DESCRIPTION_MAX);
        let url = read_url(&optional(&pb.homepage_url));
        let mut said = Self {
            name: None,
            description: None,
            homepage_url: None,
            run_as: None,
            environments: None,
            scopes: None,
        };
        if is("name") {
            said.name = fields.take("application.name", name);
        }
        if is("description") {
            said.description = fields.take("application.description", description);
        }
        if is("homepage_url") {
            said.homepage_url = fields.take("application.homepage_url", url);
        }
        if is("run_as") {
            said.run_as = fields.take("application.run_as", read_run_as(pb.run_as));
        }
        if is("environments") {
            said.environments = read_environments(&pb.environments, fields);
        }
        if is("scopes") {
            said.scopes = read_scopes(&pb.scopes, fields);
        }
        said
    }
}

fn read_run_as(run_as: i32) -> Result<RunAs, String> {
    match pb::RunAs::try_from(run_as) {
        Ok(pb::RunAs::Unspecified | pb::RunAs::User) => Ok(RunAs::User),
        Ok(pb::RunAs::System) => Ok(RunAs::System),
        Err(_) => Err("is neither RUN_AS_USER nor RUN_AS_SYSTEM".to_owned()),
    }
}

impl RunAs {
    /// How it looks from outside.
    pub(super) fn told(self) -> pb::RunAs {
        match self {
            Self::User => pb::RunAs::User,
            Self::System => pb::RunAs::System,
        }
    }
}

fn read_url(url: &str) -> Result<String, String> {
    let url = text(url, 0, URL_MAX)?;
    let leads_to_the_web = || {
        let uri = url.parse::<http::Uri>().ok()?;
        let is_web = matches!(uri.scheme_str(), Some("https" | "http"));
        let named = uri.authority().is_some_and(|authority| !authority.as_str().contains('@'));
        (is_web && named).then_some(())
    };
    if url.is_empty() || leads_to_the_web().is_some() {
        Ok(url)
    } else {
        Err("is not an absolute URI such as https://example.com/app".to_owned())
    }
}

fn read_environments(environments: &[String], fields: &mut Fields) -> Option<Vec<String>> {
    let number = environments.len();
    if !(1..=ENVIRONMENTS_MAX).contains(&number) {
        let why = format!("are {number}, and must be 1 to {ENVIRONMENTS_MAX}");
        fields.refuse("application.environments", why);
        return None;
    }
    read_each("environments", environments, fields, |code| id(&code.to_ascii_lowercase()))
}

fn read_scopes(scopes: &[String], fields: &mut Fields) -> Option<Vec<Option<String>>> {
    if scopes.len() > SCOPES_MAX {
        let why = format!("are {}, of which at most {SCOPES_MAX} are allowed", scopes.len());
        fields.refuse("application.scopes", why);
        return None;
    }
    let read = read_each("scopes", scopes, fields, read_scope)?;
    Some(read.into_iter().map(Some).collect())
}

/// Reads a list in which nothing is there twice.
fn read_each(
    list: &str,
    values: &[String],
    fields: &mut Fields,
    read: impl Fn(&str) -> Result<String, String>,
) -> Option<Vec<String>> {
    let mut all = Vec::with_capacity(values.len());
    for (place, value) in values.iter().enumerate() {
        let field = format!("application.{list}[{place}]");
        match fields.take(&field, read(value)) {
            Some(read) if all.contains(&read) => fields.refuse(&field, "is there more than once"),
            Some(read) => all.push(read),
            None => {}
        }
    }
    (all.len() == values.len()).then_some(all)
}

/// Reads the scopes of an authorization, noting what is wrong with them.
pub(super) fn read_scope_list(scopes: &[String], fields: &mut Fields) -> Vec<String> {
    let mut read = Vec::new();
    if scopes.len() > SCOPES_MAX {
        let why = format!("are {}, of which at most {SCOPES_MAX} are allowed", scopes.len());
        fields.refuse("scopes", why);
    }
    for (place, scope) in scopes.iter().take(SCOPES_MAX).enumerate() {
        let field = format!("scopes[{place}]");
        if let Some(scope) = fields.take(&field, read_scope(scope)) {
            if read.contains(&scope) {
                fields.refuse(&field, "is there more than once");
            }
            read.push(scope);
        }
    }
    read
}

/// Reads an address that may not be left out.
///
/// # Errors
///
/// What is wrong with it.
pub(super) fn required_email(address: &str) -> Result<String, String> {
    match email(address)? {
        address if address.is_empty() => Err("is required".to_owned()),
        address => Ok(address),
    }
}

/// Reads a time that may be left out, and else must lie ahead.
///
/// # Errors
///
/// What is wrong with it.
pub(super) fn read_time_to_come(
    end: Option<&prost_types::Timestamp>,
    now: DateTime<Utc>,
) -> Result<Option<DateTime<Utc>>, String> {
    match end.map(time).transpose()? {
        Some(end) if end <= now => Err("does not lie ahead".to_owned()),
        end => Ok(end),
    }
}

/// Reads a scope, in the form that OAuth has for one (RFC 6749, 3.3).
///
/// # Errors
///
/// What would be right.
pub(super) fn read_scope(scope: &str) -> Result<String, String> {
    check_scope(scope).map(|()| scope.to_owned())
}

/// Checks what [`read_scope`] takes.
///
/// # Errors
///
/// As [`read_scope`].
pub(super) fn check_scope(scope: &str) -> Result<(), String> {
    let fits = |byte: u8| byte.is_ascii_graphic() && byte != b'"' && byte != b'\\';
    if (1..=SCOPE_MAX).contains(&scope.len()) && scope.bytes().all(fits) {
        Ok(())
    } else {
        Err(format!("is not 1 to {SCOPE_MAX} visible ASCII characters without \" and \\"))
    }
}

impl From<Record> for pb::Application {
    fn from(Record { application, clients }: Record) -> Self {
        let Application {
            application_id,
            account_id,
            name,
            description,
            homepage_url,
            run_as,
            scopes,
            create_time,
            update_time,
            version,
        } = application;
        let run_as = run_as.told();
        Self {
            application_id,
            account_id,
            name: Some(name),
            description: Some(description),
            homepage_url: Some(homepage_url),
            run_as: run_as.into(),
            environments: clients.iter().map(|client| client.environment.clone()).collect(),
            scopes: scopes.into_iter().flatten().collect(),
            client_ids: clients.into_iter().map(|it| (it.environment, it.client_id)).collect(),
            create_time: Some(timestamp(create_time)),
            update_time: Some(timestamp(update_time)),
            etag: etag(version),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scope_has_the_form_that_oauth_has_for_one() {
        for right in ["read", "user:email", "https://example.com/scope", "!", &"a".repeat(100)] {
            assert!(read_scope(right).is_ok(), "{right}");
        }
        for wrong in ["", "a b", "a\"b", "a\\b", "ä", "a\n", &"a".repeat(101)] {
            assert!(read_scope(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn a_homepage_is_on_the_web() {
        for right in ["", "https://example.com", "http://example.com:8080/a?b=c"] {
            assert!(read_url(right).is_ok(), "{right}");
        }
        let wrong =
            ["example.com", "/a", "javascript:alert(1)", "ftp://a.b", "https://a@b.c", "https://"];
        for wrong in wrong {
            assert!(read_url(wrong).is_err(), "{wrong}");
        }
    }
}
