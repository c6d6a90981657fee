//! What is to change of an external key.

use chrono::{DateTime, Utc};
use serde_json::Value;
use uuid::Uuid;

use super::{
    LABEL_MAX,
    issue::{place_of_end, read_end, read_environment},
    model::ExternalKey,
    read_id,
    wire::check_rules,
};
use crate::{
    error::{Error, Result},
    keys::limits::{self, Credits, Rate},
    mask::{check_fixed, masked, said},
    pb,
    rpc::permit::json_of,
    wire::{Fields, text},
};

/// What is to change of an external key.
pub(super) struct Patch {
    pub public_id: Uuid,
    pub etag: String,
    named: Vec<&'static str>,
    /// Empty where it says nothing of the app key.
    app_key_id: String,
    label: String,
    environment: String,
    expire_time: Option<DateTime<Utc>>,
    device: Option<Value>,
    geo: Option<Value>,
    enabled: bool,
    rate: Option<Rate>,
    credits: Option<Credits>,
}

const FIXED: &[&str] = &[
    "external_key_id",
    "created_by",
    "create_time",
    "etag",
    "state",
    "last_used_time",
    "overlap_end_time",
    "update_time",
    "revoke_time",
    "revoked_by",
    "revoke_reason",
    "tenant_id",
    "installation_id",
    "product_code",
    "package_code",
];

impl Patch {
    /// Reads the fields that are named; the others are not checked, and stay (1-31).
    pub(super) fn read(request: &pb::UpdateExternalKeyRequest, now: DateTime<Utc>) -> Result<Self> {
        let pb =
            request.external_key.as_ref().ok_or(Error::invalid("external_key", "is required"))?;
        let mask = request.update_mask.as_ref();
        let named = masked(mask, &present(pb), FIXED)?;
        let is_named = |path: &str| named.contains(&path);
        let at = "external_key";
        let mut fields = Fields::default();
        let label = text(&pb.label, usize::from(is_named("label")), LABEL_MAX);
        let label = fields.take("external_key.label", label);
        let environment = if is_named("environment") {
            read_environment(&pb.environment)
        } else {
            Ok(String::new())
        };
        let environment = fields.take("external_key.environment", environment);
        // Two names of one thing: which of them the mask has says nothing.
        let end = if is_named("expire_time") || is_named("exp_date") {
            read_end(pb, now)
        } else {
            Ok(None)
        };
        let expire_time = fields.take(&place_of_end(pb, at), end);
        let device = pb.device.as_ref().filter(|_| is_named("device"));
        let geo = pb.geo.as_ref().filter(|_| is_named("geo"));
        check_rules(device, geo, at, &mut fields);
        let rate = pb.rate_limit.as_ref().filter(|_| is_named("rate_limit"));
        let rate = limits::read_rate(rate, "external_key.rate_limit", &mut fields);
        let credits = pb.credits.as_ref().filter(|_| is_named("credits"));
        let credits = limits::read_credits(credits, "external_key.credits", &mut fields);
        fields.finish()?;
        let public_id = read_id("external_key.external_key_id", &pb.external_key_id)?;
        let etag = if request.etag.is_empty() { &pb.etag } else { &request.etag };
        Ok(Self {
            public_id,
            etag: etag.clone(),
            app_key_id: said(mask, &pb.app_key_id).to_ascii_lowercase(),
            label: label.unwrap_or_default(),
            environment: environment.unwrap_or_default(),
            expire_time: expire_time.flatten(),
            device: device.map(json_of),
            geo: geo.map(json_of),
            enabled: pb.enabled.unwrap_or(true),
            rate,
            credits,
            named,
        })
    }

    /// Whether it sets limits, which begins all of them anew.
    pub(super) fn sets_limits(&self) -> bool {
        self.named.iter().any(|path| ["rate_limit", "credits"].contains(path))
    }

    pub(super) fn apply(&self, key: &mut ExternalKey) -> Result<()> {
        check_fixed("external_key.app_key_id", &self.app_key_id, &key.app_key_id)?;
        let mut limits = key.limits();
        for path in &self.named {
            match *path {
                "label" => key.label.clone_from(&self.label),
                "environment" => key.environment.clone_from(&self.environment),
                "device" => key.device.clone_from(&self.device),
                "geo" => key.geo.clone_from(&self.geo),
                "enabled" => key.enabled = self.enabled,
                "rate_limit" => limits.rate = self.rate,
                "credits" => limits.credits = self.credits,
                _ => key.expire_time = self.expire_time,
            }
        }
        if self.sets_limits() {
            key.set_limits(limits);
        }
        Ok(())
    }
}

/// What can be said of an external key, and whether it is.
fn present(pb: &pb::ExternalKey) -> [(&'static str, bool); 9] {
    [
        ("label", !pb.label.is_empty()),
        ("environment", !pb.environment.is_empty()),
        ("expire_time", pb.expire_time.is_some()),
        ("exp_date", !pb.exp_date.is_empty()),
        ("device", pb.device.is_some()),
        ("geo", pb.geo.is_some()),
        ("enabled", pb.enabled.is_some()),
        ("rate_limit", pb.rate_limit.is_some()),
        ("credits", pb.credits.is_some()),
    ]
}
