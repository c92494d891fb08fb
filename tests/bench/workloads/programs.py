"""Programs that people run: SQLite, git, cargo, dbench, PostgreSQL."""

from __future__ import annotations

import random
import re
import shutil
import signal
import sys
from pathlib import Path

from processes import Background, BenchError, clean_environment, run, timed, wait_until
from workloads.kind import Group, Material, Workload


def sqlite_rate(material: Material, mode: str):
    """A measurement of inserts a second, each a transaction of its own with synchronous=FULL."""

    def measure(place: Path) -> float:
        words = [sys.executable, material.here / "sqlite_load.py", "rate", place / f"{mode}.db", mode]
        return float(run([*words, str(material.sizes.seconds)]).stdout)

    return measure


class Git:
    """A clone of a repository that is made once."""

    def __init__(self, material: Material):
        self.files = material.sizes.git_files
        self.repository = material.directory / "repository"

    def prepare(self, below: Path) -> None:
        """Makes the repository at the first call: the same commits each time."""
        if self.repository.exists():
            return
        source = random.Random(11)
        self.repository.mkdir()
        words = [f"word{number}" for number in range(2000)]
        for number in range(self.files):
            path = self.repository / f"dir-{number % 50}" / f"file-{number}.txt"
            path.parent.mkdir(exist_ok=True)
            path.write_text(" ".join(source.choices(words, k=source.randrange(50, 1500))) + "\n")
        stamp = "2024-01-01T00:00:00Z"
        who = {"GIT_AUTHOR_DATE": stamp, "GIT_COMMITTER_DATE": stamp}
        for side in ("AUTHOR", "COMMITTER"):
            who |= {f"GIT_{side}_NAME": "Bench", f"GIT_{side}_EMAIL": "bench@localhost.invalid"}
        environment = clean_environment(who)
        for arguments in (["init", "-q"], ["add", "-A"], ["commit", "-q", "-m", "Files"], ["gc", "-q"]):
            run(["git", *arguments], cwd=self.repository, environment=environment)

    def clone(self, place: Path) -> float:
        """Seconds."""
        return timed(["git", "clone", "-q", "--no-hardlinks", self.repository, place / "clone"])


class Cargo:
    """A build of crates that need nothing but the standard library."""

    def __init__(self, material: Material):
        self.crates = material.sizes.crates

    def prepare(self, below: Path) -> None:
        """Writes the workspace."""
        workspace = below / "workspace"
        names = [f"part{number}" for number in range(self.crates)]
        (workspace / "src").mkdir(parents=True)
        members = ", ".join(f'"{name}"' for name in names)
        needs = "\n".join(f'{name} = {{ path = "{name}" }}' for name in names)
        (workspace / "Cargo.toml").write_text(
            f"[workspace]\nmembers = [{members}]\n\n[package]\nname = \"whole\"\nversion = \"0.1.0\"\n"
            f'edition = "2021"\n\n[dependencies]\n{needs}\n'
        )
        calls = "\n".join(f"    total += {name}::sum();" for name in names)
        (workspace / "src/main.rs").write_text(
            f"fn main() {{\n    let mut total = 0u64;\n{calls}\n    println!(\"{{total}}\");\n}}\n"
        )
        for name in names:
            (workspace / name / "src").mkdir(parents=True)
            (workspace / name / "Cargo.toml").write_text(
                f'[package]\nname = "{name}"\nversion = "0.1.0"\nedition = "2021"\n'
            )
            functions = "\n".join(
                f"fn f{n}(m: &mut std::collections::BTreeMap<String, u64>) -> u64 {{\n"
                f'    m.insert(format!("{{}}", m.len() + {n}), {n});\n    m.values().sum()\n}}'
                for n in range(40)
            )
            body = " + ".join(f"f{n}(&mut m)" for n in range(40))
            (workspace / name / "src/lib.rs").write_text(
                f"{functions}\npub fn sum() -> u64 {{\n    let mut m = Default::default();\n    {body}\n}}\n"
            )

    def build(self, place: Path) -> float:
        """Seconds."""
        environment = clean_environment({"CARGO_INCREMENTAL": "1", "CARGO_TERM_COLOR": "never"})
        words = ["cargo", "build", "--offline", "--quiet", "--target-dir", place / "target"]
        return timed(words, cwd=place / "workspace", environment=environment)


def dbench(material: Material):
    """A measurement of dbench's own throughput, two clients."""

    def measure(place: Path) -> float:
        load = next((path for path in (Path("/usr/share/dbench/client.txt"),) if path.exists()), None)
        loadfile = ["-c", str(load)] if load else []
        words = ["dbench", "-D", place, *loadfile, "-t", str(material.sizes.program_seconds), "2"]
        said = run(words, seconds=material.sizes.program_seconds + 120).stdout
        found = re.search(r"^Throughput\s+([\d.]+)\s+MB/sec", said, re.MULTILINE)
        if not found or float(found.group(1)) == 0:
            raise BenchError(f"dbench: {said[-500:]}")
        return float(found.group(1))

    return measure


