//! What a container runs: the manifest's command and arguments, with variables put in as kubelet does.

use pod_manifest::spec::Container;

use crate::environment::{Environment, Known};
use crate::{ImageConfig, PolicyError};

/// The process's arguments, the program's name first.
pub(crate) fn command(
    container: &Container,
    image: &ImageConfig,
    environment: &Environment,
) -> Result<Vec<String>, PolicyError> {
    let all =
        |texts: &[String], field: &'static str| -> Result<Vec<String>, PolicyError> {
            texts
                .iter()
                .map(|text| {
                    expand(text, &|name| environment.lookup(name)).map_err(|variable| {
                        PolicyError::UnknownValue { container: container.name.clone(), field, variable }
                    })
                })
                .collect()
        };
    let args = all(&container.args, "args")?;
    if !container.command.is_empty() {
        // The image's arguments go with its own entry point.
        return Ok([all(&container.command, "command")?, args].concat());
    }
    let none = || PolicyError::NoCommand(container.name.clone());
    let args = if args.is_empty() { image.cmd.clone() } else { args };
    let command = [image.entrypoint.clone(), args].concat();
    if command.is_empty() { Err(none()) } else { Ok(command) }
}

/// Commands that kubelet runs in the container on its own.
pub(crate) fn own_commands(container: &Container, environment: &Environment) -> Vec<Vec<String>> {
    let probes = [&container.startup_probe, &container.liveness_probe, &container.readiness_probe];
    let probes = probes.into_iter().flatten().filter_map(|probe| probe.exec.as_ref()).map(|exec| {
        // kubelet puts those values in that the manifest has, and leaves the others.
        let known = |name: &str| match environment.lookup(name) {
            Known::Unknown => Known::Absent,
            known => known,
        };
        exec.command.iter().map(|text| expand(text, &known).unwrap_or_else(|_| text.clone())).collect()
    });
    let hooks = [&container.lifecycle.post_start, &container.lifecycle.pre_stop];
    let hooks = hooks.into_iter().flatten().filter_map(|hook| hook.exec.as_ref());
    probes.chain(hooks.map(|exec| exec.command.clone())).collect()
}

/// Puts variables in for `$(NAME)`. `$$` is a dollar sign; a variable that is none stays as it is
/// (Kubernetes, `third_party/forked/golang/expansion`). Fails with the name of a variable whose value is not known.
pub(crate) fn expand(text: &str, lookup: &dyn Fn(&str) -> Known) -> Result<String, String> {
    let mut out = String::new();
    let mut rest = text;
    while let Some(dollar) = rest.find('$') {
        out.push_str(&rest[..dollar]);
        rest = &rest[dollar + 1..];
        if let Some(after) = rest.strip_prefix('$') {
            out.push('$');
            rest = after;
        } else if let Some((name, after)) = rest.strip_prefix('(').and_then(|rest| rest.split_once(')')) {
            match lookup(name) {
                Known::Value(value) => out.push_str(&value),
                Known::Absent => {
                    out.push_str("$(");
                    out.push_str(name);
                    out.push(')');
                }
                Known::Unknown => return Err(name.to_owned()),
            }
            rest = after;
        } else {
            out.push('$');
        }
    }
    out.push_str(rest);
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_are_put_in_as_kubelet_does() {
        let lookup = |name: &str| match name {
            "A" => Known::Value("1".to_owned()),
            "SECRET" => Known::Unknown,
            _ => Known::Absent,
        };
        for (text, expanded) in [
            ("", ""),
            ("$(A)", "1"),
            ("x$(A)$(A)y", "x11y"),
            ("$$(A)", "$(A)"),
            ("$$$(A)", "$1"),
            ("$(B) $A ${A}", "$(B) $A ${A}"),
            ("$(A", "$(A"),
            ("cost: 5$", "cost: 5$"),
        ] {
            assert_eq!(expand(text, &lookup).unwrap(), expanded, "{text}");
        }
        assert_eq!(expand("--key=$(SECRET)", &lookup).unwrap_err(), "SECRET");
    }
}
