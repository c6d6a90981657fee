//! What the protos promise, walked from the descriptors, so that no new method can forget it.

use std::{collections::BTreeSet, fs, path::Path};

use prost_reflect::{MethodDescriptor, prost::Message as _, prost_types};
use tenantry::{
    pb,
    rpc::permit::{DESCRIPTORS, Method, POOL, Right},
};
use tonic_types::StatusExt as _;

use crate::app::{App, told};

fn methods() -> Vec<MethodDescriptor> {
    let methods: Vec<_> =
        POOL.services().flat_map(|service| service.methods().collect::<Vec<_>>()).collect();
    assert!(methods.len() >= 27, "the walk finds the methods");
    methods
}

fn path(method: &MethodDescriptor) -> String {
    format!("/{}/{}", method.parent_service().full_name(), method.name())
}

/// 4-03: no credential, no answer.
#[tokio::test]
async fn each_method_refuses_a_call_without_a_key_with_one_that_is_wrong_and_with_one_too_weak() {
    let app = App::start().await;
    let wrong_key = app.root.replace("tk_any_", "tk_any_A");
    let mut refused = 0;
    // Two keys that have no permission in common.
    let verifier = app.as_key(&app.as_root().create_key(&["key-verifier"]).await);
    let in_account = app.as_root().with("x-account-id", "default");
    let approver = app.as_key(&in_account.create_key(&["account-tenant-approval"]).await);
    for method in methods() {
        let path = path(&method);

        let anonymous = app.anonymous().raw(&path, Vec::new()).await.unwrap_err();
        let wrong = app.as_key(&wrong_key).raw(&path, Vec::new()).await.unwrap_err();

        for refusal in [&anonymous, &wrong] {
            assert_eq!(told(refusal), "Unauthenticated CREDENTIAL_INVALID", "{path}");
            assert!(refusal.message().contains("authorization: Bearer"), "{path}");
            assert!(refusal.metadata().contains_key("x-correlation-id"), "{path}");
        }
        assert_eq!(anonymous.message(), wrong.message(), "guesses learn nothing");
        let permissions = || Method::find(&path).unwrap().right.permissions();
        if permissions().next().is_some() {
            let is_verifying = permissions()
                .any(|permission| ["KEYS:VERIFY", "AUTHORIZATIONS:CHECK"].contains(&permission));
            let weak = if is_verifying { &approver } else { &verifier };
            let weak = weak.raw(&path, Vec::new()).await.unwrap_err();
            assert_eq!(told(&weak), "PermissionDenied PERMISSION_MISSING", "{path}");
            refused += 1;
        }
    }
    assert!(refused > 20, "most methods ask for a permission");
}

#[test]
fn each_method_declares_what_its_caller_needs() {
    for method in methods() {
        assert!(Method::find(&path(&method)).is_some(), "{} declares no access", path(&method));
    }
}

#[tokio::test]
async fn each_method_that_is_declared_is_there() {
    let app = App::start().await;
    for method in methods() {
        let answer = app.as_root().raw(&path(&method), Vec::new()).await;

        if let Err(status) = answer {
            assert_ne!(status.code(), tonic::Code::Unimplemented, "{}", path(&method));
            assert_ne!(status.code(), tonic::Code::Internal, "{}", path(&method));
        }
    }
}

#[tokio::test]
async fn a_method_that_does_not_exist_is_refused_with_what_would_help() {
    let app = App::start().await;
    for path in ["/tenantry.v1.TenantService/Nothing", "/made.up.Service/Method"] {
        for caller in [app.as_root(), app.anonymous()] {
            let refusal = caller.raw(path, Vec::new()).await.unwrap_err();

            assert_eq!(told(&refusal), "Unimplemented METHOD_UNKNOWN", "{path}");
            assert!(refusal.message().contains("grpcurl"), "{path}");
            assert!(refusal.get_error_details().request_info().is_some(), "{path}");
        }
    }
}

