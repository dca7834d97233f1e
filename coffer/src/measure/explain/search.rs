//! The neighbourhood of a pod's VM: each variation has a name, and its measurement is compared with what was reported.

use std::fmt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use measurement::Cmdline;
use measurement::initdata::InitData;
use measurement::ovmf::{Firmware, SevMetadata};
use measurement::snp::{
    CpuSignature, FirmwareDigest, Guest, GuestFeatures, KernelHashes, VcpuCount, launch_digest_after,
};
use measurement::tdx::{FwCfgFiles, InitrdOption, PageOrder, mrtd, rtmr0, rtmr1, rtmr2};

use super::Args;
use super::report::Reported;
use crate::files::Kind;
use crate::measure::pod::{self, Class, Demand, Planned};
use crate::measure::tdx;

/// Most vCPUs that are tried.
const VCPUS: u16 = 256;
/// SEV features of other kernels and hypervisors (`docs/attestation.md`).
const FEATURES: [(u64, &str); 4] = [
    (
        0x21,
        "swapped debug registers (0x21), of a host kernel older than 6.11 or a QEMU that was asked for them",
    ),
    (0x201, "a secure TSC (0x201)"),
    (0x221, "a secure TSC and swapped debug registers (0x221)"),
    (0x5, "an alternative injection of interrupts (0x5)"),
];
/// Words that somebody may have added to a guest's command line, to look into it.
const WORDS: [&str; 8] = [
    "console=ttyS0",
    "console=hvc0",
    "quiet",
    "debug",
    "agent.log=debug",
    "agent.debug_console",
    "init=/bin/sh",
    "nokaslr",
];
/// Memory sizes that are tried for RTMR0: each step of 128 MiB up to 1 TiB.
const STEP: u64 = 128 << 20;
const MEMORY: u64 = 1 << 40;
/// TDX's attributes by their bits (Intel, "TDX Module ABI", `ATTRIBUTES`).
const ATTRIBUTES: [(u32, &str); 6] = [
    (0, "DEBUG: the host can look into it"),
    (28, "SEPT_VE_DISABLE: without it the host can raise exceptions in the guest"),
    (29, "MIGRATABLE: it can be moved to another host"),
    (30, "PKS"),
    (31, "KL"),
    (63, "PERFMON"),
];
/// What the attributes of Coffer's guests are.
const USUAL_ATTRIBUTES: u64 = 1 << 28;
/// SNP's policy by its bits (AMD 56860, 4.3).
const POLICY: [(u32, &str); 4] = [
    (16, "SMT"),
    (18, "a migration agent"),
    (19, "debugging: the host can look into it"),
    (20, "a single socket only"),
];

/// What became of one value.
#[derive(Debug)]
pub(super) struct Finding {
    pub(super) what: &'static str,
    pub(super) verdict: Verdict,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// As it should be.
    Same,
    /// It is another VM's, and which one.
    Is(String),
    /// It is another VM's.
    Unknown(&'static str),
    /// It was not compared, and why.
    Unasked(&'static str),
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Same => f.write_str("as it should be"),
            Self::Is(what) => f.write_str(what),
            Self::Unknown(hint) => write!(f, "another, and none of those that were tried; {hint}"),
            Self::Unasked(why) => write!(f, "not looked at: {why}"),
        }
    }
}

/// A guest image.
struct Image {
    name: String,
    kernel: Vec<u8>,
    cmdline: String,
}

/// A firmware image.
struct Rom {
    name: String,
    bytes: Vec<u8>,
}

/// The pod's VM, and what it may have been instead.
pub(super) struct Neighbours {
    vcpus: u16,
    memory: u64,
    cpu: Option<(String, CpuSignature)>,
    /// The pod's own first.
    images: Vec<Image>,
    roms: Vec<Rom>,
    documents: Vec<(String, InitData)>,
    acpi: Option<FwCfgFiles>,
}

