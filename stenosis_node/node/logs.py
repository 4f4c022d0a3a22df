"""Logging of a process of the node: one line per event on stderr.

    2026-03-01T09:12:33.250+00:00 INFO  grade: job 12 graded event=graded revision=1

Patient attributes never get into a log. The loggers of the DICOM libraries are closed because they quote header values,
and so may the text of an exception that is not ours: of those the traceback is shown and the text is not.
"""

from __future__ import annotations

import logging
import sys
import threading
import traceback
from collections.abc import Iterator
from datetime import UTC, datetime
from types import TracebackType
from typing import Final, TextIO

from stenosis_node.errors import NodeError

log = logging.getLogger("stenosis_node.node")

QUOTE_HEADERS: Final = ("pydicom", "pynetdicom", "highdicom", "py.warnings")

_STANDARD: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime"}


class LineFormatter(logging.Formatter):
    """Time, level, part, sentence, then the fields of ``extra`` as ``name=value``."""

    def __init__(self, part: str) -> None:
        super().__init__()
        self._part = part

    def format(self, record: logging.LogRecord) -> str:
        time = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        fields = "".join(f" {name}={value}" for name, value in vars(record).items() if name not in _STANDARD)
        line = f"{time} {record.levelname:<7} {self._part}: {record.getMessage()}{fields}"
        lines = [_printable(line)]
        if record.exc_info and record.exc_info[1] is not None:
            lines += describe(record.exc_info[1])
        return "\n".join(lines)


def describe(error: BaseException) -> Iterator[str]:
    """Traceback without the texts of foreign exceptions, causes first, indented."""
    cause = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    if cause is not None:
        yield from describe(cause)
    for frame in traceback.extract_tb(_traceback(error)):
        yield f"    {frame.filename}:{frame.lineno} in {frame.name}: {frame.line}"
    text = f": {error}" if isinstance(error, NodeError) else ""
    yield f"    {type(error).__module__}.{type(error).__qualname__}{text}"


def set_up_logging(part: str, level: str, stream: TextIO | None = None) -> None:
    """Send everything this process logs to ``stream`` (stderr). ``part`` names the process in each line."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(LineFormatter(part))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("stenosis_node").setLevel(level)
    logging.captureWarnings(True)
    for name in QUOTE_HEADERS:
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)
    threading.excepthook = _log_thread_error


def _log_thread_error(ended: threading.ExceptHookArgs) -> None:
    """The interpreter's own hook would print the text of whatever exception it was."""
    name = ended.thread.name if ended.thread is not None else "unknown"
    error = ended.exc_value or ended.exc_type()
    log.error("thread %s ended after an error", name, exc_info=error, extra={"event": "thread_crashed"})


def _traceback(error: BaseException) -> TracebackType | None:
    return error.__traceback__


def _printable(text: str) -> str:
    """One line whatever a peer put into a text."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
