"""Where chat templates run: jinja's sandbox, with the words that templates expect, and with an end. Needs jinja2.

Templates come with the model and are untrusted. jinja keeps them from everything outside and from long ranges; here
loop turns and calls are counted as well, and nothing may be multiplied without measure. A template that lets a text
grow by other means can still ask for more memory than there is; it cannot run for ever.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any

from jinja2 import Template, nodes
from jinja2.exceptions import SecurityError, TemplateError
from jinja2.ext import Extension
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment

# Loop turns and calls of one rendering; a long conversation takes some thousands.
_MOST_STEPS = 500_000

# Characters of a text, bits of a number.
_LARGEST_RESULT = 2**22

_COUNTED = "_counted"


class GenerationTag(Extension):
    """The `{% generation %}` block, which marks the assistant's words for training and changes nothing here."""

    tags = {"generation"}

    def parse(self, parser: Any) -> Any:
        """Take the block's body as it is."""
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        # A call block gives the body a scope of its own, as it has elsewhere.
        return nodes.CallBlock(self.call_method("_pass_through"), [], [], body).set_lineno(line)

    def _pass_through(self, caller: Any) -> str:
        return str(caller())


class Sandbox(ImmutableSandboxedEnvironment):
    """An environment for one template, which one thread at a time renders, as often as it likes."""

    intercepted_binops = frozenset(["*", "**"])

    def __init__(self) -> None:
        extensions = [GenerationTag, "jinja2.ext.loopcontrols"]
        super().__init__(trim_blocks=True, lstrip_blocks=True, extensions=extensions)
        self.filters["tojson"] = _to_json
        self.filters[_COUNTED] = self._count_turns
        self.globals["raise_exception"] = _raise_exception
        self.globals["strftime_now"] = _strftime_now
        self._steps = 0

    def start(self) -> None:
        """Begin to count afresh."""
        self._steps = 0

    def call(self, context: Context, function: Any, /, *args: Any, **kwargs: Any) -> Any:
        """Call for the template, and count it."""
        self._count()
        return super().call(context, function, *args, **kwargs)

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """Compute for the template what is not out of measure."""
        if _size_of(operator, left, right) > _LARGEST_RESULT:
            raise SecurityError(f"the result of {operator} is too big")
        return super().call_binop(context, operator, left, right)

    def compiled(self, source: str) -> Template:
        """Compile a template, with every loop counted."""
        tree = self.parse(source)
        for loop in list(tree.find_all(nodes.For)):
            loop.iter = nodes.Filter(loop.iter, _COUNTED, [], [], None, None, lineno=loop.lineno)
        return Template.from_code(self, self.compile(tree), self.make_globals(None))

    def _count_turns(self, items: Iterable[Any]) -> Iterator[Any]:
        for item in items:
            self._count()
            yield item

    def _count(self) -> None:
        self._steps += 1
        if self._steps > _MOST_STEPS:
            raise SecurityError(f"it takes more than {_MOST_STEPS} steps")


def _size_of(operator: str, left: Any, right: Any) -> int:
    """Bits of the number, or elements of the text or list, that an operation gives; at least about so many."""
    if not isinstance(left, int) or not isinstance(right, int):
        return _length(left) * _times(right) + _length(right) * _times(left)
    if operator == "**":
        return left.bit_length() * abs(right)
    return left.bit_length() + right.bit_length()


def _length(value: Any) -> int:
    return len(value) if isinstance(value, (str, list, tuple)) else 0


def _times(value: Any) -> int:
    return value if isinstance(value, int) else 0


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    # jinja's own filter escapes HTML, which models have never seen.
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise_exception(message: object) -> None:
    raise TemplateError(str(message))


def _strftime_now(pattern: str) -> str:
    from datetime import datetime

    return datetime.now().strftime(pattern)
