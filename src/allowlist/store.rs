//! How allow-lists are kept and replaced.

use std::net::IpAddr;

use chrono::{DateTime, Utc};
use diesel::prelude::*;
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use serde_json::Value;

use super::model::{Enforced, Rule, address, nobody, read_rules};
use crate::{
    error::{Error, Kind, Result},
    events::outbox::Event,
    keys::model::KeyScope,
    pb::{self, ErrorReason},
    rpc::{
        Call, TenantOfCall,
        mutate::{Change, check_etag, etag},
        permit::json_of,
    },
    schema::{account_ip_allowlists, tenant_ip_allowlists, tenants},
    wire::{Fields, request_id, timestamp},
};

/// Whose list a call acts on: its tenant's, else its account's.
#[derive(Clone, Copy)]
enum Owner<'a> {
    Tenant(&'a TenantOfCall),
    Account(&'a str),
}

fn owner(call: &Call) -> Result<Owner<'_>> {
    match (&call.tenant, &call.account) {
        (Some(tenant), _) => Ok(Owner::Tenant(tenant)),
        (None, Some(account)) => Ok(Owner::Account(account)),
        (None, None) => Err(Error::Invalid(nobody())),
    }
}

/// A list as it is stored; before it was ever set, disabled and empty.
#[derive(Clone, Debug, PartialEq)]
struct Stored {
    enabled: bool,
    rules: Vec<Rule>,
    update_time: Option<DateTime<Utc>>,
    version: i64,
}

impl Stored {
    fn of(row: Option<(bool, Value, DateTime<Utc>, i64)>) -> Result<Self> {
        Ok(match row {
            None => Self { enabled: false, rules: Vec::new(), update_time: None, version: 0 },
            Some((enabled, rules, update_time, version)) => {
                Self { enabled, rules: rules_of(rules)?, update_time: Some(update_time), version }
            }
        })
    }
}

fn rules_of(json: Value) -> Result<Vec<Rule>> {
    serde_json::from_value(json).map_err(Error::internal)
}

/// What binds a key, of a list that the verifier has read: the rules, where it is enabled.
///
/// # Errors
///
/// [`Error::Internal`] for rules that the service did not write.
pub fn enforced(row: Option<(bool, Value)>) -> Result<Enforced> {
    match row {
        Some((true, rules)) => Ok(Enforced(Some(rules_of(rules)?))),
        _ => Ok(Enforced(None)),
    }
}

async fn load(conn: &mut AsyncPgConnection, owner: Owner<'_>) -> Result<Stored> {
    let row = match owner {
        Owner::Tenant(tenant) => tenant_ip_allowlists::table
            .find(tenant.uid)
            .select((
                tenant_ip_allowlists::enabled,
                tenant_ip_allowlists::rules,
                tenant_ip_allowlists::update_time,
                tenant_ip_allowlists::version,
            ))
            .get_result(conn)
            .await
            .optional()?,
        Owner::Account(account) => account_ip_allowlists::table
            .find(account)
            .select((
                account_ip_allowlists::enabled,
                account_ip_allowlists::rules,
                account_ip_allowlists::update_time,
                account_ip_allowlists::version,
            ))
            .get_result(conn)
            .await
            .optional()?,
    };
    Stored::of(row)
}

/// Reads the list of whatever a call acts on.
///
/// # Errors
///
/// When the call acts on neither a tenant nor an account, or what the database reports.
pub async fn get(conn: &mut AsyncPgConnection, call: &Call) -> Result<pb::IpAllowlist> {
    Ok(load(conn, owner(call)?).await?.into())
}

/// Tells what the list of whatever a call acts on makes of an address.
///
/// # Errors
///
/// As [`get`], and when it is no address.
pub async fn test(
    conn: &mut AsyncPgConnection,
    call: &Call,
    ip: &str,
) -> Result<pb::TestIpAllowlistResponse> {
    let ip = address(ip).map_err(|why| Error::invalid("ip", why))?;
    let Stored { enabled, rules, .. } = load(conn, owner(call)?).await?;
    let covers = |rule: &&Rule| rule.covers(ip);
    let matching_rules =
        rules.iter().filter(covers).map(|rule| rule.name.clone()).collect::<Vec<_>>();
    let allowed = !enabled || !matching_rules.is_empty();
    Ok(pb::TestIpAllowlistResponse { allowed, enabled, matching_rules })
}

/// What a list is to be.
pub struct NewList {
    enabled: bool,
    rules: Vec<Rule>,
    force: bool,
}

impl TryFrom<&pb::UpdateIpAllowlistRequest> for NewList {
    type Error = Error;

    fn try_from(request: &pb::UpdateIpAllowlistRequest) -> Result<Self> {
        let mut fields = Fields::default();
        fields.take("request_id", request_id(&request.request_id));
        if request.enabled.is_none() {
            fields.refuse("enabled", "is required, false too");
        }
        let rules = read_rules(&request.rules, &mut fields);
        fields.finish()?;
        let enabled = request.enabled.unwrap_or_default();
        Ok(Self { enabled, rules, force: request.force })
    }
}

