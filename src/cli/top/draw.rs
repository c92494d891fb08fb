//! The picture.

use std::time::Instant;

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{
    Block, Borders, Cell, Clear, Gauge, Paragraph, Row, Sparkline, Table, Wrap,
};

use super::model::{Monitor, Point, Row as Facts};
use crate::cli::paper::{bytes_text, clock_text, duration_text, shortened};
use crate::cli::verdict::{Level, whole};
use crate::sys;

/// Smaller than this nothing can be read.
const WIDTH_MIN: u16 = 40;
const HEIGHT_MIN: u16 = 10;

/// Jobs shown at once.
const JOBS_MAX: usize = 4;

/// A plot: what it shows, and how it is said.
struct Plot {
    name: &'static str,
    pick: fn(&Point) -> f64,
    text: fn(f64) -> String,
}

fn ops_text(rate: f64) -> String {
    format!("{}/s", whole(rate))
}

fn rate_text(rate: f64) -> String {
    format!("{}/s", bytes_text(whole(rate)))
}

const PLOTS: [Plot; 7] = [
    Plot {
        name: "captured",
        pick: |p| p.captured_ops,
        text: ops_text,
    },
    Plot {
        name: "captured",
        pick: |p| p.captured_bytes,
        text: rate_text,
    },
    Plot {
        name: "sent",
        pick: |p| p.sent_bytes,
        text: rate_text,
    },
    Plot {
        name: "on the wire",
        pick: |p| p.wire_bytes,
        text: rate_text,
    },
    Plot {
        name: "applied",
        pick: |p| p.applied_ops,
        text: ops_text,
    },
    Plot {
        name: "lag",
        pick: |p| p.lag_seconds,
        text: duration_text,
    },
    Plot {
        name: "lag",
        pick: |p| crate::cli::verdict::float(p.lag_ops),
        text: |ops| format!("{} ops", whole(ops)),
    },
];

const STREAM_PLOTS: [Plot; 4] = [
    Plot {
        name: "received",
        pick: |p| p.captured_ops,
        text: ops_text,
    },
    Plot {
        name: "received",
        pick: |p| p.captured_bytes,
        text: rate_text,
    },
    Plot {
        name: "applied",
        pick: |p| p.applied_ops,
        text: ops_text,
    },
    Plot {
        name: "waiting",
        pick: |p| crate::cli::verdict::float(p.lag_ops),
        text: |ops| format!("{} ops", whole(ops)),
    },
];

const HELP: &str = "\
Up, Down, k, j   select a connection or a stream
w                biggest writers by path, process, user
p, space         hold the picture; again: go on
?, h             this help
q, Esc, Ctrl-C   end

Colours: green is well, yellow is on its way or behind,
red needs somebody. The line under the table says what to do.

captured   changes made by programs on the source
sent       handed to the connection, before compression
wire       after compression and encryption
applied    shown by the replica
lag        age of the oldest change that is not applied

What each state means: docs/monitoring.md";

impl Monitor {
    /// Draws everything as it is at `now`.
    pub fn draw(&self, frame: &mut Frame<'_>, now: Instant) {
        let area = frame.area();
        if area.width < WIDTH_MIN || area.height < HEIGHT_MIN {
            let text = format!("at least {WIDTH_MIN}x{HEIGHT_MIN} are needed; q ends");
            frame.render_widget(Paragraph::new(text).wrap(Wrap { trim: true }), area);
            return;
        }
        let rows = self.rows(now);
        let jobs = self.jobs();
        let selected = self.selected(rows.len());
        let table_height = u16::try_from(rows.len() + 1).unwrap_or(u16::MAX);
        let jobs_height = match jobs.len() {
            0 => 0,
            count => u16::try_from(count.min(JOBS_MAX) + 1).unwrap_or(0),
        };
        let [head, table, verdict, middle, under_way, foot] = Layout::vertical([
            Constraint::Length(1),
            Constraint::Length(table_height.clamp(2, area.height / 3)),
            Constraint::Length(3),
            Constraint::Min(2),
            Constraint::Length(jobs_height),
            Constraint::Length(1),
        ])
        .areas(area);
        self.draw_head(frame, head, now);
        self.draw_table(frame, table, (&rows, selected));
        if let Some(row) = rows.get(selected) {
            self.draw_verdict(frame, verdict, row);
            if self.is_stream(row) {
                self.draw_plots(frame, middle, row, &STREAM_PLOTS);
            } else {
                let share = if middle.width < 70 { 100 } else { 60 };
                let [left, right] =
                    Layout::horizontal([Constraint::Percentage(share), Constraint::Fill(1)])
                        .areas(middle);
                self.draw_plots(frame, left, row, &PLOTS);
                self.draw_writers(frame, right);
            }
        } else {
            let text = "no set is mounted and no target is served here";
            frame.render_widget(Paragraph::new(text), verdict);
        }
        self.draw_jobs(frame, under_way, &jobs);
        self.draw_foot(frame, foot);
        if self.is_helping {
            self.draw_help(frame, area);
        }
    }

