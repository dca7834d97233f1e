//! Writes the seeds that are no text: `cargo run -p fuzz --example seeds`, in the checkout's top folder.
//!
//! Each is made by code that writes such bytes for Coffer or for the other side, or field by field after the
//! description of its format.

use std::collections::BTreeMap;
use std::error::Error;
use std::fs;
use std::io::{self, Read};
use std::path::Path;

use agent_client::proto::agent::{ReadStreamResponse, WaitProcessResponse};
use agent_client::proto::health::health_check_response::ServingStatus;
use agent_client::proto::health::{HealthCheckResponse, VersionCheckResponse};
use containerd_shim_protos::bootstrap_api::BootstrapParams;
use flate2::Compression;
use flate2::write::GzEncoder;
use measurement::Sha384Digest;
use measurement::initdata::{self, Algorithm};
use measurement::snp::LaunchDigest;
use measurement::snp::id_block::{IdBlock, Policy, PrivateKey};
use p384::ecdsa::SigningKey;
use p384::pkcs8::{EncodePrivateKey, LineEnding};
use protobuf::Message;
use protobuf::well_known_types::any::Any;
use ttrpc::proto::{MessageHeader, Response};

#[path = "../../../crates/measurement/tests/volume/mod.rs"]
mod volume;

type Outcome = Result<(), Box<dyn Error>>;

fn main() -> Outcome {
    agent()?;
    shim()?;
    initdata()?;
    id_block()?;
    write("acpi_script/two-files", &acpi_script())?;
    write("firmware/amdsev", &firmware(Some(&AMDSEV), None))?;
    write("firmware/inteltdx", &firmware(None, Some(&INTELTDX)))?;
    let packed = volume::section(&volume::TDX);
    write("firmware/packed", &[packed, firmware(None, Some(&INTELTDX))].concat())?;
    write("firmware/both", &firmware(Some(&AMDSEV), Some(&INTELTDX)))?;
    write("pe/two-sections", &pe())?;
    write("erofs_image/superblock", &at(1024, &0xe0f5_e1e2_u32.to_le_bytes()))?;
    // Heads and tails of two queues that are empty, a request taken, a reply of six words and its words.
    let reply = [0xc000_0000, 0x1510_de7e, 3, 0x13, 0, 1];
    let queues = [0x800, 0x800, 0x800, 0x800, 0x800, 0x800, 0x800, 0x814];
    write("gpu_firmware/hopper", &little(queues.iter().chain(&reply)))?;
    // No message waits; ready to take one, with credit; no error; a message of 24 bytes, its words, no error.
    let mailbox = [0, 1 << 24, 1 << 26, 0, 1 << 24 | 24];
    write("gpu_firmware/blackwell", &little(mailbox.iter().chain(&reply).chain(&[0])))
}

fn write(name: &str, bytes: &[u8]) -> Outcome {
    let path = Path::new("tests/fuzz/corpus").join(name);
    path.parent().map_or(Ok(()), fs::create_dir_all)?;
    Ok(fs::write(path, bytes)?)
}

fn little<'a>(words: impl IntoIterator<Item = &'a u32>) -> Vec<u8> {
    words.into_iter().flat_map(|word| word.to_le_bytes()).collect()
}

/// `bytes` behind `offset` zeros.
fn at(offset: usize, bytes: &[u8]) -> Vec<u8> {
    [vec![0; offset].as_slice(), bytes].concat()
}

/// What a guest says to the calls that the target makes, in the order of their streams.
fn agent() -> Outcome {
    let health = HealthCheckResponse { status: ServingStatus::SERVING.into(), ..Default::default() };
    let version = VersionCheckResponse { agent_version: "4.1.0".to_owned(), ..Default::default() };
    let output = ReadStreamResponse { data: b"hello\n".to_vec(), ..Default::default() };
    let ended = WaitProcessResponse { status: 7, ..Default::default() };
    let mut said = b"OK 1073741824\n".to_vec();
    for (stream, payload) in (1..).step_by(2).zip([
        health.write_to_bytes()?,
        version.write_to_bytes()?,
        output.write_to_bytes()?,
        ended.write_to_bytes()?,
    ]) {
        let body = Response { payload, ..Default::default() }.write_to_bytes()?;
        said.extend(Vec::from(MessageHeader::new_response(stream, u32::try_from(body.len())?)));
        said.extend(body);
    }
    write("agent_answers/conversation", &said)
}

