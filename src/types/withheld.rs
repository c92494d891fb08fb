//! What a replica only records of a file of the source, as its target was told not to make it so.

use super::Node;

/// Extended attributes with names that begin so are doppelfs' own on a replica. What a source says of such
/// names is never set there: it would be taken for ours.
pub const OWN_XATTRS: &[u8] = b"trusted.doppelfs.";

/// Beside a regular file of the replica: a [`Withheld`] as text.
pub const WITHHELD_XATTR: &[u8] = b"trusted.doppelfs.withheld";

/// Beside a regular file of the replica: the value of `security.capability` that it has on the source.
pub const WITHHELD_CAPABILITY_XATTR: &[u8] = b"trusted.doppelfs.capability";

/// Capabilities of a program.
pub const CAPABILITY_XATTR: &[u8] = b"security.capability";

const S_IFMT: u32 = 0o170_000;
const S_IFREG: u32 = 0o100_000;
const S_IFCHR: u32 = 0o020_000;
const S_IFBLK: u32 = 0o060_000;

/// Is this a name of our own?
pub fn is_own_xattr(name: &[u8]) -> bool {
    name.starts_with(OWN_XATTRS)
}

/// A kind of device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeviceKind {
    /// Character device.
    Char,
    /// Block device.
    Block,
}

/// A device that an empty regular file stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Device {
    /// Its kind.
    pub kind: DeviceKind,
    /// Its number (`st_rdev`).
    pub rdev: u64,
}

impl Device {
    /// The device that a node is; `None` for all else, and for the character device 0:0, which is a
    /// whiteout and leads to no device.
    pub fn of(node: &Node) -> Option<Device> {
        let (kind, rdev) = match node {
            Node::Char(0) => return None,
            Node::Char(rdev) => (DeviceKind::Char, *rdev),
            Node::Block(rdev) => (DeviceKind::Block, *rdev),
            Node::File | Node::Dir | Node::Symlink(_) | Node::Fifo | Node::Socket => return None,
        };
        Some(Device { kind, rdev })
    }

    /// The type bits of its mode.
    pub fn type_bits(self) -> u32 {
        match self.kind {
            DeviceKind::Char => S_IFCHR,
            DeviceKind::Block => S_IFBLK,
        }
    }
}

/// What an inode of the replica would be on the source: the value of [`WITHHELD_XATTR`].
///
/// Text, to be read with getfattr(1): `device c 8:1 mode 4111`, `mode 6000`; the mode is octal and holds the
/// bits that are missing from the inode's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Withheld {
    /// It is this device.
    pub device: Option<Device>,
    /// Bits that its mode has beside those of the inode.
    pub mode_bits: u32,
}

impl Withheld {
    /// Bits that a file which stands for a device does not have.
    pub const DEVICE_BITS: u32 = 0o6111;
    /// Bits that a file without set-id bits does not have.
    pub const SET_ID_BITS: u32 = 0o6000;

    /// The text.
    pub fn encode(&self) -> Vec<u8> {
        let mode = format!("mode {:04o}", self.mode_bits);
        let Some(device) = self.device else {
            return mode.into_bytes();
        };
        let letter = match device.kind {
            DeviceKind::Char => 'c',
            DeviceKind::Block => 'b',
        };
        let (major, minor) = (libc::major(device.rdev), libc::minor(device.rdev));
        format!("device {letter} {major}:{minor} {mode}").into_bytes()
    }

    /// The other way; `None` when it is no such text.
    pub fn decode(text: &[u8]) -> Option<Withheld> {
        let text = std::str::from_utf8(text).ok()?;
        let mut words = text.split(' ');
        let mut word = words.next()?;
        let mut device = None;
        if word == "device" {
            let kind = match words.next()? {
                "c" => DeviceKind::Char,
                "b" => DeviceKind::Block,
                _ => return None,
            };
            let (major, minor) = words.next()?.split_once(':')?;
            let rdev = libc::makedev(major.parse().ok()?, minor.parse().ok()?);
            device = Some(Device { kind, rdev });
            word = words.next()?;
        }
        let mode_bits = u32::from_str_radix(words.next()?, 8).ok()?;
        let allowed = match device {
            Some(_) => Withheld::DEVICE_BITS,
            None => Withheld::SET_ID_BITS,
        };
        let is_sound = word == "mode" && words.next().is_none() && mode_bits & !allowed == 0;
        is_sound.then_some(Withheld { device, mode_bits })
    }

    /// Does it say anything?
    pub fn is_empty(&self) -> bool {
        *self == Withheld::default()
    }

    /// The mode on the source, of an inode that has this one here.
    pub fn mode(&self, here: u32) -> u32 {
        let mode = here | self.mode_bits;
        match self.device {
            Some(device) if here & S_IFMT == S_IFREG => mode & !S_IFMT | device.type_bits(),
            _ => mode,
        }
    }
}
