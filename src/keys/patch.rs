//! What a caller says is to change of an API key, and how it changes.

use chrono::{DateTime, Utc};

use super::{
    limits::{Credits, Limits, Rate, read_credits, read_rate},
    model::ApiKey,
    roles::Role,
    wire::{check_bindings, read_backends, read_end, read_roles},
};
use crate::{
    error::{Error, Result},
    mask::masked,
    pb::{self, ErrorReason},
    wire::{Fields, id, prose, text},
};

/// What a mask may name to no effect: the id, which names the key, and what only the service writes.
const FIXED: &[&str] = &[
    "api_key_id",
    "permissions",
    "state",
    "created_by",
    "last_used_time",
    "create_time",
    "revoke_time",
    "revoked_by",
    "revoke_reason",
    "etag",
    "overlap_end_time",
];

/// What is to change of a key.
pub(super) struct Patch {
    named: Vec<&'static str>,
    /// Whose key it is said to be, where the message as it was sent counts and not a mask.
    owner: Option<Owner>,
    parts: Parts,
}

/// What never changes of a key, as it was sent; empty where it was not.
struct Owner {
    scope: i32,
    account_id: String,
    tenant_id: String,
    environment: String,
}

/// The fields that a caller may set. Those that are not named are empty.
struct Parts {
    /// None where one is to be generated.
    name: Option<String>,
    description: String,
    roles: Vec<&'static Role>,
    reseller_id: Option<String>,
    backend_ids: Vec<String>,
    enabled: bool,
    expire_time: Option<DateTime<Utc>>,
    rate: Option<Rate>,
    credits: Option<Credits>,
}

impl Patch {
    /// Reads what is to change at a time, which the end of the key must lie after.
    ///
    /// # Errors
    ///
    /// Everything that is wrong with it.
    pub(super) fn read(
        pb: &pb::ApiKey,
        mask: Option<&prost_types::FieldMask>,
        now: DateTime<Utc>,
    ) -> Result<Self> {
        let named = masked(mask, &present(pb), FIXED)?;
        let mut fields = Fields::default();
        let parts = Parts::read(pb, &named, now, &mut fields);
        fields.finish()?;
        let parts = parts.ok_or_else(|| Error::internal("refused without a violation"))?;
        let paths = mask.map(|mask| &mask.paths[..]).unwrap_or_default();
        let whole = paths.is_empty() || paths.iter().any(|path| path == "*");
        let owner = whole.then(|| Owner {
            scope: pb.scope,
            account_id: pb.account_id.clone(),
            tenant_id: pb.tenant_id.clone(),
            environment: pb.environment.clone(),
        });
        Ok(Self { named, owner, parts })
    }

    /// Whether it says how often the key may be used, be it what was said before: that begins anew.
    pub(super) fn sets_limits(&self) -> bool {
        self.named.iter().any(|name| ["rate_limit", "credits"].contains(name))
    }

    /// Changes a key, which is told as `told`, as the patch says.
    ///
    /// # Errors
    ///
    /// What never changes and is said to be otherwise; roles without what they are bound to.
    pub(super) fn apply(&self, key: &mut ApiKey, told: &pb::ApiKey) -> Result<()> {
        let mut fields = Fields::default();
        self.check_owner(told, &mut fields);
        for name in &self.named {
            self.parts.apply(name, key, told);
        }
        if self.sets_limits() {
            let Limits { mut rate, mut credits } = key.limits();
            if self.named.contains(&"rate_limit") {
                rate = self.parts.rate;
            }
            if self.named.contains(&"credits") {
                credits = self.parts.credits;
            }
            key.set_limits(Limits { rate, credits });
        }
        let roles = key.roles.iter().flatten().map(String::as_str).collect::<Vec<_>>();
        let (has_reseller, has_backends) = (key.reseller_id.is_some(), !key.backend_ids.is_empty());
        check_bindings(&roles, has_reseller, has_backends, &mut fields);
        fields.finish()
    }

    fn check_owner(&self, told: &pb::ApiKey, fields: &mut Fields) {
        let Some(Owner { scope, account_id, tenant_id, environment }) = &self.owner else {
            return;
        };
        let environment = &environment.to_ascii_lowercase();
        let texts = [
            ("api_key.account_id", account_id, &told.account_id),
            ("api_key.tenant_id", tenant_id, &told.tenant_id),
            ("api_key.environment", environment, &told.environment),
        ];
        let differs =
            texts.into_iter().filter(|(_, sent, stored)| !sent.is_empty() && sent != stored);
        let mut differs = differs.map(|(field, ..)| field).collect::<Vec<_>>();
        if *scope != 0 && *scope != told.scope {
            differs.push("api_key.scope");
        }
        for field in differs {
            let text = "cannot be changed: leave it out or send the stored value";
            fields.refuse_as(ErrorReason::ImmutableField, field, text);
        }
    }
}

