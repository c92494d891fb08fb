//! Goal: programs made to find faults of file systems find none in a mount, and the replica is equal
//! after them. Method: fsx, stress-ng, fio and dbench run inside a mount; each verifies what it does
//! by itself, then the trees are compared.

use std::collections::BTreeSet;
use std::fs::File;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::support::{
    Fixture, dbench_seconds, fsx_size, has_programs, is_ready, program, random_bytes, seed,
    stress_seconds,
};

/// What a program may take that was told to run for `seconds`.
fn deadline(seconds: u64) -> Duration {
    Duration::from_secs(3 * seconds + 120)
}

/// The exerciser of the crate `fsx`: `DOPPELFS_FSX`, else `fsx` of the path or cargo's binaries.
fn find_fsx(test: &str) -> Option<PathBuf> {
    let home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cargo")));
    let mut places: Vec<PathBuf> = std::env::var_os("DOPPELFS_FSX")
        .map(PathBuf::from)
        .into_iter()
        .collect();
    let path = std::env::var_os("PATH").unwrap_or_default();
    places.extend(std::env::split_paths(&path).map(|dir| dir.join("fsx")));
    places.extend(home.map(|home| home.join("bin/fsx")));
    let found = places.into_iter().find(|place| place.is_file());
    if found.is_none() {
        eprintln!("SKIPPED {test}: no fsx; `cargo install fsx --locked` or set DOPPELFS_FSX");
    }
    found
}

/// Everything that fsx can do, opening the file again and again.
const FSX_ALL: &str = "
[weights]
close_open = 1
invalidate = 1
mapread = 5
mapwrite = 5
read = 5
write = 5
truncate = 3
fsync = 1
fdatasync = 1
posix_fallocate = 2
punch_hole = 3
sendfile = 2
posix_fadvise = 1
copy_file_range = 3
";

/// Mappings that are written and left to the kernel, calls beside them.
const FSX_MAPPED: &str = "
nomsyncafterwrite = true
[weights]
close_open = 1
invalidate = 1
mapread = 10
mapwrite = 10
read = 3
write = 3
truncate = 1
";

/// Whole blocks of a file that keeps its size.
const FSX_BLOCKS: &str = "
blockmode = true
flen = 262144
[opsize]
min = 4096
max = 65536
align = 4096
[weights]
invalidate = 1
truncate = 0
punch_hole = 3
fsync = 1
copy_file_range = 3
";

const FSX_BLOCKS_BYTES: usize = 262_144;

/// Sets a flag when it goes out of scope.
struct AtEnd<'a>(&'a AtomicBool);

impl Drop for AtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// One test of fsx: a fresh mount, a file for each seed; `beside` runs as long as fsx does.
fn fsx_is_content(
    test: &str,
    label: &str,
    configuration: &str,
    prepare: impl Fn(&Path),
    beside: impl Fn(&Path, &AtomicBool) + Sync,
) {
    if !is_ready(test) {
        return;
    }
    let Some(fsx) = find_fsx(test) else { return };
    let fixture = Fixture::started(label);
    let config = fixture.outside("fsx.toml");
    std::fs::write(&config, configuration).expect("write");
    let (operations, seeds) = fsx_size();
    let first = seed(test);
    for round in 0..seeds {
        let file = fixture.path(format!("file-{round}"));
        prepare(&file);
        let run = program(&fsx)
            .args(["-N", &operations.to_string()])
            .args(["-S", &(first + round).to_string()])
            .arg("-f")
            .arg(&config)
            .arg("-P")
            .arg(fixture.outside(""))
            .arg(&file)
            .deadline(deadline(operations / 100));
        let has_ended = AtomicBool::new(false);
        let ran = std::thread::scope(|scope| {
            scope.spawn(|| beside(&file, &has_ended));
            // Also when the run ends in a panic: the scope waits for what it started.
            let _end = AtEnd(&has_ended);
            run.run()
        });
        ran.expect_code(0);
        fixture.assert_equal();
    }
    fixture.finish();
}

#[test]
fn fsx_is_content_with_its_own_choice_of_calls() {
    let test = "fsx_is_content_with_its_own_choice_of_calls";
    fsx_is_content(test, "fsx", "", |_| {}, |_, _| {});
}

#[test]
fn fsx_is_content_with_every_call_it_knows() {
    let test = "fsx_is_content_with_every_call_it_knows";
    fsx_is_content(test, "fsx-all", FSX_ALL, |_| {}, |_, _| {});
}

#[test]
fn fsx_is_content_with_mappings_nobody_synchronises() {
    let test = "fsx_is_content_with_mappings_nobody_synchronises";
    fsx_is_content(test, "fsx-mapped", FSX_MAPPED, |_| {}, |_, _| {});
}

#[test]
fn fsx_is_content_with_blocks() {
    let test = "fsx_is_content_with_blocks";
    let prepare = |file: &Path| std::fs::write(file, vec![0; FSX_BLOCKS_BYTES]).expect("write");
    fsx_is_content(test, "fsx-blocks", FSX_BLOCKS, prepare, |_, _| {});
}

