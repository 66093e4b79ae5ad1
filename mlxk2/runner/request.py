"""What is asked of a model: messages or raw text, how to sample, when to end. Knows no tokenizer and no engine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlxk2 import errors

if TYPE_CHECKING:
    from .constraint import Constraint
    from .grammar import TokenMask

# Below this a division by the temperature leaves the range of 16-bit floats; the result is the greedy one anyway.
GREEDY_BELOW = 1e-4

SEEDS = 2**64

# What OpenAI's API allows, in numbers and in range.
MOST_LOGPROBS = 20
_LARGEST_BIAS, _MOST_BIASES, _LARGEST_PENALTY = 100, 1024, 2

# What mlx quantizes to.
KV_BITS = (2, 3, 4, 6, 8)
_SMALLEST_KV_SIZE = 16
_MOST_DRAFT_TOKENS = 64


# Whether the model may call a tool; every other value names the one function that it must call.
AUTO, NONE, REQUIRED = "auto", "none", "required"

# What a template gets from elsewhere.
_RESERVED_VARIABLES = frozenset({"messages", "tools", "add_generation_prompt"})


@dataclass(frozen=True)
class ToolCall:
    """A call that the model made in an earlier turn; `arguments` is the text of a JSON object, if it was not cut."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True)
class Message:
    """One turn of a conversation; `role` is "system", "user", "assistant" or "tool".

    `tool_calls` and `reasoning` are an assistant's; `tool_call_id` says which call a tool's message answers, and
    `name` who speaks.
    """

    role: str
    content: str
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None
    name: str | None = None
    reasoning: str | None = None


@dataclass(frozen=True)
class Sampling:
    """How the next token is drawn. A value that exists is in range: MLX need not check it again.

    `temperature` 0 and `top_p` 0 both mean the most probable token; `top_k` 0, `top_p` 1, `min_p` 0,
    `repetition_penalty` 1 and the other penalties 0 switch that filter off; without `seed` each generation draws its
    own. `logit_bias` maps token ids to what is added to their logits.

    Raises: UsageError naming the flag.
    """

    temperature: float = 0.7
    top_p: float = 0.9
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.1
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    seed: int | None = None

    def __post_init__(self) -> None:
        _check_range("--temperature", self.temperature, 0, 100)
        _check_range("--top-p", self.top_p, 0, 1)
        _check_range("--min-p", self.min_p, 0, 1)
        _check_range("--repetition-penalty", self.repetition_penalty, 0.01, 100)
        _check_range("--presence-penalty", self.presence_penalty, -_LARGEST_PENALTY, _LARGEST_PENALTY)
        _check_range("--frequency-penalty", self.frequency_penalty, -_LARGEST_PENALTY, _LARGEST_PENALTY)
        if not _is_int(self.top_k) or self.top_k < 0:
            raise errors.UsageError(f"--top-k must be 0 (off) or a positive number, not {self.top_k}")
        if self.seed is not None and not (_is_int(self.seed) and 0 <= self.seed < SEEDS):
            raise errors.UsageError(f"--seed must be between 0 and {SEEDS - 1}, not {self.seed}")
        self._check_bias()

    def _check_bias(self) -> None:
        if len(self.logit_bias) > _MOST_BIASES:
            raise errors.UsageError(f"--logit-bias: {len(self.logit_bias)} tokens, {_MOST_BIASES} at most")
        for token, bias in self.logit_bias.items():
            if not _is_int(token) or token < 0:
                raise errors.UsageError(f"--logit-bias: {token!r} is no token id")
            _check_range(f"--logit-bias of token {token}", bias, -_LARGEST_BIAS, _LARGEST_BIAS)

    @property
    def is_greedy(self) -> bool:
        """Whether the most probable token is always taken."""
        return self.temperature < GREEDY_BELOW or self.top_p == 0


