"""Pictures of a report for the documentation, by headless Chromium with chromedriver.

python tools/screenshots.py OUT [--into docs] [--image NUMBER] [--dark]

Builds nothing: run `zsad report OUT` before. Writes report-1280.png and report-390.png (the gallery) and
detail-1280.png and detail-390.png (one image) into the folder; with --dark their names end in -dark.
"""

from __future__ import annotations

import argparse
import base64
import shutil
import tempfile
import time
from pathlib import Path

from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --hide-scrollbars --force-color-profile=srgb"
)
SIZES = {1280: (1280, 860, 1), 390: (390, 844, 2)}


def browser(profile: str) -> webdriver.Chrome:
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or shutil.which("google-chrome") or "chromium"
    for flag in [*FLAGS.split(), f"--user-data-dir={profile}"]:
        options.add_argument(flag)
    return webdriver.Chrome(options, webdriver.ChromeService(shutil.which("chromedriver")))


def shoot(driver: webdriver.Chrome, url: str, size: tuple[int, int, int], dark: bool, path: Path) -> None:
    width, height, factor = size
    driver.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": height, "deviceScaleFactor": factor, "mobile": width < 600},
    )
    scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": scheme})
    driver.get("about:blank")
    driver.get(url)
    WebDriverWait(driver, 20).until(lambda page: page.find_elements(By.CSS_SELECTOR, "#grid .card"))
    WebDriverWait(driver, 20).until(
        lambda page: page.execute_script(
            "return [...document.images].filter(i => i.getBoundingClientRect().top < innerHeight)"
            ".every(i => i.complete && i.naturalWidth)"
        )
    )
    time.sleep(0.5)
    path.parent.mkdir(parents=True, exist_ok=True)
    shot = driver.execute_cdp_cmd("Page.captureScreenshot", {"format": "png"})
    path.write_bytes(base64.b64decode(shot["data"]))
    print(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path, help="a run whose report is built")
    parser.add_argument("--into", type=Path, default=Path("docs"))
    parser.add_argument(
        "--image", type=int, default=0, help="number of the image in the detail view, 0 = highest score"
    )
    parser.add_argument("--dark", action="store_true")
    given = parser.parse_args()
    page = (given.output / "report" / "index.html").absolute()
    if not page.is_file():
        parser.error(f"{page} is missing; run 'zsad report {given.output}' first")
    ending = "-dark" if given.dark else ""
    with tempfile.TemporaryDirectory() as profile:
        driver = browser(profile)
        try:
            for name, size in SIZES.items():
                shoot(driver, page.as_uri(), size, given.dark, given.into / f"report-{name}{ending}.png")
                detail = f"{page.as_uri()}#image-{given.image}"
                shoot(driver, detail, size, given.dark, given.into / f"detail-{name}{ending}.png")
        finally:
            driver.quit()


if __name__ == "__main__":
    main()
