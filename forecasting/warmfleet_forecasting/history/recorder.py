"""The embedded recorder: minute means of every deployment's demand in one SQLite file.

One row per deployment and cell, holding the sum and the number of readings, so that readings may come in any order and
at any pace and a process that restarts in the middle of a cell goes on where it was. A cell without readings has no
row: a gap. A few hundred bytes per deployment and hour; cells older than ``retention_s`` are removed, and so are
cells of a future that a jumping clock made up.

The file is a cache of the past and never worth a crash: one that cannot be read is put aside and a new one begun.
"""

from __future__ import annotations

import logging
import sqlite3
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from warmfleet_forecasting.history import STEP_S, HistoryError, HistoryProblem, Key, grid
from warmfleet_forecasting.series import Series

_LOG = logging.getLogger(__name__)
_FUTURE_S = 600.0
_MOST_RATE = 1e9
_SCHEMA = """
CREATE TABLE IF NOT EXISTS deployment (
  id INTEGER PRIMARY KEY, namespace TEXT NOT NULL, name TEXT NOT NULL, filled_from REAL, UNIQUE (namespace, name));
CREATE TABLE IF NOT EXISTS cell (
  deployment INTEGER NOT NULL, number INTEGER NOT NULL, total REAL NOT NULL, readings INTEGER NOT NULL,
  PRIMARY KEY (deployment, number)) WITHOUT ROWID;
"""


class Recorder:
    """Minute means in a file; every method may be called from any thread.

    Args:
        path: The file; ``:memory:`` keeps nothing.
        retention_s: How long cells are kept, seconds.
    """

    def __init__(self, path: str, retention_s: float) -> None:
        self._path, self._retention_s = path, retention_s
        self._lock = threading.Lock()
        self._ids: dict[Key, int] = {}
        self._connection = self._open()

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._connection.close()

    def record(self, readings: Iterable[tuple[Key, float, float]]) -> int:
        """Adds (deployment, epoch seconds, requests/s); returns how many were no rates and were left out.

        Raises:
            HistoryError: The file cannot be written.
        """
        taken = list(readings)
        good = [(key, int(at // STEP_S), rate) for key, at, rate in taken if 0 <= rate <= _MOST_RATE]
        with self._transaction() as db:
            rows = [(self._id(db, key), number, rate) for key, number, rate in good]
            db.executemany(
                "INSERT INTO cell VALUES (?, ?, ?, 1) ON CONFLICT (deployment, number) "
                "DO UPDATE SET total = total + excluded.total, readings = readings + 1",
                rows,
            )
        return len(taken) - len(good)

    def fill(self, key: Key, series: Series, *, replace: bool) -> None:
        """Takes over a history that was had elsewhere.

        Args:
            key: The deployment.
            series: In cells of :data:`~warmfleet_forecasting.history.STEP_S`.
            replace: Whether it wins over what was recorded.

        Raises:
            HistoryError: The file cannot be written.
            ValueError: The cells have another length.
        """
        if series.step_s != STEP_S:
            raise ValueError(f"cells of {series.step_s:g} s cannot be kept among cells of {STEP_S:g} s")
        first = round(series.start / STEP_S)
        known = np.flatnonzero(~np.isnan(series.values))
        verb = "REPLACE" if replace else "IGNORE"
        with self._transaction() as db:
            number = self._id(db, key)
            db.executemany(
                f"INSERT OR {verb} INTO cell VALUES (?, ?, ?, 1)",  # noqa: S608 - one of two words above
                [(number, first + int(i), float(series.values[i])) for i in known],
            )

    def series(self, key: Key, start: float, end: float) -> Series:
        """Mean arrival rates; see :class:`~warmfleet_forecasting.history.History`.

        Raises:
            HistoryError: The file cannot be read.
        """
        first, stop = grid(start, end)
        with self._transaction() as db:
            rows = db.execute(
                "SELECT number, total / readings FROM cell WHERE deployment = ? AND number >= ? AND number < ? "
                "ORDER BY number",
                (self._id(db, key), first, stop),
            ).fetchall()
        if rows:
            first = rows[0][0]
        values = np.full(stop - first if rows else 0, np.nan)
        if rows:
            numbers, means = np.array(rows, dtype=np.float64).T
            values[numbers.astype(np.int64) - first] = means
        return Series((first if rows else stop) * STEP_S, STEP_S, values)

    def newest(self, key: Key, end: float) -> float | None:
        """End of the newest cell before ``end``, epoch seconds; None when there is none."""
        with self._transaction() as db:
            row = db.execute(
                "SELECT max(number) FROM cell WHERE deployment = ? AND number < ?", (self._id(db, key), end // STEP_S)
            ).fetchone()
        return None if row[0] is None else (row[0] + 1) * STEP_S

    def filled_from(self, key: Key) -> float | None:
        """From when on the past was taken over from elsewhere, epoch seconds; None when it never was."""
        with self._transaction() as db:
            row = db.execute("SELECT filled_from FROM deployment WHERE id = ?", (self._id(db, key),)).fetchone()
        return None if row[0] is None else float(row[0])

    def mark_filled(self, key: Key, start: float) -> None:
        """Remembers :meth:`filled_from`."""
        with self._transaction() as db:
            db.execute("UPDATE deployment SET filled_from = ? WHERE id = ?", (start, self._id(db, key)))

    def prune(self, now: float) -> int:
        """Removes cells that are too old or lie in the future; returns how many."""
        bounds = (int((now - self._retention_s) // STEP_S), int((now + _FUTURE_S) // STEP_S))
        with self._transaction() as db:
            removed = db.execute("DELETE FROM cell WHERE number < ? OR number > ?", bounds).rowcount
        return max(0, removed)

    def _id(self, db: sqlite3.Connection, key: Key) -> int:
        known = self._ids.get(key)
        if known is None:
            db.execute("INSERT OR IGNORE INTO deployment (namespace, name) VALUES (?, ?)", key)
            row = db.execute("SELECT id FROM deployment WHERE namespace = ? AND name = ?", key).fetchone()
            known = self._ids[key] = int(row[0])
        return known

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        """One transaction under the lock; SQLite's errors become :class:`HistoryError`."""
        with self._lock:
            try:
                with self._connection as db:
                    yield db
            except sqlite3.Error as error:
                self._ids.clear()  # rows of new deployments were rolled back with the rest
                raise HistoryError(HistoryProblem.UNREADABLE, f"{self._path}: {error}") from error

    def _open(self) -> sqlite3.Connection:
        try:
            return _connect(self._path)
        except sqlite3.DatabaseError as error:
            if self._path == ":memory:" or isinstance(error, sqlite3.OperationalError):
                raise HistoryError(HistoryProblem.UNREADABLE, f"{self._path}: {error}") from error
            aside = f"{self._path}.unreadable"
            _LOG.error("%s cannot be read (%s): put aside as %s and begun anew", self._path, error, aside)
            Path(self._path).replace(aside)
            for suffix in ("-wal", "-shm"):
                Path(self._path + suffix).unlink(missing_ok=True)
            return _connect(self._path)


def _connect(path: str) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=10.0, check_same_thread=False)
    try:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute("PRAGMA cache_size = -16384")
        connection.executescript(_SCHEMA)
    except sqlite3.Error:
        connection.close()
        raise
    return connection
