//! The layers of an image, several at a time.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::sync::Mutex;
use std::thread;

use crate::error::Error;
use crate::{Digest, Layer};

/// More threads would only wait for each other's disk.
const MAX_THREADS: usize = 4;

/// Works on each layer, on equal ones once, and gives the results in the layers' order. The first error ends it; what
/// has begun by then is ended by its own thread.
pub(crate) fn each<T: Clone + Send>(
    layers: &[Layer],
    work: impl Fn(&Layer) -> Result<T, Error> + Sync,
) -> Result<Vec<T>, Error> {
    let mut waiting: Vec<&Layer> = Vec::new();
    for layer in layers.iter().rev() {
        if !waiting.iter().any(|other| other.blob.digest == layer.blob.digest) {
            waiting.push(layer);
        }
    }
    let threads = thread::available_parallelism().map_or(1, NonZeroUsize::get);
    let threads = threads.min(MAX_THREADS).min(waiting.len());
    let waiting = Mutex::new(waiting);
    let done: Mutex<BTreeMap<Digest, Result<T, Error>>> = Mutex::new(BTreeMap::new());
    // A thread that panics takes the whole with it.
    let next = || waiting.lock().ok()?.pop();
    let run = || {
        while let Some(layer) = next() {
            let result = work(layer);
            let failed = result.is_err();
            if let Ok(mut done) = done.lock() {
                done.insert(layer.blob.digest, result);
            }
            if failed && let Ok(mut waiting) = waiting.lock() {
                waiting.clear();
            }
        }
    };
    thread::scope(|scope| {
        for _ in 1..threads {
            scope.spawn(run);
        }
        run();
    });
    let done = done.into_inner().unwrap_or_default();
    let mut results = BTreeMap::new();
    for (digest, result) in done {
        results.insert(digest, result?);
    }
    // Every layer has a result where none has an error.
    Ok(layers.iter().filter_map(|layer| results.get(&layer.blob.digest).cloned()).collect())
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::Descriptor;

    fn layer(name: &str) -> Layer {
        let digest = Digest::of(name.as_bytes());
        let blob =
            Descriptor { media_type: String::new(), digest, size: 1, platform: None, annotations: None };
        Layer::new(blob, digest).unwrap()
    }

    #[test]
    fn equal_layers_are_worked_on_once_and_the_order_stays() {
        let layers = ["a", "b", "a", "c", "a"].map(layer);
        let calls = AtomicUsize::new(0);
        let results = each(&layers, |layer| {
            calls.fetch_add(1, Ordering::Relaxed);
            Ok(layer.blob.digest)
        });
        assert_eq!(results.unwrap(), layers.each_ref().map(|layer| layer.blob.digest));
        assert_eq!(calls.load(Ordering::Relaxed), 3);
    }

    #[test]
    fn the_first_error_ends_it() {
        let layers: Vec<Layer> = (0..100).map(|n| layer(&n.to_string())).collect();
        let calls = AtomicUsize::new(0);
        let result: Result<Vec<()>, _> = each(&layers, |layer| {
            calls.fetch_add(1, Ordering::Relaxed);
            Err(Error::Foreign { layer: layer.blob.digest })
        });
        assert!(matches!(result, Err(Error::Foreign { .. })));
        assert!(calls.load(Ordering::Relaxed) <= MAX_THREADS);
    }
}
