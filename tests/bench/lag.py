"""How far the replica is behind under half of the load that it can bear, from inside and from outside."""

from __future__ import annotations

import json
import os
import random
import sys
import time
from pathlib import Path

from doppelfs import Doppelfs
from machine import settle
from processes import Background, BenchError
from replication import percentiles, watch_lag
from results import Results
from rivals import DoppelfsRival
from scratch import Scratch, remove_tree
from workloads import Material
from workloads.content import make_file

PROBES_PER_SECOND = 200
BLOCK = 4096

WORDS = {
    "outside": "of a line that a reader waits for",
    "counted": "as it counts from capture to applied",
    "oldest": "age of the oldest pending when asked",
}


class Lag:
    """Appends and random writes of 4 KiB."""

    def __init__(self, program: Doppelfs, material: Material, scratch: Scratch, results: Results):
        self.program, self.material, self.scratch, self.results = program, material, scratch, results

    def run(self, rounds: int) -> None:
        """Both kinds of load, each round."""
        for number in range(rounds):
            for kind in ("append", "random"):
                source = self.scratch.source / f"lag-{kind}-{number}"
                try:
                    source.mkdir()
                    self._one(kind, number, source)
                except BenchError as error:
                    self.results.fail(f"lag under {kind} writes", str(error))
                finally:
                    remove_tree(source)

    def _one(self, kind: str, number: int, source: Path) -> None:
        make_file(source / "file", self.material.sizes.file_mib)
        rival = DoppelfsRival(self.program, f"lag-{kind}-{number}", source)
        try:
            rival.follow()
            settle()
            sustained = self._sustained(rival, kind, source)
            rival.protected.begin_counting()
            inside: list[float] = []
            seconds = self.material.sizes.lag_seconds
            load = self._load(kind, source, sustained / 2, seconds + 2)

            def look() -> None:
                inside.append(rival.protected.connection()["lags"]["applied"]["seconds"] * 1000)

            try:
                outside = watch_lag(
                    self.material, source / "probe", rival.replica / "probe", PROBES_PER_SECOND, seconds, look
                )
            finally:
                load.stop()
            counted = rival.protected.latency()
            rival.prove()
        finally:
            rival.close()
        add = self.results.add
        what = f"4 KiB {kind} writes"
        add("lag", f"sustained-{kind}", rival.name, sustained, "writes/s", title=f"{what}, sustained with the replica",
            better="higher", round=number)
        sides = (("outside", percentiles(outside)), ("counted", counted), ("oldest", percentiles(inside)))
        for side, lags in sides:
            for name, value in lags.items():
                title = f"lag at half of that, {kind}, {WORDS[side]}, {name}"
                add("lag", f"lag-{side}-{kind}-{name}", rival.name, value, "ms", title=title, round=number)
                if side == "outside" and kind == "append" and name != "max":
                    add("lag", f"lag-outside-{name}", rival.name, value, "ms", title=f"the goal's lag, {name}",
                        round=number)

    def _sustained(self, rival: DoppelfsRival, kind: str, source: Path) -> float:
        """Writes a second with the time that the replica needs to catch up counted in."""
        seconds = max(1.0, self.material.sizes.seconds * 2)
        began = time.monotonic()
        load = self._load(kind, source, 0, seconds)
        load.wait(seconds + 120)
        rival.catch_up()
        written = int(json.loads(load.log.read_text()))
        return written / (time.monotonic() - began)

    def _load(self, kind: str, source: Path, per_second: float, seconds: float) -> Background:
        log = self.scratch.logs / f"load-{time.monotonic_ns()}.log"
        words = [sys.executable, self.material.here / "lag.py", kind, source / "file", str(per_second), str(seconds)]
        return Background(words, log)


def write(kind: str, path: str, per_second: float, seconds: float) -> int:
    """Writes 4 KiB at a steady pace, or (0) as fast as it can; the number of writes."""
    data = os.urandom(1 << 20)
    source = random.Random(5)
    size = os.stat(path).st_size
    fd = os.open(path, os.O_WRONLY | (os.O_APPEND if kind == "append" else 0))
    began = time.monotonic()
    count = 0
    while (now := time.monotonic()) < began + seconds:
        if per_second and now < began + count / per_second:
            time.sleep(began + count / per_second - now)
        at = source.randrange(len(data) - BLOCK)
        block = data[at : at + BLOCK]
        if kind == "append":
            os.write(fd, block)
        else:
            os.pwrite(fd, block, source.randrange(size // BLOCK) * BLOCK)
        count += 1
    os.close(fd)
    return count


if __name__ == "__main__":
    print(write(sys.argv[1], sys.argv[2], float(sys.argv[3]), float(sys.argv[4])))
