"""A chat as a file: a JSON document that people can read, written whole or not at all, and read with distrust."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from mlxk2.aside import written_aside
from mlxk2.errors import OutputFailed, UsageError
from mlxk2.runner.json_answer import no_constant
from mlxk2.runner.request import Sampling

from .chat_settings import ChatSettings
from .chat_turns import Turn

FORMAT, VERSION = "mlxk2-chat", 1
LARGEST_BYTES = 16 * 2**20

_SAMPLING = tuple(field.name for field in fields(Sampling))
_MOST_DIGITS = 40


@dataclass(frozen=True)
class SavedChat:
    """What a file keeps: the conversation, with whom, and how."""

    model: str
    settings: ChatSettings
    turns: tuple[Turn, ...]


def write_chat(path: Path, chat: SavedChat) -> bool:
    """Write a chat, complete or not at all; return whether it took the place of an earlier one.

    Raises: UsageError where the path holds something that is no chat, which is never replaced; OutputFailed.
    """
    target = Path(os.path.realpath(path))
    replaces = _holds_a_chat(path, target)
    data = json.dumps(_document(chat), ensure_ascii=False, indent=2).encode("utf-8", "replace") + b"\n"
    if len(data) > LARGEST_BYTES:
        raise UsageError(f"the chat has {len(data)} bytes, a file holds {LARGEST_BYTES}", hint="/undo makes it shorter")
    try:
        with written_aside(target) as fresh, open(fresh, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise OutputFailed(f"the chat could not be saved: {error.strerror}: {path}") from error
    return replaces


def read_chat(path: Path) -> SavedChat:
    """Read a chat. Raises: UsageError naming the file and what is wrong with it."""
    try:
        return _parsed(_content(path))
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from error
    except UsageError as error:
        raise UsageError(f"{path} is no chat: {error.message}") from error
    except (ValueError, TypeError, RecursionError) as error:
        raise UsageError(f"{path} is no chat: {_reason(error)}") from error


def _holds_a_chat(path: Path, target: Path) -> bool:
    """Whether there is a chat to replace. Raises: UsageError."""
    if not os.path.lexists(target):
        return False
    try:
        read_chat(target)
    except UsageError as error:
        raise UsageError(
            f"{path} is there already, and is not replaced: {error.message}",
            hint="choose another name, or remove the file",
        ) from error
    return True


def _document(chat: SavedChat) -> dict[str, Any]:
    sampling = {name: getattr(chat.settings.sampling, name) for name in _SAMPLING}
    sampling["logit_bias"] = {str(token): bias for token, bias in chat.settings.sampling.logit_bias.items()}
    messages = [
        {"role": role, "content": content}
        for turn in chat.turns
        for role, content in (("user", turn.question), ("assistant", turn.answer))
    ]
    return {
        "format": FORMAT,
        "version": VERSION,
        "model": chat.model,
        "system": chat.settings.system,
        "sampling": sampling,
        "max_tokens": chat.settings.max_tokens,
        "stop": list(chat.settings.stop),
        "messages": messages,
    }


def _content(path: Path) -> Any:
    """Parse a file's JSON, which is a regular file of a reasonable size. Raises: OSError, ValueError, RecursionError."""
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise ValueError("it is no file")
    with open(path, "rb") as file:
        data = file.read(LARGEST_BYTES + 1)
    if len(data) > LARGEST_BYTES:
        raise ValueError(f"it is larger than {LARGEST_BYTES} bytes")
    return json.loads(data.decode("utf-8"), parse_constant=no_constant, parse_int=_whole)


def _parsed(document: Any) -> SavedChat:
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise ValueError("it was not written by /save")
    version = document.get("version")
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise ValueError(f"version {version!r} is none")
    if version > VERSION:
        raise ValueError(f"it was written by a newer MLX Knife (version {version})")
    settings = ChatSettings(
        sampling=_sampling(document.get("sampling", {})),
        system=_text_or_none(document.get("system"), "system"),
        max_tokens=document.get("max_tokens"),
        stop=tuple(_text(text, "stop") for text in _list(document.get("stop", []), "stop")),
    )
    settings.request(())
    return SavedChat(
        _text(document.get("model"), "model"), settings, _turns(_list(document.get("messages"), "messages"))
    )


def _sampling(given: Any) -> Sampling:
    if not isinstance(given, Mapping) or not set(given) <= set(_SAMPLING):
        raise ValueError("its sampling is none")
    values = dict(given)
    if not isinstance(values.get("logit_bias", {}), Mapping):
        raise ValueError("its logit_bias is none")
    values["logit_bias"] = {int(token): bias for token, bias in values.get("logit_bias", {}).items()}
    return Sampling(**values)


def _turns(messages: list[Any]) -> tuple[Turn, ...]:
    """Pair the messages: each question has an answer, which may be empty."""
    texts = []
    for place, message in enumerate(messages):
        role = ("user", "assistant")[place % 2]
        if not isinstance(message, Mapping) or message.get("role") != role:
            raise ValueError(f"message {place + 1} should be the {role}'s")
        texts.append(_text(message.get("content"), f"message {place + 1}"))
    if len(texts) % 2:
        texts.append("")
    return tuple(Turn(question, answer) for question, answer in zip(texts[::2], texts[1::2]))


def _list(value: Any, name: str) -> list[Any]:
    if not isinstance(value, list):
        raise ValueError(f"{name} should be a list")
    return value


def _text(value: Any, name: str) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{name} should be a text")
    # A lone surrogate, which JSON can spell, is no text that a tokenizer could read.
    return value.encode("utf-8", "replace").decode("utf-8")


def _text_or_none(value: Any, name: str) -> str | None:
    return None if value is None else _text(value, name)


def _whole(digits: str) -> int:
    if len(digits) > _MOST_DIGITS:
        raise ValueError("it has a number of absurd length")
    return int(digits)


def _reason(error: Exception) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"line {error.lineno} is no JSON: {error.msg}"
    if isinstance(error, UnicodeDecodeError):
        return "it is not UTF-8 text"
    return "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
