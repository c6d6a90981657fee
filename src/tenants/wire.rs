//! How tenants look from outside: requests read, records told.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde_json::{Map, Value};

use super::companions::{Companions, admin_user};
use super::model::{
    Address, Contact, ContractMode, History, LockColumns, LockMode, OrganizationKind, ServiceLine,
    TENANT_DATA, Tenant, TenantRecord, TenantState, TenantType, strictest,
};
use crate::{
    error::{Error, Result},
    pb::{self, ErrorReason},
    rpc::mutate::etag,
    wire::{
        Fields, dns_name, email, id, prose, read_json, request_id, struct_of_json, text, timestamp,
    },
};

const NAME_MAX: usize = 80;
const DESCRIPTION_MAX: usize = 1_000;
const TAG_MAX: usize = 80;
const HOSTNAME_MAX: usize = 253;
const DOMAIN_MAX: usize = 80;
const LABELS_MAX: usize = 64;
const EXTERNAL_IDS_MAX: usize = 16;

/// What a caller may say of a new tenant. Where it belongs and who made it are joined later.
#[derive(Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
#[expect(missing_docs, reason = "each is a field of Tenant, documented there")]
pub struct NewTenant {
    pub tenant_id: Option<String>,
    pub account_id: String,
    pub code: Option<String>,
    pub name: String,
    pub description: String,
    pub tenant_type: TenantType,
    pub organization_kind: OrganizationKind,
    pub service_line: ServiceLine,
    pub parent_tenant_id: String,
    pub console: bool,
    pub tag: String,
    pub contract_mode: Option<ContractMode>,
    pub protected: bool,
    pub hostname: String,
    pub default_domain: Option<String>,
    pub auto_create_domain: Option<bool>,
    pub support_email: String,
    pub contact: Contact,
    pub address: Address,
    pub external_ids: BTreeMap<String, String>,
    pub reseller_id: Option<String>,
    pub backend_id: Option<String>,
    pub use_custom_routing_profile: bool,
    pub use_tenant_languages: bool,
    pub profile: Option<Value>,
    pub labels: Value,
    pub sp_idp: bool,
    pub companions: Companions,
}

