"""How far a verb has come: a bar on a terminal, elsewhere one line in the end; always on stderr."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from stenosis_node.cli.output import complain, console

Progress = Callable[[int, int], None]
"""Called with how many are done, and how many there are."""


@contextmanager
def progress(doing: str, done: str, *, quiet: bool) -> Iterator[Progress]:
    """
    doing  label of the bar
    done   the line, with ``{done}`` and ``{total}``
    quiet  no line
    """
    screen = console(stderr=True)
    if not screen.is_terminal:
        yield lambda n, total: complain(done.format(done=n, total=total)) if n == total and not quiet else None
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=screen, transient=True) as bar:
        task = bar.add_task(doing, total=None)
        yield lambda n, total: bar.update(task, completed=n, total=total)