    fn style(&self, level: Level) -> Style {
        self.colour(match level {
            Level::Good => Color::Green,
            Level::Busy => Color::Yellow,
            Level::Bad => Color::Red,
        })
    }

    fn colour(&self, colour: Color) -> Style {
        match self.colours {
            true => Style::new().fg(colour),
            false => Style::new(),
        }
    }

    fn draw_head(&self, frame: &mut Frame<'_>, area: Rect, now: Instant) {
        let clock = clock_text(sys::realtime_ns());
        let clock = clock
            .split('.')
            .next()
            .unwrap_or_default()
            .replace('T', " ");
        let [good, busy, bad] = self.levels(now);
        let mut line = vec![
            Span::styled("doppelfs", Style::new().add_modifier(Modifier::BOLD)),
            Span::raw(format!(" on {}  {clock}Z  ", self.host)),
            Span::styled(format!("{good} ok"), self.style(Level::Good)),
            Span::raw(", "),
            Span::styled(format!("{busy} on the way"), self.style(Level::Busy)),
            Span::raw(", "),
            Span::styled(format!("{bad} in error"), self.style(Level::Bad)),
        ];
        if self.is_held {
            let held = Style::new().add_modifier(Modifier::REVERSED);
            line.push(Span::raw("  "));
            line.push(Span::styled("HELD", held));
        }
        frame.render_widget(Line::from(line), area);
    }

    fn draw_table(&self, frame: &mut Frame<'_>, area: Rect, (rows, selected): (&[Facts], usize)) {
        let head = ["set", "state", "peer", "lag", "ops/s", "wire/s", "applied"];
        let head = Row::new(head).style(Style::new().add_modifier(Modifier::BOLD));
        // Of the columns beyond eighty, name and peer have a half each.
        let name_width = 10 + area.width.saturating_sub(80).min(40) / 2;
        let peer_width = usize::from(area.width.saturating_sub(name_width + 55));
        // The selected row is always to be seen.
        let room = usize::from(area.height.saturating_sub(1)).max(1);
        let first = selected.saturating_sub(room - 1);
        let shown = rows.iter().enumerate().skip(first).take(room);
        let shown = shown.map(|(number, row)| {
            let lag = match row.point.lag_ops {
                0 => "-".to_owned(),
                ops if row.point.lag_seconds <= 0.0 => format!("{ops} ops"),
                _ => duration_text(row.point.lag_seconds),
            };
            let mark = if number == selected { ">" } else { " " };
            let cells = [
                Cell::new(format!(
                    "{mark}{}",
                    shortened(&row.name, usize::from(name_width))
                )),
                Cell::new(row.verdict.word).style(self.style(row.verdict.level)),
                Cell::new(shortened(&row.peer, peer_width)),
                Cell::new(lag),
                Cell::new(format!("{}", whole(row.point.captured_ops))),
                Cell::new(bytes_text(whole(row.point.wire_bytes))),
                Cell::new(format!("{}", whole(row.point.applied_ops))),
            ];
            let style = match number == selected {
                true => Style::new().add_modifier(Modifier::BOLD),
                false => Style::new(),
            };
            Row::new(cells).style(style)
        });
        let widths = [
            Constraint::Length(name_width + 1),
            Constraint::Length(13),
            Constraint::Fill(1),
            Constraint::Length(11),
            Constraint::Length(7),
            Constraint::Length(10),
            Constraint::Length(7),
        ];
        frame.render_widget(Table::new(shown, widths).header(head), area);
    }

    fn draw_verdict(&self, frame: &mut Frame<'_>, area: Rect, row: &Facts) {
        let verdict = &row.verdict;
        let mut lines = vec![Line::from(vec![
            Span::styled(
                format!("{}: {}", row.name, verdict.word),
                self.style(verdict.level),
            ),
            Span::raw(format!(": {}", verdict.text)),
        ])];
        for warning in self.warnings(row) {
            let text = format!("warning: {warning}");
            lines.push(Line::from(Span::styled(text, self.style(Level::Busy))));
        }
        frame.render_widget(Paragraph::new(lines).wrap(Wrap { trim: true }), area);
    }

    fn draw_plots(&self, frame: &mut Frame<'_>, area: Rect, row: &Facts, plots: &[Plot]) {
        let title = format!(" {} {} ", row.name, row.peer);
        let block = Block::new().borders(Borders::TOP).title(title);
        let inner = block.inner(area);
        frame.render_widget(block, area);
        let points = self.plot(row);
        let count = u16::try_from(plots.len()).unwrap_or(1);
        let height = (inner.height / count).max(1);
        for (plot, number) in plots.iter().zip(0u16..) {
            let top = inner.y + number * height;
            if top + height > inner.y + inner.height {
                break;
            }
            let line = Rect::new(inner.x, top, inner.width, height);
            self.draw_plot(frame, line, plot, &points);
        }
    }

