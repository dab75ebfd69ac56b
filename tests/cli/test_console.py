"""What isod logs reaches standard output while a command runs, and no longer."""

import contextlib
import io
import logging

import pytest

from isod.cli import main as cli
from isod.messages import messages_to

logger = logging.getLogger("isod")


def test_messages_are_printed_to_the_standard_output_of_the_moment():
    first, second = io.StringIO(), io.StringIO()
    with messages_to(print):
        with contextlib.redirect_stdout(first):
            logger.info("%d samplers", 2)
            logging.getLogger("isod.training").info("below it")
            logger.debug("unseen")
        with contextlib.redirect_stdout(second):
            logger.warning("100 %")
    assert first.getvalue() == "2 samplers\nbelow it\n"
    assert second.getvalue() == "100 %\n"


def test_a_command_leaves_the_logger_as_it_was(capsys):
    before = logger.level, list(logger.handlers)
    assert cli.exit_cleanly("isod", [], lambda: logger.info("in it")) == 0
    logger.info("after it")
    assert capsys.readouterr().out == "in it\n"
    assert (logger.level, logger.handlers) == before


@pytest.mark.parametrize("error", [BrokenPipeError, KeyboardInterrupt])
def test_what_ends_a_print_ends_a_message(error):
    class Closed(io.StringIO):
        def write(self, text):
            raise error

    with messages_to(print), contextlib.redirect_stdout(Closed()), pytest.raises(error):
        logger.info("lost")
