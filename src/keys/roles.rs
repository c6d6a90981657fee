//! The roles: named sets of permissions, held within the scope of a key (4-05, 4-16).

use std::collections::BTreeSet;

use super::model::KeyScope;

/// Every permission there is, as `RESOURCE:VERB`.
pub const PERMISSIONS: &[&str] = &[
    "TENANTS:VIEW",
    "TENANTS:ADD",
    "TENANTS:EDIT",
    "TENANTS:REMOVE",
    "TENANTS:APPROVE",
    "TENANTS:LOCK",
    "TENANTS:MOVE",
    "SETTINGS:VIEW",
    "SETTINGS:EDIT",
    "GROUPS:VIEW",
    "GROUPS:EDIT",
    "APPDATA:VIEW",
    "APPDATA:EDIT",
    "ENTITLEMENTS:VIEW",
    "ENTITLEMENTS:EDIT",
    "USAGE:RECORD",
    "APPLICATIONS:VIEW",
    "APPLICATIONS:EDIT",
    "AUTHORIZATIONS:VIEW",
    "AUTHORIZATIONS:REQUEST",
    "AUTHORIZATIONS:APPROVE",
    "AUTHORIZATIONS:GRANT",
    "AUTHORIZATIONS:REVOKE",
    "AUTHORIZATIONS:CHECK",
    "KEYS:VIEW",
    "KEYS:ADD",
    "KEYS:EDIT",
    "KEYS:REMOVE",
    "KEYS:VERIFY",
    "DIRECTORY:VIEW",
    "DIRECTORY:EDIT",
    "BACKENDS:ASSIGN",
    "EVENTS:VIEW",
];

/// The role that the first key of an installation holds.
pub const SYSTEM_ADMIN: &str = "system-admin";

/// The role whose keys are bound to the tenants of one reseller.
pub const RESELLER: &str = "reseller";

/// The role whose keys see of authorizations those of their account's applications alone.
pub const APP_PUBLISHER: &str = "app-publisher";

/// The role whose keys are bound to backends.
pub const MULTI_BACKEND_ADMIN: &str = "multi-backend-admin";

/// A named set of permissions.
#[derive(Debug, PartialEq, Eq)]
pub struct Role {
    /// Its name.
    pub id: &'static str,
    /// What it is for.
    pub description: &'static str,
    /// What it grants: permissions, or `RESOURCE:*`, `*:VERB` and `*`.
    grants: &'static [&'static str],
    /// What it does not grant, though `grants` would have it.
    withholds: &'static [&'static str],
    /// In which scopes a key may hold it.
    pub scopes: &'static [KeyScope],
    /// Whether it reaches the tenants below its own.
    pub reaches_below: bool,
}

