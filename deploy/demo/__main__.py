"""The story of the demo, top to bottom. Exit code 0 when the PACS holds a report within the margins of the truth."""

from __future__ import annotations

import argparse
import fcntl
import json
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from deploy.demo.expected import compare, compare_decisions, read_expected
from deploy.demo.pacs import AE_TITLE as PACS_AE_TITLE
from deploy.demo.pacs import Pacs, start_pacs
from deploy.demo.processes import DemoError, free_ports, listens, running, system_program, wait_until
from deploy.demo.results import REPORTS, SliceResult, read_slices, read_sop_class
from deploy.demo.sender import send_folder
from stenosis_node.cli.output import show, table
from stenosis_node.domain import Document, DocumentKind
from stenosis_node.report import capture_png, render_html
from stenosis_node.report.wording import percent

ROOT = Path(__file__).parents[2]
SAMPLE = ROOT / "sample_series"
BUNDLE = ROOT / "deploy" / "bundles" / "phantom-1"
NODE = (sys.executable, "-m", "stenosis_node")
AE_TITLE = "STENOSIS"
LIMIT_S = 240
"""Longest wait for the report; a slow machine may need a while to grade."""
LOCK = ".demo"
"""Marks an output folder as ours, and keeps a second demo out of it."""
FINAL_STATES = {"delivered", "rejected", "failed", "cancelled"}

CONFIG = """\
# The configuration of the demo. deploy/node.toml shows every key.
spool = "spool"

[grading]
bundle = {bundle}

[receive]
ae_title = "{ae_title}"
port = {port}

[jobs]
quiet_period_s = 3

[peers.pacs]
ae_title = "{pacs_ae_title}"
host = "127.0.0.1"
port = {pacs_port}
captures = "all"
"""


class Progress:
    """Lines with the time since the start."""

    def __init__(self) -> None:
        self._console = Console(highlight=False, markup=False, emoji=False)
        self._begin = time.monotonic()

    def say(self, text: str) -> None:
        """One line."""
        self._console.print(f"[{time.monotonic() - self._begin:5.1f} s] {text}", soft_wrap=True)


@dataclass(frozen=True, slots=True)
class Options:
    """How the demo is run."""

    output: Path
    bundle: Path
    plain: bool
    """Without Orthanc and DCMTK, as on a machine that has neither."""


def main() -> int:
    """Run the demo; 130 when it is interrupted."""
    parser = argparse.ArgumentParser(prog="python -m deploy.demo", description=__doc__)
    parser.add_argument(
        "--output", type=Path, default=ROOT / "demo_output", help="folder for results; is emptied first"
    )
    parser.add_argument("--bundle", type=Path, default=BUNDLE, help="weights bundle")
    parser.add_argument("--plain", action="store_true", help="do without Orthanc and DCMTK where they are installed")
    options = Options(**vars(parser.parse_args()))
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    progress = Progress()
    try:
        with _fresh_folder(options.output):
            return _run(options, progress)
    except DemoError as error:
        progress.say(f"the demo failed: {error}")
        return 1
    except KeyboardInterrupt:
        progress.say("interrupted; everything that was started has ended")
        return 130


def _run(options: Options, progress: Progress) -> int:
    expected = read_expected(SAMPLE)
    output = options.output
    config = output / "node.toml"
    find = (lambda _: None) if options.plain else system_program
    (port,) = free_ports(1)
    with start_pacs(output / "pacs", AE_TITLE, port, program=find("Orthanc")) as pacs:
        progress.say(f"PACS: {pacs.name}, AE title {PACS_AE_TITLE}, port {pacs.port}")
        bundle = json.dumps(str(options.bundle.resolve()))
        settings = {"bundle": bundle, "ae_title": AE_TITLE, "port": port, "pacs_ae_title": PACS_AE_TITLE}
        config.write_text(CONFIG.format(**settings, pacs_port=pacs.port), encoding="utf-8")
        log = output / "serve.log"
        with running("serve", [*NODE, "serve", "--config", str(config)], log) as serve:
            alive = {log: serve, pacs.log: pacs.process}
            wait_until("stenosis-node listens", lambda: listens(port), alive, limit_s=120)
            progress.say(f"node: stenosis-node serve, AE title {AE_TITLE}, port {port}")
            sender = send_folder(SAMPLE / "dicom", ae_title=AE_TITLE, port=port, dcmsend=find("dcmsend"))
            progress.say(f"sent {SAMPLE.name}/ with {sender}")
            progress.say("waiting: the node grades once no image came for 3 s and its networks are loaded")
            job = _follow_job(expected.study_instance_uid, config, alive, progress)
            received = _wait_for_documents(job, pacs, alive, progress)
            subprocess.run([*NODE, "job", str(job["job"]["id"]), "--config", str(config)], check=True)
    report = next(content for content in received.values() if read_sop_class(content) in REPORTS)
    slices = read_slices(report)
    show(_slices_table(slices))
    _save(received, output)
    measures = [compare_decisions(job["series"], expected), *compare(slices, expected)]
    rows = [(m.name, f"{m.value:.2f}", f"{m.least:.2f}", "ok" if m.holds else "fail") for m in measures]
    show(table(("Against the truth", ">Found", ">At least", "Verdict"), rows))
    held = all(measure.holds for measure in measures)
    progress.say(f"the result is {'within' if held else 'outside'} the margins of {SAMPLE.name}/expected.json")
    return 0 if held else 1


