//! How long the checks before a start take: `cargo run --release -p readiness --example preflight [ROOT]`. The host's
//! files are read below ROOT, the CPU is this machine's, the configuration is the usual one.

use std::env;
use std::time::{Duration, Instant};

use readiness::{Class, Root, preflight};
use vmm_config::config::NodeConfig;

const ROUNDS: u32 = 1000;

fn main() {
    let root = env::args_os().nth(1).map_or_else(Root::host, |path| Root::new(path.as_ref()));
    let config = NodeConfig::default();
    for class in Class::ALL {
        let mut longest = Duration::ZERO;
        let begin = Instant::now();
        for _ in 0..ROUNDS {
            let one = Instant::now();
            let _ = std::hint::black_box(preflight(&root, &config, class));
            longest = longest.max(one.elapsed());
        }
        let mean = begin.elapsed() / ROUNDS;
        let outcome = preflight(&root, &config, class)
            .map_or_else(|failed| failed.to_string(), |_| "passes".to_owned());
        println!("{class}: mean {mean:?}, longest {longest:?}; {outcome}");
    }
}
