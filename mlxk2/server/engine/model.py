"""The loaded model, and what its requests may ask of it: limits of tokens and memory, tools, embeddings."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

from mlxk2 import errors
from mlxk2.inspection.capabilities import EMBEDDING, detect_type
from mlxk2.inspection.context import DEFAULT_CONTEXT_LENGTH
from mlxk2.inspection.files import ModelFiles
from mlxk2.inspection.memory import memory_need
from mlxk2.runner.limits import memory_limit_bytes
from mlxk2.runner.prompt import Pause, Prompt, check_fits, no_pause
from mlxk2.runner.request import GenerationRequest
from mlxk2.runner.runner import MLXRunner
from mlxk2.runner.speech import backend
from mlxk2.runner.vocabulary import check_given_ids, check_ids, vocabulary_size
from mlxk2.server.protocol import EngineSpec, Ready

from .pooling import check_pooling
from .reply import Reply
from .room import Room, expected_positions

if TYPE_CHECKING:
    from mlxk2.runner.mlx_backend import Batch, ByTurns, PrefixStore

# Any request loads a tokenizer; this one asks for a template too, where there is one.
_FIRST = GenerationRequest(prompt="x", max_tokens=1)


class ReadPrompt(NamedTuple):
    """What the model reads for a request, and after how many ids of it the system's message ends, and the last turn.

    `turn_ends` is empty where it is of no use to this model.
    """

    prompt: Prompt
    turn_ends: frozenset[int]


class ServedModel:
    """A model with its weights in memory.

    Raises: IncompatibleModel, DependencyMissing, InsufficientMemory.
    """

    def __init__(self, spec: EngineSpec) -> None:
        self.spec = spec
        self._files = files = ModelFiles.read(spec.ref)
        self._kind = detect_type(files)
        self.runner = MLXRunner(files, fast_start=spec.fast_start, options=spec.options)
        self.room = Room(
            files.config or {}, spec.options.cache, memory_need(files).weights_bytes or 0, spec.memory_limit_bytes
        )
        if spec.memory_limit_bytes is None:
            limits = [limit for limit in (memory_limit_bytes(), self.runner.recommended_memory_bytes()) if limit]
            self.room = replace(self.room, limit_bytes=min(limits) if limits else None)
        self.room.check(1)
        self.runner.load(_FIRST)
        backend().bound_reuse()
        engine = self.runner.engine()
        self.store: PrefixStore = backend().PrefixStore(engine, spec.options.cache, spec.prefix_cache_bytes)
        self._obstacle = self._batch_obstacle()
        first = self.batch(1)
        self._has_turn_ends = not first.can_be_cut
        first.close()

    @property
    def context_length(self) -> int:
        """How many tokens prompt and answer may have together."""
        return self.runner.context_length or DEFAULT_CONTEXT_LENGTH

    @property
    def ready(self) -> Ready:
        """What the HTTP side is told."""
        speech = self.runner.speech(_FIRST)
        return Ready(
            context_length=self.runner.context_length,
            weights_bytes=self.room.weights_bytes,
            can_generate=self._kind != EMBEDDING,
            can_embed=self._kind == EMBEDDING,
            has_tools=speech.takes_tools,
            has_fill_in=speech.can_fill_in,
            finds_calls=speech.takes_tools and speech.tool_format is not None,
        )

    def read(self, request: GenerationRequest, pause: Pause = no_pause) -> ReadPrompt:
        """Make token ids of a request. Any thread may do that, beside others; `pause` may end it.

        Raises: ContextLengthExceeded, IncompatibleModel, UsageError, DependencyMissing.
        """
        self._check(request)
        with _blaming_the_messages():
            prompt = self.runner.read(request, pause)
        return ReadPrompt(prompt, self._turn_ends(request, prompt) if self._has_turn_ends else frozenset())

    def reply(self, id: str, request: GenerationRequest, read: ReadPrompt) -> Reply:
        """Prepare the answer to a request that was read.

        Raises: ContextLengthExceeded, InsufficientMemory, IncompatibleModel, UsageError, DependencyMissing.
        """
        asked, context = request.max_tokens, self.context_length
        limit = asked or self.spec.default_max_tokens or max(context // 2, 1)
        with _blaming_the_messages():
            prepared = self.runner.prepare(replace(request, max_tokens=limit), read.prompt)
        length = len(prepared.ids)
        if asked is not None and length + asked > context:
            raise errors.ContextLengthExceeded(
                f"the prompt has {length} tokens and the answer may have {asked}, the model's context holds {context}",
                hint="ask for fewer tokens, or shorten the prompt",
                prompt_tokens=length,
                max_tokens=asked,
                context_length=context,
            )
        positions = expected_positions(length, prepared.max_tokens, is_asked_for=asked is not None)
        self.room.check(positions)
        return Reply(id, prepared, positions, self.runner.speech(request).tool_reader(request), read.turn_ends)

    def texts_to_embed(
        self, inputs: tuple[str | tuple[int, ...], ...], pause: Pause = no_pause
    ) -> list[tuple[int, ...]]:
        """Return the token ids of texts. Any thread may ask for them, beside others; `pause` may end it.

        Raises: IncompatibleModel where the model is not made for embeddings, or not those of the last token;
            ContextLengthExceeded, UsageError.
        """
        if self._kind != EMBEDDING:
            raise errors.IncompatibleModel(
                f"{self.spec.ref.name} is no embedding model", hint="use a model that is made for embeddings"
            )
        check_pooling(self._files)
        return [self._text_to_embed(text, pause) for text in inputs]

    def _text_to_embed(self, text: str | tuple[int, ...], pause: Pause) -> tuple[int, ...]:
        tokenizer = self.runner.speech(_FIRST).tokenizer
        size = vocabulary_size(self._files.config or {}) or tokenizer.size
        if isinstance(text, str):
            check_fits(text, tokenizer, self.context_length, pause)
            ids = tokenizer.encode(text, add_special_tokens=True)
        else:
            check_given_ids(text, size)
            ids = text
        check_ids(ids, size)
        if len(ids) > self.context_length:
            raise errors.ContextLengthExceeded(
                f"a text has {len(ids)} tokens, the model's context holds {self.context_length}",
                prompt_tokens=len(ids),
                context_length=self.context_length,
            )
        return ids

    def count(self, request: GenerationRequest, pause: Pause = no_pause) -> int:
        """Return how many tokens a request's prompt has. As `read` in everything else."""
        self._check(request)
        with _blaming_the_messages():
            return self.runner.count_tokens(request, pause)

    def close(self) -> None:
        """Let go of the weights."""
        self.store.shrink(0)
        self.runner.close()

    def _check(self, request: GenerationRequest) -> None:
        """Raises: IncompatibleModel where the model answers nobody, UsageError where it would not hear of tools."""
        if self._kind == EMBEDDING:
            raise errors.IncompatibleModel(
                f"{self.spec.ref.name} is an embedding model, which answers nothing", hint="ask it at /v1/embeddings"
            )
        self.runner.speech(request).check_tools(request)

    def _turn_ends(self, request: GenerationRequest, prompt: Prompt) -> frozenset[int]:
        speech = self.runner.speech(request)
        ends = {speech.lasting_tokens(request, prompt)}
        first = (request.messages or ())[:1]
        if first and first[0].role == "system":
            ends.add(speech.lasting_tokens(replace(request, messages=first), prompt))
        return frozenset(ends)

    def batch(self, width: int) -> Batch | ByTurns:
        """Return what decodes several sequences at a time; by turns where they cannot be one batch."""
        engine, cache = self.runner.engine(), self.spec.options.cache
        if self._obstacle is not None:
            turns: ByTurns = backend().ByTurns(engine, cache, self.store)
            return turns
        batch: Batch = backend().Batch(engine, cache, width, self.store)
        return batch

    def _batch_obstacle(self) -> str | None:
        options = self.spec.options
        if options.draft is not None:
            return "a draft model guesses for one sequence only"
        found: Any = backend().batch_obstacle(self.runner.engine(), options.cache, tuple(range(9)))
        return None if found is None else str(found)


@contextmanager
def _blaming_the_messages() -> Iterator[None]:
    """A template that does not take a conversation says so by failing, before anything is computed. Raises: UsageError."""
    try:
        yield
    except errors.GenerationFailed as error:
        raise errors.UsageError(f"messages: {error.message}") from error
