"""From a Problem that came from another process back to the error that it was."""

from __future__ import annotations

from mlxk2.errors import MlxkError, kind_of
from mlxk2.server.protocol import Problem


def error_of(problem: Problem) -> MlxkError:
    """Return the error; one of a type that this process does not know is an InternalError."""
    return kind_of(problem.type)(problem.message, hint=problem.hint, **dict(problem.extra))