impl Neighbours {
    pub(super) fn read(planned: &Planned, args: &Args) -> Result<Self> {
        let (spec, firmware) = pod::vm(planned, args.node.class)?;
        let own = pod::kernel(planned)?;
        let mut images = vec![Image {
            name: planned.config.image.as_path().display().to_string(),
            kernel: own,
            cmdline: planned.image.cmdline.to_string(),
        }];
        for directory in &args.images {
            let other = planned.with_image(directory)?;
            let kernel = pod::kernel(&other)?;
            images.push(Image {
                name: directory.display().to_string(),
                kernel,
                cmdline: other.image.cmdline.to_string(),
            });
        }
        let mut roms = vec![Rom { name: "the pod's own".to_owned(), bytes: firmware }];
        for path in &args.firmwares {
            roms.push(Rom { name: path.display().to_string(), bytes: Kind::FIRMWARE.read(path)? });
        }
        let document = |path: &PathBuf| -> Result<(String, InitData)> {
            let document =
                InitData::parse(Kind::INITDATA.read(path)?).with_context(|| Kind::INITDATA.unusable(path))?;
            Ok((path.display().to_string(), document))
        };
        let name = planned.config.snp_cpu.as_str().to_owned();
        let cpu = planned.config.snp_cpu.signature().map(|signature| (name, signature));
        let acpi = args.acpi.as_deref().map(|path: &Path| tdx::read_acpi(path)).transpose()?;
        Ok(Self {
            vcpus: spec.vcpus().get().into(),
            memory: spec.memory().size().bytes(),
            cpu,
            images,
            roms,
            documents: args.initdata.iter().map(document).collect::<Result<_>>()?,
            acpi,
        })
    }
}

/// Compares all that was reported.
pub(super) fn explain(demand: &Demand, reported: &Reported, around: &Neighbours) -> Result<Vec<Finding>> {
    let mut findings = Vec::new();
    let mut add = |what, verdict| findings.push(Finding { what, verdict });
    for name in ["launch_digest", "mrtd", "rtmr0", "rtmr1", "rtmr2"] {
        let expected =
            demand.registers.iter().find(|(register, _)| *register == name).map(|(_, value)| value);
        match (expected, reported.registers.get(name)) {
            (None, None) => {}
            (None, Some(_)) => add(name, Verdict::Unasked("it takes the ACPI tables, by --acpi")),
            (Some(_), None) => add(name, Verdict::Unasked("the report has none")),
            (Some(expected), Some(found)) if expected == found => add(name, Verdict::Same),
            (Some(_), Some(found)) => add(name, around.register(name, found)?),
        }
    }
    let field = if demand.class.is_snp() { "host_data" } else { "mrconfigid" };
    add(
        field,
        match &reported.initdata {
            None => Verdict::Unasked("the report has none"),
            Some(found) if *found == demand.initdata => Verdict::Same,
            Some(found) => around.initdata(demand.class, found),
        },
    );
    if let (Some(expected), Some(found)) = (demand.snp_policy, reported.policy) {
        add("policy", policy(expected, found));
    }
    if let Some(found) = &reported.attributes {
        add("attributes", attributes(found));
    }
    Ok(findings)
}

impl Neighbours {
    fn register(&self, name: &str, found: &str) -> Result<Verdict> {
        let (is, hint) = match name {
            "launch_digest" => (
                self.launch(found)?,
                "other images and firmware can be given (--other-image, --other-firmware)",
            ),
            "mrtd" => (self.mrtd(found)?, "another firmware can be given (--other-firmware)"),
            "rtmr0" => (self.rtmr0(found)?, "other devices or ACPI tables, or another firmware"),
            "rtmr1" => (self.rtmr1(found)?, "another kernel (--other-image), or QEMU before 10.2"),
            _ => (self.rtmr2(found)?, "another image can be given (--other-image)"),
        };
        Ok(is.map_or(Verdict::Unknown(hint), |what| Verdict::Is(format!("this is your pod {what}"))))
    }

