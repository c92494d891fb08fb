"""What an operation costs when there are many files, and an append when there is a long queue."""

from __future__ import annotations

import signal
from pathlib import Path

from doppelfs import Doppelfs, Protected, Target
from machine import settle
from processes import BenchError, run
from results import Results
from scratch import Scratch, remove_tree, unmount
from workloads import Material

PER_DIRECTORY = 1000
APPENDS = 2000
STEPS = 6
BLOCK = 4096


class Scale:
    """Costs by size, native beside doppelfs."""

    def __init__(self, program: Doppelfs, material: Material, scratch: Scratch, results: Results):
        self.program, self.material, self.scratch, self.results = program, material, scratch, results

    def run(self, only: set[str]) -> None:
        """`files` and `backlog`, as far as `only` names them."""
        if not only or "scale-files" in only:
            for count in self.material.sizes.scale_files:
                self._guarded(f"{count} files", lambda tree: self._files(tree, count))
        if not only or "scale-backlog" in only:
            self._guarded("backlog", self._backlog)

    def _guarded(self, what: str, action) -> None:
        tree = self.scratch.source / "scale"
        try:
            tree.mkdir()
            action(tree)
        except BenchError as error:
            self.results.fail(f"scale: {what}", str(error))
        finally:
            unmount(tree)
            remove_tree(tree)
            remove_tree(self.scratch.source / "state-scale")
            remove_tree(self.scratch.target / "scale")

    def _files(self, tree: Path, count: int) -> None:
        tool = self.material.tree_tool
        run([tool, "make", tree, str(count), "0", str(PER_DIRECTORY)], seconds=7200)
        settle()
        protected = Protected(self.program, "scale", tree, self.scratch.source / "state-scale", None, "strict")
        for system in ("native", "doppelfs"):
            if system == "doppelfs":
                protected.mount()
            try:
                # The first pass brings names into memory, as they are where a program is at work.
                for seed in (1, 2):
                    ops = str(self.material.sizes.scale_ops)
                    said = run([tool, "ops", tree, str(count), str(PER_DIRECTORY), ops, str(seed)]).stdout
                    run(["sh", "-c", 'rm -f "$1"/d*/new*', "sh", tree])
                    settle()
            finally:
                protected.umount()
            for line in said.splitlines():
                name, cost = line.split()
                self.results.add("scale", name, system, float(cost), "us", kind="files", x=count)

    def _backlog(self, tree: Path) -> None:
        """The target is gone; the queue grows in steps."""
        tool = self.material.tree_tool
        target = Target(self.program, "scale")
        protected = Protected(self.program, "scale", tree, self.scratch.source / "state-scale", target, "strict")
        try:
            protected.mount()
            protected.catch_up()
            target.stop(signal.SIGTERM)
            step = self.material.sizes.backlog_bytes // STEPS
            for number in range(STEPS + 1):
                if number:
                    run([tool, "append", tree / "filling", str(step // (1 << 19)), str(1 << 19)])
                    (tree / "filling").unlink()
                settle()
                taken = float(run([tool, "append", tree / "file", str(APPENDS), str(BLOCK)]).stdout)
                backlog = protected.status()["queue"]["bytes"]
                self.results.add(
                    "scale", "append", "doppelfs+target", taken / APPENDS * 1e6, "us", kind="backlog",
                    x=round(backlog / 2**20),
                )
        finally:
            protected.umount()
            target.stop()
