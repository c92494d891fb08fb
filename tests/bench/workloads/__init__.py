"""The file workloads: each returns one number with a unit."""

from __future__ import annotations

from workloads import content, programs, trees
from workloads.kind import Group, Material, Sizes, Workload

__all__ = ["Group", "Material", "Sizes", "Workload", "all_groups"]


def all_groups(material: Material) -> list[Group]:
    """Every group, in the order in which they run. Workloads of a group share a directory and a mount."""
    return [*content.groups(material), *trees.groups(material), *programs.groups(material)]
