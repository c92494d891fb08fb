//! What text is made of: colours, units, columns, lines that fit.

use std::io::IsTerminal;

use serde::Serialize;
use serde::de::DeserializeOwned;
use unicode_width::UnicodeWidthStr;

use crate::control;

/// Columns that are used at most, however wide the terminal is.
const COLUMNS_MAX: usize = 100;

/// Columns that are used at least, however narrow it is.
const COLUMNS_MIN: usize = 40;

/// Colours, or none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ink(bool);

impl Ink {
    /// Never a colour.
    pub const NONE: Ink = Ink(false);
    /// Always colours.
    pub const COLOURED: Ink = Ink(true);

    /// Colours when `out` is a terminal and `NO_COLOR` is not set.
    pub fn for_terminal(out: &impl IsTerminal) -> Ink {
        Ink(out.is_terminal() && std::env::var_os("NO_COLOR").is_none())
    }

    fn paint(self, code: &str, text: &str) -> String {
        if self.0 {
            format!("\x1b[{code}m{text}\x1b[0m")
        } else {
            text.to_owned()
        }
    }

    pub(super) fn green(self, text: &str) -> String {
        self.paint("32", text)
    }

    pub(super) fn yellow(self, text: &str) -> String {
        self.paint("33", text)
    }

    pub(super) fn red(self, text: &str) -> String {
        self.paint("31", text)
    }

    pub(super) fn bold(self, text: &str) -> String {
        self.paint("1", text)
    }
}

/// `0 B`, `4.0 KiB`, `1.5 GiB`.
#[expect(clippy::cast_precision_loss, reason = "three digits are shown")]
pub fn bytes_text(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut value = bytes as f64 / 1024.0;
    let mut unit = 0;
    // 1023.95 would be shown as 1024.0.
    while value >= 1023.95 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!(
        "{value:.1} {}",
        UNITS.get(unit).copied().unwrap_or_default()
    )
}

/// `0.4 s`, `3 min 20 s`, `2 h 5 min`, `3 d 4 h`.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "an age is no negative number, and no age is near 2^64 seconds"
)]
pub fn duration_text(seconds: f64) -> String {
    let whole = seconds.round() as u64;
    match whole {
        0..60 => format!("{seconds:.1} s"),
        60..3600 => format!("{} min {} s", whole / 60, whole % 60),
        3600..86_400 => format!("{} h {} min", whole / 3600, whole % 3600 / 60),
        _ => format!("{} d {} h", whole / 86_400, whole % 86_400 / 3600),
    }
}

/// Year, month and day of a day since 1970 (the Gregorian calendar, from March on so that the leap
/// day comes last).
fn civil(day: u64) -> (u64, u64, u64) {
    let day = day + 719_468;
    let era = day / 146_097;
    let of_era = day % 146_097;
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    (era * 400 + year + u64::from(month <= 2), month, day)
}

/// `2026-11-20T12:51:07.123Z`.
pub(super) fn clock_text(time_ns: u64) -> String {
    let seconds = time_ns / 1_000_000_000;
    let (year, month, day) = civil(seconds / 86_400);
    let of_day = seconds % 86_400;
    format!(
        "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}.{:03}Z",
        of_day / 3600,
        of_day % 3600 / 60,
        of_day % 60,
        time_ns % 1_000_000_000 / 1_000_000
    )
}

/// Columns aligned to the left, two blanks between them.
pub fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        cells.map(|cell| cell.width()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            let blanks = width.saturating_sub(cell.width()) + 2;
            line += cell;
            line.extend(std::iter::repeat_n(' ', blanks));
        }
        text += line.trim_end();
        text.push('\n');
    }
    text
}

/// How wide lines may be: as the terminal is, at most 100 columns; `None` where nobody looks at a terminal,
/// and then a fact is one line, so that it can be searched for.
pub(super) fn columns_of(out: &impl IsTerminal) -> Option<usize> {
    let size = ratatui::crossterm::terminal::size();
    let width = size.map_or(COLUMNS_MAX, |(columns, _)| usize::from(columns));
    let width = if width == 0 { COLUMNS_MAX } else { width };
    out.is_terminal()
        .then(|| width.clamp(COLUMNS_MIN, COLUMNS_MAX))
}

/// Words that stand together: what is quoted by backticks is a command to be copied.
fn words(text: &str) -> Vec<String> {
    let mut words: Vec<String> = Vec::new();
    let mut is_quoted = false;
    for part in text.split(' ') {
        match words.last_mut().filter(|_| is_quoted) {
            Some(last) => {
                last.push(' ');
                last.push_str(part);
            }
            None => words.push(part.to_owned()),
        }
        is_quoted ^= part.matches('`').count() % 2 == 1;
    }
    words
}

/// Breaks `text` into lines of at most `columns`, between words where that is possible.
pub(super) fn wrapped(text: &str, columns: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in words(text) {
        let mut rest = word.as_str();
        let last = lines.last().map_or(0, |line| line.width());
        if last > 0 && last + 1 + rest.width() <= columns {
            if let Some(line) = lines.last_mut() {
                line.push(' ');
                line.push_str(rest);
            }
            continue;
        }
        if last > 0 {
            lines.push(String::new());
        }
        while rest.width() > columns {
            let mut taken = 0;
            let end = rest.char_indices().find_map(|(at, c)| {
                taken += unicode_width::UnicodeWidthChar::width(c).unwrap_or(0);
                (taken > columns && at > 0).then_some(at)
            });
            let (head, tail) = rest.split_at(end.unwrap_or(rest.len()));
            if let Some(line) = lines.last_mut() {
                line.push_str(head);
            }
            lines.push(String::new());
            rest = tail;
        }
        if let Some(line) = lines.last_mut() {
            line.push_str(rest);
        }
    }
    lines
}

/// `text` in at most `columns`, its middle left out: of a path both ends matter.
pub(super) fn shortened(text: &str, columns: usize) -> String {
    if text.width() <= columns {
        return text.to_owned();
    }
    let (mut head, mut tail) = (String::new(), String::new());
    let room = columns.saturating_sub(3);
    let mut back: Vec<char> = text.chars().rev().collect();
    for c in text.chars() {
        if (head.clone() + c.encode_utf8(&mut [0; 4])).width() > room / 3 {
            break;
        }
        head.push(c);
    }
    let room = room.saturating_sub(head.width());
    back.reverse();
    for c in back.iter().rev() {
        let longer = format!("{c}{tail}");
        if longer.width() > room {
            break;
        }
        tail = longer;
    }
    format!("{head}...{tail}")
}

/// As [`printable`], for one text.
pub(super) fn printable_text(text: &str) -> String {
    let seen = text.chars().map(|c| match control::is_unseen(c) {
        true => c.escape_default().to_string(),
        false => c.to_string(),
    });
    seen.collect()
}

/// The same without anything that a terminal would obey or hide: names of files and what other hosts say
/// may have it.
pub(super) fn printable<T: Serialize + DeserializeOwned + Clone>(facts: &T) -> T {
    fn clean(value: &mut serde_json::Value) {
        match value {
            serde_json::Value::String(text) if text.contains(control::is_unseen) => {
                *text = printable_text(text);
            }
            serde_json::Value::Array(all) => all.iter_mut().for_each(clean),
            serde_json::Value::Object(all) => all.values_mut().for_each(clean),
            _ => {}
        }
    }
    let Ok(mut value) = serde_json::to_value(facts) else {
        return facts.clone();
    };
    clean(&mut value);
    serde_json::from_value(value).unwrap_or_else(|_| facts.clone())
}
