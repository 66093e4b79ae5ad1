"""`serve`: answer requests over HTTP until a signal comes.

    plan = prepare(ServeOptions(model="phi"), settings)
    number = run(plan, on_listening)

`prepare` refuses what can be refused before anything starts, and holds the port from then on.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from dataclasses import dataclass, replace
from importlib.util import find_spec
from typing import TYPE_CHECKING, Callable

from mlxk2 import errors
from mlxk2.inspection.describe import Inspection, ModelInfo, describe
from mlxk2.inspection.versions import installed_version
from mlxk2.operations.list import list_models
from mlxk2.operations.run import runnable
from mlxk2.operations.run_memory import MemoryPlan
from mlxk2.runner.limits import EXPECTED_ANSWER_TOKENS
from mlxk2.runner.request import EngineOptions
from mlxk2.server.host_types import HostSettings
from mlxk2.server.protocol import EngineSpec
from mlxk2.server.settings import ServerSettings
from mlxk2.settings import Settings
from mlxk2.store import hf_cache, workspace
from mlxk2.store.model_ref import WORKSPACE, ModelRef
from mlxk2.store.resolve import ambiguous, find_among, find_model

if TYPE_CHECKING:
    import socket

    from mlxk2.server.engine_process import StartEngine

_OLDEST_PYTHON, _OLDEST_MLX_LM = (3, 11), (0, 32)
_PACKAGES = ("fastapi", "uvicorn", "prometheus_client")


@dataclass(frozen=True)
class ServeOptions:
    """What the user asked for. `web` says where to listen and whom to answer, `host` how many requests to take.

    `models` are the names that may be asked for, none meaning all; `insecure` lets everybody in from everywhere.
    """

    model: str | None = None
    models: tuple[str, ...] = ()
    web: ServerSettings = ServerSettings()
    host: HostSettings = HostSettings()
    engine: EngineOptions = EngineOptions()
    prefix_cache_bytes: int = 2 * 2**30
    insecure: bool = False


@dataclass(frozen=True)
class ServePlan:
    """A server that may begin; its port is taken."""

    options: ServeOptions
    catalog: Catalog
    listening: socket.socket
    model: str | None


@dataclass(frozen=True)
class ServeResult:
    """The banner: where requests are answered, what model is loaded first, and the limit where a request sets none."""

    host: str
    port: int
    model: str | None
    max_tokens: int | None
    url: str


class Catalog:
    """The models that can be asked for over HTTP: those of the cache, and folders that the command line names.

    A name that comes in over HTTP is never read as a path.
    """

    def __init__(self, options: ServeOptions, settings: Settings) -> None:
        self._options, self._settings = options, settings
        given = [name for name in (options.model, *options.models) if name is not None]
        found = {name: find_model(name, settings) for name in given}
        # By the name that is listed.
        self._folders = {ref.name: ref for ref in found.values() if ref.kind == WORKSPACE}
        names = [found[name].name for name in options.models]
        if names and options.model is not None:
            names.append(found[options.model].name)
        self.names = tuple(dict.fromkeys(names))

    def resolve(self, name: str) -> EngineSpec:
        """Return what to load for a name. Raises: ModelNotFound, AmbiguousMatch, HashNotFound, ModelUnhealthy,
        IncompatibleModel, InsufficientMemory.
        """
        inspection = self.inspect(name)
        options = self._options
        memory = MemoryPlan.of(inspection, None, options.engine, limit=None, force=False)
        memory.check(EXPECTED_ANSWER_TOKENS)
        return EngineSpec(
            ref=inspection.ref,
            options=options.engine,
            max_concurrency=options.host.max_concurrency,
            max_queue=options.host.max_queue,
            prefix_cache_bytes=options.prefix_cache_bytes,
            default_max_tokens=options.web.max_tokens,
            fast_start=self._settings.fast_start,
        )

    def inspect(self, name: str) -> Inspection:
        """Return what is known of a model that may be asked for and runs here. Raises as `resolve` does."""
        return runnable(self._find(name))

    def list(self) -> tuple[ModelInfo, ...]:
        """Describe the models that can be asked for, sorted by name."""
        known = {info.name: info for info in list_models(None, self._settings).models}
        known.update({name: describe(ref) for name, ref in self._folders.items() if name not in known})
        return tuple(info for name, info in sorted(known.items()) if info.runtime_compatible and self._may_ask(name))

    def _find(self, name: str) -> ModelRef:
        given = self._folders.get(name)
        if given is not None:
            return given
        if workspace.is_path(name):
            raise _unknown(name)
        try:
            return self._find_served(name)
        except errors.ModelNotFound:
            # Its hint speaks to somebody who may look at this machine's files.
            raise _unknown(name) from None

    def _find_served(self, name: str) -> ModelRef:
        """Find a model as every command does, among those that may be asked for: the others are as if not there."""
        repos = tuple(repo for repo in hf_cache.scan(self._settings.hub_cache) if self._may_ask(repo.name))
        given = tuple(self._folders.values())
        places = {os.path.abspath(ref.path) for ref in given}
        children = workspace.children(self._settings.workspace_home)
        own = tuple(ref for ref in children if self._may_ask(ref.name) and os.path.abspath(ref.path) not in places)
        try:
            found = find_among(name, repos, (*given, *own))
        except errors.AmbiguousMatch as error:
            return self._of_sound_ones(name, error.extra["matches"])
        alike = [ref.name for ref in given if ref != found and workspace.own_name(ref) == name]
        if alike:
            raise ambiguous(name, sorted([found.name, *alike]))
        return found

    def _of_sound_ones(self, text: str, matches: Iterable[str]) -> ModelRef:
        """Choose among what a text fits: what cannot run here is not meant. Raises: ModelNotFound, AmbiguousMatch."""
        sound = {info.name for info in self.list()}
        left = [name for name in matches if name.partition("@")[0] in sound or name in sound]
        if not left:
            raise _unknown(text)
        if len(left) > 1:
            raise ambiguous(text, left)
        return self._folders.get(left[0]) or find_model(left[0], self._settings)

    def _may_ask(self, name: str) -> bool:
        return not self.names or name in self.names


def prepare(
    options: ServeOptions,
    settings: Settings,
    *,
    python: tuple[int, ...] = sys.version_info[:2],
    mlx_lm: str | None = None,
) -> ServePlan:
    """Check everything that can be known, and take the port.

    `python` and `mlx_lm`: the versions in use; None asks what is installed.

    Raises: DependencyMissing, UsageError, AddressInUse, AddressNotAvailable, PermissionDenied, what Catalog.resolve raises.
    """
    check_packages(python, mlx_lm or installed_version("mlx-lm"))
    web = options.web
    _check_keys(web, options.insecure)
    catalog = Catalog(options, settings)
    model = None if options.model is None else catalog.resolve(options.model).ref.name
    from mlxk2.server.serving import listen

    listening = listen(web.host, web.port)
    try:
        _check_keys(replace(web, bound=listening.getsockname()[0]), options.insecure)
    except errors.UsageError:
        listening.close()
        raise
    return ServePlan(options, catalog, listening, model)


def _check_keys(web: ServerSettings, is_insecure: bool) -> None:
    if not web.is_loopback and not web.api_keys and not is_insecure:
        raise errors.UsageError(
            f"--host {web.host} lets other machines in, and there is no key to keep them out",
            hint="--api-key-file FILE or MLXK2_API_KEY demands a key; --insecure lets everybody in",
        )


def check_packages(python: tuple[int, ...], mlx_lm: str | None) -> None:
    """Raises: DependencyMissing where this Python, mlx-lm or the web packages cannot carry a server."""
    if python < _OLDEST_PYTHON or mlx_lm is None or _numbers(mlx_lm) < _OLDEST_MLX_LM:
        found = f"mlx-lm {mlx_lm}" if mlx_lm else "no mlx-lm"
        raise errors.DependencyMissing(
            f"serve needs mlx-lm 0.32 or newer, which needs Python 3.11 or newer; "
            f"here is {found} on Python {python[0]}.{python[1]}",
            hint="python3.12 -m pip install 'mlxk2[serve]'; every other command works here",
        )
    missing = [name for name in _PACKAGES if find_spec(name) is None]
    if missing:
        raise errors.DependencyMissing(
            f"serve needs {' and '.join(missing)}, not installed here", hint="pip install 'mlxk2[serve]'"
        )


def run(plan: ServePlan, on_listening: Callable[[ServeResult], None], start_engine: StartEngine | None = None) -> int:
    """Serve until a signal comes, and return its number. `start_engine` None: the engine of this package."""
    from mlxk2.server.engine_process import EngineProcess
    from mlxk2.server.serving import Service, serve

    options, web = plan.options, replace(plan.options.web, models=plan.catalog.names)
    port = plan.listening.getsockname()[1]
    shown = f"[{web.host}]" if ":" in web.host else web.host
    banner = ServeResult(web.host, port, plan.model, web.max_tokens, f"http://{shown}:{port}")
    service = Service(
        resolve=plan.catalog.resolve,
        catalog=plan.catalog.list,
        host=replace(options.host, default_model=options.model),
        web=web,
        start_engine=start_engine or EngineProcess,
    )
    return serve(service, plan.listening, lambda: on_listening(banner))


def _numbers(version: str) -> tuple[int, ...]:
    parts = version.split(".")[:2]
    return tuple(int(part) if part.isdecimal() else 0 for part in parts)


def _unknown(name: str) -> errors.ModelNotFound:
    shown = name if len(name) <= 120 else name[:117] + "..."
    return errors.ModelNotFound(f"model '{shown}' is not served here", hint="GET /v1/models lists those that are")
