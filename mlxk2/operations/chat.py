"""`run` without a prompt: a conversation with one model, which remembers what it has read.

    with ChatSession(prepare_chat(find_model(name, settings), ChatOptions(ChatSettings()))) as session:
        turn = drain(session.ask("hello"), sink)

Knows no terminal: `ask` yields the events of an answer, and returns the turn that it became.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from mlxk2.driving import noted
from mlxk2.errors import GenerationFailed, UsageError
from mlxk2.events import ANSWER, Delta, Event, Warned
from mlxk2.inspection.describe import Inspection
from mlxk2.runner.limits import EXPECTED_ANSWER_TOKENS
from mlxk2.runner.request import EngineOptions

from .chat_context import Fitted, context_of, fit, full, fullness, nearly_full, rotated
from .chat_file import SavedChat, read_chat, write_chat
from .chat_settings import ROTATE, ChatSettings
from .chat_turns import INTERRUPTED, Turn
from .run import expected_tokens, runnable
from .run_memory import MemoryPlan

if TYPE_CHECKING:
    from mlxk2.runner.answer import Answer
    from mlxk2.store.model_ref import ModelRef


@dataclass(frozen=True)
class ChatOptions:
    """What the user asked for; `settings` are those that the chat begins with."""

    settings: ChatSettings = ChatSettings()
    engine: EngineOptions = EngineOptions()
    draft: ModelRef | None = None
    force: bool = False


@dataclass(frozen=True)
class ChatPlan:
    """A chat that may begin: the model is sound, runnable, and its weights fit."""

    inspection: Inspection
    options: ChatOptions
    memory: MemoryPlan
    fast_start: bool


@dataclass(frozen=True)
class Loaded:
    """A chat that came out of a file: how many turns, and which model it was with."""

    turns: int
    model: str


def prepare_chat(
    ref: ModelRef, options: ChatOptions, *, fast_start: bool = True, memory_limit: int | None = None
) -> ChatPlan:
    """Check everything that can be known without reading a weight.

    Raises: UsageError, ModelUnhealthy, IncompatibleModel, InsufficientMemory.
    """
    options.settings.request(())
    trusts_code = options.engine.trust_remote_code
    inspection = runnable(ref, trusts_code=trusts_code)
    draft = None if options.draft is None else runnable(options.draft, trusts_code=trusts_code)
    memory = MemoryPlan.of(inspection, draft, options.engine, limit=memory_limit, force=options.force)
    memory.check(options.settings.max_tokens or EXPECTED_ANSWER_TOKENS)
    return ChatPlan(inspection, options, memory, fast_start)


class ChatSession:
    """A conversation: its turns, its settings, and the model that answers.

    A turn that fails changes nothing; one that is interrupted is kept with what was said.
    """

    def __init__(self, plan: ChatPlan) -> None:
        from mlxk2.runner.runner import MLXRunner

        self._plan = plan
        self._runner = MLXRunner(
            plan.inspection.files, fast_start=plan.fast_start, label=self.model, options=plan.options.engine
        )
        self._left_out = 0
        self._fullness = 0
        self.settings = plan.options.settings
        self.turns: tuple[Turn, ...] = ()

    def __enter__(self) -> ChatSession:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._runner.close()

    @property
    def model(self) -> str:
        """The model's name."""
        return self._plan.inspection.info.name

    @property
    def is_chat_model(self) -> bool:
        """Whether the model was made to talk; another one continues the conversation as a text."""
        return self._plan.inspection.info.model_type == "chat"

    @property
    def context_length(self) -> int:
        """How many tokens the conversation may have."""
        return context_of(self._runner)

    @property
    def left_out(self) -> int:
        """How many of the oldest turns the model is not given any more."""
        return min(self._left_out, len(self.turns))

    def load(self) -> None:
        """Load tokenizer and weights now rather than with the first question.

        Raises: IncompatibleModel, InsufficientMemory, DependencyMissing, UsageError.
        """
        self._check_bias(self.settings)
        expected = self.settings.max_tokens or EXPECTED_ANSWER_TOKENS
        self._plan.memory.check(expected, self._runner.recommended_memory_bytes())
        self._runner.load(self.settings.request(()))

    def ask(self, question: str) -> Generator[Event, None, Turn]:
        """Yield the events of the answer, and Warned where the context fills up; return the turn.

        KeyboardInterrupt, thrown in by the consumer, ends the answer; what was said is kept.

        Raises: ContextLengthExceeded, InsufficientMemory, GenerationFailed, UsageError.
        """
        return (yield from self._answer(question, self.turns))

    def retry(self) -> Generator[Event, None, Turn]:
        """Answer the last question once more; the new answer takes the place of the old one.

        Raises: UsageError where there is none; what `ask` raises.
        """
        if not self.turns:
            raise UsageError("there is no answer to try again", hint="ask something first")
        *before, last = self.turns
        return (yield from self._answer(last.question, tuple(before)))

    def undo(self) -> Turn:
        """Take back the last question with its answer, and return them. Raises: UsageError where there is none."""
        if not self.turns:
            raise UsageError("there is nothing to take back")
        *before, last = self.turns
        self.turns = tuple(before)
        return last

    def clear(self) -> int:
        """Forget every turn; settings stay. Returns how many there were."""
        count, self.turns, self._left_out = len(self.turns), (), 0
        return count

    def set(self, name: str, words: str) -> None:
        """Change one setting. Raises: UsageError naming it."""
        self.settings = self.settings.changed(name, words)

    def use_system(self, text: str | None) -> None:
        """Set the system message, or take it away; it holds from the next answer on."""
        self.settings = replace(self.settings, system=text)

    def save(self, path: Path) -> bool:
        """Write the chat into a file, complete or not at all; return whether it took the place of another chat.

        Raises: UsageError where the path holds something else; OutputFailed.
        """
        return write_chat(path, SavedChat(self.model, self.settings, self.turns))

    def restore(self, path: Path) -> Loaded:
        """Go on with the chat of a file: its turns, its settings. Raises: UsageError."""
        saved = read_chat(path)
        sampling = saved.settings.sampling
        if saved.model != self.model:
            # Token ids mean something else to another model.
            sampling = replace(sampling, logit_bias={})
        settings = replace(saved.settings, sampling=sampling, keep_context=self.settings.keep_context)
        self._check_bias(settings)
        self.settings = settings
        self.turns, self._left_out = saved.turns, 0
        return Loaded(len(saved.turns), saved.model)

    def _check_bias(self, settings: ChatSettings) -> None:
        """Raises: UsageError where a token is biased that the model lacks: no answer could be given."""
        self._runner.check_bias(settings.sampling.logit_bias, settings.request(()))

    def _answer(self, question: str, before: tuple[Turn, ...]) -> Generator[Event, None, Turn]:
        fitted = self._fitted(question, before)
        self._plan.memory.check(expected_tokens(fitted.prompt), self._runner.recommended_memory_bytes())
        if fitted.left_out > self._left_out:
            yield Warned(rotated(fitted.left_out))
        said: list[str] = []
        try:
            answer = yield from noted(self._runner.answer(fitted.prompt), partial(_note, said))
        except (KeyboardInterrupt, GeneratorExit):
            # Struck outside the answer's own steps; it is over all the same.
            self._keep(before, Turn(question, "".join(said), INTERRUPTED), fitted)
            raise
        turn = Turn.of(question, answer)
        self._keep(before, turn, fitted)
        yield from self._warnings(answer, fitted)
        return turn

    def _fitted(self, question: str, before: tuple[Turn, ...]) -> Fitted:
        try:
            return fit(self._runner, self.settings, before, question, self._left_out)
        except GenerationFailed as error:
            # The template's fault; the flags that its hint names are no way out of a chat that is going on.
            error.hint = "/system off removes the system message" if self.settings.system else None
            raise

    def _keep(self, before: tuple[Turn, ...], turn: Turn, fitted: Fitted) -> None:
        retried = len(self.turns) > len(before)
        if retried and turn.reason == INTERRUPTED and not turn.answer:
            return
        self.turns = (*before, turn)
        self._left_out = fitted.left_out

    def _warnings(self, answer: Answer, fitted: Fitted) -> Generator[Event, None, None]:
        used, context = answer.usage.total_tokens, self.context_length
        before, self._fullness = self._fullness, fullness(used, context)
        cut_short = answer.finish_reason == "length" and answer.usage.completion_tokens != self.settings.max_tokens
        if cut_short:
            yield Warned(full(answer.usage.completion_tokens, context))
        elif self._fullness > before and self.settings.keep_context != ROTATE:
            yield Warned(nearly_full(used, context))


def _note(said: list[str], event: Event) -> None:
    if isinstance(event, Delta) and event.channel == ANSWER:
        said.append(event.text)