/// Reads a file past the page cache, over and over.
fn read_directly(file: &Path, has_ended: &AtomicBool) {
    let file = File::options()
        .read(true)
        .custom_flags(libc::O_DIRECT)
        .open(file)
        .expect("open a second time");
    let mut memory = vec![0_u8; (64 << 10) + 4096];
    let skip = memory.as_ptr().align_offset(4096);
    let aligned = memory.get_mut(skip..skip + (64 << 10)).expect("aligned");
    let mut offset = 0;
    while !has_ended.load(Ordering::Relaxed) {
        let count = file.read_at(aligned, offset).expect("read directly");
        // Sizes that are no whole blocks are the end of the file at this moment.
        offset = if count == aligned.len() {
            offset + (64 << 10)
        } else {
            0
        };
    }
}

#[test]
fn fsx_is_content_while_another_handle_reads_directly() {
    let test = "fsx_is_content_while_another_handle_reads_directly";
    let prepare = |file: &Path| std::fs::write(file, random_bytes(1, 64 << 10)).expect("write");
    fsx_is_content(test, "fsx-twice", FSX_ALL, prepare, read_directly);
}

/// Every stressor of stress-ng that works on files of its directory.
const STRESSORS: &str = "access chattr chdir chmod chown copy-file dentry dir dirdeep dirmany dnotify \
    dup fallocate fanotify fcntl fiemap file-ioctl filename filerace flock fpunch fsize fstat getdent \
    handle hdd inode-flags inotify io iomix lease link locka lockf lockofd mknod open rename symlink \
    sync-file touch utime verity xattr readahead seek mmap mmapfork msync sendfile splice fp-error \
    tee vm-splice aio aiol metamix revio unlink";

/// Stressors that are left out, and why.
const STRESSORS_LEFT_OUT: [(&str, &str); 2] = [
    (
        "fanotify",
        "it watches every mount of the machine, and keeps those of other tests busy",
    ),
    (
        "io",
        "it opens and syncs every mount of the machine, and keeps those of other tests busy",
    ),
];

/// Stressors that run at the same time.
const STRESSORS_AT_ONCE: usize = 10;

/// Runs `names` at once in `dir`; the names of those that failed.
fn stress(names: &[&str], dir: &Path) -> BTreeSet<String> {
    let seconds = stress_seconds();
    let mut command = program("stress-ng")
        .args(["--timeout", &seconds.to_string(), "--verify", "--temp-path"])
        .arg(dir)
        .current_dir(dir)
        .deadline(deadline(seconds));
    for name in names {
        command = command.args([&format!("--{name}"), "2"]);
    }
    let run = command.run();
    let said = format!("{}\n{}", run.stdout, run.stderr);
    let mut failed = failures_in(names, &said);
    // 3 and 4: some stressors need what is not here, say privileges; each has said so.
    if failed.is_empty() && !matches!(run.code, Some(0 | 3 | 4)) {
        failed.insert(format!("{:?} of {names:?}: {said}", run.code));
    }
    failed
}

/// Which of `names` failed, by what stress-ng said; its exit code does not tell (some faults end in a
/// "successful run").
fn failures_in(names: &[&str], said: &str) -> BTreeSet<String> {
    let mut failed = BTreeSet::new();
    for line in said.lines() {
        if !line.contains("stress-ng: fail:") && !line.contains("stress-ng: error:") {
            continue;
        }
        eprintln!("{line}");
        let message = line.split_once("] ").map_or(line, |(_, message)| message);
        let named = names.iter().find(|name| {
            message.starts_with(&format!("{name}:"))
                || message.contains(&format!("(stress-ng-{name})"))
                || message.contains(&format!("({name})"))
        });
        failed.insert(named.map_or_else(|| message.to_owned(), |name| (*name).to_owned()));
    }
    failed
}

#[test]
fn failures_of_stressors_are_noticed() {
    let said = "stress-ng: info:  [1] dispatching hogs: 2 fp-error, 2 filename\n\
        stress-ng: fail:  [2] filename: stat succeeded on non-existent unlinked file\n\
        stress-ng: error: [3] process 4 (stress-ng-dir) terminated on signal\n\
        stress-ng: info:  [1] successful run completed in 4.74s\n";
    let failed = failures_in(&["fp-error", "filename", "dir"], said);
    assert_eq!(
        failed,
        BTreeSet::from(["dir".to_owned(), "filename".to_owned()])
    );
    let said = "stress-ng: fail:  [2] something without a name";
    assert_eq!(failures_in(&["dir"], said).len(), 1);
}

