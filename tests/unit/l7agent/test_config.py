# SPDX-License-Identifier: Apache-2.0
"""The configuration file: what it accepts, and what it says of mistakes."""

from pathlib import Path

import pytest

from l7agent import config
from l7agent.config import Config, ConfigError


def test_an_empty_file_means_every_default() -> None:
    assert config.parse("config.yaml", "") == Config()


def test_a_section_keeps_the_defaults_it_does_not_name() -> None:
    parsed = config.parse("config.yaml", "audit:\n  path: /tmp/a.jsonl\n")
    assert parsed.audit.path == "/tmp/a.jsonl"  # noqa: S108
    assert parsed.audit.backups == Config().audit.backups


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("htp: {}", "config.yaml:1:1: unknown field htp (hint: did you mean http?)"),
        ("audit:\n  pathh: /x", "config.yaml:2:3"),
        ("http: {head_timeout: -1}", "config.yaml:1:22"),
        ("http_workers: 0", "config.yaml:1:15"),
        ("http_workers: many", "http_workers"),
        ("uplinks: ext0", "uplinks"),
        ("state: var", "absolute path"),
        ("log_level: loud", "log_level"),
        ("attach: xdp", "attach"),
        ("http: {ambiguous_paths: decode}", "ambiguous_paths"),
        ("http: {redact: {path: true}}", "unknown field path"),
        ("policy_audit_mode: perhaps", "config.yaml:1:20"),
        ("labels: ['k8s:(']", "labels: label rule 'k8s:('"),
        ("labels: ['!']", "names no label"),
        ("a: [", "config.yaml:1"),
        ("- a", "config.yaml:1"),
    ],
)
def test_a_mistake_is_named_with_its_place(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        config.parse("config.yaml", text)
    assert message in str(caught.value)


def test_a_file_named_by_hand_must_exist(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file"):
        config.load(tmp_path / "none.yaml")


def test_a_file_that_is_not_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="cannot be read"):
        config.load(path)


@pytest.mark.parametrize(
    ("listen", "address"),
    [("", None), (":9964", ("127.0.0.1", 9964)), ("192.0.2.1:1", ("192.0.2.1", 1)), ("[::1]:9964", ("::1", 9964))],
)
def test_metrics_are_served_where_the_file_says(listen: str, address: tuple[str, int] | None) -> None:
    parsed = config.parse("c.yaml", f"metrics: {{listen: '{listen}'}}")
    assert config.metrics_address(parsed.metrics.listen) == address


@pytest.mark.parametrize("listen", ["127.0.0.1", "localhost:9964", "127.0.0.1:0", "127.0.0.1:65536", "::1:"])
def test_an_address_for_metrics_that_is_none_is_refused(listen: str) -> None:
    with pytest.raises(ConfigError, match=r"c\.yaml: metrics\.listen: "):
        config.parse("c.yaml", f"metrics: {{listen: '{listen}'}}")


@pytest.mark.parametrize("size", [4097, 1 << 20 | 4096, 2048, 0])
def test_a_ring_of_events_is_a_power_of_two_and_a_page_at_least(size: int) -> None:
    with pytest.raises(ConfigError, match=r"c\.yaml:.*event_bytes"):
        config.parse("c.yaml", f"maps: {{event_bytes: {size}}}")
    assert config.parse("c.yaml", "maps: {event_bytes: 8192}").maps.event_bytes == 8192
