from neither.runtime.errors import UserError


def test_exit_codes_are_those_of_the_design() -> None:
    assert {error.__name__: error.exit_code for error in UserError.__subclasses__()} == {
        "UsageError": 2,
        "DataError": 3,
        "RequirementError": 4,
        "CheckpointError": 5,
        "OutputError": 6,
        "DivergedError": 7,
    }
