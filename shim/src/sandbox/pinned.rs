//! Which layers a pod's policy demands, as its generator notes them; for a clear error before the guest's refusal.
//!
//! The guest decides, by the rules. The notes are comments of the policy, one line per layer, a container's topmost layer
//! first: `# layer <container> <root hash>`.

use std::collections::BTreeMap;

use guest_spec::member;
use oci_spec::runtime::Spec;
use verity::RootHash;

/// How the notes begin.
const NOTE: &str = "# layer ";
/// More layers than a pod's containers have in all.
const MAX_NOTES: usize = 8192;

/// The layers of a pod's containers, the topmost first, by the containers' names.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pinned(BTreeMap<String, Vec<RootHash>>);

impl Pinned {
    /// Reads a policy's notes; what does not look like one is none.
    pub fn of(policy: &str) -> Self {
        let mut pinned = BTreeMap::<String, Vec<RootHash>>::new();
        let notes = policy.lines().filter_map(|line| line.strip_prefix(NOTE)?.trim_end().split_once(' '));
        for (container, root) in notes.take(MAX_NOTES) {
            if let Ok(root) = root.parse() {
                pinned.entry(container.to_owned()).or_default().push(root);
            }
        }
        Self(pinned)
    }

    /// The layers that the policy demands for the container with this spec; `None` where it notes none.
    pub fn layers(&self, spec: &Spec) -> Option<&[RootHash]> {
        // Whoever's it might be is refused before anything is made for it.
        let name = member(spec).ok()??.container?;
        self.0.get(name).map(Vec::as_slice)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn named(name: &str) -> Spec {
        let annotations = json!({ "io.kubernetes.cri.container-type": "container", "io.kubernetes.cri.container-name": name });
        serde_json::from_value(json!({ "ociVersion": "1.1.0", "annotations": annotations })).unwrap()
    }

    #[test]
    fn notes_are_found_in_their_order() {
        let (a, b) = ("a".repeat(64), "b".repeat(64));
        let policy = format!(
            "package agent_policy\n# layer web {b}\n# layer web {a}\n  # layer web {a}\n# layer db nonsense\n# layer\n"
        );
        let pinned = Pinned::of(&policy);
        let expected = [b.parse().unwrap(), a.parse().unwrap()];
        assert_eq!(pinned.layers(&named("web")), Some(&expected[..]));
        assert_eq!(pinned.layers(&named("db")), None);
        assert_eq!(pinned.layers(&Spec::default()), None);
    }

    proptest! {
        #[test]
        fn any_policy_is_read(policy in "(# layer [a-z ]{0,8}[0-9a-f]{60,66}\n|.{0,20}\n){0,20}") {
            let _ = Pinned::of(&policy);
        }
    }
}
