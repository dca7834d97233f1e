//! How long the conversion of a layer takes, against mkfs.erofs and veritysetup by hand on the same layer.
//!
//! usage: `conversion LAYER.tar`, a plain archive; mkfs.erofs and veritysetup are taken from `PATH`

use std::error::Error;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use std::{env, io, path};

use layers::{Digest, Hasher, Registries, Source};
use serde_json::{Value, json};

const RUNS: usize = 5;

fn main() -> Result<(), Box<dyn Error>> {
    let layer = PathBuf::from(env::args_os().nth(1).ok_or("usage: conversion LAYER.tar")?);
    let layer = path::absolute(layer)?;
    let scratch = tempfile::tempdir_in(layer.parent().ok_or("the layer is no file")?)?;
    let layout = scratch.path().join("layout");
    make_layout(&layer, &layout)?;
    let source = Source::Layout { directory: layout, tag: None };
    let (mut ours, mut by_hand) = (Duration::MAX, Duration::MAX);
    for run in 0..RUNS {
        let cache = scratch.path().join(format!("cache-{run}"));
        let search = env::split_paths(&env::var_os("PATH").unwrap_or_default()).collect();
        let hasher = Hasher { cache, search, registries: Registries::default() };
        let start = Instant::now();
        let image = hasher.image(&source, &|_| {})?;
        ours = ours.min(start.elapsed());
        let start = Instant::now();
        hand(&layer, &scratch.path().join("erofs"))?;
        by_hand = by_hand.min(start.elapsed());
        if run == 0 {
            println!("root hash {}", image.layers[0].root_hash);
        }
    }
    let bytes = fs::metadata(&layer)?.len();
    let rate = |time: Duration| u128::from(bytes) / time.as_micros().max(1);
    println!("layer     {bytes} bytes, best of {RUNS}");
    println!("ours      {} ms, {} MB/s, with both digests", ours.as_millis(), rate(ours));
    println!("by hand   {} ms, {} MB/s", by_hand.as_millis(), rate(by_hand));
    println!("ratio     {:.2} (by hand / ours)", by_hand.as_secs_f64() / ours.as_secs_f64());
    Ok(())
}

fn make_layout(layer: &Path, layout: &Path) -> Result<(), Box<dyn Error>> {
    let blobs = layout.join("blobs/sha256");
    fs::create_dir_all(&blobs)?;
    let put = |content: &[u8]| -> io::Result<Value> {
        let digest = Digest::of(content);
        fs::write(blobs.join(digest.hex()), content)?;
        Ok(json!({"digest": digest, "size": content.len()}))
    };
    let content = fs::read(layer)?;
    let config =
        json!({"os": "linux", "architecture": "amd64", "rootfs": {"diff_ids": [Digest::of(&content)]}});
    let (config, layer) = (put(config.to_string().as_bytes())?, put(&content)?);
    let manifest = json!({"schemaVersion": 2, "config": config, "layers": [layer]});
    let index = json!({"schemaVersion": 2, "manifests": [put(manifest.to_string().as_bytes())?]});
    fs::write(layout.join("index.json"), index.to_string())?;
    Ok(())
}

/// With containerd's options.
fn hand(layer: &Path, image: &Path) -> Result<(), Box<dyn Error>> {
    let mut mkfs = Command::new("mkfs.erofs");
    mkfs.args([
        "--tar=f",
        "--aufs",
        "--quiet",
        "-Enoinline_data",
        "-b4096",
        "-T0",
        "--mkfs-time",
        "--sort=none",
    ]);
    let status = mkfs.arg(image).stdin(File::open(layer)?).status()?;
    if !status.success() {
        return Err("mkfs.erofs failed".into());
    }
    let bytes = fs::metadata(image)?.len();
    let mut veritysetup = Command::new("veritysetup");
    veritysetup.arg("format").arg(format!("--salt={}", "0".repeat(64))).arg(format!("--hash-offset={bytes}"));
    veritysetup.arg(format!("--data-blocks={}", bytes / 4096)).arg(image).arg(image).stdout(Stdio::null());
    match veritysetup.status()?.success() {
        true => Ok(fs::remove_file(image)?),
        false => Err("veritysetup failed".into()),
    }
}
