"""What the event loop hears of an engine: each message once and in order, however it comes, and how the line ended."""

from __future__ import annotations

import asyncio
import os
import pickle
import struct
from collections.abc import Awaitable, Callable
from multiprocessing.connection import Connection
from typing import Any

import pytest

from mlxk2.server.event_line import EventLine

PATIENCE_S = 30


def wire(*messages: Any) -> bytes:
    """Return messages as a Connection writes them."""
    return b"".join(struct.pack("!i", len(data)) + data for data in map(pickle.dumps, messages))


class Heard:
    """Listens to a line; `say` writes to it."""

    def __init__(self) -> None:
        ours, theirs = os.pipe()
        self._theirs = Connection(theirs, readable=False)
        self.messages: list[Any] = []
        self.ends: list[Exception | None] = []
        self.on_message: Callable[[Any], None] = self.messages.append
        self.line = EventLine(
            Connection(ours, writable=False), lambda message: self.on_message(message), self.ends.append
        )

    def say(self, data: bytes) -> None:
        os.write(self._theirs.fileno(), data)

    def hang_up(self) -> None:
        self._theirs.close()

    async def until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            await asyncio.sleep(0.001)


def told(story: Callable[[Heard], Awaitable[None]]) -> Heard:
    """Run a story, and return what was heard."""

    async def run() -> Heard:
        heard = Heard()
        try:
            await story(heard)
        finally:
            heard.line.close()
            heard.hang_up()
        return heard

    return asyncio.run(asyncio.wait_for(run(), PATIENCE_S))


@pytest.mark.parametrize("size", [1, 3, 7, 1000])
def test_messages_come_whole_and_in_order_however_they_are_cut(size: int) -> None:
    said = [("a",), (), ("b" * 50, 2), (None,)]

    async def story(heard: Heard) -> None:
        data = wire(*said)
        while data:
            heard.say(data[:size])
            data = data[size:]
            # The reader's turn.
            await asyncio.sleep(0)
        await heard.until(lambda: len(heard.messages) == len(said))
        heard.hang_up()
        await heard.until(lambda: bool(heard.ends))

    heard = told(story)
    assert (heard.messages, heard.ends) == (said, [None])


@pytest.mark.parametrize("garbage", [struct.pack("!i", 0), struct.pack("!i", -1), struct.pack("!i", 3) + b"abc"])
def test_what_came_before_garbage_is_heard_and_nothing_after_it(garbage: bytes) -> None:
    async def story(heard: Heard) -> None:
        heard.say(wire(1, 2) + garbage + wire(3))
        await heard.until(lambda: bool(heard.ends))

    heard = told(story)
    assert heard.messages == [1, 2]
    assert len(heard.ends) == 1 and isinstance(heard.ends[0], Exception)


def test_a_message_that_is_cut_off_by_the_end_is_none() -> None:
    async def story(heard: Heard) -> None:
        heard.say(wire(1) + wire(2)[:-1])
        heard.hang_up()
        await heard.until(lambda: bool(heard.ends))

    heard = told(story)
    assert (heard.messages, heard.ends) == ([1], [None])


def test_who_fails_with_one_message_hears_the_others() -> None:
    problems: list[Any] = []

    async def story(heard: Heard) -> None:
        def fail_once(message: Any) -> None:
            if message == 2:
                raise RuntimeError("a bug")
            heard.messages.append(message)

        asyncio.get_running_loop().set_exception_handler(lambda _loop, context: problems.append(context["exception"]))
        heard.on_message = fail_once
        heard.say(wire(1, 2, 3))
        await heard.until(lambda: 3 in heard.messages)

    assert told(story).messages == [1, 3]
    assert [str(problem) for problem in problems] == ["a bug"]


def test_a_line_that_is_closed_says_nothing_more() -> None:
    async def story(heard: Heard) -> None:
        def close(message: Any) -> None:
            heard.messages.append(message)
            heard.line.close()

        heard.on_message = close
        heard.say(wire(1, 2))
        await heard.until(lambda: bool(heard.messages))

    heard = told(story)
    assert (heard.messages, heard.ends) == ([1], [])
