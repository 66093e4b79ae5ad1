"""Every environment variable that MLX Knife knows, read once at start into one frozen value."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

# name -> effect; the table in the documents is made from this.
ENVIRONMENT: dict[str, str] = {
    "HF_HOME": "cache root, models in `$HF_HOME/hub`; default `~/.cache/huggingface`; empty = unset",
    "HF_HUB_CACHE": "the hub folder itself; wins over `HF_HOME`",
    "XDG_CACHE_HOME": "used as `hf` uses it: the cache root is `$XDG_CACHE_HOME/huggingface` where `HF_HOME` is not set",
    "XDG_STATE_HOME": "where a chat keeps what was typed: `$XDG_STATE_HOME/mlxk2/chat_history`; default `~/.local/state`",
    "HF_TOKEN": "token for the Hub; `HUGGINGFACE_HUB_TOKEN` and `HUGGING_FACE_HUB_TOKEN` are read after it, then the token file",
    "HF_TOKEN_PATH": "the token file; default `$HF_HOME/token`, where `hf auth login` puts it",
    "HF_ENDPOINT": "the Hub's address; default `https://huggingface.co`",
    "HF_HUB_OFFLINE": "`1`: no socket is opened at all; `TRANSFORMERS_OFFLINE` is read as the hub client reads it",
    "HF_HUB_DOWNLOAD_TIMEOUT": "seconds without a byte after which a download's connection counts as stalled; default 10",
    "HF_HUB_ETAG_TIMEOUT": "seconds that the Hub may take to answer a question; default 10",
    "HF_HUB_DISABLE_XET": "`1`: `push` uploads by LFS even where hf-xet is installed",
    "HTTPS_PROXY": "proxy for https addresses; `HTTP_PROXY`, `ALL_PROXY` and `NO_PROXY` as usual, lower case too",
    "MLXK2_ENABLE_ALPHA_FEATURES": "anything but empty, `0`, `false`: the alpha commands `clone` and `push` exist",
    "MLXK2_STRICT_TEST_DELETE": "`1`: `rm` refuses unless the cache holds the test sentinel",
    "MLXK2_WORKSPACE_HOME": "folder whose children are workspaces, found by name",
    "MLXK2_API_KEY": "a key that `serve` demands of its clients, and that `ps` shows to a server",
    "MLXK2_NO_FAST_START": "`1`: import mlx-lm with everything it depends on; slower, same tokens",
    "MLXK2_DEBUG": "tracebacks of unexpected errors on stderr",
    "MLXK2_PEER_TIMEOUT": "seconds that one step of a run over several machines may take before the others count as lost; default 60",
    "MLXK2_SHARDING": "`tensor` or `pipeline`: how a run over several machines divides the model; default tensor where it can",
    "MLX_RANK": "which of several ranks this process is; set by `mlx.launch`, as are the variables below",
    "MLX_HOSTFILE": "JSON file with the addresses of all ranks: the ring backend",
    "MLX_JACCL_COORDINATOR": "address of rank 0, with `MLX_IBV_DEVICES`: the jaccl backend",
    "MLX_WORLD_SIZE": "number of ranks, with `NCCL_HOST_IP` and `NCCL_PORT`: the nccl backend",
    "NO_COLOR": "no colour, whatever the stream",
    "FORCE_COLOR": "colour, even where the stream is no terminal",
    "TERM": "`dumb`: no line editing in a chat",
    "COLUMNS": "width of tables in characters",
}


_TIMEOUT_S = 10.0
_LONGEST_TIMEOUT_S = 3600.0
_PEER_TIMEOUT_S = 60.0

# What MLX itself looks for, in its order.
_BACKENDS = (
    ("ring", ("MLX_HOSTFILE",)),
    ("jaccl", ("MLX_JACCL_COORDINATOR", "MLX_IBV_DEVICES")),
    ("nccl", ("MLX_WORLD_SIZE", "NCCL_HOST_IP", "NCCL_PORT")),
)
_TERMINALS_THAT_CANNOT_MOVE = ("", "dumb", "unknown")
_TOKENS = ("HF_TOKEN", "HUGGINGFACE_HUB_TOKEN", "HUGGING_FACE_HUB_TOKEN")


class HubSettings(NamedTuple):
    """How to reach the Hub. `token` is the one of the environment; `token_file` need not exist.

    Units: seconds. `proxies` maps "http", "https", "all" and "no" to what the environment says.
    """

    endpoint: str
    token: str | None
    token_file: Path
    offline: bool
    download_timeout_s: float
    answer_timeout_s: float
    use_xet: bool
    proxies: Mapping[str, str]

    @classmethod
    def from_env(cls, environ: Mapping[str, str], token_file: Path) -> HubSettings:
        """Read the hub client's own variables as it reads them."""
        tokens = (_token(environ.get(name)) for name in _TOKENS)
        return cls(
            endpoint=(environ.get("HF_ENDPOINT") or "https://huggingface.co").rstrip("/"),
            token=next((token for token in tokens if token), None),
            token_file=token_file,
            offline=_is_true(environ.get("HF_HUB_OFFLINE")) or _is_true(environ.get("TRANSFORMERS_OFFLINE")),
            download_timeout_s=_seconds(environ.get("HF_HUB_DOWNLOAD_TIMEOUT")),
            answer_timeout_s=_seconds(environ.get("HF_HUB_ETAG_TIMEOUT")),
            use_xet=not _is_true(environ.get("HF_HUB_DISABLE_XET")),
            proxies=_proxies(environ),
        )


