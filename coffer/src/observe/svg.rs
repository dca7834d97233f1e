//! A timeline as a picture: a row for each step, its bar where it was in time.

use std::fmt::Write as _;

use super::timeline::Step;

const ROW: u64 = 22;
const TOP: u64 = 56;
/// Room for the steps' names.
const LEFT: u64 = 396;
const WIDTH: u64 = 560;
/// Room for the time behind the longest bar.
const RIGHT: u64 = 90;
/// As many characters as the room left of the bars has, of bold letters and of others.
const NAME: [usize; 2] = [40, 44];

/// The picture.
pub(super) fn picture(sandbox: &str, steps: &[Step]) -> String {
    let total = steps.last().map_or(0, |step| step.at_ms).max(1);
    let (width, height) = (LEFT + WIDTH + RIGHT, TOP + ROW * steps.len() as u64 + 16);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" viewBox=\"0 0 {width} {height}\" \
         font-family=\"sans-serif\" font-size=\"13\">\n<rect width=\"{width}\" height=\"{height}\" fill=\"#ffffff\"/>\n\
         <text x=\"12\" y=\"24\" font-size=\"16\" fill=\"#1a1a1a\">Start of {}: {total} ms</text>\n",
        escaped(&shortened(sandbox, 64))
    );
    let place = |ms: u64| LEFT + ms * WIDTH / total;
    let end = TOP + ROW * steps.len() as u64;
    // A start of less than four milliseconds has fewer.
    let mut marks: Vec<u64> = (0..=4).map(|quarter| total * quarter / 4).collect();
    marks.dedup();
    for ms in marks {
        let x = place(ms);
        let _ =
            writeln!(svg, "<line x1=\"{x}\" y1=\"{}\" x2=\"{x}\" y2=\"{end}\" stroke=\"#dddddd\"/>", TOP - 6);
        let _ = writeln!(
            svg,
            "<text x=\"{x}\" y=\"{}\" text-anchor=\"middle\" font-size=\"11\" fill=\"#666666\">{ms}</text>",
            TOP - 10
        );
    }
    for (row, step) in steps.iter().enumerate() {
        let y = TOP + ROW * row as u64;
        let (start, stop) = (place(step.at_ms), place(step.at_ms + step.took_ms));
        let (colour, weight, length) =
            if step.phase { ("#2f6fb3", "bold", NAME[0]) } else { ("#8db7dd", "normal", NAME[1]) };
        let name = escaped(&shortened(&named(step), length));
        let _ = writeln!(
            svg,
            "<text x=\"{}\" y=\"{}\" text-anchor=\"end\" font-weight=\"{weight}\" fill=\"#1a1a1a\">{name}</text>",
            LEFT - 10,
            y + 15
        );
        let _ = writeln!(
            svg,
            "<rect x=\"{start}\" y=\"{}\" width=\"{}\" height=\"14\" fill=\"{colour}\"/>",
            y + 4,
            (stop - start).max(2)
        );
        let _ = writeln!(
            svg,
            "<text x=\"{}\" y=\"{}\" font-size=\"11\" fill=\"#444444\">{} ms</text>",
            stop.max(start + 2) + 6,
            y + 15,
            step.took_ms
        );
    }
    svg.push_str("</svg>\n");
    svg
}

/// What is done with a GPU begins with its address, which is not to be cut off.
fn named(step: &Step) -> String {
    let Some(gpu) = &step.gpu else { return step.name.clone() };
    let done = step.name.replace(&format!("  gpu {gpu}"), "");
    format!("GPU {gpu}  {}", done.trim_start_matches("GPU").trim_start_matches([':', ' ']))
}

