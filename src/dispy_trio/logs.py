"""The library's logger under the name that dispy programs use."""

from __future__ import annotations

import logging

__all__ = ["DispyLogger", "logger"]


class DispyLogger(logging.LoggerAdapter[logging.Logger]):
    """The logger ``dispy_trio``, with the names of the levels as attributes."""

    DEBUG = logging.DEBUG
    INFO = logging.INFO
    WARNING = logging.WARNING
    ERROR = logging.ERROR
    CRITICAL = logging.CRITICAL


logger = DispyLogger(logging.getLogger("dispy_trio"))
"""For ``loglevel=dispy.logger.DEBUG``, and for programs that log beside the library."""
