"""SQLite, as a program of its own. Modes: the journal modes of SQLite, `delete` (rollback) and `wal`.

    sqlite_load.py rate FILE MODE SECONDS        prints inserts a second, each a transaction
    sqlite_load.py accounts FILE MODE            moves money between accounts until it is killed
    sqlite_load.py check FILE                    exit code 0: sound, and no money has come or gone; prints transfers
"""

from __future__ import annotations

import random
import sqlite3
import sys
import time

ACCOUNTS = 1000
BALANCE = 1000


def opened(path: str, mode: str) -> sqlite3.Connection:
    """A connection that commits when told, and syncs whenever SQLite thinks fit to be safe."""
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute(f"PRAGMA journal_mode={mode}")
    connection.execute("PRAGMA synchronous=FULL")
    return connection


def rate(path: str, mode: str, seconds: float) -> float:
    """Inserts a second."""
    connection = opened(path, mode)
    connection.execute("CREATE TABLE rows (id INTEGER PRIMARY KEY, text TEXT)")
    count = 0
    began = time.monotonic()
    while time.monotonic() < began + seconds:
        connection.execute("INSERT INTO rows (text) VALUES (?)", (f"row {count} " + "x" * 100,))
        count += 1
    return count / (time.monotonic() - began)


def move_money(path: str, mode: str) -> None:
    """Transfers without end. Each changes two accounts and notes itself."""
    connection = opened(path, mode)
    connection.execute("CREATE TABLE accounts (id INTEGER PRIMARY KEY, balance INTEGER)")
    connection.execute("CREATE TABLE transfers (id INTEGER PRIMARY KEY, text TEXT)")
    connection.execute("BEGIN")
    connection.executemany("INSERT INTO accounts VALUES (?, ?)", ((n, BALANCE) for n in range(ACCOUNTS)))
    connection.execute("COMMIT")
    while True:
        source, sink = random.sample(range(ACCOUNTS), 2)
        amount = random.randrange(100)
        connection.execute("BEGIN")
        connection.execute("UPDATE accounts SET balance = balance - ? WHERE id = ?", (amount, source))
        connection.execute("UPDATE accounts SET balance = balance + ? WHERE id = ?", (amount, sink))
        connection.execute("INSERT INTO transfers (text) VALUES (?)", (f"{source} {sink} {amount} " + "x" * 200,))
        connection.execute("COMMIT")


def check(path: str) -> int:
    """Transfers in a sound file; an exception or -1 when it is not."""
    connection = sqlite3.connect(path)
    if connection.execute("PRAGMA integrity_check").fetchall() != [("ok",)]:
        return -1
    total = connection.execute("SELECT sum(balance), count(*) FROM accounts").fetchone()
    if total != (ACCOUNTS * BALANCE, ACCOUNTS):
        return -1
    return connection.execute("SELECT count(*) FROM transfers").fetchone()[0]


def main(words: list[str]) -> int:
    """See the head of this file."""
    if words[0] == "rate":
        print(rate(words[1], words[2], float(words[3])))
    elif words[0] == "accounts":
        move_money(words[1], words[2])
    else:
        try:
            transfers = check(words[1])
        except sqlite3.DatabaseError as error:
            print(error)
            return 1
        print(transfers)
        return 0 if transfers >= 0 else 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
