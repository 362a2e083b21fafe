"""An archived ledger answers as before, and its audit still finds whatever was done to rows in files or in tables."""

from __future__ import annotations

import asyncio
import gzip
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from hashlib import sha256
from pathlib import Path

import pytest
from eth_utils.crypto import keccak
from tests.contract.ledger.intruder import Intruder
from tests.contract.ledger.test_copies import same
from tests.contract.ledger.test_document import program, run
from tests.ledgers import open_attempt, postings_of

from fedgpu_operator.adapters.ledger import SqlLedger, archives, copies, segments, usage
from fedgpu_operator.adapters.ledger.hashchain import COLUMNS, genesis, row_hash
from fedgpu_operator.domain.attempts import AttemptRequest, SignedUsage
from fedgpu_operator.domain.ledger import Archived, ArchiveWish, LedgerAudit, Position, PostingKind, UsageDispute
from fedgpu_operator.domain.money import MicroUSD, accrue
from fedgpu_operator.domain.settlement import EpochDraft, EpochLine, EpochStage, LeaseCover, Receipt
from fedgpu_operator.errors import ConfigurationError, LedgerError

Ask = Callable[..., AttemptRequest]
T, P, Q = "0xT", "0xPä", "0xQ"
EPOCHS = 6
ALL = ArchiveWish(whole=1)
"""As far as nothing needs it."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An empty folder for archives."""
    made = tmp_path / "archive"
    made.mkdir()
    return made


async def settle(ledger: SqlLedger, number: int, now: datetime, stage: EpochStage = EpochStage.PAID) -> None:
    """One epoch over all that is in the ledger, with usage, receipts and postings of its own before it."""
    at = now + timedelta(hours=number)
    for job in ("a", "b"):
        signed = SignedUsage(number, 100 * number, 1_748_779_200, "0x" + "ab" * 32, "0xS", b"\x00\x02")
        await ledger.record_usage(f"{job}-1", number, 100 * number, at, signed=signed)
    sealed = await ledger.seal()
    await ledger.append_receipt(Receipt(T, P, MicroUSD(number), number, "0xroot"), b"\x03", b"\x04", at)
    charged = [Position(PostingKind.CHARGED, T, each, MicroUSD(100 * number)) for each in (P, Q)]
    # What is set aside rises and falls.
    aside = Position(PostingKind.SET_ASIDE, T, "", MicroUSD(50 + 10 * (number % 2)))
    await ledger.post([*charged, aside], at, block=number)
    manifest = f"manifest {number}".encode()
    draft = EpochDraft(
        seq=number,
        prev_root="0x00",
        root=f"0x{number}",
        manifest=manifest,
        manifest_hash="0x" + keccak(manifest).hex(),
        period_end=at,
        total=MicroUSD(7),
        lines=(EpochLine("team-a", "berlin", T, P, MicroUSD(7 * number)),),
        covers=tuple(LeaseCover(f"{job}-1", 100 * number) for job in ("a", "b")),
        ledger_head=str((await ledger.head()) if sealed else ""),
    )
    await ledger.store_epoch(draft, at)
    for each in (EpochStage.POSTED, EpochStage.FINALIZED, stage):
        await ledger.mark_epoch(number, each, chain_epoch=number, post_tx="0x1")


@pytest.fixture
async def month(held: SqlLedger, ask: Ask, now: datetime) -> SqlLedger:
    """Six paid epochs over two leases, one of which has ended; and a receipt that nothing superseded."""
    for job in ("a", "b"):
        await open_attempt(held, ask(job_uid=job, tenant_wallet=T, provider_wallet=P), now)
    await held.append_receipt(Receipt(T, Q, MicroUSD(1), 1, "0xroot"), b"\x05", b"\x06", now)
    for number in range(1, EPOCHS + 1):
        await settle(held, number, now)
    await held.end_attempt("a-1", "Succeeded", now + timedelta(hours=EPOCHS))
    return held


async def archive(
    location: str, folder: Path, now: datetime, wish: ArchiveWish = ALL, *, dry_run: bool = False
) -> Archived:
    return await asyncio.to_thread(lambda: archives.archive(location, folder, wish, now, dry_run=dry_run))