@dataclass(frozen=True)
class GenerationRequest:
    """One generation: `messages` go through the chat template, `prompt` goes in as it is, or its ids as `prompt_ids`.

    Exactly one of the three is given. With `suffix` the answer is what belongs between `prompt` and `suffix`.
    `tools` are functions as OpenAI's API describes them, `tool_choice` is "auto", "none", "required" or the name of the
    function to call, without `parallel_tool_calls` it is over with the first call; `template_variables` go to the template.
    With `continues` the last message is the beginning of the answer, which goes on from there.

    `max_tokens` None means what is left of the context. `stop` strings end the answer and are not part of it.
    `constraint` is what the answer must be; `top_logprobs` asks for the log probability of each token and of so many
    likeliest ones (0: of the token alone; None: of nothing).

    Raises: UsageError naming the flag.
    """

    messages: tuple[Message, ...] | None = None
    prompt: str | None = None
    sampling: Sampling = field(default_factory=Sampling)
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    constraint: Constraint | None = None
    top_logprobs: int | None = None
    tools: tuple[Mapping[str, Any], ...] = ()
    tool_choice: str = AUTO
    parallel_tool_calls: bool = True
    prompt_ids: tuple[int, ...] | None = None
    suffix: str | None = None
    template_variables: Mapping[str, Any] = field(default_factory=dict)
    continues: bool = False

    def __post_init__(self) -> None:
        given = [part for part in (self.messages, self.prompt, self.prompt_ids) if part is not None]
        if len(given) != 1:
            raise errors.UsageError("a generation needs either messages or a prompt")
        if self.prompt_ids is not None and not all(_is_int(token) and token >= 0 for token in self.prompt_ids):
            raise errors.UsageError("prompt: token ids are numbers from 0 on")
        if self.suffix is not None and self.prompt is None:
            raise errors.UsageError("suffix needs a prompt that is text")
        self._check_limits()
        self._check_tools()
        self._check_beginning()
        reserved = sorted(_RESERVED_VARIABLES.intersection(self.template_variables))
        if reserved or not all(isinstance(name, str) for name in self.template_variables):
            raise errors.UsageError(f"the chat template's variables cannot be set: {', '.join(reserved) or 'no names'}")

    @property
    def function_names(self) -> tuple[str, ...]:
        """The names of the functions in `tools`."""
        return tuple(tool["function"]["name"] for tool in self.tools)

    def _check_tools(self) -> None:
        if not all(_is_function(tool) for tool in self.tools):
            raise errors.UsageError('tools: each must be {"type": "function", "function": {"name": ...}}')
        if self.tools and self.messages is None:
            raise errors.UsageError("tools need messages")
        if self.tool_choice in (AUTO, NONE):
            return
        if not self.tools:
            raise errors.UsageError("tool_choice needs tools")
        if self.tool_choice != REQUIRED and self.tool_choice not in self.function_names:
            raise errors.UsageError(f"tool_choice: there is no tool named {self.tool_choice!r}")
        if self.constraint is not None:
            raise errors.UsageError("tool_choice cannot be combined with a form that the answer must have")

    def _check_beginning(self) -> None:
        if not self.continues:
            return
        if not self.messages or self.messages[-1].role != "assistant":
            raise errors.UsageError("messages: only an assistant's goes on")
        if self.constraint is not None or self.tool_choice not in (AUTO, NONE):
            raise errors.UsageError(
                "messages: an answer that must have a form cannot go on from another one's beginning"
            )

    def _check_limits(self) -> None:
        if self.max_tokens is not None and not (_is_int(self.max_tokens) and self.max_tokens >= 1):
            raise errors.UsageError(f"--max-tokens must be at least 1, not {self.max_tokens}")
        if not all(isinstance(text, str) and text for text in self.stop):
            raise errors.UsageError("--stop must not be empty")
        count = self.top_logprobs
        if count is not None and not (_is_int(count) and 0 <= count <= MOST_LOGPROBS):
            raise errors.UsageError(f"--logprobs must be between 0 and {MOST_LOGPROBS}, not {count}")


@dataclass(frozen=True)
class CacheOptions:
    """What the KV cache is to be: `kv_bits` for each value, at most `max_kv_size` positions (older ones are forgotten).

    Raises: UsageError naming the flag.
    """

    kv_bits: int | None = None
    max_kv_size: int | None = None

    def __post_init__(self) -> None:
        if self.kv_bits is not None and self.kv_bits not in KV_BITS:
            raise errors.UsageError(f"--kv-bits must be one of {', '.join(map(str, KV_BITS))}, not {self.kv_bits}")
        size = self.max_kv_size
        if size is not None and not (_is_int(size) and size >= _SMALLEST_KV_SIZE):
            raise errors.UsageError(f"--max-kv-size must be at least {_SMALLEST_KV_SIZE}, not {size}")
        if self.kv_bits is not None and size is not None:
            raise errors.UsageError("--kv-bits and --max-kv-size cannot be combined")


@dataclass(frozen=True)
class EngineOptions:
    """How a model is loaded and remembered, for all requests to it.

    `adapter` is a folder with LoRA weights; `draft` one with a smaller model of the same vocabulary that guesses
    `draft_tokens` ahead. Without `reuse_cache` every request reads its whole prompt. `wire_memory` keeps the system
    from swapping the model out. Code inside a model folder is executed with `trust_remote_code` only.

    Raises: UsageError naming the flag.
    """

    cache: CacheOptions = CacheOptions()
    adapter: Path | None = None
    draft: Path | None = None
    draft_tokens: int = 3
    reuse_cache: bool = True
    wire_memory: bool = False
    trust_remote_code: bool = False

    def __post_init__(self) -> None:
        if not (_is_int(self.draft_tokens) and 1 <= self.draft_tokens <= _MOST_DRAFT_TOKENS):
            raise errors.UsageError(
                f"--num-draft-tokens must be between 1 and {_MOST_DRAFT_TOKENS}, not {self.draft_tokens}"
            )
        if self.draft is not None and self.cache != CacheOptions():
            raise errors.UsageError("--draft-model cannot be combined with --kv-bits or --max-kv-size")


@dataclass(frozen=True)
class Decoding:
    """What the engine needs to know to continue a prompt. `mask` is of this one answer and remembers it.

    `said`: the ids at the end of the prompt that are a part of the answer, where one goes on that was interrupted.
    """

    sampling: Sampling
    max_tokens: int
    vocab_size: int
    stop_ids: frozenset[int] = frozenset()
    mask: TokenMask | None = None
    top_logprobs: int | None = None
    draft_tokens: int = 3
    said: tuple[int, ...] = ()


def _check_range(flag: str, value: float, low: float, high: float) -> None:
    # Written so that NaN fails too.
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
        raise errors.UsageError(f"{flag} must be between {low:g} and {high:g}, not {value}")


def _is_function(tool: object) -> bool:
    function = tool.get("function") if isinstance(tool, Mapping) else None
    name = function.get("name") if isinstance(function, Mapping) else None
    return isinstance(name, str) and bool(name)


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
