//! What Linux says of the first processor.

/// The first processor of `/proc/cpuinfo` (Linux, `arch/x86/kernel/cpu/proc.c`).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Cpu {
    /// As in `GenuineIntel`.
    pub vendor: String,
    /// Its name.
    pub model: String,
    /// How many bits a physical address has; `None` where that is not said.
    pub physical_bits: Option<u32>,
    flags: Vec<String>,
}

impl Cpu {
    /// The first processor is within so many bytes; the whole file takes long on a large host.
    pub const BYTES: u64 = 8 << 10;

    /// Reads the first processor's lines.
    #[must_use]
    pub fn parse(cpuinfo: &str) -> Self {
        let mut cpu = Self::default();
        for line in cpuinfo.lines().take_while(|line| !line.is_empty()) {
            let Some((key, value)) = line.split_once(':') else { continue };
            match key.trim() {
                "vendor_id" => value.trim().clone_into(&mut cpu.vendor),
                "model name" => value.trim().clone_into(&mut cpu.model),
                "flags" => cpu.flags = value.split_ascii_whitespace().map(str::to_owned).collect(),
                // `46 bits physical, 48 bits virtual`
                "address sizes" => {
                    cpu.physical_bits =
                        value.split_ascii_whitespace().next().and_then(|bits| bits.parse().ok());
                }
                _ => {}
            }
        }
        cpu
    }

    /// Whether it has a flag.
    #[must_use]
    pub fn has(&self, flag: &str) -> bool {
        self.flags.iter().any(|f| f == flag)
    }

    /// Whether this machine is a VM itself: hypervisors set the flag for their guests.
    #[must_use]
    pub fn is_guest(&self) -> bool {
        self.has("hypervisor")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_that_is_a_vm_is_told_by_its_first_processor() {
        let of =
            |flags: &str| format!("processor\t: 0\nvmx flags\t: hypervisor\nflags\t\t: fpu {flags} sse\n\n");
        for (text, vm) in [(of("hypervisor"), true), (of("hypervisors"), false), (String::new(), false)] {
            assert_eq!(Cpu::parse(&text).is_guest(), vm, "{text}");
        }
        assert!(!Cpu::parse(&format!("{}{}", of(""), of("hypervisor"))).is_guest());
    }

    #[test]
    fn names_and_widths_are_read_as_the_kernel_writes_them() {
        let cpu = Cpu::parse(
            "vendor_id\t: GenuineIntel\nmodel name\t: Xeon : x\naddress sizes\t: 46 bits physical, 48 bits virtual\n",
        );
        let read = (cpu.vendor.as_str(), cpu.model.as_str(), cpu.physical_bits);
        assert_eq!(read, ("GenuineIntel", "Xeon : x", Some(46)));
        for bad in ["", "address sizes\t: many", "address sizes\t:"] {
            assert_eq!(Cpu::parse(bad).physical_bits, None, "{bad:?}");
        }
    }
}
