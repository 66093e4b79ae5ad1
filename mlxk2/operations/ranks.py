"""`run` over several machines: every rank does the same with its part of the model, and rank 0 speaks.

The work is done in a watched process, since a rank that waits for another one cannot be interrupted otherwise. What
one rank cannot do ends all of them with its reason.
"""

from __future__ import annotations

import json
from collections.abc import Generator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from hashlib import sha256
from typing import TYPE_CHECKING, TypeVar

from mlxk2.driving import noted
from mlxk2.errors import DependencyMissing, IncompatibleModel, Interrupted, MlxkError, PeerLost, UsageError
from mlxk2.events import Delta, Event, Finished, Timing, Usage
from mlxk2.inspection.files import ModelFiles
from mlxk2.inspection.runtime import find_mlx_lm, model_module
from mlxk2.inspection.sharding import WAYS, divisible_modules, obstacle, share_of_layers, ways_to_divide
from mlxk2.inspection.versions import installed_version
from mlxk2.inspection.weights import loaded_headers
from mlxk2.operations.run import RunOptions, RunPlan, RunResult, expected_tokens, prepare, result_of, runnable
from mlxk2.operations.together import Together
from mlxk2.runner.watchdog import Pulse, watched
from mlxk2.settings import RankSettings, Settings
from mlxk2.store.resolve import find_model

if TYPE_CHECKING:
    from mlxk2.runner.answer import PreparedPrompt
    from mlxk2.runner.mlx_backend import Engine
    from mlxk2.runner.mlx_backend.distributed import Ranks
    from mlxk2.runner.runner import MLXRunner

T = TypeVar("T")

# Reading folders and importing mlx-lm takes its time on a cold disk, and reading weights more.
_SETUP_S = 60.0
_SLOWEST_READ_BYTES_S = 100e6

# Until the connecting process ends by itself, if even the one that watches it is gone.
_MARGIN_S = 30.0

_FIRST_RELEASE = (0, 32)


@dataclass(frozen=True)
class RankJob:
    """What one rank is to do: `model` is looked up on its own machine. `verbose` lets MLX's own words through."""

    model: str
    options: RunOptions
    settings: Settings
    ranks: RankSettings
    verbose: bool = False


def group_of(settings: Settings) -> RankSettings | None:
    """Return this process's place among several ranks; None where it is alone, as a launcher may start it too.

    Raises: UsageError for a file of addresses that cannot be used.
    """
    ranks = settings.ranks
    if ranks is None or ranks.hostfile is None:
        return ranks
    try:
        text = ranks.hostfile.read_text(encoding="utf-8")
        hosts = json.loads(text) if text.strip() else []
    except (OSError, ValueError) as error:
        raise UsageError(f"MLX_HOSTFILE cannot be read: {error}", hint="mlx.launch writes it") from error
    if isinstance(hosts, list) and len(hosts) < 2:
        return None
    return ranks


def run_over_ranks(job: RankJob) -> Generator[Event, None, RunResult]:
    """Yield the events of the answer and return the whole, as `run_model` does; all ranks come to the same.

    Raises: PeerLost; everything that `prepare` and `run_model` raise, on whichever rank: `rank` says which.
    """
    said: list[Event] = []
    try:
        result: RunResult = yield from noted(watched(partial(_work, job), quiet=not job.verbose), said.append)
        return result
    except KeyboardInterrupt as pressed:
        if pressed.args:
            raise _ended(job, pressed.args[0]) from None
        # The work could not listen: it was waiting for another rank.
        yield Finished("interrupted", Usage(0, 0, 0), Timing(None, 0.0))
        return _partial(job, said)


def _ended(job: RankJob, signal_name: str) -> MlxkError:
    """What it means that no key, but a signal ended this rank: launchers do so when another one has failed."""
    message = f"ended by {signal_name}, as launchers end all ranks when one has failed: its last lines may tell why"
    return PeerLost(message) if job.ranks.rank == 0 else Interrupted(message)


def _partial(job: RankJob, said: list[Event]) -> RunResult:
    """What is known of an answer that its process did not live to report."""

    def text(channel: str) -> str:
        return "".join(event.text for event in said if isinstance(event, Delta) and event.channel == channel)

    return RunResult(
        model=job.model,
        prompt=job.options.prompt,
        response=text("answer"),
        reasoning=None if job.options.hide_reasoning else text("reasoning") or None,
        finish_reason="interrupted",
        usage=Usage(0, 0, 0),
        tokens_generated=0,
        generation_time_s=0.0,
        time_to_first_token_s=None,
        tokens_per_second=0.0,
    )


