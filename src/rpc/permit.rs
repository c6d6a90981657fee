//! What every method asks of its caller, read from the options in the proto; for methods whose proto
//! is somebody else's, from a table here.

use std::{collections::HashMap, sync::LazyLock};

use prost_reflect::{DescriptorPool, MethodDescriptor, ReflectMessage as _};

use crate::{
    error::{Error, Result},
    pb,
};

/// The descriptors of everything this crate serves, as reflection hands them out.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

/// The descriptors, decoded.
pub static POOL: LazyLock<DescriptorPool> =
    LazyLock::new(|| DescriptorPool::decode(DESCRIPTORS).expect("the build wrote it"));

/// What the methods ask for that are not ours to annotate.
const FOREIGN: &[(&str, &str)] = &[
    ("/google.longrunning.Operations/ListOperations", "TENANTS:VIEW"),
    ("/google.longrunning.Operations/GetOperation", "TENANTS:VIEW"),
    ("/google.longrunning.Operations/WaitOperation", "TENANTS:VIEW"),
    ("/google.longrunning.Operations/CancelOperation", "TENANTS:ADD"),
    ("/google.longrunning.Operations/DeleteOperation", "TENANTS:ADD"),
];

/// The beginnings of the paths of all methods that ask for a key.
const CLOSED: &[&str] = &["/tenantry.", "/google.longrunning."];

/// Whether a path leads to what asks for a key: whatever is not health, reflection or a page.
pub fn is_closed(path: &str) -> bool {
    CLOSED.iter().any(|start| path.starts_with(start))
}

static METHODS: LazyLock<HashMap<String, Method>> = LazyLock::new(|| {
    let methods = POOL.services().flat_map(|service| service.methods().collect::<Vec<_>>());
    methods
        .filter_map(|method| Method::read(&method))
        .map(|method| (method.path.clone(), method))
        .collect()
});

/// A method and what it asks of its caller.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "each is an option of its own in the proto")]
pub struct Method {
    /// As in the request: `/tenantry.v1.TenantService/GetTenant`.
    pub path: String,
    /// What the caller needs.
    pub right: Right,
    /// Whether it acts on one tenant; see the setting `strict_metadata`.
    pub acts_on_tenant: bool,
    /// Whether it acts on a tenant or, without one, on an account; see the same setting.
    pub acts_on_tenant_or_account: bool,
    /// Whether it acts on what is left of a purged tenant too.
    pub acts_on_purged_tenant: bool,
    /// Whether its answer goes on for as long as the caller listens.
    pub streams: bool,
    /// Whether its caller sends messages for as long as it wants.
    pub takes_stream: bool,
    /// Whether calls of it that succeed are too many to be logged one by one.
    pub quiet: bool,
}

/// The right that a method asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Right {
    /// A role that grants this permission.
    Permission(String),
    /// A role that grants the first or, for less of what the method shows, the second.
    EitherPermission(String, String),
    /// Any valid key.
    AnyValidKey,
}

impl Right {
    /// The permissions that give it, the one for more of what the method shows first; none for any key.
    pub fn permissions(&self) -> impl Iterator<Item = &str> {
        let (more, less) = match self {
            Self::Permission(permission) => (Some(permission), None),
            Self::EitherPermission(more, less) => (Some(more), Some(less)),
            Self::AnyValidKey => (None, None),
        };
        more.into_iter().chain(less).map(String::as_str)
    }
}

impl Method {
    /// Finds a method by its path. One that declares no right cannot be found, so it cannot be
    /// called: what is forgotten is closed.
    pub fn find(path: &str) -> Option<&'static Self> {
        METHODS.get(path)
    }

    /// The method without the slash that starts its path, as logs and events call it.
    pub fn name(&self) -> &str {
        &self.path[1..]
    }

    fn read(method: &MethodDescriptor) -> Option<Self> {
        let path = format!("/{}/{}", method.parent_service().full_name(), method.name());
        if let Some((_, permission)) = FOREIGN.iter().find(|(foreign, _)| *foreign == path) {
            let right = Right::Permission((*permission).to_owned());
            return Some(Self {
                path,
                right,
                acts_on_tenant: false,
                acts_on_tenant_or_account: false,
                acts_on_purged_tenant: false,
                streams: false,
                takes_stream: false,
                quiet: false,
            });
        }
        let extension = POOL.get_extension_by_name("tenantry.v1.access")?;
        let options = method.options();
        if !options.has_extension(&extension) {
            return None;
        }
        let access = options.get_extension(&extension);
        let access: pb::Access = access.as_message()?.transcode_to().ok()?;
        let pb::Access {
            permission,
            any_valid_key,
            acts_on_tenant,
            acts_on_tenant_or_account,
            acts_on_purged_tenant,
            or_permission,
            quiet,
        } = access;
        let right = match (permission.is_empty(), or_permission.is_empty(), any_valid_key) {
            (true, true, true) => Right::AnyValidKey,
            (false, true, false) => Right::Permission(permission),
            (false, false, false) => Right::EitherPermission(permission, or_permission),
            _ => return None,
        };
        let streams = method.is_server_streaming();
        let takes_stream = method.is_client_streaming();
        Some(Self {
            path,
            right,
            acts_on_tenant,
            acts_on_tenant_or_account,
            acts_on_purged_tenant,
            streams,
            takes_stream,
            quiet,
        })
    }
}

/// A message as JSON with the names of the proto, as events keep it.
pub(crate) fn json_of<M: prost::Message + prost::Name>(message: &M) -> serde_json::Value {
    let descriptor =
        POOL.get_message_by_name(&M::full_name()).expect("every message is in the pool");
    let mut dynamic = prost_reflect::DynamicMessage::new(descriptor);
    dynamic.transcode_from(message).expect("a message has the form of its own descriptor");
    debug_assert_eq!(dynamic.descriptor().full_name(), M::full_name());
    let options = prost_reflect::SerializeOptions::new().use_proto_field_name(true);
    dynamic.serialize_with_options(serde_json::value::Serializer, &options).expect(
        "times and numbers were read by `wire`, which lets none pass that JSON has no form for",
    )
}

/// The message that [`json_of`] made this of.
///
/// # Errors
///
/// [`Error::Internal`] for JSON of anything else.
pub(crate) fn message_of<M: prost::Message + prost::Name + Default>(
    json: serde_json::Value,
) -> Result<M> {
    let descriptor =
        POOL.get_message_by_name(&M::full_name()).expect("every message is in the pool");
    prost_reflect::DynamicMessage::deserialize(descriptor, json)
        .map_err(Error::internal)?
        .transcode_to()
        .map_err(Error::internal)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::roles::PERMISSIONS;

    #[test]
    fn every_method_declares_a_right_that_exists() {
        for service in POOL.services() {
            for method in service.methods() {
                let path = format!("/{}/{}", service.full_name(), method.name());
                let found =
                    Method::find(&path).unwrap_or_else(|| panic!("{path} declares no right"));

                for permission in found.right.permissions() {
                    assert!(PERMISSIONS.contains(&permission), "{path}: {permission}");
                }
            }
        }
    }

    #[test]
    fn a_message_as_json_has_the_names_of_the_proto() {
        let tenant = pb::Tenant { tenant_id: "foo".to_owned(), ..Default::default() };

        assert_eq!(json_of(&tenant), serde_json::json!({"tenant_id": "foo"}));
    }
}
