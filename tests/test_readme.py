"""README, docs and configs say what is true: their paths exist and their commands run."""

import csv
import doctest
import re
import shlex
import shutil
import subprocess
import sys
from hashlib import sha256
from pathlib import Path

import pytest
import torch
from torchvision.models import resnet18

from backbone import write_weights
from calls import Call
from cli.runs import make_flat
from images import make_splits
from neither.config.loader import load_config
from neither.data.corrections import Answer, AnswerFile
from scripts import ROOT

pytestmark = pytest.mark.usefixtures("no_plots", "small_backbone")

README = (ROOT / "README.md").read_text()
SOFTMAX = ROOT / "docs" / "softmax.md"
API, EXPORT, GUIDE = (ROOT / "docs" / f"{name}.md" for name in ("api", "export", "guide"))
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "data" / "README.md",
         *sorted((ROOT / "docs").glob("*.md"))]  # fmt: skip
CONFIGS = sorted((ROOT / "configs").glob("*.yaml"))
SCRIPTS = {path.stem for path in (ROOT / "scripts").glob("*.py")}
# Compiling takes a minute; test_compilation.py does it with less.
LIGHT = ["train.epochs=1", "train.batch_size=32", "data.image_size=64", "compile=false"]


def code_blocks(text: str, language: str) -> list[str]:
    fenced = re.findall(r"```(\w*)\n(.*?)```", text, re.DOTALL)
    return [block for name, block in fenced if name == language]


def commands() -> list[list[str]]:
    """Return every call of a script that the README, a config or a page of docs shows, once."""
    lines = "".join(code_blocks(README, "bash")).splitlines()
    lines += [line.removeprefix("# ") for path in CONFIGS for line in path.read_text().splitlines()]
    for page in (SOFTMAX, EXPORT, GUIDE):
        lines += "".join(code_blocks(page.read_text(), "bash")).splitlines()
    calls = [re.split(" [#>]", line)[0] for line in lines if line.startswith("python scripts/")]
    return [shlex.split(call) for call in dict.fromkeys(calls)]


def test_the_readme_shows_a_command_for_every_script() -> None:
    assert {Path(call[1]).stem for call in commands()} == SCRIPTS


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder that looks like the checkout, with few images where the commands look."""
    home = tmp_path_factory.mktemp("home")
    shutil.copytree(ROOT / "configs", home / "configs")
    (block,) = code_blocks(GUIDE.read_text(), "yaml")
    (home / "configs" / "fruit.yaml").write_text(block)
    write_weights(home / "weights.pth")
    make_flat(home / "fruit", 24, apple="dog", pear="human", neither="neither")
    for number, path in enumerate(sorted((home / "fruit" / "neither").iterdir())):
        kind = path.parent / f"kind {number // 2}"
        kind.mkdir(exist_ok=True)
        path.rename(kind / path.name)
    make_flat(home, 2, new_photos="dog")
    make_flat(home / "strange", 3, mugs="neither")
    for folder in (home / "data" / "demo", home / "data" / "cifar", home / "FOLDER"):
        make_splits(folder, train=16, val=4, test=4)
    shutil.copytree(home / "FOLDER" / "test", home / "holiday")
    shutil.copy(home / "holiday" / "dog" / "000.png", home / "cat.jpg")
    unseen = [home / "data" / name / "unseen" for name in ("demo", "cifar")]
    for folder in (*unseen, home / "OTHER_THINGS"):
        shutil.copytree(home / "FOLDER" / "test" / "dog", folder / "teapots")
    weights = home / "torch" / "hub" / "checkpoints" / "resnet18-f37072fd.pth"
    weights.parent.mkdir(parents=True)
    torch.save(resnet18().state_dict(), weights)  # random ones, where torch keeps its downloads
    return home


@pytest.mark.parametrize("command", commands(), ids=" ".join)
def test_the_commands_of_the_readme_run(
    command: list[str], home: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the order of the README, as each continues from those before it."""
    monkeypatch.chdir(home)
    monkeypatch.setenv("TORCH_HOME", str(home / "torch"))
    _, script, *arguments = command
    # Draws 5,400 images, or wants a network or a set: tests/data/demo and sources do with less.
    if script == "scripts/prepare_data.py":
        arguments = [arguments[0], "--help"]
    if script in ("scripts/serve.py", "scripts/review.py"):  # which end at a signal
        arguments += ["--help"]
    if script == "scripts/review.py" and arguments[0] == "runs/fruit":
        digest = sha256((home / "fruit" / "apple" / "001.png").read_bytes()).hexdigest()
        answer = Answer(digest, "", "apple", "pear", "label issues")
        AnswerFile(home / "runs" / "fruit" / "corrections.csv", ("apple", "pear")).append([answer])
    if script in ("scripts/train.py", "scripts/cross_validate.py"):
        arguments += lighter(home / arguments[0], *arguments)
    done = call(Path(script).stem, *arguments)
    assert done.code == 0, done.err


