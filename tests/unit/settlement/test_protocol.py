"""The protocol's table: every stage has a way on, money never goes back a step, and what is over is over."""

from __future__ import annotations

import pytest

from fedgpu_operator.domain.settlement import EpochStage
from fedgpu_operator.settlement import Act, EpochSight, protocol

ENDED = {EpochStage.PAID} | protocol.DEAD


def test_an_ended_epoch_has_no_row_and_every_other_stage_has_a_way_to_an_end() -> None:
    following = protocol.next_stages()
    for stage in EpochStage:
        reached, front = set[EpochStage](), {stage}
        while front:
            reached |= front
            front = set().union(*(following[each] for each in front)) - reached
        assert stage in ENDED or reached & ENDED, stage
        if stage in ENDED:
            assert following[stage] == frozenset()


def test_a_root_that_the_finalized_chain_shows_is_never_given_up_or_sent_again() -> None:
    for (stage, sight), step in protocol.TABLE.items():
        if sight is EpochSight.STANDS:
            assert step.stage is EpochStage.FINALIZED, stage
        if stage is EpochStage.FINALIZED:
            assert step.act is not Act.SEND
            assert step.stage is not EpochStage.ABANDONED


def test_nothing_is_given_up_while_a_transaction_of_it_may_still_be_mined() -> None:
    for (stage, sight), step in protocol.TABLE.items():
        if sight in {EpochSight.IN_FLIGHT, EpochSight.MINED}:
            assert step.stage is EpochStage.POSTED, (stage, sight)
        if sight is EpochSight.NOT_TAKEN:
            assert step.stage is EpochStage.PREPARED, (stage, sight)


def test_nothing_is_posted_that_no_node_has_taken() -> None:
    for (stage, sight), step in protocol.TABLE.items():
        if step.stage is EpochStage.POSTED:
            assert sight in {EpochSight.IN_FLIGHT, EpochSight.MINED}, (stage, sight)


def test_a_sight_that_cannot_be_is_an_error_and_not_a_guess() -> None:
    with pytest.raises(ValueError, match="Paid cannot be seen as: pairs are unpaid"):
        protocol.step(EpochStage.PAID, EpochSight.PAYABLE)


def test_the_diagram_has_an_arrow_for_every_row() -> None:
    lines = protocol.diagram().splitlines()
    assert len([line for line in lines if "-->" in line]) == len(protocol.TABLE) + 1 + len(ENDED)
    assert "    Finalized --> Paid: every pair that can be paid is paid" in lines
