//! Line charts as SVG. Text is set by the viewer, so nothing here depends on fonts that are installed.

use std::ops::Range;

use plotters::coord::Shift;
use plotters::coord::ranged1d::{DefaultFormatting, KeyPointHint};
use plotters::element::DashedPathElement;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::table::clean;
use super::{Error, Result};

/// Colours that stay apart for colour-blind readers and in print (Okabe and Ito, 2008).
pub(super) const BLUE: RGBColor = RGBColor(0, 114, 178);
pub(super) const VERMILION: RGBColor = RGBColor(213, 94, 0);
pub(super) const GREEN: RGBColor = RGBColor(0, 158, 115);
pub(super) const GREY: RGBColor = RGBColor(90, 90, 90);

/// Size of a panel in pixels.
const PANEL: (u32, u32) = (640, 360);
const TITLE_HEIGHT: i32 = 32;
const LEGEND_LINE: i32 = 20;
/// From a panel's edge to its y axis; the axis label keeps `MARGIN_LEFT` of it clear.
const LEFT: i32 = 84;
const MARGIN_LEFT: i32 = 12;
const RIGHT: i32 = 24;

/// Widest usual width of a character of the legend, in pixels: text is not measured, so leave room.
const CHARACTER: i32 = 7;

/// How a series is drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stroke {
    Solid,
    Dashed,
    /// A line with a dot at each point, for few points.
    Dots,
    /// Small dots without a line, for many points.
    Cloud,
    /// A bar from 0 to each point.
    Bars,
}

/// Half the width of a bar.
const HALF_BAR: f64 = 0.3;

/// A line of a chart; one without a label is not in the legend.
#[derive(Debug)]
pub(super) struct Series {
    pub(super) label: String,
    pub(super) color: RGBColor,
    pub(super) stroke: Stroke,
    pub(super) points: Vec<(f64, f64)>,
}

/// The range of an axis and the places of its ticks.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Axis {
    pub(super) label: String,
    pub(super) range: (f64, f64),
    pub(super) ticks: Vec<f64>,
}

/// A chart with its title, axes and legend.
#[derive(Debug)]
pub(super) struct Panel {
    pub(super) title: String,
    pub(super) x: Axis,
    pub(super) y: Axis,
    pub(super) series: Vec<Series>,
}

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type Drawn = std::result::Result<(), DrawingAreaErrorKind<std::io::Error>>;

impl Axis {
    /// An axis over `values` with about `count` ticks at round numbers; at whole numbers only if `whole`.
    pub(super) fn around(label: &str, values: impl Iterator<Item = f64>, count: usize, whole: bool) -> Self {
        let (low, high) =
            values.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| (low.min(value), high.max(value)));
        let (low, high) = if low > high { (0.0, 1.0) } else { (low, high) };
        let spread = high - low;
        // A constant still needs a range around it.
        let margin = if spread > 0.0 { 0.05 * spread } else { (0.05 * low.abs()).max(if whole { 1.0 } else { 1e-6 }) };
        let range = if whole && spread > 0.0 { (low, high) } else { (low - margin, high + margin) };
        Self { label: label.to_owned(), ticks: ticks(range, count, whole), range }
    }

    /// The same axis within `limits`, which hold all values of a share.
    pub(super) fn within(mut self, (low, high): (f64, f64)) -> Self {
        // Half a line's width beyond the limit keeps a line along it visible.
        let over = 0.005 * (self.range.1 - self.range.0);
        self.range = (self.range.0.max(low - over), self.range.1.min(high + over));
        self
    }
}

/// A linear scale with ticks at the given places.
impl Ranged for Axis {
    type FormatOption = DefaultFormatting;
    type ValueType = f64;

    fn map(&self, value: &f64, (from, to): (i32, i32)) -> i32 {
        let (low, high) = self.range;
        from + ((value - low) / (high - low) * f64::from(to - from)).round() as i32
    }

