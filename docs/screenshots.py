"""Take screenshots of the pages of a finished `make demo` in headless Chromium, for the docs.

    .venv/bin/python docs/screenshots.py

`curves.png` is the custom-scalars page of TensorBoard, `report.png` the top of the report,
`serve.png` the page of `serve.py` with some images, `review.png` that of `review.py` after ten
answers.
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
IMAGES = DOCS.parent / "data" / "demo" / "test"
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
        with started("scripts/serve.py", RUN, "--port", "0") as address:
            capture_page(browser, address, DOCS / "serve.png")
        with started("-m", "tensorboard.main", "--logdir", RUN.relative_to(DOCS.parent), "--port",
                     "0", "--host", "127.0.0.1", "--load_fast", "false") as address:  # fmt: skip
            capture_curves(browser, address, DOCS / "curves.png")
        browser.close()


def capture_report(browser: Browser, target: Path) -> None:
    """Capture the top of the report."""
    page = browser.new_page(viewport={"width": 1100, "height": 900})
    page.goto(REPORT.resolve().as_uri())
    page.screenshot(path=target)


def capture_review(browser: Browser, target: Path, run: Path = RUN) -> None:
    """Capture the page of a review, in the queue of the random sample."""
    with (
        TemporaryDirectory(dir=DOCS.parent / "runs") as folder,
        started(
            "scripts/review.py", run, "--port", "0", "--corrections",
            Path(folder).relative_to(DOCS.parent) / "corrections.csv",
        ) as address,
    ):  # fmt: skip
        page = browser.new_page(viewport={"width": 1100, "height": 980})
        page.goto(address)
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


def capture_curves(browser: Browser, address: str, target: Path) -> None:
    """Capture the custom-scalars page, after every line is drawn."""
    page = browser.new_page(viewport={"width": 1400, "height": 760})
    page.set_default_timeout(60_000)
    page.goto(f"{address}#custom_scalars")
    lines = page.locator("tf-custom-scalar-multi-line-chart-card path.line[d^=M]")
    lines.nth(11).wait_for(state="attached")
    page.screenshot(path=target)


def capture_page(browser: Browser, address: str, target: Path) -> None:
    """Capture the page with three images, one of them with its heat map."""
    page = browser.new_page(viewport={"width": 1100, "height": 960})
    page.goto(address)
    images = [path for name in ("dog", "human", "neither") for path in IMAGES.glob(f"{name}/*7.*")]
    page.locator("#files").set_input_files(sorted(images)[:: len(images) // 3][:3])
    page.locator(".card button").nth(2).wait_for()
    page.locator(".card button").first.click()
    page.locator(".card img").wait_for()
    page.screenshot(path=target)


@contextmanager
def started(*arguments: str | Path) -> Iterator[str]:
    """Start a server and yield the address that it prints."""
    server = subprocess.Popen(
        [sys.executable, *arguments],
        cwd=DOCS.parent, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    try:
        lines = iter(server.stdout or ())
        found = (re.search(r"http://\S+:\d+/\S*", line) for line in lines)
        yield next(match[0] for match in found if match)
    finally:
        server.terminate()
        server.communicate()


if __name__ == "__main__":
    main()
