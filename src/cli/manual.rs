//! `doppelfs manual`: a manual page of each command, made of the table that parses the command line.

use anyhow::Context;
use clap_mangen::Man;
use std::fs::Permissions;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::args::shown_commands;
use super::run::Outcome;

/// Section of the manual.
const SECTION: &str = "8";

/// What exit code 1 says, where it is more than "no".
const MEANS_NO: [(&str, &str); 9] = [
    ("compare", "The trees differ."),
    ("config", "check: there are mistakes."),
    ("set", "check: there are mistakes."),
    (
        "wait",
        "The time is over, or it cannot become so; the reason is printed.",
    ),
    (
        "restart",
        "No new worker within the time. The mount stays, and calls wait.",
    ),
    (
        "pause",
        "The replicas do not stand within the time; they stop when they are there.",
    ),
    (
        "target",
        "pause: the replicas do not stand within the time; they stop when they can.",
    ),
    (
        "mirror",
        "The time is over; a mirror that has begun goes on.",
    ),
    ("status", "Somebody has to look, where that was asked."),
];

/// What is read beside a page, other than doppelfs(8).
const RELATED: [(&str, &[&str]); 11] = [
    (
        "mount",
        &[
            "doppelfs-config",
            "doppelfs-set",
            "doppelfs-umount",
            "mount.doppelfs",
        ],
    ),
    (
        "umount",
        &["doppelfs-mount", "doppelfs-restart", "mount.doppelfs"],
    ),
    ("restart", &["doppelfs-config", "doppelfs-mount"]),
    ("target", &["doppelfs-pair", "doppelfs-peers"]),
    ("pair", &["doppelfs-peers", "doppelfs-target"]),
    ("peers", &["doppelfs-pair", "doppelfs-target"]),
    ("status", &["doppelfs-alerts", "doppelfs-stats"]),
    ("pause", &["doppelfs-mark", "doppelfs-resume"]),
    ("resume", &["doppelfs-pause"]),
    ("config", &["doppelfs-set"]),
    ("set", &["doppelfs-config", "doppelfs-mount"]),
];

/// Writes a page for each command that help shows into `dir`, which is made when it is missing.
pub(super) fn write_pages(dir: &Path) -> anyhow::Result<Outcome> {
    std::fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))?;
    let mut table = shown_commands().disable_help_subcommand(true);
    table.build();
    for command in table.get_subcommands() {
        let file = dir.join(format!("doppelfs-{}.{SECTION}", command.get_name()));
        let write = || -> std::io::Result<()> {
            std::fs::write(&file, page(command)?)?;
            // They are for everybody, whatever this program's own files are.
            std::fs::set_permissions(&file, Permissions::from_mode(0o644))
        };
        write().with_context(|| format!("cannot write {}", file.display()))?;
        writeln!(std::io::stdout(), "{}", file.display())?;
    }
    Ok(Outcome::Yes)
}

/// One page: the command, then each of its own commands under a heading.
fn page(command: &clap::Command) -> std::io::Result<String> {
    let whole = man(command);
    let mut text = rendered(&|out| whole.render_title(out))?;
    text += &part(&|out| whole.render_name_section(out))?;
    let leaves: Vec<&clap::Command> = command
        .get_subcommands()
        .filter(|leaf| !leaf.is_hide_set())
        .collect();
    text += ".SH SYNOPSIS\n";
    if !command.is_subcommand_required_set() {
        text += &synopsis(command)?;
    }
    for leaf in &leaves {
        text += &synopsis(leaf)?;
    }
    text += &part(&|out| whole.render_description_section(out))?;
    text += &part(&|out| whole.render_options_section(out))?;
    for leaf in leaves {
        text += &format!(
            ".SH {} {}\n",
            command.get_name().to_uppercase(),
            leaf.get_name().to_uppercase().replace('-', "\\-")
        );
        let man = man(&without_common_flags(leaf));
        text += &without_headings(&part(&|out| man.render_description_section(out))?);
        text += &without_headings(&part(&|out| man.render_options_section(out))?);
    }
    text += &exit_status(command.get_name());
    text += &see_also(command.get_name());
    Ok(text)
}

fn man(command: &clap::Command) -> Man {
    Man::new(command.clone())
        .section(SECTION)
        .source(concat!("doppelfs ", env!("CARGO_PKG_VERSION")))
        .manual("System Administration")
}

type Render<'a> = &'a dyn Fn(&mut dyn Write) -> std::io::Result<()>;

/// A part with what the library puts before each: the definition of an apostrophe.
fn rendered(render: Render<'_>) -> std::io::Result<String> {
    let mut out = Vec::new();
    render(&mut out)?;
    String::from_utf8(out).map_err(std::io::Error::other)
}

/// A part that follows another one.
fn part(render: Render<'_>) -> std::io::Result<String> {
    let text = rendered(render)?;
    let is_definition = |line: &&str| line.starts_with(".ie ") || line.starts_with(".el ");
    let lines = text.lines().filter(|line| !is_definition(line));
    Ok(lines.map(|line| format!("{line}\n")).collect())
}

fn without_headings(text: &str) -> String {
    let lines = text.lines().filter(|line| !line.starts_with(".SH"));
    lines.map(|line| format!("{line}\n")).collect()
}

/// Without what every command has: it is described once on each page.
fn without_common_flags(command: &clap::Command) -> clap::Command {
    command.clone().mut_args(|argument| {
        let is_common = ["run_dir", "config_dir", "help"].contains(&argument.get_id().as_str());
        let is_hidden = argument.is_hide_set();
        argument.hide(is_hidden || is_common)
    })
}

/// How one command is called, without a heading.
fn synopsis(command: &clap::Command) -> std::io::Result<String> {
    let man = man(&without_common_flags(command));
    let text = without_headings(&part(&|out| man.render_synopsis_section(out))?);
    Ok(format!("{}\n.br\n", text.trim_end()))
}

fn exit_status(name: &str) -> String {
    let means = MEANS_NO.iter().find(|(command, _)| *command == name);
    let means = means.map_or("No; most commands never end so.", |(_, text)| text);
    format!(
        ".SH EXIT STATUS\n.TP\n.B 0\nDone, or yes.\n.TP\n.B 1\n{means}\n.TP\n.B 2\n\
         Error, with one message on standard error that says what to do.\n"
    )
}

fn see_also(name: &str) -> String {
    let related = RELATED.iter().find(|(command, _)| *command == name);
    let pages = related
        .iter()
        .flat_map(|(_, pages)| pages.iter())
        .map(|page| format!(",\n.BR {} ({SECTION})", page.replace('-', "\\-")));
    let others: String = pages.collect();
    format!(".SH SEE ALSO\n.BR doppelfs ({SECTION}){others}\n")
}
