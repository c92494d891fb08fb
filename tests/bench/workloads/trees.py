"""Many small files: untar, find, stat, create, remove."""

from __future__ import annotations

import io
import random
import tarfile
from pathlib import Path

from processes import run, timed
from workloads.kind import Group, Material, Workload

PER_DIRECTORY = 100


def make_tar(path: Path, files: int, mebibytes: int) -> None:
    """A tar of small files of different sizes, owners, modes and times: the same bytes each time."""
    source = random.Random(7)
    bytes_each = mebibytes * 2**20 // files
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:
        for number in range(files):
            if number % PER_DIRECTORY == 0:
                directory = tarfile.TarInfo(_directory(number))
                directory.type, directory.mode, directory.mtime = tarfile.DIRTYPE, 0o755, 1_700_000_000
                tar.addfile(directory)
            entry = tarfile.TarInfo(f"{_directory(number)}/file-{number}")
            entry.size = source.randrange(2 * bytes_each)
            entry.mode = source.choice((0o644, 0o640, 0o755))
            entry.uid, entry.gid = 1000 + number % 3, 1000 + number % 2
            entry.mtime = 1_700_000_000 + number
            tar.addfile(entry, io.BytesIO(source.randbytes(entry.size)))


def _directory(number: int) -> str:
    directory = number // PER_DIRECTORY
    return f"tree/part-{directory % 10}/dir-{directory}"


def make_tree(material: Material, below: Path, files: int, size: int = 1024) -> None:
    """Files of one size, 100 in a directory."""
    run([material.tree_tool, "make", below, str(files), str(size), str(PER_DIRECTORY)])


class Trees:
    """What is done with them."""

    def __init__(self, material: Material):
        self.material = material
        self.tar = material.directory / "small-files.tar"

    def have_tar(self, below: Path) -> None:
        """Makes the tar, once, and has it in memory."""
        sizes = self.material.sizes
        if not self.tar.exists():
            make_tar(self.tar, sizes.untar_files, sizes.untar_mib)
        self.tar.read_bytes()

    def shared_tree(self) -> Path:
        """The large tree, made once for all systems."""
        path = self.material.directory / "large-tree"
        if not path.exists():
            path.mkdir()
            make_tree(self.material, path, self.material.sizes.tree_files, 0)
        return path

    def untar(self, place: Path) -> float:
        """Seconds."""
        return timed(["tar", "-x", "--same-owner", "-p", "-f", self.tar, "-C", place])

    def find(self, place: Path) -> float:
        """Seconds."""
        return timed(["find", place, "-name", "no-such-file"])

    def stat(self, place: Path) -> float:
        """Seconds of find with the attributes of every file."""
        return timed(["find", place, "-size", "+1000000"])

    def remove(self, place: Path) -> float:
        """Seconds of `rm -r`."""
        return timed(["rm", "-r", place / "tree"])

    def create(self, place: Path) -> float:
        """Files a second."""
        count = self.material.sizes.create_files
        (place / "many").mkdir()
        words = [self.material.tree_tool, "make", place / "many", str(count), "0", str(count)]
        return count / float(run(words).stdout)

    def unlink(self, place: Path) -> float:
        """Files a second."""
        count = self.material.sizes.create_files
        words = [self.material.tree_tool, "unlink", place / "many", str(count), str(count)]
        return count / float(run(words).stdout)


def groups(material: Material) -> list[Group]:
    """One tree that is unpacked and removed, a larger one that is only looked at, and empty files."""
    trees = Trees(material)
    sizes = material.sizes
    untarred = [
        Workload("untar", f"untar {sizes.untar_files:,} files", "s", "lower", trees.untar),
        Workload("find-warm", "find in that tree, warm", "s", "lower", trees.find),
        Workload("rm", "rm -r of that tree", "s", "lower", trees.remove),
    ]
    large = [
        Workload("stat-cold", f"find + stat {sizes.tree_files:,} files, cold", "s", "lower", trees.stat, cold=True),
        Workload("stat-warm", f"find + stat {sizes.tree_files:,} files, warm", "s", "lower", trees.stat),
    ]
    empty = [
        Workload("create", "create empty files", "files/s", "higher", trees.create),
        Workload("unlink", "remove them", "files/s", "higher", trees.unlink),
    ]
    return [
        Group("untar", untarred, trees.have_tar),
        Group("large-tree", large, shared=trees.shared_tree),
        Group("create", empty),
    ]
