//! How long the checks before a start take on this machine: `cargo run --release -p readiness --example preflight`.

use std::time::{Duration, Instant};

use readiness::{Class, Root, preflight};

const ROUNDS: u32 = 1000;

fn main() {
    let root = Root::host();
    for class in Class::ALL {
        let mut longest = Duration::ZERO;
        let begin = Instant::now();
        for _ in 0..ROUNDS {
            let one = Instant::now();
            let _ = std::hint::black_box(preflight(&root, class));
            longest = longest.max(one.elapsed());
        }
        let mean = begin.elapsed() / ROUNDS;
        let outcome =
            preflight(&root, class).map_or_else(|failed| failed.to_string(), |()| "passes".to_owned());
        println!("{class}: mean {mean:?}, longest {longest:?}; {outcome}");
    }
}
