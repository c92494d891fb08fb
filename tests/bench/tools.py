"""Programs that are built here because no package has them."""

from __future__ import annotations

import shutil
from pathlib import Path

from processes import BenchError, run
from scratch import Scratch
from systems import Tools

FUSE_DEFINITIONS = """#pragma once
#define PACKAGE_VERSION "3.17.2"
#define HAVE_FORK
#define HAVE_FSTATAT
#define HAVE_OPENAT
#define HAVE_READLINKAT
#define HAVE_PIPE2
#define HAVE_SPLICE
#define HAVE_VMSPLICE
#define HAVE_POSIX_FALLOCATE
#define HAVE_FDATASYNC
#define HAVE_UTIMENSAT
#define HAVE_COPY_FILE_RANGE
#define HAVE_FALLOCATE
#define HAVE_SETXATTR
#define HAVE_STRUCT_STAT_ST_ATIM
"""

FUSE_VERSION = """#pragma once
#define FUSE_MAJOR_VERSION 3
#define FUSE_MINOR_VERSION 17
#define FUSE_HOTFIX_VERSION 2
#define FUSE_RC_VERSION ""
"""

LIBRARY = (
    "fuse fuse_loop fuse_loop_mt fuse_lowlevel fuse_opt fuse_signals buffer cuse_lowlevel helper modules/subdir"
    " mount_util fuse_log compat util mount"
)


def have_tools(binary: Path, uncaptured: Path | None, hp: Path | str, scratch: Scratch) -> Tools:
    """Finds everything, and builds what is built quickly. `hp` is passthrough_hp, or why there is none."""
    here = Path(__file__).parent
    tools = Tools(doppelfs=binary, uncaptured=uncaptured, tree_tool=scratch.bin / "tree_tool")
    run(["cc", "-O2", "-Wall", "-o", tools.tree_tool, here / "tree_tool.c"])
    found = shutil.which("bindfs")
    tools.bindfs = Path(found) if found else None
    if found is None:
        tools.lacks["bindfs"] = "bindfs is not installed"
    if isinstance(hp, Path):
        tools.passthrough_hp = hp.resolve()
    else:
        tools.lacks["passthrough_hp"] = hp
    return tools


def build_passthrough_hp(cache: Path) -> Path | str:
    """libfuse's example, from Debian's source; kept in `cache`. In its stead, why it cannot be had."""
    out = cache / "passthrough_hp"
    if not out.exists():
        print("building passthrough_hp of libfuse", flush=True)
        try:
            _build_passthrough_hp(out)
        except BenchError as error:
            return f"not available: {str(error)[-300:]}"
    return out


def _build_passthrough_hp(out: Path) -> None:
    """From Debian's source package, by apt with lists of its own: nothing of the system's configuration is touched."""
    out.parent.mkdir(parents=True, exist_ok=True)
    work = out.parent / "fuse3"
    shutil.rmtree(work, ignore_errors=True)
    (work / "lists/partial").mkdir(parents=True)
    (work / "cache/archives/partial").mkdir(parents=True)
    work.chmod(0o755)
    keyring = "/usr/share/keyrings/debian-archive-keyring.gpg"
    (work / "sources.list").write_text(
        f"deb-src [signed-by={keyring}] http://deb.debian.org/debian trixie main\n"
    )
    options = [
        f"Dir::Etc::SourceList={work}/sources.list",
        "Dir::Etc::SourceParts=/dev/null",
        f"Dir::State::Lists={work}/lists",
        f"Dir::Cache={work}/cache",
        "APT::Sandbox::User=root",
    ]
    apt = ["apt-get", "-q", *[word for option in options for word in ("-o", option)]]
    try:
        run([*apt, "update"], seconds=120)
        run([*apt, "source", "--download-only", "fuse3"], cwd=work, seconds=120)
        archive = next(work.glob("fuse3_*.orig.tar.gz"))
        run(["tar", "-xf", archive, "--strip-components=1", "--one-top-level=tree"], cwd=work)
        _compile(work / "tree", out)
    except StopIteration as error:
        raise BenchError("apt-get source brought no archive") from error
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _compile(tree: Path, out: Path) -> None:
    (tree / "include/fuse_config.h").write_text(FUSE_DEFINITIONS)
    (tree / "include/libfuse_config.h").write_text(FUSE_VERSION)
    common = ["-O2", "-g0", "-w", "-D_FILE_OFFSET_BITS=64", "-D_GNU_SOURCE", "-D_REENTRANT", "-fno-strict-aliasing"]
    common += ["-DHAVE_LIBFUSE_PRIVATE_CONFIG_H", "-DFUSE_USE_VERSION=317", '-DFUSERMOUNT_DIR="/usr/bin"']
    common += [f"-I{tree}/include", f"-I{tree}/lib", f"-I{tree}"]
    objects = []
    for name in LIBRARY.split():
        objects.append(tree / f"{Path(name).name}.o")
        run(["gcc", *common, "-c", tree / f"lib/{name}.c", "-o", objects[-1]])
    words = ["g++", *common, "-std=c++17", tree / "example/passthrough_hp.cc", *objects, "-o", out, "-lpthread", "-ldl"]
    run(words)
