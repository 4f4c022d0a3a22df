"""A whole life of a node at DEBUG: who the patient is stands in the audit file alone, and there as the ID alone."""

from __future__ import annotations

import re
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from pydicom import dcmread
from typer.testing import CliRunner

from stenosis_node.cli.app import app
from stenosis_node.domain import JobState
from tests.acceptance.processes import Node, Orthanc, send, wait_until
from tests.acceptance.studies import Study
from tests.conftest import free_port
from tests.unit.audit.schema import check, event_of, subjects_of

pytestmark = [pytest.mark.acceptance, pytest.mark.timeout(600)]

PATIENT_ID = "QX-4711-SECRET"
PATIENT = {
    "PatientName": "Quillfeather^Zebediah",
    "PatientBirthDate": "19331224",
    "PatientAddress": "Klabautergasse 7",
    "OtherPatientIDs": "OTHERQX",
    "AccessionNumber": "ACCQX99",
    "ReferringPhysicianName": "Doktorqx^Haus",
    "PatientComments": "Kommentarqx",
    "InstitutionName": "Spitalqx",
}
TELLING = (*re.findall(r"\w+", " ".join(PATIENT.values()).replace(" 7", "")), PATIENT_ID)
_opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def name(path: Path, **changes: object) -> Path:
    """Give an image its patient."""
    dataset = dcmread(path)
    for keyword, value in {**PATIENT, "PatientID": PATIENT_ID, **changes}.items():
        setattr(dataset, keyword, value)
    dataset.save_as(path)
    return path


def told(text: str) -> list[str]:
    return [word for word in TELLING if word in text]


def test_the_patient_is_named_in_the_audit_file_alone(
    tmp_path: Path, bundle: Path, pacs: Orthanc, node_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STENOSIS_NODE__LOG_LEVEL", "DEBUG")
    node = Node(tmp_path / "node", bundle, peers={"pacs": pacs.port, "dead": free_port()}, port=node_port)
    node.settings["peers.dead"] |= {"required": False}
    node.settings["metrics"] = {"port": free_port()}
    study = Study(tmp_path / "study")
    for path in (*study.axial(4).paths, *study.sagittal(2).paths):
        name(path)
    broken = Study(tmp_path / "broken")
    *_, last = (name(path) for path in broken.axial(4).paths)
    name(last, PixelData=b"\0\0", SeriesInstanceUID="")
    shown: list[str] = []

    node.start()
    try:
        send(node.port, study.files, called="NOBODY")
        send(node.port, broken.files, options=["--no-halt"])
        assert send(node.port, study.files).returncode == 0
        node.wait_state(study.uid, JobState.DELIVERED)
        job = node.wait_state(broken.uid, JobState.DELIVERED, JobState.FAILED)
        wait_until(lambda: "refused the connection" in node.log.read_text(), log=node.log)
        for command in (
            ("status",), ("jobs",), ("job", study.uid), ("job", broken.uid), ("explain", study.uid), ("peers",),
            ("cancel", str(job.job.id)), ("retry", str(job.job.id)), ("pause", "dead"), ("retry", "no-such-job"),
            ("findings", "-o", str(tmp_path / "findings.csv")),
        ):  # fmt: skip
            done = CliRunner().invoke(app, ["--debug", *command, "--config", str(node.config)])
            shown.append(done.output)
        for page in ("metrics", "health"):
            try:
                with _opener.open(f"http://127.0.0.1:{node.settings['metrics']['port']}/{page}", timeout=10) as answer:
                    shown.append(answer.read().decode())
            except urllib.error.HTTPError as error:
                shown.append(error.read().decode())
    finally:
        assert node.stop() == 0

    assert told(node.log.read_text()) == []
    assert "DEBUG" in node.log.read_text() or "event=refused" in node.log.read_text()
    assert [told(text) for text in shown] == [[]] * len(shown)
    assert told((tmp_path / "findings.csv").read_text()) == []
    for database in node.spool.glob("jobs.db*"):
        assert told(database.read_bytes().decode("latin-1")) == [], database.name

    audit = node.spool / "audit.log"
    assert audit.stat().st_mode & 0o777 == 0o600
    text = audit.read_text(encoding="utf-8")
    assert told(text) == [PATIENT_ID]
    messages = [check(line) for line in text.splitlines()]
    of_study = [one for one in messages if subjects_of(one).get("Study Instance UID") == study.uid]
    assert {event_of(one) for one in of_study} == {"110102", "110103", "110104", "110106"}
    assert {subjects_of(one)["Patient Number"] for one in of_study} == {PATIENT_ID}
    assert {event_of(one) for one in messages} >= {
        "110100 110120", "110100 110121", "110113 110126", "110113 110131", "110113 110132",
    }  # fmt: skip
