"""The command `rm`."""

from __future__ import annotations

import argparse

from mlxk2.cli.present import Context, ask, present
from mlxk2.operations.rm import execute_rm, plan_rm


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what to remove, and how sure the user is."""
    parser.add_argument("model", help="name, or name@revision for one revision")
    parser.add_argument(
        "-f", "--force", action="store_true", help="do not ask; accept a part of a name; ignore lock files"
    )
    parser.add_argument("--dry-run", action="store_true", help="tell what would be removed, and remove nothing")


def run(args: argparse.Namespace, context: Context) -> int:
    """Plan, ask if the name was only a part of the model's, and remove."""
    plan = plan_rm(args.model, context.settings)
    force = args.force
    if not (plan.exact or force or args.dry_run) and context.interactive:
        force = ask(context, f"Remove {plan.model} ({plan.summary})?")
    return present(context, execute_rm(plan, force=force, dry_run=args.dry_run))
