//! What `make package` makes, of small stand-ins for the shim and a guest image: the same bytes each time, and all that a
//! release needs is in it.

#![allow(clippy::unwrap_used, reason = "a test's helpers may panic as the test itself")]

use std::collections::BTreeSet;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

const VERSION: &str = "1.2.3-rc1";

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn output(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// The package, made below a directory.
fn package(directory: &Path, name: &str) -> PathBuf {
    let (programs, image, out) = (directory.join("programs"), directory.join("image"), directory.join(name));
    fs::create_dir_all(&programs).unwrap();
    fs::create_dir_all(&image).unwrap();
    // Without what a debugger needs, which is most of it here and not there in a release.
    output(Command::new("strip").arg("-o").arg(programs.join("coffer")).arg(env!("CARGO_BIN_EXE_coffer")));
    let shim = programs.join("containerd-shim-coffer-v2");
    fs::write(&shim, "#!/bin/sh\n").unwrap();
    fs::set_permissions(&shim, Permissions::from_mode(0o755)).unwrap();
    let manifest = r#"{
  "agent_sha256": "e12c7959dbc30b7888388308eb1163a453d234553d694299409fdadcce289d4a",
  "packages": {
    "linux-source-7.2": "7.2.12-1",
    "cryptsetup-bin": "2:2.8.8-1"
  }
}
"#;
    fs::write(image.join("image.json"), manifest).unwrap();
    fs::write(image.join("vmlinuz"), "kernel").unwrap();
    let mut command = Command::new(repository().join("tools/package"));
    command.arg(&out).arg(&image).arg("-");
    command
        .env("COFFER_BUNDLE_PROGRAMS", &programs)
        .env("COFFER_BUNDLE_VERSION", VERSION)
        .env("COFFER_PACKAGE_LEVEL", "1");
    command.env("SOURCE_DATE_EPOCH", "1700000000");
    output(&mut command);
    out
}

#[test]
fn a_release_has_all_its_parts_and_is_made_again_byte_for_byte() {
    let dir = tempfile::tempdir().unwrap();
    let (one, other) = (package(dir.path(), "one"), package(dir.path(), "other"));
    let names = [
        "SHA256SUMS".to_owned(),
        format!("coffer-{VERSION}-x86_64.cdx.json"),
        format!("coffer-{VERSION}-x86_64.tar.gz"),
        format!("coffer_{VERSION}_amd64.deb"),
    ];
    let found: BTreeSet<_> =
        fs::read_dir(&one).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    assert_eq!(found.iter().collect::<Vec<_>>(), names.iter().collect::<Vec<_>>());
    for name in &names {
        assert!(
            fs::read(one.join(name)).unwrap() == fs::read(other.join(name)).unwrap(),
            "{name} is not the same"
        );
    }
    output(
        Command::new("sha256sum").args(["--check", "--strict", "--quiet", "SHA256SUMS"]).current_dir(&one),
    );
    tarball(&one.join(&names[2]), &dir.path().join("unpacked"));
    debian(&one.join(&names[3]), &dir.path().join("deb"));
    let sbom: Value = serde_json::from_str(&fs::read_to_string(one.join(&names[1])).unwrap()).unwrap();
    components(&sbom, &dir.path().join("unpacked"));
}

/// Unpacked, it is a bundle that `coffer install` takes.
fn tarball(archive: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    output(
        Command::new("tar")
            .args(["--extract", "--strip-components=2", "--file"])
            .arg(archive)
            .arg("-C")
            .arg(to),
    );
    let listed = output(Command::new("tar").args(["--list", "--verbose", "--file"]).arg(archive));
    assert!(listed.lines().all(|line| line.contains(" 0/0 ") && line.contains("2023-11-14")), "{listed}");
    let bundle = node_install_reads(to);
    for path in [
        "bin/coffer",
        "bin/containerd-shim-coffer-v2",
        "share/images/plain/image.json",
        "share/man/man1/coffer.1",
        "share/man/man1/coffer-install.1",
        "share/bash-completion/completions/coffer",
        "share/zsh/vendor-completions/_coffer",
        "share/fish/vendor_completions.d/coffer.fish",
    ] {
        assert!(bundle.contains(path), "{path} is not in {bundle:?}");
    }
    // All that a node has to have of libraries is the C library, and what comes with it.
    let dynamic = output(Command::new("readelf").arg("--dynamic").arg(to.join("bin/coffer")));
    let needed = dynamic.lines().filter(|line| line.contains("(NEEDED)"));
    let needed: BTreeSet<_> = needed.filter_map(|line| line.split(['[', ']']).nth(1)).collect();
    let usual = ["ld-linux-x86-64.so.2", "libc.so.6", "libgcc_s.so.1", "libm.so.6"];
    assert!(needed.contains("libc.so.6") && needed.is_subset(&BTreeSet::from(usual)), "{needed:?}");
    let page = fs::read_to_string(to.join("share/man/man1/coffer-install.1")).unwrap();
    assert!(page.contains(".TH") && page.contains("Examples:"), "{page}");
    output(Command::new("bash").arg("-n").arg(to.join("share/bash-completion/completions/coffer")));
}

