"""Work beside the caller's own."""

import threading
from collections.abc import Callable

import torch


class Background:
    """Runs one task at a time beside its caller, on a thread of its own whose tensor operations use one core."""

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    def start(self, task: Callable[[], None]) -> None:
        """Begins a task, after the one before has ended."""
        self.wait()

        def run() -> None:
            torch.set_num_threads(1)
            try:
                task()
            except BaseException as error:  # handed on to whoever waits
                self._error = error

        self._thread = threading.Thread(target=run, name="ratpg-background")
        self._thread.start()

    def wait(self) -> None:
        """Returns once nothing runs.

        Raises:
            BaseException: whatever the task raised.
        """
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        error, self._error = self._error, None
        if error is not None:
            raise error
