import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from urllib.request import urlopen

import pytest

from calls import Call
from neither.cli import serve
from scripts import ROOT


@pytest.mark.usefixtures("watchdog")
def test_serve_answers_what_is_running_and_ends_as_told(
    call: Call, flat: tuple[Path, Path, str]
) -> None:
    root, run, _ = flat
    script = [sys.executable, str(ROOT / "scripts" / "serve.py")]
    command = [*script, str(run), "--host", "::", "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        address, token = process.stdout.readline().decode().strip().split("#")
        process.stderr.readline()  # when it listens
        image = next(root.rglob("*.png"))
        port = int(address.rstrip("/").rpartition(":")[2])
        head = f"POST /v1/predict HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {token}\r\n"
        with socket.create_connection(("127.0.0.1", port)) as sender:
            content = image.read_bytes()
            sender.sendall(f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content[:-1])
            with urlopen(f"http://127.0.0.1:{port}/healthz") as response:
                assert json.load(response) == {"status": "ok"}
            process.send_signal(signal.SIGTERM)
            sender.sendall(content[-1:])
            answer = b"".join(iter(lambda: sender.recv(1000), b""))
        log = process.stderr.read().decode()
        assert process.wait() == 143
    (record,) = json.loads(answer.partition(b"\r\n\r\n")[2])["predictions"]
    expected = json.loads(call("predict", run, image, "--format", "jsonl").out)
    assert record == expected | {"path": ""}
    assert token not in log
    assert "Traceback" not in log


@pytest.mark.usefixtures("watchdog")
def test_what_keeps_serve_from_starting(
    call: Call, flat: tuple[Path, Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, run, _ = flat
    with socket.create_server(("127.0.0.1", 0)) as other:
        done = call("serve", run, "--port", str(other.getsockname()[1]))
        assert done.code == 6
        assert "--port" in done.err
    assert call("serve", run, "--port", "0", "--host", "no.such.host.invalid").code == 2
    assert call("serve", run, "--port", "65536").code == 2
    (tmp_path / "broken.pt").write_bytes(os.urandom(100))
    assert call("serve", tmp_path / "broken.pt", "--port", "0").code == 5
    assert call("serve", tmp_path / "missing", "--port", "0").code == 2
    monkeypatch.setattr(serve, "find_spec", lambda name: None if name == "fastapi" else name)
    done = call("serve", run)
    assert done.code == 6
    assert "neither[serve]" in done.err