def test_the_commands_left_what_the_guide_says(home: Path) -> None:
    for left in ("runs/fruit/report.html", "runs/fruit.1/report.html", "sorted", "maps",
                 "runs/fruit/evaluations/fruit-test/report.html"):  # fmt: skip
        assert (home / left).exists(), left
    with (home / "runs/fruit/splits.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["label"] == "neither"]
    kinds = {(row["split"], Path(row["path"]).parent.name) for row in rows}
    assert {split for split, _ in kinds} == {"train", "val", "test"}
    assert len({kind for _, kind in kinds}) == len(kinds) == 12, "a kind is in one split alone"


def lighter(config: Path, *given: str) -> list[str]:
    """Return overrides that let a config train in a moment."""
    width = [] if "softmax_regression" in config.name else ["model.width=8"]
    is_small = "efficientnet_lite0" in config.read_text() and "model.name=resnet18" not in given
    weights = ["model.weights=weights.pth"] if is_small else []
    warmup = ["train.warmup_epochs=0"] if "train.warmup_epochs" in config.read_text() else []
    return [*LIGHT, *width, *weights, *warmup]


@pytest.mark.parametrize("page", [API, EXPORT], ids=lambda path: path.name)
def test_the_python_of_a_page_runs_after_the_commands(
    page: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(home)
    light = lighter(Path("configs") / "photos_quick.yaml")
    code = "\n".join(code_blocks(page.read_text(), "python"))
    code = code.replace('["data.root=FOLDER"]', repr(["data.root=FOLDER", *light]))
    exec(compile(code, page.name, "exec"), {"__name__": "__main__"})  # noqa: S102


def test_the_example_reads_what_was_exported(home: Path) -> None:
    (line,) = [line for line in "".join(code_blocks(EXPORT.read_text(), "bash")).splitlines()
               if line.startswith("python docs/")]  # fmt: skip
    _, script, *arguments = shlex.split(line)
    done = subprocess.run([sys.executable, "-W", "error", ROOT / script, *arguments], cwd=home,
                          capture_output=True, text=True, check=False)  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(r"cat.jpg \w+ dog=0\.\d+ human=0\.\d+ neither=0\.\d+\n", done.stdout)


def test_what_softmax_md_shows_is_what_python_answers() -> None:
    found = doctest.testfile(str(SOFTMAX), module_relative=False, encoding="utf-8")
    assert found.attempted > 20
    assert found.failed == 0


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_config_loads_and_opens_with_its_command_and_result(path: Path) -> None:
    config = load_config(path)
    assert config.name == path.stem
    schema, command, *comment = (line for line in path.read_text().splitlines() if line[0] == "#")
    assert schema == "# yaml-language-server: $schema=schema.json"
    assert command.startswith(f"# python scripts/train.py configs/{path.name}")
    measured = re.search(r"\d+ s on 2 cores.*: .*\d\.\d+", " ".join(comment))
    assert bool(measured) != comment[0].startswith("# Not measured: "), "time, machine, result"
    assert f"configs/{path.name}" in README


def test_the_config_in_the_readme_loads(tmp_path: Path) -> None:
    (block,) = code_blocks(README, "yaml")
    config = tmp_path / "config.yaml"
    config.write_text(block)
    assert load_config(config).classes == ("apple", "pear", "neither")


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_to_files_of_the_project(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
        assert (page.parent / target).exists(), target


def test_the_tree_of_the_architecture_page_lists_every_folder() -> None:
    tree = code_blocks((ROOT / "docs" / "architecture.md").read_text(), "")[0]
    shown = set(re.findall(r"^  (\w+)/ ", tree, re.MULTILINE))
    existing = {path.parent.name for path in (ROOT / "src" / "neither").glob("*/__init__.py")}
    assert shown == existing


def test_the_readme_is_short() -> None:
    assert len(README.splitlines()) <= 230


def test_the_ci_runs_the_test_command_of_the_readme() -> None:
    assert "make test" in README
    assert "make test" in (ROOT / ".ci" / "run").read_text().splitlines()
