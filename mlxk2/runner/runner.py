"""MLXRunner: a model folder that answers. Puts tokenizer, template, limits, engine and stop rules together."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Callable

from mlxk2 import errors
from mlxk2.events import Event, Progress, Started
from mlxk2.inspection.context import DEFAULT_CONTEXT_LENGTH, context_length
from mlxk2.inspection.files import ModelFiles
from mlxk2.inspection.runtime import custom_code

from . import fast_start as stand_ins
from .answer import Answer, PreparedPrompt
from .draft import check_draft
from .limits import token_budget
from .prompt import Pause, Prompt, no_pause
from .prompt_cache_file import PromptCacheFile, owner_of, read_prompt_cache
from .request import EngineOptions, GenerationRequest
from .speech import Speech, SpeechLoader, backend
from .turn import Turn
from .vocabulary import check_bias, check_given_ids, check_ids, vocabulary_size

if TYPE_CHECKING:
    from .mlx_backend import Engine, KVState


# Contexts. Whoever asks for more waits for long, and learns nothing from it.
_MOST_COUNTED = 16


class MLXRunner:
    """Loads one model once and answers requests, one at a time, in the calling thread.

    The tokenizer is loaded with the first request, the weights with the first token, both only once. What the model
    has read is kept from one request to the next: only what the new prompt does not begin with is read again.
    `load_engine` loads what generates, where that is not simply the folder's weights.

    Raises: IncompatibleModel for a model that needs code of its own, before anything is loaded, unless it is trusted.
    """

    def __init__(
        self,
        files: ModelFiles,
        *,
        fast_start: bool = True,
        label: str | None = None,
        options: EngineOptions | None = None,
        load_engine: Callable[[], Engine] | None = None,
    ) -> None:
        self._options = options or EngineOptions()
        trusts_code = self._options.trust_remote_code
        code = custom_code(files)
        if code is not None and not trusts_code:
            raise errors.IncompatibleModel(
                f"the model needs code of its own, which is never executed ({code})",
                hint="use a model whose architecture mlx-lm knows",
            )
        self._files = files
        self._folder = files.ref.path
        self._label = label or files.ref.name
        self._config: Mapping[str, Any] = files.config or {}
        self._speech = SpeechLoader(files, fast_start=fast_start, trusts_code=trusts_code)
        self._load = load_engine or self._load_folder
        self._engine: Engine | None = None
        self._state: KVState | None = None
        self._draft_vocabulary: int | None = None

    def __enter__(self) -> MLXRunner:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the weights. The runner loads them again if it is asked again."""
        engine, self._engine, self._state = self._engine, None, None
        try:
            if engine is not None:
                engine.close()
        finally:
            self._speech.close()

    @property
    def options(self) -> EngineOptions:
        """How the model is loaded and remembered."""
        return self._options

    @property
    def context_length(self) -> int | None:
        """How many tokens the model's context holds, as its config says."""
        return context_length(self._config)

    def load(self, request: GenerationRequest) -> None:
        """Load now what requests like this one need, rather than with the first token.

        Raises: IncompatibleModel, DependencyMissing.
        """
        self._speech.load(request)
        self.engine()

    def check_bias(self, bias: Mapping[int, float], request: GenerationRequest) -> None:
        """Do nothing where the model has every biased token. Raises: UsageError, IncompatibleModel, DependencyMissing."""
        if bias:
            check_bias(bias, self._vocab_size(self._speech.load(request).tokenizer.size))

    def prepare(self, request: GenerationRequest, prompt: Prompt | None = None) -> PreparedPrompt:
        """Tokenize the request, unless `prompt` is what `read` made of it, and set its budget.

        Raises: ContextLengthExceeded, IncompatibleModel, GenerationFailed (template), DependencyMissing, UsageError.
        """
        speech = self._speech.load(request)
        vocab_size = self._vocab_size(speech.tokenizer.size)
        prompt = prompt or self.read(request)
        check_bias(request.sampling.logit_bias, vocab_size)
        stop_ids = speech.stop_ids(request, self._config, vocab_size)
        return PreparedPrompt(
            request=request,
            prompt=prompt,
            max_tokens=token_budget(len(prompt.ids), self.context_length, request.max_tokens),
            stop_ids=stop_ids,
            vocab_size=vocab_size,
            # Some decoders drop a space at the very beginning, which may be what a constraint asks for.
            decoding_context=prompt.ids if speech.goes_on(request) or request.constraint is not None else (),
            tokenizer=speech.tokenizer,
            reasoning=speech.reasoning(request),
            make_mask=speech.mask_maker(request, prompt, vocab_size, stop_ids),
            lasting_tokens=lambda: speech.lasting_tokens(request, prompt),
        )

    def read(self, request: GenerationRequest, pause: Pause = no_pause) -> Prompt:
        """Return what the model reads. Once the tokenizer is loaded, several threads may ask side by side.

        Raises: ContextLengthExceeded, IncompatibleModel, GenerationFailed (template), DependencyMissing, UsageError.
        """
        speech = self.speech(request)
        vocab_size = self._vocab_size(speech.tokenizer.size)
        prompt = speech.prompt(request, self.context_length or DEFAULT_CONTEXT_LENGTH, pause)
        check_given_ids(request.prompt_ids or (), vocab_size)
        check_ids(prompt.ids, vocab_size)
        return prompt

    def count_tokens(self, request: GenerationRequest, pause: Pause = no_pause) -> int:
        """Return how many tokens the prompt has, about where it does not fit. Several threads may ask, as with `read`.

        Raises: ContextLengthExceeded where that is many times what fits, which nobody counts; else as `read`.
        """
        context = self.context_length or DEFAULT_CONTEXT_LENGTH
        return self.speech(request).count(request, context, _MOST_COUNTED * context, pause)

    def speech(self, request: GenerationRequest) -> Speech:
        """Return how to talk to the model, loading its tokenizer if need be. Raises: IncompatibleModel, DependencyMissing."""
        return self._speech.load(request)

    def recommended_memory_bytes(self) -> int | None:
        """Return what the device should hold at most, None where it does not say."""
        limit: int | None = backend().recommended_memory_bytes()
        return limit

    def use_prompt_cache(self, path: Path) -> bool:
        """Begin with what a prompt cache file holds, where it is one of this model's.

        Returns False for a file that cannot be used, which is a miss; no file at all is none.

        Raises: UsageError where the path holds something else.
        """
        found = read_prompt_cache(path)
        if found is None:
            return True
        if found.owner != owner_of(self._files, self._options):
            return False
        with self._borrowed_state() as (engine, state):
            return engine.load_state(path, found.ids, state, self._options.cache)

    def write_prompt_cache(self, path: Path, prompt: PreparedPrompt) -> None:
        """Write what was read of `prompt` into a file, unless it holds that already.

        Of a KV cache that cannot be cut back, only what later turns begin with too.

        Raises: OutputFailed, UsageError.
        """
        with self._borrowed_state() as (engine, state):
            length = len(prompt.ids) if state.keeps_everything else prompt.lasting_tokens()
            # One id more, since one is always left to read.
            held = state.rewind([*prompt.ids[:length], 0])
            found, owner = read_prompt_cache(path), owner_of(self._files, self._options)
            if held and not (found is not None and found == PromptCacheFile(owner, tuple(state.ids))):
                engine.save_state(path, state, owner)

    def generate(self, request: GenerationRequest) -> Generator[Event, None, Answer]:
        """Yield the events of `answer`; return the whole as an Answer."""
        return (yield from self.answer(self.prepare(request)))

    def answer(self, prompt: PreparedPrompt) -> Generator[Event, None, Answer]:
        """Yield Started, Progress of a long prefill, a Delta per piece of text, and Finished as the last event.

        KeyboardInterrupt, whether it strikes here or is thrown in by the consumer, ends the answer with the reason
        "interrupted"; the next call starts afresh.
        """
        turn = Turn(prompt, self._options.draft_tokens)
        try:
            yield Started(label=self._label)
            with self._borrowed_state() as (engine, state):
                yield from _speak(turn, engine, state)
        except KeyboardInterrupt:
            turn.interrupt()
        try:
            yield from turn.text.finish()
        except KeyboardInterrupt:
            turn.interrupt()
        answer = turn.result()
        # The answer is complete: an interrupt of its last event has nothing left to end.
        with suppress(KeyboardInterrupt):
            yield answer.finished
        return answer

    @contextmanager
    def _borrowed_state(self) -> Iterator[tuple[Engine, KVState]]:
        """Lend the kept KV cache; whoever asks while it is lent, since an answer was left lying, gets one of its own."""
        engine = self.engine()
        state, self._state = self._state or engine.new_state(self._options.cache), None
        try:
            yield engine, state
        finally:
            if self._options.reuse_cache and engine is self._engine:
                self._state = state

    def _vocab_size(self, tokenizer_size: int) -> int:
        own = vocabulary_size(self._config) or tokenizer_size
        if self._options.draft is None:
            return own
        if self._draft_vocabulary is None:
            self._draft_vocabulary = check_draft(self._folder, self._options.draft)
        return min(own, self._draft_vocabulary)

    def engine(self) -> Engine:
        """Return what generates, loading it first if need be. Raises: IncompatibleModel, DependencyMissing."""
        if self._engine is None:
            try:
                self._engine = self._load()
            except errors.IncompatibleModel as error:
                if not (_is_import_failure(error) and stand_ins.withdraw()):
                    raise
                self._engine = self._load()
            if self._options.wire_memory:
                backend().wire_memory()
        return self._engine

    def _load_folder(self) -> Engine:
        options = self._options
        engine: Engine = backend().load(
            self._folder,
            adapter_dir=options.adapter,
            draft_dir=options.draft,
            trusts_code=options.trust_remote_code,
        )
        return engine


def _speak(turn: Turn, engine: Engine, state: KVState) -> Generator[Event, None, None]:
    """Yield progress and deltas until a stop token, a stop string or the budget ends the answer."""
    turn.begin()
    yield from _prefill(turn, engine, state)
    with closing(engine.decode(turn.prompt.ids, state, turn.decoding())) as steps:
        for step in steps:
            yield from turn.take(step)
            if turn.is_over:
                return


def _prefill(turn: Turn, engine: Engine, state: KVState) -> Iterator[Event]:
    prompt = turn.prompt
    total = len(prompt.ids)
    lasting = 0 if state.keeps_everything else prompt.lasting_tokens()
    places = engine.prefill(prompt.ids, state, lasting)
    turn.cached_tokens = next(places)
    for place in places:
        # The last token is read with the first step, and short prompts need no progress.
        if place < total - 1:
            yield Progress(place, total, "tokens")


def _is_import_failure(error: BaseException | None) -> bool:
    """Whether an import that failed is the reason: with stand-ins in place it may be our doing."""
    while error is not None and not isinstance(error, ImportError):
        error = error.__cause__ or error.__context__
    return error is not None
