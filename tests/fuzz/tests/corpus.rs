//! Runs every target over its corpus, and over changed inputs: the same ones in every run, and as many as
//! `FUZZ_RUNS` says where it is set, other ones each time.

#![allow(clippy::unwrap_used, reason = "the helpers are test code too")]

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};

use fuzz::{TARGETS, Target, limits, mutate};
use proptest::test_runner::{Config, RngSeed, TestCaseError, TestError, TestRunner};

/// Longest seed that is changed, in bytes. Longer ones are there for their length, and take their time.
const MAX_CHANGED: usize = 6 << 10;

fn corpus() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus")
}

/// The seeds of a target, each with its file, in the order of their names.
fn seeds(target: &Target) -> Vec<(PathBuf, Vec<u8>)> {
    let entries = fs::read_dir(corpus().join(target.name)).unwrap();
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files.into_iter().map(|file| (file.clone(), fs::read(file).unwrap())).collect()
}

/// How many inputs are made, and from which source of randomness.
fn effort(target: &Target) -> (u32, RngSeed) {
    match std::env::var("FUZZ_RUNS") {
        Ok(runs) => (runs.parse().unwrap(), RngSeed::Random),
        Err(_) => (target.runs, RngSeed::Fixed(1)),
    }
}

fn check(name: &str) {
    let target = TARGETS.iter().find(|target| target.name == name).unwrap();
    let seeds = seeds(target);
    assert!(!seeds.is_empty(), "{name} has no corpus");
    for (file, input) in &seeds {
        if let Err(panic) = catch_unwind(|| limits::within(|| target.run(input))) {
            eprintln!("{name} fails on {}", file.display());
            resume_unwind(panic);
        }
    }
    let (cases, rng_seed) = effort(target);
    let config = Config { cases, rng_seed, failure_persistence: None, ..Config::default() };
    let short = seeds.into_iter().map(|(_, input)| input).filter(|input| input.len() <= MAX_CHANGED);
    let inputs = mutate::inputs(short.collect());
    let outcome = TestRunner::new(config).run(&inputs, |input| {
        let run = AssertUnwindSafe(|| limits::within(|| target.run(&input)));
        catch_unwind(run).map_err(|panic| TestCaseError::fail(text(panic.as_ref())))
    });
    match outcome {
        Ok(()) => {}
        Err(TestError::Fail(reason, input)) => {
            let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}.crash"));
            fs::write(&file, &input).unwrap();
            panic!(
                "{name} fails: {reason}\nThe input is {}; it belongs into {}",
                file.display(),
                corpus().join(name).display()
            );
        }
        Err(other) => panic!("{name}: {other}"),
    }
}

fn text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("a panic without words").to_owned()
}

/// One test for each target, so that a failure has its name.
macro_rules! targets {
    ($($name:ident)*) => {
        $(#[test]
        fn $name() {
            check(stringify!($name));
        })*

        #[test]
        fn every_target_is_run_and_has_a_corpus() {
            let names: Vec<&str> = TARGETS.iter().map(|target| target.name).collect();
            assert_eq!(names, [$(stringify!($name)),*]);
            let mut folders: Vec<String> = fs::read_dir(corpus())
                .unwrap()
                .map(|entry| entry.unwrap().file_name().into_string().unwrap())
                .collect();
            folders.sort();
            assert_eq!(names, folders);
        }
    };
}

targets! {
    acpi_script
    agent_answers
    attest_agent
    attest_broker
    attest_config
    attest_events
    attest_jwe
    attest_question
    attest_sealed
    bundle_list
    cdi_names
    cgroup_path
    console
    engine_file
    erofs_image
    erofs_mounts
    firmware
    gpu_address
    gpu_fabric
    gpu_firmware
    gpu_lock
    gpu_quarantine
    gpu_sysfs
    id_block
    image_manifest
    initdata_annotation
    initdata_disk
    initdata_document
    initdata_gzip
    install_record
    kernel_cmdline
    luks_disk
    luks_metadata
    node_config
    oci_spec
    pe
    pod_manifest
    pod_request
    qmp
    shim_bundle
    shim_guest_pull
    shim_sandbox_options
    shim_start
    state_record
    volumes_document
}
