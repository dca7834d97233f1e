//! Which devices programs in containers may use: a program that the kernel runs at each open and each mknod.
//!
//! The agent sets no device rules on cgroup v2, and a container with the right to make nodes could otherwise make one
//! for a disk, for the CPU's report device, or for any other driver's. So the rule is set once, on the cgroup that all
//! containers are below, before the agent starts. It denies everything but a list, and mknod as well as open: a
//! node that cannot be made cannot be opened later by a program that is outside of the rule.
//!
//! A handful of instructions in a fixed order needs no compiler and no library: each is 64 bits (Linux,
//! `Documentation/bpf/standardization/instruction-set.rst`), and the kernel checks them before it runs them.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::{fs, io};

use crate::sys;

/// Character devices by major number, and by minor number where not all of the major's are meant.
type Rule = (u32, Option<u32>);

/// What every container may use: null, zero, full, random, urandom, the terminal, /dev/ptmx, pseudo terminals.
const USUAL: [Rule; 8] = [
    (1, Some(3)),
    (1, Some(5)),
    (1, Some(7)),
    (1, Some(8)),
    (1, Some(9)),
    (5, Some(0)),
    (5, Some(2)),
    (136, None),
];

/// NVIDIA's devices: those with the fixed number, and by name in /proc/devices those whose number the kernel chooses
/// (NVIDIA's `nv-chardev-numbers.h` and `nvidia-modprobe-utils.c`).
const NVIDIA: u32 = 195;
const NVIDIA_NAMES: [&str; 4] = ["nvidia-uvm", "nvidia-caps", "nvidia-nvswitch", "nvidia-caps-imex-channels"];

