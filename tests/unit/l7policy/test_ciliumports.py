# SPDX-License-Identifier: Apache-2.0
import pytest

from l7policy import ciliumports, yamltree
from l7policy.ciliumports import Ports
from l7policy.model import FqdnPeer, HeaderMatch, HttpRule, Port
from l7policy.reader import Reader
from l7policy.verdict import Direction, Protocol


def read(text: str, direction: Direction = Direction.EGRESS) -> tuple[Ports, list[str]]:
    reader = Reader()
    (node,) = yamltree.parse("f", text)
    ports = ciliumports.read(reader, node, direction, deny=False)
    return ports, [f"{e.column}: {e.message}" for e in reader.errors]


def accepted(text: str, direction: Direction = Direction.EGRESS) -> Ports:
    ports, errors = read(text, direction)
    assert errors == []
    return ports


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{port: '80'}", Port(Protocol.ANY, 80, 80)),
        ("{port: 80}", Port(Protocol.ANY, 80, 80)),
        ("{port: '80', protocol: TCP}", Port(Protocol.TCP, 80, 80)),
        ("{port: '53', protocol: UDP}", Port(Protocol.UDP, 53, 53)),
        ("{port: '53', protocol: ANY}", Port(Protocol.ANY, 53, 53)),
        ("{port: '9', protocol: SCTP}", Port(Protocol.SCTP, 9, 9)),
        ("{port: '0', protocol: TCP}", Port(Protocol.TCP, 0, 65535)),
        ("{port: '80', endPort: 90, protocol: TCP}", Port(Protocol.TCP, 80, 90)),
        ("{port: '80', endPort: 80}", Port(Protocol.ANY, 80, 80)),
        ("{port: '80', endPort: 0}", Port(Protocol.ANY, 80, 80)),
        ("{port: '65535'}", Port(Protocol.ANY, 65535, 65535)),
        ("{port: http}", Port(Protocol.ANY, name="http")),
        ("{port: DNS-tcp, protocol: TCP}", Port(Protocol.TCP, name="dns-tcp")),
    ],
)
def test_a_port_without_protocol_is_of_any_and_port_0_is_every_port(text: str, expected: Port) -> None:
    assert accepted(f"ports: [{text}]") == Ports((expected,))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{}", "9: an element of ports needs the field port"),
        ("{port: '65536'}", "16: port: '65536' is not a port: a number from 0 to 65535"),
        ("{port: '-1'}", "16: port: '-1' is not a port: a number from 0 to 65535"),
        ("{port: '080'}", "16: port: '080' is not a port: a number from 0 to 65535"),
        ("{port: http, endPort: 90}", "31: a port with a name takes no endPort"),
        (
            "{port: a-name-of-more-than-15}",
            "16: port: 'a-name-of-more-than-15' is not a port: a number from 0 to 65535",
        ),
        (
            "{port: http, protocol: GRE}",
            "32: protocol: GRE is not supported: Cilium, too, knows it with enable-extended-ip-protocols only",
        ),
        ("{port: 8.5}", "16: port must be a number, not a fraction"),
        ("{port: '80', endPort: 79}", "31: endPort 79 is lower than port 80"),
        ("{port: '80', endPort: 65536}", "31: endPort: '65536' is not a port: a number from 0 to 65535"),
        ("{port: '80', endPort: [1]}", "31: endPort must be a number, not a list"),
        ("{port: '0', endPort: 80}", "30: port 0 is every port and takes no endPort"),
        ("{port: '80', protocol: tcp}", "32: protocol: unknown protocol 'tcp'; did you mean TCP?"),
        ("{port: '80', protocol: ICMP}", "32: protocol: ICMP has types and no ports; write icmps instead of toPorts"),
        ("{port: '80', protocol: 6}", "32: protocol must be text, not a number"),
        ("{port: '80', endport: 90}", "22: unknown field endport"),
    ],
)
def test_a_port_that_is_none_is_refused(text: str, expected: str) -> None:
    assert read(f"ports: [{text}]")[1] == [expected]


@pytest.mark.parametrize("text", ["{}", "ports: []", "rules: {http: [{}]}"])
def test_an_element_without_ports_is_refused_since_the_model_would_read_all_ports(text: str) -> None:
    assert "1: an element of toPorts needs ports" in [e.replace("8:", "1:") for e in read(text)[1]]


def test_at_most_40_ports_are_allowed() -> None:
    forty = ", ".join(f"{{port: {number}}}" for number in range(1, 41))
    assert len(accepted(f"ports: [{forty}]").ports) == 40
    assert read(f"ports: [{forty}, {{port: 41}}]")[1] == ["8: 41 ports in one element; at most 40 are allowed"]


WEB = "ports: [{port: '80', protocol: TCP}]"
RESOLVER = "ports: [{port: '53'}]"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[{}]", (HttpRule(),)),
        ("[{method: GET}]", (HttpRule(method="GET"),)),
        ("[{path: /public/.*}]", (HttpRule(path="/public/.*"),)),
        ("[{host: 'api[.]example[.]com'}]", (HttpRule(host="api[.]example[.]com"),)),
        (
            "[{headers: ['X-Key: true', X-Other]}]",
            (HttpRule(headers=(HeaderMatch("X-Key", "true"), HeaderMatch("X-Other"))),),
        ),
        (
            "[{method: GET, path: /a}, {method: POST, path: /b}, {method: GET, path: /a}]",
            (HttpRule("GET", "/a"), HttpRule("POST", "/b")),
        ),
    ],
)
def test_http_rules(text: str, expected: tuple[HttpRule, ...]) -> None:
    for direction in Direction:
        assert accepted(f"{{{WEB}, rules: {{http: {text}}}}}", direction).http == expected


