"""Ranks on the CPU (gloo), where those of several GPUs use nccl."""

import logging
import os
import signal

import pytest
from torch import distributed, ones

from lesiondelta.errors import OutputError, ProgramError
from lesiondelta.nnunet.ranks import run_in_ranks

logger = logging.getLogger("lesiondelta.ranks")


def count(expected):
    together = ones(1)
    distributed.all_reduce(together)
    logger.info("%d ranks", together.item())
    assert together.item() == expected


def fail(error):
    if distributed.get_rank() == 1:
        raise error
    distributed.barrier()


def test_ranks_work_together_and_one_of_them_is_heard(caplog):
    with caplog.at_level("INFO"):
        run_in_ranks(count, (2,), 2, "gloo")
    assert [record.getMessage() for record in caplog.records] == ["2 ranks"]


def test_the_error_of_a_rank_ends_the_others_and_is_raised():
    with pytest.raises(OutputError, match="The disk is full") as raised:
        run_in_ranks(fail, (OutputError("The disk is full."),), 2, "gloo")
    assert "in fail" in str(raised.value.__cause__)  # where it was raised there, for train.log


def killed():
    if distributed.get_rank() == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    distributed.barrier()


def test_a_rank_that_is_killed_is_said_in_one_sentence():
    with pytest.raises(ProgramError, match="Training process 2 of 2 was killed, most likely for want of memory"):
        run_in_ranks(killed, (), 2, "gloo")
