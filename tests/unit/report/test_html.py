"""The page and the pictures, made from the documents alone."""

from __future__ import annotations

import re
from base64 import b64decode
from dataclasses import replace
from html.parser import HTMLParser
from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image
from pydicom.dataset import Dataset

from stenosis_node.domain import DocumentKind
from stenosis_node.errors import PermanentError
from stenosis_node.report import capture_png, compose, readback, render_html

from . import mr_study
from .conftest import Result


class Page(HTMLParser):
    """Rows of the table as texts, and everything a browser would load."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.loaded: list[str] = []
        self.links: set[str] = set()
        self.ids: set[str] = set()
        self._cell = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.ids.add(found.get("id") or "")
        if tag == "tr":
            self.rows.append([])
        if tag == "td":
            self._cell = True
            self.rows[-1].append("")
        if found.get("src"):
            self.loaded.append(found["src"] or "")
        if (found.get("href") or "").startswith("#"):
            self.links.add((found["href"] or "")[1:])
        elif found.get("href"):
            self.loaded.append(found["href"] or "")

    def handle_endtag(self, tag: str) -> None:
        if tag == "td":
            self._cell = False

    def handle_data(self, data: str) -> None:
        if self._cell:
            self.rows[-1][-1] += data.strip()


@pytest.fixture(scope="module")
def text(good: Result) -> str:
    return render_html(good.documents)


@pytest.fixture(scope="module")
def page(text: str) -> Page:
    parser = Page()
    parser.feed(text)
    return parser


def test_the_page_needs_nothing_else(page: Page, text: str, good: Result) -> None:
    assert len(page.loaded) == 10
    assert all(re.match("data:image/(png|jpeg);base64,", source) for source in page.loaded)
    assert "<script" not in text
    with Image.open(BytesIO(b64decode(page.loaded[0].split(",")[1]))) as first:
        assert first.tobytes() == Image.open(BytesIO(capture_png(good.documents[0]))).tobytes()


def test_every_image_has_its_row_from_head_to_foot(page: Page) -> None:
    rows = [row for row in page.rows if row]
    assert [row[0].split(",")[0] for row in rows] == [f"Image {i} of 11" for i in range(1, 12)]
    assert [row[1] for row in rows] == ["-", "-", "A", "A", "C", "A", "-", "B", "D", "-", "-"]
    assert rows[2][2:8] == ["83 %", "6 %", "6 %", "5 %", "nerve rootlets", "98 %"]
    assert rows[0][3] == "spinal cord"
    assert "Isolated slice" in rows[4][-1]
    assert "does not exclude stenosis" in rows[6][-1]
    assert "could not be read" in rows[10][2]


def test_links_lead_to_pictures(page: Page) -> None:
    assert len(page.links) == 9
    assert page.links <= page.ids


def test_key_images_keep_their_size_and_the_others_are_reduced(page: Page, text: str, good: Result) -> None:
    shown = {}
    for source in page.loaded:
        with Image.open(BytesIO(b64decode(source.split(",")[1]))) as picture:
            shown[source] = picture.size
    captures = [d for d in good.documents if d.kind is DocumentKind.SC]
    full = [Image.open(BytesIO(capture_png(d))).size for d in captures if d.key]
    assert list(shown.values())[1:] == full + [(480, round(full[0][1] * 480 / full[0][0]))] * (
        len(captures) - len(full)
    )
    folded = text[text.index("<details>") :]
    assert f"Other images ({len(captures) - len(full)}" in folded
    assert folded.count("<img") == len(captures) - len(full)
    assert len(text) < 1_500_000


def test_the_time_of_the_report_names_its_zone(good: Result, text: str) -> None:
    assert re.search(r"<dt>Report</dt><dd>\d{4}-\d\d-\d\d \d\d:\d\d \(UTC(\+\d\d:\d\d)?\)</dd>", text)
    report = good.documents[-1]
    ds = readback.read(report)
    del ds.ContributingEquipmentSequence
    buffer = BytesIO()
    ds.save_as(buffer)
    assert "(time of the node)</dd>" in render_html([replace(report, content=buffer.getvalue())])


def test_the_summary_and_the_warning_come_first(text: str) -> None:
    body = text[text.index("<body>") :]
    assert body.index("not for clinical use") < body.index("Worst Schizas grade D") < body.index("<table>")
    assert "probabilit" not in text.lower()


def test_names_are_escaped_and_hangul_survives(tmp_path: Path) -> None:
    def edit(ds: Dataset) -> None:
        ds.SpecificCharacterSet = "ISO_IR 192"
        ds.PatientName = "홍^길동<script>alert(1)</script>"

    series = mr_study.classic(tmp_path, (1,), edit=edit)
    found = mr_study.findings(series, "A")
    page = render_html(compose(found, [series], mr_study.context(found)))
    assert "홍 길동&lt;script&gt;" in page
    assert "<script" not in page


def test_without_a_report_there_is_no_page(good: Result) -> None:
    with pytest.raises(PermanentError, match="needs the Structured Report"):
        render_html(good.documents[:-1])


def test_a_report_alone_makes_a_page(good: Result) -> None:
    page = render_html(good.documents[-1:])
    assert "Worst Schizas grade D" in page
    assert "<img" not in page


def test_only_pictures_become_png(good: Result) -> None:
    with Image.open(BytesIO(capture_png(good.documents[0]))) as picture:
        assert picture.mode == "RGB"
        assert picture.width >= 1000
    with pytest.raises(PermanentError, match="no picture"):
        capture_png(good.documents[-1])


def test_a_revision_shows_what_it_supersedes(good: Result) -> None:
    from stenosis_node.report import Predecessor

    earlier = Predecessor(
        revision=1,
        sop_class_uid="1.2.840.10008.5.1.4.1.1.88.34",
        sop_instance_uid="1.2.3.4",
        series_instance_uid="1.2.3",
    )
    documents = compose(good.findings, [good.series], mr_study.context(good.findings, 2, (earlier,)))
    page = render_html([replace(d) for d in documents if d.kind is DocumentKind.SR])
    assert "REVISION 2" in page
    assert re.search(r"SR 2\.25\.\d+, supersedes 1\.2\.3\.4", page)
