"""Messages or raw text to the token ids that the model reads. Knows templates and tokenizers, no engine."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any, Callable, NamedTuple, Protocol

from mlxk2.errors import GenerationFailed, UsageError

from . import chat_template, fill_in
from .limits import check_length
from .model_text import ModelText
from .reasoning import is_reasoning_vocabulary
from .request import NONE, GenerationRequest, Message
from .tokenizer import TextTokenizer

NO_VARIABLES: Mapping[str, Any] = MappingProxyType({})

# Few texts have more characters a token; longer ones are looked at in slices first, unless they are read at once.
_USUAL_CHARS = 4
_QUICK_CHARS = 100_000
_SLICE_CHARS = 16384
_END_MARK = "MLXK2ENDOFTURN"


# Called before each part of a text that takes long to read; what it raises ends the reading.
Pause = Callable[[], None]


def no_pause() -> None:
    """Read on."""


class Renderer(Protocol):
    """Writes a conversation as the text that the model reads."""

    def __call__(
        self,
        messages: tuple[Message, ...],
        *,
        opens_answer: bool = True,
        variables: Mapping[str, Any] = NO_VARIABLES,
    ) -> str:
        """Return the text, up to where the answer begins; without `opens_answer` up to the last message's end.

        `variables` are those of this request: its tools, and what its sender sets.
        """


class Prompt(NamedTuple):
    """What the model reads: the text, and its token ids."""

    text: str
    ids: tuple[int, ...]


def make_prompt(
    request: GenerationRequest,
    text: ModelText,
    tokenizer: TextTokenizer,
    renderer: Renderer | None,
    context: int | None = None,
    pause: Pause = no_pause,
) -> Prompt:
    """Return the prompt.

    `renderer` None means that the model has no chat template: then the messages are joined by blank lines and read
    like raw text. Rendered text brings its own special tokens; raw text gets those that the tokenizer adds.

    Raises: ContextLengthExceeded where the text is so long that it need not be tokenized to its end to see that.
    """
    if request.messages is not None and renderer is not None:
        rendered = _conversation(renderer, request)
        check_fits(rendered, tokenizer, context, pause)
        return Prompt(rendered, tokenizer.encode(rendered, add_special_tokens=False))
    if request.prompt_ids is not None:
        check_length(len(request.prompt_ids), context)
        # What they look like matters to nobody.
        return Prompt("", request.prompt_ids)
    if request.suffix is not None:
        marks = fill_in.find_marks(tokenizer)
        check_fits(request.suffix, tokenizer, context, pause)
        check_fits(request.prompt or "", tokenizer, context, pause)
        ids = fill_in.arranged(marks, request.prompt or "", request.suffix, tokenizer)
        return Prompt(request.prompt or "", (*_raw_ids("", text, tokenizer)[:1], *ids))
    raw = _raw(request)
    check_fits(raw, tokenizer, context, pause)
    return Prompt(raw, _raw_ids(raw, text, tokenizer))


def count_slices(
    request: GenerationRequest, tokenizer: TextTokenizer, renderer: Renderer | None, most: int, pause: Pause
) -> int:
    """Return about how many tokens a prompt has that is too long to be tokenized in one go.

    Raises: ContextLengthExceeded where they are more than `most`; else as `make_prompt`.
    """
    if request.messages is not None and renderer is not None:
        texts = [_conversation(renderer, request)]
    else:
        texts = [_raw(request), request.suffix or ""]
    tokens = len(request.prompt_ids or ())
    check_length(tokens, most)
    for part in (part for text in texts for part in _slices(text)):
        pause()
        tokens += len(tokenizer.encode(part, add_special_tokens=False))
        check_length(tokens, most)
    return tokens


def check_fits(text: str, tokenizer: TextTokenizer, context: int | None, pause: Pause = no_pause) -> None:
    """Do nothing where a text may fit; what is far too long for a model is not tokenized to its end.

    Raises: ContextLengthExceeded, UsageError.
    """
    pause()
    if context is None or len(text) <= max(_USUAL_CHARS * context, _QUICK_CHARS):
        return
    tokens = 0
    for part in _slices(text):
        pause()
        tokens += len(tokenizer.encode(part, add_special_tokens=False))
        # The cuts make some tokens more, never as many again.
        check_length(tokens // 2, context)
    pause()


def _slices(text: str) -> Iterator[str]:
    """Yield a text in parts, cut before spaces where that is possible: there most tokenizers begin a token."""
    start = 0
    while start < len(text):
        end = start + _SLICE_CHARS
        space = text.rfind(" ", start + _SLICE_CHARS // 2, end) if end < len(text) else -1
        end = end if space == -1 else space
        yield text[start:end]
        start = end


def variables_of(request: GenerationRequest) -> Mapping[str, Any]:
    """Return what the chat template gets to know of a request besides its messages."""
    if not request.tools or request.tool_choice == NONE:
        return request.template_variables
    return {**request.template_variables, "tools": [dict(tool) for tool in request.tools]}


def lasting_tokens(prompt: Prompt, request: GenerationRequest, tokenizer: TextTokenizer, renderer: Renderer) -> int:
    """Return how many ids at the beginning of `prompt` every later turn of this conversation begins with.

    What opens the answer may be written differently once the answer is history, as templates do that drop reasoning.
    """
    try:
        history = renderer(request.messages or (), opens_answer=False, variables=variables_of(request))
    except GenerationFailed:
        return 0
    if not prompt.text.startswith(history):
        return 0
    opening = tokenizer.encode(prompt.text[len(history) :], add_special_tokens=False)
    kept = len(prompt.ids) - len(opening)
    # Only where the text is cut between two tokens.
    return kept if kept > 0 and prompt.ids[kept:] == opening else 0


def _conversation(renderer: Renderer, request: GenerationRequest) -> str:
    """Render the messages up to where the answer begins, or goes on. Raises: GenerationFailed, UsageError."""
    messages, variables = request.messages or (), variables_of(request)
    if not request.continues:
        return _rendered(renderer, messages, variables)
    # What a template writes behind the last message is cut off where a mark at the end of that message stands.
    marked = replace(messages[-1], content=messages[-1].content + _END_MARK)
    begun, mark, _ = _rendered(renderer, (*messages[:-1], marked), variables, opens_answer=False).rpartition(_END_MARK)
    if not mark:
        raise UsageError("messages: this model's chat template cannot go on with an answer", hint="end with a user's")
    return begun


def _rendered(
    renderer: Renderer, messages: tuple[Message, ...], variables: Mapping[str, Any], *, opens_answer: bool = True
) -> str:
    """Render the messages; what the template makes of them is its own fault, not the user's. Raises: GenerationFailed."""
    text = renderer(messages, variables=variables, opens_answer=opens_answer)
    if not text.strip() or (_has_surrogates(text) and not any(_has_surrogates(m.content) for m in messages)):
        raise GenerationFailed(
            "the model's chat template makes no text of this prompt",
            hint="--no-chat-template gives the prompt as it is",
        )
    return text


