//! Installers that are killed at each step, and disks that are full at each step.

use std::cell::Cell;

use tempfile::TempDir;

use super::fixture::{HOSTS, Host, bundle};
use crate::daemon::Daemon;
use crate::disk::{Disk, Fault};
use crate::dropin::Erofs;

const CLASSES: [&str; 2] = ["coffer", "coffer-snp"];

/// Runs `attempt` with a fault at step 1, 2, ... until it needs no more steps; returns how many it has.
fn at_each_step(mut attempt: impl FnMut(u32, &Cell<u32>) -> bool) -> u32 {
    for at in 1.. {
        let steps = Cell::new(0);
        if attempt(at, &steps) {
            return steps.get();
        }
        assert!(at < 1000);
    }
    0
}

fn installs(host: &Host, bundle: &TempDir, fault: Fault<'_>) -> bool {
    host.install_with(bundle, fault, &CLASSES, Erofs::Yes).is_ok()
}

#[test]
fn killed_at_any_step_of_an_installation_the_next_run_reaches_the_same_end() {
    let bundle = bundle("1", "shim");
    for (name, files) in HOSTS {
        let whole = Host::new(files);
        let before = whole.tree();
        whole.install(&bundle).unwrap();
        let wanted = whole.tree();
        let steps = at_each_step(|at, steps| {
            let host = Host::new(files);
            let done = installs(&host, &bundle, Fault::Killed { at, steps });
            host.install(&bundle).unwrap_or_else(|error| panic!("{name}, step {at}: {error}"));
            assert_eq!(host.tree(), wanted, "{name}, killed at step {at}");
            host.uninstall().unwrap();
            assert_eq!(host.tree(), before, "{name}, killed at step {at}, uninstalled");
            done
        });
        assert!(steps > 30, "{name}: {steps}");
    }
}

#[test]
fn killed_at_any_step_of_an_installation_it_can_be_taken_back() {
    let bundle = bundle("1", "shim");
    for (name, files) in HOSTS {
        at_each_step(|at, steps| {
            let host = Host::new(files);
            let before = host.tree();
            let done = installs(&host, &bundle, Fault::Killed { at, steps });
            host.uninstall().unwrap_or_else(|error| panic!("{name}, step {at}: {error}"));
            assert_eq!(host.tree(), before, "{name}, killed at step {at}");
            done
        });
    }
}

#[test]
fn killed_at_any_step_of_an_uninstallation_the_next_run_reaches_the_same_end() {
    let bundle = bundle("1", "shim");
    for (name, files) in HOSTS {
        let steps = at_each_step(|at, steps| {
            let host = Host::new(files);
            let before = host.tree();
            host.install(&bundle).unwrap();
            let done = host.uninstall_with(Fault::Killed { at, steps }).is_ok();
            host.uninstall().unwrap_or_else(|error| panic!("{name}, step {at}: {error}"));
            assert_eq!(host.tree(), before, "{name}, killed at step {at}");
            done
        });
        assert!(steps > 8, "{name}: {steps}");
    }
}

#[test]
fn killed_at_any_step_of_the_first_of_two_uninstallations_the_second_instance_stays() {
    let (one, other) = (bundle("1", "shim"), bundle("2", "other"));
    for (name, files) in [HOSTS[0], HOSTS[2], HOSTS[5], HOSTS[10]] {
        at_each_step(|at, steps| {
            let mut host = Host::new(files);
            let before = host.tree();
            host.install(&one).unwrap();
            let next = "next".parse().unwrap();
            let usual = std::mem::replace(&mut host.instance, next);
            host.install(&other).unwrap();
            let next = std::mem::replace(&mut host.instance, usual);
            let done = host.uninstall_with(Fault::Killed { at, steps }).is_ok();
            host.uninstall().unwrap_or_else(|error| panic!("{name}, step {at}: {error}"));
            let serves = host.daemon.serving(host.engine().unwrap().kind).unwrap();
            assert!(
                serves.contains_key("coffer-next") && !serves.contains_key("coffer"),
                "{name}, step {at}"
            );
            host.instance = next;
            host.uninstall().unwrap();
            assert_eq!(host.tree(), before, "{name}, killed at step {at}");
            done
        });
    }
}