    fn draw_plot(&self, frame: &mut Frame<'_>, area: Rect, plot: &Plot, points: &[Point]) {
        const LABEL: u16 = 26;
        let [label, chart] =
            Layout::horizontal([Constraint::Length(LABEL), Constraint::Fill(1)]).areas(area);
        let values = points.iter().map(|point| (plot.pick)(point).max(0.0));
        let values: Vec<f64> = values.collect();
        let last = values.last().copied().unwrap_or(0.0);
        let text = format!("{:<12}{:>13}", plot.name, (plot.text)(last));
        frame.render_widget(Paragraph::new(text), label);
        // The newest stand at the right edge.
        let room = usize::from(chart.width);
        let seen = values
            .get(values.len().saturating_sub(room)..)
            .unwrap_or_default();
        let blanks = room.saturating_sub(seen.len());
        let scaled = seen.iter().map(|value| Some(whole(value * 1000.0)));
        let bars: Vec<Option<u64>> = std::iter::repeat_n(None, blanks).chain(scaled).collect();
        let sparkline = Sparkline::default()
            .data(bars)
            .absent_value_symbol(" ")
            .style(self.colour(Color::Cyan));
        frame.render_widget(sparkline, chart);
    }

    fn draw_writers(&self, frame: &mut Frame<'_>, area: Rect) {
        let title = format!(" last minute, by {} (w) ", self.grouping.word());
        let block = Block::new()
            .borders(Borders::TOP | Borders::LEFT)
            .title(title);
        let inner = block.inner(area);
        frame.render_widget(block, area);
        let Some(writers) = &self.writers else {
            frame.render_widget(Paragraph::new("the queue is not followed"), inner);
            return;
        };
        if let Some(trouble) = &writers.trouble {
            let text = Paragraph::new(trouble.as_str()).wrap(Wrap { trim: true });
            frame.render_widget(text, inner);
            return;
        }
        let room = usize::from(inner.width.saturating_sub(19));
        let biggest = writers.biggest(self.grouping).into_iter();
        let rows = biggest.take(usize::from(inner.height)).map(|(name, done)| {
            let ops = format!("{:>8}", done.ops);
            let bytes = format!("{:>10}", bytes_text(done.bytes));
            Row::new([shortened(&name, room), ops, bytes])
        });
        let widths = [
            Constraint::Fill(1),
            Constraint::Length(8),
            Constraint::Length(10),
        ];
        frame.render_widget(Table::new(rows, widths).column_spacing(0), inner);
    }

    fn draw_jobs(&self, frame: &mut Frame<'_>, area: Rect, jobs: &[super::model::Job]) {
        if area.height == 0 {
            return;
        }
        let title = match jobs.len() > JOBS_MAX {
            true => format!(" under way ({} more) ", jobs.len() - JOBS_MAX),
            false => " under way ".to_owned(),
        };
        let block = Block::new().borders(Borders::TOP).title(title);
        let inner = block.inner(area);
        frame.render_widget(block, area);
        for (job, number) in jobs.iter().take(JOBS_MAX).zip(0u16..) {
            if number >= inner.height {
                break;
            }
            let line = Rect::new(inner.x, inner.y + number, inner.width, 1);
            let [title, gauge] =
                Layout::horizontal([Constraint::Length(26), Constraint::Fill(1)]).areas(line);
            frame.render_widget(Paragraph::new(shortened(&job.title, 25)), title);
            match job.share {
                Some(share) => {
                    let bar = Gauge::default()
                        .ratio(share.clamp(0.0, 1.0))
                        .label(shortened(&job.text, usize::from(gauge.width)))
                        .gauge_style(self.colour(Color::Yellow));
                    frame.render_widget(bar, gauge);
                }
                None => frame.render_widget(Paragraph::new(job.text.as_str()), gauge),
            }
        }
    }

    fn draw_foot(&self, frame: &mut Frame<'_>, area: Rect) {
        let keys = match self.is_held {
            true => "p goes on   q ends",
            false => "q ends   Up/Down select   w writers by   p holds   ? help",
        };
        let dim = Style::new().add_modifier(Modifier::DIM);
        frame.render_widget(Line::from(Span::styled(keys, dim)), area);
    }

    fn draw_help(&self, frame: &mut Frame<'_>, area: Rect) {
        let width = 66.min(area.width);
        let height = 19.min(area.height);
        let left = area.x + (area.width - width) / 2;
        let top = area.y + (area.height - height) / 2;
        let area = Rect::new(left, top, width, height);
        let block = Block::new().borders(Borders::ALL).title(" help ");
        frame.render_widget(Clear, area);
        frame.render_widget(Paragraph::new(HELP).block(block), area);
    }
}
