"""Random sequences of commands against a live tracker of two server processes, each answer compared with a small model of the protocol."""

import os
import urllib.request
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from mogile_core.wire import Reply, encode_args

EXAMPLES = 400 if os.environ.get("FULL") else 40
DOMAINS, CLASSES = ("d", "e f"), ("default", "one", "two")
KEYS = ("a", "a/1", "a/2", "0", "\xff\xfe%+&= \x00", "b" * 255, "c" * 256)

Step = tuple[Any, ...]
domain_, class_, key_ = st.sampled_from(DOMAINS), st.sampled_from(CLASSES), st.sampled_from(KEYS)
STEPS: st.SearchStrategy[Step] = st.one_of(
    st.tuples(st.sampled_from(["create_domain", "delete_domain"]), domain_),
    st.tuples(st.sampled_from(["create_class", "update_class"]), domain_, class_, st.integers(0, 3)),
    st.tuples(st.just("delete_class"), domain_, class_),
    *[st.tuples(st.just("create_open"), domain_, key_, class_)] * 2,
    *[st.tuples(st.just("create_close"), domain_, st.one_of(key_, st.just("")), st.integers(0, 5), st.integers(4, 6))]
    * 3,
    st.tuples(st.sampled_from(["delete", "file_info", "get_paths"]), domain_, key_),
    st.tuples(st.just("rename"), domain_, key_, key_),
    st.tuples(st.just("updateclass"), domain_, key_, class_),
    st.tuples(
        st.just("list_keys"), domain_, st.sampled_from(["", "a", "a/"]), st.one_of(st.just(""), key_), st.integers(0, 3)
    ),
    st.tuples(st.just("get_domains")),
)


@dataclass
class Domain:
    dmid: int
    classes: dict[str, tuple[int, int]] = field(default_factory=dict)  # name -> id, mindevcount; only those with a row
    files: dict[str, tuple[int, str]] = field(default_factory=dict)  # key -> class id, fid

    def class_id(self, name: str) -> int | None:
        return self.classes[name][0] if name in self.classes else 0 if name == "default" else None

    def class_name(self, classid: int) -> str:
        """A file whose class was removed while it was uploaded is shown in the default class."""
        return next((name for name, (number, _) in self.classes.items() if number == classid), "default")


@dataclass
class Upload:
    dmid: int
    classid: int
    pairs: dict[str, str]
    open: bool = True