def _follow_job(
    study_uid: str, config: Path, alive: dict[Path, subprocess.Popen[bytes]], progress: Progress
) -> dict[str, Any]:
    """Print what happens to the job until it is delivered; the job as ``job --json`` prints it. Raises DemoError."""
    told = 0
    job: dict[str, Any] = {}

    def ended() -> bool:
        nonlocal job, told
        done = subprocess.run(
            [*NODE, "job", study_uid, "--json", "--config", str(config)], capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            return False  # the first instance is not there yet
        job = json.loads(done.stdout)
        for event in job["events"][told:]:
            progress.say(f"job {job['job']['id']}: {event['kind']}: {event['sentence']}")
        told = len(job["events"])
        return job["job"]["state"] in FINAL_STATES

    wait_until("the job ends", ended, alive, limit_s=LIMIT_S, every_s=1.5)
    if job["job"]["state"] != "delivered":
        raise DemoError(f"the job ended {job['job']['state']}: {job['job']['message']}")
    return job


def _wait_for_documents(
    job: dict[str, Any], pacs: Pacs, alive: dict[Path, subprocess.Popen[bytes]], progress: Progress
) -> dict[str, bytes]:
    """Fetch from the PACS what the job says was delivered; SOP Instance UID to file."""
    sent = {receipt["sop_instance_uid"] for d in job["deliveries"] for receipt in d["receipts"] if receipt["confirmed"]}
    held: dict[str, bytes] = {}

    def complete() -> bool:
        held.update(pacs.instances())
        return sent <= set(held)

    wait_until("the PACS holds every document", complete, alive, limit_s=30)
    kinds = Counter("report" if read_sop_class(c) in REPORTS else "capture" for c in held.values())
    if not kinds["report"] or not kinds["capture"]:
        raise DemoError(f"the PACS holds {kinds['report']} reports and {kinds['capture']} captures; see serve.log")
    progress.say(f"PACS holds {kinds['report']} Structured Report and {kinds['capture']} Secondary Captures")
    return held


def _slices_table(slices: list[SliceResult]) -> Any:
    rows = []
    for result in slices:
        image, _, outcome = result.label.partition(": ")
        score = "-" if result.score is None else percent(result.score / 100)
        rows.append((image, result.grade or "-", score, outcome.partition(": ")[0]))
    return table(("Image", "Grade", ">Network score", "Result"), rows, title="The report, as read from the PACS")


def _save(received: dict[str, bytes], output: Path) -> None:
    """DICOM files, a PNG of each capture and the report as a page, and where they are."""
    documents = sorted((_document(content) for content in received.values()), key=lambda pair: pair[0])
    for folder in ("dicom", "images"):
        (output / folder).mkdir()
    for number, (_, document) in enumerate(documents, start=1):
        stem = f"{number:02d}-{document.kind}"
        (output / "dicom" / f"{stem}.dcm").write_bytes(document.content)
        if document.kind is not DocumentKind.SR:
            (output / "images" / f"{stem}.png").write_bytes(capture_png(document))
    page = output / "report.html"
    page.write_text(render_html([document for _, document in documents]), encoding="utf-8")
    console = Console(highlight=False, markup=False, emoji=False)
    for what, where in (
        ("report as a page", page),
        ("annotated images", output / "images"),
        ("DICOM files", output / "dicom"),
        ("log of the node", output / "serve.log"),
    ):
        console.print(f"{what:<18}{_from_here(where)}", soft_wrap=True)


def _document(content: bytes) -> tuple[tuple[bool, int], Document]:
    """What the PACS gave back, as the report module takes it; with it (is a report, Instance Number) to sort by."""
    from io import BytesIO

    from pydicom import dcmread

    header = dcmread(BytesIO(content), stop_before_pixels=True)
    is_report = header.SOPClassUID in REPORTS
    number = int(header.InstanceNumber or 0)
    kind = DocumentKind.SR if is_report else DocumentKind.SC_OVERVIEW if number == 1 else DocumentKind.SC
    document = Document(
        kind=kind,
        sop_class_uid=str(header.SOPClassUID),
        sop_instance_uid=str(header.SOPInstanceUID),
        series_instance_uid=str(header.SeriesInstanceUID),
        transfer_syntax_uid=str(header.file_meta.TransferSyntaxUID),
        content=content,
    )
    return (is_report, number), document


def _from_here(path: Path) -> Path:
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


@contextmanager
def _fresh_folder(folder: Path) -> Iterator[None]:
    """An empty folder that no other demo uses. Raises DemoError."""
    folder.mkdir(exist_ok=True)
    if any(folder.iterdir()) and not (folder / LOCK).exists():
        raise DemoError(f"{folder} holds files that are not a demo's; choose an empty folder")
    with (folder / LOCK).open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise DemoError(f"another demo is at work in {folder}; wait for it to end") from None
        for entry in folder.iterdir():
            if entry.is_dir():
                shutil.rmtree(entry)
            elif entry.name != LOCK:
                entry.unlink()
        yield


if __name__ == "__main__":
    sys.exit(main())
