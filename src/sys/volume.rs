//! Which device a mount has.

use std::io;
use std::path::Path;

/// The device number (`st_dev`) of what is mounted last on `mountpoint`, without touching it.
pub fn mount_device(mountpoint: &Path) -> io::Result<Option<u64>> {
    let table = std::fs::read_to_string("/proc/self/mountinfo")?;
    let wanted = mountpoint.to_string_lossy().replace('\\', "\\134");
    let wanted = wanted.replace(' ', "\\040").replace('\t', "\\011");
    let wanted = wanted.replace('\n', "\\012");
    let mut device = None;
    for line in table.lines() {
        let mut fields = line.split(' ');
        let (number, point) = (fields.nth(2), fields.nth(1));
        let (Some(number), Some(point)) = (number, point) else {
            continue;
        };
        if point != wanted {
            continue;
        }
        let Some((major, minor)) = number.split_once(':') else {
            continue;
        };
        if let (Ok(major), Ok(minor)) = (major.parse(), minor.parse()) {
            device = Some(libc::makedev(major, minor));
        }
    }
    Ok(device)
}
