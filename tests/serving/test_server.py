"""The server on a socket: slow senders, and what a browser shows and refuses."""

import csv
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from browser import chromium
from neither.inference.classifier import Classifier
from neither.inference.prediction import csv_header, to_csv
from neither.serving import server
from serving.conftest import TOKEN

Encode = Callable[..., bytes]

HEAD = b"POST /v1/predict HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 1000\r\n"
STARTS = (b"", HEAD, HEAD + b"\r\nrefused", HEAD + b"Authorization: Bearer the-token\r\n\r\nhalf")


@pytest.mark.parametrize("limit", ["_MAX_SILENT_TICKS", "_MAX_SLOW_TICKS"])
def test_a_silent_or_slow_sender_is_cut_off(
    address: str, limit: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(server, limit, 1)
    with ExitStack() as stack:
        where = "127.0.0.1", urlsplit(address).port
        senders = [stack.enter_context(socket.create_connection(where, 60)) for _ in STARTS]
        for sender, start in zip(senders, STARTS, strict=True):
            sender.sendall(start)
        for sender in senders:
            with suppress(ConnectionResetError):
                while sender.recv(1000):  # raises TimeoutError after a minute
                    pass
    assert "Traceback" not in caplog.text


def test_too_many_connections_or_chunks_are_refused(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    where = "127.0.0.1", urlsplit(address).port
    monkeypatch.setattr(server, "_MAX_CONNECTIONS", 1)
    first, second = (HTTPConnection(*where, timeout=60) for _ in range(2))
    for connection, status in ((first, 200), (second, 429), (first, 200)):
        connection.request("GET", "/healthz")
        response = connection.getresponse()
        assert (response.status, response.will_close) == (status, status == 429)
        response.read()
    first.close()
    monkeypatch.undo()
    start = HEAD.replace(b"Content-Length: 1000", b"Transfer-Encoding: chunked") + b"\r\n"
    with socket.create_connection(where, 60) as sender:
        sender.sendall(start + 5000 * b"1\r\nx\r\n")
        assert sender.recv(100).startswith(b"HTTP/1.1 400")


FOREIGN = """<!DOCTYPE html><title>foreign</title><script>
async function attempt(options) {
  try { return (await fetch("URLv1/predict", {credentials: "include", ...options})).type; }
  catch { return "failed"; }
}
async function run() {
  const body = new Blob(["x"]);
  const image = new Image();
  const shown = new Promise((done) => {
    image.onload = () => done("shown");
    image.onerror = () => done("failed");
  });
  image.src = "URLstatic/icon.svg";
  return [await attempt({method: "POST", body}), await attempt({}), await shown,
          await attempt({mode: "no-cors", method: "PUT", body})];
}
</script>
<form method="post" action="URLv1/predict" enctype="multipart/form-data"><button>go</button></form>
"""


@contextmanager
def foreign_page(address: str) -> Iterator[str]:
    """Serve a page on another port, to which browsers send the cookies of all ports."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(FOREIGN.replace("URL", address).encode())

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as foreign:
        threading.Thread(target=foreign.serve_forever).start()
        yield f"http://127.0.0.1:{foreign.server_port}/"
        foreign.shutdown()


def test_the_page(address: str, classifier: Classifier, encode: Encode, tmp_path: Path) -> None:
    names = ["dog.png", "=formula,.png", "<img src=x onerror=document.title='run'>.png"]
    for name, label in zip(names, ("dog", "human", "neither"), strict=True):
        (tmp_path / name).write_bytes(encode(label))
    (tmp_path / "broken.png").write_bytes(b"no image")
    paths = [tmp_path / name for name in (*names, "broken.png")]
    requests: list[str] = []
    problems: list[str] = []
    with chromium() as browser:
        page = browser.new_context(viewport={"width": 400, "height": 800}).new_page()
        page.on("request", lambda request: requests.append(request.url))
        page.on("console", lambda message: problems.append(message.text))
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.goto(f"{address}#{TOKEN}")
        page.locator("#rules li").first.wait_for()
        assert page.url == address
        assert [cookie["httpOnly"] for cookie in page.context.cookies()] == [True]
        page.locator("#files").set_input_files(paths)
        page.locator("#progress").wait_for(state="hidden")
        decisions = page.locator(".card .decision").all_inner_texts()
        assert decisions == ["dog", "human", "neither", "unreadable"]
        assert page.locator(".card .name").all_inner_texts() == [path.name for path in paths]
        page.locator(".card button").first.press("Enter")
        image = page.locator(".card img").first
        image.wait_for()
        assert image.evaluate("image => image.decode().then(() => image.naturalWidth)") == 512
        with page.expect_download() as download:
            page.locator("#save").press("Enter")
        expected = [csv_header(classifier.classes)]
        for path, (prediction, _, _) in zip(paths, classifier.predict_files(paths), strict=True):
            expected.append(to_csv(prediction, classifier.classes).replace(
                str(path).encode(), path.name.encode()))  # fmt: skip
        rows = list(csv.reader(Path(download.value.path()).read_text().splitlines()))
        wanted = list(csv.reader(b"".join(expected).decode().splitlines()))
        wanted[2][0] = "./=formula,.png"  # no formula in a spreadsheet
        assert rows == wanted
        page.evaluate(
            """async (bytes) => {
              const transfer = new DataTransfer();
              transfer.items.add(new File([new Uint8Array(bytes)], "pasted.png"));
              document.dispatchEvent(new ClipboardEvent("paste", {clipboardData: transfer}));
              const drop = new DragEvent("drop", {dataTransfer: transfer, bubbles: true});
              document.body.dispatchEvent(drop);
            }""",
            list(encode("dog")),
        )
        page.locator(".card .decision").nth(5).wait_for()
        assert page.title() == "serving"
        assert page.evaluate("document.documentElement.scrollWidth") == 400
        assert all(url.startswith((address, "blob:")) for url in requests), requests
        assert problems == []

        page.goto(address.replace("127.0.0.1", "rebound.localhost"))  # a name for this machine
        assert "--allowed-host" in page.locator("body").inner_text()
        with foreign_page(address) as foreign:
            page.goto(foreign)
            assert page.evaluate("run()") == ["failed"] * 4
            page.locator("button").click()
            page.wait_for_url(f"{address}**")
            assert "another origin" in page.locator("body").inner_text()
