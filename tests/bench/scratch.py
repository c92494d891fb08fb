"""Two file systems of their own on image files: one for the source and all its peers, one for the target."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Callable

from processes import BenchError, run


class Scratch:
    """A directory with two mounted images, and a list of what has to be undone at the end, the last first."""

    def __init__(self, parent: Path, source_bytes: int, target_bytes: int, inodes: int | None):
        self.base = Path(tempfile.mkdtemp(prefix="doppelfs-bench.", dir=parent))
        self.base.chmod(0o755)
        self._undo: list[Callable[[], None]] = [lambda: shutil.rmtree(self.base, ignore_errors=True)]
        try:
            self.bin = self._directory("bin")
            self.logs = self._directory("logs")
            self.sockets = self._directory("run")
            self.sockets.chmod(0o755)
            self.source = self._image("source", source_bytes, inodes)
            self.target = self._image("target", target_bytes, inodes)
        except BaseException:
            self.close()
            raise

    def _directory(self, name: str) -> Path:
        path = self.base / name
        path.mkdir()
        return path

    def _image(self, name: str, size: int, inodes: int | None) -> Path:
        image = self.base / f"{name}.img"
        with image.open("wb") as file:
            file.truncate(size)
        inode_count = ["-N", str(inodes)] if inodes else []
        run(["mkfs.ext4", "-q", "-F", "-m", "0", *inode_count, image])
        device = self._attach(image)
        mounted = self._directory(name)
        try:
            # The kernel would go on writing inode tables for minutes, beside what is measured.
            run(["mount", "-o", "noinit_itable", device, mounted])
        finally:
            # In use, it is only marked: it goes with its mount, however that ends.
            run(["losetup", "-d", device], accept=(0, 1))
        self.at_end(lambda: unmount(mounted))
        return mounted

    @staticmethod
    def _attach(image: Path) -> str:
        for direct in (["--direct-io=on"], []):
            # Without direct I/O everything is in memory twice, and half of it is never cold.
            made = run(["losetup", "--find", "--show", *direct, image], accept=(0, 1))
            if made.returncode == 0:
                return made.stdout.strip()
        raise BenchError(f"no loop device for {image}: {made.stderr.strip()}")

    def at_end(self, action: Callable[[], None]) -> Callable[[], None]:
        """Registers what is to be undone at the end; returns it."""
        self._undo.append(action)
        return action

    def undo(self, action: Callable[[], None]) -> None:
        """Undoes one thing now."""
        if action in self._undo:
            self._undo.remove(action)
            action()

    def close(self) -> list[str]:
        """Undoes everything. Returns what did not work."""
        wrong = []
        while self._undo:
            try:
                self._undo.pop()()
            except Exception as error:  # what comes after it has to be undone all the same
                wrong.append(str(error))
        return wrong


def is_mounted(path: Path) -> bool:
    """Is there a mount at exactly this place?"""
    wanted = str(path)
    with open("/proc/self/mountinfo") as lines:
        return any(line.split()[4] == wanted for line in lines)


def unmount(path: Path) -> None:
    """Unmounts whatever is mounted there; lazily, when it is in use."""
    for _ in range(4):
        if not is_mounted(path):
            return
        if run(["umount", path], seconds=120, accept=(0, 1, 32)).returncode != 0:
            run(["umount", "-l", path], accept=(0, 1, 32))


def remove_tree(path: Path) -> None:
    """Removes a tree without leaving its file system."""
    if path.exists():
        run(["rm", "-rf", "--one-file-system", path])