class Model:
    """What the tracker should answer: an error code, or a check of the pairs."""

    def __init__(self) -> None:
        self.domains: dict[str, Domain] = {}
        self.uploads: list[Upload] = []

    def create_domain(self, name: str) -> str:
        if name in self.domains:
            return "domain_exists"
        self.domains[name] = Domain(1 + max((d.dmid for d in self.domains.values()), default=0))
        return ""

    def delete_domain(self, name: str) -> str:
        if name not in self.domains:
            return "domain_not_found"
        if self.domains[name].files:
            return "domain_has_files"
        if set(self.domains[name].classes) - {"default"}:
            return "domain_has_classes"
        del self.domains[name]
        return ""

    def create_class(self, domain: str, name: str, count: int) -> str:
        return self._class(domain, name, count, new=True)

    def update_class(self, domain: str, name: str, count: int) -> str:
        return self._class(domain, name, count, new=False)

    def _class(self, domain: str, name: str, count: int, *, new: bool) -> str:
        if count < 1:
            return "invalid_mindevcount"
        if domain not in self.domains:
            return "domain_not_found"
        classes = self.domains[domain].classes
        if new and name in classes:
            return "class_exists"
        if not new and name not in classes and name != "default":
            return "class_not_found"
        fresh = 0 if name == "default" else 1 + max((number for number, _ in classes.values()), default=0)
        classes[name] = (classes.get(name, (fresh, 0))[0], count)
        return ""

    def delete_class(self, domain: str, name: str) -> str:
        if name == "default":
            return "nodel_default_class"
        if domain not in self.domains:
            return "domain_not_found"
        found = self.domains[domain]
        if name not in found.classes:
            return "class_not_found"
        if any(classid == found.classes[name][0] for classid, _ in found.files.values()):
            return "class_has_files"
        del found.classes[name]
        return ""

    def create_open(self, domain: str, key: str, name: str) -> str:
        if domain not in self.domains:
            return "unreg_domain"
        if self.domains[domain].class_id(name) is None:
            return "unreg_class"
        return "db" if len(key) > 255 else ""

    def create_close(self, domain: str, key: str, upload: Upload, size: int) -> str:
        if domain not in self.domains:
            return "unreg_domain"
        if not upload.open or upload.dmid != self.domains[domain].dmid:
            return "no_temp_file"
        upload.open = False
        if not key:
            return ""
        if size != 5:
            return "size_mismatch"
        if len(key) > 255:
            return "db"
        self.domains[domain].files[key] = (upload.classid, upload.pairs["fid"])
        return ""

    def delete(self, domain: str, key: str) -> str:
        code = self.file_info(domain, key)
        if not code:
            del self.domains[domain].files[key]
        return code

    def file_info(self, domain: str, key: str) -> str:
        if domain not in self.domains:
            return "unreg_domain"
        return "" if key in self.domains[domain].files else "unknown_key"

    get_paths = file_info

    def rename(self, domain: str, key: str, new_key: str) -> str:
        if domain not in self.domains:
            return "unreg_domain"
        files = self.domains[domain].files
        if len(new_key) > 255:
            return "db" if len(key) <= 255 else "unknown_key"
        if key not in files:
            return "unknown_key"
        if new_key in files:
            return "key_exists"
        files[new_key] = files.pop(key)
        return ""

    def updateclass(self, domain: str, key: str, name: str) -> str:
        if domain not in self.domains:
            return "unreg_domain"
        classid = self.domains[domain].class_id(name)
        if classid is None:
            return "class_not_found"
        files = self.domains[domain].files
        if key not in files:
            return "invalid_key"
        files[key] = (classid, files[key][1])
        return ""

    def list_keys(self, domain: str, prefix: str, after: str, limit: int) -> str:
        if domain not in self.domains:
            return "unreg_domain"
        if prefix and after and not after.startswith(prefix):
            return "after_mismatch"
        return "" if self.page(domain, prefix, after, limit) else "none_match"

    def page(self, domain: str, prefix: str, after: str, limit: int) -> list[str]:
        keys = sorted(key for key in self.domains[domain].files if key.startswith(prefix) and key > after)
        return keys[: limit or 1000]

    def get_domains(self) -> str:
        return ""


NAMES = {
    "create_domain": ("domain",), "delete_domain": ("domain",), "create_class": ("domain", "class", "mindevcount"),
    "update_class": ("domain", "class", "mindevcount"), "delete_class": ("domain", "class"),
    "create_open": ("domain", "key", "class"), "delete": ("domain", "key"), "file_info": ("domain", "key"),
    "get_paths": ("domain", "key"), "rename": ("domain", "from_key", "to_key"), "updateclass": ("domain", "key", "class"),
    "list_keys": ("domain", "prefix", "after", "limit"), "get_domains": (),
}  # fmt: skip


