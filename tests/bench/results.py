"""What was measured, kept as it comes in and written to disk at the end, also at a bad one."""

from __future__ import annotations

import json
import statistics
from dataclasses import asdict, dataclass, field
from pathlib import Path


@dataclass
class Sample:
    """One number of one system in one round."""

    part: str
    name: str
    title: str
    system: str
    round: int
    value: float
    unit: str
    better: str
    more: dict = field(default_factory=dict)
    """Catch-up time, memory and CPU of the daemons, and what else belongs to it."""


@dataclass
class Results:
    """Everything of one run."""

    machine: dict = field(default_factory=dict)
    samples: list[Sample] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)
    """What was left out, with the reason."""
    failures: list[str] = field(default_factory=list)

    def add(
        self,
        part: str,
        name: str,
        system: str,
        value: float,
        unit: str,
        *,
        title: str = "",
        better: str = "lower",
        round: int = 0,
        **more,
    ) -> None:
        """Keeps a sample and shows it."""
        self.samples.append(Sample(part, name, title or name, system, round, value, unit, better, more))
        print(f"  {part:12} {name:32} {system:24} {value:14,.3f} {unit}", flush=True)

    def skip(self, what: str, why: str) -> None:
        """Notes, once, that something is left out."""
        if what not in self.skipped:
            self.skipped[what] = why
            print(f"  SKIPPED {what}: {why}", flush=True)

    def fail(self, what: str, why: str) -> None:
        """Notes that something went wrong: the run goes on and ends with 1."""
        self.failures.append(f"{what}: {why}")
        print(f"  FAILED {what}: {why}", flush=True)

    def of(self, name: str, system: str) -> list[Sample]:
        """The samples of a workload and a system."""
        return [sample for sample in self.samples if sample.name == name and sample.system == system]

    def median(self, name: str, system: str) -> float | None:
        """The median over the rounds."""
        values = [sample.value for sample in self.of(name, system)]
        return statistics.median(values) if values else None

    def ratios(self, name: str, system: str, base: str = "native") -> list[float]:
        """Speed against `base`, each from one round: more than 1 is faster, whatever the unit."""
        bases = {sample.round: sample for sample in self.of(name, base)}
        found = []
        for sample in self.of(name, system):
            other = bases.get(sample.round)
            if other is None or other.value <= 0 or sample.value <= 0:
                continue
            faster = sample.better == "higher"
            found.append(sample.value / other.value if faster else other.value / sample.value)
        return found

    def ratio(self, name: str, system: str, base: str = "native") -> float | None:
        """The median of these."""
        found = self.ratios(name, system, base)
        return statistics.median(found) if found else None

    def names(self, part: str) -> list[tuple[str, str, str]]:
        """Name, title and unit of what was measured in a part, in order."""
        seen: dict[str, tuple[str, str, str]] = {}
        for sample in self.samples:
            if sample.part == part:
                seen.setdefault(sample.name, (sample.name, sample.title, sample.unit))
        return list(seen.values())

    def systems(self, part: str) -> list[str]:
        """Who was measured in a part, in order of appearance in the first round."""
        return list(dict.fromkeys(sample.system for sample in self.samples if sample.part == part))

    def write(self, path: Path) -> None:
        """As JSON."""
        whole = {
            "version": 1,
            "machine": self.machine,
            "skipped": self.skipped,
            "failures": self.failures,
            "samples": [asdict(sample) for sample in self.samples],
        }
        path.write_text(json.dumps(whole, indent=1) + "\n")
