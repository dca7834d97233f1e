//! Each host, from before an installation to after it.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::fixture::{HOSTS, Host, bundle};
use crate::daemon::Daemon;
use crate::disk::Fault;
use crate::dropin::Erofs;
use crate::record::Record;
use crate::versions::running;

fn difference(before: &BTreeMap<String, String>, after: &BTreeMap<String, String>) -> String {
    let ours = |path: &str| path.starts_with("/opt/coffer") || path.starts_with("/etc/coffer");
    after.iter().filter(|(path, text)| !ours(path) && before.get(*path) != Some(text)).fold(
        String::new(),
        |mut all, (path, text)| {
            let _ = writeln!(all, "==== {path}\n{text}");
            all
        },
    )
}

#[test]
fn every_engine_is_told_in_its_own_form_and_keeps_what_it_had() {
    let (mut told, bundle) = (String::new(), bundle("1.0", "shim"));
    for (name, files) in HOSTS {
        let host = Host::new(files);
        let (before, kind) = (host.tree(), host.engine().unwrap().kind);
        let had = host.daemon.configured(kind).unwrap();
        let installed = host.install(&bundle).unwrap_or_else(|error| panic!("{name}: {error}"));
        let serves = host.daemon.serving(kind).unwrap();
        assert!(installed.restarted && had.keys().all(|had| serves.contains_key(had)), "{name}: {serves:?}");
        for handler in ["coffer", "coffer-snp"] {
            assert!(serves.contains_key(handler), "{name}: {serves:?}");
        }
        assert!(!serves.contains_key("coffer-tdx"), "{name}");
        let after = host.tree();
        let _ = writeln!(told, "######## {name}\n{}", difference(&before, &after));

        let restarts = host.daemon.restarts.get();
        let again = host.install(&bundle).unwrap();
        assert_eq!(
            (host.tree(), again.restarted, host.daemon.restarts.get()),
            (after, false, restarts),
            "{name}"
        );

        let removed = host.uninstall().unwrap();
        assert!(removed.was_there && removed.kept.is_empty(), "{name}");
        assert_eq!(host.tree(), before, "{name}");
        assert_eq!(host.daemon.serving(kind).unwrap(), had, "{name}");
        assert!(!host.uninstall().unwrap().was_there);
    }
    insta::assert_snapshot!(told);
}

#[test]
fn two_instances_stand_beside_each_other() {
    let host = Host::new(HOSTS[2].1);
    let before = host.tree();
    host.install(&bundle("1.0", "shim")).unwrap();
    let one = host.tree();
    let mut next = host;
    next.instance = "next".parse().unwrap();
    next.install(&bundle("2.0", "shim of next")).unwrap();
    let kind = next.engine().unwrap().kind;
    let serves = next.daemon.serving(kind).unwrap();
    for handler in ["coffer", "coffer-snp", "coffer-next", "coffer-snp-next", "runc"] {
        assert!(serves.contains_key(handler), "{serves:?}");
    }
    next.uninstall().unwrap();
    assert_eq!(next.tree(), one);
    next.instance = crate::Instance::usual();
    next.uninstall().unwrap();
    assert_eq!(next.tree(), before);
}

#[test]
fn the_first_of_two_instances_leaves_the_second_what_it_stands_on() {
    for (name, files) in HOSTS {
        let mut host = Host::new(files);
        let before = host.tree();
        host.install(&bundle("1.0", "shim")).unwrap();
        host.instance = "next".parse().unwrap();
        if let Err(error) = host.install(&bundle("2.0", "shim of next")) {
            // A template would have the tables that are not the handlers' twice.
            let has_template = name == "k3s with containerd 1.7" || name.starts_with("rke2");
            assert!(has_template && error.code() == "rolled-back", "{name}: {error}");
            continue;
        }
        let (both, kind) = (host.tree(), host.engine().unwrap().kind);
        let restarts = host.daemon.restarts.get();
        host.instance = crate::Instance::usual();
        // Where the file named no runtime, `runc` is among the first one's words.
        let first = host.uninstall();
        if let Err(error) = &first {
            let said = error.to_string();
            assert!(error.code() == "needed" && said.contains("the runtime runc"), "{name}: {said}");
            assert_eq!((host.tree(), host.daemon.restarts.get()), (both, restarts), "{name}");
        }
        assert_eq!(first.is_err(), name.starts_with("containerd 1.7 w"), "{name}");
        let serves = host.daemon.serving(kind).unwrap();
        for handler in ["coffer-next", "coffer-snp-next"] {
            assert!(serves.contains_key(handler), "{name}: {serves:?}");
        }
        assert_eq!(serves.contains_key("coffer"), first.is_err(), "{name}: {serves:?}");
        host.instance = "next".parse().unwrap();
        if first.is_ok() {
            // What the other one had brought is this one's.
            host.install(&bundle("3.0", "shim of next")).unwrap_or_else(|error| panic!("{name}: {error}"));
            assert!(host.daemon.serving(kind).unwrap().contains_key("coffer-next"), "{name}");
        }
        assert!(host.uninstall().unwrap().kept.is_empty(), "{name}");
        if first.is_err() {
            host.instance = crate::Instance::usual();
            host.uninstall().unwrap();
        }
        assert_eq!(host.tree(), before, "{name}");
    }
}

