//! A plot as pixels, by resvg, with a font of its own: the same bytes on every machine.
//!
//! Guarantees: reads no file, no font of the system, no network. May depend on nothing of ours.

use std::sync::Arc;

use resvg::{
    tiny_skia::{Pixmap, Transform},
    usvg::{Options, Tree, fontdb},
};

use super::CHART_CSS;

/// Pixels for one unit of the plot.
const SCALE: f32 = 2.0;
/// No plot of ours is larger, in pixels.
const MOST: f32 = 10_000.0;

const FONTS: [&[u8]; 2] = [include_bytes!("font/regular.ttf"), include_bytes!("font/bold.ttf")];
const FAMILY: &str = "DejaVu Sans";

/// The paper.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scheme {
    Light,
    Dark,
}

/// # Errors
/// What is wrong with the SVG.
pub(super) fn png(svg: &str, scheme: Scheme) -> Result<Vec<u8>, String> {
    let mut fonts = fontdb::Database::new();
    for font in FONTS {
        fonts.load_font_data(font.to_vec());
    }
    fonts.set_sans_serif_family(FAMILY);
    let options = Options { fontdb: Arc::new(fonts), font_family: FAMILY.to_owned(), ..Options::default() };
    let tree =
        Tree::from_str(&svg.replace(CHART_CSS, &plain(scheme)), &options).map_err(|e| e.to_string())?;
    let size = tree.size();
    let (width, height) = (size.width() * SCALE, size.height() * SCALE);
    if width.max(height) > MOST {
        return Err(format!("{width} × {height} pixels"));
    }
    // Both are positive and small.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    let mut pixels = Pixmap::new(width.ceil() as u32, height.ceil() as u32).ok_or("no pixels")?;
    resvg::render(&tree, Transform::from_scale(SCALE, SCALE), &mut pixels.as_mut());
    pixels.encode_png().map_err(|e| e.to_string())
}

/// The style sheet without variables and media queries, which resvg doesn't know.
fn plain(scheme: Scheme) -> String {
    let dark = CHART_CSS.lines().find(|line| line.starts_with("@media")).unwrap_or_default();
    let light = CHART_CSS.lines().next().unwrap_or_default();
    let own = match scheme {
        Scheme::Light => light,
        Scheme::Dark => dark,
    };
    let variables: Vec<(&str, &str)> = own
        .split(['{', ';', '}'])
        .filter_map(|part| part.split_once(':'))
        .filter(|(name, _)| name.starts_with("--"))
        .collect();
    let resolve = |text: &str| {
        variables
            .iter()
            .fold(text.to_owned(), |text, (name, value)| text.replace(&format!("var({name})"), value))
    };
    let mut out = String::from("svg{font-family:'DejaVu Sans';font-size:12px}\n");
    for line in CHART_CSS.lines().filter(|line| *line != light && *line != dark) {
        // A series' colour is a variable of its class.
        for rule in line.split_inclusive('}') {
            let of_class = rule
                .strip_suffix('}')
                .and_then(|rule| rule.split_once("{--colour:"))
                .map(|(class, value)| (class, resolve(value)));
            match of_class {
                Some((class, colour)) => {
                    out += &format!(
                        "{class} polyline{{stroke:{colour}}}{class} circle,{class} .tag{{fill:{colour}}}"
                    );
                }
                None => out += &resolve(rule),
            }
        }
        out.push('\n');
    }
    out.replace("stroke:var(--colour);", "").replace("fill:var(--colour)", "")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn no_variable_is_left() {
        let [light, dark] = [Scheme::Light, Scheme::Dark].map(plain);
        for css in [&light, &dark] {
            assert!(!css.contains("var(") && !css.contains('@') && !css.contains("--"), "{css}");
        }
        assert!(light.contains(".paper{fill:#fff}") && dark.contains(".paper{fill:#12161d}"), "{dark}");
        assert!(light.contains(".c0 polyline{stroke:#0072b2}"), "{light}");
    }

    #[test]
    fn it_draws_in_the_colours_of_the_scheme() {
        let svg = |body: &str| {
            format!(
                "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 60 20\"><style>{CHART_CSS}</style><rect class=\"paper\" width=\"60\" height=\"20\"/>{body}</svg>"
            )
        };
        let line = "<g class=\"series n0 c0\"><polyline points=\"0,10 60,10\"/></g>";
        let text = "<g class=\"axes\"><text class=\"label\" x=\"2\" y=\"15\">p99 µs</text></g>";
        for (scheme, paper, colour) in [
            (Scheme::Light, [255, 255, 255], [0x00, 0x72, 0xb2]),
            (Scheme::Dark, [0x12, 0x16, 0x1d], [0x58, 0xb4, 0xe9]),
        ] {
            let decoded = |svg: &str| Pixmap::decode_png(&png(svg, scheme).unwrap()).unwrap();
            let at = |pixels: &Pixmap, x, y| {
                let pixel = pixels.pixel(x, y).unwrap();
                [pixel.red(), pixel.green(), pixel.blue()]
            };
            let drawn = decoded(&svg(line));
            assert_eq!((drawn.width(), drawn.height()), (120, 40));
            assert_eq!((at(&drawn, 60, 2), at(&drawn, 60, 20)), (paper, colour));
            let plain = decoded(&svg(""));
            let written = decoded(&svg(text));
            let differ = plain.pixels().iter().zip(written.pixels()).filter(|(a, b)| a != b).count();
            assert!(differ > 100, "no text: {differ}");
        }
        assert!(png("<svg", Scheme::Light).is_err());
        let huge = "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"90000\" height=\"10\"/>";
        assert!(png(huge, Scheme::Light).unwrap_err().contains("pixels"));
    }
}
