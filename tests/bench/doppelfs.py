"""doppelfs as the benchmark drives it: by its command line, as people do."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

from processes import Background, BenchError, Unavailable, answers, clean_environment, free_port, run, wait_until
from scratch import Scratch, is_mounted, unmount

PATIENCE = 3600.0
"""Seconds until something that goes on is taken for stuck."""


class Doppelfs:
    """The program, with directories for its sockets, keys and configuration that nobody else uses."""

    def __init__(self, binary: Path, scratch: Scratch):
        self.binary = binary
        self.scratch = scratch
        for name in ("config", "keys"):
            (scratch.base / name).mkdir(mode=0o700, exist_ok=True)
        self.environment = clean_environment(
            {
                "DOPPELFS_RUN_DIR": str(scratch.sockets),
                "DOPPELFS_CONFIG_DIR": str(scratch.base / "config"),
                "DOPPELFS_KEYS": str(scratch.base / "keys"),
            }
        )

    def __call__(self, *words: str | Path, accept: tuple[int, ...] = (0,), seconds: float = 120) -> str:
        """Runs a command of it; returns what it printed."""
        return run([self.binary, *words], environment=self.environment, accept=accept, seconds=seconds).stdout

    def compare(self, left: Path, right: Path) -> None:
        """Proves that two trees are equal; an error with the first differences when they are not."""
        ended = run([self.binary, "compare", left, right], environment=self.environment, accept=(0, 1))
        if ended.returncode != 0:
            raise BenchError(f"REPLICA DIFFERS: {left} and {right}:\n{ended.stdout[:2000]}")


class Target:
    """`doppelfs target serve` on the loopback interface, without encryption."""

    def __init__(self, program: Doppelfs, name: str):
        self.program = program
        self.port = free_port()
        self.root = program.scratch.target / name / "replicas"
        self.state = program.scratch.target / name / "state"
        self.log = program.scratch.logs / f"target-{name}.log"
        self.root.mkdir(parents=True)
        self.start()

    def start(self) -> None:
        """Serves; returns when it answers."""
        words = ["target", "serve", "--listen", f"127.0.0.1:{self.port}", "--root", self.root, "--state", self.state]
        self.process = Background(
            [self.program.binary, *words, "--insecure-loopback"], self.log, self.program.environment
        )
        wait_until(
            lambda: answers(self.port) or not self.process.alive(),
            "the target answers",
        )
        if not self.process.alive():
            raise BenchError(f"the target ended: {self.process.said()}")

    @property
    def pid(self) -> int:
        """Its process."""
        return self.process.pid

    def stop(self, number: int = signal.SIGTERM) -> None:
        """Ends it; what it has stays."""
        self.process.stop(number)

    def pause(self) -> None:
        """Has replicas stand still at a consistent point."""
        self.program("target", "pause", "--port", str(self.port))

    def resume(self) -> None:
        """Lets them go on."""
        self.program("target", "resume", "--port", str(self.port))


class Protected:
    """A directory with doppelfs mounted over it."""

    def __init__(self, program: Doppelfs, name: str, directory: Path, state: Path, target: Target | None, order: str):
        self.program = program
        self.name = name
        self.directory = directory
        self.state = state
        self.target = target
        self.order = order

    def mount(self) -> None:
        """Mounts it; the mirror, if there is one, goes on behind."""
        words: list[str | Path] = ["mount", self.directory, "--set", self.name, "--state", self.state]
        if self.target is not None:
            words += ["--target", f"127.0.0.1:{self.target.port}:{self.name}", "--insecure-loopback"]
        if self.order != "strict":
            words += ["-o", f"order={self.order}"]
        try:
            self.program(*words)
        except BenchError as error:
            if self.order != "strict" and "order" in str(error):
                raise Unavailable(f"the mount refuses order={self.order}") from error
            raise

    @property
    def replica(self) -> Path:
        """The tree that follows."""
        if self.target is None:
            raise BenchError(f"{self.name} has no replica")
        return self.target.root / self.name

    def status(self) -> dict:
        """The set as `status --json` tells it."""
        sets = json.loads(self.program("status", self.name, "--json"))["sets"]
        return next(entry for entry in sets if entry["name"] == self.name)

    def connection(self) -> dict:
        """Its connection; empty when there is none."""
        connections = self.status()["connections"]
        return connections[0] if connections else {}

    def latency(self) -> dict[str, float]:
        """Milliseconds from capture to applied, as its worker has counted them since it began: percentiles."""
        told = self.connection()["latency"]["applied"]
        return {name: told[f"{name}_seconds"] * 1000 for name in ("p50", "p99", "max")}

    def begin_counting(self) -> None:
        """Has another worker take over, whose counters begin at zero."""
        self.program("restart", self.name)

    def catch_up(self, seconds: float = PATIENCE) -> float:
        """Waits until all that was done is durable on the target. Returns the seconds that took."""
        began = time.monotonic()
        if self.target is not None:
            self.program("wait", self.name, "--caught-up", "--timeout", str(int(seconds)), seconds=seconds + 30)
        return time.monotonic() - began

    def pids(self) -> dict[str, int]:
        """Worker and target."""
        found = {"worker": int(self.status()["worker_pid"])}
        if self.target is not None:
            found["target"] = self.target.pid
        return found

    def umount(self) -> None:
        """Ends the protection; by force where it has to be."""
        if not is_mounted(self.directory):
            return
        try:
            self.program("umount", self.directory, "--timeout", "120", seconds=150)
        finally:
            unmount(self.directory)

    def kill(self) -> None:
        """Kills supervisor and worker, as a crash does, and clears the dead mount away."""
        status = self.status()
        for pid in (int(status["supervisor_pid"]), int(status["worker_pid"])):
            if pid > 1:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    continue
