"""docs/guide.md, step by step, on few pictures of fruit."""

import re
import shlex
import shutil
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from images import draw_shape
from neither.config.loader import load_config
from neither.data.corrections import Answer, append_answers
from scripts import ROOT

pytestmark = pytest.mark.usefixtures("no_plots")

GUIDE = (ROOT / "docs" / "guide.md").read_text()
LIGHT = ["train.epochs=2", "train.batch_size=16", "data.image_size=64", "model.width=8"]


def lay_out(home: Path) -> None:
    """Make what the guide's reader has on the first evening."""
    folders = {"fruit": (24, ("apple", "pear", "neither")), "new_photos": (2, ("",)),
               "strange": (3, ("mugs",))}  # fmt: skip
    for folder, (num, places) in folders.items():
        for offset, place in enumerate(places):
            (home / folder / place).mkdir(parents=True)
            shape = {"apple": "dog", "pear": "human"}.get(place, "neither")
            for number in range(num):
                image = draw_shape(shape, 1000 * offset + number)
                image.save(home / folder / place / f"IMG_{number:04}.jpg", quality=95)
    (home / "configs").mkdir()
    (block,) = re.findall(r"```yaml\n(.*?)```", GUIDE, re.DOTALL)
    (home / "configs" / "fruit.yaml").write_text(block)


def test_every_command_of_the_guide_runs_in_its_order(
    call: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lay_out(tmp_path)
    monkeypatch.chdir(tmp_path)
    assert load_config(Path("configs/fruit.yaml")).classes == ("apple", "pear", "neither")
    lines = "\n".join(re.findall(r"```bash\n(.*?)```", GUIDE, re.DOTALL)).splitlines()
    commands = [shlex.split(line) for line in lines if line.strip()]
    assert ["tensorboard", "--logdir", "runs"] in commands
    names = []
    for python, script, *arguments in commands:
        if python == "tensorboard":
            continue
        name = Path(script).stem
        names.append(name)
        if name == "review":  # in a browser: tests/serving
            arguments.append("--help")
            digest = sha256(Path("fruit/apple/IMG_0001.jpg").read_bytes()).hexdigest()
            answer = Answer(digest, "", "apple", "pear", "label issues")
            append_answers(Path("runs/fruit/corrections.csv"), [answer], ("apple", "pear"))
        done = call(name, *arguments, *(LIGHT if name == "train" else []))
        assert done.code == 0, (arguments, done.err)
    assert names == [
        "check_data",
        "train",
        "review",
        "train",
        *["evaluate"] * 2,
        *["predict"] * 4,
        "evaluate",
    ]
    for left in ("runs/fruit/report.html", "runs/fruit.1/report.html", "sorted", "maps",
                 "runs/fruit/evaluations/fruit-test/report.html"):  # fmt: skip
        assert Path(left).exists(), left
    shutil.rmtree("runs")
