"""MLXRunner: a model folder that answers. Puts tokenizer, template, limits, engine and stop rules together."""

from __future__ import annotations

import time
from collections.abc import Generator, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any

from mlxk2 import errors
from mlxk2.events import Delta, Event, Finished, Started, Timing, Usage
from mlxk2.inspection.context import context_length
from mlxk2.inspection.files import ModelFiles
from mlxk2.inspection.runtime import custom_code

from . import fast_start as stand_ins
from .limits import token_budget
from .model_text import ModelText
from .prompt import Renderer, prompt_ids, template_renderer, thinks
from .request import GenerationRequest, Message
from .segments import StopCutter
from .stop import stop_token_ids
from .tokenizer import FileTokenizer, TextTokenizer, from_wrapper

if TYPE_CHECKING:
    from . import mlx_backend

ANSWER = "answer"


@dataclass(frozen=True)
class PreparedPrompt:
    """A request that fits: its ids, and how many tokens may follow. No weight has been read for it."""

    request: GenerationRequest
    ids: tuple[int, ...]
    max_tokens: int
    stop_ids: frozenset[int]
    vocab_size: int
    decoding_context: tuple[int, ...]
    tokenizer: TextTokenizer


@dataclass(frozen=True)
class Answer:
    """What a generation came to. `tokens_per_second` is the decode rate: the prefill does not count.

    `usage.completion_tokens` counts every token that the model produced, the one that ended the text included.
    """

    text: str
    finish_reason: str
    usage: Usage
    timing: Timing
    tokens_per_second: float