fn shim() -> Outcome {
    let any = |name: &str, value: &[u8]| {
        Any { type_url: name.to_owned(), value: value.to_vec(), ..Any::default() }.write_to_bytes()
    };
    // Fields 1 to 3: a type URL, a path, a file's content.
    let options = any("runtimeoptions.v1.Options", b"\x0a\x03abc\x12\x06/c.tml\x1a\x05x = 1")?;
    // Host name, an unknown field, cgroup parent, and period, quota and memory limit.
    let pod = b"\x12\x03web\x22\x01x\x42\x10\x0a\x02/p\x2a\x0a\x08\x64\x10\xc8\x01\x18\x05\x20\x80\x20";
    let params = BootstrapParams {
        instance_id: "web".to_owned(),
        namespace: "k8s.io".to_owned(),
        containerd_ttrpc_address: "/run/c.ttrpc".to_owned(),
        socket_dir: Some("/run/s".to_owned()),
        ..BootstrapParams::default()
    };
    write("shim_start/bootstrap", &params.write_to_bytes()?)?;
    write("shim_start/options", &options)?;
    write("shim_sandbox_options/options", &options)?;
    write("shim_sandbox_options/pod", &any("runtime.v1.PodSandboxConfig", pod)?)
}

fn initdata() -> Outcome {
    let data = BTreeMap::from([("policy.rego".to_owned(), "package agent_policy\n".to_owned())]);
    let document = initdata::build(Algorithm::Sha384, data)?;
    let disk = initdata::disk::encode(&document)?;
    let length = u64::from_le_bytes(disk[8..16].try_into()?);
    write("initdata_document/policy", document.raw())?;
    write("initdata_annotation/document", initdata::annotation::encode(&document)?.as_bytes())?;
    write("initdata_disk/document", &disk)?;
    write("initdata_gzip/document", &disk[16..16 + usize::try_from(length)?])?;
    let mut bomb = GzEncoder::new(Vec::new(), Compression::best());
    io::copy(&mut io::repeat(b'#').take(initdata::MAX_PLAIN as u64 + 1), &mut bomb)?;
    write("initdata_gzip/bomb", &bomb.finish()?)
}

fn id_block() -> Outcome {
    let key = |byte: u8| -> Result<PrivateKey, Box<dyn Error>> {
        Ok(PrivateKey::from_pem(&SigningKey::from_slice(&[byte; 48])?.to_pkcs8_pem(LineEnding::LF)?)?)
    };
    let block = IdBlock {
        launch_digest: LaunchDigest::from_digest(Sha384Digest::ZERO),
        family_id: [1; 16],
        image_id: [2; 16],
        guest_svn: 3,
        policy: Policy::DEFAULT,
    };
    let signed = block.sign(&key(1)?, &key(2)?)?;
    write("id_block/signed", &[&block.encode()[..], &signed.auth()[..]].concat())
}

/// Two files read into memory and one pointer between them (QEMU, `hw/acpi/bios-linker-loader.c`).
fn acpi_script() -> Vec<u8> {
    let command = |kind: u32, names: &[&str]| {
        let mut command = kind.to_le_bytes().to_vec();
        for name in names {
            command.extend(name.bytes().chain(std::iter::repeat(0)).take(56));
        }
        command.resize(128, 0);
        command
    };
    [
        command(1, &["etc/acpi/rsdp"]),
        command(1, &["etc/acpi/tables"]),
        command(2, &["etc/acpi/rsdp", "etc/acpi/tables"]),
    ]
    .concat()
}

/// A section of the SEV metadata: address, size, type.
type Sev = [u32; 3];
/// A section of the TDVF metadata: offset and size in the image, address, memory, type, attributes.
type Tdvf = (u32, u32, u64, u64, u32, u32);

const AMDSEV: [Sev; 5] = [
    [0x80_0000, 0x9000, 1],
    [0x80_d000, 0x1000, 2],
    [0x80_e000, 0x1000, 3],
    [0x80_f000, 0x1000, 4],
    [0x81_0000, 0x1000, 0x10],
];
const INTELTDX: [Tdvf; 4] = [
    (0, 0x1000, 0xffff_f000, 0x1000, 0, 1),
    (0, 0x800, 0xffff_e000, 0x1000, 1, 0),
    (0, 0, 0x81_0000, 0x1_0000, 3, 0),
    (0, 0, 0x80_9000, 0x2000, 2, 0),
];

