"""Put whole models into an isolated cache: a tiny real one, or a bare folder."""

from __future__ import annotations

from pathlib import Path

from mlxk2.store.layout import repo_folder
from support.tiny_model import TinyOptions, scripted_model, tiny_model

COMMIT_A, COMMIT_B = "a1" * 20, "b2" * 20


def plant(hub: Path, name: str, *commits: str) -> Path:
    """Put a bare model into the cache: one snapshot a commit, the first one is refs/main. Returns the repository."""
    chosen = commits or (COMMIT_A,)
    repo = hub / repo_folder(name)
    for commit in chosen:
        snapshot = repo / "snapshots" / commit
        snapshot.mkdir(parents=True)
        (snapshot / "config.json").write_text('{"model_type": "llama"}', encoding="utf-8")
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text(chosen[0], encoding="ascii")
    return repo


def plant_tiny(hub: Path, name: str, options: TinyOptions | None = None, answer: str | None = None) -> Path:
    """Put a sound, runnable model into the cache; with `answer` it says exactly that. Returns the snapshot's folder."""
    repo = plant(hub, name)
    snapshot = repo / "snapshots" / COMMIT_A
    (snapshot / "config.json").unlink()
    if answer is not None:
        scripted_model(snapshot, answer, options or TinyOptions())
    else:
        tiny_model(snapshot, options or TinyOptions())
    (snapshot / "README.md").write_text("---\nlibrary_name: mlx\ntags:\n- mlx\n---\n# Tiny\n", encoding="utf-8")
    return snapshot