class MLXRunner:
    """Loads one model once and answers requests, one at a time, in the calling thread.

    The tokenizer is loaded with the first request, the weights with the first token, both only once. With
    `fast_start` mlx-lm is imported without transformers where the folder allows it; the answers are the same.

    Raises: IncompatibleModel for a model that needs code of its own, before anything is loaded.
    """

    def __init__(self, files: ModelFiles, *, fast_start: bool = True, label: str | None = None) -> None:
        code = custom_code(files)
        if code is not None:
            raise errors.IncompatibleModel(
                f"the model needs code of its own, which is never executed ({code})",
                hint="use a model whose architecture mlx-lm knows",
            )
        self._folder = files.ref.path
        self._label = label or files.ref.name
        self._config: Mapping[str, Any] = files.config or {}
        self._fast_start = fast_start
        self._text = ModelText.of(files)
        self._voice: tuple[TextTokenizer, Renderer | None] | None = None
        self._engine: mlx_backend.Engine | None = None
        self._stand_ins: stand_ins.StandIns | None = None

    def __enter__(self) -> MLXRunner:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the weights. The runner loads them again if it is asked again."""
        engine, self._engine = self._engine, None
        try:
            if engine is not None:
                engine.close()
        finally:
            if self._stand_ins is not None:
                self._stand_ins.remove()
                self._stand_ins = None

    def prepare(self, request: GenerationRequest) -> PreparedPrompt:
        """Tokenize the request and set its budget.

        Raises: ContextLengthExceeded, IncompatibleModel, GenerationFailed (template), DependencyMissing.
        """
        tokenizer, renderer = self._load_voice(request)
        ids = prompt_ids(request, self._text, tokenizer, renderer)
        vocab_size = _vocab_size(self._config) or tokenizer.size
        _check_ids(ids, vocab_size)
        chat = request.messages is not None and renderer is not None
        return PreparedPrompt(
            request=request,
            ids=ids,
            max_tokens=token_budget(len(ids), context_length(self._config), request.max_tokens),
            stop_ids=stop_token_ids(self._text, self._config, tokenizer, vocab_size, chat=chat),
            vocab_size=vocab_size,
            decoding_context=() if chat else ids,
            tokenizer=tokenizer,
        )

    def recommended_memory_bytes(self) -> int | None:
        """Return what the device should hold at most, None where it does not say."""
        limit: int | None = _backend().recommended_memory_bytes()
        return limit

    def generate(self, request: GenerationRequest) -> Generator[Event, None, Answer]:
        """Yield Started, a Delta per piece of text, and Finished as the last event; return the whole as an Answer."""
        return (yield from self.answer(self.prepare(request)))

    def answer(self, prompt: PreparedPrompt) -> Generator[Event, None, Answer]:
        """Yield the events of the answer to a prepared prompt.

        KeyboardInterrupt, whether it strikes here or is thrown in by the consumer, ends the answer with the reason
        "interrupted"; the next call starts afresh.
        """
        turn = _Turn(prompt)
        try:
            yield Started(label=self._label)
            engine = self._load_engine()
            yield from turn.run(engine)
        except KeyboardInterrupt:
            turn.interrupt()
        try:
            rest = turn.flush()
            if rest:
                yield Delta(ANSWER, rest)
        except KeyboardInterrupt:
            turn.interrupt()
        answer = turn.result()
        # The answer is complete: an interrupt of its last event has nothing left to end.
        with suppress(KeyboardInterrupt):
            yield Finished(answer.finish_reason, answer.usage, answer.timing)
        return answer

    def _load_voice(self, request: GenerationRequest) -> tuple[TextTokenizer, Renderer | None]:
        """The tokenizer, and what renders messages; None where the model has no template."""
        if self._voice is None:
            can_render = request.messages is None or self._text.chat_template is not None
            fast = self._fast_start and can_render and self._text.has_plain_tokenizer
            self._voice = self._plain_voice() if fast else self._wrapped_voice()
        return self._voice

    def _plain_voice(self) -> tuple[TextTokenizer, Renderer | None]:
        tokenizer = FileTokenizer.load(self._folder / "tokenizer.json")
        self._stand_ins = stand_ins.install()
        return tokenizer, template_renderer(self._text, tokenizer)

    def _wrapped_voice(self) -> tuple[TextTokenizer, Renderer | None]:
        stand_ins.withdraw()
        wrapper = _backend().load_tokenizer(self._folder)
        tokenizer = from_wrapper(wrapper)
        if self._text.chat_template is not None or not getattr(wrapper, "has_chat_template", False):
            return tokenizer, template_renderer(self._text, tokenizer)
        thinking = thinks(tokenizer)

        def by_code(messages: tuple[Message, ...]) -> str:
            chat = [{"role": message.role, "content": message.content} for message in messages]
            return str(_backend().render_by_code(wrapper, chat, thinking=thinking))

        return tokenizer, by_code

    def _load_engine(self) -> mlx_backend.Engine:
        if self._engine is None:
            backend = _backend()
            try:
                self._engine = backend.load(self._folder)
            except errors.IncompatibleModel as error:
                if not (_is_import_failure(error) and stand_ins.withdraw()):
                    raise
                self._engine = backend.load(self._folder)
        return self._engine


class _Turn:
    """The state of one answer: what was said, how many tokens it took, when."""

    def __init__(self, prompt: PreparedPrompt) -> None:
        self._prompt = prompt
        self._decoder = prompt.tokenizer.decoder(prompt.decoding_context)
        self._cutter = StopCutter(prompt.request.stop)
        self._said: list[str] = []
        self._tokens = 0
        self._reason = "length"
        self._start = self._first = self._last = time.perf_counter()

    def run(self, engine: mlx_backend.Engine) -> Generator[Event, None, None]:
        """Yield deltas until a stop token, a stop string or the budget ends the answer."""
        prompt = self._prompt
        self._start = self._first = self._last = time.perf_counter()
        steps = engine.steps(prompt.ids, prompt.request.sampling, prompt.max_tokens, prompt.vocab_size)
        with closing(steps):
            for token in steps:
                self._count()
                ended = token in prompt.stop_ids
                shown = "" if ended else self._show(self._decoder.feed(token))
                if shown:
                    yield Delta(ANSWER, shown)
                if ended or self._cutter.stopped:
                    self._reason = "stop"
                    return

    def _count(self) -> None:
        self._last = time.perf_counter()
        self._first = self._first if self._tokens else self._last
        self._tokens += 1

    def interrupt(self) -> None:
        """The user wants no more."""
        self._reason = "interrupted"

    def flush(self) -> str:
        """Return the text that was held back and turned out to be part of the answer."""
        if self._cutter.stopped:
            return ""
        rest = self._show(self._decoder.finish())
        if self._cutter.stopped:
            self._reason = "stop" if self._reason == "length" else self._reason
            return rest
        held = self._cutter.finish()
        self._said.append(held)
        return rest + held

    def result(self) -> Answer:
        """Return the whole."""
        now = time.perf_counter()
        prompt_tokens, tokens = len(self._prompt.ids), self._tokens
        decoding = self._last - self._first
        first = self._first - self._start if tokens else None
        total = now - self._start
        if tokens > 1 and decoding > 0:
            rate = (tokens - 1) / decoding
        else:
            rate = tokens / total if total > 0 else 0.0
        return Answer(
            text="".join(self._said),
            finish_reason=self._reason,
            usage=Usage(prompt_tokens, tokens, prompt_tokens + tokens),
            timing=Timing(time_to_first_token_s=first, generation_time_s=total),
            tokens_per_second=rate,
        )

    def _show(self, text: str) -> str:
        shown = self._cutter.feed(text)
        self._said.append(shown)
        return shown


def _vocab_size(config: Mapping[str, Any]) -> int | None:
    """How many tokens the model knows; more than its tokenizer has where the weights were padded."""
    nested = config.get("text_config")
    for part in (config, nested):
        value = part.get("vocab_size") if isinstance(part, Mapping) else None
        if isinstance(value, int) and value > 0:
            return value
    return None


def _check_ids(ids: tuple[int, ...], vocab_size: int) -> None:
    """MLX reads beyond its arrays when an id is out of range."""
    if not ids:
        raise errors.UsageError("the prompt is empty")
    if max(ids) >= vocab_size or min(ids) < 0:
        raise errors.IncompatibleModel(
            f"the tokenizer makes token {max(ids)}, but the model knows only {vocab_size} tokens"
        )


def _is_import_failure(error: BaseException | None) -> bool:
    """Whether an import that failed is the reason: with stand-ins in place it may be our doing."""
    while error is not None and not isinstance(error, ImportError):
        error = error.__cause__ or error.__context__
    return error is not None


def _backend() -> Any:
    """The engine module; imported when it is needed, since it brings MLX along."""
    try:
        from . import mlx_backend
    except ImportError as error:
        raise errors.DependencyMissing(f"mlx cannot be imported: {error}", hint="pip install mlxk2") from error
    return mlx_backend
