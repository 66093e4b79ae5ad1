#!/bin/sh
# Print the path of a Python 3.9 to 3.13 that can make a virtual environment.
# PYTHON=… overrides. `--all` prints every one found, one "3.N path" a line, oldest first (for test-multi-python.sh).
set -u

version_of() {
    "$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null
}

# Debian splits venv off: without ensurepip the environment would have no pip.
can_make_venv() {
    "$1" -c 'import venv, ensurepip' >/dev/null 2>&1
}

candidates() { # $1 = 3.N; one path a line, best guess first
    command -v "python$1" 2>/dev/null
    for root in "${PYENV_ROOT:-}" "${HOME:-}/.pyenv" /opt/pyenv /usr/local/pyenv; do
        [ -n "$root" ] && ls -d "$root/versions/$1".*/bin/python 2>/dev/null | sort -t. -k4 -rn
    done
    ls -d "/opt/homebrew/bin/python$1" "/usr/local/bin/python$1" "/usr/bin/python$1" \
        "/opt/homebrew/opt/python@$1/bin/python$1" "/usr/local/opt/python@$1/bin/python$1" \
        "/Library/Frameworks/Python.framework/Versions/$1/bin/python$1" 2>/dev/null
    ls -d "${HOME:-}/.local/share/uv/python/cpython-$1".*/bin/python3 2>/dev/null
    for name in python3 python; do
        command -v "$name" 2>/dev/null
    done
}

first_working() { # $1 = 3.N
    candidates "$1" | while IFS= read -r path; do
        if [ "$(version_of "$path")" = "$1" ] && can_make_venv "$path"; then
            # The interpreter itself, where the path is a launcher such as pyenv's.
            "$path" -c 'import sys; print(sys.executable)'
            break
        fi
    done
}

if [ "${1:-}" = "--all" ]; then
    for version in 3.9 3.10 3.11 3.12 3.13; do
        path=$(first_working "$version")
        [ -n "$path" ] && echo "$version $path"
    done
    exit 0
fi

if [ -n "${PYTHON:-}" ]; then
    version=$(version_of "$PYTHON")
    case "$version" in
    3.9 | 3.10 | 3.11 | 3.12 | 3.13) ;;
    "")
        echo "error: PYTHON=$PYTHON does not start" >&2
        exit 1
        ;;
    *)
        echo "error: PYTHON=$PYTHON is Python $version; MLX Knife needs 3.9 to 3.13" >&2
        exit 1
        ;;
    esac
    if ! can_make_venv "$PYTHON"; then
        echo "error: PYTHON=$PYTHON cannot make a virtual environment (modules venv and ensurepip are missing)" >&2
        echo "hint: on Debian and Ubuntu: apt install python$version-venv" >&2
        exit 1
    fi
    "$PYTHON" -c 'import sys; print(sys.executable)'
    exit 0
fi

for version in 3.12 3.11 3.13 3.10 3.9; do
    path=$(first_working "$version")
    if [ -n "$path" ]; then
        echo "$path"
        exit 0
    fi
done

echo "error: no Python 3.9 to 3.13 found that can make a virtual environment" >&2
case "$(uname -s)" in
Darwin) echo "hint: brew install python@3.12, then run make again" >&2 ;;
*) echo "hint: install one, e.g. apt install python3 python3-venv (Debian, Ubuntu) or pyenv install 3.12; then run make again" >&2 ;;
esac
echo "hint: or name one: PYTHON=/path/to/python3.12 make demo" >&2
exit 1
