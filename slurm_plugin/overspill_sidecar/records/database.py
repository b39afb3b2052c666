"""How this package opens its SQLite files."""

from __future__ import annotations

import sqlite3


def open_database(name: str, schema: str) -> sqlite3.Connection:
    """Open a file, made if there is none, and see to its tables. Threads may take turns with it.

    What the last second wrote may be lost with the machine: nothing that waits for a decision may wait for a disk to
    sync.

    Raises:
        sqlite3.Error: if it cannot be used.
    """
    connection = sqlite3.connect(name, check_same_thread=False, timeout=1.0)
    try:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.executescript(schema)
    except sqlite3.Error:
        connection.close()
        raise
    return connection