/// Why containers could not be kept from devices.
#[derive(Debug, thiserror::Error)]
pub enum DeviceProgramError {
    /// The cgroup cannot be opened, or the numbers of devices not be read.
    #[error("cannot read {}", path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    /// The kernel refused the program.
    #[error("the kernel does not take the device program for {}; it needs CONFIG_CGROUP_BPF", path.display())]
    Refused {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

/// Attaches the program to `cgroup`; with `gpus`, NVIDIA's devices are on the list as far as `devices` (/proc/devices)
/// knows them.
///
/// # Errors
///
/// [`DeviceProgramError`].
pub fn attach(cgroup: &Path, devices: &Path, gpus: bool) -> Result<(), DeviceProgramError> {
    let read = |path: &Path| {
        let path = path.to_owned();
        move |source| DeviceProgramError::Read { path, source }
    };
    let mut rules = USUAL.to_vec();
    if gpus {
        rules.extend(nvidia(&fs::read_to_string(devices).map_err(read(devices))?));
    }
    let directory = File::open(cgroup).map_err(read(cgroup))?;
    sys::load_device_program(&assemble(&rules))
        .and_then(|program| sys::attach_device_program(&directory, program))
        .map_err(|source| DeviceProgramError::Refused { path: cgroup.to_owned(), source })
}

/// NVIDIA's majors.
fn nvidia(devices: &str) -> Vec<Rule> {
    let lines = devices.lines().take_while(|line| *line != "Block devices:");
    let named = lines.filter_map(|line| {
        let (major, name) = line.trim_start().split_once(' ')?;
        NVIDIA_NAMES.contains(&name).then(|| major.parse().ok())?
    });
    std::iter::once(NVIDIA).chain(named).map(|major| (major, None)).collect()
}

/// Operation codes.
const LOAD_WORD: u8 = 0x61;
const AND: u8 = 0x57;
const JUMP_IF_NOT: u8 = 0x55;
const JUMP_IF: u8 = 0x15;
const JUMP: u8 = 0x05;
const MOVE: u8 = 0xb7;
const EXIT: u8 = 0x95;
/// Registers: the answer, the question's address, and ours.
const ANSWER: u8 = 0;
const QUESTION: u8 = 1;
const TYPE: u8 = 2;
const MAJOR: u8 = 3;
const MINOR: u8 = 4;
/// `BPF_DEVCG_DEV_CHAR`, in the lower half of `access_type` (Linux, `include/uapi/linux/bpf.h`, `bpf_cgroup_dev_ctx`).
const CHAR: u32 = 2;

fn instruction(code: u8, to: u8, from: u8, offset: i16, number: u32) -> u64 {
    u64::from(code)
        | u64::from(to) << 8
        | u64::from(from) << 12
        | u64::from(offset.cast_unsigned()) << 16
        | u64::from(number) << 32
}

/// The program: 1 for a device of the rules, 0 for any other.
fn assemble(rules: &[Rule]) -> Vec<u64> {
    let load = |to, offset| instruction(LOAD_WORD, to, QUESTION, offset, 0);
    let answer = |number| [instruction(MOVE, ANSWER, 0, 0, number), instruction(EXIT, 0, 0, 0, 0)];
    let mut program = vec![
        load(TYPE, 0),
        load(MAJOR, 4),
        load(MINOR, 8),
        instruction(AND, TYPE, 0, 0, 0xffff),
        instruction(JUMP_IF, TYPE, 0, 2, CHAR),
    ];
    program.extend(answer(0));
    for &(major, minor) in rules {
        match minor {
            Some(minor) => {
                program.push(instruction(JUMP_IF_NOT, MAJOR, 0, 3, major));
                program.push(instruction(JUMP_IF_NOT, MINOR, 0, 2, minor));
            }
            None => {
                program.push(instruction(JUMP_IF_NOT, MAJOR, 0, 3, major));
                // Keeps each rule at the same length.
                program.push(instruction(JUMP, 0, 0, 0, 0));
            }
        }
        program.extend(answer(1));
    }
    program.extend(answer(0));
    program
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs a program as the kernel would; only what [`assemble`] uses.
    fn run(program: &[u64], kind: u32, access: u32, major: u32, minor: u32) -> u32 {
        let question = [access << 16 | kind, major, minor];
        let mut registers = [0u32; 16];
        let mut at = 0usize;
        loop {
            let word = program[at];
            let byte = |shift: u64| u8::try_from(word >> shift & 0xff).unwrap();
            let to = usize::from(byte(8) & 15);
            let offset = i64::from((word >> 16 & 0xffff) as u16 as i16);
            let number = (word >> 32) as u32;
            at += 1;
            let jump = match byte(0) {
                LOAD_WORD => {
                    registers[to] = question[usize::try_from(offset).unwrap() / 4];
                    false
                }
                AND => {
                    registers[to] &= number;
                    false
                }
                MOVE => {
                    registers[to] = number;
                    false
                }
                JUMP_IF_NOT => registers[to] != number,
                JUMP_IF => registers[to] == number,
                JUMP => true,
                EXIT => return registers[0],
                code => panic!("code {code:#x}"),
            };
            if jump {
                at = usize::try_from(i64::try_from(at).unwrap() + offset).unwrap();
            }
        }
    }

    const BLOCK: u32 = 1;
    const MKNOD: u32 = 1;
    const READ_WRITE: u32 = 6;

    #[test]
    fn the_usual_devices_work_and_no_others() {
        let program = assemble(&USUAL);
        for access in [MKNOD, READ_WRITE] {
            for (major, minor) in
                [(1, 3), (1, 5), (1, 7), (1, 8), (1, 9), (5, 0), (5, 2), (136, 0), (136, 4095)]
            {
                assert_eq!(run(&program, CHAR, access, major, minor), 1, "{major}:{minor}");
                assert_eq!(run(&program, BLOCK, access, major, minor), 0, "block {major}:{minor}");
            }
            // Memory, ports, kernel log, console, misc devices (reports, device mapper, vsock), terminals, GPUs.
            for (major, minor) in
                [(1, 1), (1, 2), (1, 4), (1, 11), (5, 1), (10, 236), (10, 125), (4, 64), (195, 0), (0, 0)]
            {
                assert_eq!(run(&program, CHAR, access, major, minor), 0, "{major}:{minor}");
            }
            for (major, minor) in [(8, 0), (253, 0), (254, 0)] {
                assert_eq!(run(&program, BLOCK, access, major, minor), 0, "block {major}:{minor}");
            }
        }
    }

    #[test]
    fn gpus_are_allowed_only_where_they_are_on_the_list() {
        let devices = "Character devices:\n  1 mem\n195 nvidia\n235 nvidia-uvm\n236 nvidia-caps\n 10 misc\n\n\
                       Block devices:\n240 nvidia-uvm\n";
        let rules = nvidia(devices);
        assert_eq!(rules, [(195, None), (235, None), (236, None)]);
        let program = assemble(&[&USUAL[..], &rules].concat());
        for (major, minor) in [(195, 0), (195, 255), (235, 0), (236, 2), (1, 3)] {
            assert_eq!(run(&program, CHAR, READ_WRITE, major, minor), 1, "{major}:{minor}");
        }
        assert_eq!(run(&program, CHAR, READ_WRITE, 240, 0), 0);
        assert_eq!(nvidia("Character devices:\n"), [(195, None)]);
    }

    #[test]
    fn instructions_have_the_kernels_layout() {
        assert_eq!(instruction(JUMP_IF_NOT, MAJOR, 0, 3, 195), 0x0000_00c3_0003_0355);
        assert_eq!(instruction(LOAD_WORD, TYPE, QUESTION, 4, 0), 0x0004_1261);
    }

    #[test]
    fn a_cgroup_that_is_not_there_is_named() {
        let error = attach(Path::new("/nowhere"), Path::new("/proc/devices"), false).unwrap_err();
        assert_eq!(error.to_string(), "cannot read /nowhere");
    }
}
