//! Builds firmware images with the table and metadata that a test wants. They hold no code.

#![allow(dead_code, reason = "each test binary uses a part of it")]

/// Bytes before the image's end where the SEV metadata is put.
pub const SEV_AT: u32 = 0x800;
/// Bytes before the image's end where the TDVF metadata is put.
pub const TDVF_AT: u32 = 0x700;

const FOOTER: &str = "96b582de-1fb2-45f7-baea-a366c55a082d";
const RESET: &str = "00f771de-1a7e-4fcb-890e-68c77e2fb44e";
const HASH_TABLE: &str = "7255371f-3a3b-4b04-927b-1da6efa8d454";
const SEV: &str = "dc886566-984a-4798-a75e-5585a7bf67cc";
const TDVF: &str = "e47a6535-984a-4798-865e-4685a7bf8ec2";

/// A section of the SEV metadata: address, size, type.
pub type Sev = (u32, u32, u32);

/// A section of the TDVF metadata.
#[derive(Debug, Clone, Copy, Default)]
pub struct Tdvf {
    pub offset: u32,
    pub size: u32,
    pub address: u64,
    pub memory: u64,
    pub kind: u32,
    pub attributes: u32,
}

/// What the image has.
#[derive(Debug, Clone)]
pub struct Image {
    pub size: usize,
    pub sev: Option<Vec<Sev>>,
    pub tdvf: Option<Vec<Tdvf>>,
    pub hash_table: Option<(u32, u32)>,
    pub reset_eip: Option<u32>,
    /// What is put 4 KiB behind the image's start.
    pub volumes: Vec<u8>,
    /// Whether the variable store of the TDVF metadata holds a variable.
    pub variables: bool,
}

impl Image {
    /// No metadata at all.
    pub fn plain() -> Self {
        Self {
            size: 0x20000,
            sev: None,
            tdvf: None,
            hash_table: None,
            reset_eip: None,
            volumes: vec![],
            variables: false,
        }
    }

    /// The SEV metadata of edk2's AmdSev build, in an image of 128 KiB.
    pub fn amdsev() -> Self {
        Self {
            sev: Some(vec![
                (0x80_0000, 0x9000, 1),
                (0x80_a000, 0x3000, 1),
                (0x80_d000, 0x1000, 2),
                (0x80_e000, 0x1000, 3),
                (0x80_f000, 0x1000, 4),
                (0x81_1000, 0xf000, 1),
                (0x81_0000, 0x1000, 0x10),
            ]),
            hash_table: Some((0x81_0c00, 0x400)),
            reset_eip: Some(0x80_b004),
            ..Self::plain()
        }
    }

    /// The TDVF metadata of edk2's IntelTdx build, in an image of 128 KiB.
    pub fn inteltdx() -> Self {
        let memory = |address, memory, kind| Tdvf { address, memory, kind, ..Tdvf::default() };
        Self {
            tdvf: Some(vec![
                Tdvf {
                    offset: 0x4000,
                    size: 0x1c000,
                    address: 0xfffe_4000,
                    memory: 0x1c000,
                    kind: 0,
                    attributes: 1,
                },
                Tdvf { size: 0x4000, address: 0xfffe_0000, memory: 0x4000, kind: 1, ..Tdvf::default() },
                memory(0x81_0000, 0x10000, 3),
                memory(0x80_b000, 0x2000, 3),
                memory(0x80_9000, 0x2000, 2),
            ]),
            ..Self::plain()
        }
    }

    /// The image's bytes: a pattern without any meaning, the metadata, the table.
    pub fn build(&self) -> Vec<u8> {
        let mut state = 0x9e37_79b9_u32;
        let mut image: Vec<u8> = (0..self.size)
            .map(|_| {
                state ^= state << 13;
                state ^= state >> 17;
                state ^= state << 5;
                state.to_le_bytes()[0]
            })
            .collect();
        image[0x1000..0x1000 + self.volumes.len()].copy_from_slice(&self.volumes);
        for store in self.tdvf.iter().flatten().filter(|section| section.kind == 1 && section.size > 0) {
            let Ok(at) = usize::try_from(store.offset) else { continue };
            // A volume's header of 72 bytes, the store's of 28, then a variable's start or erased flash.
            if let Some(store) = image.get_mut(at..at + 104) {
                store[48..50].copy_from_slice(&[72, 0]);
                store[100..104].copy_from_slice(if self.variables {
                    &[0xaa, 0x55, 0x3f, 0]
                } else {
                    &[0xff; 4]
                });
            }
        }

        let mut table = Vec::new();
        if let Some(eip) = self.reset_eip {
            entry(&mut table, RESET, &eip.to_le_bytes());
        }
        if let Some((base, size)) = self.hash_table {
            entry(&mut table, HASH_TABLE, &[base.to_le_bytes(), size.to_le_bytes()].concat());
        }
        if let Some(sections) = &self.sev {
            entry(&mut table, SEV, &SEV_AT.to_le_bytes());
            let body: Vec<u8> =
                sections.iter().flat_map(|(a, s, k)| [*a, *s, *k]).flat_map(u32::to_le_bytes).collect();
            put(&mut image, SEV_AT, &list(*b"ASEV", sections.len(), &body));
        }
        if let Some(sections) = &self.tdvf {
            entry(&mut table, TDVF, &TDVF_AT.to_le_bytes());
            let body: Vec<u8> = sections.iter().flat_map(tdvf).collect();
            put(&mut image, TDVF_AT, &list(*b"TDVF", sections.len(), &body));
        }
        entry(&mut table, FOOTER, &[]);
        // The footer's length is that of the whole table.
        let (at, whole) = (table.len() - 18, u16::try_from(table.len()).unwrap());
        table[at..at + 2].copy_from_slice(&whole.to_le_bytes());
        put(&mut image, 32 + u32::from(whole), &table);
        image
    }
}

/// Overwrites `image` from `from_end` bytes before its end.
pub fn put(image: &mut [u8], from_end: u32, bytes: &[u8]) {
    let start = image.len() - usize::try_from(from_end).unwrap();
    image[start..start + bytes.len()].copy_from_slice(bytes);
}

fn list(signature: [u8; 4], count: usize, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(16 + body.len()).unwrap();
    let count = u32::try_from(count).unwrap();
    [&signature, &length.to_le_bytes(), &1_u32.to_le_bytes(), &count.to_le_bytes(), body].concat()
}

fn tdvf(section: &Tdvf) -> Vec<u8> {
    [
        &section.offset.to_le_bytes()[..],
        &section.size.to_le_bytes(),
        &section.address.to_le_bytes(),
        &section.memory.to_le_bytes(),
        &section.kind.to_le_bytes(),
        &section.attributes.to_le_bytes(),
    ]
    .concat()
}

fn entry(table: &mut Vec<u8>, guid: &str, data: &[u8]) {
    table.extend(data);
    table.extend(u16::try_from(data.len() + 18).unwrap().to_le_bytes());
    table.extend(guid_bytes(guid));
}

fn guid_bytes(text: &str) -> Vec<u8> {
    let hex: String = text.split('-').collect();
    let bytes: Vec<u8> = (0..16).map(|i| u8::from_str_radix(&hex[2 * i..2 * i + 2], 16).unwrap()).collect();
    [3, 2, 1, 0, 5, 4, 7, 6, 8, 9, 10, 11, 12, 13, 14, 15].iter().map(|i| bytes[*i]).collect()
}
