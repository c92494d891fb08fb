"""Reading and writing of one large file, by fio."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

from processes import BenchError, run
from workloads.kind import Group, Material, Workload


def make_file(path: Path, mebibytes: int, piece: int = 2**20) -> None:
    """A file of random bytes, written in such pieces and on disk. The pieces matter: ext4 keeps large ones in large folios of
    the page cache, and a small write into one of these costs it many times as much."""
    with path.open("wb", buffering=0) as file:
        for _ in range(mebibytes):
            block = memoryview(os.urandom(2**20))
            for at in range(0, 2**20, piece):
                file.write(block[at : at + piece])
        os.fsync(file.fileno())


class Fio:
    """fio on one file for a fixed time."""

    def __init__(self, material: Material):
        self.sizes = material.sizes

    def prepare(self, below: Path) -> None:
        """The file that all jobs use, with every block written."""
        make_file(below / "file", self.sizes.file_mib)

    def prepare_random(self, below: Path) -> None:
        """One that was written in small pieces, as databases do, and one in large ones, as copies are."""
        make_file(below / "file", self.sizes.file_mib, 4096)
        make_file(below / "copied", self.sizes.file_mib)

    def job(self, place: Path, kind: str, block: str, *more: str, name: str = "file") -> dict:
        """Runs one job; the result of its only group."""
        side = "read" if kind.endswith("read") else "write"
        words = [
            "fio",
            "--name=job",
            f"--filename={place / name}",
            f"--size={self.sizes.file_mib}m",
            f"--rw={kind}",
            f"--bs={block}",
            "--ioengine=psync",
            "--direct=0",
            "--time_based=1",
            f"--runtime={self.sizes.seconds}",
            "--invalidate=0",
            "--overwrite=1",
            "--fallocate=none",
            "--norandommap=1",
            "--randseed=7",
            "--group_reporting=1",
            "--output-format=json",
            *more,
        ]
        said = run(words, seconds=300, cwd=place).stdout
        jobs = json.loads(said[said.index("{") :])["jobs"]
        if jobs[0]["error"] != 0:
            raise BenchError(f"fio: error {jobs[0]['error']} in {kind} {block}")
        return jobs[0][side]

    def bandwidth(self, kind: str, block: str, *more: str):
        """A measurement of MB/s."""
        return lambda place: self.job(place, kind, block, *more)["bw_bytes"] / 1e6

    def rate(self, kind: str, block: str, *more: str, name: str = "file"):
        """A measurement of operations a second."""
        return lambda place: self.job(place, kind, block, *more, name=name)["iops"]


def read_through(place: Path) -> float:
    """MB/s of reading the file once, from its beginning to its end."""
    began = time.monotonic()
    total = 0
    with (place / "file").open("rb", buffering=0) as file:
        while data := file.read(2**20):
            total += len(data)
    return total / 1e6 / (time.monotonic() - began)


def write_only(seconds: float):
    """A measurement of MB/s of a program that opens the file for writing alone, as cp, dd and tar do."""

    def measure(place: Path) -> float:
        path = place / "file"
        size, block = path.stat().st_size, os.urandom(2**20)
        total, began = 0, time.monotonic()
        descriptor = os.open(path, os.O_WRONLY)
        try:
            while time.monotonic() - began < seconds:
                total += os.pwrite(descriptor, block, total % size)
            return total / 1e6 / (time.monotonic() - began)
        finally:
            os.close(descriptor)

    return measure


def groups(material: Material) -> list[Group]:
    """Writes and reads each have files of their own, so that reads do not find what writes left in memory."""
    fio = Fio(material)
    writes = [
        Workload("seq-write-1m", "sequential write 1 MiB", "MB/s", "higher", fio.bandwidth("write", "1m")),
        Workload(
            "seq-write-1m-wronly",
            "sequential write 1 MiB, opened for writing alone",
            "MB/s",
            "higher",
            write_only(material.sizes.seconds),
        ),
        Workload("seq-write-4k", "sequential write 4 KiB", "writes/s", "higher", fio.rate("write", "4k")),
    ]
    random_writes = [
        Workload("rand-write-4k", "random write 4 KiB", "writes/s", "higher", fio.rate("randwrite", "4k")),
        Workload(
            "rand-write-4k-copied",
            "random write 4 KiB into a file that was written in large pieces",
            "writes/s",
            "higher",
            fio.rate("randwrite", "4k", name="copied"),
        ),
        Workload(
            "rand-write-4k-4jobs",
            "random write 4 KiB, 4 jobs",
            "writes/s",
            "higher",
            fio.rate("randwrite", "4k", "--numjobs=4"),
        ),
        Workload(
            "rand-write-4k-fdatasync",
            "random write 4 KiB + fdatasync",
            "writes/s",
            "higher",
            fio.rate("randwrite", "4k", "--fdatasync=1"),
        ),
    ]
    reads = [
        Workload("seq-read-cold", "sequential read 1 MiB, cold", "MB/s", "higher", read_through, cold=True),
        Workload("seq-read-warm", "sequential read 1 MiB, warm", "MB/s", "higher", fio.bandwidth("read", "1m")),
        Workload(
            "rand-read-4k-warm", "random read 4 KiB, warm", "reads/s", "higher", fio.rate("randread", "4k")
        ),
        Workload(
            "rand-read-4k-cold",
            "random read 4 KiB, cold",
            "reads/s",
            "higher",
            fio.rate("randread", "4k"),
            cold=True,
        ),
    ]
    return [
        Group("sequential-writes", writes, fio.prepare),
        Group("random-writes", random_writes, fio.prepare_random),
        Group("reads", reads, fio.prepare),
    ]
