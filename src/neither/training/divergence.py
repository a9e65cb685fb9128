"""The loss that is no longer finite: where it was lost, in words."""

from collections.abc import Sequence

from neither.errors import DivergedError
from neither.terminal import note, printable
from neither.training.state import State


def diverged(state: State, paths: Sequence[str] = ()) -> DivergedError:
    """Say where the loss was lost: in the step that would come next, or at most a second ago.

    Args:
        state: with the steps that were taken.
        paths: of the images of the next step, if it is the one.
    """
    step = f"by step {state.step}"
    if paths:
        step = f"in step {state.step + 1}, with {printable(paths[0])} in its batch"
        note("the images of this batch: " + ", ".join(map(printable, paths)))
    return DivergedError(
        f"the loss or its gradient is no longer finite in epoch {state.epoch + 1}, {step}; the "
        "checkpoints are from before. Try a lower train.lr"
    )
