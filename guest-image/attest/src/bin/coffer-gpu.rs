//! Asks the GPUs' driver for PID 1, which is static and can load no library: `coffer-gpu list` prints a line for each GPU.

use std::process::ExitCode;

use shared_types::one_line;

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    if words != ["list"] {
        println!("called by somebody else than PID 1: {words:?}");
        return ExitCode::FAILURE;
    }
    match attest::gpus::list() {
        Ok(lines) => {
            lines.iter().for_each(|line| println!("{line}"));
            ExitCode::SUCCESS
        }
        Err(error) => {
            println!("{}", one_line(&error));
            ExitCode::FAILURE
        }
    }
}
