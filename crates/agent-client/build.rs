//! Generates the ttrpc bindings from `proto/`.

use std::env;
use std::error::Error;
use std::fs;
use std::path::PathBuf;

use protobuf::descriptor::field_descriptor_proto::Type;
use protobuf::reflect::{FieldDescriptor, MessageDescriptor};
use ttrpc_codegen::{Codegen, Customize, ProtobufCustomize, ProtobufCustomizeCallback};

const PROTOS: [&str; 6] = ["agent", "confidential_data_hub", "csi", "health", "oci", "types"];

/// Gives the messages the JSON that kata-agent shows its policy engine: its own build derives the same
/// (kata-containers 4.1.0, `src/libs/protocols/build.rs`).
struct PolicyJson;

impl ProtobufCustomizeCallback for PolicyJson {
    fn message(&self, _: &MessageDescriptor) -> ProtobufCustomize {
        ProtobufCustomize::default().before("#[derive(serde::Serialize)]")
    }

    fn field(&self, field: &FieldDescriptor) -> ProtobufCustomize {
        let with = match field.proto().type_() {
            Type::TYPE_ENUM => "enumeration",
            Type::TYPE_MESSAGE if field.is_singular() => "message",
            _ => return ProtobufCustomize::default(),
        };
        ProtobufCustomize::default()
            .before(&format!("#[serde(serialize_with = \"crate::policy_json::{with}\")]"))
    }

    fn special_field(&self, _: &MessageDescriptor, _: &str) -> ProtobufCustomize {
        ProtobufCustomize::default().before("#[serde(skip)]")
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto");
    let out = PathBuf::from(env::var("OUT_DIR")?);
    let inputs = PROTOS.map(|name| format!("proto/{name}.proto"));

    let mut codegen = Codegen::new();
    if env::var_os("CARGO_FEATURE_POLICY_JSON").is_some() {
        codegen.rust_protobuf_customize_callback(PolicyJson);
    }
    codegen
        .inputs(&inputs)
        .include("proto")
        .out_dir(&out)
        .rust_protobuf()
        // The lite runtime leaves descriptors and reflection out of a binary that stays resident.
        .rust_protobuf_customize(ProtobufCustomize::default().lite_runtime(true))
        .customize(Customize { async_all: true, ..Default::default() })
        .run()?;

    // Inner attributes are not allowed in a file that is included into a module;
    // `proto.rs` carries those that matter.
    for entry in fs::read_dir(&out)? {
        let path = entry?.path();
        if path.extension().is_none_or(|ext| ext != "rs") {
            continue;
        }
        let text = fs::read_to_string(&path)?;
        let kept: Vec<&str> =
            text.lines().filter(|line| !line.starts_with("#!") && !line.starts_with("//!")).collect();
        fs::write(&path, kept.join("\n"))?;
    }
    Ok(())
}