/// Replaces the list of whatever a call acts on (4-11).
///
/// # Errors
///
/// As [`get`], a stale etag, or the risk that the caller shuts itself out.
pub async fn replace(
    change: &mut Change<'_>,
    new: &NewList,
    sent_etag: &str,
) -> Result<pb::IpAllowlist> {
    let call = change.call;
    let owner = owner(call)?;
    hold(change, owner).await?;
    let before = load(change.conn(), owner).await?;
    let id = match owner {
        Owner::Tenant(tenant) => &*tenant.tenant_id,
        Owner::Account(account) => account,
    };
    check_etag(sent_etag, before.version, Kind::IpAllowlist, id)?;
    if let Owner::Tenant(tenant) = owner {
        // It could shut out all keys of the tenant.
        crate::tenants::life::check_protection_of_keys(change, tenant.uid).await?;
    }
    check_lockout(call, owner, new, id)?;

    let NewList { enabled, rules, force: _ } = new;
    let after = Stored {
        enabled: *enabled,
        rules: rules.clone(),
        update_time: Some(change.now),
        version: before.version + 1,
    };
    store(change, owner, &after).await?;
    let (before, after) = (pb::IpAllowlist::from(before), pb::IpAllowlist::from(after));
    let (account_id, tenant) = match owner {
        Owner::Tenant(tenant) => (&*tenant.account_id, Some((tenant.uid, &*tenant.tenant_id))),
        Owner::Account(account) => (account, None),
    };
    change
        .record(Event {
            kind: "ip_allowlist.updated",
            account_id: Some(account_id),
            tenant,
            resource_type: "ip_allowlist",
            resource_id: id,
            before: Some(json_of(&before)),
            after: Some(json_of(&after)),
        })
        .await?;
    Ok(after)
}

/// Lets one replacement after the other happen, the first of a list too.
async fn hold(change: &mut Change<'_>, owner: Owner<'_>) -> Result<()> {
    match owner {
        Owner::Tenant(tenant) => {
            tenants::table
                .find(tenant.uid)
                .select(tenants::uid)
                .for_no_key_update()
                .execute(change.conn())
                .await?;
        }
        Owner::Account(account) => {
            crate::schema::accounts::table
                .find(account)
                .select(crate::schema::accounts::account_id)
                .for_no_key_update()
                .execute(change.conn())
                .await?;
        }
    }
    Ok(())
}

async fn store(change: &mut Change<'_>, owner: Owner<'_>, list: &Stored) -> Result<()> {
    let rules = serde_json::to_value(&list.rules).map_err(Error::internal)?;
    let now = change.now;
    match owner {
        Owner::Tenant(tenant) => {
            use tenant_ip_allowlists as list_of;
            let set = (
                list_of::enabled.eq(list.enabled),
                list_of::rules.eq(rules),
                list_of::update_time.eq(now),
                list_of::version.eq(list.version),
            );
            diesel::insert_into(list_of::table)
                .values((list_of::tenant_uid.eq(tenant.uid), set.clone()))
                .on_conflict(list_of::tenant_uid)
                .do_update()
                .set(set)
                .execute(change.conn())
                .await?;
        }
        Owner::Account(account) => {
            use account_ip_allowlists as list_of;
            let set = (
                list_of::enabled.eq(list.enabled),
                list_of::rules.eq(rules),
                list_of::update_time.eq(now),
                list_of::version.eq(list.version),
            );
            diesel::insert_into(list_of::table)
                .values((list_of::account_id.eq(account), set.clone()))
                .on_conflict(list_of::account_id)
                .do_update()
                .set(set)
                .execute(change.conn())
                .await?;
        }
    }
    Ok(())
}

/// Refuses a list after which the caller could not take it back (4-12).
fn check_lockout(call: &Call, owner: Owner<'_>, new: &NewList, id: &str) -> Result<()> {
    if !new.enabled || new.force {
        return Ok(());
    }
    let risk = |message: String| {
        let reason = ErrorReason::LockoutRisk;
        Err(Error::WrongState { reason, kind: Kind::IpAllowlist, id: id.to_owned(), message })
    };
    if call.client.forwarded_by_stranger {
        return risk(
            "the call came through a proxy that is not among trusted_proxies, so the addresses of \
             clients are not known: let the operator add it, or send force"
                .to_owned(),
        );
    }
    let binds_caller = match (owner, call.caller.scope) {
        (Owner::Tenant(tenant), KeyScope::Tenant) => {
            call.caller.tenant.as_ref().is_some_and(|own| own.uid == tenant.uid)
        }
        (Owner::Account(_), KeyScope::Account) => true,
        _ => false,
    };
    let ip: Option<IpAddr> = call.client.ip;
    if binds_caller && !Enforced(Some(new.rules.clone())).admits(ip) {
        let from = ip.map_or("an unknown address".to_owned(), |ip| ip.to_string());
        return risk(format!(
            "the list would shut out this very key, which calls from {from}: add a rule that covers \
             it, or send force"
        ));
    }
    Ok(())
}

impl From<Stored> for pb::IpAllowlist {
    fn from(Stored { enabled, rules, update_time, version }: Stored) -> Self {
        let rule = |Rule { name, start, end }: Rule| pb::IpRule {
            name,
            start: start.to_string(),
            end: end.to_string(),
            cidr: String::new(),
        };
        Self {
            enabled,
            last_updated: update_time.map(timestamp),
            rules: rules.into_iter().map(rule).collect(),
            etag: if version == 0 { String::new() } else { etag(version) },
        }
    }
}
