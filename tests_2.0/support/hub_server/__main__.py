"""The server for hand trials: `python -m support.hub_server --store DIR --seed org/name=FOLDER --token hf_x:user:write`."""

from __future__ import annotations

import argparse
import shlex
import signal
import sys
import threading
from pathlib import Path
from typing import Any

from . import Fault, HubServer


def main() -> int:
    """Serve until a signal; the first line on stdout is the endpoint."""
    options = _parser().parse_args()
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    hub = HubServer(options.store, host=options.host, port=options.port, verbose=options.verbose)
    for name, folder in options.seed:
        seed(hub, name, folder)
    for token in options.token:
        hub.add_token(**token)
    for fault in options.fault:
        hub.add_fault(fault)
    hub.limit_rate(options.rate)
    try:
        hub.start()
    except OSError as error:
        print(f"cannot listen on {options.host}:{options.port}: {error.strerror}", file=sys.stderr)
        return 1
    print(hub.endpoint, flush=True)
    stop.wait()
    hub.stop()
    return 0


def seed(hub: HubServer, name: str, folder: Path) -> None:
    """Make a repository mirror a folder: every file that is not in a hidden folder. Nothing new, no commit."""
    found = sorted(path for path in folder.rglob("*") if path.is_file())
    files = {path.relative_to(folder).as_posix(): path for path in found}
    files = {path: source for path, source in files.items() if not any(p.startswith(".") for p in path.split("/")[:-1])}
    repo = hub.find(name) or hub.create_repo(name)
    if {path: hub.objects.add(path, source) for path, source in files.items()} != repo.files("main"):
        repo.commit(files, replace=True, message=f"seeded from {folder.name}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m support.hub_server", description=main.__doc__)
    parser.add_argument("--store", type=Path, required=True, help="folder of the repositories; made if missing")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="0: any free one")
    parser.add_argument("--seed", type=_seed, action="append", default=[], metavar="NAME=FOLDER")
    parser.add_argument("--token", type=_token, action="append", default=[], metavar="TOKEN:USER[:write[:ORG,ORG]]")
    parser.add_argument("--fault", type=_fault, action="append", default=[], metavar='"KIND FIELD=VALUE ..."')
    parser.add_argument("--rate", type=int, metavar="BYTES", help="bytes a second for each connection of the storage")
    parser.add_argument("--verbose", action="store_true", help="a line to stderr for each request")
    return parser


def _seed(text: str) -> tuple[str, Path]:
    name, _, folder = text.partition("=")
    if not Path(folder).is_dir():
        raise argparse.ArgumentTypeError(f"{folder!r} is no folder")
    return name, Path(folder)


def _token(text: str) -> dict[str, Any]:
    token, user, right, orgs = [*text.split(":"), "", "", ""][:4]
    if not user or right not in ("", "read", "write"):
        raise argparse.ArgumentTypeError(f"{text!r} is no TOKEN:USER[:write[:ORG,ORG]]")
    return {"token": token, "user": user, "write": right == "write", "orgs": tuple(orgs.split(",")) if orgs else ()}


def _fault(text: str) -> Fault:
    kind, *fields = shlex.split(text)
    values = dict(field.split("=", 1) for field in fields)
    numbers = ("times", "skip", "after", "status", "retry_after", "rate", "by")
    return Fault(kind, **{name: int(value) if name in numbers else value for name, value in values.items()})


if __name__ == "__main__":
    sys.exit(main())