/// What can be said of a key, and whether it is.
fn present(pb: &pb::ApiKey) -> [(&'static str, bool); 9] {
    [
        ("name", !pb.name.is_empty()),
        ("description", !pb.description.is_empty()),
        ("roles", !pb.roles.is_empty()),
        ("reseller_id", !pb.reseller_id.is_empty()),
        ("backend_ids", !pb.backend_ids.is_empty()),
        ("enabled", pb.enabled.is_some()),
        ("expire_time", pb.expire_time.is_some()),
        ("rate_limit", pb.rate_limit.is_some()),
        ("credits", pb.credits.is_some()),
    ]
}

impl Parts {
    /// Reads the fields that are named; the others count as absent, and are not checked.
    fn read(
        pb: &pb::ApiKey,
        named: &[&str],
        now: DateTime<Utc>,
        fields: &mut Fields,
    ) -> Option<Self> {
        let is_named = |name: &str| named.contains(&name);
        let said = |name: &str, value: &str| {
            Some(value.to_owned()).filter(|value| is_named(name) && !value.is_empty())
        };
        let name = said("name", &pb.name).map(|name| text(&name, 1, 80)).transpose();
        let name = fields.take("api_key.name", name);
        let description = said("description", &pb.description).unwrap_or_default();
        let description = fields.take("api_key.description", prose(&description, 1_000));
        let roles = if is_named("roles") { read_roles(&pb.roles) } else { Ok(Vec::new()) };
        let roles = fields.take("api_key.roles", roles);
        let reseller_id = said("reseller_id", &pb.reseller_id).map(|value| id(&value)).transpose();
        let reseller_id = fields.take("api_key.reseller_id", reseller_id);
        let backend_ids =
            if is_named("backend_ids") { read_backends(&pb.backend_ids) } else { Ok(Vec::new()) };
        let backend_ids = fields.take("api_key.backend_ids", backend_ids);
        let end = pb.expire_time.as_ref().filter(|_| is_named("expire_time"));
        let expire_time = fields.take("api_key.expire_time", read_end(end, now));
        let rate = pb.rate_limit.as_ref().filter(|_| is_named("rate_limit"));
        let rate = read_rate(rate, "api_key.rate_limit", fields);
        let credits = pb.credits.as_ref().filter(|_| is_named("credits"));
        let credits = read_credits(credits, "api_key.credits", fields);
        Some(Self {
            name: name?,
            description: description?,
            roles: roles?,
            reseller_id: reseller_id?,
            backend_ids: backend_ids?,
            enabled: pb.enabled.unwrap_or(true),
            expire_time: expire_time?,
            rate,
            credits,
        })
    }

    /// Sets a field but for the limits, which are set together.
    fn apply(&self, name: &str, key: &mut ApiKey, told: &pb::ApiKey) {
        match name {
            "name" => key.name = self.name.clone().unwrap_or_else(|| name_of(&told.api_key_id)),
            "description" => key.description.clone_from(&self.description),
            "roles" => {
                key.roles = self.roles.iter().map(|role| Some(role.id.to_owned())).collect();
            }
            "reseller_id" => key.reseller_id.clone_from(&self.reseller_id),
            "backend_ids" => key.backend_ids = self.backend_ids.iter().cloned().map(Some).collect(),
            "enabled" => key.enabled = self.enabled,
            "expire_time" => key.expire_time = self.expire_time,
            _ => {}
        }
    }
}

/// What a key is called that nobody has named.
pub(super) fn name_of(api_key_id: &str) -> String {
    let start = api_key_id.get(..8).unwrap_or(api_key_id);
    format!("key-{start}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(pb: &pb::ApiKey, paths: &[&str]) -> Result<Patch> {
        let paths = paths.iter().map(|path| (*path).to_owned()).collect();
        Patch::read(pb, Some(&prost_types::FieldMask { paths }), DateTime::UNIX_EPOCH)
    }

    #[test]
    fn an_empty_mask_names_what_is_present() {
        let pb = pb::ApiKey {
            name: "one".into(),
            enabled: Some(false),
            state: pb::ApiKeyState::Revoked.into(),
            etag: "7".into(),
            ..Default::default()
        };

        assert_eq!(read(&pb, &[]).unwrap().named, ["name", "enabled"]);
        assert_eq!(read(&pb, &["name", "etag", "state"]).unwrap().named, ["name"]);
    }

    #[test]
    fn a_mask_that_names_what_never_changes_is_refused() {
        for path in ["scope", "account_id", "tenant_id", "environment", "secret", "credits.amount"]
        {
            let refusal = read(&pb::ApiKey::default(), &[path]).err().unwrap();

            assert_eq!(refusal.reason(), ErrorReason::ImmutableField, "{path}");
        }
    }

    #[test]
    fn roles_cannot_be_cleared_and_what_is_not_named_is_not_checked() {
        let wrong = pb::ApiKey { reseller_id: "NO".into(), ..Default::default() };

        assert!(read(&wrong, &["roles"]).is_err());
        assert!(read(&wrong, &["description"]).is_ok());
        assert!(read(&wrong, &["reseller_id"]).is_err());
    }
}