/// The form that all requests and answers of one kind share.
#[test]
fn requests_of_one_kind_have_one_form() {
    for method in methods() {
        // Google's own have the form that Google gave them.
        if method.parent_service().full_name() == "google.longrunning.Operations" {
            continue;
        }
        let (input, output) = (method.input(), method.output());
        let takes = |field: &str| input.get_field_by_name(field).is_some();
        let changes = ![
            "Count",
            "Get",
            "Lookup",
            "List",
            "Test",
            "Verify",
            "BatchVerify",
            "Check",
            "BatchCheck",
            "WhoAmI",
            "Watch",
        ]
        .iter()
        .any(|verb| method.name().starts_with(verb));
        assert_eq!(takes("request_id"), changes, "{}", method.name());
        assert_eq!(takes("validate_only"), changes, "{}", method.name());
        let adds = ["Create", "Grant", "Import", "Record", "Take"]
            .iter()
            .any(|verb| method.name().starts_with(verb))
            || method.name() == "RequestAuthorization";
        let changes_what_is_there = changes && !adds;
        assert_eq!(takes("etag"), changes_what_is_there, "{}", method.name());

        let lists = method.name().starts_with("List");
        for field in ["page_size", "page_token"] {
            assert_eq!(takes(field), lists, "{}.{field}", method.name());
        }
        // The roles are few and fixed: there is nothing to search.
        let searches = lists && method.name() != "ListRoles";
        for field in ["filter", "order_by"] {
            assert_eq!(takes(field), searches, "{}.{field}", method.name());
        }
        assert_eq!(output.get_field_by_name("next_page_token").is_some(), lists);
        assert!(output.get_field_by_name("total_size").is_none(), "lists never count");
    }
}

#[test]
fn everything_in_the_protos_says_what_it_means() {
    let set = prost_types::FileDescriptorSet::decode(DESCRIPTORS).unwrap();
    let ours = set.file.iter().filter(|file| file.package() == "tenantry.v1");
    let mut silent = Vec::new();
    let mut spoken = 0;
    for file in ours {
        let comments: BTreeSet<&[i32]> = file
            .source_code_info
            .as_ref()
            .unwrap()
            .location
            .iter()
            .filter(|place| !place.leading_comments().trim().is_empty())
            .map(|place| &*place.path)
            .collect();
        let mut check = |path: &[i32], name: String| {
            spoken += 1;
            if !comments.contains(path) {
                silent.push(name);
            }
        };
        for (number, message) in (0..).zip(&file.message_type) {
            message_speaks(&[4, number], message, &mut check);
        }
        for (number, kind) in (0..).zip(&file.enum_type) {
            enum_speaks(&[5, number], kind, &mut check);
        }
        for (number, service) in (0..).zip(&file.service) {
            check(&[6, number], service.name().to_owned());
            for (place, method) in (0..).zip(&service.method) {
                check(&[6, number, 2, place], method.name().to_owned());
            }
        }
    }
    assert!(spoken > 300, "the walk finds them");
    assert_eq!(silent, Vec::<String>::new(), "without a comment");
}

fn message_speaks(
    path: &[i32],
    message: &prost_types::DescriptorProto,
    check: &mut impl FnMut(&[i32], String),
) {
    if message.options.as_ref().is_some_and(prost_types::MessageOptions::map_entry) {
        return;
    }
    let below = |kind: i32, number: i32| [path, &[kind, number]].concat();
    check(path, message.name().to_owned());
    for (number, field) in (0..).zip(&message.field) {
        check(&below(2, number), format!("{}.{}", message.name(), field.name()));
    }
    for (number, inner) in (0..).zip(&message.nested_type) {
        message_speaks(&below(3, number), inner, check);
    }
    for (number, inner) in (0..).zip(&message.enum_type) {
        enum_speaks(&below(4, number), inner, check);
    }
}

fn enum_speaks(
    path: &[i32],
    kind: &prost_types::EnumDescriptorProto,
    check: &mut impl FnMut(&[i32], String),
) {
    check(path, kind.name().to_owned());
    for (number, value) in (0..).zip(&kind.value) {
        check(&[path, &[2, number]].concat(), value.name().to_owned());
    }
}

