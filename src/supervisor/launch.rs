//! Running this program again in the background.

use std::ffi::OsString;
use std::fs::DirBuilder;
use std::io::{PipeReader, Read};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::sys;

/// Longest text that a worker says about itself.
const WORD_BYTES_MAX: u64 = 64 << 10;

/// Why no worker serves.
#[derive(Debug, thiserror::Error)]
pub enum LaunchError {
    /// It said why.
    #[error("{0}")]
    Refused(String),
    /// It ended without a word.
    #[error("the worker ended before it served ({status}); see {log}")]
    Ended {
        /// How.
        status: String,
        /// Where it may have said why.
        log: PathBuf,
    },
    /// A call of the system failed; no worker runs.
    #[error("cannot {operation} {path}")]
    Io {
        /// What was tried, as a verb.
        operation: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
}

fn io(operation: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> LaunchError {
    let path = path.to_owned();
    move |source| LaunchError::Io {
        operation,
        path,
        source,
    }
}

/// Starts `program`, its output added to `log`, and returns the line that it says when it serves.
/// The pipe for that is its standard input (as for [`super::Ready::on_stdin`]), which no other
/// process that we start meanwhile can inherit by chance.
///
/// # Errors
/// [`LaunchError`]; a worker that was started has then ended.
pub fn start_worker(
    program: &Path,
    arguments: &[OsString],
    log: &Path,
) -> Result<String, LaunchError> {
    if let Some(dir) = log.parent() {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir)
            .map_err(io("create", dir))?;
    }
    let output = sys::open_private(log).map_err(io("open", log))?;
    let (reader, writer) = std::io::pipe().map_err(io("make a pipe for", program))?;
    let mut child = Command::new(program)
        .args(arguments)
        .current_dir("/")
        .stdin(writer)
        .stdout(Stdio::null())
        .stderr(output)
        .spawn()
        .map_err(io("start", program))?;
    if let Some(line) = hear(reader).map_err(io("hear from", program))? {
        return line.map_err(LaunchError::Refused);
    }
    let status = child.wait().map_err(io("wait for", program))?;
    Err(LaunchError::Ended {
        status: status.to_string(),
        log: log.to_owned(),
    })
}

/// The worker's word: readiness, refusal, or none at all.
fn hear(mut reader: PipeReader) -> std::io::Result<Option<Result<String, String>>> {
    let mut said = Vec::new();
    let mut chunk = [0u8; 4096];
    loop {
        let count = reader.read(&mut chunk)?;
        said.extend(chunk.iter().take(count));
        let text = String::from_utf8_lossy(&said);
        if let Some(line) = text
            .strip_prefix("ready ")
            .and_then(|rest| rest.split_once('\n'))
        {
            return Ok(Some(Ok(line.0.to_owned())));
        }
        if count == 0 || said.len() as u64 > WORD_BYTES_MAX {
            let refused = text
                .strip_prefix("refused ")
                .map(|text| text.trim_end().to_owned());
            return Ok(refused.map(Err));
        }
    }
}

/// The worker's side: a session of its own, so that its terminal's end is not its own.
///
/// # Errors
/// [`LaunchError::Io`] when this process leads a group already.
pub fn detach() -> Result<(), LaunchError> {
    sys::setsid().map_err(io("leave the session of", Path::new("the terminal")))
}
