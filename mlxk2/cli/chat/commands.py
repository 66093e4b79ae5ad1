"""The slash commands of a chat, in one table; help, completion and the documents are made from it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Callable

from mlxk2.errors import UsageError
from mlxk2.operations.chat_settings import SETTINGS

from .figures import last_answer, number_of_turns, whole_chat
from .lines import PROMPT

if TYPE_CHECKING:
    from .loop import Chat

LEAVING_WORDS = ("exit", "quit", "q")

_LINE = re.compile(r"/(?P<name>[a-z?]+|(?=\s*$))(?:\s+(?P<words>.*))?\s*$", re.IGNORECASE | re.DOTALL)
_OFF = "off"


@dataclass(frozen=True)
class SlashCommand:
    """A command of the chat. `run` gets the words behind the name; `values` may complete them, or file names."""

    name: str
    arguments: str
    summary: str
    run: Callable[[Chat, str], None]
    values: tuple[str, ...] = ()
    takes_path: bool = False
    aliases: tuple[str, ...] = ()


def parsed(text: str) -> tuple[SlashCommand, str] | None:
    """Return the command that a line calls, and its words; None where the line is a message.

    Raises: UsageError where there is no such command.
    """
    found = _LINE.match(text)
    if found is None:
        return None
    name = found["name"].lower()
    command = next((command for command in COMMANDS if name in (command.name, *command.aliases)), None)
    if command is None:
        raise UsageError(
            f"/{name} is no command", hint=f"{_closest(name)}; a blank before the slash makes it a message"
        )
    return command, (found["words"] or "").strip()


def _closest(name: str) -> str:
    from difflib import get_close_matches

    close = get_close_matches(name or " ", [command.name for command in COMMANDS], n=1)
    return f"did you mean /{close[0]}?" if close else "/help lists the commands"


def usages() -> tuple[tuple[str, str], ...]:
    """Return how each command is written, and what it does."""
    return tuple((f"/{command.name} {command.arguments}".strip(), command.summary) for command in COMMANDS)


def _help(chat: Chat, _: str) -> None:
    keys = (
        ("Alt+Enter", "a new line in the message; pasted text keeps its lines"),
        ('"""', 'begins a message of several lines, which ends with """'),
        ("Ctrl-C", "ends an answer; clears the line; twice in a row ends the chat"),
        ("Ctrl-D", f"ends the chat, as {', '.join(LEAVING_WORDS)} do"),
    )
    chat.screen.say(_columns(usages()) + "\n\n" + _columns(keys))


def _system(chat: Chat, words: str) -> None:
    settings = chat.session.settings
    if words:
        chat.session.use_system(None if words.lower() == _OFF else words)
        chat.screen.note("system message set" if words.lower() != _OFF else "no system message")
    else:
        chat.screen.say(settings.system or "no system message")


def _set(chat: Chat, words: str) -> None:
    name, *value = words.split(None, 1)[:2] if words else ("",)
    if value:
        chat.session.set(name, value[0])
        chat.screen.note(f"{name} {value[0]}")
        return
    values = chat.session.settings.values()
    if name and name not in values:
        raise UsageError(f"'{name}' cannot be set", hint=f"one of {', '.join(SETTINGS)}")
    chat.screen.say(_columns([(name, values[name])] if name else values.items()))


def _show(chat: Chat, words: str) -> None:
    session = chat.session
    if words.lower() == "history":
        shown = [f"{PROMPT}{turn.question}\n{turn.answer}" for turn in session.turns]
        chat.screen.say("\n\n".join(shown) or "nothing was said yet")
        return
    if words:
        raise UsageError(f"'{words}' cannot be shown", hint="/show, or /show history")
    turns = str(len(session.turns)) + (f", the oldest {session.left_out} left out" if session.left_out else "")
    about = {
        "model": session.model,
        "context": f"{session.context_length} tokens",
        "turns": turns,
        "system": session.settings.system or "none",
    }
    chat.screen.say(_columns({**about, **session.settings.values()}.items()))


def _stats(chat: Chat, _: str) -> None:
    session = chat.session
    lines = [whole_chat(session.turns)]
    if session.turns:
        lines.insert(0, last_answer(session.turns[-1], session.context_length))
    chat.screen.say("\n".join(lines))


def _retry(chat: Chat, _: str) -> None:
    chat.answer(chat.session.retry())


def _undo(chat: Chat, _: str) -> None:
    turn = chat.session.undo()
    chat.screen.note(f"taken back: {_excerpt(turn.question)}")


def _clear(chat: Chat, _: str) -> None:
    count = chat.session.clear()
    chat.screen.note(f"{number_of_turns(count)} forgotten")


def _save(chat: Chat, words: str) -> None:
    path = _path(words, "/save FILE")
    replaced = chat.session.save(path)
    turns = number_of_turns(len(chat.session.turns))
    chat.screen.note(f"{'saved over' if replaced else 'saved to'} {path} ({turns})")


def _load(chat: Chat, words: str) -> None:
    path = _path(words, "/load FILE")
    loaded = chat.session.restore(path)
    other = "" if loaded.model == chat.session.model else f", which were with {loaded.model}"
    chat.screen.note(f"loaded {path} ({number_of_turns(loaded.turns)}{other}), with its system message and settings")


def _bye(chat: Chat, _: str) -> None:
    chat.ended = True


def _path(words: str, usage: str) -> Path:
    """Read a file name, quoted or not. Raises: UsageError where there is none."""
    quoted = len(words) > 1 and words[0] == words[-1] and words[0] in "'\""
    name = words[1:-1] if quoted else words
    if not name or "\0" in name or "\n" in name:
        raise UsageError("a file name is missing", hint=usage)
    try:
        return Path(name).expanduser()
    except RuntimeError:
        return Path(name)


def _excerpt(text: str, width: int = 60) -> str:
    line = " ".join(text.split())
    return line if len(line) <= width else line[: width - 1] + "…"


def _columns(rows: Iterable[tuple[str, str]]) -> str:
    pairs = list(rows)
    width = max(len(left) for left, _ in pairs)
    return "\n".join(f"{left:<{width}}  {right}" for left, right in pairs)


COMMANDS: tuple[SlashCommand, ...] = (
    SlashCommand("help", "", "list the commands and keys", _help, aliases=("?",)),
    SlashCommand("system", "[TEXT]", "set the system message, or show it; `off` removes it", _system),
    SlashCommand("set", "[NAME VALUE]", "change how answers are made, or show the settings", _set, tuple(SETTINGS)),
    SlashCommand("show", "[history]", "show model, settings and turns, or all that was said", _show, ("history",)),
    SlashCommand("stats", "", "show tokens, speed and how much of the context is used", _stats),
    SlashCommand("retry", "", "answer the last question once more", _retry),
    SlashCommand("undo", "", "take back the last question and its answer", _undo),
    SlashCommand("clear", "", "forget all that was said; settings stay", _clear),
    SlashCommand("save", "FILE", "write the chat into a file (JSON)", _save, takes_path=True),
    SlashCommand("load", "FILE", "go on with the chat of a file", _load, takes_path=True),
    SlashCommand("bye", "", "end the chat", _bye, aliases=("exit", "quit")),
)
