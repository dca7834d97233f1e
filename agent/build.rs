//! Generates the ttrpc bindings from `proto/`.

use std::env;
use std::error::Error;
use std::fs;
use std::path::PathBuf;

use ttrpc_codegen::{Codegen, Customize, ProtobufCustomize};

const PROTOS: [&str; 5] = ["agent", "csi", "health", "oci", "types"];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto");
    let out = PathBuf::from(env::var("OUT_DIR")?);
    let inputs = PROTOS.map(|name| format!("proto/{name}.proto"));

    Codegen::new()
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
