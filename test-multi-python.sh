#!/bin/sh
# Run the suite, ruff and mypy under every Python 3.9 to 3.13 that is found, each in a fresh virtual environment.
#
#   ./test-multi-python.sh [--quick] [3.N ...]
#
# --quick: the stand-ins instead of the real MLX, and no tests marked slow. Versions: only these, and each must be there.
# Logs: test_results_3_N.log. The exit code is 0 only if everything passed under every Python.
set -u
cd "$(dirname "$0")" || exit 1

quick=no
asked=""
for word in "$@"; do
    case "$word" in
    --quick) quick=yes ;;
    3.9 | 3.10 | 3.11 | 3.12 | 3.13) asked="$asked $word" ;;
    -h | --help)
        sed -n '2,8s/^# \{0,1\}//p' "$0"
        exit 0
        ;;
    *)
        echo "error: '$word' is neither --quick nor one of 3.9 3.10 3.11 3.12 3.13" >&2
        exit 2
        ;;
    esac
done

found=$(sh scripts/find_python.sh --all)
if [ -z "$found" ]; then
    echo "error: no Python 3.9 to 3.13 found" >&2
    exit 1
fi

openblas=""
for path in /usr/lib/*/openblas-pthread/libopenblas.so.0 /usr/lib/*/libopenblas.so.0 /usr/lib64/libopenblas.so.0; do
    if [ -e "$path" ]; then
        openblas=$path
        break
    fi
done

now() { date +%s; }

# step LOG TITLE COMMAND...: run, log, and print "ok" or "FAILED".
step() {
    log=$1
    title=$2
    shift 2
    printf '\n===== %s: %s\n' "$title" "$*" >>"$log"
    if "$@" >>"$log" 2>&1; then echo ok; else echo FAILED; fi
}

# As in the Makefile.
workers="-n auto --maxprocesses 4 --dist loadfile"

# The words of $workers are meant to be split.
# shellcheck disable=SC2086
run_tests() { # $1 = venv
    if [ "$quick" = yes ]; then
        MLXK2_TEST_STUBS=1 "$1/bin/python" -m pytest $workers -m "not slow and not smollm2"
    elif [ -n "$openblas" ]; then
        LD_PRELOAD=$openblas OPENBLAS_NUM_THREADS=1 "$1/bin/python" -m pytest $workers
    else
        "$1/bin/python" -m pytest $workers
    fi
}

# The last line of pytest's output that counts tests, without its decoration.
counts_of() { # $1 = log
    sed -n 's/^=* *\([0-9][0-9]* [a-z].*\) in [0-9].*$/\1/p' "$1" | tail -n 1
}

summary=""
failed=no
for version in 3.9 3.10 3.11 3.12 3.13; do
    case " $asked " in
    "  ") ;;
    *" $version "*) ;;
    *) continue ;;
    esac
    python=$(printf '%s\n' "$found" | sed -n "s/^$version //p")
    if [ -z "$python" ]; then
        if [ -n "$asked" ]; then
            failed=yes
            summary="$summary$version|not found|||||
"
        fi
        continue
    fi
    tag=3_${version#3.}
    venv=.venv-$tag
    log=test_results_$tag.log
    start=$(now)
    echo "Python $version ($python): log in $log"
    : >"$log"
    rm -rf "$venv"
    install=$(step "$log" "venv" "$python" -m venv "$venv")
    if [ "$install" = ok ]; then
        install=$(step "$log" "install" "$venv/bin/python" -m pip install --quiet --disable-pip-version-check -e '.[dev]')
    fi
    tests=- lint=- types=- counts=
    if [ "$install" = ok ]; then
        tests=$(step "$log" "tests" run_tests "$venv")
        counts=$(counts_of "$log")
        lint=$(step "$log" "ruff" "$venv/bin/ruff" check .)
        types=$(step "$log" "mypy" "$venv/bin/mypy" mlxk2)
    fi
    case "$install$tests$lint$types" in okokokok) ;; *) failed=yes ;; esac
    summary="$summary$version|$install|$tests|$lint|$types|$(($(now) - start)) s|$counts
"
done

echo
printf '%-7s %-10s %-7s %-7s %-7s %-7s %s\n' Python install tests ruff mypy time counts
printf '%s' "$summary" | while IFS='|' read -r version install tests lint types seconds counts; do
    printf '%-7s %-10s %-7s %-7s %-7s %-7s %s\n' "$version" "$install" "$tests" "$lint" "$types" "$seconds" "$counts"
done
if [ "$failed" = yes ]; then
    echo "FAILED: see the logs"
    exit 1
fi
echo "all passed"
