//! How the demonstration tells what takes how long.

use std::time::Instant;

/// Prints steps with the time that each took.
pub struct Steps {
    started: Instant,
}

impl Steps {
    /// The first step begins.
    pub fn begin() -> Self {
        Self { started: Instant::now() }
    }

    /// A step is done, and the next begins.
    pub fn done(&mut self, what: &str) {
        let (newline, what) = what.strip_prefix('\n').map_or(("", what), |what| ("\n", what));
        println!("{newline}[{:>5.2} s] {what}", self.started.elapsed().as_secs_f64());
        self.started = Instant::now();
    }
}

/// A line of a shim's log, as containerd writes it: `time="..." level=info msg="..." key=value key="two words"`.
pub struct Line<'a>(&'a str);

impl<'a> Line<'a> {
    /// None where the line has no time and no message.
    pub fn parse(text: &'a str) -> Option<Self> {
        let line = Self(text);
        let complete = line.value("time").is_some() && line.value("msg").is_some();
        complete.then_some(line)
    }

    /// What happened.
    pub fn message(&self) -> &'a str {
        self.value("msg").unwrap_or_default()
    }

    /// One of its values; quotes around it are taken away.
    pub fn value(&self, key: &str) -> Option<&'a str> {
        let key = format!("{key}=");
        let start = if self.0.starts_with(&key) { 0 } else { self.0.find(&format!(" {key}"))? + 1 };
        let rest = &self.0[start + key.len()..];
        match rest.strip_prefix('"') {
            Some(quoted) => quoted.split('"').next(),
            None => rest.split_whitespace().next(),
        }
    }

    /// Milliseconds from an earlier line to this one.
    pub fn since(&self, earlier: &Self) -> u64 {
        const DAY: u64 = 86_400_000;
        (self.time_of_day() + DAY - earlier.time_of_day()) % DAY
    }

    /// In milliseconds, from `2026-01-31T23:59:59.999888777Z`.
    fn time_of_day(&self) -> u64 {
        let clock = self.value("time").and_then(|time| time.split_once('T')).map_or("", |(_, clock)| clock);
        let number = |range| clock.get(range).and_then(|digits: &str| digits.parse().ok()).unwrap_or(0u64);
        ((number(0..2) * 60 + number(3..5)) * 60 + number(6..8)) * 1_000 + number(9..12)
    }
}
