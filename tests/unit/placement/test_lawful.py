"""No decision ever breaks a rule or sells anything twice: judged by an oracle that reads the raw resources."""

from __future__ import annotations

from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.placement.chance import random_world
from tests.unit.placement.oracle import breaches, forbidden, gpus_of, nodes_of, packs
from tests.unit.placement.worlds import Raw, snapshot_of

from fedgpu_operator.placement import decide, evaluate

PROFILE = settings.get_profile("placement")


def assert_lawful(world: Raw) -> int:
    """Judges one pass over the world and returns how many jobs it placed."""
    decisions = decide(snapshot_of(world))
    placed = {
        each.job_uid: (each.chosen.provider, each.chosen.product) for each in decisions if each.chosen is not None
    }
    assert breaches(world, placed) == []
    assert [each.job_uid for each in decisions if each.chosen is None and not each.message] == []
    return len(placed)


@PROFILE
@given(st.randoms(use_true_random=False))
def test_no_decision_ever_breaks_residency_or_sells_an_offer_twice(rng: Random) -> None:
    assert_lawful(random_world(rng, jobs=8))


def test_thousands_of_mixed_worlds_are_lawful(instances: int) -> None:
    placed = sum(assert_lawful(random_world(Random(seed), jobs=8)) for seed in range(instances // 2))
    assert placed > instances // 4, "the worlds became too strict to prove anything"


@PROFILE
@given(st.randoms(use_true_random=False))
def test_a_verdict_is_eligible_exactly_where_the_oracle_allows_it(rng: Random) -> None:
    world = random_world(rng, jobs=2)
    world["funds"] = dict.fromkeys(world["funds"])
    providers = {each["metadata"]["name"]: each for each in world["providers"]}
    snapshot = snapshot_of(world)
    for job, raw in zip(snapshot.jobs, world["jobs"], strict=True):
        decision = evaluate(job, snapshot)
        for verdict in decision.verdicts:
            provider = providers[verdict.provider]
            limit = provider["spec"]["limits"].get("maxLeases")
            has_room = (limit is None or limit > provider["status"]["leases"]) and packs(
                nodes_of(provider, verdict.product), [gpus_of(raw)]
            )
            allowed = not forbidden(world, raw, provider, verdict.product) and has_room
            assert verdict.eligible == allowed, verdict
        eligible = [each for each in decision.verdicts if each.eligible]
        assert decision.chosen == (eligible[0] if eligible else None)
