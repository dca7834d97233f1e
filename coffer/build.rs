//! Puts the commit into the version: the one of the sources, where they are a checkout.

use std::path::Path;
use std::process::Command;

fn main() {
    let git = |args: &[&str]| {
        let output = Command::new("git").args(args).output().ok().filter(|output| output.status.success())?;
        String::from_utf8(output.stdout).ok().map(|text| text.trim().to_owned())
    };
    println!("cargo::rerun-if-env-changed=COFFER_COMMIT");
    // Where the checkout's commit is written down; another one has another version.
    for file in ["HEAD", "logs/HEAD"] {
        let path = git(&["rev-parse", "--git-path", file]).filter(|path| Path::new(path).exists());
        if let Some(path) = path {
            println!("cargo::rerun-if-changed={path}");
        }
    }
    let commit = std::env::var("COFFER_COMMIT").ok().or_else(|| git(&["rev-parse", "--short=12", "HEAD"]));
    println!("cargo::rustc-env=COFFER_COMMIT={}", commit.unwrap_or_else(|| "unknown".to_owned()));
}
