"""Put whole models into a cache, as blobs and links: a bare folder, or a tiny model that really runs."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

from support.cache_builder import Repo, as_json
from support.tiny_model import TinyOptions, scripted_model, tiny_model

COMMIT_A, COMMIT_B = "a1" * 20, "b2" * 20


def plant(hub: Path, name: str, *commits: str) -> Path:
    """Put a bare model into the cache: one snapshot a commit, the first one is refs/main. Returns the repository.

    Each snapshot links to a config.json of its own, so that what a test writes into one changes no other.
    """
    repo = Repo(hub, name)
    for number, commit in enumerate(commits or (COMMIT_A,)):
        config = as_json({"model_type": "llama", "commit": commit})
        repo.snapshot({"config.json": config}, commit, ref=None if number else "main")
    return repo.path


def plant_tiny(hub: Path, name: str, options: TinyOptions | None = None, answer: str | None = None) -> Path:
    """Put a sound, runnable model into the cache; with `answer` it says exactly that. Returns the snapshot's folder."""
    chosen = options or TinyOptions()
    with TemporaryDirectory() as made:
        folder = Path(made)
        if answer is not None:
            scripted_model(folder, answer, chosen)
        else:
            tiny_model(folder, chosen)
        files = {path.name: path.read_bytes() for path in folder.iterdir()}
    files["README.md"] = b"---\nlibrary_name: mlx\ntags:\n- mlx\n---\n# Tiny\n"
    return Repo(hub, name).snapshot(files, COMMIT_A)
