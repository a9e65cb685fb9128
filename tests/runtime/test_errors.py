import pytest

from neither.runtime import errors
from neither.runtime.errors import UserError


@pytest.mark.parametrize(
    ("name", "exit_code"),
    [("UsageError", 2), ("DataError", 3), ("CheckpointError", 5), ("OutputError", 6),
     ("DivergedError", 7)],
)  # fmt: skip
def test_each_error_ends_in_the_exit_code_of_the_design(name: str, exit_code: int) -> None:
    kind = getattr(errors, name)
    assert issubclass(kind, UserError)
    assert kind("what is wrong").exit_code == exit_code
    assert str(kind("what is wrong")) == "what is wrong"


def test_no_two_errors_share_an_exit_code_nor_take_that_of_a_defect() -> None:
    codes = [kind.exit_code for kind in UserError.__subclasses__()]
    assert len(set(codes)) == len(codes)
    assert not {0, 1} & set(codes)
