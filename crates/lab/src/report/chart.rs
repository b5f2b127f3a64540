//! A line chart as SVG.
//!
//! Guarantees: every text of the caller's is escaped; a series is told by colour and by dashes; a value that is no number draws
//! nothing. May depend on [`super::scale`].

use std::fmt::Write as _;

use super::scale::Scale;

const WIDTH: f64 = 860.0;
const HEIGHT: f64 = 380.0;
const LEFT: f64 = 78.0;
const RIGHT: f64 = 14.0;
const TOP: f64 = 14.0;
const BOTTOM: f64 = 52.0;
/// Beside a chart that is alone: its names, so far apart; above it, its title.
const NAMES: f64 = 216.0;
const NAME: f64 = 17.0;
const HEADING: f64 = 30.0;

/// How wide a letter is at most, on average.
const LETTER: f64 = 8.0;
/// Between two areas that are told apart.
const NEAR: f64 = 12.0;

/// How many colours there are. With two kinds of line twice as many series are told apart.
const COLOURS: usize = 7;

/// A line, or a point if it has one value only.
#[derive(Debug, Clone)]
pub(super) struct Series {
    pub(super) name: String,
    /// The same in every chart.
    pub(super) number: usize,
    pub(super) values: Vec<(f64, f64)>,
}

/// What is on the axes' lines.
#[derive(Debug, Clone)]
pub(super) struct Axis {
    pub(super) label: &'static str,
    pub(super) scale: Scale,
    /// How a tick is written.
    pub(super) text: fn(f64) -> String,
}

#[derive(Debug, Clone)]
pub(super) struct Chart {
    /// Of its file, and of its place in the page.
    pub(super) id: &'static str,
    pub(super) title: &'static str,
    pub(super) x: Axis,
    pub(super) y: Axis,
    pub(super) series: Vec<Series>,
    /// Of each run: from, to, what.
    pub(super) shades: Vec<Vec<(f64, f64, String)>>,
    /// A moment, and what it is.
    pub(super) mark: Option<(f64, &'static str)>,
    /// Each value is a step that lasts until the next one.
    pub(super) steps: bool,
}

/// For HTML and XML, as text or in quotes. What XML can't hold becomes a replacement character.
pub(super) fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            '\t' | '\n' | '\r' => out.push(' '),
            c if c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}') => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}

/// CSS classes of a series.
pub(super) fn classes(name: &str, number: usize) -> String {
    let ours = if name == super::OURS { " ours" } else { "" };
    let dashed = if number / COLOURS % 2 == 1 { " dashed" } else { "" };
    format!("series n{number} c{}{dashed}{ours}", number % COLOURS)
}

