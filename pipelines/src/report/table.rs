//! Aligned text tables.

/// What stands for a number that is not there.
pub(super) const NOTHING: &str = "-";

/// How a column is aligned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Align {
    /// To the left.
    Left,
    /// At the decimal points.
    Decimal,
}

/// A table of text. Groups of rows are set apart from each other.
#[derive(Debug)]
pub(crate) struct Table {
    header: Vec<String>,
    align: Vec<Align>,
    groups: Vec<Vec<Vec<String>>>,
}

/// The lines of a frame: left end, line, crossing, right end.
type Rule = [&'static str; 4];

impl Table {
    /// A table without rows.
    pub(crate) fn new(columns: impl IntoIterator<Item = (String, Align)>) -> Self {
        let (header, align) = columns.into_iter().map(|(name, align)| (clean(&name), align)).unzip();
        Self { header, align, groups: Vec::new() }
    }

    /// Adds a group of rows; missing cells at a row's end stay empty.
    pub(crate) fn group(&mut self, rows: Vec<Vec<String>>) {
        let cells = |row: Vec<String>| row.iter().map(|cell| clean(cell)).collect();
        self.groups.push(rows.into_iter().map(cells).collect());
    }

    /// The table as lines of text, with a frame of box characters or with spaces only.
    pub(crate) fn render(&self, boxed: bool) -> String {
        let columns: Vec<Column> = (0..self.header.len()).map(|index| self.column(index)).collect();
        let widths: Vec<usize> = columns.iter().map(|column| column.width).collect();
        let line = |cells: Vec<String>| {
            if boxed {
                format!("│ {} │\n", cells.join(" │ "))
            } else {
                format!("{}\n", cells.join("  ").trim_end())
            }
        };
        let rule = |parts: Rule| rule(parts, &widths);
        let frame = |parts: Rule| if boxed { rule(parts) } else { String::new() };

        let titles = columns.iter().zip(&self.header).map(|(column, title)| column.title(title)).collect();
        let mut text = frame(["┌─", "─", "─┬─", "─┐"]);
        text += &line(titles);
        text += &rule(if boxed { ["├─", "─", "─┼─", "─┤"] } else { ["", "-", "  ", ""] });
        for (index, group) in self.groups.iter().enumerate() {
            if index > 0 {
                text += if boxed { rule(["├─", "─", "─┼─", "─┤"]) } else { "\n".to_owned() }.as_str();
            }
            for row in group {
                let cell = |(index, column): (usize, &Column)| column.cell(row.get(index).map_or("", String::as_str));
                text += &line(columns.iter().enumerate().map(cell).collect());
            }
        }
        text + &frame(["└─", "─", "─┴─", "─┘"])
    }

    /// The table as HTML.
    pub(super) fn html(&self) -> String {
        let cell = |tag: &str, index: usize, text: &str| {
            let class = if self.align[index] == Align::Decimal { " class=\"number\"" } else { "" };
            format!("<{tag}{class}>{}</{tag}>", escape(text))
        };
        let line = |tag: &str, cells: &[String]| {
            let text = |index: usize| cell(tag, index, cells.get(index).map_or("", String::as_str));
            format!("<tr>{}</tr>\n", (0..self.header.len()).map(text).collect::<String>())
        };
        let mut text = format!("<table>\n<thead>{}</thead>\n", line("th", &self.header));
        for group in &self.groups {
            let rows: String = group.iter().map(|row| line("td", row)).collect();
            text += &format!("<tbody>\n{rows}</tbody>\n");
        }
        text + "</table>\n"
    }

    fn column(&self, index: usize) -> Column {
        let align = self.align[index];
        let mut column = Column { align, width: width(&self.header[index]), before: 0, after: 0 };
        for cell in self.groups.iter().flatten().filter_map(|row| row.get(index)) {
            match split_number(cell) {
                Some((before, after)) if align == Align::Decimal => {
                    column.before = column.before.max(width(before));
                    column.after = column.after.max(width(after));
                }
                _ => column.width = column.width.max(width(cell)),
            }
        }
        column.width = column.width.max(column.before + column.after);
        column
    }
}

/// The widths of a column; `before` and `after` are those on both sides of the numbers' decimal points.
struct Column {
    align: Align,
    width: usize,
    before: usize,
    after: usize,
}

impl Column {
    fn title(&self, text: &str) -> String {
        match self.align {
            Align::Left => pad_right(text, self.width),
            Align::Decimal => pad_left(text, self.width),
        }
    }

    fn cell(&self, text: &str) -> String {
        match split_number(text) {
            Some((before, after)) if self.align == Align::Decimal => {
                let number = pad_left(before, self.before) + &pad_right(after, self.after);
                pad_left(&number, self.width)
            }
            _ => self.title(text),
        }
    }
}

fn rule([left, line, crossing, right]: Rule, widths: &[usize]) -> String {
    let lines: Vec<String> = widths.iter().map(|&width| line.repeat(width)).collect();
    format!("{left}{}{right}\n", lines.join(crossing))
}

/// A number in front of its decimal point and from there on; `None` for other text. The sign for no number stands where
/// a digit would.
fn split_number(text: &str) -> Option<(&str, &str)> {
    if text != NOTHING {
        text.parse::<f64>().ok()?;
    }
    Some(text.split_at(text.find(['.', 'e']).unwrap_or(text.len())))
}

/// A metric's value: whole numbers as such, others with four decimals, very small and very large ones with an exponent.
pub(super) fn number(value: Option<f64>) -> String {
    match value {
        None => NOTHING.to_owned(),
        Some(value) if value.fract() == 0.0 && value.abs() < 1e15 => format!("{value:.0}"),
        Some(value) if (1e-3..1e6).contains(&value.abs()) => format!("{value:.4}"),
        Some(value) => format!("{value:.3e}"),
    }
}

/// A duration in the two largest of its units.
pub(super) fn duration(seconds: f64) -> String {
    if !(0.0..1e9).contains(&seconds) {
        return NOTHING.to_owned();
    }
    let whole = seconds.round() as u64;
    match whole {
        _ if seconds < 59.95 => format!("{seconds:.1} s"),
        0..3600 => format!("{} m {:02} s", whole / 60, whole % 60),
        _ => format!("{} h {:02} m", whole / 3600, whole / 60 % 60),
    }
}

/// Text from files without the control characters that could move a terminal's cursor or break a line.
pub(super) fn clean(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c }).collect()
}

