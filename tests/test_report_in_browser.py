"""The report as a browser shows it: Chromium without a window, driven over its own debugging pipe."""

import base64
import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from report_runs import finished_run, swept_runs

from da_lightning.report import report

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium (Debian: apt-get install chromium)"),
]

LIGHT, DARK = ([{"name": "prefers-color-scheme", "value": value}] for value in ("light", "dark"))
OVERFLOWING = """
  [...document.querySelectorAll("body *")].filter(element => {
    const box = element.getBoundingClientRect();
    return box.right > %d + 1 && !element.closest(".scroll, pre, .hidden, svg");
  }).map(element => element.outerHTML.slice(0, 80))
"""
SMALLEST_TEXT = """
  Math.min(...[...document.querySelectorAll("svg text")].map(text =>
    parseFloat(getComputedStyle(text).fontSize) * text.ownerSVGElement.getScreenCTM().a))
"""
CONTRASTS = """
  (() => {
    const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
    const channels = colour => {
      canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1);
      return [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3).map(c => c / 255);
    };
    const luminance = colour => channels(colour)
      .map(c => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
      .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
    const paper = luminance(getComputedStyle(document.body).backgroundColor);
    return [...document.querySelectorAll("h1, h2, p, th, td, dt, dd, figcaption, summary")].map(element => {
      const ink = luminance(getComputedStyle(element).color);
      return (Math.max(ink, paper) + 0.05) / (Math.min(ink, paper) + 0.05);
    });
  })()
"""


