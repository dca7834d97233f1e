//! When it is a container's turn.

use pod_manifest::spec::{Container, Spec};

/// What must have been before a container, by name.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Turn<'a> {
    /// Init containers that have run and are gone.
    pub(crate) ended: Vec<&'a str>,
    /// Init containers that stay (sidecars), and have been started.
    pub(crate) begun: Vec<&'a str>,
    /// Containers that come later, and have never been started.
    pub(crate) not_begun: Vec<&'a str>,
}

/// All containers in their order, with their turns: an init container ends before the next begins, and is not run again
/// once a later one was (Kubernetes, `computeInitContainerActions`); one that stays may be started again at any time.
pub(crate) fn turns(spec: &Spec) -> impl Iterator<Item = (&Container, Turn<'_>)> {
    let stays = |container: &Container| container.restart_policy.as_deref() == Some("Always");
    let inits: Vec<&Container> = spec.init_containers.iter().collect();
    let others: Vec<&Container> = spec.containers.iter().collect();
    let all = [inits.clone(), others].concat();
    all.clone().into_iter().enumerate().map(move |(index, container)| {
        let before = &inits[..index.min(inits.len())];
        let (begun, ended): (Vec<&Container>, Vec<&Container>) = before.iter().partition(|of| stays(of));
        let runs_once = index < inits.len() && !stays(container);
        let not_begun = if runs_once { names_of(&all[index + 1..]) } else { Vec::new() };
        (container, Turn { ended: names_of(&ended), begun: names_of(&begun), not_begun })
    })
}

fn names_of<'a>(containers: &[&'a Container]) -> Vec<&'a str> {
    containers.iter().map(|container| container.name.as_str()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn init_containers_come_one_by_one_and_sidecars_stay() {
        let container = |name: &str, policy: Option<&str>| Container {
            name: name.into(),
            restart_policy: policy.map(str::to_owned),
            ..Container::default()
        };
        let spec = Spec {
            init_containers: vec![container("a", None), container("b", Some("Always")), container("c", None)],
            containers: vec![container("d", None), container("e", None)],
            ..Spec::default()
        };
        let turns: Vec<_> = turns(&spec).collect();
        let of = |index: usize| {
            let Turn { ended, begun, not_begun } = &turns[index].1;
            [ended.concat(), begun.concat(), not_begun.concat()]
        };
        assert_eq!(of(0), ["", "", "bcde"]);
        assert_eq!(of(1), ["a", "", ""]);
        assert_eq!(of(2), ["a", "b", "de"]);
        assert_eq!(of(3), ["ac", "b", ""]);
        assert_eq!(of(4), ["ac", "b", ""]);
    }
}
