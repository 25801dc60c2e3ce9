"""What the library logs: from which level on, and where it is shown."""

from __future__ import annotations

import contextvars
import io
import logging
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import cloudpickle
import pytest

import dispy_trio
from dispy_trio.logs import DispyLogger, check_level, log, messages_from

OURS = logging.getLogger("dispy_trio")
STAMP = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d dispy_trio"


class Kept(logging.Handler):
    """A handler of the program."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


@contextmanager
def configured(
    *handlers: logging.Handler, level: int = logging.WARNING, logger: logging.Logger | None = None
) -> Iterator[None]:
    """A program with these handlers and no others; pytest has some of its own."""
    root = logging.getLogger()
    before, root.handlers = root.handlers, []
    target = root if logger is None else logger
    level_before = target.level
    for handler in handlers:
        target.addHandler(handler)
    if target is root or handlers:
        target.setLevel(level)
    try:
        yield
    finally:
        for handler in handlers:
            target.removeHandler(handler)
        target.setLevel(level_before)
        root.handlers = before


def test_where_nobody_has_configured_logging_messages_are_shown_with_time_and_level(
    capsys: pytest.CaptureFixture[str],
) -> None:
    logger = DispyLogger(logging.INFO)
    with configured():
        logger.debug("too low")
        logger.info("job %r is done", 7)
        logger.error("two\nlines")
    out, err = capsys.readouterr()
    assert out == ""
    assert re.fullmatch(rf"{STAMP} INFO: job 7 is done\n{STAMP} ERROR: two\nlines\n", err)


def test_exceptions_are_shown_with_their_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    with configured():
        try:
            raise ValueError("mine")
        except ValueError:
            log.exception("it failed")
    err = capsys.readouterr().err
    assert re.match(rf"{STAMP} ERROR: it failed\nTraceback", err)
    assert err.endswith("ValueError: mine\n")


@pytest.mark.parametrize("of", ["root", "library"])
def test_where_somebody_has_configured_logging_messages_go_there_and_nowhere_else(
    capsys: pytest.CaptureFixture[str], of: str
) -> None:
    kept = Kept()
    logger = DispyLogger(logging.DEBUG)
    with configured(kept, logger=OURS if of == "library" else None):
        logger.warning("routed")
        logger.debug("as the program has asked for")
    assert [r.getMessage() for r in kept.records] == ["routed", "as the program has asked for"]
    assert capsys.readouterr().err == ""


def test_a_program_can_have_silence(capsys: pytest.CaptureFixture[str]) -> None:
    with configured(logging.NullHandler()):
        log.critical("unheard")
    with configured():
        logging.disable(logging.CRITICAL)
        try:
            log.critical("unheard")
        finally:
            logging.disable(logging.NOTSET)
        OURS.disabled = True  # As `logging.config` does by default.
        try:
            log.critical("unheard")
        finally:
            OURS.disabled = False
    assert capsys.readouterr().err == ""


def test_it_is_decided_for_each_message(capsys: pytest.CaptureFixture[str]) -> None:
    kept = Kept()
    with configured():
        log.warning("first")
        OURS.addHandler(kept)
        log.warning("second")
        OURS.removeHandler(kept)
        log.warning("third")
    err = capsys.readouterr().err
    assert re.findall(r": (.*)", err) == ["first", "third"]
    assert [record.getMessage() for record in kept.records] == ["second"]


@pytest.mark.parametrize(
    ("configured_level", "own", "shown"),
    [
        (logging.WARNING, logging.INFO, "WARNING"),
        (logging.DEBUG, logging.INFO, "DEBUG"),
        (logging.ERROR, logging.INFO, "ERROR"),
        (logging.WARNING, logging.DEBUG, "DEBUG"),
        (logging.DEBUG, logging.CRITICAL, "CRITICAL"),
        (logging.WARNING, None, "WARNING"),
        (logging.DEBUG, None, "DEBUG"),
    ],
)
@pytest.mark.parametrize("of", ["root", "library"])
def test_info_stands_for_the_level_that_the_program_has_configured(
    configured_level: int, own: int | None, shown: str, of: str
) -> None:
    kept = Kept()
    logger = DispyLogger(own)
    with configured(kept, level=configured_level, logger=OURS if of == "library" else None):
        for level in (logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR, 50):
            assert logger.isEnabledFor(level) == (level >= logger.getEffectiveLevel())
            logger.log(level, "text")
    assert kept.records[0].levelname == shown


def test_a_level_set_without_a_handler_is_the_programs_too(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with configured(level=logging.ERROR):
        DispyLogger(logging.INFO).warning("too low")
    with configured(level=logging.DEBUG):
        DispyLogger(logging.INFO).debug("high enough")
    assert re.fullmatch(rf"{STAMP} DEBUG: high enough\n", capsys.readouterr().err)


def test_levels_belong_to_the_context_of_a_cluster(capsys: pytest.CaptureFixture[str]) -> None:
    def tell(name: str) -> None:
        for level in (logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR):
            log.log(level, name)

    with configured():
        with messages_from(logging.DEBUG):
            chatty = contextvars.copy_context()
        with messages_from(logging.ERROR):
            tell("quiet")
            chatty.run(tell, "chatty")
        with messages_from(logging.INFO):
            tell("usual")
        tell("elsewhere")
    told = re.findall(r"(\w+): (\w+)", capsys.readouterr().err)
    assert told == [
        ("ERROR", "quiet"),
        *[(level, "chatty") for level in ("DEBUG", "INFO", "WARNING", "ERROR")],
        *[(level, "usual") for level in ("INFO", "WARNING", "ERROR")],
        *[(level, "elsewhere") for level in ("WARNING", "ERROR")],
    ]


def test_the_programs_own_logger_has_a_level_to_be_set(capsys: pytest.CaptureFixture[str]) -> None:
    logger = DispyLogger(logging.INFO)
    with configured():
        logger.setLevel(logger.WARNING)
        logger.info("too low")
        logger.setLevel("DEBUG")
        logger.debug("high enough")
    assert re.fullmatch(rf"{STAMP} DEBUG: high enough\n", capsys.readouterr().err)
    levels = [logger.DEBUG, logger.INFO, logger.WARNING, logger.ERROR, logger.CRITICAL]
    assert levels == [10, 20, 30, 40, 50]


@pytest.mark.parametrize("level", [None, 1.5, True, [], object()])
def test_what_is_no_level_is_refused(level: object) -> None:
    with pytest.raises(TypeError, match=r"loglevel is DEBUG, INFO.*dispy_trio\.logger, not "):
        check_level("loglevel", level)


@pytest.mark.parametrize("level", [-1, "LOUD"])
def test_what_is_not_among_the_levels_is_refused(level: object) -> None:
    with pytest.raises(ValueError, match=f"loglevel is {level!r}; it has to be DEBUG, INFO"):
        check_level("loglevel", level)


def test_a_cluster_refuses_it_by_name() -> None:
    with pytest.raises(TypeError, match="loglevel is DEBUG"):
        dispy_trio.JobCluster(len, nodes=["127.0.0.1:1"], loglevel=None)  # type: ignore[arg-type]


def test_records_name_the_line_that_logs() -> None:
    kept = Kept()
    with configured(kept):
        DispyLogger(logging.INFO).warning("here")
    (record,) = kept.records
    assert (record.name, record.filename) == ("dispy_trio", Path(__file__).name)
    assert record.funcName == "test_records_name_the_line_that_logs"


def test_a_job_may_carry_the_logger(capsys: pytest.CaptureFixture[str]) -> None:
    logger = cloudpickle.loads(cloudpickle.dumps(DispyLogger(logging.INFO)))
    with configured():
        logger.info("from a job")
    assert "INFO: from a job" in capsys.readouterr().err


class Broken(logging.Handler):
    """A handler of the program that fails."""

    def emit(self, record: logging.LogRecord) -> None:
        raise LookupError("no such pane")


def test_whoever_logs_does_not_fail_with_the_programs_handler(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with configured(Broken()):
        log.warning("here")
    assert "LookupError: no such pane" in capsys.readouterr().err


def test_whoever_logs_does_not_fail_with_a_closed_stderr(monkeypatch: pytest.MonkeyPatch) -> None:
    stderr = io.StringIO()
    stderr.close()
    monkeypatch.setattr(sys, "stderr", stderr)
    logger = DispyLogger(logging.INFO)
    with configured():
        logger.warning("here")
