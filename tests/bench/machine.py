"""What the numbers were measured on, and the page cache."""

from __future__ import annotations

import os
import platform
import re
import shutil
import time
from pathlib import Path

from processes import BenchError, run


def drop_caches() -> None:
    """Forgets clean pages, directory entries and inodes. Dirty ones are written first."""
    os.sync()
    Path("/proc/sys/vm/drop_caches").write_text("3")


def settle() -> None:
    """Writes everything back, so that no measurement pays for what was before it."""
    os.sync()


def facts(binary: Path | None, scratch: Path) -> dict[str, object]:
    """Machine, kernel, versions."""
    return {
        "time": time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime()),
        "kernel": platform.release(),
        "distribution": _distribution(),
        "cpu": _first(r"^model name\s*:\s*(.*)$", Path("/proc/cpuinfo")),
        "cpus": len(os.sched_getaffinity(0)),
        "memory_mib": int(_first(r"^MemTotal:\s*(\d+)", Path("/proc/meminfo")) or 0) // 1024,
        "scratch_file_system": _file_system(scratch),
        "load_before": os.getloadavg()[0],
        "versions": _versions(binary),
    }


def _first(pattern: str, path: Path) -> str:
    found = re.search(pattern, path.read_text(errors="replace"), re.MULTILINE)
    return found.group(1) if found else ""


def _distribution() -> str:
    try:
        return _first(r'^PRETTY_NAME="?([^"\n]*)', Path("/etc/os-release"))
    except OSError:
        return "unknown"


def _file_system(path: Path) -> str:
    return run(["stat", "-f", "-c", "%T", path]).stdout.strip()


def _versions(binary: Path | None) -> dict[str, str]:
    asked: dict[str, list[str]] = {
        "fio": ["fio", "--version"],
        "bindfs": ["bindfs", "--version"],
        "rsync": ["rsync", "--version"],
        "lsyncd": ["lsyncd", "--version"],
        "git": ["git", "--version"],
        "cargo": ["cargo", "--version"],
        "sqlite3": ["sqlite3", "--version"],
        "python": ["python3", "--version"],
    }
    if binary is not None:
        asked["doppelfs"] = [str(binary), "--version"]
    found = {}
    for name, words in asked.items():
        if shutil.which(words[0]) is None:
            found[name] = "absent"
            continue
        try:
            said = run(words, accept=range(256)).stdout.strip().splitlines()
        except BenchError as error:
            said = [str(error)]
        found[name] = said[0][:80] if said else "?"
    return found