async def asked(ledger: SqlLedger) -> object:
    """All that the operator reads of the books."""
    epochs = [(e.number, e.stage, e.chain_epoch, e.draft.manifest_hash) for e in await ledger.epochs()]
    return (
        await ledger.settlement_snapshot(),
        await ledger.pair_totals(),
        await ledger.open_attempts(),
        [await ledger.last_usage(f"{job}-1") for job in ("a", "b")],
        await ledger.coverages(["a-1", "b-1"]),
        await ledger.seal_pair((T, P)),
        await ledger.receipts(),
        await ledger.balances(),
        await ledger.head(),
        epochs,
    )


async def test_what_the_operator_reads_is_the_same_and_work_goes_on(
    month: SqlLedger, location: str, folder: Path, now: datetime
) -> None:
    before = await asked(month)
    done = await archive(location, folder, now)
    assert done.removed == {
        "usage_records": EPOCHS - 1,
        "postings": 2 * (3 * EPOCHS),
        "receipts": EPOCHS - 1,
        "epoch_lines": EPOCHS - 1,
        "epoch_leases": 2 * (EPOCHS - 1),
        "epochs": EPOCHS - 1,
    }
    # The open attempt's checkpoints and the newest of the other, the newest receipt of each pair, and no cover: the
    # boundary's own are whole.
    assert done.kept == {"usage_records": EPOCHS + 1, "receipts": 2, "epoch_leases": 0}
    assert await asked(month) == before
    assert (await month.trial_balance()).balanced
    for number in (EPOCHS + 1, EPOCHS + 2):
        await settle(month, number, now)
    audit = await month.verify(folder)
    assert audit.sound, audit.faults
    assert audit.unread == {}
    # Numbers and positions go on from what is archived.
    newest = (await postings_of(month))[0]
    assert newest.entry == 3 * (EPOCHS + 2)
    assert await month.post([], now, block=1) == ()
    with pytest.raises(LedgerError, match="fell"):
        await month.post([Position(PostingKind.CHARGED, T, P, MicroUSD(1))], now, block=99)


async def test_archiving_again_goes_on_where_it_ended(
    month: SqlLedger, location: str, folder: Path, now: datetime
) -> None:
    await archive(location, folder, now, replace(ALL, before=4))
    first = await month.segments()
    again = await archive(location, folder, now, replace(ALL, before=4))
    assert again.nothing
    assert "epoch 4 is not before epoch 4" in again.why
    assert await month.segments() == first
    await month.end_attempt("b-1", "Succeeded", now)
    rest = await archive(location, folder, now)
    # What an open attempt had kept of the first run's rows goes with it.
    assert rest.removed["usage_records"] == 2 * EPOCHS - 5
    assert rest.kept["usage_records"] == 2, "the newest of each lease"
    found = await month.segments()
    assert [each.number for each in found] == [1] * 4 + [2] * 4
    assert (await month.verify(folder)).sound
    live = await month.verify()
    assert live.sound
    assert live.unread == {
        "epochs": EPOCHS - 1,
        "postings": 6 * EPOCHS,
        "receipts": EPOCHS + 1,
        "usage_records": 2 * EPOCHS,
    }


async def test_what_is_kept_stays_while_its_file_is_not_there(
    month: SqlLedger, location: str, folder: Path, now: datetime
) -> None:
    await archive(location, folder, now, replace(ALL, before=4))
    usage = file_of(folder, "usage_records")
    moved = usage.rename(usage.with_suffix(".away"))
    await month.end_attempt("b-1", "Succeeded", now)
    done = await archive(location, folder, now)
    assert done.missing == (usage.name,)
    assert done.kept["usage_records"] == 3 + 2
    moved.rename(usage)
    assert (await archive(location, folder, now)).removed["usage_records"] == 3
    assert (await month.verify(folder)).sound


