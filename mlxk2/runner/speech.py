"""How to talk to one model: its tokenizer, its template, and what of its text is reasoning. Knows no weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable

from mlxk2 import errors
from mlxk2.inspection.files import ModelFiles

from . import fast_start as stand_ins
from .chat_template import as_template_sees
from .fill_in import can_fill_in, enders
from .model_text import ModelText
from .prompt import (
    NO_VARIABLES,
    Pause,
    Prompt,
    Renderer,
    count_slices,
    lasting_tokens,
    make_prompt,
    no_pause,
    template_renderer,
    thinks,
)
from .reasoning import ReasoningFormat, reasoning_format
from .request import AUTO, NONE, GenerationRequest, Message
from .stop import stop_token_ids
from .tokenizer import FileTokenizer, TextTokenizer, from_wrapper
from .tools import HARMONY, MarkedReader, ToolFormat, ToolReader, WholeReader, forced_call, known_format

if TYPE_CHECKING:
    from .grammar import TokenMask


@dataclass(frozen=True)
class Speech:
    """A loaded tokenizer, and what renders messages (None: the model has no template)."""

    folder: Path
    text: ModelText
    tokenizer: TextTokenizer
    renderer: Renderer | None

    def is_chat(self, request: GenerationRequest) -> bool:
        """Return whether the request goes through the chat template."""
        return request.messages is not None and self.renderer is not None

    def goes_on(self, request: GenerationRequest) -> bool:
        """Return whether the answer goes on in the midst of a text."""
        return request.continues or not self.is_chat(request)

    def prompt(self, request: GenerationRequest, context: int | None = None, pause: Pause = no_pause) -> Prompt:
        """Return what the model reads for this request; `context`: how many tokens that may be.

        Raises: GenerationFailed, UsageError, ContextLengthExceeded where it is certainly more, found before it is read.
        """
        return make_prompt(request, self.text, self.tokenizer, self.renderer, context, pause)

    def count(self, request: GenerationRequest, context: int, most: int, pause: Pause = no_pause) -> int:
        """Return how many tokens the prompt has; where they are more than `context` can hold, give or take a few.

        Raises: ContextLengthExceeded where they are more than `most`; else as `prompt`.
        """
        try:
            return len(self.prompt(request, context, pause).ids)
        except errors.ContextLengthExceeded:
            return count_slices(request, self.tokenizer, self.renderer, most, pause)

    def lasting_tokens(self, request: GenerationRequest, prompt: Prompt) -> int:
        """Return with how many ids of `prompt` the next turn will begin too; all of them where there are no turns."""
        if request.messages is None or self.renderer is None:
            return len(prompt.ids)
        return lasting_tokens(prompt, request, self.tokenizer, self.renderer)

    def stop_ids(self, request: GenerationRequest, config: Mapping[str, Any], vocab_size: int) -> frozenset[int]:
        """Return every id that ends the answer."""
        found = stop_token_ids(self.text, config, self.tokenizer, vocab_size, chat=self.is_chat(request))
        return found if request.suffix is None else found | enders(self.tokenizer)

    def reasoning(self, request: GenerationRequest) -> ReasoningFormat | None:
        """Return how this model marks its reasoning; None where it does not, and where a text goes on."""
        if self.goes_on(request):
            return None
        found = self._reasoning
        if found is None or not request.tools or request.tool_choice != AUTO or self.tool_format is not HARMONY:
            return found
        return found.with_calls()

    @cached_property
    def _reasoning(self) -> ReasoningFormat | None:
        return reasoning_format(self.text.chat_template, lambda token: self.tokenizer.id_of(token) is not None)

    @property
    def takes_tools(self) -> bool:
        """Whether the template tells the model of tools."""
        return self.renderer is not None and "tools" in (self.text.chat_template or "tools")

    @property
    def can_fill_in(self) -> bool:
        """Whether the model can write what belongs between two texts."""
        return can_fill_in(self.tokenizer)

    def check_tools(self, request: GenerationRequest) -> None:
        """Raises: UsageError naming the tools, or the messages about them, that the template would leave out without a word."""
        if self.takes_tools:
            return
        if request.tools and request.tool_choice != NONE:
            raise errors.UsageError("tools: this model's chat template knows none", hint="use a model that has it")
        knows_calls = self.renderer is not None and "tool_calls" in (self.text.chat_template or "")
        if not knows_calls and any(message.tool_calls or message.role == "tool" for message in request.messages or ()):
            raise errors.UsageError(
                "messages: this model's chat template knows no tools, nor calls and results of them",
                hint="use a model that has it, or tell of them in text",
            )

    def tool_reader(self, request: GenerationRequest) -> ToolReader | None:
        """Return what finds the tool calls in an answer; None where there are to be none.

        Raises: UsageError naming `tools` where the model knows none.
        """
        if not request.tools or request.tool_choice == NONE:
            return None
        self.check_tools(request)
        if request.tool_choice != AUTO:
            return WholeReader(request.tools)
        found = self.tool_format
        if found is None:
            return None
        if not found.start:
            return WholeReader(request.tools)
        return MarkedReader(found, request.tools, one_call=not request.parallel_tool_calls)

    @cached_property
    def tool_format(self) -> ToolFormat | None:
        """How the model writes calls; None where nobody knows: then they are found only where they are demanded."""
        text = self.text
        found: ToolFormat | None = backend().tool_format(
            text.chat_template, text.tokenizer_config, self.tokenizer.vocabulary
        )
        return found or known_format(text.chat_template)

    def mask_maker(
        self, request: GenerationRequest, prompt: Prompt, vocab_size: int, stop_ids: frozenset[int]
    ) -> Callable[[], TokenMask | None]:
        """Return what makes the mask that keeps an answer within the request's constraint; it makes None without one.

        Raises: DependencyMissing, IncompatibleModel, UsageError.
        """
        constraint = request.constraint or forced_call(request)
        if constraint is None:
            return lambda: None
        constraint.check()
        from .grammar import Grammar, Thinking

        file = self.folder / "tokenizer.json"
        if not isinstance(self.tokenizer, FileTokenizer) or not file.is_file():
            raise errors.IncompatibleModel(
                "structured output needs a model with a tokenizer.json", hint="use a model that has one"
            )
        grammar = Grammar.load(file, vocab_size, stop_ids)
        found = self.reasoning(request)
        if found is None:
            return lambda: grammar.mask(constraint, None)
        openers = tuple(self._marker_ids(marker) for marker in found.openers)
        thinking = Thinking(found.is_open(prompt.text), openers, self._marker_ids(found.answer_marker))
        return lambda: grammar.mask(constraint, thinking)

    def _marker_ids(self, marker: str) -> tuple[int, ...]:
        token = self.tokenizer.id_of(marker)
        return self.tokenizer.encode(marker, add_special_tokens=False) if token is None else (token,)


class SpeechLoader:
    """Loads a model's tokenizer once, with the first request, by the fastest way that its folder allows.

    With `fast_start` mlx-lm is imported without transformers where that gives the same ids; `close` undoes that.
    With `trusts_code` the tokenizer may be code from the folder, which only the libraries themselves can load.
    """

    def __init__(self, files: ModelFiles, *, fast_start: bool, trusts_code: bool = False) -> None:
        self._folder = files.ref.path
        self._text = ModelText.of(files)
        self._fast_start = fast_start and not trusts_code
        self._trusts_code = trusts_code
        self._speech: Speech | None = None
        self._stand_ins: stand_ins.StandIns | None = None

    def close(self) -> None:
        """Let the real libraries be imported again."""
        if self._stand_ins is not None:
            self._stand_ins.remove()
            self._stand_ins = None

    def load(self, request: GenerationRequest) -> Speech:
        """Return the model's speech. Raises: IncompatibleModel, DependencyMissing."""
        if self._speech is None:
            can_render = request.messages is None or self._text.chat_template is not None
            fast = self._fast_start and can_render and self._text.has_plain_tokenizer
            tokenizer, renderer = self._plain() if fast else self._wrapped()
            self._speech = Speech(self._folder, self._text, tokenizer, renderer)
        return self._speech

    def _plain(self) -> tuple[TextTokenizer, Renderer | None]:
        tokenizer = FileTokenizer.load(self._folder / "tokenizer.json")
        self._stand_ins = stand_ins.install()
        return tokenizer, template_renderer(self._text, tokenizer)

    def _wrapped(self) -> tuple[TextTokenizer, Renderer | None]:
        stand_ins.withdraw()
        wrapper = backend().load_tokenizer(self._folder, trusts_code=self._trusts_code)
        tokenizer = from_wrapper(wrapper)
        if self._text.chat_template is not None or not getattr(wrapper, "has_chat_template", False):
            return tokenizer, template_renderer(self._text, tokenizer)
        thinking = thinks(tokenizer)

        def by_code(
            messages: tuple[Message, ...], *, opens_answer: bool = True, variables: Mapping[str, Any] = NO_VARIABLES
        ) -> str:
            options = {"enable_thinking": thinking, **variables, "add_generation_prompt": opens_answer}
            return str(backend().render_by_code(wrapper, list(map(as_template_sees, messages)), options))

        return tokenizer, by_code


def backend() -> Any:
    """The engine package; imported when it is needed, since it brings MLX along. Raises: DependencyMissing."""
    try:
        from . import mlx_backend
    except ImportError as error:
        raise errors.DependencyMissing(f"mlx cannot be imported: {error}", hint="pip install mlxk2") from error
    return mlx_backend
