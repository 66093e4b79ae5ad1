"""The scheduler of the engine process with batches that fail and count: width, memory for what is kept, what it asks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import mlx.core as mx
import pytest
from mlx_lm.models.cache import KVCache

from mlxk2 import errors
from mlxk2.runner.mlx_backend import PrefixStore, Step
from mlxk2.runner.mlx_backend.batch import Joined, RowStep
from mlxk2.runner.prompt import Prompt
from mlxk2.runner.request import CacheOptions, GenerationRequest
from mlxk2.server.engine.model import ReadPrompt
from mlxk2.server.engine.room import Room
from mlxk2.server.engine.scheduler import Scheduler
from mlxk2.server.protocol import Failed, Generate, Piece

pytestmark = [pytest.mark.mlx_real]

WIDTH = 8
READ = ReadPrompt(Prompt("", (1, 2, 3)), frozenset())


class EndlessReply:
    """An answer that never ends."""

    def __init__(self, id: str) -> None:
        self.id, self.positions, self.failures, self.is_finished = id, 10, 0, False
        self.turn, self.is_over = SimpleNamespace(ids=READ.prompt.ids, decoding=lambda: None), False

    def begin(self, _cached: int) -> tuple[()]:
        return ()

    def take(self, _step: Step) -> tuple[()]:
        return ()

    def tell(self) -> tuple[Piece, ...]:
        return (Piece(self.id, "answer", "what waited"),)


@dataclass
class Device:
    """How many rows it bears at a time, and what it was asked. `reads`: whether prompts are always said to be coming."""

    bears: int = WIDTH
    rows: list[int] = field(default_factory=list)
    asked: int = 0
    reads: bool = False
    fits: bool = True

    can_be_cut = True
    places = ((0, 5),)

    def batch(self, _width: int) -> Device:
        self.rows = []
        return self

    def add(self, _ids: Sequence[int], _decoding: Any, _stops: Sequence[int] = ()) -> Joined:
        self.rows.append(len(self.rows))
        return Joined(self.rows[-1], 0)

    def is_being_read(self, _ids: Sequence[int]) -> bool:
        self.asked += 1
        return self.reads and bool(self.rows)

    def step(self) -> list[RowStep]:
        if len(self.rows) > self.bears:
            raise errors.GenerationFailed("out of memory")
        return [RowStep(row, Step(5, None), False) for row in self.rows]

    def remove(self, rows: Sequence[int]) -> None:
        self.rows = [row for row in self.rows if row not in rows]

    def close(self) -> None:
        self.rows = []


class Limited(Room):
    """Room that the device tells of."""

    def holds(self, rows: int, widest: int) -> bool:
        return bool(self.config["device"].fits)


def layers_of(length: int) -> list[Any]:
    layer = KVCache()
    layer.update_and_fetch(mx.zeros((1, 2, length, 8)), mx.zeros((1, 2, length, 8)))
    return [layer]


def test_what_is_kept_never_exceeds_its_room() -> None:
    store = PrefixStore(None, CacheOptions(), 2**30)  # type: ignore[arg-type]
    one = layers_of(256)[0].nbytes
    store.room_bytes = 2 * one
    for number in range(5):
        store.insert([number] * 256, layers_of(256))
        assert 0 < store.nbytes <= 2 * one
    store.room_bytes = 0
    store.shrink(0)
    store.insert([7] * 256, layers_of(256))
    assert store.nbytes == 0
    # What a sequence took that is over now is free.
    store.insert([8] * 256, layers_of(256), is_leaving=True)
    assert store.nbytes == one


def scheduler_of(device: Device) -> Scheduler:
    model: Any = SimpleNamespace(
        spec=SimpleNamespace(max_concurrency=WIDTH, max_queue=100),
        batch=device.batch,
        reply=lambda id, _request, _read: EndlessReply(id),
        room=Limited({"device": device}, CacheOptions(), 0, None),
        store=PrefixStore(None, CacheOptions(), 0),  # type: ignore[arg-type]
    )
    scheduler = Scheduler(model)
    for number in range(WIDTH):
        scheduler.generate(Generate(f"r{number}", GenerationRequest(prompt="x")), READ)
    return scheduler


def test_fewer_rows_after_a_failure_become_more_again() -> None:
    device = Device(bears=4)
    scheduler = scheduler_of(device)
    for _ in range(10):
        scheduler.step()
    assert len(device.rows) == 4
    device.bears = WIDTH
    for _ in range(1000):
        scheduler.step()
    assert len(device.rows) == WIDTH
    assert not any(isinstance(event, Failed) for event in scheduler.events())


def test_rows_that_never_fit_together_fail_ever_more_seldom_and_nobody_is_given_up() -> None:
    device, narrow = Device(bears=4), 0
    scheduler = scheduler_of(device)
    for _ in range(6000):
        scheduler.step()
        narrow += len(device.rows) <= 4
    assert narrow >= 5980
    assert not any(isinstance(event, Failed) for event in scheduler.events())


def test_who_has_no_room_asks_nothing_else() -> None:
    device = Device()
    scheduler = scheduler_of(device)
    device.fits = False
    for _ in range(50):
        scheduler.step()
    assert (len(device.rows), device.asked) == (1, 1)


def test_who_waits_for_a_prompt_asks_again_only_when_it_was_read_on() -> None:
    device = Device(reads=True)
    scheduler = scheduler_of(device)
    for _ in range(50):
        scheduler.step()
    assert (len(device.rows), device.asked) == (1, WIDTH)
    device.reads = False
    device.places = ((0, 6),)  # type: ignore[assignment]
    scheduler.step()
    assert len(device.rows) == WIDTH


def test_who_gives_way_says_first_what_it_has_kept_back() -> None:
    device = Device()
    scheduler = scheduler_of(device)
    scheduler.step()
    assert (len(device.rows), scheduler.events(with_text=False)) == (WIDTH, ())
    device.fits = False
    told: list[Any] = []
    for _ in range(20):
        scheduler.step()
        told += scheduler.events(with_text=False)
    assert len(device.rows) == 1
    assert {event.id for event in told} == {f"r{number}" for number in range(1, WIDTH)}