class RankSettings(NamedTuple):
    """This process is one of several that run a model together, over `backend`.

    Units: seconds. `sharding` is "tensor", "pipeline", or None for what the model supports; `hostfile` has the
    addresses of all ranks, where the backend wants one.
    """

    rank: int
    backend: str
    hostfile: Path | None = None
    peer_timeout_s: float = _PEER_TIMEOUT_S
    sharding: str | None = None

    @classmethod
    def from_env(cls, environ: Mapping[str, str]) -> RankSettings | None:
        """Read what `mlx.launch` sets; None where this process is alone."""
        rank = environ.get("MLX_RANK", "")
        backend = next((name for name, needed in _BACKENDS if all(environ.get(key) for key in needed)), None)
        if backend is None or not (rank.isdecimal() and rank.isascii() and len(rank) < 6):
            return None
        sharding = (environ.get("MLXK2_SHARDING") or "").lower()
        return cls(
            rank=int(rank),
            backend=backend,
            hostfile=Path(environ["MLX_HOSTFILE"]) if backend == "ring" else None,
            peer_timeout_s=_seconds(environ.get("MLXK2_PEER_TIMEOUT"), _PEER_TIMEOUT_S),
            sharding=sharding if sharding in ("tensor", "pipeline") else None,
        )


class Settings(NamedTuple):
    """The environment, understood. Paths are expanded but need not exist."""

    hub_cache: Path
    home: Path
    hub: HubSettings
    workspace_home: Path | None = None
    strict_test_delete: bool = False
    fast_start: bool = True
    alpha: bool = False
    debug: bool = False
    no_color: bool = False
    force_color: bool = False
    columns: int | None = None
    ranks: RankSettings | None = None
    state_home: Path | None = None
    can_edit_lines: bool = False
    api_key: str | None = None

    @property
    def state_folder(self) -> Path:
        """Where things are kept that should outlive a process and are no model; need not exist."""
        return (self.state_home or self.home / ".local" / "state") / "mlxk2"

    @property
    def is_silent_rank(self) -> bool:
        """Whether another rank speaks for this one."""
        return self.ranks is not None and self.ranks.rank > 0

    @classmethod
    def from_env(cls, environ: Mapping[str, str]) -> Settings:
        """Read `environ`; an empty value counts as unset."""
        home = Path(environ.get("HOME") or os.path.expanduser("~"))

        def folder(name: str) -> Path | None:
            value = environ.get(name)
            return _expand(value, home) if value else None

        cache_home = folder("XDG_CACHE_HOME") or home / ".cache"
        hf_home = folder("HF_HOME") or cache_home / "huggingface"
        return cls(
            hub_cache=folder("HF_HUB_CACHE") or hf_home / "hub",
            home=home,
            hub=HubSettings.from_env(environ, folder("HF_TOKEN_PATH") or hf_home / "token"),
            workspace_home=folder("MLXK2_WORKSPACE_HOME"),
            strict_test_delete=environ.get("MLXK2_STRICT_TEST_DELETE") == "1",
            fast_start=not _is_on(environ.get("MLXK2_NO_FAST_START")),
            alpha=_is_on(environ.get("MLXK2_ENABLE_ALPHA_FEATURES")),
            debug=_is_on(environ.get("MLXK2_DEBUG")),
            no_color=bool(environ.get("NO_COLOR")),
            force_color=_is_on(environ.get("FORCE_COLOR")),
            columns=_positive(environ.get("COLUMNS")),
            ranks=RankSettings.from_env(environ),
            state_home=_absolute(environ.get("XDG_STATE_HOME")),
            can_edit_lines=environ.get("TERM", "dumb").lower() not in _TERMINALS_THAT_CANNOT_MOVE,
            api_key=environ.get("MLXK2_API_KEY") or None,
        )


def _is_on(value: str | None) -> bool:
    """Anything but unset, empty, "0" and "false" switches a feature on."""
    return bool(value) and value.lower() not in ("0", "false")  # type: ignore[union-attr]


def _is_true(value: str | None) -> bool:
    """The hub client's idea of a switch."""
    return value is not None and value.upper() in ("1", "ON", "YES", "TRUE")


def _absolute(value: str | None) -> Path | None:
    """A folder as the XDG specification has it: a relative one counts as unset."""
    return Path(value) if value and os.path.isabs(value) else None


def _token(value: str | None) -> str | None:
    """Clean a token of what copying brings along; the hub client does the same."""
    return (value or "").replace("\r", "").replace("\n", "").strip() or None


def _seconds(value: str | None, default: float = _TIMEOUT_S) -> float:
    try:
        seconds = float(value or "")
    except ValueError:
        return default
    return min(seconds, _LONGEST_TIMEOUT_S) if seconds > 0 else default


def _proxies(environ: Mapping[str, str]) -> dict[str, str]:
    found = {}
    for kind in ("http", "https", "all", "no"):
        value = environ.get(f"{kind}_proxy") or environ.get(f"{kind.upper()}_PROXY")
        if value:
            found[kind] = value
    return found


def _positive(value: str | None) -> int | None:
    usable = value is not None and value.isdecimal() and len(value) < 6 and int(value) > 0
    return int(value or 0) if usable else None


def _expand(value: str, home: Path) -> Path:
    if value == "~" or value.startswith("~/"):
        return home / value[2:]
    # An unknown user's home stays as it is written, as the hub client reads it.
    return Path(os.path.expanduser(value))
