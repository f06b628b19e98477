"""The one exception for problems that the person at the keyboard can mend."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

MOST_LETTERS = 300  # of the reason that other code gives


class SparError(Exception):
    """Something is wrong with the input, and the message says what, and what to do, in one line.

    Entry points print it as ``error: ...`` and exit with status 1. Any other exception is a defect of this project, or
    of a library.
    """

    def __init__(self, message: str, hint: str = "") -> None:
        text = message if not hint else f"{message}; {hint}"
        super().__init__(" ".join(text.split()))


class Interrupted(SparError):
    """Whoever runs this asked it to stop, and it did so at a step's end."""


def reason_of(error: BaseException) -> str:
    """Kind and first line of an exception of other code, such as ``ValueError: no such file``."""
    line = next(filter(None, map(str.strip, str(error).splitlines())), "")
    return f"{type(error).__name__}: {line[:MOST_LETTERS]}" if line else type(error).__name__


@contextmanager
def others_code(what: str, hint: str = "") -> Iterator[None]:
    """Turn whatever the code of somebody else raises into one line: ``what``, and the reason.

    Raises:
        SparError: the block raised an exception, or ended the process.
    """
    try:
        yield
    except SparError:
        raise
    except (Exception, SystemExit) as error:
        raise SparError(f"{what}: {reason_of(error)}", hint) from None
