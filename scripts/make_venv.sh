#!/bin/sh
# make_venv.sh VENV KIND: make VENV if it is not there, and install MLX Knife into it with what KIND (demo, test, dev) needs.
# A stamp VENV/.installed-KIND says that it is done; a larger kind includes the smaller ones.
set -eu

venv=$1
kind=$2
case "$kind" in
demo) what=".[all]" done_kinds="demo" ;;
test) what=".[all,test]" done_kinds="demo test" ;;
dev) what=".[all,dev]" done_kinds="demo test dev" ;;
*)
    echo "error: make_venv.sh knows demo, test and dev, not $kind" >&2
    exit 2
    ;;
esac

if ! "$venv/bin/python" -m pip --version >/dev/null 2>&1; then
    python=$(sh scripts/find_python.sh)
    echo "Making $venv with $("$python" --version 2>&1) ($python)"
    rm -rf "$venv"
    "$python" -m venv "$venv"
fi

log=$venv/install.log
echo "Installing MLX Knife and what '$kind' needs into $venv (the first time takes a minute or two) ..."
if ! "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-input --retries 2 --timeout 20 \
    -e "$what" >"$log" 2>&1; then
    grep '^ *ERROR' "$log" | head -n 5 >&2 || tail -n 5 "$log" >&2
    missing=$(sed -n "s/.*No matching distribution found for \([A-Za-z0-9._-]*\).*/\1/p" "$log" | head -n 1)
    if grep -q -i -E 'NewConnectionError|ConnectTimeout|name resolution|Name or service not known|nodename nor servname|ProxyError|Network is unreachable|Connection refused|ReadTimeout|Max retries' "$log"; then
        echo "error: no network: could not fetch ${missing:-a package} for MLX Knife (everything pip said: $log)" >&2
        echo "hint: connect to the network, or set pip up for your mirror or proxy, then run make again" >&2
    else
        echo "error: could not install ${missing:-MLX Knife} (everything pip said: $log)" >&2
    fi
    exit 1
fi
rm -f "$log"
for name in $done_kinds; do
    touch "$venv/.installed-$name"
done
