"""Text to token ids and back, one token at a time, on the tokenizers library. Knows no model and no engine."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable, Protocol

from mlxk2 import errors

from .token_bytes import escaped

if TYPE_CHECKING:
    from tokenizers import Tokenizer


class Decoder(Protocol):
    """Turns the ids of one answer into text as they come."""

    def feed(self, token_id: int) -> str:
        """Return the text that is complete with this token, "" while a character is unfinished."""

    def finish(self) -> str:
        """Return what an unfinished character at the end looks like."""


class TextTokenizer(Protocol):
    """What the runner needs of a tokenizer."""

    @property
    def size(self) -> int:
        """How many tokens it has."""

    def encode(self, text: str, *, add_special_tokens: bool) -> tuple[int, ...]:
        """Return the ids of `text`."""

    def id_of(self, token: str) -> int | None:
        """Return the id of the token written exactly so, None if there is none."""

    def is_special(self, token: str) -> bool:
        """Return whether `token` is a single token that ordinary text never yields."""

    def text_of(self, token_id: int) -> str:
        """Return what the token looks like inside a text; bytes that are no character are escaped as surrogates."""

    def vocabulary(self) -> dict[str, int]:
        """Return every token and its id."""

    def decoder(self, context: tuple[int, ...] = ()) -> Decoder:
        """Return a decoder for text that follows `context`."""


# Longer texts are read while others go on; these take some two milliseconds.
LONG_CHARS = 5000


class FileTokenizer:
    """A tokenizer in the form of tokenizer.json. `encode_text` replaces its own encoding where that is not all."""

    def __init__(self, backend: Tokenizer, encode_text: Callable[[str, bool], list[int]] | None = None) -> None:
        self._backend = backend
        self._encode_text = encode_text
        self._special = {token.content for token in backend.get_added_tokens_decoder().values() if token.special}

    @classmethod
    def load(cls, path: Path) -> FileTokenizer:
        """Read a tokenizer.json.

        Raises: IncompatibleModel when the tokenizers library cannot use it.
        """
        from tokenizers import Tokenizer

        with _translated(errors.IncompatibleModel, "tokenizer.json cannot be used", "pip install --upgrade tokenizers"):
            backend = Tokenizer.from_file(str(path))
        # A file may carry the settings of its training.
        backend.no_truncation()
        backend.no_padding()
        return cls(backend)

    @property
    def size(self) -> int:
        """How many tokens it has."""
        return int(self._backend.get_vocab_size(with_added_tokens=True))

    def encode(self, text: str, *, add_special_tokens: bool) -> tuple[int, ...]:
        """Return the ids of `text`.

        Raises: UsageError for text with characters that UTF-8 does not have.
        """
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise errors.UsageError("the prompt is not valid UTF-8 text") from error
        if self._encode_text is not None:
            return tuple(self._encode_text(text, add_special_tokens))
        with _translated(errors.GenerationFailed, "the prompt cannot be tokenized"):
            if len(text) > LONG_CHARS:
                # The library lets go of Python's lock here, and there it does not.
                (found,) = self._backend.encode_batch_fast([text], add_special_tokens=add_special_tokens)
            else:
                found = self._backend.encode(text, add_special_tokens=add_special_tokens)
            return tuple(found.ids)

    def id_of(self, token: str) -> int | None:
        """Return the id of the token written exactly so, None if there is none."""
        found: int | None = self._backend.token_to_id(token)
        return found

    def is_special(self, token: str) -> bool:
        """Return whether `token` is a single special token."""
        return token in self._special

    def text_of(self, token_id: int) -> str:
        """Return what the token looks like inside a text."""
        text = _second_of_two(self._backend.decode, token_id)
        return (escaped(self._backend, token_id) or text) if _BROKEN in text else text

    def vocabulary(self) -> dict[str, int]:
        """Return every token and its id."""
        return dict(self._backend.get_vocab(with_added_tokens=True))

    def decoder(self, context: tuple[int, ...] = ()) -> Decoder:
        """Return a decoder for text that follows `context`."""
        return StreamDecoder(self._backend, context)


@contextmanager
def _translated(kind: type[errors.MlxkError], words: str, hint: str | None = None) -> Iterator[None]:
    """Tell in our words what the library raises, which is plain Exception."""
    try:
        yield
    except Exception as error:
        raise kind(f"{words}: {error}", hint=hint) from error


def _second_of_two(decode: Callable[..., str], token_id: int) -> str:
    """Decode a token behind itself: the first of a text may lose its space."""
    first = str(decode([token_id], skip_special_tokens=False))
    return str(decode([token_id, token_id], skip_special_tokens=False))[len(first) :]


# Enough for any character, and for the space that some tokenizers drop at the very beginning.
_CONTEXT_TOKENS = 8

# No character has more bytes; what is unfinished after so many tokens stays broken.
_LONGEST_CHARACTER = 4

_BROKEN = "\ufffd"


class StreamDecoder:
    """Decodes with the library's DecodeStream, which waits for whole characters.

    Bytes that never become a character can make it give up; from then on the decoder compares texts by itself.
    """

    def __init__(self, backend: Tokenizer, context: tuple[int, ...] = ()) -> None:
        from tokenizers.decoders import DecodeStream

        self._backend = backend
        self._stream: Any = DecodeStream(skip_special_tokens=False)
        self._known: list[int] = []
        self._waiting: list[int] = []
        for token_id in context[-_CONTEXT_TOKENS:]:
            self.feed(token_id)
        self._known, self._waiting = self._known + self._waiting, []

    def feed(self, token_id: int) -> str:
        """Return the text that is complete with this token."""
        self._waiting.append(token_id)
        piece = self._stream_step(token_id) if self._stream is not None else self._compare(final=False)
        if piece:
            self._known, self._waiting = self._waiting[-_CONTEXT_TOKENS:], []
        return piece

    def finish(self) -> str:
        """Return what an unfinished character at the end looks like: U+FFFD, or nothing where all was shown."""
        piece = self._compare(final=True) if self._waiting else ""
        self._waiting = []
        return piece

    def _stream_step(self, token_id: int) -> str:
        try:
            return str(self._stream.step(self._backend, token_id) or "")
        except Exception as error:  # the library raises plain Exception
            if "prefix" not in str(error):
                raise errors.GenerationFailed(f"token {token_id} cannot be decoded: {error}") from error
            self._stream = None
        return self._compare(final=False)

    def _compare(self, *, final: bool) -> str:
        """What the waiting tokens add to the text of those before them."""
        before = self._text(self._known)
        after = self._text(self._known + self._waiting)
        if after.endswith(_BROKEN) and not final and len(self._waiting) < _LONGEST_CHARACTER:
            return ""
        same = 0
        while same < min(len(before), len(after)) and before[same] == after[same]:
            same += 1
        return after[same:]

    def _text(self, ids: list[int]) -> str:
        return str(self._backend.decode(ids, skip_special_tokens=False))


class WrappedTokenizer:
    """A tokenizer that only exists as code: mlx-lm's wrapper around one of transformers."""

    def __init__(self, wrapper: Any) -> None:
        self._wrapper = wrapper

    @property
    def size(self) -> int:
        """How many tokens it has."""
        return len(self._wrapper.get_vocab())

    def encode(self, text: str, *, add_special_tokens: bool) -> tuple[int, ...]:
        """Return the ids of `text`."""
        return tuple(self._wrapper.encode(text, add_special_tokens=add_special_tokens))

    def id_of(self, token: str) -> int | None:
        """Return the id of the token written exactly so, None if there is none."""
        found = self._wrapper.get_vocab().get(token)
        return int(found) if found is not None else None

    def is_special(self, token: str) -> bool:
        """Return whether `token` is a single special token."""
        return token in self._wrapper.all_special_tokens or token in self._wrapper.get_added_vocab()

    def text_of(self, token_id: int) -> str:
        """Return what the token looks like inside a text."""
        return _second_of_two(self._wrapper.decode, token_id)

    def vocabulary(self) -> dict[str, int]:
        """Return every token and its id."""
        return dict(self._wrapper.get_vocab())

    def decoder(self, context: tuple[int, ...] = ()) -> Decoder:
        """Return a decoder; such tokenizers cannot be told what came before. Raises: IncompatibleModel."""
        try:
            return WrappedDecoder(self._wrapper.detokenizer)
        except AttributeError as error:
            raise errors.IncompatibleModel(f"mlx-lm cannot decode this model's own tokenizer: {error}") from error


class WrappedDecoder:
    """Decodes with mlx-lm's own streaming detokenizer."""

    def __init__(self, detokenizer: Any) -> None:
        self._detokenizer = detokenizer
        detokenizer.reset()

    def feed(self, token_id: int) -> str:
        """Return the text that is complete with this token."""
        self._detokenizer.add_token(token_id)
        return str(self._detokenizer.last_segment)

    def finish(self) -> str:
        """Return what an unfinished character at the end looks like."""
        self._detokenizer.finalize()
        return str(self._detokenizer.last_segment)


def from_wrapper(wrapper: Any) -> TextTokenizer:
    """Return the tokenizer behind mlx-lm's wrapper, decoding on the tokenizers library where it is built on it."""
    backend = getattr(wrapper, "backend_tokenizer", None)
    if backend is None:
        return WrappedTokenizer(wrapper)
    return FileTokenizer(backend, lambda text, special: wrapper.encode(text, add_special_tokens=special))
