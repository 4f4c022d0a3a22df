"""OHIF's page of a study, as a person uses it: double-click a series, go from finding to finding, look.

What is looked at is what the page draws (SVG above the image), not what the viewer has in memory. ``services`` and
``cornerstone`` are names that OHIF itself gives to the page.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass

from PIL import Image

from tests.acceptance.viewer.browser import Chromium, Page

_SHOWN = """(() => {
  const viewport = globalThis.cornerstone?.getEnabledElements()[0]?.viewport;
  if (viewport?.viewportStatus !== 'rendered') return null;
  const imageId = viewport.getCurrentImageId();
  const inImage = p => cornerstone.utilities.worldToImageCoords(imageId, viewport.canvasToWorld([p.x, p.y]));
  const layer = viewport.element.querySelector('svg.svg-layer');
  return {
    sop_instance_uid: imageId.split('/instances/')[1].split('/')[0],
    boxes: [...layer.querySelectorAll('polyline')].map(line => [...line.points].map(inImage)),
    labels: [...layer.querySelectorAll('text')].map(text => [...text.querySelectorAll('tspan')].map(l => l.innerHTML)),
  };
})()"""
_BUTTON = "[...document.querySelectorAll('button')].find(b => b.innerText === {})"
_NEXT = (
    "[...document.querySelectorAll('svg.rotate-180')].find(s => s.querySelector('title')?.textContent === 'arrow-left')"
    "?.parentElement"
)


@dataclass(frozen=True)
class Shown:
    """What the viewport shows: the image, the corners of each box in its pixels, the lines of each label."""

    sop_instance_uid: str
    boxes: list[list[list[float]]]
    labels: list[list[str]]


_EDGES = """(() => {
  const viewport = cornerstone.getEnabledElements()[0].viewport;
  const imageId = viewport.getCurrentImageId();
  const { rows, columns } = viewport.getImageData().imageData.getDimensions().reduce(
    (size, n, axis) => ({ ...size, [['columns', 'rows', 'slices'][axis]]: n }), {});
  const corner = p => viewport.worldToCanvas(cornerstone.utilities.imageToWorldCoords(imageId, p));
  const [left, top] = corner([0, 0]), [right, bottom] = corner([columns, rows]);
  const place = viewport.canvas.getBoundingClientRect();
  return [place.x + left, place.y + top, place.x + right, place.y + bottom];
})()"""


class StudyPage:
    """A study, opened; closed at the end of the ``with`` block."""

    def __init__(self, browser: Chromium, address: str, study_uid: str) -> None:
        self.page: Page = browser.open(f"{address}/viewer?StudyInstanceUIDs={study_uid}", before=_BEFORE)
        self.shown()
        self._wait_for_quiet()

    def __enter__(self) -> StudyPage:
        return self

    def __exit__(self, *_: object) -> None:
        self.page.close()

    def shown(self) -> Shown:
        """What is drawn, once an image is."""
        return Shown(**self.page.wait_for(_SHOWN))

    def _wait_for_quiet(self) -> None:
        """Until nothing more is loaded: a series opened earlier than that makes OHIF complain of the one it leaves."""
        loaded, since = -1, time.monotonic()
        while time.monotonic() < since + 1:
            if loaded != (now := self.page.evaluate("performance.getEntriesByType('resource').length")):
                loaded, since = now, time.monotonic()
            time.sleep(0.1)

    def open_series(self, description: str) -> None:
        """Double-click a series."""
        self.page.click(f"{_THUMBNAILS}.find(e => e.innerText.includes({json.dumps(description)}))", times=2)

    def answer_tracking(self, answer: str) -> None:
        """*Do you want to continue tracking measurements for this study?*"""
        self.page.click(_BUTTON.format(json.dumps(answer)))

    def next_finding(self) -> None:
        self.page.click(_NEXT)

    def assert_nothing_crashed(self) -> None:
        assert "went wrong" not in self.page.text()
        assert self.page.errors == []

    def picture(self) -> Image.Image:
        """The image as the screen shows it, overlays included, cut out at its edges."""
        left, top, right, bottom = self.page.evaluate(_EDGES)
        return self.page.picture().crop((round(left), round(top), round(right), round(bottom)))

    def scroll(self) -> None:
        """To the next image of the series."""
        self.page.press("ArrowDown")

    def wait_until(self, is_so: Callable[[Shown], bool], *, limit_s: float = 20) -> Shown:
        """Until this is true of what is drawn; fails with what is drawn instead."""
        deadline = time.monotonic() + limit_s
        while not is_so(shown := self.shown()):
            assert time.monotonic() < deadline, f"drawn: {shown}\n{self.page.errors}"
            time.sleep(0.05)
        return shown


_THUMBNAILS = "[...document.querySelectorAll('[data-cy^=\"study-browser-thumbnail\"]')]"
_BEFORE = """
localStorage.setItem('shownTours', JSON.stringify(['basicViewerTour']));
performance.setResourceTimingBufferSize(10000);
"""