fn shortened(text: &str, length: usize) -> String {
    if text.chars().count() <= length {
        return text.to_owned();
    }
    text.chars().take(length - 1).chain(['…']).collect()
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::timeline::tests::{of_log, with_gpus};

    #[test]
    fn the_picture_is_the_one_that_was_looked_at() {
        insta::assert_snapshot!(picture("t2", &of_log()));
    }

    /// A text's place: left, top, right, bottom.
    #[derive(Debug)]
    struct Place {
        text: String,
        x: [f64; 2],
        y: [f64; 2],
    }

    /// Where each text is, by how wide letters are at most on average: DejaVu Sans is the widest of the usual fonts.
    fn places(svg: &str) -> Vec<Place> {
        let of = |line: &str| {
            let (tag, rest) = line.strip_prefix("<text ")?.split_once('>')?;
            let value =
                |name: &str| Some(tag.split_once(&format!("{name}=\""))?.1.split('"').next()?.to_owned());
            let number = |name: &str| value(name)?.parse::<f64>().ok();
            let text =
                rest.strip_suffix("</text>")?.replace("&amp;", "&").replace("&lt;", "<").replace("&gt;", ">");
            let size = number("font-size").unwrap_or(13.0);
            let letter = size * if value("font-weight").as_deref() == Some("bold") { 0.72 } else { 0.65 };
            let wide = text.chars().count() as f64 * letter;
            let (x, y) = (number("x")?, number("y")?);
            let left = match value("text-anchor").as_deref() {
                Some("end") => x - wide,
                Some("middle") => x - wide / 2.0,
                _ => x,
            };
            Some(Place { text, x: [left, left + wide], y: [y - size, y + size / 4.0] })
        };
        svg.lines().filter_map(of).collect()
    }

    fn steps(count: usize, name: &str, took_ms: u64) -> Vec<Step> {
        // The last one has no end.
        let took = |at: usize| if at + 1 == count { 0 } else { took_ms };
        let step = |at: usize| Step {
            name: name.to_owned(),
            at_ms: at as u64 * took_ms,
            took_ms: took(at),
            phase: at.is_multiple_of(2),
            gpu: None,
        };
        (0..count).map(step).collect()
    }

    #[test]
    fn no_text_is_over_another_or_outside() {
        let cases = [
            ("t2", of_log()),
            ("two", with_gpus().steps),
            ("one", steps(1, "planned", 0)),
            ("many", steps(60, "GPU: reset  gpu 0000:41:00.0  and more than there is room for", 1_200_000)),
            (&"3f1c".repeat(16), steps(12, "running", 1)),
        ];
        for (sandbox, steps) in cases {
            let svg = picture(sandbox, &steps);
            let places = places(&svg);
            assert!((1 + 2..=1 + 5).contains(&(places.len() - 2 * steps.len())), "{svg}");
            let size = |name: &str| -> f64 {
                svg.split_once(&format!(" {name}=\"")).unwrap().1.split('"').next().unwrap().parse().unwrap()
            };
            for (at, one) in places.iter().enumerate() {
                let fits = one.x[0] >= 0.0
                    && one.x[1] <= size("width")
                    && one.y[0] >= 0.0
                    && one.y[1] <= size("height");
                assert!(fits, "{sandbox}: {:?} is outside: {one:?}", one.text);
                for other in &places[at + 1..] {
                    let apart = |a: [f64; 2], b: [f64; 2]| a[1] <= b[0] || b[1] <= a[0];
                    assert!(
                        apart(one.x, other.x) || apart(one.y, other.y),
                        "{sandbox}: {one:?} and {other:?}"
                    );
                }
            }
        }
    }

    #[test]
    fn a_gpus_address_is_not_cut_off() {
        let mut start = with_gpus();
        start.steps[2].name = "GPU: waiting for firmware boot  gpu 0000:0d:00.0  and more".to_owned();
        let svg = picture("two", &start.steps);
        for name in ["GPU 0000:0d:00.0  waiting for firmware boot…", "GPU 0000:0e:00.0  writing settings"] {
            assert!(svg.contains(&format!(">{name}</text>")), "{name}: {svg}");
        }
    }

    #[test]
    fn a_pods_words_are_no_markup() {
        let step = Step { name: "<script>&\"".repeat(20), at_ms: 0, took_ms: 0, phase: false, gpu: None };
        let svg = picture("<b>", &[step]);
        assert!(!svg.contains("<script") && !svg.contains("<b>") && svg.contains("&lt;b&gt;"), "{svg}");
    }
}
