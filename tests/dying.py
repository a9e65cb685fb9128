"""Train without plots, and send one of several processes a signal, in its first attempt.

Usage: torchrun ... dying.py RANK STEP SIGNAL CONFIG ...
"""

import os
import signal
import sys
from typing import Any

from neither.cli.train import main
from neither.reporting import html
from neither.training import summaries, trainer
from neither.training.state import TrainState
from neither.training.step import train_step


def signalled(rank: str, step: int, number: signal.Signals) -> None:
    """Send the signal to this process, if it has this rank, after this many steps."""
    is_meant = os.environ["RANK"] == rank and os.environ["TORCHELASTIC_RESTART_COUNT"] == "0"

    def step_or_die(state: TrainState, *arguments: Any) -> bool:  # noqa: ANN401
        if is_meant and state.step == step:
            os.kill(os.getpid(), number)
        return train_step(state, *arguments)

    vars(trainer)["train_step"] = step_or_die
    vars(summaries)["log_epoch"] = lambda *_: None  # these take most of the time of a tiny run
    vars(summaries)["log_run"] = lambda *_: None
    vars(html)["_draw_plots"] = lambda *_: {}


if __name__ == "__main__":
    rank, step, name = sys.argv[1:4]
    del sys.argv[1:4]
    signalled(rank, int(step), signal.Signals[name])
    raise SystemExit(main())
