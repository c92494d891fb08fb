//! Lines of fstab(5) that mount doppelfs, beside the configured sets and beside other lines.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use super::{ConfigError, Configuration, MountOptions, Place, Problem, SetFile, Settings};

/// The types of our lines.
const TYPES: [&str; 2] = ["doppelfs", "fuse.doppelfs"];

/// One line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FstabLine {
    /// Its first field: what is mounted.
    pub spec: OsString,
    /// Where.
    pub mountpoint: PathBuf,
    /// The type.
    pub fs_type: String,
    /// The options.
    pub options: String,
    /// Where the line begins.
    pub place: Place,
    /// Where its options begin.
    pub options_place: Place,
}

impl FstabLine {
    fn is_ours(&self) -> bool {
        TYPES.contains(&self.fs_type.as_str())
    }

    fn has(&self, option: &str) -> bool {
        self.options.split(',').any(|found| found == option)
    }
}

/// Reads such a file.
///
/// # Errors
/// [`ConfigError::Unreadable`].
pub fn read_fstab(path: &Path) -> Result<Vec<FstabLine>, ConfigError> {
    let bytes = std::fs::read(path).map_err(|e| ConfigError::Unreadable {
        path: path.to_owned(),
        reason: e.to_string(),
    })?;
    let mut lines = Vec::new();
    for (index, line) in bytes.split(|&byte| byte == b'\n').enumerate() {
        let fields = fields(line);
        let Some((_, first)) = fields.first().filter(|(_, f)| !f.starts_with(b"#")) else {
            continue;
        };
        let place = |number: usize| Place {
            file: path.to_owned(),
            line: index + 1,
            column: fields.get(number).map_or(1, |(at, _)| at + 1),
        };
        let field = |number: usize| fields.get(number).map(|(_, field)| unescaped(field));
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        let (Some(mountpoint), Some(fs_type)) = (field(1), field(2)) else {
            continue;
        };
        lines.push(FstabLine {
            spec: OsString::from_vec(unescaped(first)),
            mountpoint: Path::new(&OsString::from_vec(mountpoint))
                .components()
                .collect(),
            fs_type: text(fs_type),
            options: field(3).map(text).unwrap_or_default(),
            place: place(0),
            options_place: place(3),
        });
    }
    Ok(lines)
}

/// The fields of a line, each with the place where it begins.
fn fields(line: &[u8]) -> Vec<(usize, &[u8])> {
    let mut fields = Vec::new();
    let mut at = 0;
    for part in line.split(|byte| matches!(byte, b' ' | b'\t' | b'\r')) {
        if !part.is_empty() {
            fields.push((at, part));
        }
        at += part.len() + 1;
    }
    fields
}

/// `\040` is a blank, and so on.
fn unescaped(field: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut rest = field;
    while let Some((&first, after)) = rest.split_first() {
        let digits = after.get(..3).filter(|_| first == b'\\');
        let byte = digits.and_then(|digits| {
            let text = std::str::from_utf8(digits).ok()?;
            u8::from_str_radix(text, 8).ok()
        });
        match byte {
            Some(byte) => {
                out.push(byte);
                rest = &after[3..];
            }
            None => {
                out.push(first);
                rest = after;
            }
        }
    }
    out
}

/// A path as the instance of a systemd unit, as `systemd-escape --path` has it.
pub fn unit_instance(path: &Path) -> String {
    let bytes = path.as_os_str().as_bytes();
    let trimmed: Vec<&[u8]> = bytes
        .split(|&byte| byte == b'/')
        .filter(|part| !part.is_empty())
        .collect();
    if trimmed.is_empty() {
        return "-".to_owned();
    }
    let mut out = String::new();
    for (index, &byte) in trimmed.join(&b'/').iter().enumerate() {
        let is_plain = byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b':');
        match byte {
            b'/' => out.push('-'),
            b'.' if index > 0 => out.push('.'),
            _ if is_plain => out.push(char::from(byte)),
            _ => out += &format!("\\x{byte:02x}"),
        }
    }
    out
}

/// What is wrong with the lines of our types, by themselves, beside other lines and beside the sets.
pub fn check_fstab(config: &Configuration, lines: &[FstabLine]) -> Vec<Problem> {
    let mut problems = Vec::new();
    for (index, line) in lines.iter().enumerate() {
        if !line.is_ours() {
            continue;
        }
        let earlier = lines[..index].iter();
        let same = earlier
            .rev()
            .find(|other| other.mountpoint == line.mountpoint);
        let set = set_of(config, line, &mut problems);
        if let Some(same) = same {
            problems.push(second_line(line, same, set));
        } else if let Some(later) = lines[index + 1..]
            .iter()
            .find(|other| other.mountpoint == line.mountpoint && !other.is_ours())
        {
            problems.push(second_line(later, line, set));
        }
        let mut asked = Settings::new();
        if let Err(error) = asked.add_options(&line.options) {
            problems.push(Problem::error(&line.options_place, error.to_string()));
            continue;
        }
        match set {
            Some(set) => problems.extend(beside_set(config, line, set, &asked)),
            None => problems.extend(alone(config, line, &asked)),
        }
    }
    problems
}

