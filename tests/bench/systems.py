"""The file systems that are compared: the native one, others that pass through, and doppelfs in its variants.

Each is opened anew for each group of workloads, on a fresh directory of the same source image.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Callable

from doppelfs import Doppelfs, Protected, Target
from processes import Background, BenchError, Unavailable, reap, wait_until
from scratch import Scratch, is_mounted, remove_tree, unmount
from workloads import Group


@dataclass
class Tools:
    """Where the programs are; None where this machine has not got one, with the reason in `lacks`."""

    doppelfs: Path
    bindfs: Path | None = None
    passthrough_hp: Path | None = None
    uncaptured: Path | None = None
    tree_tool: Path = Path()
    lacks: dict[str, str] = field(default_factory=dict)


class Place:
    """A directory that is served by a system."""

    def __init__(self, below: Path, path: Path):
        self.below = below
        """The directory on the source image."""
        self.path = path
        """Where programs work."""

    def catch_up(self) -> float | None:
        """Waits until the replica has everything; seconds, or None where there is no replica."""
        return None

    def pids(self) -> dict[str, int]:
        """The daemons that serve it."""
        return {}

    def close(self, prove: bool) -> None:
        """Ends the service; with `prove`, makes sure that a replica equals the source."""


class MountedPlace(Place):
    """A daemon of somebody else's that runs in the foreground."""

    def __init__(self, below: Path, path: Path, words: list[str | Path], log: Path):
        super().__init__(below, path)
        path.mkdir(exist_ok=True)
        self.daemon = Background(words, log)
        try:
            wait_until(lambda: is_mounted(path) or not self.daemon.alive(), f"{words[0]} mounts", 30)
            if not is_mounted(path):
                raise BenchError(f"{words[0]}: {self.daemon.said()}")
        except BaseException:
            self.close(False)
            raise

    def pids(self) -> dict[str, int]:
        return {"daemon": self.daemon.pid}

    def close(self, prove: bool) -> None:
        unmount(self.path)
        self.daemon.stop()
        if self.path.is_dir():
            self.path.rmdir()


class ProtectedPlace(Place):
    """doppelfs mounted over the directory."""

    def __init__(self, protected: Protected):
        super().__init__(protected.directory, protected.directory)
        self.protected = protected
        try:
            protected.mount()
            protected.catch_up()
        except BaseException:
            self.close(False)
            raise

    def catch_up(self) -> float | None:
        return self.protected.catch_up() if self.protected.target else None

    def pids(self) -> dict[str, int]:
        return self.protected.pids()

    def close(self, prove: bool) -> None:
        target = self.protected.target
        try:
            if prove and target is not None:
                self.protected.catch_up()
            self.protected.umount()
            if prove and target is not None:
                self.protected.program.compare(self.protected.directory, self.protected.replica)
        finally:
            if target is not None:
                target.stop()
                remove_tree(target.root.parent)
            remove_tree(self.protected.state)
            reap()


@dataclass(frozen=True)
class System:
    """A way to serve a directory."""

    name: str
    note: str
    serve: Callable[[Path, str], Place]
    lack: str | None = None
    """Why it cannot be measured here."""


def all_systems(tools: Tools, scratch: Scratch) -> list[System]:
    """Every system, those that are not there included. The first is what the others are measured by."""
    program = Doppelfs(tools.doppelfs, scratch)

    def peer(*words: str | Path | None) -> Callable[[Path, str], Place]:
        def serve(below: Path, tag: str) -> Place:
            path = scratch.base / f"mnt-{tag}"
            filled = [below if word == "{below}" else path if word == "{path}" else word for word in words]
            return MountedPlace(below, path, filled, scratch.logs / f"{tag}.log")

        return serve

    def protected(order: str, with_target: bool) -> Callable[[Path, str], Place]:
        def serve(below: Path, tag: str) -> Place:
            target = Target(program, tag) if with_target else None
            state = scratch.source / f"state-{tag}"
            return ProtectedPlace(Protected(program, tag, below, state, target, order))

        return serve

    lacks = tools.lacks
    hp = tools.passthrough_hp
    uncaptured = tools.uncaptured
    return [
        System("native", "ext4 itself", lambda below, tag: Place(below, below)),
        System("bindfs", "bindfs, defaults", peer(tools.bindfs, "-f", "{below}", "{path}"), lacks.get("bindfs")),
        System(
            "hp-nopassthrough",
            "passthrough_hp of libfuse, all data through the daemon",
            peer(hp, "--foreground", "--nopassthrough", "{below}", "{path}"),
            lacks.get("passthrough_hp"),
        ),
        System(
            "hp",
            "passthrough_hp of libfuse, defaults: the kernel passes data by the daemon where it can",
            peer(hp, "--foreground", "{below}", "{path}"),
            lacks.get("passthrough_hp"),
        ),
        System(
            "doppelfs-uncaptured",
            "the mount of doppelfs without capture",
            peer(uncaptured, "{below}", "{path}"),
            None if uncaptured else "no --uncaptured given",
        ),
        System("doppelfs", "doppelfs, strict order, no target", protected("strict", False)),
        System("doppelfs+target", "doppelfs, strict order, replicating", protected("strict", True)),
        System("doppelfs-relaxed+target", "doppelfs, relaxed order, replicating", protected("relaxed", True)),
    ]


def opened(system: System, scratch: Scratch, tag: str, group: Group) -> Place:
    """Serves a fresh directory with what a group needs in it, or the one that a group shares."""
    if system.lack:
        raise Unavailable(system.lack)
    if group.shared is not None:
        return system.serve(group.shared(), tag)
    below = scratch.source / f"tree-{tag}"
    below.mkdir(mode=0o755)
    try:
        group.prepare(below)
        return system.serve(below, tag)
    except BaseException:
        remove_tree(below)
        raise


def closed(place: Place, prove: bool, keep: bool) -> None:
    """Ends the service and, unless it is to be kept, removes the directory."""
    try:
        place.close(prove)
    finally:
        unmount(place.below)
        if not keep:
            remove_tree(place.below)
