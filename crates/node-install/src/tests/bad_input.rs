//! What is refused, and that nothing is lost by it.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};

use super::fixture::{HOSTS, Host, bundle};
use crate::daemon::Daemon;
use crate::disk::{Disk, Fault};
use crate::dropin::Erofs;
use crate::engine::Kind;

const MAIN: &str = "/etc/containerd/config.toml";

/// A host's files, the error's code, and words that it has.
type Refused<'a> = (&'a [(&'a str, &'a str)], &'a str, &'a [&'a str]);

/// The error's code, and what is done to an installed host before.
type Spoiled = (&'static str, fn(&Host));

#[test]
fn hosts_that_are_refused_stay_as_they_are() {
    let handler = |kind: &str| {
        format!(
            "version = 3\n[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.coffer]\nruntime_type = '{kind}'\n"
        )
    };
    let foreign = handler("io.containerd.runc.v2");
    let cases: &[Refused<'_>] = &[
        (&[(MAIN, "version = [\n")], "syntax", &[MAIN, "does not parse"]),
        (&[(MAIN, "version = 5\n")], "schema", &[MAIN, "schema 5"]),
        (&[(MAIN, "version = 1\n")], "schema", &["schema 1", "config migrate"]),
        (&[(MAIN, "[plugins.cri]\n")], "schema", &["schema none"]),
        (&[(MAIN, "version = 3\nimports = \"/x\"\n")], "syntax", &["`imports` is no list"]),
        (&[(MAIN, &foreign)], "taken", &["handler coffer", "io.containerd.runc.v2", "--instance"]),
        (&[("/etc/hostname", "x")], "no-engine", &["install one of them first"]),
        (&[(MAIN, ""), ("/etc/crio/crio.conf", "")], "many-engines", &["containerd and CRI-O", "--engine"]),
        (
            &[(MAIN, "version = 3\n"), ("/etc/containerd/conf.d/coffer.toml", "# somebody's\n")],
            "foreign",
            &["/etc/containerd/conf.d/coffer.toml is there"],
        ),
        (&[(MAIN, "version = 3\n"), ("/opt/coffer/versions/x", "")], "foreign", &["/opt/coffer/versions"]),
        (
            &[(MAIN, "version = 3\n"), ("/opt/coffer/install.json", "{\"format\": 9}")],
            "record",
            &["its format is 9"],
        ),
    ];
    for (files, code, words) in cases {
        let host = Host::new(files);
        let before = host.tree();
        let error = host.install(&bundle("1", "shim")).unwrap_err();
        let said = error.to_string();
        assert_eq!(error.code(), *code, "{said}");
        assert!(words.iter().all(|word| said.contains(word)), "{said}");
        assert_eq!(host.tree(), before, "{said}");
    }
}

#[test]
fn an_engine_that_does_not_come_back_has_its_old_configuration() {
    for (name, files) in HOSTS {
        let host = Host::new(files);
        let (before, kind) = (host.tree(), host.engine().unwrap().kind);
        host.daemon.hates.set(Some("containerd-shim-coffer"));
        let error = host.install(&bundle("1", "shim")).unwrap_err();
        assert!(
            error.code() == "rolled-back" && error.to_string().contains("exit status 1"),
            "{name}: {error}"
        );
        assert_eq!(host.tree(), before, "{name}");
        assert!(host.daemon.serving(kind).is_ok(), "{name}");
    }
}

#[test]
fn an_engine_that_loses_a_runtime_has_its_old_configuration() {
    let host = Host::new(HOSTS[3].1);
    let before = host.tree();
    host.daemon.forgets.set(Some("kata-qemu"));
    let said = host.install(&bundle("1", "shim")).unwrap_err().to_string();
    assert!(said.contains("it has lost the runtime kata-qemu that was there before"), "{said}");
    // The files tell so much, so it was not started with them.
    assert_eq!((host.tree(), host.daemon.restarts.get()), (before, 1));
}

#[test]
fn a_failed_upgrade_leaves_the_old_version_at_work() {
    let host = Host::new(HOSTS[2].1);
    let version = host.install(&bundle("1", "1")).unwrap().version;
    let kind = host.engine().unwrap().kind;
    host.daemon.hates.set(Some("enable_dmverity"));
    let new = bundle("2", "2");
    let error = host.install_with(&new, Fault::None, &["coffer"], Erofs::WithTrees).unwrap_err();
    assert_eq!(error.code(), "rolled-back", "{error}");
    assert!(host.daemon.serving(kind).unwrap().contains_key("coffer-snp"));
    assert_eq!(host.root.target("/opt/coffer/current").unwrap(), format!("versions/{version}"));
    host.daemon.hates.set(None);
    assert_eq!(host.install(&new).unwrap().collected, [version]);
}

/// In containerd 1.7 such a file hides all that the main file says of CRI, ours too.
#[test]
fn an_old_containerd_whose_runtimes_are_in_a_drop_in_keeps_them() {
    let import = "version = 2\nimports = [\"/etc/containerd/conf.d/*.toml\"]\n";
    let theirs = "version = 2\n[plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.nvidia]\nruntime_type = \"io.containerd.runc.v2\"\n";
    let host = Host::new(&[HOSTS[0].1[0], (MAIN, import), ("/etc/containerd/conf.d/99-nvidia.toml", theirs)]);
    let before = host.tree();
    let error = host.install(&bundle("1", "1")).unwrap_err();
    let said = error.to_string();
    assert!(error.code() == "rolled-back" && said.contains("does not know the handler coffer"), "{said}");
    assert_eq!((host.tree(), host.daemon.restarts.get()), (before, 1));
}

#[test]
fn an_upgrade_that_does_not_come_about_leaves_new_pods_what_they_had() {
    const DROP_IN: &str = "/etc/containerd/conf.d/coffer.toml";
    let (old, new) = (bundle("1", "1"), bundle("2", "2"));
    let cases: [Spoiled; 3] = [
        ("rolled-back", |host| host.daemon.hates.set(Some("enable_dmverity"))),
        ("foreign", |host| host.write(DROP_IN, "# somebody's\n")),
        ("daemon", |host| host.write("/etc/containerd/conf.d/other.toml", "version =\n")),
    ];
    for (code, spoil) in cases {
        let host = Host::new(HOSTS[2].1);
        host.install(&old).unwrap();
        spoil(&host);
        let before = host.tree();
        let attempt = host.install_with(&new, Fault::None, &["coffer"], Erofs::WithTrees);
        assert_eq!(attempt.unwrap_err().code(), code);
        assert_eq!(host.tree_without(&new), before, "{code}");
    }
    // Where a class that was asked for cannot work.
    let host = Host::new(HOSTS[2].1);
    host.install(&old).unwrap();
    let before = host.tree();
    let staged = host.stage(&new, &Disk::new(&host.root, Fault::None)).unwrap();
    assert_eq!(host.tree_without(&new), before);
    staged.abandon(&host.root, &host.daemon).unwrap();
    assert_eq!((host.tree(), host.daemon.restarts.get()), (before, 2));
}

#[test]
fn an_engine_that_fails_without_us_too_is_told() {
    let host = Host::new(HOSTS[2].1);
    host.daemon.hates.set(Some("runc"));
    let error = host.install(&bundle("1", "1")).unwrap_err();
    assert!(error.code() == "rollback-failed" && error.to_string().contains("with that either"), "{error}");
    host.daemon.hates.set(None);
    host.uninstall().unwrap();
}

#[test]
fn directories_of_ours_that_lead_elsewhere_are_refused() {
    for (path, target) in [("opt/coffer", "/etc"), ("etc/coffer", "/opt")] {
        let host = Host::new(HOSTS[2].1);
        symlink(target, host.at(path)).unwrap();
        let before = host.tree();
        let error = host.install(&bundle("1", "1")).unwrap_err();
        assert_eq!((error.code(), host.tree()), ("link", before), "{error}");
    }
    // A drop-in that is a link would have somebody else's file written.
    let host = Host::new(HOSTS[3].1);
    host.write("/etc/victim", "theirs");
    symlink("/etc/victim", host.at("/etc/containerd/conf.d/coffer.toml")).unwrap();
    let before = host.tree();
    assert!(host.install(&bundle("1", "1")).is_err());
    assert_eq!(host.tree(), before);
}

#[test]
fn a_main_file_that_is_a_link_stays_one_and_keeps_its_mode() {
    let host = Host::new(&[("/etc/real.toml", HOSTS[2].1[0].1)]);
    fs::create_dir(host.at("/etc/containerd")).unwrap();
    fs::set_permissions(host.at("/etc/real.toml"), fs::Permissions::from_mode(0o600)).unwrap();
    symlink("../real.toml", host.at(MAIN)).unwrap();
    let before = host.tree();
    host.install(&bundle("1", "1")).unwrap();
    let tree = host.tree();
    assert!(
        tree["/etc/real.toml"].starts_with("600 ") && tree["/etc/real.toml"].contains("conf.d"),
        "{tree:?}"
    );
    host.uninstall().unwrap();
    assert_eq!(host.tree(), before);
}

#[test]
fn a_bundle_that_is_spoiled_changes_nothing() {
    let host = Host::new(HOSTS[2].1);
    let (before, bundle) = (host.tree(), bundle("1", "1"));
    fs::write(bundle.path().join("bin/coffer"), "other").unwrap();
    let error = host.install(&bundle).unwrap_err();
    assert_eq!((error.code(), host.tree()), ("checksum", before), "{error}");
}

/// As `nvidia-ctk` and `containerd config migrate` write a file: the same tables, without what is no table.
fn anew(text: &str) -> String {
    let lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines.map(|line| format!("{line}\n")).collect()
}

#[test]
fn a_file_that_was_written_anew_keeps_no_handler_of_ours_unseen() {
    const TEMPLATE: &str = "/var/lib/rancher/rke2/agent/etc/containerd/config-v3.toml.tmpl";
    for (files, path) in [(HOSTS[0].1, MAIN), (HOSTS[9].1, TEMPLATE)] {
        let host = Host::new(files);
        let plain = host.root.text(path).unwrap().unwrap();
        host.install(&bundle("1", "1")).unwrap();
        let kind = host.engine().unwrap().kind;
        host.write(path, &anew(&host.root.text(path).unwrap().unwrap()));
        let (before, restarts, new) = (host.tree(), host.daemon.restarts.get(), bundle("2", "2"));
        let is_told = |error: crate::Error| {
            let said = error.to_string();
            assert!(error.code() == "edited" && said.contains("handler coffer "), "{path}: {said}");
            assert!(said.contains(path) && said.contains("by hand"), "{path}: {said}");
        };
        is_told(host.install(&new).unwrap_err());
        assert_eq!(
            (host.tree_without(&new), host.daemon.restarts.get()),
            (before.clone(), restarts),
            "{path}"
        );
        is_told(host.uninstall().unwrap_err());
        if path == MAIN {
            assert_eq!((host.tree_without(&new), host.daemon.restarts.get()), (before, restarts));
        }
        assert!(host.root.exists("/opt/coffer/current/bin/containerd-shim-coffer-v2"), "{path}");
        assert!(host.daemon.serving(kind).unwrap().contains_key("coffer"), "{path}");
        host.write(path, &plain);
        assert!(host.uninstall().unwrap().kept.is_empty());
        assert_eq!(host.tree(), Host::new(files).tree(), "{path}");
    }
}

/// As an installer that did not look for them has left it.
#[test]
fn a_file_that_has_our_handlers_twice_can_be_read_after_a_refusal() {
    let host = Host::new(HOSTS[0].1);
    host.install(&bundle("1", "1")).unwrap();
    let main = host.root.text(MAIN).unwrap().unwrap();
    let tables = &main[main.find("\n# Written by").unwrap()..];
    host.write(MAIN, &format!("{}{tables}", anew(&main)));
    assert!(host.daemon.configured(Kind::Containerd).is_err());
    assert_eq!(host.uninstall().unwrap_err().code(), "edited");
    assert!(host.daemon.configured(Kind::Containerd).unwrap().contains_key("coffer"));
    assert!(host.root.exists("/opt/coffer/current/bin/containerd-shim-coffer-v2"));
    host.write(MAIN, HOSTS[0].1[1].1);
    host.uninstall().unwrap();
    assert_eq!(host.tree(), Host::new(HOSTS[0].1).tree());
}

/// `containerd config dump` has what the drop-in says, and some make a main file of that.
#[test]
fn a_main_file_that_is_a_dump_keeps_no_handler_of_ours_unseen() {
    let host = Host::new(HOSTS[2].1);
    host.install(&bundle("1", "1")).unwrap();
    let drop_in = host.root.text("/etc/containerd/conf.d/coffer.toml").unwrap().unwrap();
    host.write(MAIN, &anew(&drop_in));
    let before = host.tree();
    let error = host.uninstall().unwrap_err();
    assert!(error.code() == "edited" && error.to_string().contains(MAIN), "{error}");
    assert_eq!(host.tree(), before);
}

#[test]
fn an_uninstallation_after_which_the_engine_fails_keeps_the_programs() {
    let host = Host::new(HOSTS[2].1);
    host.install(&bundle("1", "1")).unwrap();
    let main = host.root.text(MAIN).unwrap().unwrap();
    host.daemon.hates.set(Some("runc"));
    let error = host.uninstall().unwrap_err();
    assert!(error.code() == "uninstalled" && host.root.exists("/opt/coffer/current/bin/coffer"), "{error}");
    assert_ne!(host.root.text(MAIN).unwrap().unwrap(), main);
    host.daemon.hates.set(None);
    assert!(host.uninstall().unwrap().was_there && !host.root.exists("/opt/coffer"));
    assert!(host.daemon.serving(Kind::Containerd).is_ok());
}