impl Chart {
    /// Alone in a file it brings its colours along.
    pub(super) fn svg(&self, alone: bool) -> String {
        let (above, beside) = if alone { (HEADING, NAMES) } else { (0.0, 0.0) };
        let (width, height) = (WIDTH + beside, HEIGHT + above);
        let mut out = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 -{above} {width} {height}\" role=\"img\" aria-labelledby=\"{0}-title\"><title id=\"{0}-title\">{1}</title>",
            self.id,
            escape(&self.description())
        );
        if alone {
            let _ = write!(
                out,
                "<style>{}</style><rect class=\"paper\" y=\"-{above}\" width=\"{width}\" height=\"{height}\"/><text class=\"heading\" x=\"{LEFT}\" y=\"-8\">{}</text>",
                super::CHART_CSS,
                escape(self.title),
            );
        }
        self.shades(&mut out);
        self.axes(&mut out);
        if let Some((x, what)) = self.mark {
            let (x, bottom) = (self.place((x, 0.0)).0, HEIGHT - BOTTOM);
            let _ = write!(
                out,
                "<g class=\"mark\"><line x1=\"{x:.1}\" y1=\"{TOP}\" x2=\"{x:.1}\" y2=\"{bottom}\"/><text x=\"{:.1}\" y=\"{:.1}\">{what}</text></g>",
                x - 5.0,
                bottom - 8.0,
            );
        }
        for series in &self.series {
            self.line(series, &mut out);
        }
        if alone {
            self.legend(&mut out);
        }
        out.push_str("</svg>");
        out
    }

    fn description(&self) -> String {
        let names: Vec<_> = self.series.iter().map(|s| s.name.as_str()).collect();
        format!("{}: {} by {}, for {}", self.title, self.y.label, self.x.label, names.join(", "))
    }

    fn place(&self, (x, y): (f64, f64)) -> (f64, f64) {
        let (width, height) = (WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM);
        (LEFT + self.x.scale.place(x) * width, HEIGHT - BOTTOM - self.y.scale.place(y) * height)
    }

    /// Each fault's times, its name at the first one. A time is as dark as the share of runs in which the fault was on then.
    fn shades(&self, out: &mut String) {
        let mut names: Vec<&str> = Vec::new();
        for (.., name) in self.shades.iter().flatten() {
            if !names.contains(&name.as_str()) {
                names.push(name);
            }
        }
        // Where the last name of each line of names ends.
        let mut rows: Vec<f64> = Vec::new();
        for name in names {
            let areas = shared(self.shades.iter().map(|run| self.areas(run, name)));
            let _ = write!(out, "<g class=\"shade\"><title>{}</title>", escape(name));
            for (left, right, share) in &areas {
                let (width, height) = ((right - left).max(1.0), HEIGHT - TOP - BOTTOM);
                let _ = write!(
                    out,
                    "<rect x=\"{left:.1}\" y=\"{TOP}\" width=\"{width:.1}\" height=\"{height}\" fill-opacity=\"{share:.2}\"/>"
                );
            }
            let x = areas.first().map_or(LEFT, |(left, ..)| left + 4.0);
            let end = x + name.len() as f64 * LETTER;
            let row = rows.iter().position(|end| *end < x).unwrap_or(rows.len());
            match rows.get_mut(row) {
                Some(row) => *row = end,
                None => rows.push(end),
            }
            let y = TOP + 12.0 + row as f64 * 14.0;
            let _ = write!(out, "<text x=\"{x:.1}\" y=\"{y}\">{}</text></g>", escape(name));
        }
    }

    /// A fault's times in a run. Times that are less than [`NEAR`] apart are one.
    fn areas(&self, run: &[(f64, f64, String)], name: &str) -> Vec<(f64, f64)> {
        let mut areas: Vec<(f64, f64)> = Vec::new();
        for (from, to, _) in run.iter().filter(|(.., of)| of == name) {
            // To a tenth, as it is drawn.
            let place = |x: f64| (self.place((x, 0.0)).0 * 10.0).round() / 10.0;
            let (left, right) = (place(*from), place(*to));
            match areas.last_mut() {
                Some((_, end)) if left - *end < NEAR => *end = end.max(right),
                _ => areas.push((left, right)),
            }
        }
        areas
    }

    fn axes(&self, out: &mut String) {
        let (bottom, right) = (HEIGHT - BOTTOM, WIDTH - RIGHT);
        out.push_str("<g class=\"axes\">");
        for tick in self.y.scale.ticks() {
            let y = self.place((0.0, tick)).1;
            let _ = write!(
                out,
                "<line x1=\"{LEFT}\" y1=\"{y:.1}\" x2=\"{right}\" y2=\"{y:.1}\"/><text class=\"y\" x=\"{:.1}\" y=\"{:.1}\">{}</text>",
                LEFT - 7.0,
                y + 4.0,
                escape(&(self.y.text)(tick)),
            );
        }
        for tick in self.x.scale.ticks() {
            let x = self.place((tick, 0.0)).0;
            let _ = write!(
                out,
                "<line x1=\"{x:.1}\" y1=\"{bottom}\" x2=\"{x:.1}\" y2=\"{:.1}\"/><text class=\"x\" x=\"{x:.1}\" y=\"{:.1}\">{}</text>",
                bottom + 5.0,
                bottom + 19.0,
                escape(&(self.x.text)(tick)),
            );
        }
        let (middle, centre) = (TOP + (bottom - TOP) / 2.0, LEFT + (right - LEFT) / 2.0);
        let _ = write!(
            out,
            "<text class=\"x label\" x=\"{centre:.1}\" y=\"{:.1}\">{}</text><text class=\"x label\" transform=\"translate(15 {middle:.1}) rotate(-90)\">{}</text></g>",
            HEIGHT - 10.0,
            escape(self.x.label),
            escape(self.y.label),
        );
    }

    fn line(&self, series: &Series, out: &mut String) {
        let values = series.values.iter().filter(|(x, y)| x.is_finite() && y.is_finite());
        let mut places: Vec<_> = values.map(|value| self.place(*value)).collect();
        if self.steps {
            places = stepped(&places);
        }
        let _ = write!(
            out,
            "<g class=\"{}\"><title>{}</title>",
            classes(&series.name, series.number),
            escape(&series.name)
        );
        match places.as_slice() {
            [] => {}
            [(x, y)] => {
                let _ = write!(
                    out,
                    "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"5.5\"/><text class=\"name\" x=\"{:.1}\" y=\"{:.1}\">{}</text>",
                    x + 9.0,
                    y + 4.0,
                    escape(&series.name)
                );
            }
            places => {
                out.push_str("<polyline points=\"");
                for (x, y) in places {
                    let _ = write!(out, "{x:.1},{y:.1} ");
                }
                out.push_str("\"/>");
            }
        }
        out.push_str("</g>");
    }

    /// On the right, each beside the end of its line; a page has a list of its own.
    fn legend(&self, out: &mut String) {
        let end = |series: &Series| {
            let value = series.values.iter().rfind(|(x, y)| x.is_finite() && y.is_finite())?;
            (series.values.len() != 1).then(|| self.place(*value))
        };
        let mut lines: Vec<_> =
            self.series.iter().filter_map(|series| Some((series, end(series)?))).collect();
        lines.sort_by(|(_, (_, a)), (_, (_, b))| a.total_cmp(b));
        let ends: Vec<f64> = lines.iter().map(|(_, (_, y))| *y).collect();
        let x = WIDTH + 12.0;
        for ((series, (from, end)), y) in lines.into_iter().zip(apart(&ends)) {
            let _ = write!(
                out,
                "<g class=\"{}\"><polyline class=\"lead\" points=\"{from:.1},{end:.1} {:.1},{end:.1} {:.1},{y:.1}\"/><text class=\"tag\" x=\"{x}\" y=\"{:.1}\">{}</text></g>",
                classes(&series.name, series.number),
                (WIDTH - RIGHT).max(from),
                x - 4.0,
                y + 4.0,
                escape(&series.name),
            );
        }
    }
}