class Postgres:
    """pgbench's TPC-B-like load on a cluster in the directory, as the user postgres."""

    def __init__(self, material: Material):
        self.seconds = material.sizes.program_seconds
        self.scratch = material.scratch
        self.programs = next(iter(sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)), None)

    def lack(self) -> str | None:
        """Is it installed?"""
        if self.programs is None or not (self.programs / "initdb").exists():
            return "PostgreSQL is not installed"
        return None

    def _as_postgres(self, *words: str | Path, seconds: float = 300) -> str:
        return run(["runuser", "-u", "postgres", "--", *words], seconds=seconds, cwd=Path("/")).stdout

    def prepare(self, below: Path) -> None:
        """Makes a cluster with the tables of pgbench."""
        cluster, sockets = below / "cluster", self._sockets()
        cluster.mkdir()
        shutil.chown(cluster, "postgres", "postgres")
        self._as_postgres(self.programs / "initdb", "-D", cluster, "-A", "trust", "--no-locale", "-E", "UTF8")
        server = self._start(cluster, sockets)
        try:
            self._as_postgres(self.programs / "pgbench", "-h", sockets, "-i", "-q", "-s", "5", "postgres")
        finally:
            server.stop(signal.SIGINT)

    def _sockets(self) -> Path:
        sockets = self.scratch / "pg"
        sockets.mkdir(exist_ok=True)
        shutil.chown(sockets, "postgres", "postgres")
        return sockets

    def _start(self, cluster: Path, sockets: Path) -> Background:
        words = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups", self.programs / "postgres"]
        options = ["-D", cluster, "-k", sockets, "-c", "listen_addresses="]
        server = Background([*words, *options], self.scratch / "logs" / "postgres.log")
        ready = ["runuser", "-u", "postgres", "--", self.programs / "pg_isready", "-q", "-h", sockets]
        try:
            wait_until(
                lambda: run(ready, accept=range(256), cwd=Path("/")).returncode == 0 or not server.alive(),
                "PostgreSQL is ready",
                60,
                0.1,
            )
            if not server.alive():
                raise BenchError(f"PostgreSQL: {server.said()}")
        except BaseException:
            server.stop(signal.SIGQUIT)
            raise
        return server

    def measure(self, place: Path) -> float:
        """Transactions a second, two clients."""
        sockets = self._sockets()
        server = self._start(place / "cluster", sockets)
        try:
            words = ["-h", sockets, "-c", "2", "-T", str(self.seconds), "postgres"]
            said = self._as_postgres(self.programs / "pgbench", *words, seconds=self.seconds + 120)
        finally:
            server.stop(signal.SIGINT)
        found = re.search(r"^tps = ([\d.]+)", said, re.MULTILINE)
        if not found:
            raise BenchError(f"pgbench: {said[-500:]}")
        return float(found.group(1))


def _lacks(program: str):
    return lambda: None if shutil.which(program) else f"{program} is not installed"


def groups(material: Material) -> list[Group]:
    """Each with a directory of its own."""
    git, cargo, postgres = Git(material), Cargo(material), Postgres(material)
    insert = "SQLite, one insert per transaction"
    sqlite = [
        Workload(f"sqlite-{mode}", f"{insert}, {title}", "inserts/s", "higher", sqlite_rate(material, mode))
        for mode, title in (("delete", "rollback journal"), ("wal", "WAL"))
    ]
    seconds = material.sizes.program_seconds
    return [
        Group("sqlite", sqlite),
        Group(
            "git",
            [Workload("git-clone", f"git clone, {git.files:,} files", "s", "lower", git.clone)],
            git.prepare,
            _lacks("git"),
        ),
        Group(
            "cargo",
            [Workload("cargo-build", f"cargo build, {cargo.crates + 1} crates", "s", "lower", cargo.build)],
            cargo.prepare,
            _lacks("cargo"),
            slow=True,
        ),
        Group(
            "dbench",
            [Workload("dbench", f"dbench, 2 clients, {seconds} s", "MB/s", "higher", dbench(material))],
            lack=_lacks("dbench"),
            slow=True,
        ),
        Group(
            "pgbench",
            [Workload("pgbench", f"pgbench, 2 clients, {seconds} s", "transactions/s", "higher", postgres.measure)],
            postgres.prepare,
            postgres.lack,
            slow=True,
        ),
    ]
