"""What Pillow says of odd metadata, which changes no pixel: heard by nobody while images are read.

`warnings.catch_warnings` alone is not made for threads: whoever leaves last puts back what it
found, which may be another thread's silence, for good. So the first one in makes it quiet and the
last one out puts everything back.
"""

import logging
import threading
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

_lock = threading.Lock()
_num_inside = 0
_undo = ExitStack()
_nobody = logging.NullHandler()  # without any handler Python prints what Pillow logs


@contextmanager
def hushed() -> Iterator[None]:
    """Ignore warnings, and what Pillow logs where nobody listens, in any number of threads."""
    global _num_inside
    with _lock:
        if _num_inside == 0:
            _undo.enter_context(warnings.catch_warnings())
            warnings.simplefilter("ignore")
            log = logging.getLogger("PIL")
            log.addHandler(_nobody)
            _undo.callback(log.removeHandler, _nobody)
        _num_inside += 1
    try:
        yield
    finally:
        with _lock:
            _num_inside -= 1
            if _num_inside == 0:
                _undo.close()
