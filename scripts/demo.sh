#!/bin/sh
# Get a small real chat model once, convert it, and look at it with MLX Knife. `make demo` makes .venv first.
# With --quiet the model is made, and not looked at.
set -eu
cd "$(dirname "$0")/.."

mlxk2=.venv/bin/mlxk2
model=SmolLM2-135M-Instruct

# Print a command line as one would paste it, then run it.
show() {
    printf '\n$ %s\n' "$*"
    "$@"
}

if [ ! -d ".demo/$model" ]; then
    echo "Fetching $model (92 MB, Apache-2.0), the first time only ..."
    gguf=$(.venv/bin/python scripts/fetch_smollm2.py)
    # Seen from here, so that the command can be pasted.
    gguf=.cache/smollm2/$(basename "$gguf")
    show $mlxk2 convert "$gguf" ".demo/$model"
fi

if [ "${1:-}" = --quiet ]; then exit 0; fi

printf '\n$ export MLXK2_WORKSPACE_HOME=.demo\n'
export MLXK2_WORKSPACE_HOME=.demo
show $mlxk2 list
show $mlxk2 show $model
show $mlxk2 health $model
printf '\n$ %s run %s "What is the capital of France?" --temperature 0 --max-tokens 32\n' "$mlxk2" "$model"
$mlxk2 run $model "What is the capital of France?" --temperature 0 --max-tokens 32
