"""The images of the test cluster."""

import yaml

from harness.images import PRODUCT, VERSION
from harness.layout import REPOSITORY


def test_the_chart_finds_the_images_of_this_checkout_by_itself() -> None:
    chart = yaml.safe_load((REPOSITORY / "deploy" / "helm" / "mogile-operator" / "Chart.yaml").read_text())
    assert (chart["version"], chart["appVersion"]) == (VERSION, VERSION)
    assert {image.tag for image in PRODUCT} == {VERSION}