/// systemd makes a unit of each mount point, so that the second line for one has none.
fn second_line(second: &FstabLine, first: &FstabLine, set: Option<&SetFile>) -> Problem {
    let ours = if second.is_ours() { second } else { first };
    let unit = match set {
        Some(set) => format!("doppelfs@{}.service", set.name),
        None => format!(
            "doppelfs-dir@{}.service",
            unit_instance(Path::new(&ours.spec))
        ),
    };
    let text = format!(
        "line {} mounts {} already, and of two lines with one mount point systemd passes over the second \
         at boot; take the line of type {} out and have a unit protect the directory: \
         `systemctl enable --now '{unit}'`",
        first.place.line,
        second.mountpoint.display(),
        ours.fs_type
    );
    Problem::error(&second.place, text)
}

/// The set that a line means: by its name, or by its directory.
fn set_of<'a>(
    config: &'a Configuration,
    line: &FstabLine,
    problems: &mut Vec<Problem>,
) -> Option<&'a SetFile> {
    let spec = Path::new(&line.spec);
    if line.spec.as_bytes().contains(&b'/') {
        let plain: PathBuf = spec.components().collect();
        return config.sets.iter().find(|set| set.path.0 == plain);
    }
    let found = config.set(&line.spec.to_string_lossy());
    if let Err(error) = &found {
        // What cannot be read is a problem already.
        let is_broken = config
            .problems
            .iter()
            .any(|problem| problem.place.file == config.file_of(&line.spec.to_string_lossy()));
        if !is_broken {
            problems.push(Problem::error(&line.place, error.to_string()));
        }
    }
    found.ok()
}

/// A line for a directory that no set has.
fn alone(config: &Configuration, line: &FstabLine, asked: &Settings) -> Option<Problem> {
    let settings = asked.over(&config.default_settings());
    let dir = Path::new(&line.spec);
    let made = MountOptions::new(dir, Some(&line.mountpoint), &settings);
    let error = made.err().filter(|_| dir.is_absolute())?;
    Some(Problem::error(&line.options_place, error.to_string()))
}

/// Does the line mean the same as the set's file?
fn beside_set(
    config: &Configuration,
    line: &FstabLine,
    set: &SetFile,
    asked: &Settings,
) -> Vec<Problem> {
    let mut problems = Vec::new();
    if line.mountpoint != set.served_at() {
        let text = format!(
            "set {} is mounted on {} by this line and on {} by {}; make them one",
            set.name,
            line.mountpoint.display(),
            set.served_at().display(),
            set.place_of(if set.mountpoint.is_some() {
                "mountpoint"
            } else {
                "path"
            })
            .in_short(),
        );
        problems.push(Problem::error(&line.place, text));
    }
    let renamed = asked.pairs().find(|(key, value)| {
        *key == "set" && value.is_some_and(|value| value != set.name.as_str())
    });
    if let Some((_, Some(name))) = renamed {
        let text = format!(
            "set={name}: {} is the path of set {} ({})",
            set.path.0.display(),
            set.name,
            set.place_of("path").in_short()
        );
        problems.push(Problem::error(&line.options_place, text));
        return problems;
    }
    let lower = config.settings_for(Some(set));
    let made = |settings: &Settings| MountOptions::new(&set.path.0, None, settings);
    let (alone, together) = (made(&lower), made(&asked.over(&lower)));
    match (alone, together) {
        (Ok(alone), Ok(together)) => {
            let differing = differing(&alone, &together);
            if !differing.is_empty() && !line.has("noauto") {
                let text = format!(
                    "{} of this line differ from {}; what fstab says counts where the set is mounted by \
                     this line, and not where `doppelfs mount` or its unit mounts it",
                    differing.join(", "),
                    set.file.display()
                );
                problems.push(Problem::warning(&line.options_place, text));
            }
        }
        (_, Err(error)) => {
            problems.push(Problem::error(&line.options_place, error.to_string()));
        }
        (Err(_), Ok(_)) => {}
    }
    problems
}

/// The keys by which a line changes what the set has without it.
fn differing(alone: &MountOptions, together: &MountOptions) -> Vec<String> {
    let values = |options: &MountOptions| -> BTreeMap<&'static str, String> {
        let shown = super::effective::values(options);
        shown.map(|(key, value)| (key, value.to_string())).collect()
    };
    let (alone, together) = (values(alone), values(together));
    let changed = alone
        .iter()
        .filter(|(key, value)| together.get(*key) != Some(*value));
    changed.map(|(key, _)| (*key).to_owned()).collect()
}