    /// Firmware, kernel, command line, CPUs: whatever it is, its name.
    fn launch(&self, found: &str) -> Result<Option<String>> {
        let Some((model, signature)) = &self.cpu else { return Ok(None) };
        let roms = self.roms.iter().map(Snp::new).collect::<Result<Vec<_>>>()?;
        let hashes = |image: &Image, line: &str| -> Option<KernelHashes> {
            Some(KernelHashes::new(&image.kernel, None, Cmdline::new(line).ok()?))
        };
        let kernels: Vec<_> = self.images.iter().map(|image| hashes(image, &image.cmdline)).collect();
        let (Some(own_rom), Some(kernel)) = (roms.first(), kernels.first().copied()) else { return Ok(None) };
        let counts =
            || (1..=VCPUS).filter_map(|count| VcpuCount::new(count).ok().map(|vcpus| (count, vcpus)));
        let Ok(vcpus) = VcpuCount::new(self.vcpus) else { return Ok(None) };
        let own = Guest { vcpus, cpu: *signature, features: GuestFeatures::SNP, kernel };
        let is = |rom: &Snp, guest: &Guest| rom.launch(guest).is_some_and(|digest| digest == found);

        // One thing is another.
        let mut named: Vec<(String, Guest, &Snp)> = Vec::new();
        for other in CpuSignature::models() {
            let Ok(cpu) = CpuSignature::of_model(other) else { continue };
            named.push((
                format!("with the CPU model {other} instead of {model}"),
                Guest { cpu, ..own },
                own_rom,
            ));
        }
        for (bits, what) in FEATURES {
            let Ok(features) = GuestFeatures::new(bits) else { continue };
            named.push((format!("with {what}"), Guest { features, ..own }, own_rom));
        }
        for (image, kernel) in self.images.iter().zip(&kernels).skip(1) {
            named.push((
                format!("with the guest image {}", image.name),
                Guest { kernel: *kernel, ..own },
                own_rom,
            ));
        }
        for (rom, measured) in self.roms.iter().zip(&roms).skip(1) {
            named.push((format!("with the firmware {}", rom.name), own, measured));
        }
        named.push((
            "without a measured kernel (kernel-hashes=off)".to_owned(),
            Guest { kernel: None, ..own },
            own_rom,
        ));
        for (what, line) in self.lines() {
            let kernel = self.images.first().and_then(|image| hashes(image, &line));
            named.push((what, Guest { kernel, ..own }, own_rom));
        }
        let more = |count: u16| format!("with {count} vCPUs instead of {}", self.vcpus);
        if let Some((count, _)) = counts().find(|(_, vcpus)| is(own_rom, &Guest { vcpus: *vcpus, ..own })) {
            return Ok(Some(more(count)));
        }
        if let Some((what, ..)) = named.iter().find(|(_, guest, rom)| is(rom, guest)) {
            return Ok(Some(what.clone()));
        }
        // Two are, and the number of vCPUs is one of them.
        for (what, guest, rom) in &named {
            if let Some((count, _)) = counts().find(|(_, vcpus)| is(rom, &Guest { vcpus: *vcpus, ..*guest }))
            {
                return Ok(Some(format!("{}, and {what}", more(count))));
            }
        }
        Ok(None)
    }

    /// Command lines with a word less or more.
    fn lines(&self) -> Vec<(String, String)> {
        let Some(own) = self.images.first() else { return Vec::new() };
        let words = split(&own.cmdline);
        let mut lines = Vec::new();
        for (at, left_out) in words.iter().enumerate() {
            let rest: Vec<_> =
                words.iter().enumerate().filter(|(place, _)| *place != at).map(|(_, word)| *word).collect();
            lines.push((format!("without `{left_out}` on the kernel's command line"), rest.join(" ")));
        }
        for word in WORDS {
            let what = format!("with `{word}` added to the kernel's command line");
            lines.push((what.clone(), format!("{} {word}", own.cmdline)));
            lines.push((what, format!("{word} {}", own.cmdline)));
        }
        lines
    }

    fn mrtd(&self, found: &str) -> Result<Option<String>> {
        for rom in &self.roms {
            let firmware = Firmware::parse(&rom.bytes)?;
            for (order, how) in [
                (PageOrder::SinglePass, ""),
                (PageOrder::TwoPass, ", started by a patched QEMU 8 (--two-pass)"),
            ] {
                if mrtd(&firmware, order).is_ok_and(|value| value.to_string() == found) {
                    return Ok(Some(format!("with the firmware {}{how}", rom.name)));
                }
            }
        }
        Ok(None)
    }

    fn rtmr0(&self, found: &str) -> Result<Option<String>> {
        let (Some(files), Some(rom)) = (&self.acpi, self.roms.first()) else { return Ok(None) };
        let firmware = Firmware::parse(&rom.bytes)?;
        let is =
            |memory: &u64| rtmr0(&firmware, *memory, files).is_ok_and(|log| log.value().to_string() == found);
        let size = (1..=MEMORY / STEP).map(|steps| steps * STEP).find(is);
        Ok(size.map(|size| format!("with {} MiB of memory instead of {}", size >> 20, self.memory >> 20)))
    }

