"""The Dockerfile and compose.yaml, checked without Docker."""

import re
import shlex
import tomllib
from typing import Any

import pytest
import yaml
from tensorboard import program

from neither.config.loader import load_config
from scripts import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
COMPOSE = yaml.safe_load((ROOT / "compose.yaml").read_text())
TRAIN, TENSORBOARD = (COMPOSE["services"][name] for name in ("train", "tensorboard"))
PAGE = (ROOT / "docs" / "container.md").read_text()


def instructions() -> list[tuple[str, str]]:
    """Return the Dockerfile's instructions as (name, rest), lines joined and comments left out."""
    lines = (ROOT / "Dockerfile").read_text().splitlines(keepends=True)
    text = "".join(line for line in lines if not line.startswith("#")).replace("\\\n", "")
    split = [line.split(maxsplit=1) for line in text.splitlines() if line.strip()]
    return [(name, rest) for name, rest in split]


def stages() -> dict[str, list[tuple[str, str]]]:
    """Return the instructions of each stage by its name, the last one's by ''."""
    by_stage: dict[str, list[tuple[str, str]]] = {}
    for name, rest in instructions():
        if name == "FROM":
            by_stage[rest.partition(" AS ")[2]] = []
        if by_stage:
            list(by_stage.values())[-1].append((name, rest))
    return by_stage


STAGES = stages()
IMAGE = STAGES["neither"]


def values(name: str) -> list[str]:
    return [rest for instruction, rest in IMAGE if instruction == name]


def index(name: str, word: str) -> int:
    return next(i for i, (each, rest) in enumerate(IMAGE) if each == name and word in rest)


def mounts(service: dict[str, Any]) -> dict[str, str]:
    """Return what each volume of a service is mounted with: its source, and `:ro` if read-only."""
    plain = [re.sub(r"\$\{\w+:-(.*?)\}", r"\1", volume) for volume in service["volumes"]]
    split = [volume.split(":") for volume in plain]
    return {target: ":".join([source, *mode]) for source, target, *mode in split}


def documented_calls() -> list[list[str]]:
    """Return each `neither ...` of the Dockerfile, compose.yaml and container.md, as its words."""
    page = "\n".join(re.findall(r"```bash\n(.*?)```", PAGE, re.DOTALL)).replace("\\\n", "")
    head = "".join(re.findall("^# .*\n", (ROOT / "compose.yaml").read_text(), re.MULTILINE))
    smoke = next(rest for name, rest in STAGES["smoke"] if name == "RUN")
    text = "\n".join([smoke.replace("&&", "\n"), page, head])
    lines = re.findall(r"(?:\bneither|compose run --rm train) ([a-z]+(?:_[a-z]+)?\b.*)", text)
    calls = [shlex.split(re.split("  +", call)[0]) for call in lines]
    return [*calls, TRAIN["command"]]


def test_without_a_target_the_image_itself_is_built() -> None:
    assert list(STAGES) == ["neither", "smoke", ""]
    assert STAGES[""] == [("FROM", "neither")]


def test_all_that_is_copied_exists_and_passes_dockerignore() -> None:
    ignored, *let_in = (ROOT / ".dockerignore").read_text().splitlines()
    assert ignored == "*"
    for copied in values("COPY"):
        for source in copied.split()[:-1]:
            assert (ROOT / source).exists(), source
            assert f"!{source}" in let_in


def test_the_user_is_not_root_and_comes_after_all_that_is_installed() -> None:
    (user,) = values("USER")  # a number, so that an orchestrator can tell
    assert int(user) > 0
    assert all(name != "RUN" for name, _ in IMAGE[index("USER", user) :])
    assert not [rest for name, rest in STAGES["smoke"] if name == "USER"]


def test_compose_mounts_data_read_only_and_shares_the_runs() -> None:
    assert mounts(TRAIN) == {
        "/neither/data": "./data:ro",
        "/neither/runs": "runs",
        "/cache": "cache",
    }
    assert mounts(TENSORBOARD) == {"/neither/runs": "runs:ro"}
    assert set(COMPOSE["volumes"]) == {"runs", "cache"}
    assert TRAIN["image"] == TENSORBOARD["image"]
    assert set(TRAIN["build"]["args"]) <= {"BASE", "TORCH_INDEX"}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of packages that it uses
def test_tensorboard_takes_its_arguments_and_its_port_is_published() -> None:
    assert TENSORBOARD["entrypoint"] == ["tensorboard"]
    board = program.TensorBoard()
    board.configure(["tensorboard", *TENSORBOARD["command"]])
    flags = board.flags
    assert (flags.logdir, flags.host, flags.port) == ("runs", "0.0.0.0", 6006)  # noqa: S104
    assert [port.split(":")[-1] for port in TENSORBOARD["ports"]] == ["6006"]
    assert "6006" in values("EXPOSE")


@pytest.mark.parametrize("call", documented_calls(), ids=" ".join)
def test_the_commands_exist_and_their_configs_load(call: list[str]) -> None:
    assert [yaml.safe_load(rest) for rest in values("ENTRYPOINT")] == [["neither"]]
    assert "neither" in PROJECT["scripts"]
    assert (ROOT / "scripts" / f"{call[0]}.py").exists()
    if call[0] == "train":
        load_config(ROOT / call[1], [word for word in call[2:] if "=" in word])
