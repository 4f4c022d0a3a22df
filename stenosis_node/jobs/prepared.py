"""Statements of SQLAlchemy that are compiled once and then given to the driver as they are.

To set up an execution costs SQLAlchemy more CPU than SQLite takes for the whole transaction of an instance. Only what
every instance needs is prepared; transactions, pool and types stay SQLAlchemy's.
"""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Callable, Mapping
from typing import Any, Final

from sqlalchemy import Connection, Dialect, Executable
from sqlalchemy.types import TypeEngine

Convert = Callable[[Any], Any]


class Prepared:
    """One statement for the connections of one dialect. Threads may share it."""

    def __init__(self, statement: Executable, dialect: Dialect, parameters: Mapping[str, TypeEngine[Any]]) -> None:
        """
        statement   what it returns must have one name per column
        parameters  the name of every parameter, and the type of its values
        """
        compiled: Any = statement.compile(dialect=dialect)  # type: ignore[attr-defined]
        self._sql: Final = str(compiled)
        self._order: Final[list[str] | None] = compiled.positiontup  # None: the driver takes parameters by name
        if set(compiled.params) != set(parameters):
            raise ValueError(f"the statement has the parameters {sorted(compiled.params)}, not {sorted(parameters)}")
        self._bind: Final = _converters(
            {n: t.dialect_impl(dialect).bind_processor(dialect) for n, t in parameters.items()}
        )
        columns = list(compiled.statement.exported_columns) if compiled.effective_returning else []
        columns = columns or list(getattr(compiled.statement, "selected_columns", ()))
        self._row: Final[Any] = namedtuple("Row", [c.key for c in columns])  # type: ignore[misc]
        self._result: Final = _converters(
            {i: c.type.dialect_impl(dialect).result_processor(dialect, None) for i, c in enumerate(columns)}
        )

    def execute(self, connection: Connection, values: Mapping[str, Any]) -> Any:
        """The first row, by the names of its columns; None without one.

        raises  the driver's own errors
        """
        bound = dict(values)
        for name, convert in self._bind:
            bound[name] = convert(bound[name])
        cursor = connection.connection.cursor()
        try:
            cursor.execute(self._sql, bound if self._order is None else [bound[name] for name in self._order])
            row = cursor.fetchone() if self._row._fields else None
        finally:
            cursor.close()
        if row is None:
            return None
        found = list(row)
        for at, convert in self._result:
            found[at] = convert(found[at])
        return self._row(*found)


def _converters(candidates: dict[Any, Convert | None]) -> tuple[tuple[Any, Convert], ...]:
    """Those that there are: most types need none."""
    return tuple((key, convert) for key, convert in candidates.items() if convert is not None)