def _work(job: RankJob, pulse: Pulse) -> Generator[Event, None, RunResult]:
    """Be one rank. The process ends afterwards: nothing is put away."""
    from mlxk2.runner.runner import MLXRunner
    from mlxk2.runner.speech import backend

    backend()  # says what is missing
    from mlxk2.runner.mlx_backend import distributed

    patience = job.ranks.peer_timeout_s
    pulse.enter("waiting for them to connect", patience)
    ranks = distributed.join(job.ranks.backend, patience + _MARGIN_S)
    pulse.enter("agreeing on what to run", patience + _SETUP_S)
    together = Together(ranks)
    versions = {name: installed_version(name) for name in ("mlx", "mlx-lm")}
    together.check_same("versions", versions, DependencyMissing)
    options = replace(job.options, prompt=together.by_rank_0(job.options.prompt))
    together.check_same("command line", {"options": repr(options)}, UsageError)
    plan, way = together.do(partial(_planned, job, options, ranks))
    together.check_same("model", {"files": _fingerprint(plan.inspection.files)}, IncompatibleModel)

    def load() -> Engine:
        pulse.enter("loading the model", patience + _SETUP_S + plan.memory.weights_bytes / _SLOWEST_READ_BYTES_S)
        engine = distributed.load_part(plan.inspection.files.ref.path, ranks, way, pulse.beat)
        pulse.enter("generating", patience)
        return engine

    label = plan.inspection.info.name
    # mlx-lm's loader of parts needs its real tokenizers.
    runner = MLXRunner(plan.inspection.files, fast_start=False, label=label, options=options.engine, load_engine=load)
    prompt = together.do(partial(_prepared, runner, plan))
    answer = yield from runner.answer(_as_rank_0_reads_it(prompt, together))
    # Who was interrupted is not where the others are, and leaves them.
    if answer.finished.reason != "interrupted":
        together.part()
    return result_of(plan, answer.finished, answer)


def _planned(job: RankJob, options: RunOptions, ranks: Ranks) -> tuple[RunPlan, str]:
    """Check all that can be known without reading a weight, and choose how to divide the model.

    Raises: what `prepare` raises; IncompatibleModel naming what can be divided; DependencyMissing.
    """
    from mlxk2.runner.mlx_backend import distributed

    _require_division()
    ref = find_model(job.model, job.settings)
    files = runnable(ref).files
    way = distributed.way_to_divide(ref.path, ranks, _ways(files, ranks.size, job.ranks.sharding))
    return prepare(ref, options, share=share_of_layers(files.config, way, ranks.size)), way


def _require_division() -> None:
    """Do nothing where mlx-lm can divide models. Older releases run code from the model's folder while they do so."""
    version = installed_version("mlx-lm") or ""
    numbers = [int(part) for part in version.split(".")[:2] if part.isdecimal()]
    if numbers < list(_FIRST_RELEASE):
        wanted = ".".join(map(str, _FIRST_RELEASE))
        raise DependencyMissing(
            f"several machines need mlx-lm {wanted} on Python 3.11 or newer; installed is {version or 'none'}",
            hint=f"pip install 'mlx-lm>={wanted}'",
        )


def _ways(files: ModelFiles, size: int, wanted: str | None) -> tuple[str, ...]:
    """How this model can be divided, the best way first. Raises: IncompatibleModel."""
    package = find_mlx_lm() or ""
    module = model_module(package, files.config or {}) or ""
    known = ways_to_divide(package, module)
    if not known:
        names = divisible_modules(package)
        raise IncompatibleModel(
            f"mlx-lm cannot divide a model of type {module} between machines; it can divide {', '.join(names)}",
            supported=names,
        )
    asked = tuple(way for way in WAYS if wanted in (None, way))
    obstacles = {way: obstacle(files, package, way, size) for way in known}
    usable = tuple(way for way in asked if way in known and obstacles[way] is None)
    if not usable:
        why = [f"{way}: {obstacles.get(way) or 'mlx-lm has no such way for it'}" for way in asked]
        raise IncompatibleModel(
            f"the model cannot be divided between {size} ranks ({'; '.join(why)})",
            hint=_another_way(known, obstacles, wanted),
        )
    return usable


def _another_way(known: tuple[str, ...], obstacles: Mapping[str, str | None], wanted: str | None) -> str | None:
    """What to type where another way than the wanted one would do."""
    way = next((way for way in known if way != wanted and obstacles[way] is None), None)
    return None if way is None else f"mlx.launch --env MLXK2_SHARDING={way} ..."


def _prepared(runner: MLXRunner, plan: RunPlan) -> PreparedPrompt:
    prompt = runner.prepare(plan.request)
    plan.memory.check(expected_tokens(prompt), runner.recommended_memory_bytes())
    return prompt


def _as_rank_0_reads_it(prompt: PreparedPrompt, together: Together) -> PreparedPrompt:
    """Return the prompt with the ids of rank 0: a template may write the date, and clocks differ."""
    ids, max_tokens = json.loads(together.by_rank_0(json.dumps([prompt.ids, prompt.max_tokens])))
    return replace(prompt, prompt=prompt.prompt._replace(ids=tuple(ids)), max_tokens=max_tokens)


def _fingerprint(files: ModelFiles) -> str:
    """A text that is another one where the config or the shape of any weight is."""
    shapes = {
        name: (tensor["dtype"], tensor["shape"])
        for header in loaded_headers(files).values()
        for name, tensor in header.tensors.items()
    }
    described = json.dumps([files.config, shapes], sort_keys=True, default=str)
    return sha256(described.encode("utf-8", "surrogatepass")).hexdigest()