    fn rtmr1(&self, found: &str) -> Result<Option<String>> {
        let is = |image: &&Image| rtmr1(&image.kernel).is_ok_and(|log| log.value().to_string() == found);
        Ok(self
            .images
            .iter()
            .find(is)
            .map(|image| format!("with the kernel of the guest image {}", image.name)))
    }

    fn rtmr2(&self, found: &str) -> Result<Option<String>> {
        let is = |line: &str| {
            let value = |line| rtmr2(line, None, InitrdOption::default()).value().to_string();
            Cmdline::new(line).is_ok_and(|line| value(line) == found)
        };
        if let Some(image) = self.images.iter().find(|image| is(&image.cmdline)) {
            return Ok(Some(format!("with the command line of the guest image {}", image.name)));
        }
        Ok(self.lines().into_iter().find(|(_, line)| is(line)).map(|(what, _)| what))
    }

    fn initdata(&self, class: Class, found: &str) -> Verdict {
        if found.bytes().all(|digit| digit == b'0') {
            return Verdict::Is("this VM was started without initdata".to_owned());
        }
        let field = |document: &InitData| match class {
            Class::CofferSnp => document.host_data().to_string(),
            Class::CofferTdx => document.mr_config_id().to_string(),
        };
        match self.documents.iter().find(|(_, document)| field(document) == found) {
            Some((name, _)) => Verdict::Is(format!("this VM was started with the initdata {name}")),
            None => Verdict::Unknown("other documents can be given (--other-initdata); white space counts"),
        }
    }
}

/// A firmware as SNP measures it, hashed once.
struct Snp {
    digest: FirmwareDigest,
    metadata: Option<SevMetadata>,
}

impl Snp {
    fn new(rom: &Rom) -> Result<Self> {
        let firmware = Firmware::parse(&rom.bytes)
            .with_context(|| format!("the firmware {} cannot be read", rom.name))?;
        Ok(Self { digest: FirmwareDigest::of(&firmware), metadata: firmware.sev()? })
    }

    fn launch(&self, guest: &Guest) -> Option<String> {
        launch_digest_after(self.digest, self.metadata.as_ref()?, guest).ok().map(|digest| digest.to_string())
    }
}

/// The words of a command line; a part in quotes belongs to its word.
pub(in crate::measure) fn split(line: &str) -> Vec<&str> {
    let mut quoted = false;
    line.split(|c: char| {
        quoted ^= c == '"';
        c == ' ' && !quoted
    })
    .filter(|word| !word.is_empty())
    .collect()
}

fn policy(expected: u64, found: u64) -> Verdict {
    if expected == found {
        return Verdict::Same;
    }
    let mut what: Vec<String> = Vec::new();
    for (bit, name) in POLICY {
        match (expected >> bit & 1, found >> bit & 1) {
            (0, 1) => what.push(format!("it allows {name}")),
            (1, 0) => what.push(format!("it does not allow {name}")),
            _ => {}
        }
    }
    what.push(format!("{found:#x} instead of {expected:#x}"));
    Verdict::Is(what.join("; "))
}

fn attributes(found: &str) -> Verdict {
    let bytes: Vec<u8> = (0..found.len())
        .step_by(2)
        .filter_map(|at| u8::from_str_radix(found.get(at..at + 2)?, 16).ok())
        .collect();
    let Some(word) = bytes.first_chunk().map(|bytes| u64::from_le_bytes(*bytes)) else {
        return Verdict::Unknown("they are no word of 8 bytes");
    };
    if word == USUAL_ATTRIBUTES {
        return Verdict::Same;
    }
    let changed = |(bit, name): &(u32, &str)| match (USUAL_ATTRIBUTES >> bit & 1, word >> bit & 1) {
        (0, 1) => Some(format!("set: {name}")),
        (1, 0) => Some(format!("not set: {name}")),
        _ => None,
    };
    let mut what: Vec<String> = ATTRIBUTES.iter().filter_map(changed).collect();
    what.push(format!("{word:#x} instead of {USUAL_ATTRIBUTES:#x}"));
    Verdict::Is(what.join("; "))
}
