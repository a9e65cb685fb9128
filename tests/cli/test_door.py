"""Bad input gets one clear message and the right exit code."""

import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest

from neither.cli import main
from neither.runtime.errors import OutputError
from scripts import ROOT, run_script

QUICK = ROOT / "configs" / "photos_quick.yaml"
LIGHT = "import sys; {}; heavy = {{'torch', 'numpy', 'PIL', 'matplotlib'}} & set(sys.modules); "


def python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )


def test_importing_the_package_imports_nothing_heavy() -> None:
    done = python(LIGHT.format("import neither") + "sys.exit(len(heavy))")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("command", ["train", "evaluate", "prepare_data"])
def test_help_does_not_import_torch(command: str) -> None:
    code = (
        "import sys, atexit\n"
        "atexit.register(lambda: print('torch' in sys.modules))\n"
        f"sys.argv = ['x', '--help']\nfrom neither.cli.main.{command} import main\nmain()"
    )
    done = python(code)
    assert done.returncode == 0
    assert done.stdout.startswith("usage:")
    assert done.stdout.endswith("False\n")


def test_a_config_with_a_slip_is_refused_before_torch_is_imported(tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(QUICK.read_text().replace("epochs:", "epoch:"))
    code = (
        "import sys\n"
        f"sys.argv = ['x', {str(config)!r}]\nfrom neither.cli.train import main\n"
        "code = main()\nprint(code, 'torch' in sys.modules)"
    )
    done = python(code)
    assert done.stdout == "2 False\n"
    assert "did you mean train.epochs?" in done.stderr
    assert "Traceback" not in done.stderr


def refused(code: int, *arguments: str | Path, says: str) -> None:
    done = run_script(str(arguments[0]), *arguments[1:])
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert "error: " in done.stderr or last.startswith("usage")
    assert says in done.stderr


def test_usage_errors_exit_2(tmp_path: Path, make_images: Callable[..., Path]) -> None:
    refused(2, "train", tmp_path / "no.yaml", says="no such file")
    refused(2, "train", QUICK, "--epochs", "3", says="--epochs")
    refused(2, "train", QUICK, "train.epoch=3", says="did you mean train.epochs?")
    missing = tmp_path / "imagse"
    make_images()
    arguments = ("train", QUICK, f"data.root={missing}", "--output-dir", tmp_path / "run")
    refused(2, *arguments, says=f"did you mean {tmp_path / 'images'}?")
    refused(2, "evaluate", tmp_path / "no", tmp_path, says="no such run or checkpoint")
    inside = ("--output-dir", tmp_path / "images" / "run")
    refused(
        2, "train", QUICK, f"data.root={tmp_path / 'images'}", *inside, says="lies in the folder"
    )


def test_data_errors_exit_3_and_can_be_mended(
    tmp_path: Path, make_images: Callable[..., Path]
) -> None:
    root = make_images()
    (root / "train" / "dog").rename(root / "train" / "Dogs")
    arguments = ("train", QUICK, f"data.root={root}", "--output-dir", tmp_path / "run")
    refused(3, *arguments, says="folder Dogs: did you mean dog?")
    (root / "train" / "Dogs").rename(root / "train" / "dog")
    done = run_script(*map(str, arguments), "train.epochs=0")
    assert done.returncode == 0, done.stderr


def test_a_file_that_is_no_checkpoint_exits_5(tmp_path: Path) -> None:
    checkpoint = tmp_path / "model.pt"
    checkpoint.write_text("not one")
    refused(5, "evaluate", checkpoint, tmp_path, says=str(checkpoint))
    refused(5, "evaluate", tmp_path, tmp_path, says="is this the folder of a run?")


def test_the_environment_exits_6(tmp_path: Path, make_images: Callable[..., Path]) -> None:
    root, taken = make_images(), tmp_path / "taken"
    taken.write_text("a file")
    refused(6, "train", QUICK, f"data.root={root}", "--output-dir", taken, says=str(taken))
    missing = ("device=cuda:99", "--output-dir", tmp_path / "run")
    refused(6, "train", QUICK, f"data.root={root}", *missing, says="choose auto or cpu")


def test_the_console_command_knows_the_commands() -> None:
    done = python("import sys; sys.argv = ['neither']; from neither.cli.main import main; main()")
    assert "train" in done.stdout
    assert "evaluate" in done.stdout
    code = "import sys; sys.argv = ['neither', 'fly']; from neither.cli.main import main; "
    assert python(code + "sys.exit(main())").returncode == 2
    code = code.replace("'fly'", "'train', '--help'")
    assert "usage: neither train" in python(code + "main()").stdout


def installed(monkeypatch: pytest.MonkeyPatch, torch: str, need: str) -> None:
    monkeypatch.setattr(main, "version", {"torch": torch, "torchvision": "0.29.2"}.__getitem__)
    monkeypatch.setattr(main, "requires", lambda _: ["numpy", need, 'torchdata>1; extra == "x"'])


@pytest.mark.parametrize(
    ("torch", "need"),
    [("2.13.0", "torch (>=2.14.0)"), ("2.16.0", "torch==2.15.0"), ("2.13.0+cpu", "torch>=2.14")],
)
def test_a_pair_that_does_not_match_is_told_with_the_remedy(
    torch: str, need: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed(monkeypatch, torch, need)
    with pytest.raises(OutputError, match="pip install --upgrade torch torchvision") as told:
        main.check_installation()
    assert "\n" not in str(told.value)
    assert torch.partition("+")[0] in str(told.value)


@pytest.mark.parametrize("need", ["torch (>=2.14.0)", "torch==2.15.0"])
def test_a_matching_pair_passes(need: str, monkeypatch: pytest.MonkeyPatch) -> None:
    installed(monkeypatch, "2.15.0+cu132", need)
    main.check_installation()


def test_a_missing_package_is_told_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> str:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(main, "version", missing)
    with pytest.raises(OutputError, match="torch is not installed"):
        main.check_installation()