/// All roles, in the order in which they are listed.
pub static ROLES: &[Role] = &[
    Role {
        id: SYSTEM_ADMIN,
        description: "May do everything, everywhere.",
        grants: &["*"],
        withholds: &[],
        scopes: &[KeyScope::System],
        reaches_below: true,
    },
    Role {
        id: MULTI_BACKEND_ADMIN,
        description: "Places tenants on its backends: of a tenant it may change that alone.",
        grants: &["BACKENDS:ASSIGN", "TENANTS:VIEW", "TENANTS:EDIT", "DIRECTORY:VIEW"],
        withholds: &[],
        scopes: &[KeyScope::System],
        reaches_below: true,
    },
    Role {
        id: "account-admin",
        description: "May do everything within an account but assign backends.",
        grants: &["*"],
        withholds: &["BACKENDS:ASSIGN"],
        scopes: &[KeyScope::Account],
        reaches_below: true,
    },
    Role {
        id: "account-tenant-approval",
        description: "Approves or rejects the new tenants of an account.",
        grants: &["TENANTS:VIEW", "TENANTS:APPROVE"],
        withholds: &[],
        scopes: &[KeyScope::Account],
        reaches_below: true,
    },
    Role {
        id: "service-provider-admin",
        description: "Manages the tenants below its own, their entitlements and their usage.",
        grants: &["TENANTS:*", "ENTITLEMENTS:*", "USAGE:RECORD"],
        withholds: &[],
        scopes: &[KeyScope::Tenant],
        reaches_below: true,
    },
    Role {
        id: RESELLER,
        description: "Sees the tenants of one reseller.",
        grants: &["TENANTS:VIEW", "GROUPS:VIEW"],
        withholds: &[],
        scopes: &[KeyScope::Account],
        reaches_below: true,
    },
    Role {
        id: "tenant-admin",
        description: "Manages one tenant: its record, settings, groups, data, keys and consents.",
        grants: &[
            "TENANTS:VIEW",
            "TENANTS:EDIT",
            "SETTINGS:*",
            "GROUPS:*",
            "APPDATA:*",
            "ENTITLEMENTS:VIEW",
            "AUTHORIZATIONS:VIEW",
            "AUTHORIZATIONS:APPROVE",
            "AUTHORIZATIONS:REVOKE",
            "AUTHORIZATIONS:CHECK",
            "KEYS:*",
            "EVENTS:VIEW",
        ],
        withholds: &[],
        scopes: &[KeyScope::Tenant],
        reaches_below: false,
    },
    Role {
        id: "tenant-management",
        description: "Reads and changes the record and the settings of one tenant.",
        grants: &["TENANTS:VIEW", "TENANTS:EDIT", "SETTINGS:*"],
        withholds: &[],
        scopes: &[KeyScope::Tenant],
        reaches_below: false,
    },
    Role {
        id: APP_PUBLISHER,
        description: "Publishes the applications of an account and asks tenants to authorize them.",
        grants: &[
            "APPLICATIONS:*",
            "AUTHORIZATIONS:VIEW",
            "AUTHORIZATIONS:REQUEST",
            "AUTHORIZATIONS:REVOKE",
            "AUTHORIZATIONS:CHECK",
        ],
        withholds: &[],
        scopes: &[KeyScope::Account],
        reaches_below: true,
    },
    Role {
        id: "key-verifier",
        description: "Verifies keys and checks authorizations.",
        grants: &["KEYS:VERIFY", "AUTHORIZATIONS:CHECK"],
        withholds: &[],
        scopes: &[KeyScope::System, KeyScope::Account, KeyScope::Tenant],
        reaches_below: false,
    },
    Role {
        id: "auditor",
        description: "Sees everything within its scope and changes nothing.",
        grants: &["*:VIEW"],
        withholds: &[],
        scopes: &[KeyScope::System, KeyScope::Account, KeyScope::Tenant],
        reaches_below: true,
    },
];

impl Role {
    /// Finds a role by its name.
    pub fn find(id: &str) -> Option<&'static Self> {
        ROLES.iter().find(|role| role.id == id)
    }

    /// Whether it grants a permission.
    pub fn grants(&self, permission: &str) -> bool {
        let (resource, verb) = permission.split_once(':').unwrap_or((permission, ""));
        let covers = |pattern: &&str| match pattern.split_once(':') {
            None => *pattern == "*",
            Some(("*", of)) => of == verb,
            Some((of, "*")) => of == resource,
            Some(_) => *pattern == permission,
        };
        self.grants.iter().any(covers) && !self.withholds.contains(&permission)
    }

    /// What it grants, sorted.
    pub fn permissions(&'static self) -> impl Iterator<Item = &'static str> {
        permissions_of(&[self]).into_iter()
    }
}

/// What several roles grant together, sorted.
pub fn permissions_of(roles: &[&'static Role]) -> BTreeSet<&'static str> {
    PERMISSIONS
        .iter()
        .copied()
        .filter(|permission| roles.iter().any(|role| role.grants(permission)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_grant_of_a_role_names_something() {
        for role in ROLES {
            for grant in role.grants {
                let alone = Role { grants: std::slice::from_ref(grant), withholds: &[], ..*role };
                assert!(PERMISSIONS.iter().any(|p| alone.grants(p)), "{}: {grant}", role.id);
            }
        }
    }

    #[test]
    fn only_a_scope_above_the_tenant_may_raise_it() {
        let raising = ["TENANTS:APPROVE", "TENANTS:LOCK", "TENANTS:MOVE", "ENTITLEMENTS:EDIT"];

        for role in ROLES.iter().filter(|role| !role.reaches_below) {
            assert!(!raising.iter().any(|permission| role.grants(permission)), "{}", role.id);
        }
    }

    #[test]
    fn tenant_management_reads_and_changes_its_record_and_settings_and_nothing_else() {
        let role = Role::find("tenant-management").unwrap();

        assert_eq!(
            role.permissions().collect::<Vec<_>>(),
            ["SETTINGS:EDIT", "SETTINGS:VIEW", "TENANTS:EDIT", "TENANTS:VIEW"]
        );
    }
}
