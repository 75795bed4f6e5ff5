//! Plots, as SVG that reads on light and dark pages alike.

use std::path::Path;

use plotters::coord::Shift;
use plotters::prelude::*;

use crate::Outcome;

const PALETTE: [RGBColor; 6] = [
    RGBColor(0x9a, 0xa5, 0xb1),
    RGBColor(0xc3, 0xcb, 0xd4),
    RGBColor(0x0b, 0x6e, 0x99),
    RGBColor(0xd9, 0x6b, 0x1f),
    RGBColor(0x4c, 0x9f, 0x70),
    RGBColor(0x8a, 0x4f, 0xa3),
];
const INK: RGBColor = RGBColor(0x33, 0x3a, 0x41);
const FAINT: RGBColor = RGBColor(0xe3, 0xe7, 0xeb);

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// Bars side by side in groups; a bar may be of several parts, one above the other.
pub struct Bars {
    pub title: String,
    pub unit: String,
    pub groups: Vec<String>,
    /// Names of the bars of a group.
    pub bars: Vec<String>,
    /// Names of a bar's parts; one for a plain bar.
    pub parts: Vec<String>,
    /// By group, bar, part.
    pub values: Vec<Vec<Vec<f64>>>,
}

/// A line of points.
pub struct Line {
    pub name: String,
    pub points: Vec<(f64, f64)>,
}

/// Lines over a logarithmic axis.
pub struct Lines {
    pub title: String,
    pub x: String,
    pub y: String,
    pub lines: Vec<Line>,
}

/// Draws panels, two in a row.
pub fn draw_bars(path: &Path, panels: &[Bars]) -> Outcome {
    let root = root(path, panels.len())?;
    for (area, bars) in grid(&root, panels.len()).iter().zip(panels) {
        draw_one(area, bars)?;
    }
    Ok(root.present()?)
}

/// Draws panels of lines, two in a row.
pub fn draw_lines(path: &Path, panels: &[Lines]) -> Outcome {
    let root = root(path, panels.len())?;
    for (area, lines) in grid(&root, panels.len()).iter().zip(panels) {
        draw_growth(area, lines)?;
    }
    Ok(root.present()?)
}

fn root(path: &Path, panels: usize) -> Outcome<Area<'_>> {
    let rows = panels.div_ceil(2) as u32;
    let width = if panels == 1 { 560 } else { 1_080 };
    let root = SVGBackend::new(path, (width, 340 * rows.max(1))).into_drawing_area();
    root.fill(&WHITE)?;
    Ok(root)
}

fn grid<'a>(root: &Area<'a>, panels: usize) -> Vec<Area<'a>> {
    if panels == 1 { vec![root.clone()] } else { root.split_evenly((panels.div_ceil(2), 2)) }
}

fn words(size: i32) -> TextStyle<'static> {
    ("sans-serif", size).into_font().color(&INK)
}

/// 12500 as 12k.
fn short(value: f64) -> String {
    match value {
        v if v >= 1e6 => format!("{}M", trimmed(v / 1e6)),
        v if v >= 1e3 => format!("{}k", trimmed(v / 1e3)),
        v => trimmed(v),
    }
}

fn trimmed(value: f64) -> String {
    let text = if value >= 10.0 { format!("{value:.0}") } else { format!("{value:.1}") };
    text.strip_suffix(".0").map_or(text.clone(), str::to_owned)
}