@pytest.mark.parametrize(
    ("hold", "boundary", "why"),
    [
        ("stage", 4, "epoch 5 is Finalized: it is not paid yet"),
        ("before", 2, "epoch 3 is not before epoch 3"),
        ("until", 3, "the period of epoch 4 ended after"),
        ("over", 3, "epoch 4: its challenge, ruling and exit time is not over"),
        ("intent", 1, "epoch 2 has an open intent"),
    ],
)
async def test_nothing_that_is_still_needed_is_archived(
    month: SqlLedger, location: str, folder: Path, intruder: Intruder, now: datetime, hold: str, boundary: int, why: str
) -> None:
    wish = ALL
    match hold:
        case "stage":
            intruder.run("UPDATE epochs SET stage = 'Finalized' WHERE number = 5")
        case "before":
            wish = replace(ALL, before=3)
        case "until":
            wish = replace(ALL, until=now + timedelta(hours=3))
        case "over":
            wish = replace(ALL, over=3)
        case "intent":
            await month.open_intent("claim:2", "claim", 2, "0xS", 0, "0xE", b"", now)
    done = await archive(location, folder, now, wish)
    assert why in done.why
    assert {each.epoch for each in done.segments if each.chain != "epochs"} == {boundary}
    audit = await month.verify(folder)
    assert audit.sound, audit.faults
    (left,) = intruder.run("SELECT COUNT(*) FROM postings")
    assert left == (6 * (EPOCHS - boundary),)


async def test_an_open_dispute_keeps_the_usage_of_its_lease(
    month: SqlLedger, location: str, folder: Path, now: datetime
) -> None:
    await month.dispute_usage(UsageDispute("a-1", EPOCHS, 900, 600, "HubClock", "{}", now))
    done = await archive(location, folder, now)
    assert (done.removed["usage_records"], done.kept["usage_records"]) == (0, 2 * EPOCHS)


async def test_the_newest_epochs_stay_whole(month: SqlLedger, location: str, folder: Path, now: datetime) -> None:
    await archive(location, folder, now, replace(ALL, whole=3))
    manifests = [bool(epoch.draft.manifest) for epoch in reversed(await month.epochs())]
    assert manifests == [False] * 3 + [True] * 3
    assert (await month.verify(folder)).sound


async def test_a_cover_that_a_later_epoch_may_fall_back_to_stays(
    month: SqlLedger, location: str, folder: Path, now: datetime
) -> None:
    await settle(month, EPOCHS + 1, now, EpochStage.FINALIZED)
    await archive(location, folder, now)
    await month.mark_epoch(EPOCHS + 1, EpochStage.CANCELLED)
    covered = (await month.coverages(["b-1"]))["b-1"]
    assert (covered.covered_gpu_seconds, covered.gpu_seconds) == (100 * EPOCHS, 100 * (EPOCHS + 1))


async def test_a_lease_that_was_covered_long_ago_stays_covered(
    month: SqlLedger, location: str, folder: Path, ask: Ask, now: datetime
) -> None:
    """Its cover is the only thing that says it is paid, should it be billed more and that epoch come to nothing."""
    await month.record_usage("a-1", EPOCHS + 1, 100 * EPOCHS + 5, now + timedelta(hours=EPOCHS))
    for number in (EPOCHS + 1, EPOCHS + 2):
        at = now + timedelta(hours=number)
        manifest = f"m{number}".encode()
        draft = EpochDraft(
            seq=number,
            prev_root="0x",
            root=f"0x{number}",
            manifest=manifest,
            manifest_hash="0x" + keccak(manifest).hex(),
            period_end=at,
            total=MicroUSD(1),
            lines=(),
            covers=(LeaseCover("a-1", 100 * EPOCHS + 5),) if number == EPOCHS + 2 else (),
            ledger_head=str((await month.seal()).head),
        )
        await month.store_epoch(draft, at)
        await month.mark_epoch(number, EpochStage.POSTED)
        await month.mark_epoch(number, EpochStage.FINALIZED, chain_epoch=number)
        if number == EPOCHS + 1:
            await month.mark_epoch(number, EpochStage.PAID)
    done = await archive(location, folder, now)
    assert done.kept["epoch_leases"] == 2
    await month.mark_epoch(EPOCHS + 2, EpochStage.CANCELLED)
    assert (await month.coverages(["a-1"]))["a-1"].covered_gpu_seconds == 100 * EPOCHS
    audit = await month.verify(folder)
    assert audit.sound, audit.faults