/// 4-05, 4-16: who may do what is one table, kept where reviewers see it change.
#[tokio::test]
async fn the_roles_grant_what_the_table_in_the_docs_says() {
    let app = App::start().await;
    let roles = app
        .as_root()
        .keys()
        .list_roles(pb::ListRolesRequest::default())
        .await
        .unwrap()
        .into_inner();
    let permissions: BTreeSet<&str> =
        roles.roles.iter().flat_map(|role| role.permissions.iter().map(String::as_str)).collect();

    let mut table =
        "# Roles\n\nWhat each role is for, and in which scopes a key can hold it. `ListRoles` answers the \
         same.\n\n| role | what for | scopes | tenants below its own |\n|---|---|---|---|\n"
            .to_owned();
    for role in &roles.roles {
        let scopes = role
            .scopes()
            .map(|scope| scope.as_str_name().trim_start_matches("API_KEY_SCOPE_").to_owned());
        let scopes = scopes.collect::<Vec<_>>().join(", ");
        let below = if role.reaches_below { "reached" } else { "" };
        let (id, what) = (&role.role_id, &role.description);
        table += &format!("| {id} | {what} | {scopes} | {below} |\n");
    }
    table += "\n## What each role grants\n\n";
    table += "| permission |";
    for role in &roles.roles {
        table += &format!(" {} |", role.role_id);
    }
    table += &format!("\n|---|{}\n", ":-:|".repeat(roles.roles.len()));
    for permission in permissions {
        table += &format!("| {permission} |");
        for role in &roles.roles {
            let grants = role.permissions.iter().any(|granted| granted == permission);
            table += if grants { " ✓ |" } else { "  |" };
        }
        table += "\n";
    }
    table += "\n## What each method needs\n\n| method | permission |\n|---|---|\n";
    for method in methods() {
        let right = match &Method::find(&path(&method)).unwrap().right {
            Right::AnyValidKey => "any valid key".to_owned(),
            right => right.permissions().collect::<Vec<_>>().join(", or for less "),
        };
        table += &format!("| {}/{} | {right} |\n", method.parent_service().name(), method.name());
    }

    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/roles.md");
    if std::env::var_os("TENANTRY_WRITE_DOCS").is_some() {
        fs::write(&file, &table).unwrap();
    }
    let kept = fs::read_to_string(&file).unwrap_or_default();
    assert!(kept == table, "docs/roles.md differs: run this test with TENANTRY_WRITE_DOCS=1");
}

#[tokio::test]
async fn health_and_reflection_answer_anybody() {
    let app = App::start().await;
    let mut health = tonic_health::pb::health_client::HealthClient::new(app.channel());
    for service in ["", "tenantry.v1.TenantService", "tenantry.v1.KeyService"] {
        let request = tonic_health::pb::HealthCheckRequest { service: service.to_owned() };
        let answer = health.check(request).await.unwrap().into_inner();
        assert_eq!(answer.status, 1, "{service:?} serves");
    }
    let unknown = tonic_health::pb::HealthCheckRequest { service: "made.up".to_owned() };
    let unknown = health.check(unknown).await.unwrap_err();
    assert_eq!(unknown.code(), tonic::Code::NotFound, "as its protocol has it");
    assert!(unknown.get_error_details().request_info().is_some());

    let request = tonic_reflection::pb::v1::ServerReflectionRequest {
        host: String::new(),
        message_request: Some(
            tonic_reflection::pb::v1::server_reflection_request::MessageRequest::ListServices(
                String::new(),
            ),
        ),
    };
    let mut reflection =
        tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient::new(
            app.channel(),
        );
    let mut answers =
        reflection.server_reflection_info(tokio_stream::once(request)).await.unwrap().into_inner();
    let answer = answers.message().await.unwrap().unwrap();
    let text = format!("{answer:?}");
    for service in POOL.services() {
        assert!(text.contains(service.full_name()), "{text}");
    }
}
