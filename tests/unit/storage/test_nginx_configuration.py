"""What goes into the configuration of the read nginx."""

import pytest

from mogile_core.errors import SettingError
from mogile_storage.nginx import check, configuration
from mogile_storage.settings import NginxSettings

CLUSTER = "11111111-2222-4333-8444-555555555555"


def test_only_ready_devices_serve(tmp_path):
    text = configuration(NginxSettings(docroot=str(tmp_path)), CLUSTER, {1: True, 2: False, 12: True})
    assert '"^/dev1/([0-9])' in text
    assert '"^/dev12/([0-9])' in text
    assert '"^/dev2/([0-9])' not in text
    assert 'location ~ "^/dev2(/|$)" { default_type text/plain; return 503' in text
    assert f'add_header X-Mogile-Cluster "{CLUSTER}" always;' in text
    assert "open_file_cache off" in text


def test_without_news_from_the_agent_everything_is_503(tmp_path):
    text = configuration(NginxSettings(docroot=str(tmp_path)), "", {})
    assert "the agent was not heard yet" in text
    assert "X-Mogile-Cluster" not in text
    assert "root " in text


def test_ipv6_is_bracketed(tmp_path):
    assert "listen [::1]:7580 " in configuration(NginxSettings(docroot=str(tmp_path), http_address="::1"), "", {})


def test_paths_that_could_end_a_directive_are_refused(tmp_path):
    odd = tmp_path / "a;b"
    odd.mkdir()
    with pytest.raises(SettingError, match="MOGILE_DOCROOT"):
        check(NginxSettings(docroot=str(odd), run_dir=str(tmp_path)))
