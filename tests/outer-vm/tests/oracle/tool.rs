//! NVIDIA's tool, run as its user runs it.

use std::path::Path;
use std::process::Command;
use std::sync::Once;

use gpu::Mode;
use outer_vm::Slot;

/// Where `tools/oracle` has put it.
const FETCHED: &str = "build/oracle";
/// Where it runs from: reading a hundred files from the host's share takes half a minute each time.
const PLACE: &str = "/run/oracle";

fn program() -> &'static str {
    static COPIED: Once = Once::new();
    COPIED.call_once(|| {
        let repo = std::env::var("COFFER_REPO").unwrap();
        let fetched = Path::new(&repo).join(FETCHED);
        assert!(fetched.exists(), "{} is not there: run tools/oracle first", fetched.display());
        let copied = Command::new("cp").arg("-a").arg(&fetched).arg(PLACE).status().unwrap();
        assert!(copied.success(), "cp: {copied}");
    });
    "/run/oracle/nvidia_gpu_tools.py"
}

fn run(arguments: &[&str]) -> String {
    let output = Command::new("python3").arg(program()).args(arguments).output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text).into_owned();
    assert!(output.status.success(), "{arguments:?}: {}\n{text}", output.status);
    text
}

fn devices(slots: &[Slot]) -> String {
    slots.iter().map(|slot| slot.address()).collect::<Vec<_>>().join(",")
}

/// What it calls itself, as in `NVIDIA GPU Tools version v2025.11.21o`.
pub(crate) fn version() -> String {
    run(&["--no-gpu"]).lines().find(|line| line.contains(" version ")).unwrap().to_owned()
}

/// Sets a mode and resets.
pub(crate) fn set(slots: &[Slot], mode: Mode) {
    let mode = mode.to_string();
    run(&["--devices", &devices(slots), "--set-cc-mode", &mode, "--reset-after-cc-mode-switch"]);
}

/// Sets protected PCIe `on` or `off` and resets.
pub(crate) fn set_ppcie(slots: &[Slot], state: &str) {
    run(&["--devices", &devices(slots), "--set-ppcie-mode", state, "--reset-after-ppcie-mode-switch"]);
}

/// The modes as it reads them, in the order of the slots.
pub(crate) fn modes(slots: &[Slot]) -> Vec<String> {
    told(slots, &run(&["--devices", &devices(slots), "--query-cc-mode"]), " CC mode is ")
}

/// `on` or `off` for protected PCIe, in the order of the slots.
pub(crate) fn ppcie_modes(slots: &[Slot]) -> Vec<String> {
    told(slots, &run(&["--devices", &devices(slots), "--query-ppcie-mode"]), " PPCIe mode is ")
}

/// What follows `phrase` in the line about each slot.
fn told(slots: &[Slot], text: &str, phrase: &str) -> Vec<String> {
    let of = |slot: &Slot| {
        let address = slot.address();
        let line = text.lines().find(|line| line.contains(&address) && line.contains(phrase));
        let line = line.unwrap_or_else(|| panic!("nothing about {address}:\n{text}"));
        line.split_once(phrase).unwrap().1.trim().to_owned()
    };
    slots.iter().map(of).collect()
}
