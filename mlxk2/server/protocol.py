"""What the HTTP side and the engine process tell each other: frozen values that can be pickled, nothing else.

The HTTP side sends Generate, Embed, Count, Cancel and Stop; the engine answers each `id` with events, the last of which
is one of LAST. Ready or LoadFailed comes once, at the beginning; Status comes unasked, now and then.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Union

from mlxk2.errors import MlxkError
from mlxk2.events import Timing, Usage
from mlxk2.runner.answer import ChosenToken
from mlxk2.runner.request import EngineOptions, GenerationRequest
from mlxk2.store.model_ref import ModelRef


@dataclass(frozen=True)
class EngineSpec:
    """What an engine process is to load, and how much it may do at a time.

    Units: bytes; `prefix_cache_bytes` bounds what is kept of prompts that were read; `memory_limit_bytes` None asks
    the machine. `default_max_tokens` None means half the context.
    """

    ref: ModelRef
    options: EngineOptions = EngineOptions()
    max_concurrency: int = 32
    max_queue: int = 256
    prefix_cache_bytes: int = 2 * 2**30
    memory_limit_bytes: int | None = None
    default_max_tokens: int | None = None
    fast_start: bool = True


# --- to the engine ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Generate:
    """Answer a request."""

    id: str
    request: GenerationRequest


@dataclass(frozen=True)
class Embed:
    """Embed texts, or token ids, all of one call together."""

    id: str
    inputs: tuple[Union[str, tuple[int, ...]], ...]


@dataclass(frozen=True)
class Count:
    """Count the tokens of a request's prompt."""

    id: str
    request: GenerationRequest


@dataclass(frozen=True)
class Cancel:
    """Nobody waits for the answer any more; no event follows."""

    id: str


@dataclass(frozen=True)
class Stop:
    """End, giving up what is still being answered."""


Command = Union[Generate, Embed, Count, Cancel, Stop]

# --- from the engine ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Problem:
    """A MlxkError on its way between processes."""

    type: str
    message: str
    hint: str | None
    http_status: int
    extra: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, error: MlxkError) -> Problem:
        """Take what an error says; what cannot be pickled stays behind."""
        plain = {key: value for key, value in error.extra.items() if isinstance(value, (str, int, float, bool))}
        return cls(error.type, error.message, error.hint, error.http_status, plain)


@dataclass(frozen=True)
class Ready:
    """The model is loaded. Units: bytes, tokens; `can_embed` and `can_generate` are what it was made for.

    `has_tools`: its template tells it of tools; `finds_calls`: it is known how it writes calls.
    """

    context_length: int | None
    weights_bytes: int
    can_generate: bool
    can_embed: bool
    has_tools: bool
    has_fill_in: bool
    finds_calls: bool = True


@dataclass(frozen=True)
class LoadFailed:
    """The model cannot be loaded; the process ends."""

    problem: Problem


@dataclass(frozen=True)
class Begun:
    """The request has joined the batch; its prompt is being read."""

    id: str
    prompt_tokens: int
    cached_tokens: int


class Piece(NamedTuple):
    """Text on a channel, "answer" or "reasoning"; `logprobs` of the tokens that came since the last piece, where asked for.

    `tokens`: how many came since then. Of what goes between the processes this is the most, and a tuple is the quickest.
    """

    id: str
    channel: str
    text: str
    logprobs: tuple[ChosenToken, ...] = ()
    tokens: int = 1


@dataclass(frozen=True)
class ToolPiece:
    """A part of the tool call number `index`: with the first part its `call_id` and `name`, then arguments as they come.

    `tokens`: as of a Piece.
    """

    id: str
    index: int
    call_id: str | None
    name: str | None
    arguments: str
    tokens: int = 1


@dataclass(frozen=True)
class ToolLost:
    """The tool call number `index`, of which parts came, does not parse; `text` is the whole of it as it was said."""

    id: str
    index: int
    text: str


@dataclass(frozen=True)
class Over:
    """The answer is complete. `reason`: "stop", "length" or "tool_calls"; `stop` is the stop string that ended it, if one did.

    `value_problem` says why a constrained answer is not what was asked for; `reasoning_tokens` are some of the answer's.
    """

    id: str
    reason: str
    usage: Usage
    timing: Timing
    stop: str | None = None
    value_problem: str | None = None
    reasoning_tokens: int = 0


@dataclass(frozen=True)
class Failed:
    """The request cannot be answered, or no further."""

    id: str
    problem: Problem


@dataclass(frozen=True)
class Embedded:
    """One vector an input, of length one."""

    id: str
    vectors: tuple[tuple[float, ...], ...]
    prompt_tokens: int


@dataclass(frozen=True)
class Counted:
    """How many tokens the prompt has."""

    id: str
    tokens: int


@dataclass(frozen=True)
class Status:
    """How the engine is. Units: bytes. `steps` grows with each decode step: an engine that is busy and makes none hangs."""

    running: int
    waiting: int
    steps: int
    active_bytes: int
    peak_bytes: int
    cached_bytes: int
    prefix_bytes: int
    prefix_hits: int
    prefix_misses: int


RequestEvent = Union[Begun, Piece, ToolPiece, ToolLost, Over, Failed, Embedded, Counted]
# After one of these nothing more comes of a request.
LAST = (Over, Failed, Embedded, Counted)
EngineEvent = Union[Ready, LoadFailed, Status, RequestEvent]