/// The paths of a bundle's files, as `coffer install` reads it: nothing but what its list names, each with its digest.
fn node_install_reads(directory: &Path) -> BTreeSet<String> {
    let bundle = node_install::Bundle::read(directory).unwrap();
    bundle.files().iter().map(|file| file.path.clone()).collect()
}

fn debian(package: &Path, to: &Path) {
    let field =
        |name: &str| output(Command::new("dpkg-deb").arg("--field").arg(package).arg(name)).trim().to_owned();
    assert_eq!((field("Package").as_str(), field("Version").as_str()), ("coffer", "1.2.3~rc1"));
    assert!(field("Depends").starts_with("libc6 (>= 2."), "{}", field("Depends"));
    output(Command::new("dpkg-deb").arg("--raw-extract").arg(package).arg(to));
    assert_eq!(
        fs::read_link(to.join("usr/bin/coffer")).unwrap(),
        Path::new("../lib/coffer/bundle/bin/coffer")
    );
    node_install_reads(&to.join("usr/lib/coffer/bundle"));
    for path in [
        "usr/share/man/man1/coffer.1.gz",
        "usr/share/doc/coffer/copyright",
        "usr/share/doc/coffer/sbom.cdx.json",
    ] {
        assert!(to.join(path).exists(), "{path}");
    }
    // The command in it is part of a bundle: it says so by not asking for one.
    let help = output(Command::new(to.join("usr/bin/coffer")).args(["install", "--help"]));
    assert!(help.contains("the bundle that this program is part of"), "{help}");
    removal(&to.join("DEBIAN/prerm"), to);
}

/// A package whose installation is at work is not removed; one that is upgraded is.
fn removal(script: &Path, dir: &Path) {
    let bin = dir.join("played");
    fs::create_dir(&bin).unwrap();
    let of = |status: u8, verb: &str| {
        let coffer = bin.join("coffer");
        fs::write(&coffer, format!("#!/bin/sh\nexit {status}\n")).unwrap();
        fs::set_permissions(&coffer, Permissions::from_mode(0o755)).unwrap();
        let path = format!("{}:/usr/bin:/bin", bin.display());
        Command::new("sh").arg(script).arg(verb).env("PATH", path).output().unwrap()
    };
    for (status, verb, goes) in [
        (4, "remove", true),
        (0, "remove", false),
        (3, "remove", false),
        (0, "upgrade", true),
        (3, "upgrade", true),
        (1, "upgrade", true),
    ] {
        let output = of(status, verb);
        assert_eq!(output.status.success(), goes, "{verb} with status {status}");
        assert!(goes || String::from_utf8_lossy(&output.stderr).contains("coffer uninstall"));
    }
}

fn components(sbom: &Value, bundle: &Path) {
    assert_eq!((&sbom["bomFormat"], &sbom["specVersion"]), (&"CycloneDX".into(), &"1.5".into()));
    assert_eq!(sbom["metadata"]["component"]["version"], VERSION);
    let all = sbom["components"].as_array().unwrap();
    let named =
        |name: &str| all.iter().find(|one| one["name"] == name).unwrap_or_else(|| panic!("no {name}"));
    let tokio = named("tokio");
    assert!(tokio["purl"].as_str().unwrap().starts_with("pkg:cargo/tokio@1."), "{tokio}");
    assert_eq!(
        (&tokio["licenses"][0]["expression"], tokio["hashes"][0]["content"].as_str().unwrap().len()),
        (&"MIT".into(), 64)
    );
    for own in ["coffer", "containerd-shim-coffer", "node-install", "coffer-init"] {
        assert_eq!(named(own)["licenses"][0]["expression"], "Apache-2.0", "{own}");
    }
    // What tests bring is in no program.
    assert!(!all.iter().any(|one| one["name"] == "insta" || one["name"] == "emulated-gpu"));
    let crates =
        all.iter().filter(|one| one["purl"].as_str().is_some_and(|purl| purl.starts_with("pkg:cargo/")));
    for one in crates {
        assert!(one["licenses"][0]["expression"].is_string(), "{one} has no licence");
    }
    assert_eq!(named("cryptsetup-bin")["purl"], "pkg:deb/debian/cryptsetup-bin@2%3A2.8.8-1?distro=forky");
    for line in fs::read_to_string(bundle.join("SHA256SUMS")).unwrap().lines() {
        let (sum, path) = line.split_once("  ").unwrap();
        assert_eq!(named(path)["hashes"][0]["content"], sum, "{path}");
    }
    let references: BTreeSet<_> = all.iter().map(|one| one["bom-ref"].as_str().unwrap()).collect();
    assert_eq!(references.len(), all.len(), "each has a name of its own");
}
