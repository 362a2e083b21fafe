"""Rules of third parties: found by entry point, refused at the start when broken, and safe when they break later."""

from __future__ import annotations

import re
import sys
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest

from fedgpu_operator.bootstrap.plugins import GROUP, load_plugins
from fedgpu_operator.domain.decision import Reason
from fedgpu_operator.domain.geo import Location
from fedgpu_operator.domain.job import Job
from fedgpu_operator.domain.money import MicroUSD
from fedgpu_operator.domain.offer import GpuModel, GpuNeed, Offer
from fedgpu_operator.errors import ConfigurationError
from fedgpu_operator.placement import (
    BUILT_IN,
    Context,
    Engine,
    Filter,
    OfferRefusal,
    OfferTable,
    Plugins,
    Pricer,
    Snapshot,
    decide,
)

PAGE = Path(__file__).resolve().parents[3] / "docs" / "adding-a-rule.md"
OFFER = Offer("a", GpuModel("L4", 23034, "ada"), MicroUSD(900_000), Location("NO"), {8: 1})
OFFERS = (OFFER, replace(OFFER, provider="b", price=MicroUSD(400_000)))
JOB = Job("uid", "lab", "train", GpuNeed(), 1, 3600)
SNAPSHOT = Snapshot(datetime(2026, 1, 1, tzinfo=UTC), (JOB,), OFFERS, funds={"lab": None})

