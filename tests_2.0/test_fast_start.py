"""Fast start: without transformers mlx-lm reads the same prompt ids and gives the same tokens, and nothing of it stays."""

from __future__ import annotations

import json
import resource
import subprocess
import sys

import pytest
from support.tiny_model import CHATML, TinyOptions, tiny_model

pytestmark = pytest.mark.mlx_real

ASK = """
import json, sys
from pathlib import Path
from mlxk2.inspection.files import ModelFiles
from mlxk2.store.model_ref import WORKSPACE, ModelRef
from mlxk2.runner.request import GenerationRequest, Message, Sampling
from mlxk2.runner.runner import MLXRunner

folder, fast = Path(sys.argv[1]), sys.argv[2] == "fast"
files = ModelFiles.read(ModelRef("m", folder, None, WORKSPACE))
answers = []
with MLXRunner(files, fast_start=fast) as runner:
    for request in (
        GenerationRequest(messages=(Message("system", "Be <b>kind</b>."), Message("user", "hi 🦊  naïve\\n"))),
        GenerationRequest(prompt="Once upon a time, the"),
    ):
        for sampling in (Sampling(temperature=0), Sampling(seed=7, temperature=1.2, top_k=40, min_p=0.01)):
            request = GenerationRequest(request.messages, request.prompt, sampling, 12)
            prepared = runner.prepare(request)
            steps = runner.answer(prepared)
            try:
                while True:
                    next(steps)
            except StopIteration as end:
                answers.append([prepared.ids, sorted(prepared.stop_ids), end.value.text])
        loaded = sorted(name for name in ("transformers.models", "huggingface_hub.constants") if name in sys.modules)
left = [name for name in sys.modules if name == "mlx_lm" or name.startswith("mlx_lm.")] if fast else []
print(json.dumps({"answers": answers, "loaded": loaded, "left": left}))
"""

LLAMA_LIKE = (
    "{{ bos_token }}{% for m in messages %}{{ '<|' + m['role'] + '|>' }}\n{{ m['content'] | trim + eos_token }}\n"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>{% if enable_thinking %} think{% endif %}\n{% endif %}"
)


def ask(path, way):
    command = [sys.executable, "-W", "ignore", "-c", ASK, str(path), way]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize(
    "options",
    [
        TinyOptions(),
        TinyOptions(model_type="qwen3", chat_template=LLAMA_LIKE, add_bos=True),
        TinyOptions(model_type="llama", spm=True, chat_template=LLAMA_LIKE, eos_in_generation_config=[9, 10]),
    ],
    ids=["chatml", "bos", "spm"],
)
def test_both_ways_read_the_same_ids_and_say_the_same(tmp_path, options):
    path = tiny_model(tmp_path / "m", options)
    fast, slow = ask(path, "fast"), ask(path, "slow")
    assert fast["answers"] == slow["answers"]
    assert any(text for _, _, text in fast["answers"])
    assert fast["loaded"] == [] and "transformers.models" in slow["loaded"]
    assert fast["left"] == []


def test_without_a_template_the_normal_way_is_taken(tmp_path):
    path = tiny_model(tmp_path / "m", TinyOptions(chat_template=None))
    fast, slow = ask(path, "fast"), ask(path, "slow")
    assert fast["answers"] == slow["answers"]
    assert "transformers.models" in fast["loaded"]


def test_a_template_file_is_read_the_same_way(tmp_path):
    path = tiny_model(tmp_path / "m", TinyOptions(chat_template=None))
    (path / "chat_template.jinja").write_text(CHATML.replace("assistant", "helper"))
    assert ask(path, "fast")["answers"] == ask(path, "slow")["answers"]


AFTER = """
import sys
from mlxk2.runner import fast_start
stand_ins = fast_start.install()
assert stand_ins is not None and fast_start.install() is None
import mlx_lm.utils
assert "transformers.models" not in sys.modules
assert fast_start.withdraw() and not fast_start.withdraw()
import mlx_lm, transformers, huggingface_hub
assert callable(mlx_lm.load) and callable(transformers.AutoTokenizer.from_pretrained)
assert callable(huggingface_hub.snapshot_download)
"""


def test_the_real_packages_can_be_imported_afterwards():
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", AFTER], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr


LIMITS = """
import resource, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (int(sys.argv[1]), int(sys.argv[2])))
from mlxk2.runner import fast_start, mlx_backend
fast_start.install()
mlx_backend.import_mlx_lm()
print(resource.getrlimit(resource.RLIMIT_NOFILE))
"""


def test_the_limit_of_open_files_stays_as_it_was():
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard == resource.RLIM_INFINITY or hard > 5000:
        hard = 5000
    command = [sys.executable, "-c", LIMITS, str(hard - 1), str(hard)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout.strip() == str((hard - 1, hard)), done.stderr


def test_the_process_ends_cleanly_after_generating(tmp_path):
    path = tiny_model(tmp_path / "m")
    assert all(ask(path, "fast")["answers"] for _ in range(3))
