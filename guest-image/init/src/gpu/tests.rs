use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use shared_types::{GpuMode, PciAddress, one_line};

use super::driver::{Kernel, Module};
use super::*;

/// A driver without a kernel: it does what it is told, but for what a test changes.
struct Fake {
    done: Vec<String>,
    gpus: Vec<Seen>,
    /// The step that does not succeed.
    fails: Option<(Step, fn() -> Fault)>,
    spec: String,
}

fn slot(bus: u8) -> PciAddress {
    format!("0000:{bus:02x}:00.0").parse().unwrap()
}

fn seen(bus: u8) -> Seen {
    Seen {
        slot: slot(bus),
        minor: u16::from(bus) - 1,
        mode: GpuMode::On,
        uuid: format!("GPU-{bus}"),
        product: "NVIDIA H100 80GB HBM3".into(),
    }
}

impl Fake {
    fn new(gpus: u8) -> Self {
        Self { done: Vec::new(), gpus: (1..=gpus).map(seen).collect(), fails: None, spec: String::new() }
    }

    fn step(&mut self, step: Step, what: String) -> Result<(), Fault> {
        self.done.push(what);
        match self.fails {
            Some((failing, fault)) if failing == step => Err(fault()),
            _ => Ok(()),
        }
    }
}

impl Driver for Fake {
    fn load(&mut self, module: &Module, _: Duration) -> Result<(), Fault> {
        self.step(Step::Load(module.name), format!("{} {}", module.name, module.parameters).trim().to_owned())
    }

    fn nodes(&mut self, gpus: u16) -> Result<Vec<String>, Fault> {
        self.step(Step::Nodes, format!("nodes {gpus}"))?;
        Ok(vec!["/dev/nvidiactl".into()])
    }

    fn open(&mut self, plan: &Plan, tell: &mut dyn FnMut(Opening)) -> Result<(), Fault> {
        for slot in &plan.slots {
            tell(Opening::One { slot: *slot, after: Duration::from_secs(2) });
        }
        self.step(Step::Open, format!("open {}", plan.opening.as_secs()))
    }

    fn join(&mut self, _: Duration) -> Result<(), Fault> {
        self.step(Step::Join, "join".into())
    }

    fn ask(&mut self, _: Duration) -> Result<Vec<Seen>, Fault> {
        self.step(Step::Ask, "ask".into())?;
        Ok(self.gpus.clone())
    }

    fn publish(&mut self, spec: &str) -> Result<(), Fault> {
        self.spec = spec.to_owned();
        self.step(Step::Publish, "publish".into())
    }
}

const DRIVER: &str = "version = \"550.163.01\"\nmodules = [\"nvidia\", \"nvidia-uvm\"]\npersistence = true\n\n[[libraries]]\n\
                      path = \"/usr/lib/libcuda.so.1\"\nplaces = [\"/usr/lib64/libcuda.so.1\"]\n";

fn installed() -> Installed {
    Installed::parse(DRIVER).unwrap()
}

fn found(gpus: u8, switches: u16) -> Found {
    Found { gpus: (1..=gpus).map(slot).collect(), switches }
}

fn refused(fake: &mut Fake, found: &Found, model: Option<&str>) -> String {
    one_line(&bring_up(fake, &installed(), found, model).unwrap_err())
}

#[test]
fn one_gpu_alone_has_no_links_and_all_steps_have_their_order() {
    let mut fake = Fake::new(1);
    bring_up(&mut fake, &installed(), &found(1, 0), Some("h100")).unwrap();
    let steps = ["nvidia NVreg_NvLinkDisable=1", "nvidia-uvm", "nodes 1", "open 180", "ask", "publish"];
    assert_eq!(fake.done, steps);
}

#[test]
fn a_whole_board_has_its_switches_run_and_more_time() {
    let mut fake = Fake::new(8);
    fake.gpus.iter_mut().for_each(|gpu| gpu.mode = GpuMode::Ppcie);
    bring_up(&mut fake, &installed(), &found(8, 4), None).unwrap();
    assert_eq!(fake.done, ["nvidia", "nvidia-uvm", "nodes 8", "open 600", "join", "ask", "publish"]);
}

#[test]
fn parts_of_a_board_are_no_vm() {
    for (gpus, switches) in [(0, 4), (1, 1), (7, 4), (8, 3), (8, 5), (9, 4)] {
        let mut fake = Fake::new(gpus);
        let error = refused(&mut fake, &found(gpus, switches), None);
        assert!(error.starts_with(&format!("{gpus} GPUs with {switches} NVSwitches")), "{error}");
        assert!(fake.done.is_empty(), "nothing may be loaded: {:?}", fake.done);
    }
}