impl NewTenant {
    /// Reads a request at a time, with everything that is to come to be with the tenant.
    ///
    /// # Errors
    ///
    /// Everything that is wrong with it.
    pub fn read(request: &pb::CreateTenantRequest, now: DateTime<Utc>) -> Result<Self> {
        let mut fields = Fields::default();
        fields.take("request_id", request_id(&request.request_id));
        let Some(pb) = &request.tenant else {
            return Err(Error::invalid("tenant", "is required"));
        };
        let tenant_id = fields.take("tenant.tenant_id", optional_id(&pb.tenant_id));
        let account_id = fields.take("tenant.account_id", optional_id(&pb.account_id));
        let parent = pb.parent_tenant_id.as_deref().unwrap_or_default();
        let parent_tenant_id = fields.take("tenant.parent_tenant_id", optional_id(parent));
        let code = fields.take("tenant.code", read_code(pb.code.as_deref()));
        let name = fields.take("tenant.name", read_name(pb.name.as_deref()));
        if pb.description.is_none() {
            fields.refuse("tenant.description", "is required, and may be empty");
        }
        let tenant_type = fields.take("tenant.type", read_type(pb.r#type));
        let organization_kind =
            fields.take("tenant.organization_kind", read_kind(pb.organization_kind));
        let service_line = fields.take("tenant.service_line", read_line(pb.service_line));
        let contract_mode = fields.take("tenant.contract_mode", read_mode(pb.contract_mode));
        let use_custom_routing_profile = pb.use_custom_routing_profile.unwrap_or_default();
        if use_custom_routing_profile && organization_kind == Some(OrganizationKind::Enterprise) {
            fields.refuse(
                "tenant.use_custom_routing_profile",
                "may be true only where organization_kind is SERVICE_PROVIDER",
            );
        }
        let sp_idp = pb.sp_idp.unwrap_or_default();
        if sp_idp && organization_kind == Some(OrganizationKind::Enterprise) {
            fields.refuse(
                "tenant.sp_idp",
                "may be true only where organization_kind is SERVICE_PROVIDER",
            );
        }
        let parts = Parts::read(pb, &mut fields);
        let companions = Companions::read(request, now, &mut fields);
        let all = (tenant_id, account_id, parent_tenant_id, code, name, tenant_type);
        let more = (organization_kind, service_line, contract_mode, parts, companions);
        fields.finish()?;
        let (
            (
                Some(tenant_id),
                Some(account_id),
                Some(parent_tenant_id),
                Some(code),
                Some(name),
                Some(tenant_type),
            ),
            (
                Some(organization_kind),
                Some(service_line),
                Some(contract_mode),
                Some(parts),
                Some(companions),
            ),
        ) = (all, more)
        else {
            return Err(Error::internal("a field was refused without a violation"));
        };
        Ok(Self {
            tenant_id,
            account_id: account_id.unwrap_or_default(),
            code,
            name,
            description: parts.description,
            tenant_type,
            organization_kind,
            service_line,
            parent_tenant_id: parent_tenant_id.unwrap_or_default(),
            console: pb.console.unwrap_or_default(),
            tag: parts.tag,
            contract_mode,
            protected: pb.protected.unwrap_or_default(),
            hostname: parts.hostname,
            default_domain: parts.default_domain,
            auto_create_domain: request.auto_create_domain,
            support_email: parts.support_email,
            contact: parts.contact,
            address: parts.address,
            external_ids: parts.external_ids,
            reseller_id: parts.reseller_id,
            backend_id: parts.backend_id,
            use_custom_routing_profile,
            use_tenant_languages: pb.use_tenant_languages.unwrap_or_default(),
            profile: parts.profile,
            labels: parts.labels,
            sp_idp,
            companions,
        })
    }
}

/// The fields that create and update read alike. Absent ones are empty.
#[derive(Debug)]
struct Parts {
    description: String,
    tag: String,
    hostname: String,
    default_domain: Option<String>,
    support_email: String,
    contact: Contact,
    address: Address,
    external_ids: BTreeMap<String, String>,
    reseller_id: Option<String>,
    backend_id: Option<String>,
    profile: Option<Value>,
    labels: Value,
}

impl Parts {
    fn read(pb: &pb::Tenant, fields: &mut Fields) -> Option<Self> {
        let of = |value: &Option<String>| value.clone().unwrap_or_default();
        let description =
            fields.take("tenant.description", prose(&of(&pb.description), DESCRIPTION_MAX));
        let tag = fields.take("tenant.tag", text(&of(&pb.tag), 0, TAG_MAX));
        let hostname = fields.take("tenant.hostname", dns_name(&of(&pb.hostname), HOSTNAME_MAX));
        let default_domain =
            fields.take("tenant.default_domain", dns_name(&of(&pb.default_domain), DOMAIN_MAX));
        let support_email = fields.take("tenant.support_email", email(&of(&pb.support_email)));
        let contact = pb.contact.clone().unwrap_or_default();
        let contact = read_contact("tenant.contact", &contact, fields);
        let address = pb.address.clone().unwrap_or_default();
        let address = read_address("tenant.address", &address, fields);
        let external_ids = fields.take("tenant.external_ids", read_external_ids(&pb.external_ids));
        let reseller_id = fields.take("tenant.reseller_id", optional_id(&of(&pb.reseller_id)));
        let backend_id = fields.take("tenant.backend_id", optional_id(&of(&pb.backend_id)));
        let profile = fields.take("tenant.profile", read_json(pb.profile.as_ref()));
        let labels = fields.take("tenant.labels", read_labels(&pb.labels));
        Some(Self {
            description: description?,
            tag: tag?,
            hostname: hostname?.unwrap_or_default(),
            default_domain: default_domain?,
            support_email: support_email?,
            contact: contact?,
            address: address?,
            external_ids: external_ids?,
            reseller_id: reseller_id?,
            backend_id: backend_id?,
            profile: profile?,
            labels: labels?,
        })
    }
}

/// What of a tenant a template may give: what is neither its identity nor its place (2-18).
fn only_defaults(pb: &pb::Tenant) -> pb::Tenant {
    pb::Tenant {
        description: pb.description.clone(),
        tag: pb.tag.clone(),
        service_line: pb.service_line,
        contract_mode: pb.contract_mode,
        default_domain: pb.default_domain.clone(),
        support_email: pb.support_email.clone(),
        contact: pb.contact.clone(),
        address: pb.address.clone(),
        external_ids: pb.external_ids.clone(),
        use_tenant_languages: pb.use_tenant_languages,
        profile: pb.profile.clone(),
        labels: pb.labels.clone(),
        ..Default::default()
    }
}

/// Checks the defaults of a template, which a message names by `prefix`.
pub(crate) fn check_defaults(pb: &pb::Tenant, prefix: &str, fields: &mut Fields) {
    if only_defaults(pb) != *pb {
        fields.refuse(
            prefix,
            "sets more than a template may: description, tag, service_line, contract_mode, \
             default_domain, support_email, contact, address, external_ids, use_tenant_languages, \
             profile and labels",
        );
    }
    let mut within = Fields::default();
    within.take("tenant.service_line", read_line(pb.service_line));
    within.take("tenant.contract_mode", read_mode(pb.contract_mode));
    let _ = Parts::read(pb, &mut within);
    fields.absorb(within, "tenant", prefix);
}

/// A new tenant with what a template gives it where the request leaves it out (2-18). A map of the
/// template is given whole, or not at all.
pub(crate) fn with_defaults(pb: &pb::Tenant, defaults: pb::Tenant) -> pb::Tenant {
    let mut tenant = pb.clone();
    let default = defaults;
    tenant.description = tenant.description.or(default.description);
    tenant.tag = tenant.tag.or(default.tag);
    tenant.default_domain = tenant.default_domain.or(default.default_domain);
    tenant.support_email = tenant.support_email.or(default.support_email);
    tenant.contact = tenant.contact.or(default.contact);
    tenant.address = tenant.address.or(default.address);
    tenant.use_tenant_languages = tenant.use_tenant_languages.or(default.use_tenant_languages);
    tenant.profile = tenant.profile.or(default.profile);
    if tenant.service_line == 0 {
        tenant.service_line = default.service_line;
    }
    if tenant.contract_mode == 0 {
        tenant.contract_mode = default.contract_mode;
    }
    if tenant.external_ids.is_empty() {
        tenant.external_ids = default.external_ids;
    }
    if tenant.labels.is_empty() {
        tenant.labels = default.labels;
    }
    tenant
}

/// What a caller wants changed, read and checked; applied to the stored tenant later.
#[derive(Debug)]
pub struct TenantPatch {
    /// Paths of the mask, or implied by what is present.
    paths: Vec<String>,
    pb: pb::Tenant,
    parts: Parts,
    name: Option<String>,
    contract_mode: Option<ContractMode>,
}

/// Fields of a tenant that an update never changes.
const IMMUTABLE: &[&str] = &[
    "tenant_id",
    "account_id",
    "code",
    "type",
    "organization_kind",
    "service_line",
    "parent_tenant_id",
    "console",
    "use_custom_routing_profile",
];

/// Fields of a tenant that only the service writes; named in an update, they are ignored.
const OUTPUT_ONLY: &[&str] = &[
    "uid",
    "state",
    "lock",
    "effective_lock",
    "trial_expire_time",
    "admin_user",
    "status_details",
    "create_time",
    "update_time",
    "delete_time",
    "purge_time",
    "etag",
];

/// Fields of a tenant that an update may change.
const MUTABLE: &[&str] = &[
    "name",
    "description",
    "tag",
    "protected",
    "contract_mode",
    "hostname",
    "default_domain",
    "support_email",
    "contact",
    "contact.name",
    "contact.phone_number",
    "contact.email",
    "address",
    "address.street_address",
    "address.extended_address",
    "address.locality",
    "address.region",
    "address.post_code",
    "address.country",
    "external_ids",
    "reseller_id",
    "backend_id",
    "use_tenant_languages",
    "profile",
    "labels",
    "sp_idp",
];

impl TryFrom<&pb::UpdateTenantRequest> for TenantPatch {
    type Error = Error;

    fn try_from(request: &pb::UpdateTenantRequest) -> Result<Self> {
        let Some(pb) = &request.tenant else {
            return Err(Error::invalid("tenant", "is required"));
        };
        let mask = request.update_mask.as_ref().map(|mask| &mask.paths[..]).unwrap_or_default();
        let mut fields = Fields::default();
        fields.take("request_id", request_id(&request.request_id));
        let paths = if mask.is_empty() {
            present_paths(pb)
        } else if mask.iter().any(|path| path == "*") {
            // Nor is the tenant taken from its backend, unless that is said.
            let whole = |path: &&&str| {
                !path.contains('.') && (**path != "backend_id" || pb.backend_id.is_some())
            };
            let all = MUTABLE.iter().filter(whole).map(|path| (*path).to_owned());
            // What cannot be changed is not cleared; but what is sent of it must be as it is stored.
            let sent = present_paths(pb);
            all.chain(sent.into_iter().filter(|path| IMMUTABLE.contains(&path.as_str()))).collect()
        } else {
            mask.to_vec()
        };
        let mut known_told = false;
        for path in &paths {
            let head = path.split('.').next().unwrap_or(path);
            let known = MUTABLE.contains(&path.as_str())
                || IMMUTABLE.contains(&path.as_str())
                || OUTPUT_ONLY.contains(&head)
                || (path.contains('.') && ["external_ids", "labels"].contains(&head));
            if !known {
                fields.refuse_as(
                    ErrorReason::ImmutableField,
                    "update_mask",
                    if known_told {
                        format!("names \"{path}\", which is no field of a tenant")
                    } else {
                        let known = MUTABLE.join(", ");
                        format!("names \"{path}\", which is no field that can be changed: {known}")
                    },
                );
                known_told = true;
            }
        }
        let named = |path: &str| paths.iter().any(|named| named == path);
        let name = if named("name") {
            fields.take("tenant.name", read_name(pb.name.as_deref()))
        } else {
            None
        };
        // Without a value it stays: to clear it would end a trial for good.
        let contract_mode = if named("contract_mode") {
            fields.take("tenant.contract_mode", read_mode(pb.contract_mode)).flatten()
        } else {
            None
        };
        let parts = Parts::read(&only_named(pb, &paths), &mut fields);
        fields.finish()?;
        let parts = parts.ok_or_else(|| Error::internal("refused without a violation"))?;
        Ok(Self { paths, pb: pb.clone(), parts, name, contract_mode })
    }
}

/// What an empty mask means: the fields that are present, entry by entry and part by part, so that
/// nothing is cleared that the caller did not name (2-12, 4-09).
fn present_paths(pb: &pb::Tenant) -> Vec<String> {
    let mut paths = Vec::new();
    let mut add = |path: &str, present: bool| {
        if present {
            paths.push(path.to_owned());
        }
    };
    add("account_id", !pb.account_id.is_empty());
    add("code", pb.code.is_some());
    add("name", pb.name.is_some());
    add("description", pb.description.is_some());
    add("type", pb.r#type != 0);
    add("organization_kind", pb.organization_kind != 0);
    add("service_line", pb.service_line != 0);
    add("parent_tenant_id", pb.parent_tenant_id.is_some());
    add("console", pb.console.is_some());
    add("tag", pb.tag.is_some());
    add("protected", pb.protected.is_some());
    add("contract_mode", pb.contract_mode != 0);
    add("hostname", pb.hostname.is_some());
    add("default_domain", pb.default_domain.is_some());
    add("support_email", pb.support_email.is_some());
    add("reseller_id", pb.reseller_id.is_some());
    add("backend_id", pb.backend_id.is_some());
    add("use_custom_routing_profile", pb.use_custom_routing_profile.is_some());
    add("use_tenant_languages", pb.use_tenant_languages.is_some());
    add("profile", pb.profile.is_some());
    add("sp_idp", pb.sp_idp.is_some());
    if let Some(pb::Contact { name, phone_number, email }) = &pb.contact {
        add("contact.name", !name.is_empty());
        add("contact.phone_number", !phone_number.is_empty());
        add("contact.email", !email.is_empty());
    }
    if let Some(address) = &pb.address {
        let pb::Address { street_address, extended_address, locality, region, post_code, country } =
            address;
        add("address.street_address", !street_address.is_empty());
        add("address.extended_address", !extended_address.is_empty());
        add("address.locality", !locality.is_empty());
        add("address.region", !region.is_empty());
        add("address.post_code", !post_code.is_empty());
        add("address.country", !country.is_empty());
    }
    pb.external_ids.keys().for_each(|key| add(&format!("external_ids.{key}"), true));
    pb.labels.keys().for_each(|key| add(&format!("labels.{key}"), true));
    paths
}

/// The message without what the mask leaves out, so that nothing else is checked either.
fn only_named(pb: &pb::Tenant, paths: &[String]) -> pb::Tenant {
    let heads = paths.iter().map(|path| path.split('.').next().unwrap_or(path)).collect::<Vec<_>>();
    let named = |path: &str| heads.contains(&path);
    pb::Tenant {
        description: pb.description.clone().filter(|_| named("description")),
        tag: pb.tag.clone().filter(|_| named("tag")),
        hostname: pb.hostname.clone().filter(|_| named("hostname")),
        default_domain: pb.default_domain.clone().filter(|_| named("default_domain")),
        support_email: pb.support_email.clone().filter(|_| named("support_email")),
        contact: pb.contact.clone().filter(|_| named("contact")),
        address: pb.address.clone().filter(|_| named("address")),
        reseller_id: pb.reseller_id.clone().filter(|_| named("reseller_id")),
        backend_id: pb.backend_id.clone().filter(|_| named("backend_id")),
        external_ids: if named("external_ids") { pb.external_ids.clone() } else { BTreeMap::new() },
        profile: pb.profile.clone().filter(|_| named("profile")),
        labels: if named("labels") { pb.labels.clone() } else { BTreeMap::new() },
        ..Default::default()
    }
}

impl TenantPatch {
    /// What a template gives to a tenant beside a patch: of what it has, that of which the patch says
    /// nothing. What is decided on create it leaves alone (2-18).
    ///
    /// # Errors
    ///
    /// When the template breaks rules that it kept when it was stored.
    pub fn of_template(template: pb::Tenant, beside: &Self) -> Result<Self> {
        let pb = pb::Tenant { service_line: 0, contract_mode: 0, ..template };
        let head = |path: &str| path.split('.').next().unwrap_or(path).to_owned();
        let said = beside.paths.iter().map(|path| head(path)).collect::<Vec<_>>();
        let paths = present_paths(&pb).into_iter().filter(|path| !said.contains(&head(path)));
        let paths = paths.collect::<Vec<_>>();
        let mut fields = Fields::default();
        let parts = Parts::read(&only_named(&pb, &paths), &mut fields);
        fields.finish()?;
        let parts = parts.ok_or_else(|| Error::internal("refused without a violation"))?;
        Ok(Self { paths, pb, parts, name: None, contract_mode: None })
    }

    /// Whether the patch says something of a field, be it that it is to be empty.
    pub fn names(&self, path: &str) -> bool {
        self.paths.iter().any(|named| named == path)
    }

    /// The domain that the tenant is to have, where the patch names one.
    pub fn default_domain(&self) -> Option<&str> {
        self.parts.default_domain.as_deref().filter(|_| self.names("default_domain"))
    }

    /// Changes a tenant as the patch says.
    ///
    /// # Errors
    ///
    /// When an immutable field would change, or a rule between fields breaks.
    pub fn apply(&self, record: &mut TenantRecord) -> Result<()> {
        let mut fields = Fields::default();
        for path in &self.paths {
            if IMMUTABLE.contains(&path.as_str()) && !self.is_stored(path, record) {
                fields.refuse_as(
                    ErrorReason::ImmutableField,
                    &format!("tenant.{path}"),
                    "cannot be changed: leave it out or send the stored value",
                );
            }
        }
        for path in &self.paths {
            self.apply_path(path, record);
        }
        if others(&record.external_ids) > EXTERNAL_IDS_MAX {
            fields.refuse(
                "tenant.external_ids",
                format!("would be more than {EXTERNAL_IDS_MAX} besides 1 to 4"),
            );
        }
        if record.tenant.labels.as_object().is_some_and(|labels| labels.len() > LABELS_MAX) {
            fields.refuse("tenant.labels", format!("would be more than {LABELS_MAX}"));
        }
        if record.tenant.sp_idp && record.tenant.organization_kind == OrganizationKind::Enterprise {
            fields.refuse(
                "tenant.sp_idp",
                "may be true only where organization_kind is SERVICE_PROVIDER",
            );
        }
        fields.finish()
    }

    fn is_stored(&self, path: &str, record: &TenantRecord) -> bool {
        let pb = &self.pb;
        let stored: pb::Tenant = record.clone().into();
        match path {
            "account_id" => pb.account_id == stored.account_id,
            "code" => pb.code == stored.code,
            "type" => pb.r#type == stored.r#type,
            "organization_kind" => pb.organization_kind == stored.organization_kind,
            "service_line" => pb.service_line == stored.service_line,
            "parent_tenant_id" => {
                pb.parent_tenant_id.clone().unwrap_or_default() == record.parent_tenant_id
            }
            "console" => pb.console.unwrap_or_default() == record.tenant.console,
            "use_custom_routing_profile" => {
                pb.use_custom_routing_profile.unwrap_or_default()
                    == record.tenant.use_custom_routing_profile
            }
            // It names the tenant, so it is the stored one.
            _ => true,
        }
    }

    fn apply_path(&self, path: &str, record: &mut TenantRecord) {
        let Parts {
            description,
            tag,
            hostname,
            default_domain,
            support_email,
            contact,
            address,
            external_ids,
            reseller_id,
            backend_id,
            profile,
            labels,
        } = &self.parts;
        let tenant = &mut record.tenant;
        match path {
            "name" => tenant.name.clone_from(self.name.as_ref().unwrap_or(&tenant.name.clone())),
            "description" => tenant.description.clone_from(description),
            "tag" => tenant.tag.clone_from(tag),
            // A trial that becomes productive has no end any more; nothing becomes a trial.
            "contract_mode" => {
                tenant.contract_mode = self.contract_mode.unwrap_or(tenant.contract_mode);
                if tenant.contract_mode == ContractMode::Production {
                    tenant.trial_expire_time = None;
                }
            }
            "protected" => tenant.protected = self.pb.protected.unwrap_or_default(),
            "hostname" => tenant.hostname.clone_from(hostname),
            "default_domain" => tenant.default_domain.clone_from(default_domain),
            "support_email" => tenant.support_email.clone_from(support_email),
            "contact" => tenant.contact.clone_from(contact),
            "contact.name" => tenant.contact.name.clone_from(&contact.name),
            "contact.phone_number" => tenant.contact.phone_number.clone_from(&contact.phone_number),
            "contact.email" => tenant.contact.email.clone_from(&contact.email),
            "address" => tenant.address.clone_from(address),
            "address.street_address" => {
                tenant.address.street_address.clone_from(&address.street_address);
            }
            "address.extended_address" => {
                tenant.address.extended_address.clone_from(&address.extended_address);
            }
            "address.locality" => tenant.address.locality.clone_from(&address.locality),
            "address.region" => tenant.address.region.clone_from(&address.region),
            "address.post_code" => tenant.address.post_code.clone_from(&address.post_code),
            "address.country" => tenant.address.country.clone_from(&address.country),
            "external_ids" => record.external_ids.clone_from(external_ids),
            "reseller_id" => tenant.reseller_id.clone_from(reseller_id),
            "backend_id" => tenant.backend_id.clone_from(backend_id),
            "use_tenant_languages" => {
                tenant.use_tenant_languages = self.pb.use_tenant_languages.unwrap_or_default();
            }
            "profile" => tenant.profile.clone_from(profile),
            "labels" => tenant.labels.clone_from(labels),
            "sp_idp" => tenant.sp_idp = self.pb.sp_idp.unwrap_or_default(),
            _ => match path.split_once('.') {
                Some(("external_ids", key)) => match external_ids.get(key) {
                    Some(value) => {
                        record.external_ids.insert(key.to_owned(), value.clone());
                    }
                    None => {
                        record.external_ids.remove(key);
                    }
                },
                Some(("labels", key)) => {
                    if let Some(stored) = tenant.labels.as_object_mut() {
                        match labels.get(key) {
                            Some(value) => stored.insert(key.to_owned(), value.clone()),
                            None => stored.remove(key),
                        };
                    }
                }
                _ => {}
            },
        }
    }
}

fn read_name(name: Option<&str>) -> Result<String, String> {
    text(name.unwrap_or_default(), 1, NAME_MAX)
}

fn optional_id(value: &str) -> Result<Option<String>, String> {
    if value.is_empty() { Ok(None) } else { id(value).map(Some) }
}

fn read_code(code: Option<&str>) -> Result<Option<String>, String> {
    match code {
        None => Ok(None),
        Some(code)
            if (4..=64).contains(&code.len())
                && code.bytes().all(|b| b.is_ascii_alphanumeric()) =>
        {
            Ok(Some(code.to_owned()))
        }
        Some(_) => Err("is not 4 to 64 characters of A-Z, a-z and 0-9".to_owned()),
    }
}

fn read_type(value: i32) -> Result<TenantType, String> {
    match pb::TenantType::try_from(value) {
        Ok(pb::TenantType::Product) => Ok(TenantType::Product),
        Ok(pb::TenantType::Client) => Ok(TenantType::Client),
        Ok(pb::TenantType::Unspecified) => {
            Err("is required: TENANT_TYPE_PRODUCT or TENANT_TYPE_CLIENT".to_owned())
        }
        Err(_) => Err("is TENANT_TYPE_PRODUCT or TENANT_TYPE_CLIENT".to_owned()),
    }
}

fn read_kind(value: i32) -> Result<OrganizationKind, String> {
    match pb::OrganizationKind::try_from(value) {
        Ok(pb::OrganizationKind::Enterprise) => Ok(OrganizationKind::Enterprise),
        Ok(pb::OrganizationKind::ServiceProvider) => Ok(OrganizationKind::ServiceProvider),
        Ok(pb::OrganizationKind::Unspecified) => {
            Err("is required: ORGANIZATION_KIND_ENTERPRISE or \
                                                      ORGANIZATION_KIND_SERVICE_PROVIDER"
                .to_owned())
        }
        Err(_) => {
            Err("is ORGANIZATION_KIND_ENTERPRISE or ORGANIZATION_KIND_SERVICE_PROVIDER".to_owned())
        }
    }
}

fn read_line(value: i32) -> Result<ServiceLine, String> {
    match pb::ServiceLine::try_from(value) {
        Ok(pb::ServiceLine::Unspecified | pb::ServiceLine::Authentication) => {
            Ok(ServiceLine::Authentication)
        }
        Ok(pb::ServiceLine::Issuance) => Ok(ServiceLine::Issuance),
        Err(_) => Err("is SERVICE_LINE_AUTHENTICATION or SERVICE_LINE_ISSUANCE".to_owned()),
    }
}

fn read_mode(value: i32) -> Result<Option<ContractMode>, String> {
    match pb::ContractMode::try_from(value) {
        Ok(pb::ContractMode::Unspecified) => Ok(None),
        Ok(pb::ContractMode::Production) => Ok(Some(ContractMode::Production)),
        Ok(pb::ContractMode::Trial) => Ok(Some(ContractMode::Trial)),
        Err(_) => Err("is CONTRACT_MODE_TRIAL or CONTRACT_MODE_PRODUCTION".to_owned()),
    }
}

/// Reads whom to talk to; `at` is the path of the field.
pub fn read_contact(at: &str, pb: &pb::Contact, fields: &mut Fields) -> Option<Contact> {
    let pb::Contact { name, phone_number, email: address } = pb;
    let name = fields.take(&format!("{at}.name"), text(name, 0, 80));
    let phone_number = fields.take(&format!("{at}.phone_number"), read_phone_number(phone_number));
    let email = fields.take(&format!("{at}.email"), email(address));
    Some(Contact { name: name?, phone_number: phone_number?, email: email? })
}

/// Reads a phone number of up to 40 characters, or an empty text.
///
/// # Errors
///
/// What would be right.
pub fn read_phone_number(value: &str) -> Result<String, String> {
    let value = text(value, 0, 40)?;
    if value.chars().all(|c| c.is_ascii_digit() || " +()-./".contains(c)) {
        Ok(value)
    } else {
        Err("is not of digits, spaces and +()-./".to_owned())
    }
}

/// Reads where an organisation is; `at` is the path of the field.
pub fn read_address(at: &str, pb: &pb::Address, fields: &mut Fields) -> Option<Address> {
    let pb::Address { street_address, extended_address, locality, region, post_code, country } = pb;
    let mut line =
        |field: &str, value: &str, max| fields.take(&format!("{at}.{field}"), text(value, 0, max));
    let street_address = line("street_address", street_address, 120);
    let extended_address = line("extended_address", extended_address, 120);
    let locality = line("locality", locality, 120);
    let region = line("region", region, 120);
    let post_code = line("post_code", post_code, 20);
    let country = line("country", country, 120);
    Some(Address {
        street_address: street_address?,
        extended_address: extended_address?,
        locality: locality?,
        region: region?,
        post_code: post_code?,
        country: country?,
    })
}

/// How many external ids there are besides those of the telephony platform.
fn others(ids: &BTreeMap<String, String>) -> usize {
    ids.keys().filter(|key| !TENANT_DATA.contains(&key.as_str())).count()
}

/// External ids are opaque: nothing is trimmed (2-10). NUL cannot be stored.
fn read_external_ids(ids: &BTreeMap<String, String>) -> Result<BTreeMap<String, String>, String> {
    let number = others(ids);
    if number > EXTERNAL_IDS_MAX {
        return Err(format!(
            "are {number} besides 1 to 4, of which at most {EXTERNAL_IDS_MAX} are allowed"
        ));
    }
    for (key, value) in ids {
        let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'_' || b == b'-';
        if !(1..=64).contains(&key.len()) || !key.bytes().all(plain) {
            return Err(format!(
                "has the key {key:?}, which is not 1 to 64 of A-Z, a-z, 0-9, _ and -"
            ));
        }
        if value.chars().count() > 256 || value.contains('\0') {
            return Err(format!(
                "has for {key:?} a value of more than 256 characters, or with a NUL"
            ));
        }
    }
    Ok(ids.clone())
}

fn read_labels(labels: &BTreeMap<String, String>) -> Result<Value, String> {
    if labels.len() > LABELS_MAX {
        return Err(format!("are {}, of which at most {LABELS_MAX} are allowed", labels.len()));
    }
    let mut read = Map::new();
    for (key, value) in labels {
        let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"_.-".contains(&b);
        if !(1..=63).contains(&key.len()) || !key.bytes().all(plain) {
            return Err(format!(
                "has the key {key:?}, which is not 1 to 63 of a-z, 0-9, _ . and -"
            ));
        }
        let value = text(value, 0, 255).map_err(|why| format!("for {key:?} {why}"))?;
        read.insert(key.clone(), Value::String(value));
    }
    Ok(Value::Object(read))
}

impl From<TenantRecord> for pb::Tenant {
    fn from(record: TenantRecord) -> Self {
        let TenantRecord { tenant, parent_tenant_id, external_ids, lock_above, as_of } = record;
        let Tenant {
            uid,
            account_id,
            tenant_id,
            code,
            name,
            description,
            tenant_type,
            organization_kind,
            service_line,
            parent_uid: _,
            ancestors: _,
            console,
            tag,
            state,
            state_before_delete: _,
            lock,
            protected,
            contract_mode,
            trial_expire_time,
            hostname,
            default_domain,
            support_email,
            contact,
            address,
            reseller_id,
            backend_id: _,
            admin_user: administrator,
            use_custom_routing_profile,
            use_tenant_languages,
            sp_idp,
            profile,
            labels,
            history,
            purge_time,
            create_time,
            update_time,
            version,
        } = tenant;
        let labels = match labels {
            Value::Object(labels) => labels
                .into_iter()
                .filter_map(|(key, value)| Some((key, value.as_str()?.to_owned())))
                .collect(),
            _ => BTreeMap::new(),
        };
        let profile = profile.and_then(struct_of_json);
        let (lock, effective_lock) = locks(lock, lock_above, as_of);
        let delete_time = history.delete_time.filter(|_| state == TenantState::Deleted);
        Self {
            tenant_id,
            uid: uid.to_string(),
            account_id,
            code: Some(code),
            name: Some(name),
            description: Some(description),
            r#type: pb::TenantType::from(tenant_type).into(),
            organization_kind: pb::OrganizationKind::from(organization_kind).into(),
            service_line: pb::ServiceLine::from(service_line).into(),
            parent_tenant_id: Some(parent_tenant_id).filter(|id| !id.is_empty()),
            console: Some(console),
            tag: Some(tag),
            state: pb::TenantState::from(state).into(),
            lock,
            effective_lock,
            protected: Some(protected),
            contract_mode: pb::ContractMode::from(contract_mode).into(),
            trial_expire_time: trial_expire_time.map(timestamp),
            hostname: Some(hostname),
            default_domain: Some(default_domain.unwrap_or_default()),
            support_email: Some(support_email),
            contact: Some(contact.into()).filter(|contact| *contact != pb::Contact::default()),
            address: Some(address.into()).filter(|address| *address != pb::Address::default()),
            external_ids,
            reseller_id,
            // Who may know it is told it by `TenantRecord::seen_by`.
            backend_id: None,
            admin_user: administrator.as_ref().map(admin_user),
            use_custom_routing_profile: Some(use_custom_routing_profile),
            use_tenant_languages: Some(use_tenant_languages),
            profile,
            labels,
            sp_idp: Some(sp_idp),
            status_details: Some(status_details(history, create_time)),
            create_time: Some(timestamp(create_time)),
            update_time: Some(timestamp(update_time)),
            delete_time: delete_time.map(timestamp),
            purge_time: purge_time.map(timestamp),
            etag: etag(version),
        }
    }
}

/// A tenant's own lock and the one that binds it, as far as they are in force.
fn locks(
    own: LockColumns,
    above: Option<(LockMode, Option<DateTime<Utc>>)>,
    now: DateTime<Utc>,
) -> (Option<pb::Lock>, Option<pb::Lock>) {
    let in_force = own.at(now).map(|mode| (mode, own.end));
    let LockColumns { mode: _, reason, time, by, end: _ } = own;
    let brief = |(mode, end): (LockMode, Option<DateTime<Utc>>)| pb::Lock {
        mode: pb::LockMode::from(mode).into(),
        unlock_time: end.map(timestamp),
        ..Default::default()
    };
    let lock = in_force.map(|in_force| pb::Lock {
        reason: reason.unwrap_or_default(),
        lock_time: time.map(timestamp),
        locked_by: by.unwrap_or_default(),
        ..brief(in_force)
    });
    let all = in_force.into_iter().chain(above).collect::<Vec<_>>();
    let strictest = strictest(&all, now);
    // Of a lock above, who set it and why is not the tenant's to know.
    let effective = if strictest == in_force { lock.clone() } else { strictest.map(brief) };
    (lock, effective)
}

fn status_details(history: History, create_time: DateTime<Utc>) -> pb::StatusDetails {
    let History {
        created_by,
        approve_time,
        approved_by,
        reject_time,
        rejection_reason,
        rejected_by,
        delete_time,
        deleted_by,
    } = history;
    pb::StatusDetails {
        create_time: Some(timestamp(create_time)),
        created_by,
        approve_time: approve_time.map(timestamp),
        approved_by: approved_by.unwrap_or_default(),
        reject_time: reject_time.map(timestamp),
        rejection_reason: rejection_reason.unwrap_or_default(),
        rejected_by: rejected_by.unwrap_or_default(),
        delete_time: delete_time.map(timestamp),
        deleted_by: deleted_by.unwrap_or_default(),
    }
}

impl From<Contact> for pb::Contact {
    fn from(Contact { name, phone_number, email }: Contact) -> Self {
        Self { name, phone_number, email }
    }
}

impl From<Address> for pb::Address {
    fn from(address: Address) -> Self {
        let Address { street_address, extended_address, locality, region, post_code, country } =
            address;
        Self { street_address, extended_address, locality, region, post_code, country }
    }
}

impl From<TenantType> for pb::TenantType {
    fn from(value: TenantType) -> Self {
        match value {
            TenantType::Product => Self::Product,
            TenantType::Client => Self::Client,
        }
    }
}

impl From<OrganizationKind> for pb::OrganizationKind {
    fn from(value: OrganizationKind) -> Self {
        match value {
            OrganizationKind::Enterprise => Self::Enterprise,
            OrganizationKind::ServiceProvider => Self::ServiceProvider,
        }
    }
}

impl From<ServiceLine> for pb::ServiceLine {
    fn from(value: ServiceLine) -> Self {
        match value {
            ServiceLine::Authentication => Self::Authentication,
            ServiceLine::Issuance => Self::Issuance,
        }
    }
}

impl From<ContractMode> for pb::ContractMode {
    fn from(value: ContractMode) -> Self {
        match value {
            ContractMode::Trial => Self::Trial,
            ContractMode::Production => Self::Production,
        }
    }
}

impl From<LockMode> for pb::LockMode {
    fn from(value: LockMode) -> Self {
        match value {
            LockMode::ReadOnly => Self::ReadOnly,
            LockMode::Full => Self::Full,
        }
    }
}

impl From<TenantState> for pb::TenantState {
    fn from(value: TenantState) -> Self {
        match value {
            TenantState::PendingApproval => Self::PendingApproval,
            TenantState::Active => Self::Active,
            TenantState::Rejected => Self::Rejected,
            TenantState::Deleted => Self::Deleted,
        }
    }
}
