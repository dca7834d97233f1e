//! How long `coffer measure --pod` and `coffer doctor` take, as an operator runs them: a whole process each time.

use std::fs;
use std::process::{Command, Stdio};
use std::time::Instant;

use e2e::{Artefacts, OrFail, workspace};

use crate::report::{Report, median};

const RUNS: usize = 21;

/// Measures, and reports.
pub fn measure(artefacts: &Artefacts, report: &mut Report) {
    let dir = tempfile::tempdir().or_fail("a directory");
    let at = |name: &str| dir.path().join(name).display().to_string();
    let pod = "apiVersion: v1\nkind: Pod\nspec: {containers: [{name: c, resources: {limits: {cpu: 16}}}]}\n";
    fs::write(at("pod.yaml"), pod).or_fail("pod.yaml");
    fs::write(at("node.toml"), "allow_debug_image = true\n").or_fail("node.toml");
    let image = artefacts.image.display().to_string();
    let tdx = workspace().join("build/firmware-tdx/OVMF.fd").display().to_string();
    for (what, class, firmware, bound) in [
        ("coffer measure --pod, SNP, 16 vCPUs", "coffer-snp", "/usr/share/ovmf/OVMF.amdsev.fd", 50.0),
        ("coffer measure --pod, TDX", "coffer-tdx", &tdx, 100.0),
    ] {
        let (pod, node) = (at("pod.yaml"), at("node.toml"));
        let args = ["measure", "--pod", &pod, "--class", class, "--config", &node, "--image", &image];
        let time = time(&[&args[..], &["--firmware", firmware]].concat(), &[0]);
        report.bounded(what, time, "ms", bound);
    }
    // Ready, ready with warnings, not ready: any of them is an answer.
    report.bounded("coffer doctor", time(&["doctor"], &[0, 3, 4]), "ms", 1000.0);
}

/// The median time of the command in milliseconds.
fn time(args: &[&str], codes: &[i32]) -> f64 {
    let run = |_| {
        let begin = Instant::now();
        let output =
            Command::new(Artefacts::coffer()).args(args).stdin(Stdio::null()).output().or_fail("coffer");
        let time = begin.elapsed().as_secs_f64() * 1e3;
        let code = output.status.code().or_fail("an exit code");
        assert!(codes.contains(&code), "{args:?}: {code}: {}", String::from_utf8_lossy(&output.stderr));
        time
    };
    median((0..RUNS).map(run).collect())
}
