"""Is a model folder sound? Checks in the contract's order, each a finding; the first one is the reason.

The words of the messages are a promise to scripts. Reads headers and lengths of weights, never their data.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

from mlxk2.inspection import files as model_files
from mlxk2.inspection.capabilities import is_generative
from mlxk2.inspection.files import DANGLING, NOT_A_FILE, UNREADABLE, FileEntry, ModelFiles, read_small
from mlxk2.inspection.gguf_types import MAGIC
from mlxk2.inspection.safetensors import CorruptHeader, SafetensorsHeader, TruncatedFile
from mlxk2.inspection.weights import PYTORCH_INDEX, SAFETENSORS_INDEX, Shard, find_shards, is_weight, weight_entries
from mlxk2.store.hf_cache import NO_PATH
from mlxk2.text import one_line

COMPLETE = "Multi-file model complete"
HEALTHY = "Model is healthy"

_LFS_START = b"version https://git-lfs"
_LFS_SIZES = range(100, 1025)
_LFS_SIZES_OF_TEXT = range(100, 301)
_PARTIAL = (".partial", ".incomplete", ".tmp")
_MOST_NAMES = 50
_TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model", "sentencepiece.bpe.model", "tekken.json",
    "vocab.bpe", "tokenizer.model.v3",
)  # fmt: skip
_OUT_OF_REACH = (
    (DANGLING, "dangling_link", "Dangling links: "),
    (UNREADABLE, "unreadable_file", "Unreadable files: "),
    (NOT_A_FILE, "not_a_file", "Not regular files: "),
)


class Finding(NamedTuple):
    """One thing that is wrong. `path` is the file, relative to the model's folder; the first one where it is several."""

    code: str
    message: str
    path: str | None


def check_integrity(files: ModelFiles) -> tuple[Finding, ...]:
    """Find everything that is wrong with a model, in the contract's order; empty for a sound one."""
    folder = _folder_problem(files)
    if folder is not None:
        return (folder,)
    return tuple(finding for check in _CHECKS for finding in check(files))


def sound_reason(files: ModelFiles) -> str:
    """Say in the contract's words that a model is sound."""
    return COMPLETE if _index_name(files) else HEALTHY


def _folder_problem(files: ModelFiles) -> Finding | None:
    if files.ref.problem is not None:
        return Finding("folder_missing", files.ref.problem, None)
    if files.problem == DANGLING:
        return Finding("folder_missing", NO_PATH, None)
    if files.problem == UNREADABLE:
        return Finding("unreadable_folder", "Model folder cannot be read", None)
    return None


def _check_config(files: ModelFiles) -> Iterator[Finding]:
    problem = files.config_problem
    if problem is None or (problem == model_files.CONFIG_MISSING and _is_only_gguf(files)):
        return
    code = "config_missing" if problem == model_files.CONFIG_MISSING else "config_invalid_json"
    yield Finding(code, problem, "config.json")


def _is_only_gguf(files: ModelFiles) -> bool:
    """A GGUF file carries its own config; a folder of nothing else needs no config.json."""
    weights = weight_entries(files)
    return bool(weights) and all(entry.name.lower().endswith(".gguf") for entry in weights)


def _index_name(files: ModelFiles) -> str | None:
    """Choose the index that counts; PyTorch's is left over where only the safetensors were fetched."""
    if SAFETENSORS_INDEX in files.by_name:
        return SAFETENSORS_INDEX
    if PYTORCH_INDEX in files.by_name and not any(_is_top_safetensors(e) for e in files.entries):
        return PYTORCH_INDEX
    return None


def _is_top_safetensors(entry: FileEntry) -> bool:
    return entry.name.endswith(".safetensors") and "/" not in entry.name and is_weight(entry.name)


def _check_index(files: ModelFiles) -> Iterator[Finding]:
    name = _index_name(files)
    if name is None or files.by_name[name].problem == DANGLING:
        return
    index = files.json(name)
    if not isinstance(index, dict):
        yield Finding("index_parse_error", "Invalid index file", name)
        return
    shards = _shard_names(index.get("weight_map"))
    if not shards:
        yield Finding("index_parse_error", "Empty or invalid weight_map in index", name)
        return
    leaving = [shard for shard in shards if _leaves(shard)]
    if leaving:
        # Never opened, and so missing, wherever it leads.
        yield Finding("index_unsafe_shard", f"Missing weight shards: {listed(leaving)}", name)
    yield from _check_listed_shards(files, [shard for shard in shards if not _leaves(shard)])


def _shard_names(weight_map: Any) -> list[str]:
    if not isinstance(weight_map, dict):
        return []
    names = weight_map.values()
    if not all(isinstance(name, str) and name for name in names):
        return []
    return sorted(set(names))


def _leaves(name: str) -> bool:
    parts = name.replace("\\", "/").split("/")
    return name.startswith(("/", "~")) or "\\" in name or "\0" in name or ".." in parts or "." in parts or "" in parts


def _check_listed_shards(files: ModelFiles, names: list[str]) -> Iterator[Finding]:
    entries = {name: files.by_name.get(one_line(name)) for name in names}
    missing = [name for name, entry in entries.items() if entry is None or entry.size_bytes is None]
    present = [entry for entry in entries.values() if entry is not None and entry.size_bytes is not None]
    yield from _finding("index_missing_shard", "Missing weight shards: ", missing)
    yield from _finding("empty_weight_file", "Empty weight shards: ", [e.name for e in present if not e.size_bytes])
    yield from _finding("lfs_pointer_detected", "LFS pointers instead of files: ", _pointers(present))


