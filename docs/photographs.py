"""Photograph the pages of a finished `make demo` in headless Chromium, for the README.

    .venv/bin/python docs/photographs.py

`curves.png` is the custom-scalars page of TensorBoard, `report.png` the top of the report.
"""

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Browser, sync_playwright

DOCS = Path(__file__).parent
RUN = DOCS.parent / "runs" / "demo"
REPORT = RUN / "evaluations" / "demo-test" / "report.html"
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-sync"]


def main() -> None:
    """Take the photographs."""
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        sys.exit("install chromium first")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        photograph_report(browser, DOCS / "report.png")
        with tensorboard() as address:
            photograph_curves(browser, address, DOCS / "curves.png")
        browser.close()


def photograph_report(browser: Browser, target: Path) -> None:
    """Show what a reader sees first."""
    page = browser.new_page(viewport={"width": 1100, "height": 900})
    page.goto(REPORT.resolve().as_uri())
    page.screenshot(path=target)


def photograph_curves(browser: Browser, address: str, target: Path) -> None:
    """Show loss, recall and calibration on one page, once every line is drawn."""
    page = browser.new_page(viewport={"width": 1400, "height": 760})
    page.set_default_timeout(60_000)
    page.goto(f"{address}#custom_scalars")
    lines = page.locator("tf-custom-scalar-multi-line-chart-card path.line[d^=M]")
    lines.nth(11).wait_for(state="attached")
    page.screenshot(path=target)


@contextmanager
def tensorboard() -> Iterator[str]:
    """Serve the run; give the address."""
    server = subprocess.Popen(
        [sys.executable, "-m", "tensorboard.main", "--logdir", RUN.relative_to(DOCS.parent),
         "--port", "0", "--host", "127.0.0.1", "--load_fast", "false"],
        cwd=DOCS.parent, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        said = iter(server.stderr or ())
        yield next(found[0] for line in said if (found := re.search(r"http://\S+:\d+/", line)))
    finally:
        server.kill()
        server.communicate()


if __name__ == "__main__":
    main()
