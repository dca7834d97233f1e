//! The shim's program; all of it is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    containerd_shim_coffer::main()
}
