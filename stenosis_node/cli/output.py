"""Printing: tables and lines on stdout, errors on stderr, JSON for scripts. No colour codes unless it is a terminal."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from dataclasses import fields, is_dataclass
from datetime import datetime
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from stenosis_node.domain import SeriesDecision

PIPE_WIDTH = 100
"""Columns of a table when stdout is no terminal."""

STATE_STYLES = {
    "delivered": "green",
    "graded": "cyan",
    "received": "cyan",
    "pending": "cyan",
    "rejected": "yellow",
    "not-gradable": "yellow",
    "locator": "cyan",
    "cancelled": "yellow",
    "failed": "bold red",
    "ok": "green",
    "warn": "yellow",
    "fail": "bold red",
}


def console(*, stderr: bool = False) -> Console:
    """A console that folds at the terminal's width, or at a fixed one in a pipe."""
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() else PIPE_WIDTH
    return Console(stderr=stderr, width=width, highlight=False, markup=False, emoji=False, soft_wrap=False)


def say(line: str = "") -> None:
    """One line on stdout, never folded."""
    console().print(line, soft_wrap=True)


def complain(text: str) -> None:
    """An error or warning on stderr, never folded."""
    console(stderr=True).print(text, soft_wrap=True)


def table(
    columns: Sequence[str], rows: Iterable[Sequence[str]], *, title: str | None = None, header: bool = True
) -> Table:
    """A plain table. A cell with the name of a state gets its colour.

    columns  names; ``>`` before one aligns it right, ``=`` keeps its cells on one line
    """
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    made = Table(
        box=SIMPLE_HEAD,
        title=title,
        title_justify="left",
        title_style="bold",
        pad_edge=False,
        show_edge=False,
        show_header=header,
    )
    for column in columns:
        mark = column[:1]
        made.add_column(
            column.lstrip(">="),
            justify="right" if mark == ">" else "left",
            no_wrap=mark in (">", "="),
            overflow="fold",
        )
    for row in rows:
        made.add_row(*(Text(cell, style=STATE_STYLES.get(cell, "")) for cell in row))
    return made


def show(made: Table) -> None:
    """A table on stdout."""
    console().print(made)


def plain(value: Any) -> Any:
    """JSON value of domain types: dataclasses become objects, datetimes ISO 8601, paths and enums text."""
    if is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, dict):
        return {str(plain(key)): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(item) for item in value]
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, Path):
        return str(value)
    return value


def print_json(value: Any, *, indent: int | None = 2) -> None:
    """JSON on stdout; ``indent=None`` for one line."""
    sys.stdout.write(json.dumps(plain(value), indent=indent, ensure_ascii=False) + "\n")
    sys.stdout.flush()


def local_time(moment: datetime | None) -> str:
    """Date and time on the clock of this machine; ``-`` for none."""
    return "-" if moment is None else moment.astimezone().strftime("%Y-%m-%d %H:%M:%S")


def decisions_table(decisions: Iterable[SeriesDecision]) -> Table:
    """What was decided for each series of a study, and why. The sentence carries the values that decided."""
    rows = (
        (
            "-" if decision.series_number is None else str(decision.series_number),
            decision.description,
            str(decision.n_instances),
            decision.decision.value,
            decision.reason.value,
            decision.sentence,
        )
        for decision in sorted(decisions, key=lambda d: (d.series_number is None, d.series_number or 0))
    )
    return table((">No.", "Series", ">Images", "=Decision", "=Reason", "Why"), rows)
