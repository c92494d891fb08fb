"""Replication side by side: each case on a fresh tree, by doppelfs, rsync and, where a tool has to go on by itself,
lsyncd. Bytes are those of the loopback interface, headers and acknowledgements included, for all alike."""

from __future__ import annotations

import json
import statistics
import sys
import time
from pathlib import Path
from typing import Callable, Sequence

from doppelfs import Doppelfs
from machine import drop_caches, settle
from processes import Background, BenchError, Unavailable, loopback_bytes, run, wait_until
from results import Results
from rivals import DoppelfsRival, LsyncdRival, RsyncRival, bytes_during
from scratch import Scratch, remove_tree
from workloads import Material
from workloads.content import make_file
from workloads.trees import make_tree

PART = "replication"
POLL_SECONDS = 0.005


class Replication:
    """The cases."""

    def __init__(self, program: Doppelfs, material: Material, scratch: Scratch, results: Results):
        self.program, self.material, self.scratch, self.results = program, material, scratch, results
        self.sizes = material.sizes
        self.round = 0
        self.copied_bytes: dict[str, int] = {}

    def run(self, rounds: int, only: set[str]) -> None:
        """All cases, each with everybody in turn."""
        both: Sequence[str] = ("doppelfs", "rsync")
        all_three: Sequence[str] = ("doppelfs", "rsync", "lsyncd")
        cases: list[tuple[str, Sequence[str], Callable[[str], None]]] = [
            ("copy-few", both, self.copy_few),
            ("copy-many", both, self.copy_many),
            ("copy-file", both, self.copy_file),
            ("copy-large", both, self.copy_large),
            ("rewrite", both, self.rewrite),
            ("appends", all_three, self.appends),
            ("rename-directory", all_three, self.rename_directory),
            ("database-delete", all_three, lambda who: self.database(who, "delete")),
            ("database-wal", all_three, lambda who: self.database(who, "wal")),
            ("killed", both, self.killed),
        ]
        for self.round in range(rounds):
            for name, rivals, case in cases:
                if only and name not in only:
                    continue
                turn = self.round % len(rivals)
                for who in [*rivals[turn:], *rivals[:turn]]:
                    try:
                        case(who)
                    except Unavailable as unavailable:
                        self.results.skip(who, str(unavailable))
                    except BenchError as error:
                        self.results.fail(f"{name} by {who}", str(error))
                    finally:
                        self._remove_trees()

    def _remove_trees(self) -> None:
        for path in self.scratch.source.glob("repl-*"):
            remove_tree(path)

    def _tree(self, tag: str) -> Path:
        path = self.scratch.source / f"repl-{tag}-{self.round}"
        path.mkdir()
        return path

    def _rival(self, who: str, tag: str, source: Path):
        tag = f"{tag}-{who}-{self.round}"
        if who == "doppelfs":
            return DoppelfsRival(self.program, tag, source)
        return (RsyncRival if who == "rsync" else LsyncdRival)(self.scratch, tag, source)

    def _add(self, name: str, rival, value: float, unit: str, title: str, better: str = "lower", **more) -> None:
        self.results.add(
            PART, name, rival.name, value, unit, title=title, better=better, round=self.round, **more
        )

    def copy_few(self, who: str) -> None:
        """Small files, about 4 KiB each."""
        count = self.sizes.copy_few
        self._copy(who, "copy-few", f"{count:,} files", lambda p: make_tree(self.material, p, count, 4096))

    def copy_many(self, who: str) -> None:
        """More of them, of 1 KiB."""
        count = self.sizes.copy_many
        self._copy(who, "copy-many", f"{count:,} files", lambda p: make_tree(self.material, p, count, 1024))

    def copy_file(self, who: str) -> None:
        """One file of random bytes."""
        size = self.sizes.copy_mib
        self._copy(who, "copy-file", f"a file of {size} MiB", lambda p: make_file(p / "file", size))

    def copy_large(self, who: str) -> None:
        """One of twice that size."""
        size = self.sizes.copy_large_mib
        self._copy(who, "copy-large", f"a file of {size} MiB", lambda p: make_file(p / "file", size))

    def _copy(self, who: str, name: str, what: str, make: Callable[[Path], None]) -> None:
        source = self._tree(name)
        make(source)
        for heat in ("cold", "warm"):
            settle()
            if heat == "cold":
                drop_caches()
            else:
                _read_all(source)
            rival = self._rival(who, f"{name}-{heat}", source)
            try:
                (done, durable), sent = bytes_during(rival.copy)
                self._add(f"{name}-{heat}", rival, durable, "s", f"initial copy of {what}, {heat}: durable")
                self._add(f"{name}-{heat}-done", rival, done, "s", f"initial copy of {what}, {heat}: without the sync")
                title = f"initial copy of {what}, {heat}: bytes on the wire"
                self._add(f"{name}-{heat}-bytes", rival, sent / 1e6, "MB", title)
                self.copied_bytes[f"{name} {who}"] = sent
                rival.prove()
            finally:
                rival.close()

    def rewrite(self, who: str) -> None:
        """1 % of the 4 KiB blocks of a large file, in place."""
        size = self.sizes.copy_mib
        source = self._tree("rewrite")
        make_file(source / "file", size)
        rival = self._rival(who, "rewrite", source)
        try:
            rival.copy()
            settle()
            blocks = size * 256 // 100
            # rsync takes a file of the same size and second for unchanged.
            time.sleep(1.1)
            before = loopback_bytes()
            run([self.material.tree_tool, "rewrite", source / "file", str(blocks), str(self.round + 1)])
            taken = rival.catch_up()
            sent = loopback_bytes() - before
            run(["cmp", source / "file", rival.replica / "file"])
            what = f"1 % of {size} MiB rewritten"
            self._add("rewrite-caught-up", rival, taken, "s", f"{what}: durable after the last write")
            self._add("rewrite-bytes", rival, sent / 1e6, "MB", f"{what}: bytes on the wire")
            rival.prove()
        finally:
            rival.close()

    def appends(self, who: str) -> None:
        """1,000 lines a second; how late each shows on the replica."""
        source = self._tree("appends")
        rival = self._rival(who, "appends", source)
        try:
            rival.follow()
            inside: list[float] = []
            lags = watch_lag(
                self.material,
                source / "log",
                rival.replica / "log",
                1000,
                self.sizes.append_seconds,
                (lambda: inside.append(rival.protected.connection()["lag_seconds"] * 1000))
                if who == "doppelfs"
                else None,
            )
            for name, value in percentiles(lags).items():
                title = f"1,000 appends a second: lag from outside, {name}"
                self._add(f"appends-{name}", rival, value, "ms", title, lines=len(lags))
            for name, value in percentiles(inside).items():
                self._add(f"appends-told-{name}", rival, value, "ms", f"age of the oldest pending, as it tells, {name}")
            if who == "doppelfs":
                for name, value in rival.protected.latency().items():
                    title = f"the same as it counts from capture to applied, {name}"
                    self._add(f"appends-counted-{name}", rival, value, "ms", title)
            rival.prove()
        finally:
            rival.close()

    def rename_directory(self, who: str) -> None:
        """A directory full of files gets another name."""
        count = self.sizes.renamed_files
        source = self._tree("rename")
        make_tree(self.material, source, 1, 0)
        (source / "old").mkdir()
        run([self.material.tree_tool, "make", source / "old", str(count), "1024", str(count)])
        rival = self._rival(who, "rename", source)
        try:
            rival.follow()
            settle()
            records = rival.protected.status()["captured_seq"] if who == "doppelfs" else 0
            before = loopback_bytes()
            began = time.monotonic()
            (source / "old").rename(source / "new")
            inner = f"d000000/f{count - 1:08d}"
            replica = rival.replica
            gone_and_come = lambda: (replica / "new" / inner).exists() and not (replica / "old").exists()
            wait_until(gone_and_come, "the replica shows the rename", 600, 0.002)
            taken = time.monotonic() - began
            sent = loopback_bytes() - before
            what = f"directory of {count:,} files renamed"
            self._add("rename-directory", rival, taken, "s", f"{what}: the replica shows it")
            self._add("rename-directory-bytes", rival, sent / 1e6, "MB", f"{what}: bytes on the wire")
            if who == "doppelfs":
                used = rival.protected.status()["captured_seq"] - records
                self._add("rename-directory-records", rival, used, "records", f"{what}: records")
            rival.prove()
        finally:
            rival.close()

    def database(self, who: str, mode: str) -> None:
        """A database is copied from the replica while it is in use on the source."""
        source = self._tree(f"database-{mode}")
        rival = self._rival(who, f"database-{mode}", source)
        load = None
        script = self.material.here / "sqlite_load.py"
        try:
            rival.follow()
            words = [sys.executable, script, "accounts", source / "bank.db", mode]
            load = Background(words, self.scratch.logs / f"load-{who}-{mode}.log")
            wait_until(lambda: (rival.replica / "bank.db").exists(), "the database comes", 120, 0.05)
            good, before = 0, -1
            grown = 0
            for number in range(self.sizes.snapshots):
                # At another moment of the others' second each time.
                time.sleep(1.1 + 0.37 * number)
                copy = self.scratch.base / f"snapshot-{who}-{mode}-{number}"
                if who == "doppelfs":
                    # Stands still at a moment, as after a crash; the others offer no such thing.
                    rival.target.pause()
                _copy_as_it_stands(rival.replica, copy)
                if who == "doppelfs":
                    rival.target.resume()
                checked = run([sys.executable, script, "check", copy / "bank.db"], accept=range(256))
                if checked.returncode == 0:
                    good += 1
                    transfers = int(checked.stdout)
                    grown += transfers > before
                    before = transfers
                remove_tree(copy)
            if not load.alive():
                raise BenchError(f"the load ended: {load.said()}")
            share = 100 * good / self.sizes.snapshots
            title = f"copies of a SQLite database ({mode}) under load that are sound"
            self._add(f"database-{mode}-sound", rival, share, "%", title, "higher", good=good, newer=grown)
            load.stop()
            rival.prove()
        finally:
            if load is not None:
                load.stop()
            rival.close()

    def killed(self, who: str) -> None:
        """Both ends are killed in the middle of the initial copy, and started again."""
        count = self.sizes.copy_many
        source = self._tree("killed")
        make_tree(self.material, source, count, 1024)
        settle()
        clean = self.copied_bytes.get(f"copy-many {who}")
        if clean is None:
            rival = self._rival(who, "unkilled", source)
            try:
                _, clean = bytes_during(rival.copy)
            finally:
                rival.close()
        rival = self._rival(who, "killed", source)
        try:
            before = loopback_bytes()
            began = time.monotonic()
            rival.begin_copy()
            wait_until(lambda: loopback_bytes() - before > clean / 2, "half of the copy", 600, 0.005)
            rival.kill()
            rival.finish_copy()
            taken = time.monotonic() - began
            again = loopback_bytes() - before - clean
            what = f"initial copy of {count:,} files, killed half-way"
            self._add("killed-total", rival, taken, "s", f"{what}: until durable")
            self._add("killed-bytes-again", rival, again / 1e6, "MB", f"{what}: bytes more than without")
            rival.prove()
        finally:
            rival.close()