def _raw(request: GenerationRequest) -> str:
    return (request.prompt if request.messages is None else plain_text(request.messages)) or ""


def _has_surrogates(text: str) -> bool:
    return any("\ud800" <= char <= "\udfff" for char in text)


def plain_text(messages: tuple[Message, ...]) -> str:
    """Return the messages as a model without a chat template gets them."""
    return "\n\n".join(message.content for message in messages)


def template_renderer(text: ModelText, tokenizer: TextTokenizer) -> Renderer | None:
    """Return what renders with the folder's own template, None if it has none."""
    template = text.chat_template
    if template is None:
        return None
    known = {**text.special_tokens, "enable_thinking": thinks(tokenizer)}

    def render(
        messages: tuple[Message, ...], *, opens_answer: bool = True, variables: Mapping[str, Any] = NO_VARIABLES
    ) -> str:
        return chat_template.render(template, messages, {**known, **variables, "add_generation_prompt": opens_answer})

    return render


def thinks(tokenizer: TextTokenizer) -> bool:
    """Return whether the vocabulary is that of a model that thinks aloud; templates ask for it as `enable_thinking`."""
    return is_reasoning_vocabulary(lambda token: tokenizer.id_of(token) is not None)


def _raw_ids(raw: str, text: ModelText, tokenizer: TextTokenizer) -> tuple[int, ...]:
    bos_token = text.special_tokens.get("bos_token", "")
    written_out = bool(bos_token) and raw.startswith(bos_token)
    ids = tokenizer.encode(raw, add_special_tokens=not written_out)
    bos_id = tokenizer.id_of(bos_token) if bos_token else None
    if bos_id is None or written_out:
        return ids
    wanted = text.tokenizer_config.get("add_bos_token")
    if wanted is True and ids[:1] != (bos_id,):
        return (bos_id, *ids)
    return ids[1:] if wanted is False and ids[:1] == (bos_id,) else ids
