//! Compiles the protos with protox (no protoc needed) and writes, beside the generated code, the
//! descriptor set that reflection, the permission check and the events read at run time.

use std::{env, fmt::Write as _, fs, path::PathBuf};

use prost_reflect::{DescriptorPool, Kind, MessageDescriptor};

const PROTO_DIR: &str = "proto";

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed={PROTO_DIR}");
    println!("cargo:rerun-if-changed=migrations");

    let out_dir = PathBuf::from(env::var("OUT_DIR")?);
    let mut protos = fs::read_dir(format!("{PROTO_DIR}/tenantry/v1"))?
        .map(|entry| Ok(entry?.path()))
        .collect::<std::io::Result<Vec<_>>>()?;
    protos.sort();
    // What errors carry within operations.
    protos.push(format!("{PROTO_DIR}/google/rpc/error_details.proto").into());

    let mut compiler = protox::Compiler::new([PROTO_DIR])?;
    compiler.include_imports(true).include_source_info(true).open_files(protos)?;
    let descriptors = compiler.encode_file_descriptor_set();
    fs::write(out_dir.join("descriptors.bin"), &descriptors)?;
    let pool = DescriptorPool::decode(&*descriptors)?;
    fs::write(out_dir.join("mutations.rs"), mutations(&pool)?)?;
    let secret = pool.all_messages().filter(has_secret).collect::<Vec<_>>();
    fs::write(out_dir.join("silent.rs"), silent(&secret)?)?;

    let mut config = prost_build::Config::new();
    // Maps in the order of their keys: equal messages must have equal bytes, for fingerprints.
    config.btree_map(["."]).enable_type_names();
    config.extern_path(".google.rpc", "::tonic_types::pb");
    config.skip_debug(secret.iter().map(|message| format!(".{}", message.full_name())));
    // Made of events that are encoded once for all watchers.
    config.extern_path(
        ".tenantry.v1.WatchEventsResponse",
        "crate::events::answer::WatchEventsResponse",
    );
    tonic_prost_build::configure()
        // The clients are for the tests and take any channel.
        .build_transport(false)
        // Undecodable messages are the caller's fault; tonic's own codec answers INTERNAL.
        .codec_path("crate::rpc::codec::Codec")
        .compile_fds_with_config(compiler.file_descriptor_set(), config)?;
    Ok(())
}

/// Whether a message carries the text of a key or another secret, which nothing may print.
fn has_secret(message: &MessageDescriptor) -> bool {
    message.package_name() == "tenantry.v1"
        && message.fields().any(|field| {
            let name = field.name();
            let is_text = field.kind() == Kind::String;
            let is_key = name == "key" && message.name() == "VerifyKeyRequest";
            is_text && (name == "secret" || name.ends_with("_secret") || is_key)
        })
}

/// Implements `Debug` for messages with secrets, without anything of them.
fn silent(messages: &[MessageDescriptor]) -> Result<String, std::fmt::Error> {
    let mut code = String::new();
    for message in messages {
        let name = message.name();
        writeln!(
            code,
            "impl std::fmt::Debug for crate::pb::{name} {{
                fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {{
                    f.write_str(\"{name}(…)\")
                }}
            }}"
        )?;
    }
    Ok(code)
}

/// Implements `Mutation` for every request that has a `request_id` and a `validate_only`.
fn mutations(pool: &DescriptorPool) -> Result<String, std::fmt::Error> {
    let is_mutation = |message: &MessageDescriptor| {
        message.get_field_by_name("request_id").is_some()
            && message.get_field_by_name("validate_only").is_some()
    };

    let mut code = String::new();
    for message in pool.all_messages().filter(is_mutation) {
        let name = message.name();
        writeln!(
            code,
            "impl crate::rpc::mutate::Mutation for crate::pb::{name} {{
                fn request_id(&self) -> &str {{ &self.request_id }}
                fn validate_only(&self) -> bool {{ self.validate_only }}
                fn effective(&self) -> Self {{ Self {{ validate_only: false, ..self.clone() }} }}
            }}"
        )?;
    }
    Ok(code)
}