#[test]
fn what_the_driver_says_otherwise_ends_the_boot() {
    type Change = fn(&mut Vec<Seen>);
    let cases: [(&str, Change, &str); 9] = [
        ("one is missing", |gpus| gpus.truncate(1), "the driver has 1 GPUs, and 2 are there"),
        ("none", Vec::clear, "the driver has 0 GPUs"),
        ("one too many", |gpus| gpus.push(seen(9)), "GPU 0000:09:00.0 what is said of no other"),
        ("one place twice", |gpus| gpus[1].slot = gpus[0].slot, "GPU 0000:01:00.0 what is said of no other"),
        ("one name twice", |gpus| gpus[1].uuid = gpus[0].uuid.clone(), "GPU 0000:02:00.0 what"),
        ("one node twice", |gpus| gpus[1].minor = gpus[0].minor, "GPU 0000:02:00.0 what"),
        (
            "off",
            |gpus| gpus[1].mode = GpuMode::Off,
            "GPU 0000:02:00.0 (GPU-2): confidential computing off; confidential",
        ),
        (
            "devtools",
            |gpus| gpus[0].mode = GpuMode::Devtools,
            "GPU 0000:01:00.0 (GPU-1): confidential computing open to",
        ),
        (
            "another model",
            |gpus| gpus[1].product = "NVIDIA H200".into(),
            "GPU 0000:02:00.0 is a \"NVIDIA H200\", and coffer.toml in the initdata declares gpu_model = \"H100\"",
        ),
    ];
    for (what, change, said) in cases {
        let mut fake = Fake::new(2);
        change(&mut fake.gpus);
        let error = refused(&mut fake, &found(2, 0), Some("H100"));
        assert!(error.contains(said), "{what}: {error}");
        assert!(!fake.done.contains(&"publish".to_owned()), "{what}");
    }
    // Without a board's mode a board's links would be open.
    let mut fake = Fake::new(8);
    let error = refused(&mut fake, &found(8, 4), None);
    assert!(error.ends_with("confidential computing on; protected PCIe is needed"), "{error}");
}

#[test]
fn a_driver_that_fails_or_hangs_ends_the_boot_with_the_step() {
    let late: fn() -> Fault = || Fault::Late(Duration::from_secs(7));
    let no: fn() -> Fault = || Fault::Module(nix::errno::Errno::ENODEV);
    for (step, fault, said) in [
        (
            Step::Load("nvidia"),
            no,
            "loading the module nvidia failed: the kernel does not take the module: ENODEV",
        ),
        (Step::Load("nvidia-uvm"), late, "loading the module nvidia-uvm failed: not done within 7 s"),
        (Step::Nodes, late, "making device nodes failed: not done"),
        (Step::Open, late, "opening all of them (persistence daemon) failed: not done"),
        (Step::Join, late, "connecting them (fabric manager) failed: not done"),
        (Step::Ask, late, "asking the driver what they are failed: not done"),
        (Step::Publish, late, "describing them to the agent (CDI) failed: not done"),
    ] {
        let mut fake = Fake::new(8);
        fake.gpus.iter_mut().for_each(|gpu| gpu.mode = GpuMode::Ppcie);
        fake.fails = Some((step, fault));
        let error = refused(&mut fake, &found(8, 4), None);
        assert!(error.starts_with("GPUs: ") && error.contains(said), "{step:?}: {error}");
    }
}

#[test]
fn a_model_is_words_of_a_products_name() {
    for (model, is) in [
        ("H100", true),
        ("h100", true),
        ("NVIDIA H100", true),
        ("80GB H100", true),
        ("H10", false),
        ("H200", false),
    ] {
        assert_eq!(is_of_model("NVIDIA H100 80GB HBM3", model), is, "{model}");
    }
}

#[test]
fn containers_get_nodes_by_rank_and_the_libraries() {
    let mut fake = Fake::new(2);
    // The driver counts in another order than the bus.
    fake.gpus.reverse();
    fake.gpus[0].minor = 0;
    fake.gpus[1].minor = 1;
    bring_up(&mut fake, &installed(), &found(2, 0), None).unwrap();
    let spec: serde_json::Value = serde_json::from_str(&fake.spec).unwrap();
    assert_eq!(spec["kind"], "nvidia.com/gpu");
    let node = |rank: usize| &spec["devices"][rank]["containerEdits"]["deviceNodes"][0]["path"];
    assert_eq!([&spec["devices"][0]["name"], node(0)], ["0", "/dev/nvidia1"]);
    assert_eq!([&spec["devices"][1]["name"], node(1)], ["1", "/dev/nvidia0"]);
    let edits = &spec["containerEdits"];
    assert_eq!(edits["deviceNodes"], serde_json::json!([{ "path": "/dev/nvidiactl" }]));
    assert_eq!(edits["mounts"][0]["hostPath"], "/usr/lib/libcuda.so.1");
    assert_eq!(edits["mounts"][0]["containerPath"], "/usr/lib64/libcuda.so.1");
}

