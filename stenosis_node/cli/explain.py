"""``explain``: why a series was graded or not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stenosis_node.cli.grade import files_in, keep_headers_out_of_warnings, warn_of_unreadable
from stenosis_node.cli.jobs import open_job
from stenosis_node.cli.options import AsJson, ConfigPath, find_config, load_config
from stenosis_node.cli.output import complain, plain, print_json, say, show, table
from stenosis_node.config import SeriesRule, load
from stenosis_node.domain import Decision, SeriesDecision
from stenosis_node.errors import ConfigError, PermanentError

if TYPE_CHECKING:
    from rich.table import Table

    from stenosis_node.work.explain import Explanation

ORDER = (Decision.GRADED, Decision.NOT_GRADABLE, Decision.LOCATOR, Decision.REJECTED)


def explain(
    what: Annotated[
        str, typer.Argument(metavar="WHAT", help="Number of a job, a Study Instance UID, or a folder of DICOM files.")
    ],
    again: Annotated[
        bool, typer.Option("--again", help="Of a job: decide now, by the rules configured now, and name what changes.")
    ] = False,
    config: ConfigPath = None,
    as_json: AsJson = False,
) -> None:
    """Show every series with its decision, the rule that decided and the values it saw."""
    keep_headers_out_of_warnings()
    explanations = _of_folder(Path(what), config) if Path(what).is_dir() else _of_job(what, config, again=again)
    if as_json:
        print_json({"studies": [_json(one) for one in explanations]})
        return
    for one in explanations:
        _print(one)


def _of_folder(folder: Path, config: Path | None) -> tuple[Explanation, ...]:
    paths = files_in(folder)
    from stenosis_node.work.explain import explain_files

    explanations, unreadable = explain_files(paths, _rules(config))
    warn_of_unreadable(unreadable)
    if not explanations:
        raise PermanentError(f"{folder} holds {len(paths)} files and no readable DICOM instance among them")
    return explanations


def _of_job(name: str, config: Path | None, *, again: bool) -> tuple[Explanation, ...]:
    settings = load_config(config)
    with open_job(settings, name) as (store, detail):
        instances = store.instances(detail.job.id)
    from stenosis_node.work.explain import explain_job

    return (explain_job(detail, instances, settings.spool, settings.series.rules, again=again),)


def _rules(given: Path | None) -> tuple[SeriesRule, ...]:
    """Those of the configuration; a folder can be explained without one."""
    try:
        path = find_config(given)
    except ConfigError:
        complain("no configuration: the rules of a site are not applied")
        return ()
    return load(path).series.rules


# --------------------------------------------------------------------------- what comes out


def _json(explanation: Explanation) -> dict[str, Any]:
    return {
        "study_instance_uid": explanation.study_instance_uid,
        "decided": "now" if explanation.decided_now else "when graded",
        "series": plain(_ordered(explanation.decisions)),
        "changed": [one.series_instance_uid for one in explanation.changed],
    }


def _print(explanation: Explanation) -> None:
    decisions = _ordered(explanation.decisions)
    counts = Counter(one.decision for one in decisions)
    counted = ", ".join(f"{counts[decision]} {decision}" for decision in ORDER if counts[decision])
    when = "as decided now" if explanation.decided_now else "as decided when it was graded"
    say(f"Study {explanation.study_instance_uid}: {len(decisions)} series ({counted or 'none'}), {when}")
    for one in decisions:
        say()
        say(f"{_name(one)}, {one.n_instances} {'instance' if one.n_instances == 1 else 'instances'}")
        say(f"  {one.decision}, rule {one.reason}")
        show(_values(one, _names(decisions)))
    say()
    for one in explanation.changed:
        say(f"Changed: {_name(one)} was {one.decision}, rule {one.reason}, when the study was graded.")


def _ordered(decisions: Iterable[SeriesDecision]) -> list[SeriesDecision]:
    return sorted(decisions, key=lambda d: (ORDER.index(d.decision), d.series_number is None, d.series_number or 0))


def _name(decision: SeriesDecision) -> str:
    number = "without number" if decision.series_number is None else str(decision.series_number)
    return f"Series {number}" + (f" '{decision.description}'" if decision.description else "")


def _names(decisions: Sequence[SeriesDecision]) -> dict[str, str]:
    return {one.series_instance_uid: f"s{_name(one)[1:]}" for one in decisions}


def _values(decision: SeriesDecision, names: dict[str, str]) -> Table:
    """The sentence, then the values the rules saw; a series named by its UID gets its label."""
    rows = [("why", decision.sentence), ("series UID", decision.series_instance_uid)]
    for key, text in decision.values.items():
        shown = ", ".join(names.get(part, part) for part in text.split(", "))
        rows.append((key.replace("_", " "), shown))
    return table(("=", ""), [(f"    {key}", text) for key, text in rows], header=False)
