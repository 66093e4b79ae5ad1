"""From a Problem that came from another process back to the error that it was."""

from __future__ import annotations

from mlxk2.errors import InternalError, MlxkError
from mlxk2.server.protocol import Problem


def error_of(problem: Problem) -> MlxkError:
    """Return the error; one of a type that this process does not know is an InternalError."""
    kind = _kinds(MlxkError).get(problem.type, InternalError)
    return kind(problem.message, hint=problem.hint, **dict(problem.extra))


def _kinds(root: type[MlxkError]) -> dict[str, type[MlxkError]]:
    found = {}
    for kind in root.__subclasses__():
        found[kind.type] = kind
        found.update(_kinds(kind))
    return found
