//! `coffer measure pod`: what the report of a pod's VM will say, from the pod's manifest.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::io::Write;
use std::path::{self, Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use clap::ValueEnum;
use measurement::initdata::{HostData, MrConfigId};
use measurement::ovmf::{Acceptance, Firmware};
use pod_manifest::Pod;
use serde_json::{Value, json};
use shared_types::{Cid, KvmTrial, Mac};
use vmm_config::config::{NodeConfig, Tee};
use vmm_config::expect::{Expectation, expectation, platform};
use vmm_config::image::ImageManifest;
use vmm_config::passthrough::HostDevices;
use vmm_config::path::AbsolutePath;
use vmm_config::plan::{HostFacts, NicFacts, VsockFacts, plan, queues_for};
use vmm_config::request::{OciLimits, PodRequest};
use vmm_config::spec::VmSpec;
use vmm_config::tee::{HostTee, SevAddressing};

use super::trustee::Resource;
use super::{json, tdx, trustee};
use crate::config;
use crate::files::Kind;

/// Arguments of `coffer measure pod`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The pod's manifest, YAML or JSON; `kubectl get pod -o yaml` shows one with all that the cluster added
    #[arg(value_name = "FILE")]
    file: PathBuf,
    #[command(flatten)]
    node: Node,
    #[command(flatten)]
    options: Options,
}

/// The node that the pod is meant for.
#[derive(Debug, clap::Args)]
pub(super) struct Node {
    /// The pod's runtime class
    #[arg(long, value_enum)]
    pub(super) class: Class,
    /// The node's configuration [default: /etc/coffer/config.toml, or the built-in values if that is absent]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Guest image, where it is not at the place that the configuration names
    #[arg(long, value_name = "DIRECTORY")]
    image: Option<PathBuf>,
    /// Firmware, where it is not at the place that the configuration names
    #[arg(long, value_name = "FILE")]
    firmware: Option<PathBuf>,
}

/// What a node has, where images of containers are named as well.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Place {
    /// For --emit: the node's configuration [default: /etc/coffer/config.toml, or the built-in values if that is absent]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// For --emit: guest image, where it is not at the place that the configuration names
    #[arg(long, value_name = "DIRECTORY")]
    guest_image: Option<PathBuf>,
    /// For --emit: firmware, where it is not at the place that the configuration names
    #[arg(long, value_name = "FILE")]
    firmware: Option<PathBuf>,
    /// For --emit: a resource of the KBS that the pod POD may have, or each of them: REPOSITORY/TYPE/TAG, with `*` for any;
    /// may be repeated
    #[arg(long = "resource", value_name = "[POD=]PATH", value_parser = of_pod, requires = "emit")]
    resources: Vec<(Option<String>, Resource)>,
}

/// `[POD=]PATH`.
fn of_pod(text: &str) -> Result<(Option<String>, Resource)> {
    Ok(match text.split_once('=') {
        Some((pod, path)) => (Some(pod.to_owned()), path.parse()?),
        None => (None, text.parse()?),
    })
}

impl Place {
    /// What the pod of this name may have.
    pub(crate) fn resources(&self, pod: &str) -> impl Iterator<Item = Resource> {
        let its = move |name: &Option<String>| name.as_ref().is_none_or(|name| name == pod);
        self.resources.iter().filter(move |(name, _)| its(name)).map(|(_, resource)| resource.clone())
    }

    /// The pods that resources are named for.
    pub(crate) fn pods(&self) -> impl Iterator<Item = &str> {
        self.resources.iter().filter_map(|(name, _)| name.as_deref())
    }
}

