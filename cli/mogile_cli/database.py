"""`mog db`: take a MogileFS database over, bring one up to date, give it back. What is to be done is always shown before it is done."""

from __future__ import annotations

import os
from typing import Annotated, Any

import typer
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from mogile_cli import dbadmin, output
from mogile_cli.classic import dbsetup
from mogile_cli.errors import UsageError

app = typer.Typer(no_args_is_help=True, help="The database: take over, bring up to date, give back.")
ORIGINS = {
    "new": "an empty database",
    "mogilefs": "a database of MogileFS, not taken over yet",
    "ours": "a database this store uses already",
}
Dsn = Annotated[str, typer.Option(help="postgresql://user@host:5432/database; else MOGILE_DB_DSN.")]
PasswordFile = Annotated[
    str, typer.Option(help="File with the password; else MOGILE_DB_PASSWORD or the one in the DSN.")
]
Pooled = Annotated[bool, typer.Option("--pooled", help="The DSN leads through a pooler in transaction mode.")]
Yes = Annotated[bool, typer.Option("--yes", help="Do it; without, only the plan is shown.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only show the plan (what happens without --yes too).")]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON document.")]


@app.command("upgrade")
def upgrade(
    dsn: Dsn = "", password_file: PasswordFile = "", pooled: Pooled = False, yes: Yes = False, dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:  # fmt: skip
    """Make a database ready for this release; one of MogileFS 2.73 (schema 17, PostgreSQL) is taken over in place."""
    _work("upgrade", "plan", _settings(dsn, password_file, pooled), yes=yes and not dry_run, as_json=as_json)


@app.command("handback")
def handback(
    dsn: Dsn = "", password_file: PasswordFile = "", pooled: Pooled = False, yes: Yes = False, dry_run: DryRun = False,
    drop_tables: Annotated[bool, typer.Option("--drop-tables", help="Drop the tables mogile_* too.")] = False,
    as_json: AsJson = False,
) -> None:  # fmt: skip
    """Give a database back to MogileFS 2.73, once all trackers of ours are stopped."""
    settings = {**_settings(dsn, password_file, pooled), "drop_tables": "1" if drop_tables else ""}
    _work("handback", "plan-handback", settings, yes=yes and not dry_run, as_json=as_json)


@app.command(
    "setup",
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []},
    add_help_option=False,
)
def setup(context: typer.Context) -> None:
    """Create user, database and tables: mogdbsetup with its flags (--dbhost --dbname --dbuser --dbpassword --dbrootuser ... --yes)."""
    raise typer.Exit(dbsetup.call(context.args))


def _settings(dsn: str, password_file: str, pooled: bool) -> dict[str, str]:
    if not dsn and not os.environ.get("MOGILE_DB_DSN"):
        raise UsageError("which database? --dsn=postgresql://user@host:5432/database or MOGILE_DB_DSN")
    return {"dsn": dsn, "password_file": password_file, "pooled": "1" if pooled else ""}


def _work(action: str, planning: str, settings: dict[str, str], *, yes: bool, as_json: bool) -> None:
    result: dict[str, Any] = {"done": False, "steps": []}
    columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
    with Progress(
        *columns, console=output.remarks, transient=True, disable=as_json or not output.remarks.is_terminal
    ) as progress:
        task: TaskID | None = None
        for event in dbadmin.run(action if yes else planning, settings):
            if event["event"] == "plan":
                result |= {key: event[key] for key in ("origin", "changes", "notes", "refusals")}
                if not as_json:
                    show_plan(event)
            elif event["event"] == "step":
                result["steps"].append(event["text"])
                if not as_json:
                    output.say_plain(event["text"])
            elif event["event"] == "progress":
                task = progress.add_task(event["text"]) if task is None else task
                progress.update(task, description=event.get("phase", ""), completed=event["done"], total=event["total"])
            elif event["event"] == "done":
                result["done"] = yes
    if as_json:
        output.say_json(result)
    elif yes:
        output.say("[green]done[/]")
    elif result.get("changes"):
        output.say("nothing was changed; run it again with --yes to do this")


def show_plan(plan: dict[str, Any]) -> None:
    """The plan as a table with its notes."""
    output.say(f"This is {ORIGINS[plan['origin']]}.")
    if plan["changes"]:
        output.say_table(("change", "who has to wait"), [(c["what"], _nobody(c["lock"])) for c in plan["changes"]])
    else:
        output.say("Nothing has to be changed.")
    for note in plan["notes"]:
        output.say(f"[yellow]note:[/] {output.cell(note)}")
    for refusal in plan["refusals"]:
        output.say(f"[red]refused:[/] {output.cell(refusal)}")


def _nobody(lock: str) -> str:
    return "nobody" if lock == "none" else lock
