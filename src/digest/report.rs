//! What a comparison found.

use std::fmt;

use serde::{Serialize, Serializer};

/// What differs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum What {
    /// A name that only one tree has; a directory is reported once, not what is in it.
    Missing,
    /// File, directory, symbolic link, pipe, socket, device.
    Type,
    /// Permission bits, suid, sgid, sticky.
    Mode,
    /// Owner.
    Owner,
    /// Group.
    Group,
    /// Length of a file.
    Size,
    /// Bytes of a file of equal length; the first difference is shown.
    Content,
    /// Modification time, to the nanosecond.
    Mtime,
    /// Where a symbolic link points.
    Target,
    /// Number of a device.
    Device,
    /// An extended attribute: missing on one side or of another value.
    Xattr,
    /// Which names share an inode.
    HardLinks,
    /// How much of a file is allocated: a hole on one side is filled on the other.
    Holes,
    /// Another file system is mounted on the directory on one side: what is in it was not compared.
    OtherMount,
}

impl What {
    /// The word that reports show.
    pub fn as_str(self) -> &'static str {
        match self {
            What::Missing => "missing",
            What::Type => "type",
            What::Mode => "mode",
            What::Owner => "owner",
            What::Group => "group",
            What::Size => "size",
            What::Content => "content",
            What::Mtime => "mtime",
            What::Target => "target",
            What::Device => "device",
            What::Xattr => "xattr",
            What::HardLinks => "hard-links",
            What::Holes => "holes",
            What::OtherMount => "other-mount",
        }
    }
}

/// One difference.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// Path below the roots as bytes; empty for the roots themselves. JSON has it with odd bytes
    /// escaped.
    #[serde(serialize_with = "serialize_path")]
    pub path: Vec<u8>,
    /// What differs.
    pub what: What,
    /// How it is on the left.
    pub left: String,
    /// How it is on the right.
    pub right: String,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = path_text(&self.path);
        let what = self.what.as_str();
        write!(f, "{path}: {what}: {} | {}", self.left, self.right)
    }
}

/// How much was looked at. Each inode pair counts once, also when it has several names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Counts {
    /// Regular files.
    pub files: u64,
    /// Directories, the root included.
    pub dirs: u64,
    /// Symbolic links, pipes, sockets, devices.
    pub others: u64,
    /// Further names of inodes that were looked at already.
    pub links: u64,
    /// Bytes of files whose content was compared (holes included).
    pub bytes: u64,
}

/// What the right tree only records of the left one, as its target was told to withhold it. Each inode counts
/// once; what is recorded has to be what the left tree has, or it is a difference too.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct WithheldCounts {
    /// Empty files that stand for a device.
    pub devices: u64,
    /// Files without the set-id bits or capabilities that they have on the left.
    pub rights: u64,
}

/// The result of [`super::compare`].
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Report {
    /// The first differences found, at most [`super::Options::differences_kept_max`].
    pub differences: Vec<Difference>,
    /// All differences found, kept or not.
    pub difference_count: u64,
    /// How much was looked at.
    pub counts: Counts,
    /// What is recorded on the right and not made: no difference.
    pub withheld: WithheldCounts,
}

impl Report {
    /// Do the trees hold the same?
    pub fn is_equal(&self) -> bool {
        self.difference_count == 0
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for difference in &self.differences {
            writeln!(f, "{difference}")?;
        }
        let hidden = self.difference_count - self.differences.len() as u64;
        if hidden > 0 {
            writeln!(f, "... and {hidden} more")?;
        }
        let Counts {
            files,
            dirs,
            others,
            links,
            bytes,
        } = self.counts;
        let verdict = match self.difference_count {
            0 => "equal".to_owned(),
            1 => "1 difference".to_owned(),
            many => format!("{many} differences"),
        };
        write!(
            f,
            "{verdict}: {files} files, {dirs} directories, {others} others, \
             {links} further links, {bytes} bytes"
        )?;
        let WithheldCounts { devices, rights } = self.withheld;
        match devices + rights {
            0 => Ok(()),
            all => write!(
                f,
                "; {all} withheld: {devices} devices, {rights} set-id or capabilities"
            ),
        }
    }
}

/// A path for people: `.` for the root, odd bytes escaped.
pub(super) fn path_text(path: &[u8]) -> String {
    if path.is_empty() {
        return ".".to_owned();
    }
    name_text(path)
}

/// Bytes for people: UTF-8 stays readable, control characters, backslashes and other bytes are
/// escaped.
pub(super) fn name_text(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            if c.is_control() || c == '\\' {
                text.extend(c.escape_default());
            } else {
                text.push(c);
            }
        }
        for byte in chunk.invalid() {
            text.push_str(&format!("\\x{byte:02x}"));
        }
    }
    text
}

fn serialize_path<S: Serializer>(path: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&path_text(path))
}
