#!/bin/sh
# A Hub on this machine, with a small real model in it, to pull from and push to. `make hub` makes .venv first.
set -eu
cd "$(dirname "$0")/.."

model=SmolLM2-135M-Instruct
port=${PORT:-8090}
endpoint=http://127.0.0.1:$port

sh scripts/demo.sh --quiet

cat <<EOT

A Hub of your own, until Ctrl-C. In another terminal, to get a model from it:

  export HF_ENDPOINT=$endpoint HF_HOME=/tmp/elsewhere
  .venv/bin/mlxk2 pull mlx-community/$model-4bit
  .venv/bin/mlxk2 health $model-4bit

and to send one to it:

  export HF_TOKEN=hf_demo MLXK2_ENABLE_ALPHA_FEATURES=1
  .venv/bin/mlxk2 clone mlx-community/$model-4bit /tmp/my-model
  .venv/bin/mlxk2 push /tmp/my-model demo/my-model --private --create --commit "first version"

Every request is shown below.

EOT
PYTHONPATH=tests_2.0 exec .venv/bin/python -m support.hub_server --store .cache/hub --port "$port" --verbose \
    --seed "mlx-community/$model-4bit=.demo/$model" --token hf_demo:demo:write
