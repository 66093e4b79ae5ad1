"""What a running operation reports while it works: frozen, picklable values, bottom of the tree."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Union

# The channels of generated text.
ANSWER, REASONING = "answer", "reasoning"


@dataclass(frozen=True)
class Started:
    """The work is set up; `label` says on what."""

    label: str


@dataclass(frozen=True)
class Progress:
    """`done` of `total` (0 = unknown) in `unit`, e.g. "bytes", "files", "tokens"; `name` where it is of one file only."""

    done: int
    total: int
    unit: str
    name: str | None = None


@dataclass(frozen=True)
class Warned:
    """Something that the user should know before the work ends; it goes on."""

    message: str


@dataclass(frozen=True)
class Delta:
    """A piece of generated text on `channel`: "answer" or "reasoning"."""

    channel: str
    text: str


@dataclass(frozen=True)
class Usage:
    """Token counts of one generation, as the engine saw them."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    cached_tokens: int = 0


@dataclass(frozen=True)
class Timing:
    """Units: seconds, from the start of the prefill; the first is None when no token came."""

    time_to_first_token_s: float | None
    generation_time_s: float


@dataclass(frozen=True)
class Finished:
    """The last event of a generation. `reason`: "stop", "length" or "interrupted"."""

    reason: str
    usage: Usage
    timing: Timing


Event = Union[Started, Progress, Warned, Delta, Finished]