def test_http_rules_may_stand_on_ranges() -> None:
    assert accepted("{ports: [{port: '80', endPort: 90, protocol: TCP}], rules: {http: [{}]}}").http == (HttpRule(),)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[{matchName: A.example}]", (FqdnPeer(match_name="a.example."),)),
        ("[{matchPattern: '*'}]", (FqdnPeer(match_pattern="*"),)),
    ],
)
def test_dns_rules(text: str, expected: tuple[FqdnPeer, ...]) -> None:
    for protocol in ("UDP", "TCP", "ANY"):
        found = accepted(f"{{ports: [{{port: '53', protocol: {protocol}}}], rules: {{dns: {text}}}}}")
        assert (found.dns, found.http) == (expected, None)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "{ports: [{port: '80', protocol: UDP}], rules: {http: [{}]}}",
            "33: L7 rules can only apply to TCP (not UDP) except for DNS rules",
        ),
        (
            "{ports: [{port: '80'}], rules: {http: [{}]}}",
            "10: L7 rules can only apply to TCP (not ANY) except for DNS rules",
        ),
        (
            "{ports: [{port: '53', protocol: SCTP}], rules: {dns: [{matchName: a}]}}",
            "33: L7 rules can only apply to TCP (not SCTP) except for DNS rules",
        ),
        ("{ports: [{port: '0', protocol: TCP}], rules: {http: [{}]}}", "17: L7 rules can not be used when a port is 0"),
        (
            "{ports: [{port: '53', endPort: 54}], rules: {dns: [{matchName: a}]}}",
            "32: DNS rules do not support port ranges",
        ),
        (f"{{{WEB}, rules: {{http: [{{}}], dns: [{{matchName: a}}]}}}}", "60: combining http and dns is not supported"),
        (f"{{{WEB}, rules: {{}}}}", "47: rules is empty"),
        (f"{{{WEB}, rules: {{http: []}}}}", "54: http is empty"),
        (f"{{{RESOLVER}, rules: {{dns: []}}}}", "38: dns is empty"),
        (f"{{{RESOLVER}, rules: {{dns: [{{}}]}}}}", "39: a DNS rule needs matchName or matchPattern"),
        (f"{{{WEB}, rules: {{http: [{{path: '('}}]}}}}", "62: path: RE2 refuses '(': missing ): ("),
        (
            f"{{{WEB}, rules: {{http: [{{method: 'a(?=b)'}}]}}}}",
            "64: method: RE2 refuses 'a(?=b)': invalid perl operator: (?=",
        ),
        (f"{{{WEB}, rules: {{http: [{{host: '['}}]}}}}", "62: host: RE2 refuses '[': missing ]: ["),
        (f"{{{WEB}, rules: {{http: [{{path: ''}}]}}}}", "62: path: is empty; leave the field out to allow anything"),
        (
            f"{{{WEB}, rules: {{http: [{{headers: ['X-Key:true']}}]}}}}",
            "66: header: 'X-Key:true' is not the name of a header; between name and value belongs ': '",
        ),
        (f"{{{WEB}, rules: {{http: [{{headers: [X-Key: true]}}]}}}}", "66: header must be text, not a mapping"),
        (f"{{{WEB}, rules: {{http: [{{paths: x}}]}}}}", "56: unknown field paths"),
        (f"{{{WEB}, rules: {{HTTP: []}}}}", "48: unknown field HTTP"),
    ],
)
def test_l7_rules_that_could_not_be_enforced_as_written_are_refused(text: str, expected: str) -> None:
    assert expected in read(text)[1]


def test_dns_rules_are_for_egress_only() -> None:
    text = f"{{{RESOLVER}, rules: {{dns: [{{matchName: a}}]}}}}"
    assert read(text, Direction.INGRESS)[1] == ["33: DNS rules are for egress only"]


def test_server_names_are_patterns_in_lower_case() -> None:
    text = "ports: [{port: '443', protocol: TCP}]\nserverNames: [WWW.example.com, '*.example.com', '**', '*']"
    assert accepted(text).server_names == ("www.example.com", "*.example.com", "**", "*")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{ports: [{port: '443', protocol: TCP}], serverNames: []}", "serverNames is empty"),
        ("{ports: [{port: '443', protocol: TCP}], serverNames: ['***.com']}", "'***.com' is not a pattern of server"),
        ("{ports: [{port: '443', protocol: TCP}], serverNames: [x.com.]}", "it ends in a dot"),
        ("{ports: [{port: '443'}], serverNames: [a]}", "serverNames can only apply to TCP (not ANY)"),
        ("{ports: [{port: '443', protocol: UDP}], serverNames: [a]}", "serverNames can only apply to TCP (not UDP)"),
        ("{ports: [{port: '0', protocol: TCP}], serverNames: [a]}", "serverNames can not be used when a port is 0"),
        (
            "{ports: [{port: '443', protocol: TCP}], serverNames: [a], rules: {http: [{}]}}",
            "combining serverNames and rules is not supported",
        ),
    ],
)
def test_server_names_that_could_not_be_enforced_as_written_are_refused(text: str, expected: str) -> None:
    assert any(expected in error for error in read(text)[1])


def test_l7_rules_may_stand_on_a_port_with_a_name() -> None:
    found = accepted("ports: [{port: web, protocol: TCP}]\nrules: {http: [{}]}")
    assert found.ports == (Port(Protocol.TCP, name="web"),)
