"""Image stores of the nodes, kept between runs.

A *template* is a containerd root directory that holds exactly the wanted images, unpacked, and nothing else; its
folder name is a key of the image references and their build keys.  A node's store is a clone of it: databases are
copied, layers and blobs are hard links, which is sound because containerd never changes those in place (an
overlay's lower layers are read-only).  So a node starts with all images in place and never with the remains of a
former life, and a changed image costs its own import only, because a new template starts as a clone of the last.
"""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from harness import cgroups
from harness.cache import building, key_of
from harness.errors import HarnessError
from harness.layout import ClusterLayout
from harness.proc import ProcessRecord, isolated, run, spawn, tail
from harness.progress import step

NAMESPACE = "k8s.io"
IMAGES_FILE = "mogile-images.json"
IMPORT_TIMEOUT_SECONDS = 300.0
IMPORT_TRIES = 3
START_TIMEOUT_SECONDS = 30.0
STOP_GRACE_SECONDS = 10.0
# An image that takes the place of another one leaves its layers to the collector; running while the new image is unpacked, that takes away
# layers both have, and the import ends with "parent snapshot does not exist". So it runs only when it is asked to.
NO_COLLECTOR = """[plugins."io.containerd.gc.v1.scheduler"]
  pause_threshold = 0.00001
  deletion_threshold = 1000000
  mutation_threshold = 0
  startup_delay = "1h"
"""


def clone_store(source: Path, target: Path) -> None:
    """Copy a store: hard links for what never changes, real copies for databases."""
    run("cp", "-al", str(source), str(target), timeout=120)
    for path in [*target.rglob("*.db"), *target.glob(IMAGES_FILE)]:
        copy = path.with_name(path.name + ".copy")
        shutil.copy2(path, copy)
        copy.replace(path)


def template_key(images: Mapping[str, str]) -> str:
    """The key of a set of images: reference to build key."""
    return key_of(json.dumps(sorted(images.items())))


def template(layout: ClusterLayout, images: Mapping[str, str], archives: Mapping[str, Path]) -> Path:
    """The template that holds these images (reference to key), made from the last one when it is new."""
    root = layout.cache / "stores" / layout.name
    target = root / template_key(images)
    if target.is_dir():
        return target
    previous = newest_template(root)
    present: dict[str, str] = {}
    with building(target) as work:
        if previous is not None:
            work.rmdir()
            clone_store(previous, work)
            present = json.loads((work / IMAGES_FILE).read_text())
        changed = [reference for reference, key in images.items() if present.get(reference) != key]
        removed = [reference for reference in present if reference not in images]
        with step(f"importing {len(changed)} image(s) into the node store"):
            _update(layout, work, {reference: archives[reference] for reference in changed}, removed)
        (work / IMAGES_FILE).write_text(json.dumps(dict(images)))
    for other in root.iterdir():
        if other != target and not other.name.startswith("."):
            shutil.rmtree(other)
    return target


def newest_template(root: Path) -> Path | None:
    """The template made last, None when there is none."""
    found = [path for path in root.glob("[!.]*") if (path / IMAGES_FILE).exists()] if root.is_dir() else []
    return max(found, key=lambda path: path.stat().st_mtime, default=None)


def _update(layout: ClusterLayout, store: Path, archives: Mapping[str, Path], removed: list[str]) -> None:
    """Import and remove images with a containerd of its own on this store."""
    with tempfile.TemporaryDirectory(prefix=f"{layout.name}-import-") as folder:
        socket = str(Path(folder) / "c.sock")
        record = _start_containerd(layout, store, Path(folder), socket)
        try:
            ctr = ("ctr", "-a", socket, "-n", NAMESPACE)
            _wait(record, socket, layout)
            for reference in removed:
                run(*ctr, "images", "rm", "--sync", reference, timeout=IMPORT_TIMEOUT_SECONDS)
            for reference, archive in archives.items():
                _import(ctr, archive)
                if reference not in run(*ctr, "images", "ls", "-q").stdout.split():
                    raise HarnessError(f"{archive} did not bring {reference}")
            # Layers of replaced images are dropped by containerd's collector, which this asks to run.
            run(*ctr, "content", "prune", "references", check=False)
        finally:
            record.stop(grace_seconds=STOP_GRACE_SECONDS)
            while record.alive():
                time.sleep(0.05)


def _import(ctr: Sequence[str], archive: Path) -> None:
    """Import an archive, at most IMPORT_TRIES times: what is there already is kept, so a second try only adds what is missing."""
    for left in reversed(range(IMPORT_TRIES)):
        try:
            run(*ctr, "images", "import", str(archive), timeout=IMPORT_TIMEOUT_SECONDS)
        except HarnessError:
            if not left:
                raise
        else:
            return


def _start_containerd(layout: ClusterLayout, store: Path, folder: Path, socket: str) -> ProcessRecord:
    config = folder / "config.toml"
    config.write_text(
        f'version = 2\nroot = "{store}"\nstate = "{folder}/state"\noom_score = 0\n'
        f'disabled_plugins = ["io.containerd.grpc.v1.cri"]\n[grpc]\n  address = "{socket}"\n'
        f'[ttrpc]\n  address = "{socket}.ttrpc"\n{NO_COLLECTOR}'
    )
    argv = isolated("containerd", "-c", str(config), keep=[layout.cache, folder])
    return spawn(
        "import-containerd",
        argv,
        cgroup_procs=cgroups.system_procs(f"{layout.name}/import"),
        log=layout.logs / "import-containerd.log",
        records=layout.pids,
    )


def _wait(record: ProcessRecord, socket: str, layout: ClusterLayout) -> None:
    deadline = time.monotonic() + START_TIMEOUT_SECONDS
    while run("ctr", "-a", socket, "version", check=False, timeout=10).returncode != 0:
        if not record.alive() or time.monotonic() > deadline:
            log = (layout.logs / "import-containerd.log").read_text(errors="replace")
            raise HarnessError(f"containerd for importing images: {tail(log)}")
        time.sleep(0.1)


def template_images(template: Path) -> dict[str, str]:
    """The images of a template: reference to key; empty when it is gone."""
    file = template / IMAGES_FILE
    if not file.exists():
        return {}
    images: dict[str, str] = json.loads(file.read_text())
    return images
