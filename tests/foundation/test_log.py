"""The console log: levels, the first process only, and packages silenced per thread."""

import logging
import threading

import jax
import pytest

from foundation import log


@pytest.fixture(autouse=True)
def console():
    log.configure()
    yield
    for name in log.PACKAGES:
        logger = logging.getLogger(name)
        logger.setLevel(logging.NOTSET)
        logger.handlers.clear()


def test_warnings_and_errors_have_a_prefix_and_debug_messages_are_dropped(capsys):
    logger = logging.getLogger("pretrain.train")
    for level in (logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR):
        logger.log(level, "a %s", "message")
    assert capsys.readouterr().out == "a message\nwarning: a message\nerror: a message\n"


@pytest.mark.parametrize(
    ("level", "lines"), [(logging.DEBUG, ["debug", "info", "warning: warn"]), (logging.WARNING, ["warning: warn"])]
)
def test_the_level_is_chosen(capsys, level, lines):
    log.configure(level=level)
    logger = logging.getLogger("data")
    logger.debug("debug")
    logger.info("info")
    logger.warning("warn")
    assert capsys.readouterr().out.splitlines() == lines


def test_configuring_twice_does_not_repeat_messages(capsys):
    log.configure()
    logging.getLogger("adapt").info("once")
    assert capsys.readouterr().out == "once\n"


@pytest.mark.parametrize(("process", "lines"), [(0, ["shown"]), (1, [])])
def test_only_the_first_process_of_a_run_logs(capsys, monkeypatch, process, lines):
    monkeypatch.setattr(jax.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(jax, "process_index", lambda: process)
    logging.getLogger("pretrain").warning("shown")
    assert capsys.readouterr().out.splitlines() == [f"warning: {line}" for line in lines]


def test_silenced_packages_still_log_errors(capsys):
    with log.silenced("models"), log.silenced("data"):
        logging.getLogger("models.io").warning("hidden")
        logging.getLogger("data").info("hidden")
        logging.getLogger("models.io").error("shown")
        logging.getLogger("adapt").info("shown")
    logging.getLogger("models.io").info("shown again")
    assert capsys.readouterr().out == "error: shown\nshown\nshown again\n"


def test_packages_are_silenced_in_one_thread_only(capsys):
    with log.silenced("models"):
        thread = threading.Thread(target=lambda: logging.getLogger("models").info("from another thread"))
        thread.start()
        thread.join()
        logging.getLogger("models").info("hidden")
    assert capsys.readouterr().out == "from another thread\n"
