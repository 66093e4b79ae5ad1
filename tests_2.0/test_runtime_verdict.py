"""The runtime verdict, made from mlx-lm's source files, agrees with what mlx-lm itself does; and its words."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from support import cache_builder as build
from support.call import call
from support.isolation import IsolatedCache

from mlxk2.inspection.runtime import find_mlx_lm, supports


@pytest.mark.mlx_real
@pytest.mark.slow
def test_agrees_with_mlx_lm_on_every_model_module() -> None:
    from mlx_lm import utils

    package = find_mlx_lm()
    assert package is not None
    modules = {path.stem for path in (Path(package) / "models").glob("*.py")}
    names = modules | set(utils.MODEL_REMAPPING) | {"no_such_model", "", "os", "../utils"}
    wrong = []
    for name in sorted(names - {""}):
        try:
            utils._get_classes({"model_type": name})
            loads = True
        except (ValueError, AttributeError, ImportError, SystemExit):
            loads = False
        except RuntimeError as error:
            assert "No Metal" in str(error)  # older releases build a Metal kernel on import; elsewhere nothing is told
            continue
        if supports(package, name) != loads:
            wrong.append((name, loads))
    assert len(names) > 50
    assert wrong == []


NAME = "mlx-community/model"
VERDICTS = [
    (build.chat_model(), None),
    (build.chat_model(model_type="mistral"), None),
    (build.chat_model(auto_map={"AutoModel": "modeling.X"}), None),
    (build.chat_model(model_type="no_such"), "model_type 'no_such' not supported by mlx-lm"),
    (build.chat_model(model_type="../utils"), "model_type '../utils' not supported by mlx-lm"),
    (build.chat_model(model_type=None), "config.json missing model_type field"),
    (build.chat_model(model_file="own.py"), "Needs code of its own, which is never executed (model_file)"),
]


@pytest.mark.parametrize(("files", "reason"), VERDICTS)
def test_verdict_and_its_words(files: dict[str, bytes], reason: str | None, isolated_cache: IsolatedCache) -> None:
    build.Repo(isolated_cache.hub, NAME).snapshot(files)
    (model,) = call("list", "--json", env=isolated_cache.env).data["models"]
    assert (model["health"], model["reason"]) == ("healthy", reason)
    assert model["runtime_compatible"] is (reason is None)


def test_other_frameworks_and_old_names(isolated_cache: IsolatedCache) -> None:
    old = build.chat_model()
    old["weights.00.safetensors"] = old.pop("model.safetensors")
    build.Repo(isolated_cache.hub, "org/gguf").snapshot(build.gguf_model())
    build.Repo(isolated_cache.hub, "org/old").snapshot(old)
    build.Repo(isolated_cache.hub, "org/pytorch").snapshot(build.pytorch_model())
    reasons = [m["reason"] for m in call("list", "--json", env=isolated_cache.env).data["models"]]
    assert reasons == ["Incompatible: GGUF", "Legacy format not supported by mlx-lm", "Incompatible: PyTorch"]


def test_without_mlx_lm_the_verdict_says_so(isolated_cache: IsolatedCache, monkeypatch: pytest.MonkeyPatch) -> None:
    build.Repo(isolated_cache.hub, NAME).snapshot(build.chat_model())
    own = [folder for folder in sys.path if not (Path(folder) / "mlx_lm").is_dir()]
    monkeypatch.setattr(sys, "path", own)
    (model,) = call("list", "--json", env=isolated_cache.env).data["models"]
    assert model["reason"] == "mlx-lm is not installed"


def test_a_tokenizer_that_is_only_code_is_refused(isolated_cache: IsolatedCache) -> None:
    files = build.chat_model()
    del files["tokenizer.json"]
    files["tokenizer_config.json"] = b'{"auto_map": {"AutoTokenizer": ["tokenization_x.X", null]}}'
    build.Repo(isolated_cache.hub, NAME).snapshot({**files, "x.tiktoken": b"x"})
    (model,) = call("list", "--json", env=isolated_cache.env).data["models"]
    assert model["reason"] == "Needs code of its own, which is never executed (auto_map)"
