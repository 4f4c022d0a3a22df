"""``stenosis-node fsck``: spool and database compared, and put right where nothing can be lost."""

from __future__ import annotations

from collections import Counter
from contextlib import nullcontext
from typing import TYPE_CHECKING, Annotated

import typer

from stenosis_node.cli.audited import audited
from stenosis_node.cli.jobs import open_store
from stenosis_node.cli.options import AsJson, ConfigPath, load_config
from stenosis_node.cli.outcome import ExitCode
from stenosis_node.cli.output import complain, plain, print_json, say, show, table

if TYPE_CHECKING:
    from stenosis_node.work.reconcile import Finding, Reconciliation

SHOWN = 200


def fsck(
    repair: Annotated[bool, typer.Option("--repair", help="Put right what can be without losing anything.")] = False,
    deep: Annotated[bool, typer.Option("--deep", help="Read every file and compare its bytes.")] = False,
    config: ConfigPath = None,
    as_json: AsJson = False,
) -> None:
    """Compare the spool with the database. Exit code 0 when they agree, 1 when a problem is left."""
    settings = load_config(config)
    from stenosis_node.work.reconcile import reconcile

    what = " ".join(("fsck", "--repair", *(("--deep",) if deep else ())))
    with open_store(settings) as store, audited(settings, what) if repair else nullcontext():
        found = reconcile(settings, store, deep=deep, repair=repair)
    if as_json:
        print_json({**plain(found), "problems": len(found.problems)})
    else:
        _print(found)
    if found.problems:
        raise typer.Exit(ExitCode.FAILED)


def _print(found: Reconciliation) -> None:
    rows = [(_level(one), one.kind.value, one.about, _text(one)) for one in found.findings[:SHOWN]]
    if rows:
        show(table(("=Level", "=Kind", "About", "What and what to do"), rows))
    if len(found.findings) > SHOWN:
        complain(f"{len(found.findings) - SHOWN} more; --json shows all")
    counts = Counter(map(_level, found.findings))
    compared = "bytes compared" if found.deep else "sizes compared; --deep reads the bytes too"
    say(f"{found.files} files, {found.rows} rows, {found.results} results; {compared}")
    say(f"{counts['fail']} problems left, {counts['repaired']} repaired, {counts['note']} notes")
    if found.running is not None:
        say(f"the node runs (process {found.running}): what is less than an hour old was left alone")


def _level(one: Finding) -> str:
    if one.repaired:
        return "repaired"
    return "fail" if one.is_problem else "note"


def _text(one: Finding) -> str:
    return one.sentence if one.repaired else f"{one.sentence}\n-> {one.fix}"
