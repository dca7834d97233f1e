//! The command line: Go's single-dash flags and one action, as engines write them.

use containerd_shim::Flags;

/// What the shim is asked to do.
#[derive(Debug)]
pub enum Invocation {
    /// `-v`: print name, version and revision.
    Version,
    /// [`jail::ACTION`]: become the program that the rest of the line names, in its jail.
    Jail,
    /// `-info`: print what the runtime can do.
    Info,
    /// `start`: make sure that a server runs for the container's sandbox, print its address.
    Start(Flags),
    /// `delete`: clean up after a server that is gone.
    Delete(Flags),
    /// `reap`: give back what a dead server left, for `start` and `delete`.
    Reap(Flags),
    /// `clean`: remove images that dead servers left of which no record is there any more, for `start`.
    Clean(Flags),
    /// No action: be the server; the listening socket is standard input.
    Serve(Flags),
}

/// A command line that makes no sense.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Unknown flag, or a flag without its value.
    #[error("command line: {0}")]
    Flags(String),
    /// Unknown action.
    #[error("unknown action {0:?}: engines call `start` or `delete`")]
    Action(String),
    /// A flag that every action needs.
    #[error("-{0} is missing")]
    Missing(&'static str),
}

/// Parses the arguments after the program's name.
///
/// # Errors
/// [`Error`], for a command line that no engine sends.
pub fn parse(args: &[String]) -> Result<Invocation, Error> {
    if args.first().is_some_and(|first| first == jail::ACTION) {
        return Ok(Invocation::Jail);
    }
    let flags = containerd_shim::parse(args).map_err(|error| Error::Flags(error.to_string()))?;
    if flags.version {
        return Ok(Invocation::Version);
    }
    if flags.info {
        return Ok(Invocation::Info);
    }
    let wrap = match flags.action.as_str() {
        "start" => Invocation::Start,
        "delete" => Invocation::Delete,
        "reap" => Invocation::Reap,
        "clean" => Invocation::Clean,
        "" => Invocation::Serve,
        other => return Err(Error::Action(other.to_owned())),
    };
    for (value, name) in [(&flags.namespace, "namespace"), (&flags.id, "id")] {
        if value.is_empty() {
            return Err(Error::Missing(name));
        }
    }
    Ok(wrap(flags))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(text: &str) -> Result<Invocation, Error> {
        parse(&text.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
    }

    #[test]
    fn a_start_of_containerd_is_understood() {
        let text = "-namespace k8s.io -address /run/containerd/containerd.sock \
                    -publish-binary /usr/bin/containerd -id web -debug start";
        let Ok(Invocation::Start(flags)) = line(text) else { panic!("not a start") };
        assert_eq!((flags.namespace.as_str(), flags.id.as_str(), flags.debug), ("k8s.io", "web", true));
        assert_eq!(flags.address, "/run/containerd/containerd.sock");
    }

    #[test]
    fn a_start_of_crio_has_empty_addresses() {
        let args =
            ["-namespace", "default", "-address", "", "-publish-binary", "/usr/bin/crio", "-id", "web"];
        let mut args: Vec<String> = args.map(str::to_owned).to_vec();
        args.push("start".to_owned());
        let Ok(Invocation::Start(flags)) = parse(&args) else { panic!("not a start") };
        assert_eq!(flags.address, "");
    }

    #[test]
    fn version_and_info_need_nothing_else() {
        assert!(matches!(line("-v"), Ok(Invocation::Version)));
        assert!(matches!(line("-version"), Ok(Invocation::Version)));
        assert!(matches!(line("-info"), Ok(Invocation::Info)));
    }

    #[test]
    fn delete_and_serve_are_told_apart() {
        assert!(matches!(line("-namespace a -id b -bundle /x delete"), Ok(Invocation::Delete(_))));
        assert!(matches!(line("-namespace a -id b"), Ok(Invocation::Serve(_))));
        assert!(matches!(line("-namespace a -id b reap"), Ok(Invocation::Reap(_))));
        assert!(matches!(line("-namespace a -id b clean"), Ok(Invocation::Clean(_))));
    }

    #[test]
    fn nonsense_is_refused_by_name() {
        for (text, part) in [
            ("-nonsense start", "nonsense"),
            ("-namespace a -id b restart", "restart"),
            ("-id b start", "-namespace"),
            ("-namespace a start", "-id"),
        ] {
            let error = line(text).unwrap_err().to_string();
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}