class Live:
    """Plays steps on the tracker and the model and compares."""

    def __init__(self, tracker: Any) -> None:
        self.clients = [tracker.client() for _ in range(4)]
        self.turn = 0
        self.failure: BaseException | None = None

    def ask(self, command: str, args: dict[str, Any]) -> Reply:
        self.turn += 1
        reply: Reply = self.clients[self.turn % 4].ask(f"{command} {encode_args(args)}")
        return reply

    def play(self, model: Model, step: Step) -> None:
        command, *values = step
        if command == "create_close":
            self.close(model, *values)
            return
        args = dict(zip(NAMES[command], values, strict=True))
        expected = getattr(model, command)(*values)
        reply = self.ask(command, args)
        assert reply.code == expected, (step, reply)
        if reply.ok:
            getattr(self, f"see_{command}", lambda *_: None)(model, reply.args, *values)

    def close(self, model: Model, domain: str, key: str, which: int, size: int) -> None:
        if not model.uploads:
            return
        upload = model.uploads[which % len(model.uploads)]
        args = {"domain": domain, "key": key, **upload.pairs, "size": size}
        expected = model.create_close(domain, key, upload, size)
        reply = self.ask("create_close", args)
        assert (reply.code, reply.args) == (expected, {}), (args, reply)

    def see_create_open(self, model: Model, pairs: dict[str, str], domain: str, _: str, name: str) -> None:
        request = urllib.request.Request(pairs["path"], data=b"hello", method="PUT")
        with urllib.request.urlopen(request, timeout=90):
            pass
        found = model.domains[domain]
        model.uploads.append(Upload(found.dmid, found.class_id(name) or 0, pairs))

    def see_file_info(self, model: Model, pairs: dict[str, str], domain: str, key: str) -> None:
        classid, fid = model.domains[domain].files[key]
        shown = {name: pairs[name] for name in ("domain", "key", "class", "fid", "length")}
        name = model.domains[domain].class_name(classid)
        assert shown == {"domain": domain, "key": key, "class": name, "fid": fid, "length": "5"}

    def see_get_paths(self, model: Model, pairs: dict[str, str], domain: str, key: str) -> None:
        fid = model.domains[domain].files[key][1]
        paths = [pairs[f"path{i}"] for i in range(1, int(pairs["paths"]) + 1)]
        assert paths
        assert all(path.endswith(f"/{int(fid):010}.fid") for path in paths)

    def see_list_keys(self, model: Model, pairs: dict[str, str], *asked: Any) -> None:
        keys = model.page(*asked)
        assert [pairs[f"key_{i}"] for i in range(1, int(pairs["key_count"]) + 1)] == keys
        assert pairs["next_after"] == keys[-1]

    def see_get_domains(self, model: Model, pairs: dict[str, str]) -> None:
        seen = {}
        for i in range(1, int(pairs["domains"]) + 1):
            rows = range(1, int(pairs[f"domain{i}classes"]) + 1)
            seen[pairs[f"domain{i}"]] = {
                pairs[f"domain{i}class{j}name"]: int(pairs[f"domain{i}class{j}mindevcount"]) for j in rows
            }
        default = {"default": 2}
        assert seen == {
            name: default | {c: count for c, (_, count) in domain.classes.items()}
            for name, domain in model.domains.items()
        }

    def clean(self, model: Model) -> None:
        """All that a sequence made goes again, and all of it can."""
        for name, domain in list(model.domains.items()):
            for key in list(domain.files):
                self.play(model, ("delete", name, key))
            for each in set(domain.classes) - {"default"}:
                self.play(model, ("delete_class", name, each))
            self.play(model, ("delete_domain", name))
        self.play(model, ("get_domains",))


@pytest.mark.also_through_pgbouncer
@pytest.mark.slow
@pytest.mark.timeout(3600 if EXAMPLES > 100 else 900)
def test_random_sequences_are_answered_as_the_model_says(three_nodes: Any) -> None:
    tracker = three_nodes.tracker(processes=2)
    tracker.client().ok("do_monitor_round")
    live = Live(tracker)

    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        database=None,
        phases=[
            Phase.explicit,
            Phase.generate,
        ],  # what fails may depend on what was left behind; the steps are in the message
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
    )
    @given(st.lists(STEPS, min_size=30, max_size=80))
    def play(steps: list[Step]) -> None:
        if live.failure is not None:  # played again: the tracker still holds what the failed sequence made
            raise live.failure
        model = Model()
        try:
            live.play(model, ("create_domain", "d"))  # most sequences should get somewhere
            live.play(model, ("create_class", "d", "one", 1))
            for step in steps:
                live.play(model, step)
            live.clean(model)
        except BaseException as failure:
            live.failure = failure
            raise

    play()
    assert live.turn > 20 * EXAMPLES
    leaked = "SELECT count(*) FROM file_on o WHERE NOT EXISTS (SELECT 1 FROM file_to_delete2 d WHERE d.fid = o.fid)"
    assert three_nodes.value(leaked) == 0
