"""mogadm domain and class: namespaces, and how their files are replicated."""

from __future__ import annotations

from mogile_cli.classic import connection, program
from mogile_cli.classic.admin.grammar import Command, Request
from mogile_cli.classic.connection import Connection, Pairs

MINDEVCOUNT_DEFAULT = (
    2  # also in `class modify`, where the protocol wants it: an unmentioned mindevcount becomes 2, as it always did
)


async def domains(tracker: Connection) -> list[tuple[str, list[Pairs]]]:
    """All domains with their classes, both by name."""
    answer = await tracker.ask("get_domains")
    found = []
    for index in range(1, connection.count(answer, "domains") + 1):
        classes = connection.rows(answer, f"domain{index}classes", f"domain{index}class{{}}")
        found.append((answer[f"domain{index}"], sorted(classes, key=lambda row: row["name"])))
    return sorted(found, key=lambda entry: entry[0])


async def _list(request: Request) -> None:
    """Domains and classes are one list."""
    line = request.console.line
    line(f" {'domain':<20} {'class':<20} {'mindevcount':<12}  {'replpolicy':<12} {'hashtype':<7}")
    line(" ".join("-" * width for width in (20, 20, 13, 12, 7)))
    for domain, classes in await domains(request.tracker):
        for row in classes:
            policy, hashtype = row.get("replpolicy", ""), row.get("hashtype", "")
            line(f" {domain:<20} {row['name']:<20}      {row.get('mindevcount') or '0':<8} {policy:<13} {hashtype:<7}")
        line()


async def _domain_add(request: Request) -> None:
    with program.doing("creating domain"):
        await request.tracker.ask("create_domain", domain=request["domain"])
    request.done("Domain created.")


async def _domain_delete(request: Request) -> None:
    with program.doing("deleting domain"):
        await request.tracker.ask("delete_domain", domain=request["domain"])
    request.done("Domain deleted.")


def _class_arguments(request: Request) -> dict[str, str | int | None]:
    return {
        "domain": request["domain"],
        "class": request["class"],
        "mindevcount": request.get("mindevcount") or MINDEVCOUNT_DEFAULT,
        "replpolicy": request.get("replpolicy"),
        "hashtype": request.get("hashtype"),
    }


async def _class_add(request: Request) -> None:
    with program.doing("creating class"):
        await request.tracker.ask("create_class", **_class_arguments(request))
    request.done("Class created.")


async def _class_modify(request: Request) -> None:
    with program.doing("updating class"):
        await request.tracker.ask("update_class", **_class_arguments(request))
    request.done("Class updated.")


async def _class_delete(request: Request) -> None:
    with program.doing("deleting class"):
        await request.tracker.ask("delete_class", **{"domain": request["domain"], "class": request["class"]})
    request.done("Class deleted.")


_CLASS_OPTIONS = {
    "mindevcount=i": f"How many copies; {MINDEVCOUNT_DEFAULT} unless given",
    "replpolicy=s": "Replication policy, such as MultipleHosts()",
    "hashtype=s": "Digest stored with each file: MD5, SHA-1 or NONE",
}
COMMANDS = (
    Command(topic="domain", verb="list", help="List all domains with their classes.", run=_list),
    Command(topic="domain", verb="add", help="Add a domain.", run=_domain_add, words=("domain",)),
    Command(topic="domain", verb="delete", help="Delete an empty domain.", run=_domain_delete, words=("domain",)),
    Command(topic="class", verb="list", help="List all classes of all domains.", run=_list),
    Command(
        topic="class",
        verb="add",
        help="Add a class.",
        run=_class_add,
        words=("domain", "class"),
        options=_CLASS_OPTIONS,
    ),
    Command(
        topic="class",
        verb="modify",
        help="Change a class.",
        run=_class_modify,
        words=("domain", "class"),
        options=_CLASS_OPTIONS,
    ),
    Command(
        topic="class", verb="delete", help="Delete a class without files.", run=_class_delete, words=("domain", "class")
    ),
)
