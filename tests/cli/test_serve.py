import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from urllib.request import urlopen

import pytest
import torch

from calls import Call
from neither.cli import command
from neither.inference.classifier import load_classifier
from neither.serving.app import describe_model
from scripts import ROOT


@pytest.mark.usefixtures("watchdog")
def test_serve_answers_what_is_running_and_ends_as_told(
    call: Call, flat: tuple[Path, Path, str]
) -> None:
    root, run, _ = flat
    script = [sys.executable, str(ROOT / "scripts" / "serve.py")]
    command = [*script, str(run), "--host", "::", "--port", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    with process, ExitStack() as stack:
        stack.callback(process.kill)  # if the watchdog barks
        assert process.stdout is not None
        assert process.stderr is not None
        address, token = process.stdout.readline().decode().strip().split("#")
        process.stderr.readline()  # when it listens
        image = next(root.rglob("*.png"))
        port = int(address.rstrip("/").rpartition(":")[2])
        head = f"POST /v1/predict HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {token}\r\n"
        sender = stack.enter_context(socket.create_connection(("127.0.0.1", port)))
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


def test_the_model_says_what_is_known_of_it_at_home_and_elsewhere(
    flat: tuple[Path, Path, str], tmp_path: Path
) -> None:
    shutil.copytree(flat[1], tmp_path / "run")
    for folder in (tmp_path / "run" / "evaluations").iterdir():
        if folder.name != "photos-val":  # of another test
            shutil.rmtree(folder)
    classifier = load_classifier(tmp_path / "run", torch.device("cpu"))
    known = describe_model(tmp_path / "run", classifier)
    assert [row["name"] for row in known["evaluations"]] == ["photos-val"]
    assert known["evaluations"][0]["sentences"]
    assert known["cross_validation"] == []
    left_out = {"accuracy": 0.75, "accuracy_interval": [0.7, 0.8], "precision": None, "ece": 0.1}
    left_out["expected_if_calibrated"] = {"ece": {"q95": 0.02}}
    content = {"folds": left_out, "decision_rule": {"threshold": None}}
    (tmp_path / "run-cv").mkdir()
    (tmp_path / "run-cv" / "metrics.json").write_text(json.dumps(content))
    (tmp_path / "run" / "evaluations" / "photos-val" / "metrics.json").write_text("[damaged")
    known = describe_model(tmp_path / "run", classifier)
    assert known["evaluations"] == []
    assert "75.0 %" in known["cross_validation"][0]["sentences"][0]


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
    monkeypatch.setattr(command, "find_spec", lambda name: None if name == "fastapi" else name)
    done = call("serve", run)
    assert done.code == 6
    assert "neither[serve]" in done.err