/// The stressors that this version of stress-ng knows and that are not left out.
fn stressors(test: &str) -> Vec<&'static str> {
    let known = program("stress-ng").arg("--stressors").succeed();
    let known: BTreeSet<&str> = known.stdout.split_whitespace().collect();
    let mut chosen = Vec::new();
    for name in STRESSORS.split_whitespace() {
        let left_out = STRESSORS_LEFT_OUT.iter().find(|(other, _)| *other == name);
        if let Some((_, reason)) = left_out {
            eprintln!("SKIPPED {test}, stressor {name}: {reason}");
        } else if !known.contains(name) {
            eprintln!("SKIPPED {test}, stressor {name}: unknown to this version of stress-ng");
        } else {
            chosen.push(name);
        }
    }
    chosen
}

#[test]
fn stress_ng_finds_no_more_faults_than_below() {
    let test = "stress_ng_finds_no_more_faults_than_below";
    if !is_ready(test) || !has_programs(test, &["stress-ng"]) {
        return;
    }
    let fixture = Fixture::started("stress");
    let below = fixture.outside("below");
    std::fs::create_dir(&below).expect("mkdir");
    let stressors = stressors(test);
    assert!(stressors.len() > 30, "few stressors: {stressors:?}");
    let captured = fixture.captured_by(|| {
        for group in stressors.chunks(STRESSORS_AT_ONCE) {
            let mut failed = stress(group, &fixture.path(""));
            // Some find a fault of any file system only now and then, so below they get more turns.
            for _ in 0..3 {
                if failed.is_empty() {
                    break;
                }
                eprintln!("failed in the mount, now below: {failed:?}");
                let failed_below = stress(group, &below);
                failed.retain(|name| !failed_below.contains(name));
            }
            assert!(failed.is_empty(), "only in the mount: {failed:#?}");
        }
    });
    eprintln!("{} stressors, {captured} records", stressors.len());
    assert!(captured > 1_000, "few records: {captured}");
    fixture.finish();
}

/// How fio looks at what it wrote.
const FIO_VERIFY: [&str; 3] = ["--verify=crc32c", "--do_verify=1", "--verify_fatal=1"];

/// fio in a directory of the mount: four jobs on files of their own, then four on one file, each in
/// its part of it.
fn fio_is_content(test: &str, label: &str, engine: &[&str], verify_shared: &[&str]) {
    if !is_ready(test) || !has_programs(test, &["fio"]) {
        return;
    }
    let fixture = Fixture::started(label);
    let fio = |name: &str, args: &[&str]| {
        let dir = fixture.path(name);
        std::fs::create_dir(&dir).expect("mkdir");
        program("fio")
            .arg(format!("--name={name}"))
            .arg(format!("--directory={}", dir.display()))
            .args(["--rw=randrw", "--size=4m", "--numjobs=4"])
            .args(["--bsrange=4k-64k", "--fallocate=none"])
            .args(engine)
            .args(args)
            .current_dir(fixture.outside(""))
            .succeed();
    };
    fio("own", &FIO_VERIFY);
    let one_file = ["--filename=shared", "--offset_increment=4m"];
    fio("shared", &[&one_file, verify_shared].concat());
    let counts = fixture.finish().counts;
    assert!(counts.files == 5 && counts.bytes >= 24 << 20, "{counts:?}");
}

#[test]
fn fio_verifies_what_it_wrote_by_calls() {
    let test = "fio_verifies_what_it_wrote_by_calls";
    let engine = ["--ioengine=psync", "--fsync=64"];
    fio_is_content(test, "fio", &engine, &FIO_VERIFY);
}

/// The engine of mappings finds faults in a shared file on ext4, too; the replica is what proves that
/// file.
#[test]
fn fio_verifies_what_it_wrote_through_mappings() {
    let test = "fio_verifies_what_it_wrote_through_mappings";
    fio_is_content(test, "fio-mmap", &["--ioengine=mmap"], &[]);
}

#[test]
fn fio_verifies_what_it_wrote_directly() {
    let test = "fio_verifies_what_it_wrote_directly";
    let engine = ["--ioengine=libaio", "--iodepth=16", "--direct=1"];
    fio_is_content(test, "fio-direct", &engine, &FIO_VERIFY);
}

#[test]
fn dbench_works_like_clients_of_a_file_server() {
    let test = "dbench_works_like_clients_of_a_file_server";
    let load = "/usr/share/dbench/client.txt";
    if !is_ready(test) || !has_programs(test, &["dbench", load]) {
        return;
    }
    let fixture = Fixture::started("dbench");
    let seconds = dbench_seconds();
    let run = program("dbench")
        .args([
            "-c",
            load,
            "-t",
            &seconds.to_string(),
            "-x",
            "--skip-cleanup",
            "-D",
        ])
        .arg(fixture.path(""))
        .arg("4")
        .deadline(deadline(seconds))
        .succeed();
    let said = format!("{}\n{}", run.stdout, run.stderr);
    let throughput = said.lines().find(|line| line.starts_with("Throughput"));
    eprintln!(
        "{}",
        throughput.unwrap_or_else(|| panic!("no result: {said}"))
    );
    let counts = fixture.finish().counts;
    assert!(counts.files > 50, "{counts:?}\n{said}");
}
