//! Goal: manual pages and completions are there for every command that help shows, and are well formed.
//! Method: the program writes them; groff, mandoc and the shells read them, as far as they are installed.

use crate::cli_scratch::{Ran, Scratch, run};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Names of all commands that help shows.
fn commands() -> Vec<String> {
    let table = doppelfs::cli::command();
    let shown = table.get_subcommands().filter(|c| !c.is_hide_set());
    shown.map(|c| c.get_name().to_owned()).collect()
}

/// The pages that `doppelfs manual` writes.
fn written(scratch: &Scratch) -> PathBuf {
    let dir = scratch.path().join("man");
    let ran = run(scratch.path(), &format!("manual {}", dir.display()));
    assert_eq!((ran.code, ran.err.as_str()), (0, ""));
    dir
}

fn by_hand() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/man")
}

fn files(dir: &Path) -> BTreeSet<String> {
    let entries = std::fs::read_dir(dir).unwrap().flatten();
    entries
        .map(|entry| entry.file_name().into_string().unwrap())
        .collect()
}

/// What the section SEE ALSO names.
fn seen_also(page: &str) -> BTreeSet<String> {
    let (_, section) = page.split_once(".SH SEE ALSO").unwrap();
    let lines = section.lines().filter_map(|line| line.strip_prefix(".BR "));
    let named = lines.map(|line| line.trim_end_matches(',').replace("\\-", "-"));
    named
        .map(|line| line.replace(" (", ".").replace(')', ""))
        .collect()
}

#[test]
fn every_command_has_a_page_with_all_its_flags() {
    let scratch = Scratch::new();
    let dir = written(&scratch);
    let wanted = commands();
    let names = wanted.iter().map(|name| format!("doppelfs-{name}.8"));
    assert_eq!(files(&dir), names.collect());
    let table = doppelfs::cli::command();
    for command in table.get_subcommands().filter(|c| !c.is_hide_set()) {
        let name = command.get_name();
        let page = std::fs::read_to_string(dir.join(format!("doppelfs-{name}.8"))).unwrap();
        for section in [
            "NAME",
            "SYNOPSIS",
            "DESCRIPTION",
            "OPTIONS",
            "EXIT STATUS",
            "SEE ALSO",
        ] {
            let heading = format!(".SH {section}\n");
            assert_eq!(page.matches(&heading).count(), 1, "{name}: {section}");
        }
        let leaves = command.get_subcommands().filter(|leaf| !leaf.is_hide_set());
        for leaf in leaves.chain([command]) {
            let leaf_name = leaf.get_name();
            if leaf_name != name {
                let heading = format!("{name} {leaf_name}").to_uppercase();
                let heading = format!(".SH {}\n", heading.replace('-', "\\-"));
                assert!(page.contains(&heading), "{name}: no {heading}");
            }
            for flag in leaf.get_arguments().filter(|flag| !flag.is_hide_set()) {
                if let Some(long) = flag.get_long() {
                    let flag = format!("\\-\\-{}", long.replace('-', "\\-"));
                    assert!(page.contains(&flag), "{name} {leaf_name}: no --{long}");
                }
            }
        }
        assert!(
            !page.contains("ready\\-on\\-stdin"),
            "{name} shows what is hidden"
        );
    }
}

#[test]
fn pages_lead_to_pages_that_are_there() {
    let scratch = Scratch::new();
    let dir = written(&scratch);
    let mut ours = files(&dir);
    ours.extend(files(&by_hand()));
    let overview = std::fs::read_to_string(by_hand().join("doppelfs.8")).unwrap();
    let named = seen_also(&overview);
    for name in commands() {
        let page = format!("doppelfs-{name}.8");
        assert!(
            named.contains(&page),
            "docs/man/doppelfs.8 does not name {page}"
        );
    }
    for place in [dir, by_hand()] {
        for file in files(&place) {
            let page = std::fs::read_to_string(place.join(&file)).unwrap();
            if page.starts_with(".so ") {
                let other = page.trim().rsplit('/').next().unwrap();
                assert!(ours.contains(other), "{file} leads to {other}");
                continue;
            }
            for other in seen_also(&page) {
                let is_ours = other.contains("doppelfs");
                assert!(!is_ours || ours.contains(&other), "{file} names {other}");
            }
        }
    }
}

#[test]
fn pages_are_well_formed() {
    let scratch = Scratch::new();
    let checkers: [(&str, &[&str]); 2] = [
        ("groff", &["-man", "-Tutf8", "-ww", "-z"]),
        ("mandoc", &["-Tlint", "-Werror"]),
    ];
    for dir in [written(&scratch), by_hand()] {
        for file in files(&dir) {
            let path = dir.join(file);
            let page = std::fs::read_to_string(&path).unwrap();
            if page.starts_with(".so ") {
                continue;
            }
            for (program, flags) in checkers {
                let Ok(output) = Command::new(program).args(flags).arg(&path).output() else {
                    eprintln!("SKIPPED: there is no {program} here");
                    continue;
                };
                let ran = Ran::of(&output);
                let said = format!("{}{}", ran.out, ran.err);
                assert_eq!(
                    (ran.code, said.as_str()),
                    (0, ""),
                    "{program} {}",
                    path.display()
                );
            }
        }
    }
}

#[test]
fn completions_know_every_command_and_shells_take_them() {
    let scratch = Scratch::new();
    for shell in ["bash", "zsh", "fish"] {
        let ran = run(scratch.path(), &format!("completions {shell}"));
        assert_eq!(ran.code, 0, "{}", ran.err);
        assert!(!ran.out.contains("manual"), "{shell} shows what is hidden");
        for command in commands() {
            assert!(
                ran.out.contains(&command),
                "{shell} does not know {command}"
            );
        }
        let script = scratch.path().join(shell);
        std::fs::write(&script, &ran.out).unwrap();
        let checked = Command::new(shell).arg("-n").arg(&script).output();
        let Ok(output) = checked else {
            eprintln!("SKIPPED: there is no {shell} here");
            continue;
        };
        let ran = Ran::of(&output);
        assert_eq!((ran.code, ran.err.as_str()), (0, ""), "{shell}");
    }
}

/// What is offered after `doppelfs m`, by the script that the package installs.
#[test]
fn bash_completes_commands() {
    let scratch = Scratch::new();
    let script = scratch.path().join("doppelfs.bash");
    std::fs::write(&script, run(scratch.path(), "completions bash").out).unwrap();
    let text = format!(
        "source {}; COMP_WORDS=(doppelfs m); COMP_CWORD=1; _doppelfs doppelfs m doppelfs; \
         echo \"${{COMPREPLY[@]}}\"",
        script.display()
    );
    let output = Command::new("bash").args(["-c", &text]).output();
    let Ok(output) = output else {
        eprintln!("SKIPPED: there is no bash here");
        return;
    };
    let offered = Ran::of(&output).out;
    let offered: Vec<&str> = offered.split_whitespace().collect();
    for command in ["mount", "mirror", "mark", "metrics"] {
        assert!(
            offered.contains(&command),
            "{command} is missing in {offered:?}"
        );
    }
    assert!(!offered.contains(&"manual"), "{offered:?}");
}
