//! A timeline as a picture: a row for each step, its bar where it was in time.

use std::fmt::Write as _;

use super::timeline::Step;

const ROW: u64 = 22;
const TOP: u64 = 56;
const LEFT: u64 = 330;
const WIDTH: u64 = 560;
/// Room for the time behind the longest bar.
const RIGHT: u64 = 90;
/// As many characters as the room left of the bars has.
const NAME: usize = 44;

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
    for quarter in 0..=4 {
        let (x, ms) = (place(total * quarter / 4), total * quarter / 4);
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
        let (colour, weight) = if step.phase { ("#2f6fb3", "bold") } else { ("#8db7dd", "normal") };
        let name = escaped(&shortened(&step.name, NAME));
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
    use crate::observe::timeline::tests::of_log;

    #[test]
    fn the_picture_is_the_one_that_was_looked_at() {
        insta::assert_snapshot!(picture("t2", &of_log()));
    }

    #[test]
    fn a_pods_words_are_no_markup() {
        let step = Step { name: "<script>&\"".repeat(20), at_ms: 0, took_ms: 0, phase: false };
        let svg = picture("<b>", &[step]);
        assert!(!svg.contains("<script") && !svg.contains("<b>") && svg.contains("&lt;b&gt;"), "{svg}");
    }
}
