"""The report in a real browser, opened from disk. One browser for all tests."""

import json
import shutil
import time
from pathlib import Path

import numpy as np
import pytest

from tests.report.conftest import CLASSES, HOSTILE, hostile_failed_row
from tests.scored import write_rows
from zsad import read_predictions
from zsad.evaluation.thresholds import parse_rule
from zsad.report.site import build_report

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
CHROMEDRIVER = shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(
    not (CHROMIUM and CHROMEDRIVER), reason="needs Chromium and chromedriver (Debian: chromium, chromium-driver)"
)
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --disable-dev-shm-usage --window-size=1280,900"
)
IMAGES = 120


@pytest.fixture(scope="module")
def output(make_run):
    output = make_run(IMAGES)
    build_report(output, details=2)
    return output


@pytest.fixture(scope="module")
def predictions(output):
    return read_predictions(output)


@pytest.fixture(scope="module")
def driver(tmp_path_factory):
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in [*FLAGS.split(), f"--user-data-dir={tmp_path_factory.mktemp('profile')}"]:
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(CHROMEDRIVER))
    yield driver
    driver.quit()


class Page:
    """The report as a reader uses it."""

    def __init__(self, driver, output):
        self.driver = driver
        self.url = (Path(output) / "report" / "index.html").as_uri()

    def open(self, fragment=""):
        self.driver.get("about:blank")
        for kind in ("browser", "performance"):
            self.driver.get_log(kind)
        self.driver.get(self.url + fragment)
        self.until("return document.querySelectorAll('#grid .card').length > 0")
        return self

    def run(self, script, *arguments):
        return self.driver.execute_script(script, *arguments)

    def until(self, script, *arguments, seconds=20):
        end = time.monotonic() + seconds
        while not self.run(script, *arguments):
            assert time.monotonic() < end, f"waited in vain for: {script}"
            time.sleep(0.05)

    def set(self, element, value, event="change"):
        self.run(
            "const e = document.getElementById(arguments[0]); e.value = arguments[1];"
            "e.dispatchEvent(new Event(arguments[2], {bubbles: true}))",
            element,
            str(value),
            event,
        )
        self.run(
            "return new Promise(done => requestAnimationFrame(() => requestAnimationFrame(() => setTimeout(done))))"
        )

    def press(self, *keys):
        from selenium.webdriver import ActionChains
        from selenium.webdriver.common.keys import Keys

        for key in keys:
            ActionChains(self.driver).send_keys(getattr(Keys, key, key)).perform()

    def text(self, element):
        return self.run("return document.getElementById(arguments[0]).textContent", element)

    def counts(self):
        return {name: int(self.text(f"count-{name}").replace(",", "")) for name in ("tp", "fp", "fn", "tn")}

    def found(self):
        return int(self.text("found").split()[0].replace(",", ""))

    def cards(self):
        self.until("return [...document.querySelectorAll('#grid .card')].length > 0")
        return self.run("return [...document.querySelectorAll('#grid .card')].map(c => c.title)")

    def problems(self):
        """Console errors, refused loads, and requests that are not to the disk."""
        console = [entry["message"] for entry in self.driver.get_log("browser")]
        events = [json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")]
        urls = [event["params"]["request"]["url"] for event in events if event["method"] == "Network.requestWillBeSent"]
        assert urls, "the log of requests is not kept"
        return console + [url for url in urls if not url.startswith("file:///")]


@pytest.fixture
def page(driver, output):
    return Page(driver, output).open()


def expected_counts(rows, threshold):
    scored = rows[rows["status"] == "ok"]
    flagged = scored["pred_score"].astype("float64") >= threshold
    anomalous = scored["gt_label"] == 1
    pairs = {"tp": flagged & anomalous, "fp": flagged & ~anomalous, "fn": ~flagged & anomalous}
    return {name: int(kind.sum()) for name, kind in (pairs | {"tn": ~flagged & ~anomalous}).items()}


def test_opens_from_disk_in_both_themes_without_error_or_request(page):
    backgrounds = []
    for scheme in ("light", "dark"):
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        page.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
        page.open("#image-3")
        page.until("return document.querySelector('#detail .stage img')?.naturalWidth > 0")
        for name in ("metrics", "curves", "run", "gallery"):
            page.run("document.getElementById(arguments[0]).click()", f"tab-{name}")
            assert page.run("return document.getElementById(arguments[0]).getBoundingClientRect().height", name) > 100
        page.until("return [...document.images].every(i => i.loading === 'lazy' || (i.complete && i.naturalWidth))")
        assert page.problems() == []
        backgrounds.append(page.run("return getComputedStyle(document.body).backgroundColor"))
    assert backgrounds[0] != backgrounds[1]


def test_the_policy_refuses_a_foreign_script_and_an_inline_one(page):
    page.run("document.head.append(Object.assign(document.createElement('script'), {src: 'https://example.org/x.js'}))")
    page.run(
        "document.body.insertAdjacentHTML('beforeend', '<img src=\"https://example.org/x.png\" onerror=\"owned=1\">')"
    )
    time.sleep(0.3)
    refused = [entry["message"] for entry in page.driver.get_log("browser")]
    assert sum("Content Security Policy" in message for message in refused) >= 3
    assert page.run("return typeof owned") == "undefined"


def test_slider_counts_are_those_of_the_predictions(page, predictions):
    best = float(page.run("return document.getElementById('threshold-value').valueAsNumber"))
    f1 = page.counts()
    assert sum(f1.values()) == IMAGES
    assert 0 < best < 1
    seen = set()
    for position in (0, 250, 500, 750, 1000):
        page.set("threshold", position, "input")
        threshold = page.run("return Number(zsad.gallery.threshold())")
        assert page.counts() == expected_counts(predictions, threshold)
        seen.add(tuple(page.counts().values()))
        for kind in ("fp", "fn"):
            page.set("filter-decision", kind)
            assert page.found() == page.counts()[kind]
        page.set("filter-decision", "all")
    assert len(seen) == 5
    page.set("threshold-value", 0.5, "input")
    assert page.counts() == expected_counts(predictions, 0.5)
    page.run("document.getElementById('threshold-best').click()")
    page.until("return document.getElementById('count-tp').textContent === arguments[0]", str(f1["tp"]))
    assert page.counts() == f1


def test_threshold_of_a_class_is_that_of_the_metrics_table(page, predictions, output):
    import pandas as pd

    metrics = pd.read_parquet(Path(output) / "metrics" / "native.parquet").query(
        "level == 'sample' and metric == 'f1_max'"
    )
    for name in CLASSES:
        position = sorted(CLASSES).index(name)
        page.set("filter-class", position)
        row = metrics[metrics["category"] == name].iloc[0]
        assert page.counts() == expected_counts(predictions[predictions["category"] == name], row["threshold"])
        # What is copied from the box into --threshold score:S decides alike.
        shown = page.run("return document.getElementById('threshold-value').value")
        assert np.float32(parse_rule(f"score:{shown}").score) == np.float32(row["threshold"])
        f1 = float(page.text("rates").split("F1 ")[1].split()[0])
        assert f1 == pytest.approx(100 * row["value"], abs=0.051)


def test_filters_orders_and_pages(page, predictions):
    ranked = predictions.sort_values(["pred_score", "image_id"], ascending=[False, True])
    assert page.found() == IMAGES + 2
    assert page.cards() == ranked["image_id"].tolist()[:48]
    page.press("n")
    page.until("return document.querySelector('#grid .card').dataset.number === '48'")
    assert page.cards() == ranked["image_id"].tolist()[48:96]
    page.set("filter-label", "1")
    assert page.found() == int((predictions["gt_label"] == 1).sum())
    page.set("filter-label", "all")
    page.set("filter-status", "error")
    assert page.found() == 2
    assert sorted(page.cards()) == sorted(predictions[predictions["status"] == "error"]["image_id"])
    page.set("filter-status", "ok")
    page.set("filter-class", sorted(CLASSES).index("candle"))
    assert page.found() == int(((predictions["category"] == "candle") & (predictions["status"] == "ok")).sum())
    page.set("sort", "low")
    candles = ranked[(ranked["category"] == "candle") & (ranked["status"] == "ok")]
    page.until("return document.querySelector('#grid .card').title === arguments[0]", candles["image_id"].iloc[-1])


def test_keyboard_alone(page):
    page.run("document.querySelector('#grid .card').focus()")
    page.press("ARROW_RIGHT", "ARROW_RIGHT")
    assert page.run("return document.activeElement.dataset.number") == "2"
    columns = page.run(
        "const c = [...document.querySelectorAll('#grid .card')]; return c.filter(n => n.offsetTop === c[0].offsetTop).length"
    )
    page.press("ARROW_DOWN")
    assert page.run("return document.activeElement.dataset.number") == str(2 + columns)
    page.press("ENTER")
    page.until("return document.querySelector('#detail[open] .score') !== null")
    first = page.text("detail-title")
    page.press("ARROW_RIGHT")
    page.until("return document.getElementById('detail-title').textContent !== arguments[0]", first)
    hidden = "return getComputedStyle(document.querySelector('#detail .stage .heat')).display === 'none'"
    assert not page.run(hidden)
    page.press("h")
    assert page.run(hidden)
    page.press("ESCAPE")
    page.until("return !document.getElementById('detail').open")
    page.until("return document.activeElement.dataset.number === arguments[0]", str(3 + columns))
    page.press("?")
    assert page.run("return document.getElementById('help').open")
    page.press("ESCAPE")
    assert page.problems() == []


def test_detail_view_tells_why(page, predictions):
    top = predictions.loc[predictions["pred_score"].idxmax()]
    page.open("#image-0")
    page.until("return document.querySelector('#detail[open] .score') !== null")
    text = page.text("detail")
    assert f"{top['pred_score']:.4f}" in text
    assert f"The image's score is the highest of 2 components: {top['pred_score']:.4f}." in text
    assert ", in component 0." in text
    rows = "return [...document.querySelectorAll('#detail .figures tbody th')].map(cell => cell.textContent)"
    assert page.run(rows) == ["0", "1"], "as in the column tiles"
    assert page.run("return document.querySelectorAll('#detail .stage .tile').length") == 2
    assert page.run("return document.querySelector('#detail .outline:not(.casing)').getAttribute('d')").startswith("M")
    scored = predictions[predictions["status"] == "ok"]
    page.run("location.hash = arguments[0]", f"#image-{len(scored)}")
    page.until("return document.querySelector('#detail').textContent.includes('Not scored')")
    assert f"broken {HOSTILE}" in page.text("detail")


def test_a_failed_image_with_a_picture_is_marked(driver, make_run):
    output = make_run(4, evaluated=False)
    photograph = read_predictions(output).query("status == 'ok'")["image_path"].iloc[0]
    failed = hostile_failed_row(3) | {"image_path": photograph, "error_stage": "instances"}
    write_rows(output, 9, [failed])
    build_report(output)
    page = Page(driver, output).open()
    cards = "return [...document.querySelectorAll('.card')].map(c => [c.querySelector('.photo') !== null, "
    shown = page.run(cards + "c.querySelector('.missing')?.textContent ?? null])")
    assert sorted(map(str, shown)) == sorted(
        map(str, [[True, None]] * 4 + [[True, "failed"]] + [[False, "failed"]] * 2)
    )


def test_hostile_names_are_text(page):
    page.set("filter-class", sorted(CLASSES).index(HOSTILE))
    page.until("return document.querySelectorAll('#grid .card').length === 40")
    assert any(HOSTILE in title for title in page.cards())
    number = page.run(
        "return [...document.querySelectorAll('.card')].find(c => c.title.includes('onerror')).dataset.number"
    )
    page.run("location.hash = arguments[0]", f"#image-{number}")
    page.until("return document.querySelector('#detail[open] .score') !== null")
    assert HOSTILE in page.text("detail")
    assert page.run("return document.querySelectorAll('img[onerror], img[src=x], [onerror]').length") == 0
    assert "owned" not in page.driver.title.replace(HOSTILE, "")
    assert page.problems() == []


def test_fits_a_phone(page):
    metrics = {"width": 390, "height": 844, "deviceScaleFactor": 2, "mobile": True}
    page.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    try:
        page.open("#image-0")
        page.until("return document.querySelector('#detail[open] .score') !== null")
        assert page.run("return document.getElementById('detail').scrollWidth") <= 390
        page.press("ESCAPE")
        for name in ("metrics", "curves", "run", "gallery"):
            page.run("document.getElementById(arguments[0]).click()", f"tab-{name}")
            assert page.run("return document.documentElement.scrollWidth") <= 390, name
        cut = "return [...document.querySelectorAll('.card strong')].filter(n => n.scrollWidth > n.clientWidth).length"
        assert page.run("document.querySelector('.mark').textContent = 'a decision of many words'; " + cut) == 0
    finally:
        page.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_first_page_loads_little(page):
    events = [json.loads(entry["message"])["message"] for entry in page.driver.get_log("performance")]
    urls = {event["params"]["request"]["url"] for event in events if event["method"] == "Network.requestWillBeSent"}
    names = [url.rsplit("/", 1)[1] for url in urls]
    assert "rows-0.js" in names
    assert not [name for name in names if name.startswith("details-") or "large" in name]