#[test]
fn an_upgrade_keeps_what_pods_use_and_collects_the_rest() {
    let host = Host::new(HOSTS[2].1);
    let before = host.tree();
    let versions: Vec<String> =
        ["1", "2", "3"].map(|shim| host.install(&bundle(shim, shim)).unwrap().version).to_vec();
    let names = || host.root.names("/opt/coffer/versions");
    assert_eq!(names(), versions[2..], "nobody used the others");
    assert_eq!(host.daemon.restarts.get(), 2, "the engine is told of one path for all versions");
    host.shim(71, &versions[2]);
    assert_eq!(running(&host.root, &host.instance)[0].pid, 71);
    let fourth = host.install(&bundle("4", "4")).unwrap();
    assert_eq!(names(), [versions[2].clone(), fourth.version.clone()]);
    assert_eq!(host.root.target("/opt/coffer/current").unwrap(), format!("versions/{}", fourth.version));
    assert_eq!(host.root.names("/opt/coffer/images").len(), 2, "images are shared by their content");

    let refusal = host.uninstall().unwrap_err();
    assert!(refusal.code() == "pods-run" && refusal.to_string().contains("shims 71"), "{refusal}");
    let mut asked = 0;
    let mut wait = |count: usize| {
        asked += count;
        std::fs::remove_dir_all(host.at("/proc/71")).unwrap();
        true
    };
    crate::uninstall(&host.root, &host.instance, &host.daemon, Some(&mut wait)).unwrap();
    assert_eq!((asked, host.tree()), (1, before));
}

#[test]
fn what_an_owner_changed_stays_his() {
    let host = Host::new(HOSTS[2].1);
    host.install(&bundle("1", "1")).unwrap();
    host.write("/etc/coffer/coffer-snp.toml", "default_vcpus = 4\n");
    host.install(&bundle("2", "2")).unwrap();
    let read = |path: &str| host.root.text(path).unwrap().unwrap();
    assert_eq!(read("/etc/coffer/coffer-snp.toml"), "default_vcpus = 4\n");
    // The main file was edited meanwhile.
    let main = format!("{}[plugins.mine]\n", read("/etc/containerd/config.toml"));
    host.write("/etc/containerd/config.toml", &main);
    let removed = host.uninstall().unwrap();
    assert_eq!(removed.kept, ["/etc/coffer/coffer-snp.toml"]);
    assert_eq!(read("/etc/containerd/config.toml"), format!("{}[plugins.mine]\n", HOSTS[2].1[0].1));
    assert!(!host.root.exists("/opt/coffer") && host.root.exists("/etc/coffer/coffer-snp.toml"));
}

/// A file that was made because there was none is its owner's as soon as he has added to it.
#[test]
fn what_an_owner_adds_to_a_file_that_was_made_stays() {
    const MAIN: &str = "/etc/containerd/config.toml";
    let hosts =
        [("containerd without a file", "version = 3\n"), ("containerd 1.7 without a file", "version = 2\n")];
    for (name, base) in hosts {
        for upgraded in [false, true] {
            let host = Host::new(HOSTS.iter().find(|host| host.0 == name).unwrap().1);
            let read = || host.root.text(MAIN).unwrap().unwrap();
            host.install(&bundle("1", "1")).unwrap();
            host.write(MAIN, &format!("# his\n{}[debug]\n", read()));
            if upgraded {
                host.install(&bundle("2", "2")).unwrap_or_else(|error| panic!("{name}: {error}"));
                let kind = host.engine().unwrap().kind;
                assert!(host.daemon.serving(kind).unwrap().contains_key("coffer"), "{name}: {}", read());
            }
            assert!(host.uninstall().unwrap().kept.is_empty());
            assert_eq!(read(), format!("# his\n{base}[debug]\n"), "{name}, upgraded: {upgraded}");
        }
    }
    // One that was written anew is named.
    let host = Host::new(HOSTS[5].1);
    host.install(&bundle("1", "1")).unwrap();
    let anew = "version = 3\nimports = [\"/etc/containerd/conf.d/*.toml\"]\n[debug]\n";
    host.write(MAIN, anew);
    assert_eq!(host.uninstall().unwrap().kept, [MAIN]);
    assert_eq!(host.root.text(MAIN).unwrap().as_deref(), Some(anew));
}

#[test]
fn an_import_that_was_taken_out_by_hand_is_put_in_again() {
    const MAIN: &str = "/etc/containerd/config.toml";
    let import = "imports = [\"/etc/containerd/conf.d/*.toml\"]\n";
    let host = Host::new(HOSTS[0].1);
    let (before, bundle) = (host.tree(), bundle("1", "1"));
    host.install(&bundle).unwrap();
    let installed = host.tree();
    let main = host.root.text(MAIN).unwrap().unwrap();
    assert!(main.starts_with(import));
    host.write(MAIN, &main[import.len()..]);
    // As long as the engine does not work with it, it is not there.
    let spoiled = host.tree();
    host.daemon.hates.set(Some("timeout.shim.cleanup"));
    assert_eq!(host.install(&bundle).unwrap_err().code(), "rolled-back");
    assert_eq!(host.tree(), spoiled);
    host.daemon.hates.set(None);
    assert!(host.install(&bundle).unwrap().restarted);
    assert_eq!(host.tree(), installed);
    host.uninstall().unwrap();
    assert_eq!(host.tree(), before);
}

#[test]
fn a_class_that_cannot_work_any_more_is_taken_away() {
    let host = Host::new(HOSTS[2].1);
    let bundle = bundle("1", "1");
    host.install(&bundle).unwrap();
    host.install_with(&bundle, Fault::None, &["coffer"], Erofs::WithTrees).unwrap();
    let kind = host.engine().unwrap().kind;
    let serves = host.daemon.serving(kind).unwrap();
    assert!(serves.contains_key("coffer") && !serves.contains_key("coffer-snp"));
    let record = Record::read(&host.root, &host.instance).unwrap().unwrap();
    assert_eq!(record.handlers, ["coffer"]);
    assert!(
        host.root
            .text("/etc/containerd/conf.d/coffer.toml")
            .unwrap()
            .unwrap()
            .contains("enable_dmverity = true")
    );
}
