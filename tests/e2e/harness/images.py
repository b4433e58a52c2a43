"""The images of product and test cluster, built from their Dockerfiles without a registry.

Three images build the others: *base* (Debian, Python, nginx), *builder* (pip on top of it) and *project* (our own packages,
installed once for all Python images).  Only what runs somewhere gets an archive; the rest stays in the builder's store.

The context of every product image is the repository root.  What is handed to the builder is a snapshot of the
*declared* inputs only: the build cannot depend on anything its key does not cover, and files that are edited while
it runs do not matter.  An image whose inputs have not changed is not built again.

Here buildah builds on a ``debian:trixie-slim`` that mmdebstrap makes from the machine's own package sources; with
Docker the same Dockerfiles are built on the official one (:mod:`harness.kind`).
"""

from __future__ import annotations

import contextlib
import platform
import shutil
import tempfile
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from harness.cache import building, exclusive, key_of, tree_files, tree_key
from harness.errors import HarnessError
from harness.layout import REPOSITORY, cache_root
from harness.proc import isolated, run
from harness.progress import step
from harness.tools import Toolbox

BUILD_TIMEOUT_SECONDS = 1200.0
UNNAMED_IMAGES_MAX = 40
CA_BUNDLE = Path("/etc/ssl/certs/ca-certificates.crt")
CA_BUNDLE_IN_BUILD = "/run/build-ca.crt"
APT_SOURCES = Path("/etc/apt")
REGISTRY = "docker.io/library"
BASE_SUITE = "trixie"
BASE_REFERENCE = f"{REGISTRY}/debian:trixie-slim"
ARCHIVE_NAME = "image.tar"
# The tag that the chart asks for unless told otherwise: on the test cluster a user's commands work as they stand.
VERSION: str = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["version"]
ARCHIVE_KIND = (
    "docker-archive"  # uncompressed, unlike oci-archive: packing and unpacking would take longer than building
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """An image: where its Dockerfile is, what goes in, on which images it stands.

    ``stands_on`` gives build arguments the names of images of ours; ``on_debian`` means ``debian:trixie-slim``.
    """

    name: str
    dockerfile: str
    inputs: tuple[str, ...] = ()
    on_debian: bool = False
    stands_on: Mapping[str, str] = field(default_factory=dict)
    tag: str = VERSION
    program: str = ""
    registry: str = REGISTRY

    @property
    def reference(self) -> str:
        return f"{self.registry}/{self.name}:{self.tag}"


ON_BASE = {"BASE": "mogile-base"}
WITH_PYTHON = {**ON_BASE, "BUILDER": "mogile-builder", "PROJECT": "mogile-project"}

BASE = Image(name="mogile-base", dockerfile="images/base/Dockerfile", on_debian=True)
BUILDER = Image(
    name="mogile-builder",
    dockerfile="images/builder/Dockerfile",
    inputs=("images/builder", "requirements/build.lock"),
    stands_on=ON_BASE,
)
PROJECT = Image(
    name="mogile-project",
    dockerfile="images/project/Dockerfile",
    inputs=(
        "pyproject.toml",
        "README.md",
        "LICENSE",
        "core",
        "cli",
        "operator/mogile_operator",
        "images/tracker/mogile_tracker",
        "images/storage/mogile_storage",
    ),
    stands_on={"BUILDER": "mogile-builder"},
)
PRODUCT = (
    Image(
        name="mogile-tracker",
        dockerfile="images/tracker/Dockerfile",
        inputs=("requirements/tracker.lock",),
        stands_on=WITH_PYTHON,
    ),
    Image(
        name="mogile-storage",
        dockerfile="images/storage/Dockerfile",
        inputs=("requirements/storage.lock",),
        stands_on=WITH_PYTHON,
    ),
    Image(
        name="mogile-operator",
        dockerfile="operator/Dockerfile",
        inputs=("requirements/operator.lock",),
        stands_on=WITH_PYTHON,
    ),
    Image(
        name="mogile-gateway",
        dockerfile="images/nginx-gateway/Dockerfile",
        inputs=("images/nginx-gateway",),
        stands_on=ON_BASE,
    ),
)
POSTGRES = Image(
    name="postgres",
    tag="17",
    dockerfile="tests/e2e/images/postgres/Dockerfile",
    inputs=("tests/e2e/images/postgres",),
    on_debian=True,
)
PAUSE = Image(
    name="pause",
    tag="1",
    dockerfile="tests/e2e/images/pause/Dockerfile",
    program="pause",
    registry="localhost",
)
COREDNS = Image(
    name="coredns",
    tag="1",
    dockerfile="tests/e2e/images/coredns/Dockerfile",
    program="coredns",
    registry="localhost",
)
# The base goes to the nodes too: stories use it for pods that need no more than Python.
INFRASTRUCTURE = (PAUSE, COREDNS, POSTGRES, BASE)
ALL = (*INFRASTRUCTURE, *PRODUCT)
BUILDERS = {image.name: image for image in (BASE, BUILDER, PROJECT)}  # in the order they are built


@dataclass(frozen=True, slots=True, kw_only=True)
class Built:
    """A built image: its key, and the archive to import where it goes to nodes."""

    image: Image
    key: str
    archive: Path


class Buildah:
    """buildah with a private store in the cache, in a mount namespace of its own so that a crash leaves no mount."""

    def __init__(self, cache: Path) -> None:
        self.cache = cache
        self.folder = cache / "buildah"

    def __call__(self, *argv: str, timeout: float = BUILD_TIMEOUT_SECONDS) -> str:
        self.folder.mkdir(parents=True, exist_ok=True)
        policy = self.folder / "policy.json"
        policy.write_text('{"default": [{"type": "insecureAcceptAnything"}]}\n')
        with tempfile.TemporaryDirectory(prefix="mogile-buildah-") as runroot:
            config = self.folder / "storage.conf"
            config.write_text(
                f'[storage]\ndriver = "overlay"\ngraphroot = "{self.folder}/graph"\nrunroot = "{runroot}"\n'
            )
            env = {"CONTAINERS_STORAGE_CONF": str(config), "BUILDAH_ISOLATION": "chroot"}
            command = isolated("buildah", *argv, keep=[self.cache, runroot, CA_BUNDLE.parent])
            return run(*command, timeout=timeout, env=env).stdout


def mirror() -> str:
    """The package mirror this machine uses, read from its own sources."""
    sources = [*APT_SOURCES.glob("sources.list.d/*.sources"), *APT_SOURCES.glob("sources.list.d/*.list")]
    sources.append(APT_SOURCES / "sources.list")
    for source in sources:
        for line in source.read_text().splitlines() if source.exists() else ():
            words = line.split()
            if words[:1] == ["URIs:"] and "debian" in words[1]:
                return words[1]
            addresses = [word for word in words[1:] if "://" in word]
            if words[:1] == ["deb"] and addresses and "debian" in addresses[0]:
                return addresses[0]
    raise HarnessError(f"no Debian package source below {APT_SOURCES}: the base image cannot be made")


BOOTSTRAP_OPTIONS = (
    "--variant=minbase",
    '--aptopt=Acquire::Languages "none"',
    "--dpkgopt=path-exclude=/usr/share/doc/*",
    "--dpkgopt=path-include=/usr/share/doc/*/copyright",
    "--dpkgopt=path-exclude=/usr/share/locale/*",
    "--dpkgopt=path-exclude=/usr/share/man/*",
    "--dpkgopt=path-exclude=/usr/share/info/*",
)


class Builder:
    """Builds images in order of their parents; one instance per run."""

    def __init__(self, tools: Toolbox | None = None) -> None:
        self.cache = cache_root()
        self.buildah = Buildah(self.cache)
        self.tools = tools
        self._keys: dict[str, str] = {}
        self._new = False

    def build(self, images: Iterable[Image]) -> list[Built]:
        """Build what is not there yet; the result follows the given order."""
        wanted = list(images)
        there = [self._planned(image) for image in wanted]
        if all(item.archive.exists() for item in there):
            return there
        with exclusive(self.cache / "images" / "lock"):
            built = [self._build_one(image) for image in wanted]
            if self._new:
                self._prune()
            return built

    def key(self, image: Image) -> str:
        """What decides whether an image must be built again: its name, Dockerfile, inputs, program, parent."""
        if image.name not in self._keys:
            self._keys[image.name] = self._key_of_files(image, REPOSITORY)
        return self._keys[image.name]

    def _key_of_files(self, image: Image, root: Path) -> str:
        program = "" if not image.program else key_of(self._program(image).read_bytes())
        return tree_key(root, [image.dockerfile, *image.inputs], image.reference, self._key_below(image), program)

    def _key_below(self, image: Image) -> str:
        debian = [BASE_SUITE, platform.machine(), *BOOTSTRAP_OPTIONS] if image.on_debian else []
        return key_of(*debian, *(self.key(BUILDERS[name]) for name in image.stands_on.values()))

    def _program(self, image: Image) -> Path:
        if self.tools is None:
            raise HarnessError(f"image {image.name} holds a program built with Go: the tools must be built first")
        folder: Path = getattr(self.tools, image.program)
        return folder / image.program

    def _planned(self, image: Image) -> Built:
        key = self.key(image)
        return Built(image=image, key=key, archive=self.cache / "images" / image.name / key / ARCHIVE_NAME)

    def _build_one(self, image: Image) -> Built:
        """The image in its store and as an archive."""
        if (built := self._planned(image)).archive.exists():
            return built
        self._ensure(image)
        built = self._planned(image)
        target = built.archive.parent
        with building(target) as work:
            self.buildah("push", "-q", image.reference, f"{ARCHIVE_KIND}:{work / ARCHIVE_NAME}:{image.reference}")
        for other in target.parent.iterdir():
            if other != target and not other.name.startswith("."):
                shutil.rmtree(other)
        return built

    def _ensure(self, image: Image) -> None:
        """The image must be in the store; what it stands on comes first."""
        if self._present(image.reference, self.key(image)):
            return
        if image.on_debian:
            self._ensure_debian()
        for name in image.stands_on.values():
            self._ensure(BUILDERS[name])
        with (
            step(f"building image {image.name}:{image.tag}"),
            tempfile.TemporaryDirectory(prefix="mogile-context-") as folder,
        ):
            context = Path(folder)
            self._snapshot(image, context)
            # The key is that of what is really built: somebody may have saved a file since the first look.
            self._keys[image.name] = self._key_of_files(image, context)
            self._run_build(image, context)
        self._mark(image.reference, self._keys[image.name])
        self._new = True

    def _snapshot(self, image: Image, context: Path) -> None:
        """Copy the declared inputs into an empty folder, with their paths."""
        for source in tree_files(REPOSITORY, [image.dockerfile, *image.inputs]):
            copy = context / source.relative_to(REPOSITORY)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, copy)
        if image.program:
            shutil.copy2(self._program(image), context / image.program)

    def _run_build(self, image: Image, context: Path) -> None:
        arguments = ["bud", "--layers", "--isolation", "chroot", "--format", "oci", "-t", image.reference]
        if CA_BUNDLE.exists():  # pip in the build trusts what this machine trusts
            arguments += [
                "--volume",
                f"{CA_BUNDLE}:{CA_BUNDLE_IN_BUILD}:ro",
                "--build-arg",
                f"PIP_CERT={CA_BUNDLE_IN_BUILD}",
            ]
        for argument, name in image.stands_on.items():
            arguments += ["--build-arg", f"{argument}={BUILDERS[name].reference}"]
        self.buildah(*arguments, "-f", str(context / image.dockerfile), str(context))

    def _prune(self) -> None:
        """Forget the oldest layers without a name: they serve as build cache, but pile up with every change."""
        names = self.buildah("images", "--filter", "dangling=true", "-q", "--no-trunc").split()
        for name in names[UNNAMED_IMAGES_MAX:]:  # newest first
            with contextlib.suppress(HarnessError):  # still the parent of a newer one
                self.buildah("rmi", name)

    def _present(self, reference: str, key: str) -> bool:
        """Whether the private store holds this image in the state of this key."""
        marker = self.cache / "buildah" / "keys" / key_of(reference)
        listed = self.buildah("images", "--format", "{{.Name}}:{{.Tag}}").split()
        return reference in listed and marker.exists() and marker.read_text() == key

    def _mark(self, reference: str, key: str) -> None:
        marker = self.cache / "buildah" / "keys" / key_of(reference)
        marker.parent.mkdir(parents=True, exist_ok=True)
        marker.write_text(key)

    def _ensure_debian(self) -> None:
        """``debian:trixie-slim``, bootstrapped from the machine's package mirror under the official name."""
        key = key_of(BASE_SUITE, platform.machine(), *BOOTSTRAP_OPTIONS)
        if self._present(BASE_REFERENCE, key):
            return
        with step(f"bootstrapping {BASE_REFERENCE}"), tempfile.TemporaryDirectory(prefix="mogile-debian-") as folder:
            archive = Path(folder, "rootfs.tar")
            command = ["mmdebstrap", "--quiet", *BOOTSTRAP_OPTIONS, BASE_SUITE, str(archive), mirror()]
            run(*command, timeout=BUILD_TIMEOUT_SECONDS)
            Path(folder, "Dockerfile").write_text('FROM scratch\nADD rootfs.tar /\nCMD ["bash"]\n')
            self.buildah("bud", "-t", BASE_REFERENCE, "-f", f"{folder}/Dockerfile", folder)
            self._mark(BASE_REFERENCE, key)