#[test]
fn killed_at_any_step_of_an_upgrade_the_next_run_reaches_the_same_end() {
    let (old, new) = (bundle("1", "old"), bundle("2", "new"));
    let (files, upgraded) = (HOSTS[0].1, Host::new(HOSTS[0].1));
    upgraded.install(&old).unwrap();
    upgraded.install_with(&new, Fault::None, &["coffer"], Erofs::No).unwrap();
    at_each_step(|at, steps| {
        let host = Host::new(files);
        host.install(&old).unwrap();
        let fault = Fault::Killed { at, steps };
        let done = host.install_with(&new, fault, &["coffer"], Erofs::No).is_ok();
        let link = host.root.target("/opt/coffer/current").unwrap();
        assert!(host.root.exists(&format!("/opt/coffer/{link}/bin/containerd-shim-coffer-v2")), "step {at}");
        host.install_with(&new, Fault::None, &["coffer"], Erofs::No).unwrap();
        assert_eq!(without_record(&host), without_record(&upgraded), "killed at step {at}");
        done
    });
}

#[test]
fn killed_at_any_step_of_an_upgrade_and_given_up_new_pods_have_a_shim() {
    let (old, new) = (bundle("1", "old"), bundle("2", "new"));
    at_each_step(|at, steps| {
        let host = Host::new(HOSTS[0].1);
        host.install(&old).unwrap();
        let done = installs(&host, &new, Fault::Killed { at, steps });
        // A class that was asked for cannot work by now.
        let staged = host.stage(&new, &Disk::new(&host.root, Fault::None)).unwrap();
        staged.abandon(&host.root, &host.daemon).unwrap();
        assert!(host.root.exists("/opt/coffer/current/bin/containerd-shim-coffer-v2"), "killed at step {at}");
        done
    });
}

/// The record keeps the digests of what was written on the way, which differ.
fn without_record(host: &Host) -> std::collections::BTreeMap<String, String> {
    let mut tree = host.tree();
    tree.remove("/opt/coffer/install.json");
    tree
}

#[test]
fn a_disk_that_is_full_at_any_step_loses_nothing() {
    let bundle = bundle("1", "shim");
    for (name, files) in HOSTS {
        at_each_step(|at, steps| {
            let host = Host::new(files);
            let before = host.tree();
            let outcome = host.install_with(&bundle, Fault::Full { at, steps }, &CLASSES, Erofs::Yes);
            if let Err(error) = &outcome {
                assert_eq!(error.code(), "change", "{name}, step {at}: {error}");
                assert_eq!(host.tree(), before, "{name}, full at step {at}");
            }
            outcome.is_ok()
        });
    }
}

#[test]
fn a_disk_that_is_full_at_any_step_of_an_upgrade_leaves_the_old_version_or_the_new_one() {
    let (old, new) = (bundle("1", "old"), bundle("2", "new"));
    for (name, files) in [HOSTS[0], HOSTS[3], HOSTS[8]] {
        let upgrade = |host: &Host, fault: Fault<'_>| host.install_with(&new, fault, &["coffer"], Erofs::No);
        let upgraded = Host::new(files);
        upgraded.install(&old).unwrap();
        let version = upgrade(&upgraded, Fault::None).unwrap().version;
        at_each_step(|at, steps| {
            let host = Host::new(files);
            host.install(&old).unwrap();
            let before = host.tree();
            let Err(error) = upgrade(&host, Fault::Full { at, steps }) else { return true };
            assert_eq!(error.code(), "change", "{name}, step {at}: {error}");
            if host.root.target("/opt/coffer/current") == Some(format!("versions/{version}")) {
                // Only what nobody uses was not removed.
                upgrade(&host, Fault::None).unwrap();
                assert_eq!(host.tree(), upgraded.tree(), "{name}, full at step {at}");
            } else {
                assert_eq!(host.tree_without(&new), before, "{name}, full at step {at}");
            }
            false
        });
    }
}
