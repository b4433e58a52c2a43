"""mogdbsetup: makes database, user and tables, or brings a database up to date, with the original's flags. PostgreSQL only.

The administrator's account (--dbrootuser, --dbrootpassword) is used only where the user cannot reach the database yet. --noschemabump
leaves a database that has MogileFS's tables as it is. Without --yes a person is asked first; without a terminal that means no.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mogile_cli import dbadmin
from mogile_cli.classic import getopt, program
from mogile_cli.classic.program import Console, Died

OPTIONS = (
    "help", "yes", "verbose", "noschemabump", "type=s", "dbhost=s", "dbport=s", "dbname=s", "dbuser=s", "dbpassword=s",
    "dbrootuser=s", "dbrootpassword=s",
)  # fmt: skip
DEFAULTS = {
    "type": "Postgres", "dbhost": "localhost", "dbport": "5432", "dbname": "mogilefs", "dbuser": "mogile", "dbpassword": "",
    "dbrootuser": "postgres", "dbrootpassword": "",
}  # fmt: skip
USAGE = """Usage: mogdbsetup [opts]

Options:

             Default       Description
             ============  ===========================================
  --verbose  <off>         Print the steps as they are done.
  --dbhost=  localhost     Host name or address of the database server.
  --dbport=  5432          Its port.
  --dbname=  mogilefs      Database name to create or upgrade.
  --dbrootuser=  postgres  Administrator who may create databases and users;
                           only needed for the first run.
  --dbrootpassword=        The administrator's password.
  --dbuser=  mogile        User whom the trackers connect as.
  --dbpassword=            The user's password.
  --type=    Postgres      Kind of database; PostgreSQL is the only one.
  --noschemabump           Leave a database that has MogileFS's tables as it is.
  --yes                    Run without asking.
"""


async def mogdbsetup(argv: Sequence[str], environ: Mapping[str, str], console: Console) -> int:
    """The tool."""
    del environ
    parsed = getopt.parse(argv, OPTIONS)
    if "help" in parsed.values or parsed.words:
        console.text(USAGE)
        return 0 if "help" in parsed.values else program.DIED
    values = {**DEFAULTS, **parsed.values}
    if values["type"].lower() not in ("postgres", "postgresql", "pg"):
        raise Died(f"--type={values['type']}: only Postgres is supported; move the data to PostgreSQL first")
    if not values["dbport"].isdigit():
        raise Died(f"--dbport={values['dbport']} is not a number")
    target = f"database {values['dbname']!r} for user {values['dbuser']!r} at {values['dbhost']}:{values['dbport']}"
    if "yes" not in values and not _agreed(console, target):
        raise Died("stopped; nothing was changed")
    shared = {"host": values["dbhost"], "port": values["dbport"]}
    settings = {
        "dsn": dbadmin.dsn_url(
            user=values["dbuser"], password=values["dbpassword"], database=values["dbname"], **shared
        ),
        "root_dsn": dbadmin.dsn_url(
            user=values["dbrootuser"], password=values["dbrootpassword"], database="postgres", **shared
        ),
        "keep_schema": values.get("noschemabump", ""),
    }
    for event in dbadmin.run("setup", settings):
        if event["event"] == "step" and "verbose" in values:
            console.line(event["text"])
        if event["event"] == "plan":
            for note in event["notes"]:
                console.line(f"NOTE: {note}")
            for change in event["changes"] if "verbose" in values else ():
                console.line(f"to do: {change['what']}")
    if "verbose" in values:
        console.line("Done.")
    return 0


def _agreed(console: Console, target: str) -> bool:
    console.text(f"This will create or upgrade the {target}.\nContinue? [N/y]: ")
    console.flush()
    return console.stdin.readline().strip().lower() in (b"y", b"yes")


def call(argv: Sequence[str]) -> int:
    """The tool on words of the caller's (`mog db setup`)."""
    return program.launch(mogdbsetup, argv)


def main() -> int:
    """Entry point of `mogdbsetup`."""
    return program.launch(mogdbsetup)
