"""What the library logs: from which level on, and where it is shown.

All goes to the logger ``dispy_trio`` of `logging`. Where a program has configured logging, its handlers
get it, or nobody does. Where none has, it is shown on stderr with the time, as dispy does: that is
decided for each message, because programs configure logging also after they have made a cluster.

A level is a cluster's own. Its messages come from many places, so the level is not handed from one to
the next: it belongs to the context in which a cluster's code runs.
"""

from __future__ import annotations

import logging
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

__all__ = ["DispyLogger", "check_level", "log", "logger", "messages_from"]

_NAME = "dispy_trio"
_context_level: ContextVar[int | None] = ContextVar("level of a cluster's messages", default=None)


class DispyLogger(logging.LoggerAdapter[logging.Logger]):
    """The logger ``dispy_trio``, with a level of its own and the names of the levels as attributes."""

    DEBUG = logging.DEBUG
    INFO = logging.INFO
    WARNING = logging.WARNING
    ERROR = logging.ERROR
    CRITICAL = logging.CRITICAL

    def __init__(self, level: int | None = None) -> None:
        """
        Args:
            level: None takes that of the context.
        """
        super().__init__(logging.getLogger(_NAME), {})
        self._level = level

    def setLevel(self, level: int | str) -> None:
        """Set the level of what is logged through this object; clusters have levels of their own.

        Raises:
            TypeError, ValueError: it is no level.
        """
        self._level = check_level("level", level)

    def getEffectiveLevel(self) -> int:
        """The level from which on messages are logged now.

        INFO is everybody's: where the program has configured logging, its own level is taken.
        """
        level = _context_level.get() if self._level is None else self._level
        if level is None or (level == logging.INFO and _has_configured()):
            return self.logger.getEffectiveLevel()
        return level

    def isEnabledFor(self, level: int) -> bool:
        """Is a message of that level logged now?"""
        if self.logger.disabled or self.logger.manager.disable >= level:
            return False
        return level >= self.getEffectiveLevel()

    def log(self, level: int, msg: object, *args: object, **kwargs: Any) -> None:
        """Log a message; all other methods come here."""
        if self.isEnabledFor(level):
            # Past the logger's own level. This frame is none of those who log.
            stacklevel = kwargs.pop("stacklevel", 1) + 1
            try:
                self.logger._log(level, msg, args, stacklevel=stacklevel, **kwargs)
            except Exception:
                # Handlers, filters and stderr are the program's: what fails there is no reason for
                # jobs to be lost, nor for callbacks to be told of nothing any more.
                _show_failure()


def _show_failure() -> None:
    """Show what went wrong with a message, where `logging` shows it."""
    if logging.raiseExceptions and sys.stderr is not None:
        try:
            traceback.print_exc()
        except (OSError, ValueError):
            pass  # It is closed, too.


class _LastResort(logging.Handler):
    """Writes to stderr what nobody else has a handler for."""

    def emit(self, record: logging.LogRecord) -> None:
        if _find_handler(logging.getLogger(record.name)):
            return
        try:
            sys.stderr.write(self.format(record) + "\n")
            sys.stderr.flush()
        except Exception:
            self.handleError(record)


def _find_handler(start: logging.Logger) -> bool:
    """Does anybody but us handle what this logger is given?"""
    current: logging.Logger | None = start
    while current is not None:
        if any(handler is not _last_resort for handler in current.handlers):
            return True
        current = current.parent if current.propagate else None
    return False


def _has_configured() -> bool:
    """Has the program said anything of what is to be logged?"""
    ours = logging.getLogger(_NAME)
    return bool(ours.level) or ours.root.level != logging.WARNING or _find_handler(ours)


def check_level(parameter: str, level: object) -> int:
    """See that it is a level of `logging`; return its number.

    Raises:
        TypeError, ValueError: name the parameter and what is allowed.
    """
    allowed = "DEBUG, INFO, WARNING, ERROR or CRITICAL of dispy_trio.logger"
    if isinstance(level, str):
        if level not in logging.getLevelNamesMapping():
            raise ValueError(f"{parameter} is {level!r}; it has to be {allowed}")
        return logging.getLevelNamesMapping()[level]
    if not isinstance(level, int) or isinstance(level, bool):
        raise TypeError(f"{parameter} is {allowed}, not {type(level).__name__}")
    if level < 0:
        raise ValueError(f"{parameter} is {level}; it has to be {allowed}")
    return level


@contextmanager
def messages_from(level: int | None) -> Iterator[None]:
    """Within it, and in tasks started there, the library logs from that level on."""
    token = _context_level.set(level)
    try:
        yield
    finally:
        _context_level.reset(token)


_last_resort = _LastResort()
_last_resort.setFormatter(
    logging.Formatter("%(asctime)s %(name)s %(levelname)s: %(message)s", "%Y-%m-%d %H:%M:%S")
)
logging.getLogger(_NAME).addHandler(_last_resort)

log = DispyLogger()
"""For the library itself, wherever it works for a cluster."""
logger = DispyLogger(logging.INFO)
"""For ``loglevel=dispy.logger.DEBUG``, and for programs that log beside the library. Its level is, as in
dispy, that of the cluster made last."""