/// Text as it stands in HTML, in an element or in a quoted attribute.
pub(super) fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in clean(text).chars() {
        match c {
            '&' => escaped += "&amp;",
            '<' => escaped += "&lt;",
            '>' => escaped += "&gt;",
            '"' => escaped += "&quot;",
            '\'' => escaped += "&#39;",
            _ => escaped.push(c),
        }
    }
    escaped
}

fn width(text: &str) -> usize {
    text.chars().count()
}

fn pad_left(text: &str, to: usize) -> String {
    " ".repeat(to.saturating_sub(width(text))) + text
}

fn pad_right(text: &str, to: usize) -> String {
    text.to_owned() + &" ".repeat(to.saturating_sub(width(text)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table {
        let columns = [("stage", Align::Left), ("metric", Align::Left), ("a longer run", Align::Decimal)];
        let mut table = Table::new(columns.map(|(name, align)| (name.to_owned(), align)));
        let row = |cells: [&str; 3]| cells.map(str::to_owned).to_vec();
        table.group(vec![row(["eval", "accuracy", "0.8125"]), row(["", "n_records", "1200"]), row(["", "auroc", "-"])]);
        table.group(vec![row(["tr\u{1b}[2Jain", "lr", "5.000e-5"])]);
        table
    }

    #[test]
    fn plain_tables_align_at_the_decimal_point() {
        let expected = "\
stage      metric     a longer run
---------  ---------  ------------
eval       accuracy       0.8125
           n_records   1200
           auroc          -

tr\u{fffd}[2Jain  lr             5.000e-5
";
        assert_eq!(table().render(false), expected);
    }

    #[test]
    fn boxed_tables_have_lines_of_one_width() {
        let text = table().render(true);
        assert!(text.starts_with("┌─") && text.ends_with("─┘\n"), "{text}");
        assert!(text.lines().all(|line| width(line) == width(text.lines().next().unwrap_or_default())), "{text}");
    }

    #[test]
    fn numbers_and_durations_are_short() {
        let numbers = [Some(0.0), Some(1200.0), Some(0.812_345), Some(5e-5), Some(-2.5e7 - 0.5), None].map(number);
        assert_eq!(numbers, ["0", "1200", "0.8123", "5.000e-5", "-2.500e7", "-"]);
        let times = [0.04, 59.94, 59.96, 3_599.4, 3_600.0, 90_061.0, f64::NAN, -1.0].map(duration);
        assert_eq!(times, ["0.0 s", "59.9 s", "1 m 00 s", "59 m 59 s", "1 h 00 m", "25 h 01 m", "-", "-"]);
    }
}
