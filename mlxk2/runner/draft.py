"""Whether a draft model speaks the vocabulary of the model that it guesses for. Knows tokenizers, no weights."""

from __future__ import annotations

from pathlib import Path

from mlxk2 import errors
from mlxk2.inspection.files import ModelFiles
from mlxk2.store.model_ref import WORKSPACE, ModelRef

from .tokenizer import FileTokenizer
from .vocabulary import vocabulary_size


def check_draft(model_dir: Path, draft_dir: Path) -> int:
    """Return how many tokens the draft model knows.

    Raises: IncompatibleModel where the two do not write the same text with the same ids.
    """
    files = ModelFiles.read(ModelRef(draft_dir.name, draft_dir, None, WORKSPACE))
    own, other = model_dir / "tokenizer.json", draft_dir / "tokenizer.json"
    if not own.is_file() or not other.is_file():
        raise errors.IncompatibleModel("a draft model needs a tokenizer.json, as the model itself does")
    if (
        own.read_bytes() != other.read_bytes()
        and FileTokenizer.load(own).vocabulary() != FileTokenizer.load(other).vocabulary()
    ):
        raise errors.IncompatibleModel(
            "the draft model has another vocabulary than the model: one of the same family has the same"
        )
    return vocabulary_size(files.config or {}) or FileTokenizer.load(other).size
