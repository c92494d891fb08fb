"""What a workload is."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Callable, Literal


@dataclass
class Sizes:
    """How much of everything; small for a smoke test."""

    seconds: float = 2.0
    """How long a rate is measured."""
    file_mib: int = 256
    """The file for content workloads."""
    untar_files: int = 15_000
    untar_mib: int = 65
    tree_files: int = 100_000
    create_files: int = 20_000
    git_files: int = 4_000
    crates: int = 8
    program_seconds: int = 10
    """dbench and pgbench."""
    copy_few: int = 15_000
    copy_many: int = 100_000
    copy_mib: int = 2048
    copy_large_mib: int = 4096
    append_seconds: int = 20
    renamed_files: int = 10_000
    snapshots: int = 6
    lag_seconds: int = 20
    scale_files: list[int] = field(default_factory=lambda: [1_000, 10_000, 100_000, 1_000_000])
    scale_ops: int = 2_000
    backlog_bytes: int = 2 * 2**30


def quick_sizes() -> Sizes:
    """So little that everything runs in a minute or two; the numbers say nothing."""
    return Sizes(
        seconds=0.3,
        file_mib=32,
        untar_files=600,
        untar_mib=3,
        tree_files=2_000,
        create_files=500,
        git_files=200,
        crates=2,
        program_seconds=2,
        copy_few=500,
        copy_many=1_500,
        copy_mib=32,
        copy_large_mib=64,
        append_seconds=2,
        renamed_files=500,
        snapshots=2,
        lag_seconds=2,
        scale_files=[500, 2_000],
        scale_ops=200,
        backlog_bytes=32 * 2**20,
    )


@dataclass
class Material:
    """What is made once, before anything is measured, and where it is."""

    sizes: Sizes
    directory: Path
    """On the source image, beside the trees that are measured."""
    scratch: Path
    """For scripts, sockets and logs, on no image."""
    tree_tool: Path
    here: Path
    """The directory of these modules."""


@dataclass(frozen=True)
class Workload:
    """Something to do in a directory."""

    name: str
    title: str
    unit: str
    better: Literal["higher", "lower"]
    measure: Callable[[Path], float]
    cold: bool = False
    """Are caches dropped before it?"""


@dataclass(frozen=True)
class Group:
    """Workloads that follow one another in one directory."""

    name: str
    workloads: list[Workload]
    prepare: Callable[[Path], None] = lambda below: None
    """Makes files below, before the directory is served."""
    lack: Callable[[], str | None] = lambda: None
    """Why it cannot be measured here."""
    slow: bool = False
    """Left out of a smoke test, unless it is named."""
    shared: Callable[[], Path] | None = None
    """Instead of a fresh directory, one that all systems read; made at the first call."""
