//! Which types of events there are. What each means stands at `Event.type` in the proto.

/// All types.
pub const KINDS: &[&str] = &[
    "account.created",
    "account.deleted",
    "account.updated",
    "api_key.created",
    "api_key.expiring",
    "api_key.revoked",
    "api_key.rotated",
    "api_key.updated",
    "app_key.created",
    "app_key.deleted",
    "application.created",
    "application.deleted",
    "application.rotated",
    "application.updated",
    "authorization.expired",
    "authorization.granted",
    "authorization.revoked",
    "authorization.tenant_deleted",
    "authorization.tenant_expunged",
    "authorization.tenant_purged",
    "authorization.tenant_resumed",
    "authorization.tenant_suspended",
    "authorization.tenant_undeleted",
    "authorization.updated",
    "authorization_request.approved",
    "authorization_request.cancelled",
    "authorization_request.created",
    "authorization_request.declined",
    "authorization_request.expired",
    "authorization_request.resent",
    "backend.created",
    "backend.deleted",
    "backend.updated",
    "domain.created",
    "domain.deleted",
    "end_user_app_data.cleared",
    "end_user_app_data.created",
    "end_user_app_data.deleted",
    "end_user_app_data.updated",
    "entitlement.created",
    "entitlement.updated",
    "environment.created",
    "environment.deleted",
    "environment.updated",
    "external_key.created",
    "external_key.expiring",
    "external_key.imported",
    "external_key.revoked",
    "external_key.rotated",
    "external_key.updated",
    "group.created",
    "group.deleted",
    "group.updated",
    "installation.created",
    "installation.deleted",
    "installation.updated",
    "ip_allowlist.updated",
    "key_config.updated",
    "oauth_client.created",
    "oauth_client.disabled",
    "oauth_client.rotated",
    "oauth_client.updated",
    "operation.cancelled",
    "operation.completed",
    "operation.created",
    "operation.deleted",
    "operation.failed",
    "operation.result_taken",
    "product.created",
    "product.deleted",
    "product.updated",
    "reseller.created",
    "reseller.deleted",
    "reseller.updated",
    "service_settings.updated",
    "tenant.approved",
    "tenant.created",
    "tenant.deleted",
    "tenant.expiring",
    "tenant.expunged",
    "tenant.locked",
    "tenant.moved",
    "tenant.placed",
    "tenant.promoted",
    "tenant.purged",
    "tenant.rejected",
    "tenant.undeleted",
    "tenant.unlocked",
    "tenant.updated",
    "tenant_template.created",
    "tenant_template.deleted",
    "tenant_template.updated",
    "usage_record.created",
];

/// The types that may change what a key is good for, or what an application may do.
pub const OF_VERDICTS: &[&str] = &[
    "account.deleted",
    "account.updated",
    "api_key.revoked",
    "api_key.rotated",
    "api_key.updated",
    "app_key.deleted",
    "authorization.granted",
    "authorization.revoked",
    "authorization.updated",
    "external_key.imported",
    "external_key.revoked",
    "external_key.rotated",
    "external_key.updated",
    "installation.deleted",
    "installation.updated",
    "ip_allowlist.updated",
    "key_config.updated",
    "tenant.approved",
    "tenant.deleted",
    "tenant.expunged",
    "tenant.locked",
    "tenant.moved",
    "tenant.purged",
    "tenant.rejected",
    "tenant.undeleted",
    "tenant.unlocked",
    "tenant.updated",
];

/// Which part of an `EventResource` an event of a type carries.
pub fn resource_of<'a>(kind: &str, resource_type: &'a str) -> &'a str {
    match kind {
        "end_user_app_data.cleared" => "deleted_app_data",
        kind if kind.ends_with(".expiring") => "expiry",
        kind if kind.starts_with("authorization.tenant_") => "tenant_standing",
        _ => resource_type,
    }
}

#[cfg(test)]
mod tests {
    use prost::Name as _;

    use super::*;
    use crate::{pb, rpc::permit::POOL};

    #[test]
    fn every_type_is_described_and_has_a_resource() {
        let event = POOL.get_message_by_name(&pb::Event::full_name()).unwrap();
        let field = event.get_field_by_name("type").unwrap();
        let file = event.parent_file();
        let locations = &file.file_descriptor_proto().source_code_info.as_ref().unwrap().location;
        let comment = locations.iter().find(|location| location.path == field.path()).unwrap();
        let comment = comment.leading_comments();
        let words = comment
            .split(|c: char| !(c.is_ascii_lowercase() || c == '_' || c == '.'))
            .filter(|word| word.trim_matches('.').contains('.'))
            .map(|word| word.trim_matches('.'));
        let mut described = words.collect::<Vec<_>>();
        described.sort_unstable();

        assert_eq!(described, KINDS);
        let resource = POOL.get_message_by_name(&pb::EventResource::full_name()).unwrap();
        for kind in KINDS {
            let (resource_type, _) = kind.split_once('.').unwrap();
            let part = resource_of(kind, resource_type);
            assert!(resource.get_field_by_name(part).is_some(), "{kind}");
        }
        assert!(OF_VERDICTS.iter().all(|kind| KINDS.contains(kind)));
    }

    /// Whatever somebody does to an authorization changes what is known of it: no new type may be forgotten. What time
    /// ends is known beforehand, and what happens to its tenant is told as such.
    #[test]
    fn all_that_happens_to_authorizations_is_of_verdicts() {
        let by_itself = |kind: &str| {
            kind == "authorization.expired" || kind.starts_with("authorization.tenant_")
        };
        let of_authorizations =
            KINDS.iter().filter(|kind| kind.starts_with("authorization.") && !by_itself(kind));

        assert!(of_authorizations.clone().count() >= 2);
        for kind in of_authorizations {
            assert!(OF_VERDICTS.contains(kind), "{kind}");
        }
    }
}
