"""Take screenshots of the pages of a finished `make demo` in headless Chromium, for the README.

    .venv/bin/python docs/screenshots.py

`curves.png` is the custom-scalars page of TensorBoard, `report.png` the top of the report,
`review.png` the page of `review.py` after ten answers.
"""

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from playwright.sync_api import Browser, sync_playwright

DOCS = Path(__file__).parent
RUN = DOCS.parent / "runs" / "demo"
REPORT = RUN / "evaluations" / "demo-test" / "report.html"
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-sync"]


def main() -> None:
    """Take the screenshots."""
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        sys.exit("install chromium first")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        capture_report(browser, DOCS / "report.png")
        capture_review(browser, DOCS / "review.png")
        with tensorboard() as address:
            capture_curves(browser, address, DOCS / "curves.png")
        browser.close()


def capture_report(browser: Browser, target: Path) -> None:
    """Capture the top of the report."""
    page = browser.new_page(viewport={"width": 1100, "height": 900})
    page.goto(REPORT.resolve().as_uri())
    page.screenshot(path=target)


def capture_review(browser: Browser, target: Path, run: Path = RUN) -> None:
    """Capture the page of a review, in the queue of the random sample."""
    with TemporaryDirectory() as folder:
        script = str(DOCS.parent / "scripts" / "review.py")
        command = [sys.executable, script, str(run), "--port", "0",
                   "--corrections", f"{folder}/corrections.csv"]  # fmt: skip
        server = subprocess.Popen(command, cwd=DOCS.parent, stdout=subprocess.PIPE, text=True)
        page = browser.new_page(viewport={"width": 1100, "height": 980})
        page.goto((server.stdout or sys.stdin).readline().strip())
        page.get_by_role("button", name="random sample").click()
        for number in range(10):
            page.locator("#work[aria-busy=false]").wait_for()
            page.keyboard.press("k")
            page.get_by_text(f"{number + 1} of ").first.wait_for()
        for number in (1, 4):
            page.locator("#strip button").nth(number).click()
        page.locator("#work[aria-busy=false]").wait_for()
        page.locator("#bars .bar").first.wait_for()
        page.wait_for_timeout(2000)  # the strip
        page.screenshot(path=target)
        server.terminate()
        server.communicate()


def capture_curves(browser: Browser, address: str, target: Path) -> None:
    """Capture the custom-scalars page, after every line is drawn."""
    page = browser.new_page(viewport={"width": 1400, "height": 760})
    page.set_default_timeout(60_000)
    page.goto(f"{address}#custom_scalars")
    lines = page.locator("tf-custom-scalar-multi-line-chart-card path.line[d^=M]")
    lines.nth(11).wait_for(state="attached")
    page.screenshot(path=target)


@contextmanager
def tensorboard() -> Iterator[str]:
    """Serve the run and yield the address."""
    server = subprocess.Popen(
        [sys.executable, "-m", "tensorboard.main", "--logdir", RUN.relative_to(DOCS.parent),
         "--port", "0", "--host", "127.0.0.1", "--load_fast", "false"],
        cwd=DOCS.parent, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        lines = iter(server.stderr or ())
        yield next(found[0] for line in lines if (found := re.search(r"http://\S+:\d+/", line)))
    finally:
        server.kill()
        server.communicate()


if __name__ == "__main__":
    main()
