"""Cache keys change with what goes in, and only then; a key's folder is complete or not there."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness import images, tools
from harness.cache import building, key_of, tree_key
from harness.errors import HarnessError
from harness.layout import REPOSITORY
from harness.stores import template_key


def test_the_boundary_between_parts_counts() -> None:
    assert key_of("ab", "c") != key_of("a", "bc")
    assert key_of("a") == key_of(b"a")


def test_a_tree_key_sees_content_names_and_modes_but_not_tool_caches(tmp_path: Path) -> None:
    source = tmp_path / "pkg"
    source.mkdir()
    file = source / "a.py"
    file.write_text("1")
    before = tree_key(tmp_path, ["pkg"])
    (source / "__pycache__").mkdir()
    (source / "__pycache__" / "a.cpython-311.pyc").write_bytes(b"x")
    assert tree_key(tmp_path, ["pkg"]) == before
    file.chmod(0o755)
    executable = tree_key(tmp_path, ["pkg"])
    file.write_text("2")
    changed = tree_key(tmp_path, ["pkg"])
    file.rename(source / "b.py")
    assert len({before, executable, changed, tree_key(tmp_path, ["pkg"])}) == 4


def test_a_build_that_fails_leaves_nothing(tmp_path: Path) -> None:
    target = tmp_path / "key"

    def fail() -> None:
        with building(target) as work:
            (work / "half").write_text("x")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert list(tmp_path.iterdir()) == []
    with building(target) as work:
        (work / "whole").write_text("x")
    assert [path.name for path in tmp_path.iterdir()] == ["key"]
    assert (target / "whole").exists()


def test_the_go_modules_pin_what_is_built() -> None:
    for tool in tools.TOOLS:
        assert (tool.folder() / "go.mod").exists(), tool.name
    text = (REPOSITORY / "tools/kubernetes/go.mod").read_text()
    assert tools.required_version(text, "k8s.io/kubernetes") == "v1.36.3"
    assert "v1.36.3" in tools.link_flags(tools.KUBERNETES, text)
    with pytest.raises(HarnessError, match=r"no example\.com/x"):
        tools.required_version(text, "example.com/x")


def test_a_tool_key_depends_on_the_go_version() -> None:
    assert tools.tool_key(tools.ETCD, "1.26.1") != tools.tool_key(tools.ETCD, "1.26.2")
    assert tools.parse_go_version("go version go1.26.8 linux/amd64") == (1, 26, 8)
    assert tools.parse_go_version("go version go1.27 linux/arm64") == (1, 27, 0)


@pytest.mark.parametrize("image", [*images.ALL, images.BUILDER, images.PROJECT], ids=lambda image: image.name)
def test_every_image_has_its_dockerfile_and_its_inputs(image: images.Image) -> None:
    for path in (image.dockerfile, *image.inputs):
        assert (REPOSITORY / path).exists(), path


@pytest.mark.parametrize("image", images.PRODUCT, ids=lambda image: image.name)
def test_product_images_run_as_an_unprivileged_user_and_carry_no_tools(image: images.Image) -> None:
    stages = (REPOSITORY / image.dockerfile).read_text().split("\nFROM ")
    final = stages[-1]
    assert "\nUSER 10001:10001" in final
    assert "apt-get" not in final
    assert "pip" not in final


def test_what_a_dockerfile_copies_is_declared_as_input() -> None:
    """A COPY the key does not cover would use stale images; the snapshot context refuses it, this says it earlier."""
    for image in (*images.BUILDERS.values(), *images.PRODUCT):
        for line in (REPOSITORY / image.dockerfile).read_text().splitlines():
            words = [word for word in line.split() if not word.startswith("--")]
            if words[:1] != ["COPY"] or "--from=" in line:
                continue
            for source in words[1:-1]:
                covered = any(
                    path == source or path.startswith(f"{source}/") or source.startswith(f"{path}/")
                    for path in image.inputs
                )
                assert covered, f"{image.dockerfile}: {source}"


def test_a_store_template_is_named_by_its_images() -> None:
    one = template_key({"a:1": "k1", "b:1": "k2"})
    assert one == template_key({"b:1": "k2", "a:1": "k1"})
    assert one != template_key({"a:1": "k1", "b:1": "k3"})