/// What is known besides, and what is printed.
#[derive(Debug, clap::Args)]
pub(super) struct Options {
    /// Directory with QEMU's ACPI files for this pod, as `coffer measure acpi` writes it: then RTMR0 of a TDX guest is known
    #[arg(long, value_name = "DIRECTORY")]
    acpi: Option<PathBuf>,
    /// A resource of the KBS that the pod may have, for `-o trustee`: REPOSITORY/TYPE/TAG, with `*` for any; may be repeated
    #[arg(long = "resource", value_name = "PATH")]
    resources: Vec<Resource>,
    /// A machine that the pod may run on, for `-o trustee`: SNP's chip_id (128 hexadecimal digits) or TDX's platform_instance_id
    /// (32), as the verifier's claims have them; may be repeated [default: any machine]
    #[arg(long = "machine", value_name = "ID")]
    machines: Vec<String>,
    /// Form of the output
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    output: Output,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Class {
    /// AMD SEV-SNP
    CofferSnp,
    /// Intel TDX
    CofferTdx,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Output {
    /// Lines for people
    Text,
    /// An object
    Json,
    /// An object for Trustee: reference values for its RVPS, and a resource policy for its KBS
    Trustee,
}

impl Class {
    /// By its name.
    pub(crate) fn of(name: &str) -> Option<Self> {
        [Self::CofferSnp, Self::CofferTdx].into_iter().find(|class| class.name() == name)
    }

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::CofferSnp => "coffer-snp",
            Self::CofferTdx => "coffer-tdx",
        }
    }

    const fn tee(self) -> Tee {
        match self {
            Self::CofferSnp => Tee::Snp,
            Self::CofferTdx => Tee::Tdx,
        }
    }
}

