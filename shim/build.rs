//! Has the released program linked without its tables for unwinding.

use std::env;

fn main() {
    println!("cargo:rerun-if-changed=no-unwinding.ld");
    println!("cargo:rerun-if-changed=build.rs");
    // Released programs abort at a panic (Cargo.toml) and never unwind; the tables are an eighth of their size. Cargo tells
    // a build script the profile, not what the profile says of panics.
    if env::var("PROFILE").as_deref() == Ok("release")
        && let Ok(here) = env::var("CARGO_MANIFEST_DIR")
    {
        println!("cargo:rustc-link-arg-bins=-Wl,-T,{here}/no-unwinding.ld");
    }
}
