"""What can be changed while a chat goes on: sampling, system message, limits. Knows no model and no file."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Callable

from mlxk2.errors import UsageError
from mlxk2.runner.request import GenerationRequest, Message, Sampling

# What happens when the conversation outgrows the context: an error, or the oldest turns are left out.
FAIL, ROTATE = "fail", "rotate"
KEEP_CONTEXT = (FAIL, ROTATE)

_OFF = "off"
_FLAG = re.compile(r"--([a-z][a-z-]*[a-z])")


@dataclass(frozen=True)
class ChatSettings:
    """How the next answer is made. `max_tokens` None: what the context leaves."""

    sampling: Sampling = Sampling()
    system: str | None = None
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    keep_context: str = FAIL

    def request(self, conversation: tuple[Message, ...]) -> GenerationRequest:
        """Return the request that continues a conversation. Raises: UsageError naming the setting."""
        system = (Message("system", self.system),) if self.system else ()
        return GenerationRequest(
            messages=(*system, *conversation), sampling=self.sampling, max_tokens=self.max_tokens, stop=self.stop
        )

    def changed(self, name: str, words: str) -> ChatSettings:
        """Return the settings with one of them as a user wrote it; `off` takes away what need not be there.

        Raises: UsageError naming the setting, and what it may be.
        """
        name = name.lstrip("-").replace("-", "_").lower()
        read = SETTINGS.get(name)
        if read is None:
            raise UsageError(f"'{name}' cannot be set", hint=f"one of {', '.join(SETTINGS)}")
        value = read(name, words.strip())
        if name in _OF_SAMPLING:
            changed = replace(self, sampling=replace(self.sampling, **{name: value}))
        else:
            changed = replace(self, **{name: value})
        changed.request(())
        return changed

    def values(self) -> Mapping[str, str]:
        """Return every setting that `changed` takes, as it would be written."""
        own = {name: getattr(self.sampling if name in _OF_SAMPLING else self, name) for name in SETTINGS}
        return {name: _shown(value) for name, value in own.items()}


def _number(name: str, words: str) -> float:
    try:
        return float(words)
    except ValueError as error:
        raise UsageError(f"{name} takes a number, not '{words}'") from error


def _whole(name: str, words: str) -> int:
    try:
        return int(words)
    except ValueError as error:
        raise UsageError(f"{name} takes a whole number, not '{words}'") from error


def _whole_or_off(name: str, words: str) -> int | None:
    return None if words.lower() == _OFF else _whole(name, words)


def _texts(name: str, words: str) -> tuple[str, ...]:
    return () if words.lower() == _OFF else (words,)


def _keep_context(name: str, words: str) -> str:
    if words not in KEEP_CONTEXT:
        raise UsageError(f"{name} is {' or '.join(KEEP_CONTEXT)}, not '{words}'")
    return words


def in_chat_words(text: str) -> str:
    """Return a message with settings named as /set names them; elsewhere they are flags."""
    return _FLAG.sub(lambda flag: flag[1].replace("-", "_") if flag[1].replace("-", "_") in _NAMES else flag[0], text)


_OF_SAMPLING: dict[str, Callable[[str, str], Any]] = {
    "temperature": _number,
    "top_p": _number,
    "top_k": _whole,
    "min_p": _number,
    "repetition_penalty": _number,
    "presence_penalty": _number,
    "frequency_penalty": _number,
    "seed": _whole_or_off,
}

# name -> how its value is read.
SETTINGS: dict[str, Callable[[str, str], Any]] = {
    **_OF_SAMPLING,
    "max_tokens": _whole_or_off,
    "stop": _texts,
    "keep_context": _keep_context,
}

_NAMES = {*SETTINGS, "logit_bias"}


def _shown(value: Any) -> str:
    if isinstance(value, tuple):
        return ", ".join(repr(text) for text in value) or _OFF
    return _OFF if value is None else str(value)