/// The end of a firmware image: the metadata's lists, the table of entries, the 32 bytes behind it. GUIDs are in
/// the order of their bytes in memory (edk2, `OvmfPkg/ResetVector`).
fn firmware(sev: Option<&[Sev]>, tdvf: Option<&[Tdvf]>) -> Vec<u8> {
    const RESET: u128 = 0xde71_f700_7e1a_cb4f_890e_68c7_7e2f_b44e;
    const HASH_TABLE: u128 = 0x1f37_5572_3b3a_044b_927b_1da6_efa8_d454;
    const SEV: u128 = 0x6665_88dc_4a98_9847_a75e_5585_a7bf_67cc;
    const TDVF: u128 = 0x3565_7ae4_4a98_9847_865e_4685_a7bf_8ec2;
    const FOOTER: u128 = 0xde82_b596_b21f_f745_baea_a366_c55a_082d;

    let list = |signature: &[u8; 4], count: usize, body: Vec<u8>| {
        let fields = [16 + body.len(), 1, count].map(|field| u32::try_from(field).unwrap_or(u32::MAX));
        [&signature[..], &little(&fields), &body].concat()
    };
    let sev = sev.map(|sections| list(b"ASEV", sections.len(), little(sections.iter().flatten())));
    let tdvf = tdvf.map(|sections| {
        let body = sections.iter().flat_map(|(offset, size, address, memory, kind, attributes)| {
            let place = [address.to_le_bytes(), memory.to_le_bytes()].concat();
            [little([offset, size]), place, little([kind, attributes])].concat()
        });
        list(b"TDVF", sections.len(), body.collect())
    });

    let entry = |guid: u128, data: &[u8], length: usize| {
        let length = u16::try_from(length).unwrap_or(u16::MAX).to_le_bytes();
        [data, &length, &guid.to_be_bytes()].concat()
    };
    // The offsets count from the image's end, and the table, whose size they do not change, lies in between.
    let table = |sev_at: u32, tdvf_at: u32| {
        let mut table = entry(RESET, &0x80_b004_u32.to_le_bytes(), 22);
        if sev.is_some() {
            table.extend(entry(HASH_TABLE, &little(&[0x81_0c00, 0x400]), 26));
            table.extend(entry(SEV, &sev_at.to_le_bytes(), 22));
        }
        if tdvf.is_some() {
            table.extend(entry(TDVF, &tdvf_at.to_le_bytes(), 22));
        }
        let whole = table.len() + 18;
        table.extend(entry(FOOTER, &[], whole));
        table.extend([0; 32]);
        table
    };
    let (sev_list, tdvf_list) = (sev.clone().unwrap_or_default(), tdvf.clone().unwrap_or_default());
    let distance = |bytes: usize| u32::try_from(bytes).unwrap_or(u32::MAX);
    let behind = table(0, 0).len();
    let table = table(distance(behind + sev_list.len()), distance(behind + sev_list.len() + tdvf_list.len()));
    [tdvf_list, sev_list, table].concat()
}

/// A PE32+ image for x86-64: headers of 0x200 bytes, two sections, certificates.
fn pe() -> Vec<u8> {
    let mut image = vec![0; 0x480];
    let mut put = |offset: usize, bytes: &[u8]| image[offset..offset + bytes.len()].copy_from_slice(bytes);
    put(0, b"MZ");
    put(0x3c, &0x80_u32.to_le_bytes());
    put(0x80, b"PE\0\0\x64\x86\x02\0");
    let (optional, optional_size) = (0x98, 0xa0_u16);
    put(0x94, &optional_size.to_le_bytes());
    put(optional, &0x20b_u16.to_le_bytes());
    put(optional + 60, &0x200_u32.to_le_bytes());
    put(optional + 108, &6_u32.to_le_bytes());
    put(optional + 112 + 8 * 4, &little(&[0x440, 0x40]));
    let table = optional + usize::from(optional_size);
    // Size, then offset of each section's data.
    put(table + 16, &little(&[0x100, 0x300]));
    put(table + 40 + 16, &little(&[0x100, 0x200]));
    image
}