/// What a verifier should demand of the pod's VM.
#[derive(Debug)]
pub(crate) struct Demand {
    /// Of the pod, in comments.
    pub(super) name: String,
    pub(super) class: Class,
    /// The measurements by the names that the reports have for them.
    pub(super) registers: Vec<(&'static str, String)>,
    /// The report's field for initdata in hexadecimal digits; zeros without initdata.
    pub(super) initdata: String,
    pub(super) gpus: u32,
    /// SNP's policy; TDX has none.
    pub(super) snp_policy: Option<u64>,
}

impl Demand {
    /// The same for Trustee: the pod may have these resources.
    pub(crate) fn for_trustee(&self, resources: impl IntoIterator<Item = Resource>) -> trustee::Pod {
        let name = |register: &str| match register {
            "launch_digest" => "snp_launch_measurement".to_owned(),
            "mrtd" => "mr_td".to_owned(),
            // rtmr0 is rtmr_0.
            register => register.replacen("rtmr", "rtmr_", 1),
        };
        trustee::Pod {
            name: self.name.clone(),
            tee: match self.class {
                Class::CofferSnp => trustee::Tee::Snp,
                Class::CofferTdx => trustee::Tee::Tdx,
            },
            measurements: self
                .registers
                .iter()
                .map(|(register, value)| (name(register), value.clone()))
                .collect(),
            initdata: self.initdata.clone(),
            snp_policy: self.snp_policy,
            gpus: self.gpus,
            machines: BTreeSet::new(),
            resources: resources.into_iter().collect(),
        }
    }
}

pub(super) fn run(args: &Args, out: &mut impl Write) -> Result<()> {
    print(&args.file, &args.node, &args.options, out)
}

/// A pod, and what decides its VM.
#[derive(Debug)]
pub(super) struct Planned {
    pub(super) pod: Pod,
    pub(super) config: NodeConfig,
    pub(super) image: ImageManifest,
    request: PodRequest,
}

impl Planned {
    /// The same pod with another guest image.
    ///
    /// # Errors
    /// A directory without one.
    pub(super) fn with_image(&self, directory: &Path) -> Result<Self> {
        let mut config = self.config.clone();
        config.image = AbsolutePath::from_path(&path::absolute(directory)?)?;
        Ok(Self { pod: self.pod.clone(), config, image: image(directory)?, request: self.request.clone() })
    }
}

/// The guest image's kernel.
///
/// # Errors
/// It cannot be read, or is another than the image's manifest names.
pub(super) fn kernel(planned: &Planned) -> Result<Vec<u8>> {
    let Planned { config, image, .. } = planned;
    let path = config.image.as_path().join(image.kernel.file.as_str());
    let kernel = Kind::KERNEL.read(&path)?;
    super::image::check(&path, &kernel, image)?;
    Ok(kernel)
}

/// Reads the manifest and what the node has for its pod.
pub(super) fn read(file: &Path, node: &Node) -> Result<Planned> {
    let text = String::from_utf8(Kind::MANIFEST.read(file)?)
        .map_err(|error| error.utf8_error())
        .with_context(|| Kind::MANIFEST.unusable(file))?;
    let pod = Pod::parse(&text).with_context(|| Kind::MANIFEST.unusable(file))?;
    if let Some(class) = pod.runtime_class.as_deref().filter(|class| *class != node.class.name()) {
        // Another name for the same handler is possible; what is measured is what the options say.
        eprintln!(
            "note: the manifest has runtimeClassName {class:?}, and --class says {}",
            node.class.name()
        );
    }
    let name = pod.name.clone();
    planned(pod, node).with_context(|| format!("the pod {name} of {}", file.display()))
}

fn planned(pod: Pod, node: &Node) -> Result<Planned> {
    let config = effective(node)?;
    let image = image(config.image.as_path())?;
    let annotations = pod.cri_annotations();
    let annotations = annotations.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    // The sandbox's id is in no measurement.
    let request =
        PodRequest::new(&config, "pod", annotations, OciLimits::default()).context("it cannot have a VM")?;
    for ignored in &request.ignored {
        eprintln!("note: annotation {} is ignored: {}", ignored.name, ignored.reason.text());
    }
    Ok(Planned { pod, config, image, request })
}

/// Prints what the report of the VM of the manifest's pod will say.
pub(super) fn print(file: &Path, node: &Node, options: &Options, out: &mut impl Write) -> Result<()> {
    let planned = read(file, node)?;
    let demand = of_plan(&planned, node.class, options.acpi.as_deref())?;
    let Planned { image, request, .. } = planned;
    if options.output != Output::Trustee {
        ensure!(options.resources.is_empty(), "--resource is for `-o trustee`");
        ensure!(options.machines.is_empty(), "--machine is for `-o trustee`");
    }
    match options.output {
        Output::Text => out.write_all(for_people(&demand, &request, &image)?.as_bytes())?,
        Output::Json => json(&object(&demand, &request, &image), out)?,
        Output::Trustee => json(&for_trustee(&demand, options)?, out)?,
    }
    Ok(())
}

/// For Trustee: what `-o trustee` prints.
///
/// # Errors
/// When the pod may have nothing.
fn for_trustee(demand: &Demand, options: &Options) -> Result<Value> {
    let Options { resources, machines, .. } = options;
    ensure!(
        !resources.is_empty(),
        "say what of the KBS the pod may have: --resource REPOSITORY/TYPE/TAG, e.g. --resource default/key/model"
    );
    if demand.class == Class::CofferTdx && !demand.registers.iter().any(|(name, _)| *name == "rtmr0") {
        eprintln!(
            "note: RTMR0 is not demanded, so the host may choose the ACPI tables; `--acpi` makes it known"
        );
    }
    let machines = machines.iter().map(|machine| machine.to_ascii_lowercase()).collect();
    trustee::output([trustee::Pod { machines, ..demand.for_trustee(resources.iter().cloned()) }])
}

/// What a verifier should demand of a pod's VM.
///
/// # Errors
/// A node's file that cannot be used, or a pod that no VM can be for.
pub(crate) fn demand(pod: Pod, class: Class, place: &Place) -> Result<Demand> {
    let Place { config, guest_image, firmware, .. } = place.clone();
    let node = Node { class, config, image: guest_image, firmware };
    of_plan(&planned(pod, &node)?, class, None)
}

/// The same of what was read already.
///
/// # Errors
/// A file that cannot be read or measured.
pub(super) fn of_plan(planned: &Planned, class: Class, acpi: Option<&Path>) -> Result<Demand> {
    let Planned { pod, config, request, .. } = planned;
    Ok(Demand {
        class,
        registers: registers(planned, class, acpi)?,
        initdata: match (&request.initdata, class) {
            (Some(initdata), Class::CofferSnp) => initdata.host_data().to_string(),
            (None, Class::CofferSnp) => HostData::from_digest(&[]).to_string(),
            (Some(initdata), Class::CofferTdx) => initdata.mr_config_id().to_string(),
            (None, Class::CofferTdx) => MrConfigId::from_digest(&[]).to_string(),
        },
        gpus: u32::try_from(pod.limits.gpus.whole()).context("no VM has so many GPUs")?,
        snp_policy: (class == Class::CofferSnp).then(|| config.snp_policy.policy().bits()),
        name: pod.name.clone(),
    })
}

/// The configuration of a node that offers the class.
fn effective(node: &Node) -> Result<NodeConfig> {
    let mut config = config::effective(node.config.as_deref())?;
    let (wanted, found) = (node.class.tee(), config.tee);
    ensure!(
        found == wanted || matches!(found, Tee::None | Tee::Auto),
        "the configuration has tee = {:?}, and the class {} needs {:?}: give the class's own with --config",
        found.name(),
        node.class.name(),
        wanted.name()
    );
    config.tee = wanted;
    let absolute =
        |path: &Path| -> Result<AbsolutePath> { Ok(AbsolutePath::from_path(&path::absolute(path)?)?) };
    if let Some(path) = &node.image {
        config.image = absolute(path).context("--image")?;
    }
    if let Some(path) = &node.firmware {
        config.firmware = Some(absolute(path).context("--firmware")?);
    }
    Ok(config)
}

/// The manifest of the guest image in a directory.
///
/// # Errors
/// A file that cannot be read or is no manifest.
pub(super) fn image(directory: &Path) -> Result<ImageManifest> {
    let path = directory.join("image.json");
    let bytes = Kind::IMAGE.read(&path)?;
    ImageManifest::parse(&bytes).with_context(|| Kind::IMAGE.unusable(&path))
}

/// The VM as the shim would plan it, and its firmware's bytes.
///
/// Of the host only facts are made up that no measurement but RTMR0 holds: addresses, one network interface, and no GPU.
/// Devices are neither in SNP's launch digest nor in MRTD, RTMR1 and RTMR2.
pub(super) fn vm(planned: &Planned, class: Class) -> Result<(VmSpec, Vec<u8>)> {
    let Planned { config, image, request, .. } = planned;
    let Some(path) = config.firmware.as_ref().map(AbsolutePath::as_path) else {
        bail!("the class {} needs a firmware made for it: set `firmware`, or give --firmware", class.name());
    };
    let firmware = Kind::FIRMWARE.read(path)?;
    let kind =
        Firmware::parse(&firmware).and_then(|f| f.kind()).with_context(|| Kind::FIRMWARE.unusable(path))?;
    let tee = match class {
        // C bit 51, addresses one bit shorter: every SNP processor so far.
        Class::CofferSnp => SevAddressing::from_cpuid(0x73).map(HostTee::Snp),
        Class::CofferTdx => Some(HostTee::Tdx),
    };
    let nic = NicFacts {
        mac: Mac([2, 0, 0, 0, 0, 1]).try_into()?,
        mtu: 1500,
        queues: queues_for(request.vcpus),
        vhost: true,
    };
    let (Some(tee), Some(cid)) = (tee, Cid::new(3)) else { bail!("no host can be described") };
    let host = HostFacts {
        kvm: KvmTrial::Works,
        vsock: VsockFacts::Vhost { cid },
        nics: vec![nic],
        memory_budget: None,
        tee,
        firmware: Some(kind),
        acceptance: Acceptance::Unknown,
        passthrough: HostDevices::default(),
    };
    let spec = plan(config, image, request, &host).context("the pod's VM cannot be")?;
    Ok((spec, firmware))
}

/// The measurements by the names that the reports have for them.
fn registers(planned: &Planned, class: Class, acpi: Option<&Path>) -> Result<Vec<(&'static str, String)>> {
    let (spec, firmware) = vm(planned, class)?;
    let kernel = kernel(planned)?;
    let expected =
        expectation(&spec, &firmware, &kernel).context("what the VM's report will say cannot be computed")?;
    Ok(match (expected.context("the VM is a plain one")?, acpi) {
        (Expectation::Snp { launch_digest }, None) => vec![("launch_digest", launch_digest.to_string())],
        (Expectation::Snp { .. }, Some(_)) => bail!("SNP measures no ACPI tables: leave --acpi out"),
        (Expectation::Tdx { mrtd, rtmr1, rtmr2 }, acpi) => {
            let rtmr0 = acpi.map(|acpi| rtmr0(&spec, &firmware, acpi)).transpose()?;
            let mut registers = vec![("mrtd", mrtd.to_string())];
            registers.extend(rtmr0.map(|rtmr0| ("rtmr0", rtmr0)));
            registers.extend([("rtmr1", rtmr1.to_string()), ("rtmr2", rtmr2.to_string())]);
            registers
        }
    })
}

fn rtmr0(spec: &VmSpec, firmware: &[u8], acpi: &Path) -> Result<String> {
    let files = tdx::read_acpi(acpi)?;
    let rtmr0 = platform(spec, firmware, &files)
        .with_context(|| format!("RTMR0 cannot be computed with the ACPI files in {}", acpi.display()))?;
    Ok(rtmr0.to_string())
}

const fn initdata_field(class: Class) -> &'static str {
    match class {
        Class::CofferSnp => "host_data",
        Class::CofferTdx => "mrconfigid",
    }
}