/// Areas, and in which share of the runs they are.
fn shared(runs: impl ExactSizeIterator<Item = Vec<(f64, f64)>>) -> Vec<(f64, f64, f64)> {
    let all = runs.len() as f64;
    let mut edges: Vec<(f64, f64)> =
        runs.flatten().flat_map(|(left, right)| [(left, 1.0), (right.max(left + 1.0), -1.0)]).collect();
    edges.sort_by(|a, b| a.0.total_cmp(&b.0));
    let (mut areas, mut on): (Vec<(f64, f64, f64)>, f64) = (Vec::new(), 0.0);
    for (edge, next) in edges.iter().zip(edges.iter().skip(1)) {
        on += edge.1;
        if on > 0.5 && next.0 > edge.0 {
            areas.push((edge.0, next.0, on / all));
        }
    }
    areas
}

/// Places for names, from those of their lines, which go downwards: in this order, [`NAME`] apart, within the chart if there is room.
fn apart(ends: &[f64]) -> Vec<f64> {
    let mut places = ends.to_vec();
    let mut least = TOP + 6.0;
    for place in &mut places {
        *place = place.max(least);
        least = *place + NAME;
    }
    let mut most = HEIGHT - BOTTOM;
    for place in places.iter_mut().rev() {
        *place = place.min(most);
        most = *place - NAME;
    }
    places
}

/// Each place is held until the next one.
fn stepped(places: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let mut out: Vec<(f64, f64)> = Vec::with_capacity(places.len() * 2);
    for (x, y) in places {
        if let Some((_, before)) = out.last().copied() {
            out.push((*x, before));
        }
        out.push((*x, *y));
    }
    out
}