    fn key_points<Hint: KeyPointHint>(&self, hint: Hint) -> Vec<f64> {
        if hint.weight().allow_light_points() { Vec::new() } else { self.ticks.clone() }
    }

    fn range(&self) -> Range<f64> {
        self.range.0..self.range.1
    }
}

/// Multiples of 1, 2 or 5 times a power of ten in `range`: about `count` of them.
fn ticks((low, high): (f64, f64), count: usize, whole: bool) -> Vec<f64> {
    let rough = (high - low) / count.max(1) as f64;
    let power = 10_f64.powf(rough.log10().floor());
    let factor = [1.0, 2.0, 5.0, 10.0].into_iter().find(|factor| factor * power >= rough * 0.999).unwrap_or(10.0);
    let step = if whole { (factor * power).max(1.0).round() } else { factor * power };
    let first = (low / step).ceil() as i64;
    let last = (high / step).floor() as i64;
    // Far from 0 the step can fall below the resolution of the numbers.
    (first..=last).take(4 * count).map(|multiple| multiple as f64 * step).collect()
}

/// Draws panels in rows of at most two.
pub(super) fn svg(name: &str, panels: &[Panel]) -> Result<String> {
    let columns = panels.len().clamp(1, 2);
    let rows = panels.len().div_ceil(columns).max(1);
    let size = (PANEL.0 * columns as u32, PANEL.1 * rows as u32);
    let mut text = String::new();
    let drawn = (|| {
        let root = SVGBackend::with_string(&mut text, size).into_drawing_area();
        root.fill(&WHITE)?;
        for (area, panel) in root.split_evenly((rows, columns)).iter().zip(panels) {
            draw(area, panel)?;
        }
        root.present()
    })();
    drawn.map_err(|error| Error::Figure { figure: name.to_owned(), reason: error.to_string() })?;
    Ok(text)
}

fn draw(area: &Area<'_>, panel: &Panel) -> Drawn {
    let bold = style(15.0, FontStyle::Bold).pos(Pos::new(HPos::Left, VPos::Top));
    area.draw_text(&clean(&panel.title), &bold, (LEFT, 12))?;
    let head = TITLE_HEIGHT + legend(area, &panel.series)?;
    let (_, body) = area.split_vertically(head);

    let small = style(12.0, FontStyle::Normal);
    let mut chart = ChartBuilder::on(&body)
        .margin_top(8)
        .margin_bottom(6)
        .margin_left(MARGIN_LEFT)
        .margin_right(RIGHT)
        .x_label_area_size(46)
        .y_label_area_size(LEFT - MARGIN_LEFT)
        .build_cartesian_2d(panel.x.clone(), panel.y.clone())?;
    chart
        .configure_mesh()
        .bold_line_style(RGBColor(225, 225, 225))
        .axis_style(GREY)
        .label_style(small.clone())
        .axis_desc_style(small)
        .x_label_formatter(&|value| tick_label(*value))
        .y_label_formatter(&|value| tick_label(*value))
        .x_desc(clean(&panel.x.label))
        .y_desc(clean(&panel.y.label))
        .set_all_tick_mark_size(4)
        .draw()?;
    for series in &panel.series {
        let stroke = ShapeStyle::from(series.color).stroke_width(2);
        let points = series.points.iter().copied();
        match series.stroke {
            Stroke::Dashed => drop(chart.draw_series(DashedLineSeries::new(points, 7, 4, stroke))?),
            Stroke::Solid | Stroke::Dots => drop(chart.draw_series(LineSeries::new(points, stroke))?),
            Stroke::Cloud => {
                let dot = |point| Circle::new(point, 2, series.color.mix(0.6).filled());
                chart.draw_series(points.map(dot))?;
            }
            Stroke::Bars => {
                let bar = |(x, y)| Rectangle::new([(x - HALF_BAR, 0.0), (x + HALF_BAR, y)], series.color.filled());
                chart.draw_series(points.map(bar))?;
            }
        }
        let lone = series.points.len() == 1 && matches!(series.stroke, Stroke::Solid | Stroke::Dashed);
        if series.stroke == Stroke::Dots || lone {
            let dot = |&point| Circle::new(point, 3, series.color.filled());
            chart.draw_series(series.points.iter().map(dot))?;
        }
    }
    Ok(())
}

