"""What is asked of a model: messages or raw text, how to sample, when to end. Knows no tokenizer and no engine."""

from __future__ import annotations

from dataclasses import dataclass, field

from mlxk2 import errors

# Below this a division by the temperature leaves the range of 16-bit floats; the result is the greedy one anyway.
GREEDY_BELOW = 1e-4

_LARGEST_SEED = 2**64 - 1


@dataclass(frozen=True)
class Message:
    """One turn of a conversation; `role` is "system", "user" or "assistant"."""

    role: str
    content: str


@dataclass(frozen=True)
class Sampling:
    """How the next token is drawn. A value that exists is in range: MLX need not check it again.

    `temperature` 0 and `top_p` 0 both mean the most probable token; `top_k` 0, `top_p` 1, `min_p` 0 and
    `repetition_penalty` 1 switch that filter off; without `seed` each generation draws its own.

    Raises: UsageError naming the flag.
    """

    temperature: float = 0.7
    top_p: float = 0.9
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.1
    seed: int | None = None

    def __post_init__(self) -> None:
        _check_range("--temperature", self.temperature, 0, 100)
        _check_range("--top-p", self.top_p, 0, 1)
        _check_range("--min-p", self.min_p, 0, 1)
        _check_range("--repetition-penalty", self.repetition_penalty, 0.01, 100)
        if not _is_int(self.top_k) or self.top_k < 0:
            raise errors.UsageError(f"--top-k must be 0 (off) or a positive number, not {self.top_k}")
        if self.seed is not None and not (_is_int(self.seed) and 0 <= self.seed <= _LARGEST_SEED):
            raise errors.UsageError(f"--seed must be between 0 and {_LARGEST_SEED}, not {self.seed}")

    @property
    def is_greedy(self) -> bool:
        """Whether the most probable token is always taken."""
        return self.temperature < GREEDY_BELOW or self.top_p == 0


@dataclass(frozen=True)
class GenerationRequest:
    """One generation: `messages` go through the chat template, `prompt` goes in as it is; exactly one of them is given.

    `max_tokens` None means what is left of the context. `stop` strings end the answer and are not part of it.

    Raises: UsageError naming the flag.
    """

    messages: tuple[Message, ...] | None = None
    prompt: str | None = None
    sampling: Sampling = field(default_factory=Sampling)
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if (self.messages is None) == (self.prompt is None):
            raise errors.UsageError("a generation needs either messages or a prompt")
        if self.max_tokens is not None and not (_is_int(self.max_tokens) and self.max_tokens >= 1):
            raise errors.UsageError(f"--max-tokens must be at least 1, not {self.max_tokens}")
        if not all(isinstance(text, str) and text for text in self.stop):
            raise errors.UsageError("--stop must not be empty")


def _check_range(flag: str, value: float, low: float, high: float) -> None:
    # Written so that NaN fails too.
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
        raise errors.UsageError(f"{flag} must be between {low:g} and {high:g}, not {value}")


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