fn unpredicted(demand: &Demand) -> &'static [&'static str] {
    let platform = demand.registers.iter().any(|(name, _)| *name == "rtmr0");
    match demand.class {
        Class::CofferTdx if platform => &[
            "RTMR0 with other network interfaces or devices than the ACPI files are of, GPUs included: another value",
            "RTMR3: what runs in the guest may add to it",
            "GPUs: their own reports vouch for them; `-o trustee` demands their number",
            "the TDX module's and the processor's versions (TCB), XFAM: set your own at the verifier",
        ],
        Class::CofferSnp => &[
            "ACPI tables, memory size and devices, GPUs included: SNP measures none of them",
            "GPUs: their own reports vouch for them; `-o trustee` demands their number",
            "SEV features that the host adds to SNP itself: with any, the launch digest is another",
            "the processor's firmware versions (TCB): set your own minimum at the verifier",
        ],
        Class::CofferTdx => &[
            "RTMR0: memory map, firmware variables and ACPI tables, which differ with memory and devices",
            "RTMR3: what runs in the guest may add to it",
            "GPUs: their own reports vouch for them; `-o trustee` demands their number",
            "the TDX module's and the processor's versions (TCB), XFAM: set your own at the verifier",
        ],
    }
}

fn for_people(demand: &Demand, request: &PodRequest, image: &ImageManifest) -> Result<String> {
    let class = demand.class;
    let mut text = String::new();
    let mut line = |name: &str, value: &str| writeln!(text, "{name:<14} {value}");
    let vm = format!(
        "{} vCPU ({}), {} ({})",
        request.vcpus.get(),
        request.vcpus_from.name(),
        request.memory.size(),
        request.memory_from.name()
    );
    line("pod", &format!("{}, class {}", demand.name, class.name()))?;
    line("VM", &vm)?;
    line("image", &format!("{}, {}", image.name, image.profile.name()))?;
    for (name, value) in &demand.registers {
        line(name, value)?;
    }
    line(initdata_field(class), &demand.initdata)?;
    if request.initdata.is_none() {
        line("", "(the pod has no initdata)")?;
    }
    line("GPUs", &demand.gpus.to_string())?;
    for (rank, what) in unpredicted(demand).iter().enumerate() {
        line(if rank == 0 { "not predicted" } else { "" }, what)?;
    }
    Ok(text)
}

fn object(demand: &Demand, request: &PodRequest, image: &ImageManifest) -> Value {
    let class = demand.class;
    let registers = demand.registers.iter().map(|(name, value)| ((*name).to_owned(), value.as_str().into()));
    json!({
        "pod": demand.name,
        "class": class.name(),
        "vcpus": request.vcpus.get(),
        "memory_bytes": request.memory.size().bytes(),
        "image": { "name": image.name, "profile": image.profile.name() },
        "measurement": Value::Object(registers.collect()),
        "initdata": { initdata_field(class): demand.initdata, "present": request.initdata.is_some() },
        "gpus": demand.gpus,
        "not_predicted": unpredicted(demand),
    })
}