/// Draws the legend below the title, never over the data; returns its height.
fn legend(area: &Area<'_>, series: &[Series]) -> std::result::Result<i32, DrawingAreaErrorKind<std::io::Error>> {
    const SWATCH: i32 = 26;
    const GAP: i32 = 22;
    let text = style(12.0, FontStyle::Normal).pos(Pos::new(HPos::Left, VPos::Center));
    let right = area.dim_in_pixel().0 as i32 - RIGHT;
    let (mut x, mut y) = (LEFT, TITLE_HEIGHT + LEGEND_LINE / 2);
    for series in series.iter().filter(|series| !series.label.is_empty()) {
        let label = clean(&series.label);
        let width = SWATCH + CHARACTER * label.chars().count() as i32;
        if x > LEFT && x + width > right {
            (x, y) = (LEFT, y + LEGEND_LINE);
        }
        let stroke = ShapeStyle::from(series.color).stroke_width(2);
        let ends = [(x, y), (x + SWATCH - 6, y)];
        match series.stroke {
            Stroke::Dashed => area.draw(&DashedPathElement::new(ends, 7, 4, stroke))?,
            Stroke::Solid | Stroke::Dots => area.draw(&PathElement::new(ends, stroke))?,
            Stroke::Bars => {
                area.draw(&Rectangle::new([(x, y - 5), (x + SWATCH - 12, y + 5)], series.color.filled()))?
            }
            Stroke::Cloud => {}
        }
        if matches!(series.stroke, Stroke::Dots | Stroke::Cloud) {
            area.draw(&Circle::new((x + (SWATCH - 6) / 2, y), 3, series.color.filled()))?;
        }
        area.draw_text(&label, &text, (x + SWATCH, y))?;
        x += width + GAP;
    }
    Ok(y + LEGEND_LINE / 2 - TITLE_HEIGHT)
}

/// The library writes font sizes divided by 1.24 into the file.
fn style(pixels: f64, weight: FontStyle) -> TextStyle<'static> {
    TextStyle::from(("sans-serif", pixels * 1.24, weight).into_font()).color(&RGBColor(40, 40, 40))
}

fn tick_label(value: f64) -> String {
    if value != 0.0 && !(1e-3..1e6).contains(&value.abs()) {
        return format!("{value:.1e}").replace(".0e", "e");
    }
    let text = format!("{value:.4}");
    let text = text.trim_end_matches('0').trim_end_matches('.');
    if text == "-0" { "0".to_owned() } else { text.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_inside() {
        assert_eq!(ticks((0.0, 1.0), 5, false), [0.0, 0.2, 0.4, 0.6000000000000001, 0.8, 1.0]);
        assert_eq!(ticks((1.0, 3.0), 8, true), [1.0, 2.0, 3.0]);
        assert_eq!(ticks((0.0, 7300.0), 8, true).last(), Some(&7000.0));
        assert!(ticks((1e18, 1e18 + 2048.0), 6, false).len() <= 24);
    }

    #[test]
    fn axes_of_constants_and_of_nothing_have_a_width() {
        for values in [vec![], vec![0.0], vec![5.0, 5.0], vec![-1e-9]] {
            for whole in [false, true] {
                let axis = Axis::around("x", values.iter().copied(), 6, whole);
                assert!(axis.range.0 < axis.range.1, "{values:?} {axis:?}");
            }
        }
    }

    #[test]
    fn tick_labels_are_short() {
        assert_eq!(
            [0.0, 0.6000000000000001, 12.0, 5e-5, 2.5e6, -0.0].map(tick_label),
            ["0", "0.6", "12", "5e-5", "2.5e6", "0"]
        );
    }
}
