//! Setting and verifying GPUs before a pod's start: emulated H100s, whose firmware takes as long to boot and to answer as
//! hardware's. The shim is the one for rigs, in a debug build. Its QEMU ends at once: what comes after is not measured.

use std::time::Duration;

use e2e::{Artefacts, BUSYBOX, Containerd, Gpus, NodeConfig, OrFail, Run, fixture, until};
use emulated_gpu::control::Request;

use crate::report::Report;

/// The best of so many is reported: the emulator shares the CPUs with the shim.
const ROUNDS: usize = 3;
const GPUS: usize = 8;
/// Confidential computing, among the firmware's settings.
const COMPUTING: u16 = 8;

/// Measures, and reports.
pub async fn measure(containerd: &Containerd, report: &mut Report) {
    let artefacts = Artefacts::with_gpus();
    let gpus = Gpus::h100_in_real_time(GPUS);
    let config = NodeConfig::of_rig(&artefacts)
        .path("qemu", &fixture("fake-qemu-exits-at-once"))
        .set("cc_mode", "\"manage\"")
        .set("gpu_mode", "\"off\"")
        .write("bench-gpu");
    let start = async |name: &str, count: usize| {
        let mark = containerd.log_mark();
        let run = Run::new(name, BUSYBOX, &["true"]).shim(&artefacts.shim).config(&config);
        run.flag("--annotation").flag(&Gpus::annotation(count)).refused().await;
        for index in 0..count {
            gpus.free(index).await;
        }
        containerd.log_since(mark)
    };
    let (mut one, mut eight, mut verify) = (f64::MAX, f64::MAX, f64::MAX);
    for round in 0..ROUNDS {
        for (count, best) in [(1, &mut one), (GPUS, &mut eight)] {
            make_confidential(&gpus).await;
            let log = start(&format!("set-{count}-{round}"), count).await;
            *best = best.min(milliseconds(&log, "GPUs are verified"));
        }
        // They are in the mode now.
        let log = start(&format!("verify-{round}"), GPUS).await;
        verify = verify.min(milliseconds(&log, "GPUs' modes are read"));
    }
    report.add("one H100 set, reset and verified", one, "ms");
    report.add("eight H100s set, reset and verified", eight, "ms");
    report.bounded("ratio of the two, GPUs", eight / one, "", 1.3);
    report.bounded("eight H100s' modes verified", verify, "ms", 30.0);
}

/// All are in mode on, as somebody else left them.
async fn make_confidential(gpus: &Gpus) {
    for index in 0..GPUS {
        for request in [Request::SetKnob { knob: COMPUTING, value: 1 }, Request::Reset] {
            gpus.ask(index, &request).or_fail("mode on");
        }
    }
    until("all to boot", Duration::from_secs(10), async || {
        (0..GPUS).all(|index| gpus.state(index).booted).then_some(())
    })
    .await;
}

/// What the shim says of a step, by the last line that has it.
fn milliseconds(log: &str, step: &str) -> f64 {
    let line = log.lines().rfind(|line| line.contains(step)).or_fail(step);
    let (_, value) = line.split_once(" ms=").or_fail(line);
    value.split(' ').next().and_then(|value| value.parse().ok()).or_fail(line)
}
