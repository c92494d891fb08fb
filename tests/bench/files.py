"""File workloads over all systems. Systems take turns at every group of workloads, in another order each round, so that
what is compared was measured within a minute or two."""

from __future__ import annotations

from pathlib import Path
from typing import Sequence

from machine import drop_caches, settle
from processes import BenchError, Unavailable, Usage
from results import Results
from scratch import Scratch
from systems import Place, System, closed, opened
from workloads import Group, Workload


def run_files(
    groups: Sequence[Group],
    systems: Sequence[System],
    scratch: Scratch,
    results: Results,
    rounds: int,
    only: set[str],
) -> None:
    """Measures everything. `only` names workloads or groups; empty: all."""
    for number in range(rounds):
        turn = number % len(systems)
        order = [*systems[turn:], *systems[:turn]]
        for group in groups:
            chosen = [w for w in group.workloads if not only or {w.name, group.name} & only]
            if not chosen:
                continue
            why = group.lack()
            if why:
                results.skip(group.name, why)
                continue
            # What comes before a chosen workload makes what that one needs.
            needed = group.workloads[: group.workloads.index(chosen[-1]) + 1]
            for system in order:
                _turn(group, needed, set(w.name for w in chosen), system, scratch, results, number)


def _turn(
    group: Group,
    workloads: Sequence[Workload],
    counted: set[str],
    system: System,
    scratch: Scratch,
    results: Results,
    number: int,
) -> None:
    """One system's turn at one group."""
    tag = f"{system.name}-{group.name}-{number}".replace("+", "-")
    what = f"{group.name} on {system.name}"

    def blame(error: BenchError) -> None:
        """What others cannot do is told, and no failure of ours."""
        if system.name == "native" or system.name.startswith("doppelfs"):
            results.fail(what, str(error))
        else:
            results.skip(what, str(error).splitlines()[0])

    try:
        place = opened(system, scratch, tag, group)
    except Unavailable as unavailable:
        results.skip(system.name, str(unavailable))
        return
    except BenchError as error:
        blame(error)
        return
    sound = False
    try:
        for workload in workloads:
            _measure(workload, place, system, results, number, workload.name in counted)
        sound = True
    except BenchError as error:
        blame(error)
    finally:
        try:
            closed(place, sound, keep=group.shared is not None)
        except BenchError as error:
            blame(error)


def _measure(
    workload: Workload, place: Place, system: System, results: Results, number: int, counted: bool
) -> None:
    settle()
    if workload.cold:
        drop_caches()
    usage = Usage(place.pids())
    value = workload.measure(Path(place.path))
    caught_up = place.catch_up()
    more: dict = {"processes": usage.end()}
    if caught_up is not None:
        more["catch_up_seconds"] = caught_up
    if counted:
        results.add(
            "files",
            workload.name,
            system.name,
            value,
            workload.unit,
            title=workload.title,
            better=workload.better,
            round=number,
            **more,
        )
