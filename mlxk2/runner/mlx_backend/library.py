"""mlx-lm as it is installed: imported without its side effects, failing in our words. Knows no model."""

from __future__ import annotations

import importlib
import inspect
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Callable, NamedTuple

from mlxk2 import errors

# What mlx and mlx-lm raise for models and requests that they cannot handle; some model modules even exit.
ENGINE_FAILURES = (*errors.BUGS, SyntaxError, SystemExit)

# mlx-lm names every missing parameter of a model, thousands of them.
_LONGEST_DETAIL = 2000


class MlxLm(NamedTuple):
    """The modules of mlx-lm that are used; they stay usable when the import system has forgotten them."""

    utils: Any
    generate: Any
    samplers: Any
    caches: Any


def import_mlx_lm() -> MlxLm:
    """Import mlx-lm.

    Raises: DependencyMissing with the import's own words.
    """
    return MlxLm(
        utils=import_module("mlx_lm.utils"),
        # Named by hand: the package has a function `generate` that hides the module.
        generate=import_module("mlx_lm.generate"),
        samplers=import_module("mlx_lm.sample_utils"),
        caches=import_module("mlx_lm.models.cache"),
    )


def import_module(name: str) -> Any:
    """Import one module of mlx-lm. Raises: DependencyMissing."""
    with translated("mlx-lm cannot be imported", errors.DependencyMissing), file_limit_kept():
        return importlib.import_module(name)


@contextmanager
def file_limit_kept() -> Iterator[None]:
    """mlx-lm lowers the limit of open files for good when it is imported, or fails where it is already lower."""
    original = resource.setrlimit
    resource.setrlimit = lambda *_args: None
    try:
        yield
    finally:
        resource.setrlimit = original


@contextmanager
def translated(what: str, error_type: type[errors.MlxkError], hint: str | None = None) -> Iterator[None]:
    """Turn whatever mlx and mlx-lm raise into `error_type` with their own words."""
    try:
        yield
    except errors.MlxkError:
        raise
    except ENGINE_FAILURES as error:
        raise error_type(f"{what}: {_first_line(error)}", detail=str(error)[:_LONGEST_DETAIL], hint=hint) from error


def accepted(function: Callable[..., Any], **options: Any) -> dict[str, Any]:
    """Those of `options` that the installed version of `function` takes."""
    parameters = inspect.signature(function).parameters
    return {name: value for name, value in options.items() if name in parameters}


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:300].rstrip(" :") if lines else type(error).__name__
