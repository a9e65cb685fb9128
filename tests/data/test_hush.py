"""Silence in any number of threads, and everything as it was after it."""

import logging
import threading
import warnings

import pytest

from neither.data.image_file import silence_pillow


def test_threads_that_overlap_leave_the_warnings_as_they_were() -> None:
    inside, leave = threading.Event(), threading.Event()

    def other() -> None:
        with silence_pillow():
            inside.set()
            assert leave.wait(30)

    before, handlers = list(warnings.filters), list(logging.getLogger("PIL").handlers)
    thread = threading.Thread(target=other)
    with silence_pillow():
        thread.start()
        assert inside.wait(30)
        warnings.warn("nobody hears this", stacklevel=1)
    warnings.warn("nor this: another thread is inside", stacklevel=1)
    leave.set()
    thread.join()
    assert warnings.filters == before
    assert logging.getLogger("PIL").handlers == handlers
    with pytest.warns(UserWarning, match="this one"):
        warnings.warn("this one is heard", stacklevel=1)
