"""What the terminal shows: one-sentence errors, progress with the time remaining, warnings, no library noise."""

from __future__ import annotations

import argparse
import logging
import signal
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any, NoReturn

from tqdm import tqdm

BAR = "{desc}: {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} [{elapsed} elapsed, {remaining} left{postfix}]"
SECONDS_BETWEEN_LINES = 15.0  # of a bar that is written into a file


class Parser(argparse.ArgumentParser):
    """An argument parser that reports errors in one sentence and keeps the line breaks of its texts."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"formatter_class": argparse.RawDescriptionHelpFormatter, "allow_abbrev": False, **options})

    def error(self, message: str) -> NoReturn:
        """Exit with code 2 after one sentence."""
        self.exit(2, f"{' '.join(message.split()).rstrip('.')}; see {self.prog} --help.\n")


class Progress:
    """A progress bar on stderr with the time remaining; use as a context manager.

    It appears with the first step, so that an earlier error is shown alone.
    """

    def __init__(self, description: str, *, brief: bool = False) -> None:
        """Args:
        description: what is being done.
        brief: for work that takes seconds: the bar is removed when done, and not written to log files.
        """
        self._description, self._brief = description, brief
        self._bar: tqdm | None = None

    def show(self, done: int, total: int, note: str = "") -> None:
        """Show that ``done`` of ``total`` steps are done, and a note such as the loss."""
        if self._bar is None:
            self._bar = self._start(done, total)
        self._bar.set_postfix_str(note, refresh=False)
        self._bar.update(done - self._bar.n)

    def _start(self, done: int, total: int) -> tqdm:
        terminal = sys.stderr.isatty()
        return tqdm(
            initial=done,  # the first step is slower than the others and says nothing about them
            total=total,
            desc=self._description,
            bar_format=BAR,
            leave=not self._brief,
            disable=self._brief and not terminal,
            mininterval=0.1 if terminal else SECONDS_BETWEEN_LINES,
            maxinterval=10.0 if terminal else 4 * SECONDS_BETWEEN_LINES,
            dynamic_ncols=True,
        )

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.close()


class Stop:
    """Whether the user asked to stop; call `check` where stopping loses nothing."""

    def __init__(self) -> None:
        self.is_asked = False

    def ask(self, number: int, frame: FrameType | None) -> None:
        """Handle a signal: the first waits for the next `check`, a second one stops immediately."""
        if self.is_asked:
            raise KeyboardInterrupt
        self.is_asked = True

    def check(self) -> None:
        """Stop here if the user asked for it.

        Raises:
            KeyboardInterrupt: the user did.
        """
        if self.is_asked:
            raise KeyboardInterrupt


@contextmanager
def stopping_between_steps(stop: Stop) -> Iterator[None]:
    """Within the context, Ctrl-C and SIGTERM take effect at the next `Stop.check`."""
    signals = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, stop.ask) for number in signals]
    try:
        yield
    finally:
        for number, handler in zip(signals, before, strict=True):
            signal.signal(number, handler)


def quiet_libraries() -> None:
    """Keep the warnings of other libraries off the terminal."""
    warnings.filterwarnings("ignore")


def printable(text: str) -> str:
    """Text from a file, safe to show: characters that move the cursor or colour, hide or reverse text are spelled out."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


class _AboveTheBar(logging.Handler):
    """Writes a line without tearing a progress bar apart."""

    def emit(self, record: logging.LogRecord) -> None:
        tqdm.write(f"{record.levelname.capitalize()}: {printable(record.getMessage())}", file=sys.stderr)


def show_warnings() -> None:
    """Print the core's warnings, one per line."""
    log = logging.getLogger(__package__.partition(".")[0] if __package__ else "customcrafter_core")
    if not any(isinstance(handler, _AboveTheBar) for handler in log.handlers):
        log.addHandler(_AboveTheBar(logging.WARNING))
