"""What keeps a second tree equal: doppelfs, rsync (to a daemon, once or again and again), lsyncd. All over loopback TCP
to the same target image."""

from __future__ import annotations

import shutil
import signal
import time
from pathlib import Path
from typing import Protocol

from doppelfs import Doppelfs, Protected, Target
from processes import Background, Unavailable, answers, free_port, loopback_bytes, reap, run, wait_until
from scratch import Scratch, remove_tree, unmount


class Rival(Protocol):
    """One of them, for one source directory."""

    name: str
    source: Path
    replica: Path

    def copy(self) -> tuple[float, float]:
        """The first copy: seconds until it is done, seconds until it is durable."""

    def follow(self) -> None:
        """Goes on by itself from here; returns when the replica is equal."""

    def catch_up(self) -> float:
        """Seconds until what was done is there and durable."""

    def kill(self) -> None:
        """Kills both ends as a crash would."""

    def close(self) -> None:
        """Ends it and removes the replica."""


class DoppelfsRival:
    """Mounted over the source."""

    name = "doppelfs+target"

    def __init__(self, program: Doppelfs, tag: str, source: Path):
        self.source = source
        self.target = Target(program, tag)
        state = program.scratch.source / f"state-{tag}"
        self.protected = Protected(program, tag, source, state, self.target, "strict")
        self.replica = self.protected.replica

    def copy(self) -> tuple[float, float]:
        began = time.monotonic()
        self.protected.mount()
        self.protected.catch_up()
        taken = time.monotonic() - began
        return taken, taken

    def follow(self) -> None:
        self.copy()

    def catch_up(self) -> float:
        return self.protected.catch_up()

    def begin_copy(self) -> None:
        """The mirror goes on behind."""
        self.protected.mount()

    def kill(self) -> None:
        self.protected.kill()
        self.target.stop(signal.SIGKILL)
        reap()

    def finish_copy(self) -> None:
        """After a kill."""
        self.target.start()
        self.protected.mount()
        self.protected.catch_up()

    def prove(self) -> None:
        """Compares, after the end of the mount."""
        self.protected.catch_up()
        self.protected.umount()
        self.protected.program.compare(self.source, self.replica)

    def close(self) -> None:
        try:
            self.protected.umount()
        finally:
            unmount(self.source)
            self.target.stop()
            remove_tree(self.target.root.parent)
            remove_tree(self.protected.state)
            reap()


class RsyncRival:
    """`rsync -aHAX --delete` to a daemon; `follow` repeats it with a second between."""

    name = "rsync"

    def __init__(self, scratch: Scratch, tag: str, source: Path):
        if shutil.which("rsync") is None:
            raise Unavailable("rsync is not installed")
        self.scratch, self.tag, self.source = scratch, tag, source
        self.replica = scratch.target / f"rsync-{tag}"
        self.replica.mkdir()
        self.port = free_port()
        self.configuration = scratch.base / f"rsyncd-{tag}.conf"
        self.configuration.write_text(
            f"use chroot = no\nuid = root\ngid = root\n[replica]\npath = {self.replica}\nread only = no\n"
        )
        self.url = f"rsync://127.0.0.1:{self.port}/replica/"
        self.words = ["rsync", "-aHAX", "--delete", f"{source}/", self.url]
        self.background: list[Background] = []
        self._serve()

    def _serve(self) -> None:
        words = ["rsync", "--daemon", "--no-detach", f"--config={self.configuration}", f"--port={self.port}"]
        words += ["--address=127.0.0.1"]
        self.daemon = Background(words, self.scratch.logs / f"rsyncd-{self.tag}.log")
        wait_until(lambda: answers(self.port), "rsync's daemon answers")

    def copy(self) -> tuple[float, float]:
        began = time.monotonic()
        # 24: files vanished while it ran, as they do under load.
        run(self.words, accept=(0, 24), seconds=3600)
        done = time.monotonic() - began
        run(["sync", "-f", self.replica])
        return done, time.monotonic() - began

    def follow(self) -> None:
        self.copy()
        script = 'while :; do "$@"; sleep 1; done'
        self.background.append(
            Background(["sh", "-c", script, "sh", *self.words], self.scratch.logs / f"rsync-{self.tag}.log")
        )

    def catch_up(self) -> float:
        return self.copy()[1]

    def begin_copy(self) -> None:
        """The copy goes on behind."""
        self.background.append(Background(self.words, self.scratch.logs / f"rsync-{self.tag}.log"))

    def kill(self) -> None:
        for process in [*self.background, self.daemon]:
            process.stop(signal.SIGKILL)
        self.background.clear()
        reap()

    def finish_copy(self) -> None:
        """After a kill."""
        self._serve()
        self.copy()

    def prove(self) -> None:
        """Nothing is promised."""

    def close(self) -> None:
        for process in [*self.background, self.daemon]:
            process.stop()
        remove_tree(self.replica)
        reap()


class LsyncdRival(RsyncRival):
    """lsyncd in its rsync mode, with a delay of one second."""

    name = "lsyncd"

    def __init__(self, scratch: Scratch, tag: str, source: Path):
        if shutil.which("lsyncd") is None:
            raise Unavailable("lsyncd is not installed")
        super().__init__(scratch, tag, source)

    def follow(self) -> None:
        path = self.scratch.base / f"lsyncd-{self.tag}.lua"
        path.write_text(
            f'settings {{ logfile = "/dev/null", nodaemon = true, inotifyMode = "CloseWrite or Modify" }}\n'
            f'sync {{ default.rsync, source = "{self.source}/", target = "{self.url}", delay = 1,\n'
            f"  rsync = {{ archive = true, hard_links = true, acls = true, xattrs = true }} }}\n"
        )
        self.copy()
        self.background.append(
            Background(["lsyncd", "-nodaemon", str(path)], self.scratch.logs / f"lsyncd-{self.tag}.log")
        )
        # It tells nobody when its watches are set: a file that comes over does.
        marker = self.source / ".lsyncd-is-there"
        wait_until(lambda: self._seen(marker), "lsyncd follows", 120, 0.5)
        marker.unlink()

    def _seen(self, marker: Path) -> bool:
        marker.write_text(str(time.monotonic()))
        return (self.replica / marker.name).exists()


def bytes_during(action) -> tuple[float, int]:
    """What an action returns, and the bytes that went over the loopback interface meanwhile."""
    before = loopback_bytes()
    value = action()
    return value, loopback_bytes() - before