def _read_all(source: Path) -> None:
    """Has everything in memory."""
    run(["sh", "-c", 'find "$1" -type f -exec cat {} + >/dev/null', "sh", source])


def _copy_as_it_stands(replica: Path, copy: Path) -> None:
    """Whatever files are there, one after the other; one that vanishes is left out."""
    copy.mkdir()
    for path in sorted(replica.glob("bank.db*")):
        try:
            (copy / path.name).write_bytes(path.read_bytes())
        except FileNotFoundError:
            continue


def watch_lag(
    material: Material,
    source: Path,
    replica: Path,
    per_second: float,
    seconds: float,
    each: Callable[[], None] | None = None,
) -> list[float]:
    """Lags of lines in milliseconds. `each` is called every 50 ms meanwhile."""
    prober = material.here / "prober.py"
    log = material.scratch / "logs" / f"prober-{time.monotonic_ns()}.log"
    watcher = Background([sys.executable, prober, "watch", replica, "60", str(POLL_SECONDS)], log)
    writer = Background(
        [sys.executable, prober, "write", source, str(per_second), str(seconds)],
        log.with_suffix(".writer"),
    )
    try:
        while writer.alive():
            if each is not None:
                each()
            time.sleep(0.05)
        writer.wait(10)
        watcher.wait(120)
    finally:
        writer.stop()
        watcher.stop()
    return json.loads(log.read_text())


def percentiles(values: Sequence[float]) -> dict[str, float]:
    """p50, p99 and max; nothing of nothing."""
    if len(values) < 2:
        return {}
    hundredths = statistics.quantiles(values, n=100, method="inclusive")
    return {"p50": hundredths[49], "p99": hundredths[98], "max": max(values)}
