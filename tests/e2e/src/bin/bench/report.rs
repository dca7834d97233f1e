//! Figures, as a table for people and as JSON for programs.

use std::{env, fs};

use e2e::OrFail;
use serde_json::{Value, json};

/// Where the JSON goes, below the checkout.
const FILE: &str = "build/bench.json";

/// One figure.
#[derive(Debug)]
struct Figure {
    name: String,
    value: f64,
    unit: &'static str,
    /// The project's bound: the value should not be more.
    at_most: Option<f64>,
}

/// Says which agent the guest has; `tools/bench` sets it.
const AGENT: &str = "COFFER_BENCH_AGENT";

/// All figures of a run.
#[derive(Debug, Default)]
pub struct Report {
    figures: Vec<Figure>,
}

/// The agent that made the figures.
fn agent() -> String {
    env::var(AGENT).unwrap_or_else(|_| "the stand-in".to_owned())
}

impl Report {
    /// Adds a figure that has no bound.
    pub fn add(&mut self, name: impl Into<String>, value: f64, unit: &'static str) {
        self.push(Figure { name: name.into(), value, unit, at_most: None });
    }

    /// Adds a figure that should be `at_most` so much.
    pub fn bounded(&mut self, name: impl Into<String>, value: f64, unit: &'static str, at_most: f64) {
        self.push(Figure { name: name.into(), value, unit, at_most: Some(at_most) });
    }

    fn push(&mut self, figure: Figure) {
        println!("{}", line(&figure));
        self.figures.push(figure);
    }

    /// Prints the table and writes the JSON.
    pub fn write(&self) {
        let agent = agent();
        println!("\nThe guest's agent: {agent}\n\n| figure | value | bound |\n|---|---|---|");
        for figure in &self.figures {
            println!("{}", line(figure));
        }
        let values: Vec<Value> = self
            .figures
            .iter()
            .map(|figure| {
                json!({ "name": figure.name, "value": figure.value, "unit": figure.unit, "at_most": figure.at_most,
                    "agent": agent })
            })
            .collect();
        fs::write(FILE, format!("{:#}\n", Value::Array(values))).or_fail(FILE);
        println!("\nThe same as JSON: {FILE}");
    }
}

fn line(figure: &Figure) -> String {
    let Figure { name, value, unit, at_most } = figure;
    let number = |value: f64| if value < 10.0 { format!("{value:.2}") } else { format!("{value:.0}") };
    let bound = at_most.map(|bound| format!("≤ {} {unit}", number(bound))).unwrap_or_default();
    let verdict = if at_most.is_some_and(|bound| *value > bound) { " (over)" } else { "" };
    format!("| {name} | {} {unit}{verdict} | {} |", number(*value), bound.trim())
}

/// The middle one of some values.
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().or_fail("values to take the median of")
}
