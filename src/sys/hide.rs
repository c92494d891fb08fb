//! Secrets out of the process list.

use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::FileExt;

/// Overwrites every occurrence of `secret` in this process's own arguments and environment, as
/// `/proc/PID/cmdline` and `environ` show them to others; returns how many there were. What was
/// copied from there, by the parser of the command line for one, stays as it is. Until it is called
/// anybody can read it: call it first, and let secrets come from a file where that is too late.
///
/// # Errors
/// What reading `/proc/self/stat` and writing `/proc/self/mem` says.
pub fn hide_argument(secret: &[u8]) -> io::Result<usize> {
    if secret.is_empty() {
        return Ok(0);
    }
    let memory = OpenOptions::new()
        .read(true)
        .write(true)
        .open("/proc/self/mem")?;
    let mut hidden = 0;
    for (start, end) in areas()? {
        let length = usize::try_from(end.saturating_sub(start)).map_err(io::Error::other)?;
        let mut shown = vec![0; length];
        memory.read_exact_at(&mut shown, start)?;
        let mut at = 0;
        while let Some(found) = find(&shown[at..], secret) {
            at += found;
            let cover = vec![b'x'; secret.len()];
            memory.write_all_at(&cover, start + at as u64)?;
            at += secret.len();
            hidden += 1;
        }
        shown.fill(0);
        std::hint::black_box(&shown);
    }
    Ok(hidden)
}

fn find(text: &[u8], part: &[u8]) -> Option<usize> {
    text.windows(part.len()).position(|window| window == part)
}

/// Where the arguments and the environment lie: fields 48 to 51 of proc_pid_stat(5).
fn areas() -> io::Result<[(u64, u64); 2]> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    // The second field is the name in parentheses, which may hold blanks and parentheses.
    let rest = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let fields: Vec<&str> = rest.split_whitespace().collect();
    let field = |number: usize| {
        let text = fields.get(number - 3).copied().unwrap_or_default();
        text.parse::<u64>().map_err(io::Error::other)
    };
    Ok([(field(48)?, field(49)?), (field(50)?, field(51)?)])
}