#[test]
fn the_images_word_is_read_or_refused() {
    let root = tempfile::tempdir().unwrap();
    assert_eq!(Installed::read(root.path()).unwrap(), None);
    for (text, said) in [
        ("", "missing field"),
        (
            "version = \"1\"\nmodules = [\"nouveau\"]\npersistence = true\nlibraries = []\n",
            "no module \"nouveau\"",
        ),
        (&DRIVER.replace("/usr/lib/libcuda.so.1", "lib\\\"cuda"), "is no plain path"),
        (&DRIVER.replace("persistence", "persistense"), "unknown field"),
    ] {
        let error = Installed::parse(text).unwrap_err();
        assert!(error.contains(said), "{error}");
    }
}

fn order() -> Order {
    Order { model: None, has_broker: true, may_lack_driver: false }
}

#[test]
fn declared_gpus_need_a_driver_and_somebody_who_attests_them() {
    let root = tempfile::tempdir().unwrap();
    let refused = |order: &Order| of_this_vm(root.path(), &found(1, 0), order).unwrap_err().to_string();
    assert!(refused(&order()).contains("no driver for them"));
    assert!(of_this_vm(root.path(), &found(1, 0), &Order { may_lack_driver: true, ..order() }).is_ok());
    fs::create_dir_all(root.path().join("usr/lib/coffer/gpu")).unwrap();
    fs::write(root.path().join(installed::FILE), DRIVER).unwrap();
    assert!(refused(&Order { has_broker: false, ..order() }).contains("names no key broker"));
    assert!(refused(&order()).ends_with("loading the module nvidia failed"));
}

/// The guest's own driver with a program of the test in the place of one of its.
fn with_program(name: &str, script: &str) -> (tempfile::TempDir, Kernel) {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("usr/bin").join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    let kernel = Kernel::new(root.path(), &installed());
    (root, kernel)
}

#[test]
fn the_program_that_asks_is_believed_only_in_its_own_form() {
    let second = Duration::from_secs(60);
    let script = "printf '00000000:01:00.0\\t0\\ton\\tGPU-1\\tNVIDIA H100 80GB HBM3\\n'";
    let (_root, mut kernel) = with_program("coffer-gpu", script);
    assert_eq!(kernel.ask(second).unwrap(), [seen(1)]);
    for (script, said) in [
        ("echo hello", "answered what is no description of a GPU: \"hello\""),
        ("printf '0000:01:00.0\\t0\\tmaybe\\tGPU-1\\tH100\\n'", "no description"),
        ("printf '0000:01:00.0\\t0\\ton\\t\\tH100\\n'", "no description"),
        ("echo 'NVML: no driver'; exit 3", "exited with status 3: NVML: no driver"),
        ("kill -9 $$", "was killed by signal 9"),
    ] {
        let (_root, mut kernel) = with_program("coffer-gpu", script);
        let error = one_line(&kernel.ask(second).unwrap_err());
        assert!(error.contains(said), "{script}: {error}");
    }
    let (_root, mut kernel) = with_program("other", "");
    assert!(kernel.ask(second).unwrap_err().to_string().ends_with("usr/bin/coffer-gpu"));
}

#[test]
fn a_program_that_hangs_is_ended() {
    let short = Duration::from_millis(50);
    let (_root, mut kernel) = with_program("coffer-gpu", "exec sleep 1000");
    assert!(matches!(kernel.ask(short), Err(Fault::Late(_))));
    let (_root, mut kernel) = with_program("nvidia-persistenced", "exec sleep 1000");
    let plan = Plan { opening: short, ..Plan::of(&found(1, 0)).unwrap() };
    assert!(matches!(kernel.open(&plan, &mut |_| {}), Err(Fault::Late(_))));
}

#[test]
fn gpus_are_open_when_the_driver_knows_their_names() {
    let plan = Plan::of(&found(2, 0)).unwrap();
    let script = "root=${0%/usr/bin/*}; for bus in 01 02; do d=$root/proc/driver/nvidia/gpus/0000:$bus:00.0; mkdir -p $d; \
                  echo 'GPU UUID: \t GPU-????????-????' >$d/information; done; \
                  printf 'Model: \t H100\\nGPU UUID: \t GPU-1\\n' >$root/proc/driver/nvidia/gpus/0000:01:00.0/information; \
                  sleep 0.6; [ \"$1\" = --uvm-persistence-mode ]";
    let (_root, mut kernel) = with_program("nvidia-persistenced", script);
    let mut told = Vec::new();
    kernel.open(&plan, &mut |opening| told.push(opening)).unwrap();
    assert!(matches!(told[..], [Opening::One { slot: only, .. }] if only == slot(1)), "{told:?}");
    let waiting =
        Opening::Waiting { open: 3, of: 8, after: Duration::from_secs(40), limit: Duration::from_secs(600) };
    assert_eq!(waiting.to_string(), "GPUs: 3 of 8 open after 40 s, at most 600 s");
}

#[test]
fn what_is_described_is_described_once() {
    let (root, mut kernel) = with_program("other", "");
    kernel.publish("{}\n").unwrap();
    assert_eq!(fs::read_to_string(root.path().join("var/run/cdi/nvidia.json")).unwrap(), "{}\n");
    assert!(kernel.publish("{}\n").is_err());
}