fn draw_one(area: &Area<'_>, bars: &Bars) -> Outcome {
    let sums = bars.values.iter().flatten().map(|parts| parts.iter().sum::<f64>());
    let top = sums.fold(0.0, f64::max).max(f64::MIN_POSITIVE) * 1.5;
    let mut chart = ChartBuilder::on(area)
        .caption(&bars.title, words(16))
        .margin(12)
        .x_label_area_size(28)
        .y_label_area_size(56)
        .build_cartesian_2d(0.0..bars.groups.len() as f64, 0.0..top)?;
    let name = |x: &f64| {
        let at = x - 0.5;
        if at.fract().abs() > 1e-6 {
            return String::new();
        }
        bars.groups.get(at as usize).cloned().unwrap_or_default()
    };
    chart
        .configure_mesh()
        .disable_x_mesh()
        .light_line_style(TRANSPARENT)
        .bold_line_style(FAINT)
        .axis_style(INK)
        .x_labels(bars.groups.len() * 2 + 1)
        .x_label_formatter(&name)
        .y_labels(5)
        .y_label_formatter(&|y| short(*y))
        .y_desc(&bars.unit)
        .label_style(words(12))
        .draw()?;
    let width = 0.8 / bars.bars.len().max(1) as f64;
    let stacked = bars.parts.len() > 1;
    for (part, part_name) in bars.parts.iter().enumerate() {
        for (bar, bar_name) in bars.bars.iter().enumerate() {
            let colour = PALETTE
                [if stacked { part + 2 } else { bar_colour(&bars.bars, bar) } % PALETTE.len()];
            let boxes = bars.values.iter().enumerate().filter_map(|(group, of)| {
                let parts = of.get(bar)?;
                let below = parts.iter().take(part).sum::<f64>();
                let left = group as f64 + 0.1 + bar as f64 * width;
                let corners =
                    [(left + width * 0.06, below), (left + width * 0.94, below + parts.get(part)?)];
                Some(Rectangle::new(corners, colour.filled()))
            });
            let drawn = chart.draw_series(boxes)?;
            if !stacked || bar == 0 {
                let label = if stacked { part_name } else { bar_name };
                drawn.label(label).legend(move |(x, y)| {
                    Rectangle::new([(x, y - 5), (x + 10, y + 5)], colour.filled())
                });
            }
        }
    }
    if stacked {
        // Which bar is which stands above it, once.
        for (group, of) in bars.values.iter().enumerate() {
            for (bar, parts) in of.iter().enumerate() {
                let at = (
                    group as f64 + 0.1 + (bar as f64 + 0.1) * width,
                    parts.iter().sum::<f64>() + top * 0.055,
                );
                let text = bars.bars.get(bar).map(|name| initials(name)).unwrap_or_default();
                chart.draw_series([Text::new(text, at, words(11))])?;
            }
        }
    }
    legend(&mut chart)
}

/// Greys for what is held against, colours for what is measured.
fn bar_colour(names: &[String], bar: usize) -> usize {
    let is_reference = |name: &String| name.starts_with("native") || name.ends_with("limit");
    let own = names.iter().take(bar).filter(|name| !is_reference(name)).count();
    if names.get(bar).is_some_and(is_reference) { bar % 2 } else { 2 + own % 4 }
}

/// `t` for tidelock, `n`, `n0` and `n4` for native replication and its workers.
fn initials(name: &str) -> String {
    name.chars().take(1).chain(name.chars().filter(char::is_ascii_digit)).collect()
}

fn legend<'a, X, Y>(chart: &mut ChartContext<'a, SVGBackend<'a>, Cartesian2d<X, Y>>) -> Outcome
where
    X: plotters::coord::ranged1d::Ranged,
    Y: plotters::coord::ranged1d::Ranged,
{
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperRight)
        .background_style(WHITE.mix(0.85))
        .label_font(words(12))
        .draw()?;
    Ok(())
}

fn draw_growth(area: &Area<'_>, lines: &Lines) -> Outcome {
    let points = || lines.lines.iter().flat_map(|line| &line.points);
    let low = points().map(|p| p.0).fold(f64::INFINITY, f64::min).max(1e-9);
    let high = points().map(|p| p.0).fold(low * 1.0001, f64::max);
    let top = points().map(|p| p.1).fold(f64::MIN_POSITIVE, f64::max) * 1.4;
    let mut chart = ChartBuilder::on(area)
        .caption(&lines.title, words(16))
        .margin(12)
        .x_label_area_size(40)
        .y_label_area_size(56)
        .build_cartesian_2d((low * 0.9..high * 1.1).log_scale(), 0.0..top)?;
    chart
        .configure_mesh()
        .light_line_style(TRANSPARENT)
        .bold_line_style(FAINT)
        .axis_style(INK)
        .x_labels(6)
        .x_label_formatter(&|x| short(*x))
        .y_labels(5)
        .y_label_formatter(&|y| short(*y))
        .x_desc(&lines.x)
        .y_desc(&lines.y)
        .label_style(words(12))
        .draw()?;
    for (i, line) in lines.lines.iter().enumerate() {
        let colour = PALETTE[(i + 2) % PALETTE.len()];
        chart
            .draw_series(LineSeries::new(line.points.clone(), colour.stroke_width(2)))?
            .label(&line.name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 14, y)], colour.stroke_width(2)));
        chart.draw_series(line.points.iter().map(|p| Circle::new(*p, 3, colour.filled())))?;
    }
    legend(&mut chart)
}
