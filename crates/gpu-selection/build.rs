//! Generates the messages of `proto/`.

use std::env;
use std::error::Error;
use std::fs;
use std::path::PathBuf;

use protobuf_codegen::{Codegen, Customize};

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto");
    let out = PathBuf::from(env::var("OUT_DIR")?);
    Codegen::new()
        .pure()
        .input("proto/podresources.proto")
        .include("proto")
        .out_dir(&out)
        // The lite runtime leaves descriptors and reflection out of a binary that stays resident.
        .customize(Customize::default().lite_runtime(true))
        .run()?;
    // Inner attributes are not allowed in a file that is included into a module; `proto.rs` has what matters.
    let path = out.join("podresources.rs");
    let text = fs::read_to_string(&path)?;
    let kept: Vec<&str> =
        text.lines().filter(|line| !line.starts_with("#!") && !line.starts_with("//!")).collect();
    fs::write(&path, kept.join("\n"))?;
    Ok(())
}
