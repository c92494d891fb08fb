//! The same done twice: on a file system of its own, and through a mount over one that is alike.

use std::path::Path;

use super::command::{is_installed, program};
use super::fixture::Fixture;
use super::image::Image;

/// A user without rights, as number.
pub(crate) const USER: &str = "65534";

/// What a user does until a limit stops it, as (user, script).
pub(crate) const LIMITED: &[(&str, &str)] = &[
    (
        USER,
        r#"xfs_io -f -c "pwrite -q -b 64k 0 200m" a; stat -c %s a"#,
    ),
    (
        USER,
        r#"xfs_io -f -c "pwrite -q 0 64k" -c fsync b; stat -c %s b"#,
    ),
    (
        "0",
        r#"xfs_io -f -c "pwrite -q 0 1m" -c fsync root; stat -c %s root"#,
    ),
    ("0", "chown 65534:65534 root; stat -c %u root"),
    (USER, "rm a; touch c; rm -f b root; ls -A"),
    (
        USER,
        r#"xfs_io -f -c "falloc 0 200m" d; stat -c %s d; rm d"#,
    ),
    (
        USER,
        r#"xfs_io -f -d -c "pwrite -q -b 64k 0 200m" e; stat -c %s e"#,
    ),
    (USER, "head -c 1M /dev/zero > f; stat -c %s f; rm e f"),
    (
        USER,
        r#"xfs_io -f -c "truncate 400m" -c "pwrite -q -b 64k 200m 200m" -c fsync g; stat -c %s g"#,
    ),
    (
        USER,
        r#"xfs_io -c "pwrite -q 0 4k" -c "truncate 1m" -c fsync g; stat -c %s g; rm g"#,
    ),
    (
        USER,
        r#"xfs_io -f -c "pwrite -q 0 1m" from; i=0
           while xfs_io -f -c "copy_range -l 1048576 from" to$i 2> why; test ! -s why -a $i -lt 100
           do i=$((i + 1)); done; cat why; stat -c %s to*; rm from to* why"#,
    ),
    (
        USER,
        r#"i=0; while mkdir d$i 2> /dev/null; do i=$((i + 1)); done; mkdir d$i; echo $i
           : > more; mkfifo pipe; ln -s d0 link; mv d0 moved; ls -A | sort | tr '\n' ' '"#,
    ),
    (
        USER,
        "rmdir d1; touch again; ls again; rm -rf d* moved again",
    ),
];

/// Two file systems that are alike: one as it is, one under a mount.
#[derive(Debug)]
pub(crate) struct Pair {
    pub(crate) fixture: Fixture,
    pub(crate) over: Image,
    pub(crate) plain: Image,
}

impl Pair {
    /// Both made, `prepare` done on both, one mounted over. `None`, said loudly, where this host cannot.
    pub(crate) fn new(
        test: &str,
        make: (&str, &[&str]),
        mib: u64,
        options: &str,
        prepare: impl Fn(&Path),
    ) -> Option<Pair> {
        if !["xfs_io", "setpriv", "prlimit"]
            .into_iter()
            .all(is_installed)
        {
            eprintln!("SKIPPED {test}: needs xfs_io, setpriv and prlimit");
            return None;
        }
        let plain = Image::with(test, make, mib, options)?;
        let over = Image::with(test, make, mib, options)?;
        for image in [&plain, &over] {
            program("chmod").arg("1777").arg(image.path()).succeed();
            prepare(image.path());
        }
        let mut fixture = Fixture::over(test, over.path());
        fixture.start();
        Some(Pair {
            fixture,
            over,
            plain,
        })
    }

    /// The same by `user` in both: they must say the same. Returns what they said.
    #[track_caller]
    pub(crate) fn same(&self, user: &str, script: &str) -> String {
        let below = said_in(self.plain.path(), user, script);
        let through = said_in(self.over.path(), user, script);
        assert_eq!(through, below, "{user}: {script}");
        eprintln!("{user}: {script}\n{below}");
        below
    }

    /// Source and replica are equal, nothing is mounted over any more.
    #[track_caller]
    pub(crate) fn finish(self) -> (Image, Image) {
        self.fixture.finish();
        (self.plain, self.over)
    }
}

/// What a script run in `dir` by `user` says and how it ends.
#[track_caller]
pub(crate) fn said_in(dir: &Path, user: &str, script: &str) -> String {
    let who = ["--reuid", user, "--regid", user, "--clear-groups"];
    let ended = program("setpriv")
        .args(who)
        .args(["sh", "-c", script])
        .current_dir(dir)
        .run();
    format!("{}{}{:?}", ended.stdout, ended.stderr, ended.code)
}
