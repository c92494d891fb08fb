//! Files that nobody else may read.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

use super::error::{Error, io};

/// Keys and lists of peers are far smaller.
const FILE_BYTES_MAX: u64 = 8 << 20;

/// Makes a directory for us alone (0700), with its parents; one that is there is made so.
///
/// # Errors
/// [`Error::Io`], or [`Error::Foreign`] when somebody else owns it.
pub fn ensure_private_dir(dir: &Path) -> Result<(), Error> {
    let mut builder = DirBuilder::new();
    builder.recursive(true).mode(0o700);
    builder.create(dir).map_err(io("create", dir))?;
    let meta = std::fs::symlink_metadata(dir).map_err(io("examine", dir))?;
    if !meta.is_dir() {
        let no_dir = io::Error::from_raw_os_error(libc::ENOTDIR);
        return Err(io("use", dir)(no_dir));
    }
    refuse_foreign(dir, meta.uid())?;
    if meta.mode() & 0o077 != 0 {
        let only_us = std::fs::Permissions::from_mode(0o700);
        std::fs::set_permissions(dir, only_us).map_err(io("protect", dir))?;
    }
    Ok(())
}

fn refuse_foreign(path: &Path, owner: u32) -> Result<(), Error> {
    if owner != crate::sys::effective_uid() {
        return Err(Error::Foreign {
            path: path.to_owned(),
            owner,
        });
    }
    Ok(())
}

/// Reads a file with secrets; `None` when there is none.
///
/// # Errors
/// [`Error::Exposed`] and [`Error::Foreign`] where it is not ours alone, [`Error::Io`].
pub fn read_private(path: &Path) -> Result<Option<Vec<u8>>, Error> {
    let opened = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NOFOLLOW | libc::O_CLOEXEC)
        .open(path);
    let file = match opened {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(io("open", path)(e)),
    };
    let meta = file.metadata().map_err(io("examine", path))?;
    refuse_foreign(path, meta.uid())?;
    let mode = meta.mode() & 0o7777;
    if mode & 0o077 != 0 {
        let path = path.to_owned();
        return Err(Error::Exposed { path, mode });
    }
    let mut bytes = Vec::new();
    let mut limited = file.take(FILE_BYTES_MAX);
    limited.read_to_end(&mut bytes).map_err(io("read", path))?;
    Ok(Some(bytes))
}

/// Replaces a file with secrets (0600) durably: its content, then its name.
///
/// # Errors
/// [`Error::Io`]; the file is then as it was.
pub fn write_private(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    let fresh = path.with_extension("new");
    match std::fs::remove_file(&fresh) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(io("remove", &fresh)(e)),
        Ok(()) | Err(_) => {}
    }
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&fresh)
        .map_err(io("create", &fresh))?;
    file.write_all(bytes).map_err(io("write", &fresh))?;
    file.sync_all().map_err(io("flush", &fresh))?;
    std::fs::rename(&fresh, path).map_err(io("replace", path))?;
    if let Some(dir) = path.parent() {
        let opened = File::open(dir).map_err(io("open", dir))?;
        opened.sync_all().map_err(io("flush", dir))?;
    }
    Ok(())
}
