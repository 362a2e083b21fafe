"""The ten invariants once more, from Python, against the packaged artifact on a real anvil.

FEDGPU_THOROUGH=1 runs as long as a night allows; the run in the suite is short and always the same.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test
from tests.contract.escrow_model.chainside import ChainSide
from tests.contract.escrow_model.disputing import EscrowMachine
from tests.contract.escrow_model.model import CHALLENGE, NOTICE
from tests.contract.escrow_model.staking import StakeMachine

from fedgpu_lab import toolchain
from fedgpu_lab.chain import Anvil
from fedgpu_lab.process import Watchdog, end, free_ports

THOROUGH = os.environ.get("FEDGPU_THOROUGH") == "1"
ALL = {
    *("deposit", "authorized deposit", "limit", "lower limit", "announce", "withdraw", "withdraw while paused"),
    *("collect", "post", "post refused", "cancel", "claim", "claim again", "dispute", "dispute refused", "answer"),
    *("rule", "close", "exit", "dispute exit", "rule exit", "finish exit", "pause", "unpause", "replay refused"),
}


def search(examples: int, steps: int) -> settings:
    """Short and always the same, or long and always new."""
    return settings(
        max_examples=600 if THOROUGH else examples,
        stateful_step_count=80 if THOROUGH else steps,
        derandomize=not THOROUGH,
        # Shrinking a failure takes minutes on a chain; the long run has them.
        phases=tuple(Phase) if THOROUGH else (Phase.generate,),
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )


@pytest.fixture(scope="module")
def side(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ChainSide]:
    directory: Path = tmp_path_factory.mktemp("escrow-model") / "chain"
    watchdog = Watchdog()
    chain = Anvil(toolchain.ensure(["anvil"])["anvil"], directory=directory, port=free_ports(1)[0], watchdog=watchdog)
    try:
        chain.start()
        side = ChainSide(chain)
        yield side
        side.close()
    finally:
        end(chain.children)
        chain.close()
        watchdog.close()


@pytest.fixture
def escrow(side: ChainSide) -> type[EscrowMachine]:
    EscrowMachine.side, EscrowMachine.reached = side, Counter()
    return EscrowMachine


def test_a_walk_through_every_call_keeps_the_ten_invariants(escrow: type[EscrowMachine]) -> None:
    """What the search reaches is a matter of luck; this path is not."""
    machine = escrow()
    alice, bob, carol, p, debit = 0, 1, 2, 0, 2
    machine.begin([10**8, 10**8, 10**8])
    steps: list[Callable[[], object]] = [
        lambda: machine.announce(carol, 10**8),
        lambda: machine.dispute(alice, p, 8),
        lambda: machine.dispute(bob, debit, 9),
        lambda: machine.dispute(bob, debit, 4),
        lambda: machine.answer(0, [0, 0], True),
        lambda: machine.answer(1, [0, 0], True),
        lambda: machine.post([0] * 4, [0, 0], True, 0, False),
        lambda: machine.judge(0, 2, True),
        lambda: machine.close(0, False),
        lambda: machine.claim([0, 1], 1),
        lambda: machine.close(0, True),
        lambda: machine.settle([0, 1], carol, 1, 10**6),
        lambda: machine.dispute(carol, debit, 8),
        machine.cancel,
        lambda: machine.close(0, False),
        lambda: machine.collect(0),
        lambda: machine.deposit_with_authorization(bob, 10**8),
        lambda: machine.work(alice, [10**8, 10**7]),
        lambda: machine.exit(alice, p, 0, 10),
        lambda: machine.dispute_exit(0),
        lambda: machine.judge_exit(0, 4, True),
        lambda: machine.finish_exit(0, CHALLENGE),
        lambda: machine.limit(bob, 1),
        lambda: machine.announce(bob, 10**6),
        lambda: machine.warp(NOTICE),
        lambda: machine.apply_limit(bob),
        lambda: machine.withdraw(bob),
        machine.pause,
        lambda: machine.withdraw(carol),
        machine.unpause,
        lambda: machine.replay(0, True),
    ]
    for step in steps:
        step()
        machine.law.hold()
    assert set(escrow.reached) >= ALL, ALL - set(escrow.reached)


def test_any_sequence_of_calls_keeps_the_ten_invariants(escrow: type[EscrowMachine]) -> None:
    rare = ("dispute", "answer", "close", "exit", "finish exit")
    # Chance may leave one of them out for once: then there is more to try.
    for _ in range(3):
        run_state_machine_as_test(escrow, settings=search(40, 40))
        if min(escrow.reached[each] for each in rare) > 3:
            break
    assert escrow.reached["post"] > 40
    assert min(escrow.reached[each] for each in rare) > 3


def test_a_stake_is_never_slashed_or_held_beyond_what_it_is(side: ChainSide) -> None:
    """Invariant 10."""
    StakeMachine.side = side
    run_state_machine_as_test(StakeMachine, settings=search(10, 30))
