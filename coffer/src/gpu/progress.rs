//! What is being done to which GPU: bars on a terminal, lines elsewhere; on standard error.

use std::collections::BTreeMap;
use std::io::{IsTerminal, stderr};

use gpu::Progress;
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

/// Runs `work` and shows its progress.
pub(super) async fn shown<T>(work: impl AsyncFnOnce(&Progress) -> T) -> T {
    let (progress, mut events) = Progress::channel();
    let terminal = stderr().is_terminal();
    let all = MultiProgress::new();
    let mut bars = BTreeMap::new();
    let mut show = |event: gpu::progress::Event| {
        if !terminal {
            if event.elapsed.is_zero() {
                eprintln!("{}: {}", event.gpu, event.phase);
            }
            return;
        }
        let bar = bars.entry(event.gpu).or_insert_with(|| all.add(bar()));
        bar.set_message(format!("{}  {} ({} s)", event.gpu, event.phase, event.elapsed.as_secs()));
        bar.tick();
    };
    let work = work(&progress);
    tokio::pin!(work);
    let result = loop {
        tokio::select! {
            biased;
            Some(event) = events.recv() => show(event),
            result = &mut work => break result,
        }
    };
    while let Ok(event) = events.try_recv() {
        show(event);
    }
    for bar in bars.values() {
        bar.finish_and_clear();
    }
    result
}

fn bar() -> ProgressBar {
    let style =
        ProgressStyle::with_template("{spinner} {msg}").unwrap_or_else(|_| ProgressStyle::default_spinner());
    ProgressBar::new_spinner().with_style(style)
}