def _check_pattern(files: ModelFiles) -> Iterator[Finding]:
    if _index_name(files) is not None:
        return
    groups: dict[str, list[Shard]] = {}
    for shard in find_shards(files):
        groups.setdefault(shard.group, []).append(shard)
    for group, shards in groups.items():
        yield from _check_group(group, shards)


def _check_group(group: str, shards: list[Shard]) -> Iterator[Finding]:
    first = shards[0].entry.name
    total = shards[0].total
    if any(shard.total != total or not 1 <= shard.number <= total for shard in shards):
        yield Finding("index_missing_shard", "Inconsistent shard totals detected", first)
        return
    present = {shard.number for shard in shards if shard.entry.size_bytes is not None}
    if len(present) < total:
        yield Finding("index_missing_shard", f"Missing shards by pattern: {len(present)}/{total} present", first)
    empty = [shard.entry.name for shard in shards if shard.entry.size_bytes == 0]
    yield from _finding("empty_weight_file", "Empty shards: ", empty)
    if len(present) == total and not empty and group.endswith(".safetensors") and total > 1:
        yield Finding("index_missing", "Safetensors index missing for sharded model", SAFETENSORS_INDEX)


def _check_weights(files: ModelFiles) -> Iterator[Finding]:
    weights = weight_entries(files)
    if not any(entry.problem is None for entry in weights):
        yield Finding("no_weights_found", "No model weights found", None)
    yield from _finding("empty_weight_file", "Empty weight files: ", [e.name for e in weights if e.size_bytes == 0])


def _check_partial(files: ModelFiles) -> Iterator[Finding]:
    for entry in files.entries:
        if entry.name.endswith(_PARTIAL):
            yield Finding("partial_marker", "Partial download marker detected", entry.name)


def _check_pointers(files: ModelFiles) -> Iterator[Finding]:
    yield from _finding("lfs_pointer_detected", "LFS pointers instead of files: ", _pointers(files.entries))


def _pointers(entries: Iterable[FileEntry]) -> list[str]:
    return [entry.name for entry in entries if _is_pointer(entry)]


def _is_pointer(entry: FileEntry) -> bool:
    size = entry.size_bytes
    if size not in _LFS_SIZES or (size not in _LFS_SIZES_OF_TEXT and not is_weight(entry.name)):
        return False
    return (read_small(entry, _LFS_SIZES.stop) or b"").startswith(_LFS_START)


def _check_headers(files: ModelFiles) -> Iterator[Finding]:
    truncated, corrupt, unreadable = [], [], []
    for name, header in files.headers.items():
        if isinstance(header, SafetensorsHeader) or _is_pointer(files.by_name[name]):
            continue
        if isinstance(header, TruncatedFile):
            truncated.append(f"{name} ({header})")
        elif isinstance(header, CorruptHeader):
            corrupt.append(name)
        else:
            unreadable.append(name)
    yield from _finding("truncated_weight_file", "Truncated weight files: ", truncated)
    yield from _finding("corrupt_weight_file", "Corrupt weight files: ", corrupt + _not_gguf(files))
    yield from _finding("unreadable_file", "Unreadable files: ", unreadable)


def _not_gguf(files: ModelFiles) -> list[str]:
    found = []
    for entry in files.entries:
        if entry.size_bytes and entry.name.lower().endswith(".gguf") and not _is_pointer(entry):
            start = model_files.read_start(entry, len(MAGIC))
            if start is not None and start != MAGIC:
                found.append(entry.name)
    return found


def _check_tokenizer(files: ModelFiles) -> Iterator[Finding]:
    if not is_generative(files) or _is_only_gguf(files):
        return
    if not any(files.has(name) for name in _TOKENIZER_FILES) and not _has_tiktoken(files):
        yield Finding("tokenizer_missing", "Tokenizer files missing", "tokenizer.json")


def _has_tiktoken(files: ModelFiles) -> bool:
    return any(entry.name.endswith(".tiktoken") and entry.size_bytes for entry in files.entries)


def _check_out_of_reach(files: ModelFiles) -> Iterator[Finding]:
    """Name every link that points to nothing, what cannot be read, and FIFOs and devices, which a reader waits for."""
    for problem, code, words in _OUT_OF_REACH:
        names = [entry.name for entry in files.entries if entry.problem == problem]
        for name in names:
            yield Finding(code, f"{words}{listed(names)}", name)


def _finding(code: str, words: str, names: list[str]) -> Iterator[Finding]:
    if names:
        first = names[0].split(" (", 1)[0] if code == "truncated_weight_file" else names[0]
        yield Finding(code, words + listed(names), one_line(first))


def listed(names: list[str]) -> str:
    """Join names for a message; of many only the first are named."""
    shown = [one_line(name) for name in names[:_MOST_NAMES]]
    more = len(names) - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more else "")


_CHECKS: tuple[Callable[[ModelFiles], Iterator[Finding]], ...] = (
    _check_config,
    _check_index,
    _check_pattern,
    _check_weights,
    _check_partial,
    _check_pointers,
    _check_headers,
    _check_tokenizer,
    _check_out_of_reach,
)