class Browser:
    """As much of the DevTools protocol as a page needs to be looked at."""

    def __init__(self, profile: Path) -> None:
        # Chromium reads from 3 and writes to 4.
        to_browser, self._out = os.pipe()
        self._in, from_browser = os.pipe()
        shell = f"exec {CHROMIUM} {' '.join(self._flags(profile))} 3<&{to_browser} 4>&{from_browser}"
        self._process = subprocess.Popen(
            ["bash", "-c", shell], pass_fds=(to_browser, from_browser), stderr=subprocess.DEVNULL
        )
        os.close(to_browser), os.close(from_browser)
        self._count, self._buffer, self._session = 0, b"", None
        self.events: list[dict[str, Any]] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    @staticmethod
    def _flags(profile: Path) -> list[str]:
        return ["--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe", f"--user-data-dir={profile}"]

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        self._count += 1
        message = {"id": self._count, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == self._count:
                assert "error" not in answer, answer["error"]
                return answer["result"]
            self.events.append(answer)

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            read = os.read(self._in, 1 << 20)
            assert read, "Chromium has gone"
            self._buffer += read
        message, _, self._buffer = self._buffer.partition(b"\0")
        return json.loads(message)

    def open(self, file: Path, width: int = 1280, is_dark: bool = False) -> None:
        self.events.clear()
        self.call("Emulation.setEmulatedMedia", features=DARK if is_dark else LIGHT)
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=width < 600
        )
        answer = self.call("Page.navigate", url=file.resolve().as_uri())
        assert "errorText" not in answer, answer
        deadline = time.monotonic() + 20
        while self.evaluate("document.readyState") != "complete" and time.monotonic() < deadline:
            time.sleep(0.05)

    def evaluate(self, expression: str) -> Any:
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def picture(self, file: Path) -> None:
        size = self.call("Page.getLayoutMetrics")["cssContentSize"]
        clip = {"x": 0, "y": 0, "width": size["width"], "height": min(size["height"], 16000), "scale": 1}
        shot = self.call("Page.captureScreenshot", captureBeyondViewport=True, clip=clip)
        file.write_bytes(base64.b64decode(shot["data"]))

    def complaints(self) -> list[Any]:
        """Errors and warnings of the console, and exceptions."""
        wanted = ("Runtime.exceptionThrown", "Log.entryAdded", "Runtime.consoleAPICalled")
        return [event["params"] for event in self.events if event["method"] in wanted]

    def requests(self) -> list[str]:
        sent = [e["params"]["request"]["url"] for e in self.events if e["method"] == "Network.requestWillBeSent"]
        return [url for url in sent if not url.startswith("data:")]

    def close(self) -> None:
        os.close(self._out)
        self._process.wait(20)
        os.close(self._in)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    browser = Browser(tmp_path_factory.mktemp("chromium"))
    yield browser
    browser.close()


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A run with everything, a comparison and two sweeps."""
    folder = tmp_path_factory.mktemp("pages")
    names = ["test_target", "source_only_target", "pseudo_labels_round_1", *(f"spatial_prior/{n}" for n in range(13))]
    run = finished_run(folder / "run", before=0.4, overrides=["method.portion=0.3"], pictures=names)
    finished_run(run / "translator", pictures=["train_source"])
    label = "a_method_with_a_name_that_is_rather_long"
    runs = [
        finished_run(folder / f"{n}", label if n else "cbst", n, 0.3 + n / 10, pictures=names[:1]) for n in range(3)
    ]
    grids: dict[str, dict[str, list]] = {
        "line": {"method.portion": [0.1, 0.2, 0.4]},
        "heat map": {"method.portion": [0.1, 0.2, 0.4], "method.rounds": list(range(9))},
    }
    return {
        "run": report([run]),
        "comparison": report(runs, folder / "comparison.html", baseline="cbst"),
        **{name: report([swept_runs(folder / name, keys, (0, 1))]) for name, keys in grids.items()},
    }


@pytest.mark.parametrize("name", ["run", "comparison", "line", "heat map"])
@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("is_dark", [False, True], ids=["light", "dark"])
def test_a_page_fits_is_readable_and_complains_of_nothing(
    browser: Browser, pages: dict[str, Path], name: str, width: int, is_dark: bool
) -> None:
    browser.open(pages[name], width, is_dark)
    assert browser.complaints() == []
    assert browser.requests() == [pages[name].as_uri()]
    assert browser.evaluate("document.documentElement.scrollWidth") <= width
    assert browser.evaluate(OVERFLOWING % width) == []
    assert min(browser.evaluate(CONTRASTS)) >= 4.5
    if browser.evaluate("document.querySelectorAll('svg text').length"):
        assert browser.evaluate(SMALLEST_TEXT) >= 10
    assert browser.evaluate("matchMedia('(prefers-color-scheme: dark)').matches") == is_dark


@pytest.mark.parametrize("name", ["run", "comparison"])
def test_pictures_load_and_are_described(browser: Browser, pages: dict[str, Path], name: str) -> None:
    browser.open(pages[name])
    browser.evaluate("document.querySelectorAll('details').forEach(details => details.open = true)")
    loaded = browser.evaluate(
        "Promise.all([...document.images].map(i => i.decode().then(() => [i.naturalWidth, i.alt])))"
    )
    assert len(loaded) == (17 if name == "run" else 2)
    assert all(width > 0 and alt for width, alt in loaded)
    described = "[...document.querySelectorAll('svg')].every(svg => svg.getAttribute('aria-label').length > 20)"
    assert browser.evaluate(described)


def test_tables_sort_by_numbers_and_by_words_both_ways(browser: Browser, pages: dict[str, Path]) -> None:
    browser.open(pages["heat map"])
    column = """
      (() => {
        const table = [...document.querySelectorAll("table.sortable")].at(-1);
        const heads = [...table.tHead.rows[0].cells];
        const place = heads.findIndex(head => head.textContent.trim().startsWith(%s));
        heads[place].querySelector("button").click();
        const texts = [...table.tBodies[0].rows].map(row => row.cells[place].textContent);
        return [heads[place].getAttribute("aria-sort"), texts];
      })()
    """
    for title, words in (("target mIoU", ["descending", "ascending"]), ("run", ["ascending", "descending"])):
        for word in words:
            order, texts = browser.evaluate(column % json.dumps(title))
            numbers = [float(text) for text in texts]
            assert order == word
            assert len(numbers) == 54 and numbers == sorted(numbers, reverse=word == "descending")


def test_without_scripts_the_page_is_whole(browser: Browser, pages: dict[str, Path]) -> None:
    text = "document.body.innerText.replace(/↕|\\s+/g, ' ').replace(/ +/g, ' ')"
    browser.open(pages["comparison"])
    with_scripts = browser.evaluate(text)
    browser.call("Emulation.setScriptExecutionDisabled", value=True)
    try:
        browser.open(pages["comparison"])
        assert browser.evaluate(text) == with_scripts
    finally:
        browser.call("Emulation.setScriptExecutionDisabled", value=False)


@pytest.mark.parametrize("name", ["run", "comparison"])
def test_it_prints_dark_on_white_across_the_page(browser: Browser, pages: dict[str, Path], name: str) -> None:
    browser.open(pages[name], 794, is_dark=True)
    browser.call("Emulation.setEmulatedMedia", media="print", features=DARK)
    try:
        assert browser.evaluate("document.documentElement.scrollWidth") <= 794
        assert browser.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
        assert min(browser.evaluate(CONTRASTS)) >= 4.5
    finally:
        browser.call("Emulation.setEmulatedMedia", media="")
