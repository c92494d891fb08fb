"""The benchmark's driver; `scripts/bench` starts it. See docs/performance.md."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from pathlib import Path

import files
import machine
import report
from doppelfs import Doppelfs
from lag import Lag
from processes import BenchError, end_all_children, isolate
from replication import Replication
from results import Results
from scale import Scale
from scratch import Scratch
from systems import all_systems
from tools import build_passthrough_hp, have_tools
from workloads import Material, Sizes, all_groups
from workloads.kind import quick_sizes

PARTS = ("files", "replication", "lag", "scale")


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="scripts/bench", description="Measures doppelfs, as ratios within one run.")
    parser.add_argument("parts", nargs="*", help=f"of {', '.join(PARTS)}; all by default")
    parser.add_argument("--binary", type=Path, required=True, help="the release build of doppelfs")
    parser.add_argument("--uncaptured", type=Path, help="PROGRAM DIR MOUNTPOINT: the mount without capture")
    parser.add_argument("--passthrough-hp", type=Path, help="a build of libfuse's example; else it is built")
    parser.add_argument("--rounds", type=int, default=None, help="how often everything is measured (3)")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, one round, no slow programs: does it work?")
    parser.add_argument("--only", default="", metavar="NAME,...", help="workloads, groups or cases")
    parser.add_argument("--systems", default="", metavar="NAME,...", help="only these; native is always there")
    parser.add_argument("--out", type=Path, default=Path("target/bench"), help="where results go")
    parser.add_argument("--cache", type=Path, default=Path("target/bench-tools"), help="where built peers are kept")
    parser.add_argument("--scratch", type=Path, default=Path("/var/tmp"), help="where the images are made")
    parser.add_argument("--image-gib", type=int, default=32, help="size of each image, sparse")
    parser.add_argument("--seconds", type=float, help="how long a rate is measured")
    parser.add_argument("--file-mib", type=int, help="the file of reads and writes")
    parser.add_argument("--copy-mib", type=int, help="the large file of initial copies; another of twice that size")
    parser.add_argument("--backlog-bytes", type=int, help="how much queue the append costs are measured with")
    parser.add_argument("--huge", action="store_true", help="scale: 10,000,000 files, too")
    given = parser.parse_args()
    wrong = set(given.parts) - {*PARTS, "all"}
    if wrong:
        parser.error(f"unknown part {', '.join(sorted(wrong))}")
    if not given.parts or "all" in given.parts:
        given.parts = list(PARTS)
    return given


def sizes_of(given: argparse.Namespace) -> Sizes:
    """The sizes asked for."""
    sizes = quick_sizes() if given.quick else Sizes()
    for name in ("seconds", "file_mib", "copy_mib", "backlog_bytes"):
        if getattr(given, name) is not None:
            setattr(sizes, name, getattr(given, name))
    if given.copy_mib is not None:
        sizes.copy_large_mib = 2 * given.copy_mib
    if given.huge:
        sizes.scale_files.append(10_000_000)
    return sizes


def measure(given: argparse.Namespace, scratch: Scratch, results: Results, hp: Path | str) -> None:
    """Does all parts that are asked for."""
    rounds = given.rounds or (1 if given.quick else 3)
    binary = given.binary.resolve()
    uncaptured = given.uncaptured.resolve() if given.uncaptured else None
    tools = have_tools(binary, uncaptured, hp, scratch)
    directory = scratch.source / "material"
    directory.mkdir()
    material = Material(sizes_of(given), directory, scratch.base, tools.tree_tool, Path(__file__).resolve().parent)
    only = set(filter(None, given.only.split(",")))
    wanted = set(filter(None, given.systems.split(",")))
    results.machine |= machine.facts(binary, given.scratch) | {"rounds": rounds, "sizes": vars(material.sizes)}
    if "files" in given.parts:
        systems = [s for s in all_systems(tools, scratch) if not wanted or s.name in wanted or s.name == "native"]
        groups = [g for g in all_groups(material) if only or not (given.quick and g.slow)]
        files.run_files(groups, systems, scratch, results, rounds, only)
    program = Doppelfs(binary, scratch)
    if "lag" in given.parts:
        Lag(program, material, scratch, results).run(rounds)
    if "replication" in given.parts:
        Replication(program, material, scratch, results).run(rounds, only)
    if "scale" in given.parts:
        Scale(program, material, scratch, results).run(only)


def main() -> int:
    """0: measured; 1: something failed or a replica differed; 2: it could not run; 130: interrupted."""
    given = arguments()
    given.out.mkdir(parents=True, exist_ok=True)

    def interrupted(number: int, _frame: object) -> None:
        raise KeyboardInterrupt(f"signal {number}")

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, interrupted)
    results = Results()
    code = 0
    # Before isolation, which takes the network away.
    wants_hp = "files" in given.parts and (not given.systems or "hp" in given.systems)
    hp = given.passthrough_hp or (build_passthrough_hp(given.cache.resolve()) if wants_hp else "not asked for")
    for lack in isolate():
        results.skip("isolation", lack)
    scratch = None
    try:
        inodes = 14_000_000 if given.huge else 2_500_000
        scratch = Scratch(given.scratch, given.image_gib * 2**30, given.image_gib * 2**30, inodes)
        measure(given, scratch, results, hp)
    except KeyboardInterrupt:
        code = 130
    except BenchError as error:
        results.fail("the run", str(error))
        code = 2
    finally:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        end_all_children()
        for wrong in scratch.close() if scratch else []:
            results.fail("cleaning up", wrong)
    report.write(results, given.out)
    if code == 0 and results.failures:
        code = 1
    return code


if __name__ == "__main__":
    os.umask(0o022)
    sys.exit(main())
