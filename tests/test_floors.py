"""The layout of the design: imports go down the floors only, and modules stay small."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import neither

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "src" / "neither"
FLOORS = {
    "__init__.py": 10,  # the Python API, beside the commands
    "cli": 10,
    "serving": 9,
    "training": 8,
    "reporting": 7,
    "evaluation": 6,
    "inference": 5,
    "models": 4,
    "datasets": 3,
    "demo": 3,
    "data": 2,
    "config": 1,
    "runtime": 0,
}
ONLY_FOR_PREPARE_DATA = {"datasets", "demo"}
FILES = sorted(SOURCE.rglob("*.py"))
MODULES = [path for path in FILES if path.name != "__init__.py" and path.parent.name != "demo"]


def imported_modules(source: str) -> set[str]:
    """Return every module that a source imports, wherever in it, also under TYPE_CHECKING."""
    modules: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "a relative import"
            assert node.module is not None
            modules |= {f"{node.module}.{alias.name}" for alias in node.names}
    return modules


def wrong_imports(name: str, source: str) -> Iterator[str]:
    """Yield what is wrong with the imports of a file, named by its path below src/neither."""
    folder = name.partition("/")[0]
    if folder not in FLOORS:
        yield f"{name}: no floor is known of {folder}"
        return
    for module in sorted(imported_modules(source)):
        if not module.startswith("neither."):
            continue
        other = module.split(".")[1]
        if other not in FLOORS:
            yield f"{name} imports {module}, of which no floor is known"
        elif other != folder and FLOORS[other] >= FLOORS[folder]:
            yield f"{name} on floor {FLOORS[folder]} imports {module} on floor {FLOORS[other]}"
        elif other != folder and other in ONLY_FOR_PREPARE_DATA and name != "cli/prepare_data.py":
            yield f"{name} imports {module}, which is for cli/prepare_data.py alone"


def test_imports_go_down_the_floors_only() -> None:
    for path in FILES:
        assert list(wrong_imports(path.relative_to(SOURCE).as_posix(), path.read_text())) == []


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("data/decode.py", "from neither.models.softmax import x"),
        ("data/decode.py", "def f():\n    from neither.cli import main"),
        ("config/schema.py", "if TYPE_CHECKING:\n    from neither.data.scan import ImageTable"),
        ("datasets/coco.py", "from neither.demo.scene import Scene"),
        ("utils/text.py", ""),
    ],
)
def test_a_wrong_import_is_found(name: str, source: str) -> None:
    assert len(list(wrong_imports(name, source))) == 1


def test_an_import_from_the_own_folder_or_from_below_is_right() -> None:
    source = "from neither.data.scan import x\nfrom neither.runtime import files\nimport torch"
    assert list(wrong_imports("data/decode.py", source)) == []


def test_the_python_api_is_for_others() -> None:
    names = {f"neither.{name}" for name in neither.__all__}
    assert [path for path in FILES if imported_modules(path.read_text()) & names] == []


def test_only_commands_know_argparse() -> None:
    users = {path.parent.name for path in FILES if "argparse" in imported_modules(path.read_text())}
    assert users == {"cli"}


@pytest.mark.fault("R28")
def test_no_check_is_an_assert_statement_which_python_o_would_remove() -> None:
    for path in FILES:
        nodes = ast.walk(ast.parse(path.read_text()))
        assert not [node.lineno for node in nodes if isinstance(node, ast.Assert)], path


def test_modules_are_few_and_no_longer_than_500_lines() -> None:
    lengths = {path: len(path.read_text().splitlines()) for path in MODULES}
    assert len(lengths) <= 84
    assert max(lengths.values()) <= 500


def test_no_module_has_a_name_that_says_nothing_or_a_twin() -> None:
    """A command and the module that does its work may share their name."""
    names = {path.stem for path in FILES}
    assert not names & {"utils", "common", "base", "core", "helpers", "manager"}
    outside_cli = [path.stem for path in MODULES if path.parent.name != "cli"]
    assert len(set(outside_cli)) == len(outside_cli)


def test_scripts_are_a_few_lines_that_call_a_command() -> None:
    scripts = sorted((ROOT / "scripts").glob("*.py"))
    assert scripts
    for script in scripts:
        code = [line for line in script.read_text().splitlines() if line]
        assert code == [
            "try:",
            "    from neither.cli.main import run",
            "except KeyboardInterrupt:",
            "    raise SystemExit(130) from None",
            'if __name__ == "__main__":',
            f'    raise SystemExit(run("{script.stem}"))',
        ]
