"""What doppelfs is to reach, and whether it does."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from results import Results

STRICT = "doppelfs+target"
RELAXED = "doppelfs-relaxed+target"
PLAIN = "doppelfs"


@dataclass(frozen=True)
class Goal:
    """A number and its bound."""

    what: str
    bound: float
    side: Literal[">=", "<=", "<", ">"]
    unit: str
    reached: float | None

    def is_met(self) -> bool:
        """Is the bound kept?"""
        value = self.reached if self.reached is not None else float("nan")
        return {
            ">=": value >= self.bound,
            "<=": value <= self.bound,
            "<": value < self.bound,
            ">": value > self.bound,
        }[self.side]

    def wanted(self) -> str:
        """The bound, as text."""
        return f"{self.side} {self.bound:g}{self.unit}"

    def text(self) -> str:
        """What was reached, as text."""
        return f"{self.reached:.3g}{self.unit}"


def goals(results: Results) -> list[Goal]:
    """All of them; those that were not measured, too."""
    ratio = results.ratio
    untar = ratio("untar", STRICT)
    return [
        Goal("sequential write 1 MiB, against native", 0.75, ">=", "", ratio("seq-write-1m", STRICT)),
        Goal(
            "the same, opened for writing alone, against native",
            0.75,
            ">=",
            "",
            ratio("seq-write-1m-wronly", STRICT),
        ),
        Goal("random write 4 KiB, strict, against native", 0.14, ">=", "", ratio("rand-write-4k", STRICT)),
        Goal(
            "the same against passthrough_hp without passthrough",
            1.3,
            ">=",
            "",
            ratio("rand-write-4k", STRICT, "hp-nopassthrough"),
        ),
        Goal("random write 4 KiB, relaxed, against native", 0.5, ">=", "", ratio("rand-write-4k", RELAXED)),
        Goal("sequential write 4 KiB, relaxed, against native", 1.0, ">=", "", ratio("seq-write-4k", RELAXED)),
        Goal("random write 4 KiB + fdatasync, against native", 0.9, ">=", "", ratio("rand-write-4k-fdatasync", STRICT)),
        Goal("sequential read, warm, against native", 0.9, ">=", "", ratio("seq-read-warm", STRICT)),
        Goal("random read 4 KiB, warm, against native", 1.0, ">=", "", ratio("rand-read-4k-warm", STRICT)),
        Goal("untar takes so many times as long as native", 3.5, "<=", "", 1 / untar if untar else None),
        Goal("SQLite, an insert per transaction, against native", 0.8, ">=", "", ratio("sqlite-delete", STRICT)),
        Goal("capture costs of an operation, the dearest of file workloads", 25, "<=", " %", _capture_cost(results)),
        Goal("1 % of a large file rewritten: caught up", 0.5, "<", " s", results.median("rewrite-caught-up", STRICT)),
        Goal("directory renamed: the replica shows it", 0.1, "<", " s", results.median("rename-directory", STRICT)),
        Goal("copies of a database under load that are sound, rollback", 100, ">=", " %", _sound(results, "delete")),
        Goal("copies of a database under load that are sound, WAL", 100, ">=", " %", _sound(results, "wal")),
        Goal("lag, median", 20, "<=", " ms", results.median("lag-outside-p50", STRICT)),
        Goal("lag, 99th percentile", 200, "<=", " ms", results.median("lag-outside-p99", STRICT)),
        Goal("initial copy of many files: speed against rsync", 1.0, ">", "", rsync(results, "copy-many-cold")),
        Goal("initial copy of a large file: speed against rsync", 1.0, ">", "", rsync(results, "copy-large-cold")),
    ]


def rsync(results: Results, name: str) -> float | None:
    """How many times as fast as rsync doppelfs is, until what was copied is durable."""
    ours, theirs = results.median(name, STRICT), results.median(name, "rsync")
    return theirs / ours if ours and theirs else None


def _sound(results: Results, mode: str) -> float | None:
    return results.median(f"database-{mode}-sound", STRICT)


def _capture_cost(results: Results) -> float | None:
    """Percent of time that the capture adds to the workload which it slows down most."""
    found = [results.ratio(name, PLAIN, "doppelfs-uncaptured") for name, _, _ in results.names("files")]
    costs = [(1 / ratio - 1) * 100 for ratio in found if ratio]
    return max(costs) if costs else None
