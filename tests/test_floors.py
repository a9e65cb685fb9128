"""The house of the design: imports go down the floors only, and files stay small."""

import ast
from pathlib import Path

import pytest

import neither

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "src" / "neither"
FLOORS = {
    "__init__.py": 6,  # the Python API: beside the commands, of which it knows nothing
    "commands": 6,
    "training": 5,
    "evaluation": 4,
    "inference": 3,
    "model": 2,
    "data": 1,
}  # all other modules are floor 0
FILES = sorted(SOURCE.rglob("*.py"))


def imported_modules(path: Path) -> set[str]:
    modules: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            assert node.module is not None
            modules |= {f"{node.module}.{alias.name}" for alias in node.names}
    return modules


def floor(parts: tuple[str, ...]) -> int:
    return FLOORS.get(parts[0], 0)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_imports_go_down_the_floors_only(path: Path) -> None:
    own = path.relative_to(SOURCE).parts
    for module in imported_modules(path):
        if not module.startswith("neither."):
            continue
        other = tuple(module.split(".")[1:])
        same_folder = len(own) > 1 and own[0] == other[0]
        assert same_folder or floor(other) < floor(own) or floor(own) == floor(other) == 0, (
            f"{'/'.join(own)} on floor {floor(own)} imports {module} on floor {floor(other)}"
        )


def test_a_floor_that_imports_upwards_would_be_noticed() -> None:
    assert floor(("data", "decode")) < floor(("model", "network")) < floor(("training", "loop"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_the_python_api_is_for_others(path: Path) -> None:
    assert not imported_modules(path) & {f"neither.{name}" for name in neither.__all__}


def test_only_commands_know_argparse() -> None:
    users = {path.parent.name for path in FILES if "argparse" in imported_modules(path)}
    assert users == {"commands"}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_no_file_is_longer_than_250_lines(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 250


def test_no_file_has_a_name_that_says_nothing() -> None:
    names = {path.stem for path in FILES}
    assert not names & {"utils", "common", "base", "core", "helpers", "manager"}


def test_scripts_are_three_lines_that_call_a_command() -> None:
    scripts = sorted((ROOT / "scripts").glob("*.py"))
    assert scripts
    for script in scripts:
        code = [line for line in script.read_text().splitlines() if line]
        assert code == [
            f"from neither.commands.{script.stem} import main",
            'if __name__ == "__main__":',
            "    raise SystemExit(main())",
        ]
