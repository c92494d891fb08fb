"""Lag from outside, as two programs: one appends lines with the time to a file of the source, one watches the replica.

    prober.py write FILE PER_SECOND SECONDS      appends lines of 32 bytes: number, monotonic nanoseconds
    prober.py watch FILE SECONDS POLL            prints JSON: the lag in ms of each line, when it is first seen

`watch` ends with the last line, which has the number -1, and fails when nothing new has come for so many SECONDS. The
file is opened again at each look, for a replica may put another in its place.
"""

from __future__ import annotations

import json
import os
import sys
import time

LINE = 32


def line(number: int, moment: int) -> bytes:
    """A line of fixed length."""
    return f"{number:10d} {moment:20d}\n".encode()


def write(path: str, per_second: float, seconds: float) -> None:
    """Appends, at a steady pace; the last line has the number -1."""
    with open(path, "ab", buffering=0) as file:
        began = time.monotonic()
        count = int(per_second * seconds)
        for number in range(count):
            ahead = began + number / per_second - time.monotonic()
            if ahead > 0:
                time.sleep(ahead)
            file.write(line(number, time.monotonic_ns()))
        file.write(line(-1, time.monotonic_ns()))


def watch(path: str, patience: float, poll: float) -> list[float]:
    """Lags in milliseconds."""
    seen = 0
    lags: list[float] = []
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline:
        fresh = _tail(path, seen)
        now = time.monotonic_ns()
        for at in range(0, len(fresh), LINE):
            number, moment = fresh[at : at + LINE].split()
            if int(number) == -1:
                return lags
            lags.append((now - int(moment)) / 1e6)
        if fresh:
            seen += len(fresh)
            deadline = time.monotonic() + patience
        time.sleep(poll)
    raise SystemExit(f"the replica stands still at byte {seen} of {path}")


def _tail(path: str, seen: int) -> bytes:
    """Whole lines behind those that were seen."""
    try:
        fd = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return b""
    try:
        size = os.fstat(fd).st_size
        whole = (size - seen) // LINE * LINE
        return os.pread(fd, whole, seen) if whole > 0 else b""
    finally:
        os.close(fd)


if __name__ == "__main__":
    if sys.argv[1] == "write":
        write(sys.argv[2], float(sys.argv[3]), float(sys.argv[4]))
    else:
        print(json.dumps(watch(sys.argv[2], float(sys.argv[3]), float(sys.argv[4]))))
