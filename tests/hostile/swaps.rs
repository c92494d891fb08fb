//! Somebody on the target's host who changes the replica while it is written.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use super::attack::{Attack, carry_out};
use super::frames::*;
use super::scene::{Outcome, ROOT, Scene};

/// Runs `swap` again and again while `act` goes on.
fn meanwhile<T>(swap: impl Fn() + Sync, act: impl FnOnce() -> T) -> T {
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                swap();
            }
        });
        let done = act();
        stop.store(true, Ordering::Relaxed);
        done
    })
}

fn mounts(args: &[&str], at: &Path) -> bool {
    let done = std::process::Command::new(args[0])
        .args(&args[1..])
        .arg(at)
        .output();
    done.is_ok_and(|done| done.status.success())
}

const SWAPS: &[Attack] = &[
    Attack {
        name: "directory_swapped_for_a_link",
        act: |t, set| {
            let mut s = Scene::open(&t.stage, &t.mallory, set)?;
            let d = s.dir(ROOT, "d")?;
            let (here, aside) = (s.replica().join("d"), s.replica().join("aside"));
            let outside = t.stage.outside();
            let swap = || {
                let _ = std::fs::rename(&here, &aside);
                let _ = std::os::unix::fs::symlink(&outside, &here);
                std::thread::yield_now();
                let _ = std::fs::remove_file(&here);
                let _ = std::fs::rename(&aside, &here);
            };
            meanwhile(swap, || {
                for n in 0..300u32 {
                    let id = s.fresh();
                    let name = format!("passwd{}", n % 7);
                    s.put(&gap(&[], true));
                    s.put(&listing(ROOT, vec![(b"d", d, dir())]));
                    s.put(&listing(
                        d,
                        vec![(b"passwd", id, file()), (name.as_bytes(), id, file())],
                    ));
                    s.put(&write(id, 0, b"gone"));
                    s.put(&setattr(id, &after(0o100_666)));
                    s.put(&create(
                        d,
                        b"shadow",
                        Id(9000 + u64::from(n), 1),
                        file(),
                        0o100_666,
                    ));
                    s.put(&unlink(d, b"passwd", id));
                }
                let _ = s.outcome_within(std::time::Duration::from_secs(6));
            });
            Ok(())
        },
    },
    Attack {
        name: "file_swapped_for_a_link_to_another",
        act: |t, set| {
            let mut s = Scene::open(&t.stage, &t.mallory, set)?;
            let (here, victim) = (
                s.replica().join("f"),
                t.stage.root().join("victim/data/shadow"),
            );
            let swap = || {
                let _ = std::fs::remove_file(&here);
                let _ = std::os::unix::fs::symlink(&victim, &here);
                let _ = std::fs::remove_file(&here);
            };
            meanwhile(swap, || {
                for n in 0..400u64 {
                    let id = Id(9000 + n, 1);
                    s.put(&gap(&[], true));
                    s.put(&listing(ROOT, vec![(b"f", id, file())]));
                    s.put(&write(id, 0, b"gone"));
                    s.put(&setattr(id, &after(0o100_666)));
                }
                let _ = s.outcome_within(std::time::Duration::from_secs(4));
            });
            Ok(())
        },
    },
    Attack {
        name: "mount_in_the_replica",
        act: |t, set| {
            let mut s = Scene::open(&t.stage, &t.mallory, set)?;
            let d = s.dir(ROOT, "d")?;
            let at = s.replica().join("d");
            let outside = t.stage.outside();
            if !mounts(&["mount", "--bind", outside.to_str().unwrap()], &at) {
                return Err("mount --bind failed".to_owned());
            }
            // What is known by its identity is below the mount.
            s.put(&create(d, b"new", Id(60, 1), file(), 0o100_644));
            let said = s.outcome();
            s.put(&gap(&[], true));
            s.put(&listing(ROOT, vec![(b"d", Id(70, 1), dir())]));
            s.put(&listing(Id(70, 1), Vec::new()));
            s.put(&listing(ROOT, Vec::new()));
            let then = s.outcome_within(std::time::Duration::from_secs(5));
            let unmounted = mounts(&["umount"], &at);
            match (&said, &then, unmounted) {
                (Outcome::Applied, Outcome::Held(text), true) if text.contains("mounted") => Ok(()),
                (Outcome::Applied, Outcome::Held(_), true) => Ok(()),
                other => Err(format!("{other:?}")),
            }
        },
    },
];

#[test]
fn swaps_lead_nowhere() {
    carry_out("swaps", SWAPS);
}