Install = Callable[[str, str, str], None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Lays a distribution as pip would: its module, and metadata with one entry point."""
    before = set(sys.modules)
    monkeypatch.syspath_prepend(str(tmp_path))

    def lay(module: str, source: str, entry: str) -> None:
        (tmp_path / f"{module}.py").write_text(source, encoding="utf-8")
        meta = tmp_path / f"{module}-1.0.dist-info"
        meta.mkdir()
        (meta / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: 1.0\n", encoding="utf-8")
        (meta / "entry_points.txt").write_text(f"[{GROUP}]\n{entry}\n", encoding="utf-8")

    yield lay
    for name in set(sys.modules) - before:
        del sys.modules[name]


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)


def test_the_example_of_the_page_works_as_written(install: Install) -> None:
    rule, its_test, price = blocks("python")
    (project,) = (tomllib.loads(text)["project"] for text in blocks("toml"))
    ((name, target),) = project["entry-points"][GROUP].items()
    install("fedgpu_green", rule, f"{name} = {target}")
    assert [each.name for each in load_plugins([name]).extra_filters] == ["cleanPower"]
    exec(compile(its_test, str(PAGE), "exec"), {})
    install("fedgpu_support", price, "support = fedgpu_support:price")
    plugins = load_plugins(["green", "support"])
    (decision,) = decide(SNAPSHOT, plugins)
    assert decision.verdicts[0].components == {"noSupport": 50_000}
    assert decision.chosen is not None
    assert decision.chosen.effective_price == 450_000


def test_nothing_is_imported_that_is_not_named(install: Install) -> None:
    install("fedgpu_bomb", "raise SystemExit", "bomb = fedgpu_bomb:rule")
    assert load_plugins([]) is BUILT_IN


RULE = "from fedgpu_operator.placement import Filter, Pricer, OfferRefusal\n"


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("rule = 1 / 0", "one cannot be imported: ZeroDivisionError"),
        ("other = 1", "one cannot be imported: AttributeError"),
        ("rule = print", "one is a builtin_function_or_method, not a Filter or a Pricer"),
        (RULE + "rule = Filter('capacity', lambda c, o: None, (), lambda c: None)", "'capacity' .* already taken"),
        (RULE + "rule = Filter('mine', lambda c, o: None, ('Outbid',), lambda c: None)", "'Outbid' .* already taken"),
        (RULE + "rule = Filter('My rule', lambda c, o: None, (), lambda c: None)", "does not match"),
        (
            RULE + "rule = Filter('mine', lambda c, o: None, (), lambda c: [])",
            "plain job, plugin mine failed: TypeError",
        ),
        (RULE + "rule = Filter('mine', lambda c, o: 1 / 0, (), lambda c: 1)", "mine failed: ZeroDivisionError"),
        (
            RULE + "rule = Filter('mine', lambda c, o: OfferRefusal('No', 'no'), (), lambda c: 1)",
            "undeclared reason 'No'",
        ),
        (RULE + "rule = Pricer('mine', lambda c, t: [1, 2], lambda c: 1)", "mine failed: TypeError: returned list"),
        (
            RULE + "import numpy as np\n"
            "rule = Filter('mine', lambda c, o: None, (), lambda c: 1, lambda c, t: np.zeros(len(t), bool))",
            "mine: allowed says .* refusal",
        ),
    ],
)
def test_a_broken_rule_is_refused_at_the_start_with_one_line(install: Install, source: str, said: str) -> None:
    install("fedgpu_one", source, "one = fedgpu_one:rule")
    with pytest.raises(ConfigurationError, match=said):
        load_plugins(["one"])


def test_a_rule_that_is_not_installed_is_named_with_those_that_are(install: Install) -> None:
    install("fedgpu_one", "", "one = fedgpu_one:rule")
    with pytest.raises(ConfigurationError, match=r"no installed package has a placement rule 'two'; there is one"):
        load_plugins(["two"])


def raises(*_: Any) -> Any:
    raise RuntimeError("boom")


def floats(_ctx: object, table: OfferTable) -> Any:
    return np.zeros(len(table))


def nothing(*_: Any) -> None:
    return None


BROKEN_FILTERS = [
    Filter("mine", raises, ("No",), lambda ctx: 1),
    Filter("mine", nothing, ("No",), raises),
    Filter("mine", lambda ctx, offer: OfferRefusal("Else", "no"), ("No",), lambda ctx: 1),
    Filter("mine", raises, ("No",), lambda ctx: 1, floats),
    Filter("mine", raises, ("No",), lambda ctx: 1, raises),
]
BROKEN_PRICERS = [
    Pricer("mine", raises, lambda ctx: 1),
    Pricer("mine", lambda ctx, table: np.full(len(table), -1), lambda ctx: 1),
    Pricer("mine", floats, lambda ctx: 1),
    Pricer("mine", lambda ctx, table: np.zeros(len(table), np.int64), raises),
]


@pytest.mark.parametrize(
    "plugins",
    [Plugins(extra_filters=(each,)) for each in BROKEN_FILTERS]
    + [Plugins(extra_pricers=(each,)) for each in BROKEN_PRICERS],
)
def test_a_rule_that_breaks_in_a_pass_refuses_everything_and_is_reported(plugins: Plugins) -> None:
    engine = Engine(plugins)
    for _ in range(2):
        outcome = engine.decide(SNAPSHOT)
        (decision,) = outcome.decisions
        assert decision.chosen is None
        assert decision.reason == Reason.PLUGIN_FAILED
        assert decision.message == "0/2 providers fit: 2 PluginFailed"
        assert {each.plugin for each in outcome.failures} == {"mine"}
        assert all("plugin mine failed" in each.message for each in decision.verdicts)


def test_one_offer_on_which_a_rule_breaks_leaves_the_others_and_it_is_asked_again() -> None:
    broken = {"b"}

    def refusal(_ctx: object, offer: Offer) -> None:
        if offer.provider in broken:
            raise RuntimeError("boom")

    engine = Engine(Plugins(extra_filters=(Filter("mine", refusal, ("No",), lambda ctx: 1),)))
    (decision,) = engine.decide(SNAPSHOT).decisions
    assert decision.chosen is not None
    assert decision.chosen.provider == "a"
    assert decision.verdicts[1].reason == Reason.PLUGIN_FAILED
    broken.clear()
    outcome = engine.decide(SNAPSHOT)
    assert outcome.decisions[0].chosen is not None
    assert outcome.decisions[0].chosen.provider == "b"
    assert outcome.failures == ()


def test_a_third_partys_reason_counts_like_ours_and_lies_without_words_are_named() -> None:
    def refusal(_ctx: object, offer: Offer) -> OfferRefusal | None:
        return OfferRefusal("No", "no") if offer.provider == "b" else None

    no = Filter("mine", refusal, ("No",), lambda ctx: 1)
    (decision,) = decide(replace(SNAPSHOT, offers=OFFERS[1:]), Plugins(extra_filters=(no,)))
    assert (decision.reason, decision.message) == ("No", "0/1 providers fit: 1 No")
    silent = replace(no, refusal=nothing, allowed=lambda ctx, table: np.zeros(len(table), dtype=np.bool_))
    (decision,) = decide(SNAPSHOT, Plugins(extra_filters=(silent,)))
    assert "refused the offer without a reason" in decision.verdicts[0].message


def all_through(_ctx: object, table: OfferTable) -> Any:
    return np.ones(len(table), dtype=np.bool_)


@pytest.mark.parametrize(
    ("refusal", "reason"),
    [
        (lambda ctx, offer: OfferRefusal("No", "no") if offer.provider == "b" else None, "No"),
        (lambda ctx, offer: raises() if offer.provider == "b" else None, Reason.PLUGIN_FAILED),
    ],
)
def test_what_refusal_says_stands_though_allowed_lets_it_through(refusal: Any, reason: str) -> None:
    plugins = Plugins(extra_filters=(Filter("mine", refusal, ("No",), lambda ctx: 1, all_through),))
    engine = Engine(plugins)
    first = engine.decide(SNAPSHOT)
    assert [each.plugin for each in first.failures[:1]] == ["mine"]
    for decision in (*first.decisions, *engine.decide(SNAPSHOT).decisions, Engine(plugins).evaluate(JOB, SNAPSHOT)):
        assert decision.chosen is not None
        assert decision.chosen.provider == "a"
        assert [each.reason for each in decision.verdicts] == [None, reason]


def test_a_name_stands_for_one_plugin_whatever_it_does() -> None:
    for name in ("residency", "capacity", "gas"):
        with pytest.raises(ConfigurationError, match="already taken"):
            Plugins(extra_pricers=(Pricer(name, floats, lambda ctx: 1),))
        with pytest.raises(ConfigurationError, match="already taken"):
            Plugins(extra_filters=(Filter(name, nothing, (), lambda ctx: 1),))
    with pytest.raises(ConfigurationError, match="already taken"):
        Plugins((Filter("mine", nothing, (), lambda ctx: 1),), (Pricer("mine", floats, lambda ctx: 1),))


def has_even_place(_ctx: object, table: OfferTable) -> Any:
    return table.provider % 2 == 0


def has_named_neighbour(_ctx: object, table: OfferTable) -> Any:
    return np.array([table.providers[i] != table.providers[-1] for i in table.provider], dtype=np.bool_)


def has_slots(_ctx: object, table: OfferTable) -> Any:
    return np.array([table.slots[i] not in (0, 1) for i in table.provider.tolist()], dtype=np.bool_)


def has_free(_ctx: object, table: OfferTable) -> Any:
    return np.array([sum(each.values()) > 1 for each in table.free], dtype=np.bool_)


@pytest.mark.parametrize("allowed", [has_even_place, has_named_neighbour, has_slots, has_free])
def test_whatever_a_mask_reads_of_the_table_it_is_asked_again_when_that_changes(allowed: Any) -> None:
    def only(ctx: Context, offer: Offer) -> OfferRefusal | None:
        return None

    plugins = Plugins(extra_filters=(Filter("mine", only, ("No",), lambda ctx: 1, allowed),))
    rng = Random(5)
    engine = Engine(plugins)
    offers = [replace(OFFER, provider=f"p{i:02}", free={1: 2}) for i in range(12)]
    for _ in range(30):
        at = rng.randrange(len(offers))
        offers[at] = replace(offers[at], free={1: rng.choice([1, 3])}, lease_slots=rng.choice([None, 0, 1, 2]))
        if rng.random() < 0.3:
            offers[at] = replace(offers[at], provider=f"p{rng.randrange(60, 99)}-{at}")
        snapshot = replace(SNAPSHOT, offers=tuple(offers))
        warm, cold = engine.place(snapshot), Engine(plugins).place(snapshot)
        assert warm.classes[0].eligible.tolist() == cold.classes[0].eligible.tolist()


def test_what_a_plugin_gets_of_the_table_cannot_be_written() -> None:
    table = OfferTable(OFFERS)
    for row in (table.provider, table.price, table.room(1), table.kinds(provider_of).codes):
        with pytest.raises(ValueError, match="read-only"):
            row[0] = 1


def provider_of(offer: Offer) -> str:
    return offer.provider
