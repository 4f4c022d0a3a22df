"""Headless Chromium, driven over its debugging pipe: no driver program and no library in between."""

from __future__ import annotations

import base64
import fcntl
import json
import os
import select
import subprocess
import time
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image

FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--mute-audio",
    # WebGL without a graphics card
    "--use-gl=angle",
    "--use-angle=swiftshader",
    "--enable-unsafe-swiftshader",
    "--ignore-gpu-blocklist",
    "--remote-debugging-pipe",
)


KEY_CODES = {"ArrowUp": 38, "ArrowDown": 40}


class Chromium:
    """A browser with a profile of its own; a context manager that ends it."""

    def __init__(self, program: str, profile: Path) -> None:
        to_child, self._send_fd = _pipe()
        self._receive_fd, from_child = _pipe()

        # it reads commands from descriptor 3 and writes answers to 4
        numbered = f'exec 3<&{to_child} 4>&{from_child} {to_child}<&- {from_child}>&-; exec "$0" "$@"'
        with (profile.parent / "chromium.log").open("wb") as log:
            self._process = subprocess.Popen(
                ["bash", "-c", numbered, program, *FLAGS, f"--user-data-dir={profile}", "about:blank"],
                stdout=log,
                stderr=log,
                pass_fds=(to_child, from_child),
            )
        os.close(to_child)
        os.close(from_child)
        self._buffer = b""
        self._last_id = 0
        self._pages: dict[str, Page] = {}

    def __enter__(self) -> Chromium:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._send_fd)  # the end of the commands is the end of the browser
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        os.close(self._receive_fd)

    def open(self, url: str, *, before: str = "", size: tuple[int, int] = (1400, 840)) -> Page:
        """A new page at this address; ``before`` is JavaScript that runs before any of its own."""
        target = self.call("Target.createTarget", {"url": "about:blank"})
        session = self.call("Target.attachToTarget", {"targetId": target["targetId"], "flatten": True})["sessionId"]
        page = self._pages[session] = Page(self, session)
        for domain in ("Page", "Runtime", "Log"):
            page.call(f"{domain}.enable")
        view = {"width": size[0], "height": size[1], "deviceScaleFactor": 1, "mobile": False}
        page.call("Emulation.setDeviceMetricsOverride", view)
        page.call("Page.addScriptToEvaluateOnNewDocument", {"source": before})
        page.call("Page.navigate", {"url": url})
        return page

    def call(
        self, method: str, parameters: Mapping[str, Any] | None = None, *, session: str | None = None
    ) -> dict[str, Any]:
        """Send a command of the DevTools protocol and wait for its answer."""
        self._last_id += 1
        message: dict[str, Any] = {"id": self._last_id, "method": method, "params": dict(parameters or {})}
        if session is not None:
            message["sessionId"] = session
        data = json.dumps(message).encode() + b"\0"
        while data:
            data = data[os.write(self._send_fd, data) :]
        deadline = time.monotonic() + 60
        while True:
            answer = self._receive(deadline)
            if answer.get("id") == self._last_id:
                assert "error" not in answer, f"{method}: {answer['error']}"
                result: dict[str, Any] = answer["result"]
                return result

    def _receive(self, deadline: float) -> dict[str, Any]:
        """The next message; events go to their page on the way."""
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._receive_fd], [], [], max(0, deadline - time.monotonic()))
            assert ready, "Chromium does not answer"
            data = os.read(self._receive_fd, 1 << 16)
            assert data, "Chromium ended"
            self._buffer += data
        line, self._buffer = self._buffer.split(b"\0", 1)
        message: dict[str, Any] = json.loads(line)
        if "method" in message and message.get("sessionId") in self._pages:
            self._pages[message["sessionId"]].note(message["method"], message["params"])
        return message


class Page:
    """One tab, and what it complained of."""

    def __init__(self, browser: Chromium, session: str) -> None:
        self._browser = browser
        self._session = session
        self.errors: list[str] = []
        """Exceptions nobody caught, ``console.error`` and failed requests, in order."""

    def call(self, method: str, parameters: Mapping[str, Any] | None = None) -> dict[str, Any]:
        return self._browser.call(method, parameters, session=self._session)

    def close(self) -> None:
        self.call("Page.close")

    def note(self, method: str, parameters: dict[str, Any]) -> None:
        """An event of the browser."""
        if method == "Runtime.exceptionThrown":
            details = parameters["exceptionDetails"]
            self.errors.append(details.get("exception", {}).get("description", details["text"]))
        elif method == "Runtime.consoleAPICalled" and parameters["type"] in {"error", "assert"}:
            values = (str(a.get("value", a.get("description", ""))) for a in parameters["args"])
            self.errors.append(" ".join(values))
        elif method == "Log.entryAdded" and parameters["entry"]["level"] == "error":
            entry = parameters["entry"]
            self.errors.append(f"{entry['text']} {entry.get('url', '')}".strip())
        elif method == "Inspector.targetCrashed":
            self.errors.append("the page crashed")

    def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression; a promise is waited for."""
        answer = self.call("Runtime.evaluate", {"expression": expression, "returnByValue": True, "awaitPromise": True})
        assert "exceptionDetails" not in answer, answer["exceptionDetails"].get("exception", answer)
        return answer["result"].get("value")

    def wait_for(self, expression: str, *, limit_s: float = 60) -> Any:
        """Evaluate until the value is true, and return it."""
        deadline = time.monotonic() + limit_s
        while not (value := self.evaluate(expression)):
            assert time.monotonic() < deadline, f"not within {limit_s} s: {expression}\n{self.errors}\n{self.text()}"
            time.sleep(0.1)
        return value

    def text(self) -> str:
        """What a person reads."""
        return str(self.evaluate("document.body.innerText"))

    def click(self, element: str, *, times: int = 1) -> None:
        """Click the middle of the element that a JavaScript expression gives."""
        where = self.wait_for(
            f"(() => {{ const e = {element}; if (!e) return null; e.scrollIntoView({{block: 'nearest'}});"
            " const r = e.getBoundingClientRect(); return {x: r.x + r.width / 2, y: r.y + r.height / 2} })()"
        )
        self.call("Input.dispatchMouseEvent", {"type": "mouseMoved", **where})
        for count in range(1, times + 1):
            button = {**where, "button": "left", "clickCount": count}
            self.call("Input.dispatchMouseEvent", {"type": "mousePressed", **button})
            self.call("Input.dispatchMouseEvent", {"type": "mouseReleased", **button})

    def press(self, key: str) -> None:
        """A key of the keyboard, by its DOM name."""
        for kind in ("rawKeyDown", "keyUp"):
            code = KEY_CODES[key]
            self.call("Input.dispatchKeyEvent", {"type": kind, "key": key, "code": key, "windowsVirtualKeyCode": code})

    def picture(self) -> Image.Image:
        """The page as the screen shows it."""
        png = base64.b64decode(self.call("Page.captureScreenshot", {"format": "png"})["data"])
        return Image.open(BytesIO(png)).convert("RGB")


def _pipe() -> tuple[int, int]:
    """A pipe whose descriptors are out of the way of 3 and 4, and are not inherited."""
    ends = os.pipe()
    high = tuple(fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10) for end in ends)
    for end in ends:
        os.close(end)
    return high[0], high[1]
