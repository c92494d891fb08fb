"""Programs that the benchmark starts, and what the kernel knows of them.

Everything runs in a mount and a network namespace of its own: mounts vanish with the last process that sees them, the
loopback interface counts nobody else's bytes, and no port is taken.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import signal
import socket
import struct
import subprocess
import time
from pathlib import Path
from typing import Callable, Iterable, Sequence

CLONE_NEWNS = 0x00020000
CLONE_NEWNET = 0x40000000
MS_REC = 0x4000
MS_PRIVATE = 1 << 18
PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
SIOCSIFFLAGS = 0x8914
IFF_UP = 1

TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")

_libc = ctypes.CDLL(None, use_errno=True)


class BenchError(Exception):
    """A measurement is not possible; the text says why."""


class Unavailable(BenchError):
    """This machine or this build does not have what is to be measured: it is left out, with the reason."""


def isolate() -> list[str]:
    """Enters namespaces of its own and adopts orphans. Returns what could not be had, for the report."""
    lacks = []
    if _libc.unshare(CLONE_NEWNS) != 0:
        lacks.append("no mount namespace of its own")
    elif _libc.mount(b"none", b"/", None, MS_REC | MS_PRIVATE, None) != 0:
        raise BenchError("cannot make mounts private: " + os.strerror(ctypes.get_errno()))
    if _libc.unshare(CLONE_NEWNET) == 0:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
            request = struct.pack("16sH14x", b"lo", IFF_UP)
            fcntl.ioctl(any_socket, SIOCSIFFLAGS, request)
    else:
        lacks.append("no network namespace of its own: bytes on the wire may be others', too")
    _libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    return lacks


def _die_with_parent() -> None:
    _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def clean_environment(extra: dict[str, str] | None = None) -> dict[str, str]:
    """The environment for programs that are measured: nothing of the user's that changes what they do."""
    dropped = ("CARGO_", "RUSTFLAGS", "RUSTC_", "GIT_", "DOPPELFS_", "PG")
    kept = {"CARGO_HOME"}
    environment = {
        name: value
        for name, value in os.environ.items()
        if name in kept or not name.startswith(dropped)
    }
    environment.update(LC_ALL="C", TZ="UTC", GIT_CONFIG_GLOBAL="/dev/null", GIT_CONFIG_SYSTEM="/dev/null")
    environment.update(extra or {})
    return environment


def run(
    words: Sequence[str | Path],
    *,
    seconds: float = 1800,
    environment: dict[str, str] | None = None,
    cwd: Path | None = None,
    accept: Iterable[int] = (0,),
) -> subprocess.CompletedProcess[str]:
    """Runs a program to its end. One that fails or takes too long is an error that shows what it said."""
    shown = " ".join(str(word) for word in words)
    try:
        ended = subprocess.run(
            [str(word) for word in words],
            env=clean_environment() if environment is None else environment,
            cwd=cwd,
            text=True,
            errors="replace",
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=seconds,
            preexec_fn=_die_with_parent,
        )
    except subprocess.TimeoutExpired as expired:
        raise BenchError(f"{shown}: not done after {seconds:.0f} s") from expired
    except OSError as error:
        raise BenchError(f"{shown}: {error}") from error
    if ended.returncode not in accept:
        said = (ended.stderr + ended.stdout).strip()[-2000:]
        raise BenchError(f"{shown}: exit code {ended.returncode}: {said}")
    return ended


def timed(words: Sequence[str | Path], **options) -> float:
    """Seconds that a program takes."""
    began = time.monotonic()
    run(words, **options)
    return time.monotonic() - began


class Background:
    """A program that runs until it is stopped. Dies with the benchmark."""

    def __init__(self, words: Sequence[str | Path], log: Path, environment: dict[str, str] | None = None):
        self.words = [str(word) for word in words]
        self.log = log
        with log.open("ab") as out:
            self.process = subprocess.Popen(
                self.words,
                env=clean_environment() if environment is None else environment,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                preexec_fn=_die_with_parent,
            )
        self.pid = self.process.pid

    def alive(self) -> bool:
        """Has it not ended?"""
        return self.process.poll() is None

    def said(self) -> str:
        """The end of its output."""
        return self.log.read_text(errors="replace")[-1000:]

    def stop(self, number: int = signal.SIGTERM, seconds: float = 30) -> None:
        """Ends it; with SIGKILL when it does not go by itself."""
        if self.alive():
            self.process.send_signal(number)
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(10)

    def wait(self, seconds: float) -> None:
        """Waits for its end, which has to be a good one."""
        try:
            code = self.process.wait(seconds)
        except subprocess.TimeoutExpired as expired:
            raise BenchError(f"{self.words[0]}: not done after {seconds:.0f} s") from expired
        if code != 0:
            raise BenchError(f"{' '.join(self.words)}: exit code {code}: {self.said()}")


def wait_until(condition: Callable[[], bool], what: str, seconds: float = 60, pause: float = 0.01) -> None:
    """Polls a condition; an error when it does not come true in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise BenchError(f"{what}: not after {seconds:.0f} s")
        time.sleep(pause)


def free_port() -> int:
    """A TCP port of the loopback interface that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def answers(port: int) -> bool:
    """Does somebody listen there?"""
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


def loopback_bytes() -> int:
    """Bytes sent over the loopback interface of this network namespace, headers included."""
    for line in Path("/proc/self/net/dev").read_text().splitlines():
        name, _, numbers = line.partition(":")
        if name.strip() == "lo":
            return int(numbers.split()[8])
    return 0


def children_of_self() -> list[int]:
    """Processes whose parent this one is, adopted ones included."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(fields[1]) == os.getpid():
                found.append(int(entry.name))
    return found


def reap() -> None:
    """Takes note of adopted processes that have ended."""
    for pid in children_of_self():
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                os.waitpid(pid, os.WNOHANG)
        except (OSError, ChildProcessError):
            continue


def end_all_children() -> None:
    """Kills what is left, at the very end."""
    for _ in range(50):
        reap()
        left = children_of_self()
        if not left:
            return
        for pid in left:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        time.sleep(0.05)


class Usage:
    """CPU time and the highest resident memory of processes between `begin` and `end`."""

    def __init__(self, pids: dict[str, int]):
        self.pids = pids
        self.began = {name: cpu_seconds(pid) for name, pid in pids.items()}
        for pid in pids.values():
            forget_peak(pid)

    def end(self) -> dict[str, dict[str, float]]:
        """For each process: `cpu_seconds`, `max_rss_mib`. One that is gone is left out."""
        found = {}
        for name, pid in self.pids.items():
            try:
                found[name] = {
                    "cpu_seconds": cpu_seconds(pid) - self.began[name],
                    "max_rss_mib": peak_bytes(pid) / 2**20,
                }
            except OSError:
                continue
        return found


def cpu_seconds(pid: int) -> float:
    """User and system time of a process so far, all its threads."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS_PER_SECOND


def forget_peak(pid: int) -> None:
    """Lets the kernel's mark of the highest resident memory begin anew."""
    try:
        Path(f"/proc/{pid}/clear_refs").write_text("5")
    except OSError:
        pass


def peak_bytes(pid: int) -> int:
    """The highest resident memory since `forget_peak`."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0
