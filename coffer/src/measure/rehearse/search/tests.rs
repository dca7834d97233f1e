//! A pod and policies that are wrong for it in one thing each, which must be named.

use std::collections::BTreeSet;

use super::super::super::trustee;
use super::super::samples::{register, resource, snp, tdx};
use super::*;

fn policy(demand: &Demand) -> String {
    let output = trustee::output([demand.for_trustee([resource()])]).unwrap();
    output["resource_policy"].as_str().unwrap().to_owned()
}

fn asked(policy: &str, demand: &Demand) -> Answer {
    rehearse(&Broker::new(policy, &resource()).unwrap(), demand)
}

fn denied(policy: &str, demand: &Demand, words: &[&str]) {
    let Answer::Denied(why) = asked(policy, demand) else { panic!("it is given: {policy}") };
    for word in words {
        assert!(why.contains(word), "{word:?} is not in: {why}");
    }
}

#[test]
fn its_own_policy_gives_it() {
    assert_eq!(asked(&policy(&snp()), &snp()), Answer::Given(String::new()));
    assert_eq!(asked(&policy(&tdx()), &tdx()), Answer::Given(String::new()));
    let none = Demand { gpus: 0, ..snp() };
    assert_eq!(asked(&policy(&none), &none), Answer::Given(String::new()));
    let board = Demand { gpus: 8, ..snp() };
    assert_eq!(asked(&policy(&board), &board), Answer::Given(String::new()));
}

#[test]
fn another_image_or_number_of_vcpus_is_another_launch_digest() {
    let older = Demand { registers: vec![("launch_digest", register("older"))], ..snp() };
    denied(&policy(&older), &snp(), &["another launch_digest", &register("older"), &register("launch")]);
}

#[test]
fn another_firmware_kernel_and_command_line_are_told_apart() {
    for (at, name) in [(0, "mrtd"), (1, "rtmr1"), (2, "rtmr2")] {
        let mut other = tdx();
        other.registers[at].1 = register("other");
        denied(&policy(&other), &tdx(), &[&format!("another {name}"), &register("other")]);
    }
}

#[test]
fn another_initdata_is_named() {
    let older = Demand { initdata: "2".repeat(64), ..snp() };
    denied(&policy(&older), &snp(), &["another initdata", &"2".repeat(64), &"1".repeat(64)]);
    let older = Demand { initdata: "2".repeat(96), ..tdx() };
    denied(&policy(&older), &tdx(), &["another initdata"]);
}

#[test]
fn a_changed_pod_has_both_changed() {
    let older =
        Demand { initdata: "2".repeat(64), registers: vec![("launch_digest", register("older"))], ..snp() };
    denied(&policy(&older), &snp(), &["another initdata", "; and ", "another launch_digest"]);
}

#[test]
fn another_number_of_gpus_is_named() {
    for wanted in [0, 2, 8] {
        let other = Demand { gpus: wanted, ..snp() };
        denied(&policy(&other), &snp(), &[&format!("it wants {wanted} GPUs, and the pod has 1")]);
    }
}

#[test]
fn another_resource_is_named() {
    let output = trustee::output([snp().for_trustee(["default/key/other".parse().unwrap()])]).unwrap();
    let policy = output["resource_policy"].as_str().unwrap();
    denied(policy, &snp(), &["it gives this pod default/key/other and not default/key/model"]);
}

#[test]
fn another_snp_policy_is_named() {
    let strict = Demand { snp_policy: Some(0x20000), ..snp() };
    denied(&policy(&strict), &snp(), &["refuse SMT"]);
    let single = Demand { snp_policy: Some(0x130000), ..snp() };
    denied(&policy(&single), &snp(), &["allow a single socket only"]);
}

#[test]
fn other_tdx_attributes_are_named() {
    let policy = policy(&tdx()).replace("0000001000000000", "0000005000000000");
    denied(&policy, &tdx(), &["other TDX attributes: 0000005000000000"]);
}

#[test]
fn rtmr0_is_not_guessed() {
    let mut known = tdx();
    known.registers.insert(1, ("rtmr0", register("acpi")));
    denied(&policy(&known), &tdx(), &["RTMR0", &register("acpi"), "--acpi"]);
    assert_eq!(asked(&policy(&known), &known), Answer::Given(String::new()));
}

#[test]
fn what_nobody_knows_before_the_report_is_no_yes() {
    let policy = policy(&snp()).replacen(
        "\tgenuine_gpus(1)\n",
        "\tgenuine_gpus(1)\n\tevidence.snp.reported_tcb_snp >= 22\n",
        1,
    );
    denied(&policy, &snp(), &["nobody knows before the report", "reported_tcb_"]);
}

#[test]
fn a_policy_for_one_kind_of_gpu_says_which() {
    let policy =
        policy(&snp()).replacen("\tgenuine_gpus(1)\n", "\tgenuine_gpus(1)\n\tcount(hoppers) == 1\n", 1);
    assert_eq!(asked(&policy, &snp()), Answer::Given(", if its GPUs are Hopper".to_owned()));
}

#[test]
fn a_policy_that_gives_nothing_says_so() {
    denied("package policy\n\ndefault allow := false\n", &snp(), &["no pod like this one"]);
    // One that fails denies.
    denied("package policy\n\nallow if { 1 / 0 == 1 }\n", &snp(), &["no pod like this one"]);
}

#[test]
fn what_no_broker_takes_is_refused() {
    let refused = |text: &str, resource: &str| {
        format!("{:#}", Broker::new(text, &resource.parse().unwrap()).err().unwrap())
    };
    assert!(refused("package policy\n\nallow := {", "a/b/c").contains("no policy in Rego"));
    assert!(refused("package other\n\nallow := true\n", "a/b/c").contains("data.policy.allow"));
    assert!(refused("package policy\n", "a/b/*").contains("one resource"));
}

#[test]
fn a_merged_policy_gives_each_pod_its_own() {
    let pods = BTreeSet::from([
        snp().for_trustee([resource()]),
        tdx().for_trustee(["default/key/other".parse().unwrap()]),
    ]);
    let policy = trustee::output(pods).unwrap();
    let policy = policy["resource_policy"].as_str().unwrap();
    assert_eq!(asked(policy, &snp()), Answer::Given(String::new()));
    denied(policy, &tdx(), &["default/key/other"]);
}
