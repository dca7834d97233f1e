//! What a container runs: the manifest's command and arguments, with variables put in as kubelet does.

use pod_manifest::spec::Container;

use crate::environment::{Environment, Known};
use crate::text::Text;
use crate::{ImageConfig, PolicyError};

/// The process's arguments, the program's name first.
pub(crate) fn command(
    container: &Container,
    image: &ImageConfig,
    environment: &Environment,
) -> Result<Vec<Text>, PolicyError> {
    let all = |texts: &[String], field: &'static str| -> Result<Vec<Text>, PolicyError> {
        let unknown =
            |variable| PolicyError::UnknownValue { container: container.name.clone(), field, variable };
        texts.iter().map(|text| expand(text, &|name| environment.lookup(name)).map_err(unknown)).collect()
    };
    let plain = |texts: &[String]| texts.iter().map(|text| Text::plain(text)).collect::<Vec<_>>();
    let args = all(&container.args, "args")?;
    if !container.command.is_empty() {
        // The image's arguments go with its own entry point.
        return Ok([all(&container.command, "command")?, args].concat());
    }
    let none = || PolicyError::NoCommand(container.name.clone());
    let args = if args.is_empty() { plain(&image.cmd) } else { args };
    let command = [plain(&image.entrypoint), args].concat();
    if command.is_empty() { Err(none()) } else { Ok(command) }
}

/// Commands that kubelet runs in the container on its own.
pub(crate) fn own_commands(container: &Container, environment: &Environment) -> Vec<Vec<String>> {
    let probes = [&container.startup_probe, &container.liveness_probe, &container.readiness_probe];
    let probes = probes.into_iter().flatten().filter_map(|probe| probe.exec.as_ref()).map(|exec| {
        // kubelet puts those values in that the manifest has, and leaves the others.
        let known = |name: &str| match environment.lookup(name) {
            Known::Text(text) if text.is_plain() => Known::Text(text),
            _ => Known::Absent,
        };
        let plain = |text: &String| {
            let expanded = expand(text, &known).ok();
            expanded.as_ref().and_then(Text::exact).unwrap_or_else(|| text.clone())
        };
        exec.command.iter().map(plain).collect()
    });
    let hooks = [&container.lifecycle.post_start, &container.lifecycle.pre_stop];
    let hooks = hooks.into_iter().flatten().filter_map(|hook| hook.exec.as_ref());
    probes.chain(hooks.map(|exec| exec.command.clone())).collect()
}

/// Puts variables in for `$(NAME)`. `$$` is a dollar sign; a variable that is none stays as it is
/// (Kubernetes, `third_party/forked/golang/expansion`). Fails with the name of a variable whose value is not known.
pub(crate) fn expand(text: &str, lookup: &dyn Fn(&str) -> Known) -> Result<Text, String> {
    let mut out = Text::default();
    let mut rest = text;
    while let Some(dollar) = rest.find('$') {
        out.push(&rest[..dollar]);
        rest = &rest[dollar + 1..];
        if let Some(after) = rest.strip_prefix('$') {
            out.push("$");
            rest = after;
        } else if let Some((name, after)) = rest.strip_prefix('(').and_then(|rest| rest.split_once(')')) {
            match lookup(name) {
                Known::Text(value) => out.append(&value),
                Known::Absent => out.push(&format!("$({name})")),
                Known::Unknown => return Err(name.to_owned()),
            }
            rest = after;
        } else {
            out.push("$");
        }
    }
    out.push(rest);
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_are_put_in_as_kubelet_does() {
        let lookup = |name: &str| match name {
            "A" => Known::Text(Text::plain("1")),
            "IP" => Known::Text(Text::shape("[0-9.]+")),
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
            assert_eq!(expand(text, &lookup).unwrap(), Text::plain(expanded), "{text}");
        }
        assert_eq!(expand("--key=$(SECRET)", &lookup).unwrap_err(), "SECRET");
        assert_eq!(expand("$(IP):$(A)", &lookup).unwrap().pattern(), "^[0-9.]+:1$");
    }
}