async def test_many_rows_go_in_several_runs_so_that_no_writer_waits_long(
    month: SqlLedger, location: str, folder: Path, now: datetime, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = await asked(month)
    planned = await archive(location, folder, now, dry_run=True)
    monkeypatch.setattr(archives, "ROWS_TOGETHER", 15)
    done = await archive(location, folder, now)
    assert (done.removed, done.kept, done.more) == (planned.removed, planned.kept, False)
    assert [each.number for each in await month.segments()] == sorted([*range(1, 4)] * 4)
    assert len(entries(folder)) == len([each for each in done.segments if each.rows]) > 8
    assert await asked(month) == before
    audit = await month.verify(folder)
    assert audit.sound, audit.faults


async def test_a_dry_run_writes_and_removes_nothing(
    month: SqlLedger, location: str, folder: Path, now: datetime
) -> None:
    planned = await archive(location, folder, now, dry_run=True)
    assert entries(folder) == []
    assert await month.segments() == ()
    done = await archive(location, folder, now)
    assert (planned.removed, planned.kept) == (done.removed, done.kept)


def entries(folder: Path) -> list[str]:
    return sorted(each.name for each in folder.iterdir())


async def test_a_death_between_files_and_rows_loses_nothing(
    month: SqlLedger, location: str, folder: Path, now: datetime, monkeypatch: pytest.MonkeyPatch
) -> None:
    class DiedError(Exception):
        pass

    def die(*_: object) -> None:
        raise DiedError

    with monkeypatch.context() as dying:
        dying.setattr(archives, "_remove", die)
        with pytest.raises(DiedError):
            await archive(location, folder, now)
    written = {name: (folder / name).read_bytes() for name in entries(folder)}
    assert len(written) == 4
    assert (await month.verify()).sound
    assert await month.segments() == ()
    done = await archive(location, folder, now)
    assert {name: (folder / name).read_bytes() for name in entries(folder)} == written, "the same files again"
    assert not done.nothing
    assert (await month.verify(folder)).sound


async def test_a_file_that_does_not_come_back_as_it_was_written_removes_nothing(
    month: SqlLedger, location: str, folder: Path, now: datetime, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = segments.write

    def rotten(where: Path, segment: object, lines: object) -> str:
        digest = write(where, segment, lines)  # type: ignore[arg-type]
        path = where / segment.file  # type: ignore[attr-defined]
        alter(path, lambda rows: rows[:-1])
        return digest

    monkeypatch.setattr(segments, "write", rotten)
    with pytest.raises(LedgerError, match="nothing was removed"):
        await archive(location, folder, now)
    assert await month.segments() == ()
    assert (await month.verify()).sound


async def test_rows_that_are_not_sound_are_not_archived(
    month: SqlLedger, location: str, folder: Path, intruder: Intruder, now: datetime
) -> None:
    intruder.run("UPDATE postings SET amount = amount + 1 WHERE position = 3", unguarded=True)
    with pytest.raises(LedgerError, match=r"postings, position 3.*fedgpu ledger verify"):
        await archive(location, folder, now)
    assert await month.segments() == ()


async def test_the_guards_let_go_of_exactly_what_is_archived(
    month: SqlLedger, location: str, folder: Path, intruder: Intruder, now: datetime
) -> None:
    await archive(location, folder, now, replace(ALL, before=4))
    for statement in (
        "DELETE FROM usage_records WHERE position = 7",
        "DELETE FROM postings WHERE position = 19",
        "DELETE FROM receipts WHERE position = 5",
        "DELETE FROM epoch_lines WHERE epoch = 3",
        "DELETE FROM epoch_leases WHERE epoch = 3",
        "UPDATE epochs SET manifest = hash WHERE number = 1",
        "DELETE FROM epochs WHERE number = 1",
        "DELETE FROM archived_segments",
        "UPDATE archived_segments SET kept_hash = digest",
    ):
        with pytest.raises(intruder.refusal, match="append-only"):
            intruder.run(statement)
    for statement in (
        "DELETE FROM opening_balances",
        "UPDATE opening_balances SET amount = amount + 1",
        "INSERT INTO opening_balances VALUES ('Charged', 'x', 'y', 1, 'z', 1, 1, NULL, 1)",
    ):
        with pytest.raises(intruder.refusal, match="opening balances"):
            intruder.run(statement)
    with pytest.raises(intruder.refusal, match="a segment begins where"):
        intruder.run(
            "INSERT INTO archived_segments (number, chain, first_position, last_position, hash_before, hash_after,"
            " epoch, file, digest, kept_hash, at) SELECT 2, chain, 1, last_position, hash_before, hash_after, epoch,"
            " file, digest, kept_hash, at FROM archived_segments WHERE chain = 'postings'"
        )


# ---------------------------------------------------------------- tampering


def alter(path: Path, change: Callable[[list[bytes]], list[bytes]]) -> None:
    """Write a file again with other lines."""
    lines = gzip.decompress(path.read_bytes()).splitlines(keepends=True)
    path.write_bytes(gzip.compress(b"".join(change(lines)), mtime=0))


def file_of(folder: Path, chain: str) -> Path:
    (path,) = folder.glob(f"{chain}-*")
    return path


def where(audit: LedgerAudit) -> set[str]:
    assert not audit.sound
    return {fault.table for fault in audit.faults}


@pytest.fixture
async def sealed(month: SqlLedger, location: str, folder: Path, now: datetime) -> SqlLedger:
    """Archived up to its last epoch but one."""
    await archive(location, folder, now, replace(ALL, before=EPOCHS))
    assert (await month.verify(folder)).sound
    return month


CHAINS = ("epochs", "postings", "receipts", "usage_records")


@pytest.mark.parametrize("chain", CHAINS)
async def test_whatever_is_done_to_a_file_is_found(sealed: SqlLedger, folder: Path, chain: str) -> None:
    path = file_of(folder, chain)
    was = path.read_bytes()
    step = 2 if chain == "epochs" else 1
    digit = b"3" if chain != "receipts" else b"r"

    def changed(rows: list[bytes]) -> list[bytes]:
        rows[2] = rows[2][:-4] + (digit if rows[2][-4:-3] != digit else b"4") + rows[2][-3:]
        return rows

    for change in (
        changed,
        lambda rows: [*rows[:1], *rows[1 + step :]],  # the first row removed
        lambda rows: rows[:-step],  # the last row removed
        lambda rows: [*rows[: 1 + step], *rows[1 : 1 + step], *rows[1 + step :]],  # a row inserted
        lambda rows: [*rows, *rows[-step:]],  # a row added at the end
        lambda rows: [rows[0], *rows[1 + step : 1 + 2 * step], *rows[1 : 1 + step], *rows[1 + 2 * step :]],  # moved
        lambda rows: rows[1:],  # without a header
    ):
        alter(path, change)
        assert where(await sealed.verify(folder)) == {chain}
        path.write_bytes(was)
    path.write_bytes(gzip.compress(gzip.decompress(was), mtime=1))
    assert where(await sealed.verify(folder)) == {chain}, "the same rows, but another file"
    for bytes_ in (was[:-20], b"", b"no gzip", was[:40] + bytes([was[40] ^ 255]) + was[41:]):
        path.write_bytes(bytes_)
        assert where(await sealed.verify(folder)) == {chain}
    path.unlink()
    (fault,) = (await sealed.verify(folder)).faults
    assert (fault.table, fault.why) == (chain, f"file {path.name} is missing")
    path.write_bytes(was)
    assert (await sealed.verify(folder)).sound


async def test_every_part_of_an_archived_epoch_is_bound(sealed: SqlLedger, folder: Path) -> None:
    path = file_of(folder, "epochs")
    was = path.read_bytes()
    for old, new in (
        (b"manifest 2".hex().encode(), b"manifest 9".hex().encode()),
        (b'"berlin"', b'"bonn"'),
        (b'["a-1","200"]', b'["a-1","201"]'),
        (b'["epoch_parts","2"', b'["epoch_parts","3"'),
    ):
        text = gzip.decompress(was)
        assert old in text
        path.write_bytes(gzip.compress(text.replace(old, new, 1), mtime=0))
        assert where(await sealed.verify(folder)) == {"epochs"}, old
    path.write_bytes(was)


async def test_two_files_that_changed_places_are_found(
    sealed: SqlLedger, location: str, folder: Path, now: datetime
) -> None:
    await archive(location, folder, now)
    first, second = (folder / name for name in entries(folder) if name.startswith("postings-"))
    other = first.rename(folder / "x")
    second.rename(first)
    other.rename(second)
    (fault,) = (await sealed.verify(folder)).faults
    assert fault.table == "postings"
    assert "another segment" in fault.why


async def test_a_file_of_another_ledger_is_found(
    sealed: SqlLedger, folder: Path, tmp_path: Path, ask: Ask, now: datetime
) -> None:
    """The same number of rows, made in the same way, a minute later."""
    path, theirs = tmp_path / "other.db", tmp_path / "theirs"
    theirs.mkdir()
    async with await SqlLedger.open(path) as other:
        later = now + timedelta(minutes=1)
        for job in ("a", "b"):
            await open_attempt(other, ask(job_uid=job, tenant_wallet=T, provider_wallet=P), later)
        await other.append_receipt(Receipt(T, Q, MicroUSD(1), 1, "0xroot"), b"\x05", b"\x06", later)
        for number in range(1, EPOCHS + 1):
            await settle(other, number, later)
        await archive(str(path), theirs, now, replace(ALL, before=EPOCHS))
    for chain in CHAINS:
        mine = file_of(folder, chain)
        kept = mine.read_bytes()
        assert file_of(theirs, chain).name == mine.name
        shutil.copy(file_of(theirs, chain), mine)
        (fault,) = (await sealed.verify(folder)).faults
        assert (fault.table, "another ledger" in fault.why) == (chain, True)
        mine.write_bytes(kept)
    stray = folder / "usage_records-000000000900-000000000901.jsonl.gz"
    shutil.copy(file_of(folder, "usage_records"), stray)
    audit = await sealed.verify(folder)
    assert (audit.sound, audit.strays) == (True, (stray.name,))


@pytest.mark.parametrize(
    ("statement", "table"),
    [
        ("UPDATE usage_records SET gpu_seconds = gpu_seconds + 1 WHERE position = 2", "usage_records"),
        ("DELETE FROM usage_records WHERE position = 2", "usage_records"),
        ("UPDATE receipts SET usage_root = 'x' WHERE position = 1", "receipts"),
        ("DELETE FROM receipts WHERE position = 1", "receipts"),
        ("UPDATE opening_balances SET amount = amount + 1 WHERE kind = 'SetAside' AND leg = 1", "opening_balances"),
        ("DELETE FROM opening_balances WHERE kind = 'SetAside'", "opening_balances"),
        ("UPDATE opening_balances SET entry = 99 WHERE kind = 'SetAside'", "opening_balances"),
        ("UPDATE archived_segments SET last_position = 3 WHERE chain = 'postings'", "archived_segments"),
        ("UPDATE archived_segments SET hash_after = digest WHERE chain = 'postings'", "archived_segments"),
        ("UPDATE archived_segments SET hash_before = digest WHERE chain = 'postings'", "archived_segments"),
        ("UPDATE archived_segments SET epoch = 2 WHERE chain = 'postings'", "archived_segments"),
        ("INSERT INTO epoch_lines VALUES (1, 'x', 'y', 'z', 'w', 5)", "epochs"),
        (
            "INSERT INTO epoch_leases (lease_name, epoch, gpu_seconds, skipped) VALUES ('a-1', 1, 5, 0)",
            "epoch_leases",
        ),
        ("UPDATE epochs SET manifest = hash WHERE number = 1", "epochs"),
    ],
)
@pytest.mark.parametrize("with_files", [True, False])
async def test_what_is_done_to_the_live_part_is_found_with_and_without_the_files(
    sealed: SqlLedger, folder: Path, intruder: Intruder, statement: str, table: str, with_files: bool
) -> None:
    intruder.run(statement, unguarded=True)
    assert table in where(await sealed.verify(folder if with_files else None))


async def test_only_the_files_show_what_was_written_anew_with_all_its_hashes(
    sealed: SqlLedger, folder: Path, intruder: Intruder
) -> None:
    """Somebody who owns the database and knows the format: kept rows and balances are held to the files."""
    intruder.run("UPDATE opening_balances SET amount = 7 WHERE kind = 'SetAside' AND leg = 1", unguarded=True)
    intruder.run("UPDATE opening_balances SET amount = -7 WHERE kind = 'SetAside' AND leg = 2", unguarded=True)
    intruder.run("UPDATE receipts SET cumulative = 9 WHERE position = 1", unguarded=True)
    digest = "UPDATE archived_segments SET kept_hash = ? WHERE chain = ?"
    for chain in ("postings", "receipts"):
        intruder.run(digest, await kept_hash(sealed, chain), chain, unguarded=True)
    assert (await sealed.verify()).sound, "the ledger alone cannot know"
    assert where(await sealed.verify(folder)) == {"opening_balances", "receipts"}


async def kept_hash(ledger: SqlLedger, chain: str) -> bytes:
    segment = archives.newest(await ledger.segments())[chain]
    read = ledger._database.snapshot
    return await asyncio.to_thread(read, lambda connection: archives.hash_of_kept(connection, segment))


async def test_a_file_forged_with_its_record_is_found_by_the_epochs(
    sealed: SqlLedger, folder: Path, intruder: Intruder
) -> None:
    """A segment that is sound in itself, its record and the live chain made to fit: the epochs' heads remember."""
    path = file_of(folder, "postings")
    lines = gzip.decompress(path.read_bytes()).splitlines()
    lines[3] = lines[3].replace(b'"Charged"', b'"Paid"')
    last = genesis("postings")
    for line in lines[1:]:
        last = sha256(last + line).digest()
    (segment,) = [each for each in await sealed.segments() if each.chain == "postings"]
    lines[0] = lines[0].replace(segment.after.encode(), last.hex().encode())
    path.write_bytes(gzip.compress(b"\n".join(lines) + b"\n", mtime=0))
    record = "UPDATE archived_segments SET hash_after = ?, digest = ? WHERE chain = 'postings'"
    intruder.run(record, last, bytes.fromhex(segments.digest_of(path)), unguarded=True)
    columns = ", ".join(COLUMNS["postings"])
    rows = f"SELECT position, {columns} FROM postings ORDER BY position"
    for position, *fields in intruder.run(rows):
        assert isinstance(position, int)
        last = row_hash(last, "postings", position, fields)
        intruder.run("UPDATE postings SET hash = ? WHERE position = ?", last, position, unguarded=True)
    intruder.run("UPDATE chain_heads SET hash = ? WHERE chain = 'postings'", last, unguarded=True)
    for where_ in (None, folder):
        assert {"archived_segments"} <= where(await sealed.verify(where_))


async def test_a_live_row_that_its_archived_checkpoint_contradicts_is_found(
    month: SqlLedger, location: str, folder: Path, intruder: Intruder, now: datetime
) -> None:
    await archive(location, folder, now)
    intruder.run("UPDATE lease_usage SET gpu_seconds = gpu_seconds + 1, uncovered = 1", unguarded=True)
    assert "usage_records" in where(await month.verify(folder))


@pytest.mark.parametrize("more", [1000, -100])
@pytest.mark.parametrize("with_files", [True, False])
async def test_an_ended_lease_whose_evidence_is_archived_stays_bound(
    month: SqlLedger, location: str, folder: Path, intruder: Intruder, now: datetime, more: int, with_files: bool
) -> None:
    """Somebody who makes the live row, its hash, which has no key, and the totals of the pair fit each other."""
    await archive(location, folder, now)
    assert (await month.verify(folder)).sound
    columns = ", ".join(usage.READING)
    ((*reading, at),) = intruder.run(f"SELECT {columns}, checkpoint_at FROM lease_usage WHERE lease_name = 'a-1'")
    reading[1], reading[2] = int(str(reading[1])) + 1, int(str(reading[2])) + more
    intruder.run(
        "UPDATE lease_usage SET sequence = ?, checkpoint_sequence = ?, gpu_seconds = ?, uncovered = ?, hash = ?"
        " WHERE lease_name = 'a-1'",
        reading[1],
        reading[1],
        reading[2],
        int(more > 0),
        usage.live_hash(reading, int(str(at))),
        unguarded=True,
    )
    ((numerator, total),) = intruder.run("SELECT numerator, gpu_seconds FROM pair_totals")
    ((price,),) = intruder.run("SELECT price FROM attempts WHERE lease_name = 'a-1'")
    change = accrue(MicroUSD(int(str(price))), abs(more)) * (1 if more > 0 else -1)
    owed = (str(int(str(numerator)) + change), str(int(str(total)) + more))
    intruder.run("UPDATE pair_totals SET numerator = ?, gpu_seconds = ?", *owed, unguarded=True)
    assert "lease_usage" in where(await month.verify(folder if with_files else None))


async def test_usage_that_comes_late_after_its_lease_was_archived_is_evidence_too(
    month: SqlLedger, location: str, folder: Path, now: datetime
) -> None:
    await archive(location, folder, now)
    await month.record_usage("a-1", EPOCHS + 1, 100 * EPOCHS + 50, now + timedelta(hours=EPOCHS))
    for files in (folder, None):
        audit = await month.verify(files)
        assert audit.sound, audit.faults


async def test_an_operator_sees_a_run_that_archived_beside_it(
    month: SqlLedger, location: str, folder: Path, now: datetime
) -> None:
    async def changing() -> tuple[object, ...]:
        return (
            await month.archived_until(),
            await month.epoch(1),
            await month.epoch_with_manifest("0x" + keccak(b"manifest 1").hex()),
            await postings_of(month),
            await month.receipts(newest_only=False),
        )

    before = await changing()
    assert before[0] == 0
    await archive(location, folder, now)
    until, epoch, named, postings, receipts = await changing()
    assert until == EPOCHS - 1
    assert epoch is not None
    assert epoch == named != before[1]
    assert postings == ()
    assert len(receipts) == 2  # type: ignore[arg-type]
    assert len(before[4]) == EPOCHS + 1  # type: ignore[arg-type]


async def test_an_archived_ledger_is_backed_up_and_restored_bit_for_bit(
    sealed: SqlLedger, location: str, folder: Path, tmp_path: Path, postgres_url: str
) -> None:
    file, other = tmp_path / "backup.db", str(tmp_path / "restored.db")
    if "://" not in location:
        other = postgres_url
    await asyncio.to_thread(copies.backup, location, file)
    await asyncio.to_thread(copies.restore, file, other)
    same(location, other, complete=False)
    async with await SqlLedger.open(other) as restored:
        audit = await restored.verify(folder)
        assert audit.sound, audit.faults


async def test_it_runs_beside_an_operator_and_not_beside_another_run(
    month: SqlLedger, location: str, folder: Path, now: datetime
) -> None:
    with pytest.raises(ConfigurationError, match="folder not found"):
        await archive(location, folder / "none", now)
    if "://" not in location:
        return
    from fedgpu_operator.adapters.ledger.database import Database

    other = await asyncio.to_thread(Database.for_archiving, location)
    try:
        with pytest.raises(ConfigurationError, match="is being archived by another process"):
            await asyncio.to_thread(Database.for_archiving, location, wait=0.1)
    finally:
        other.close()
    # `month` has the operator's lock all the time.
    assert not (await archive(location, folder, now)).nothing


async def test_the_program_in_the_document_verifies_a_segment_and_finds_an_alteration(
    sealed: SqlLedger, folder: Path
) -> None:
    for chain in CHAINS:
        path = file_of(folder, chain)
        argv = [sys.executable, "-c", program(1), str(path)]
        segment = archives.newest(await sealed.segments())[chain]
        assert (await run(argv)).stdout.split() == [chain, "1", str(segment.last), segment.after]
        alter(path, lambda rows: [*rows[:1], rows[1].replace(b'"1"', b'"2"', 1), *rows[2:]])
        assert (await run(argv)).stderr.strip().endswith("a row was altered")
