# SPDX-License-Identifier: Apache-2.0
"""What the datapath tells: drops always, what passed only while somebody listens, and no more than a rate."""

import os
import time

import pytest

from l7bpf.layouts import EVENT_DROP, EVENT_TRACE, EVENT_VERDICT, METRIC_EVENTS_LOST, METRIC_PASSED_LOST, POINTS, Event

DROPPED, FORWARDED, REDIRECTED, NO_RULE = 2, 1, 5, 133
PER_SECOND = 10_000


def listen(node, what: int, seconds: float = 60.0) -> None:
    node.maps.config.observe(what, time.clock_gettime_ns(time.CLOCK_MONOTONIC) + int(seconds * 1e9))


def kinds(events: tuple[Event, ...]) -> list[tuple[int, int]]:
    return [(event.kinds, event.verdict) for event in events]


@pytest.fixture
def policed(node):
    """web may call the server's port 80, and port 8080 through the proxy."""
    node.enforce(web="egress")
    node.policy(70, "egress", node.SERVER_IDENTITY, 6, 80, cookie=5)
    node.policy(70, "egress", node.SERVER_IDENTITY, 6, 8080, verdict="http", cookie=6)
    return node


def test_what_passes_is_told_to_nobody_unasked(policed, build):
    assert policed.run("from_endpoint", build.tcp(policed.web, policed.server, 4000, 80)).events == ()


def test_a_verdict_is_told_once_for_each_flow_and_names_the_rule(policed, build):
    listen(policed, EVENT_VERDICT)
    packet = build.tcp(policed.web, policed.server, 4000, 80)
    (event,) = policed.run("from_endpoint", packet).events
    assert (event.kinds, event.verdict, event.cookie, event.judged) == (EVENT_VERDICT, FORWARDED, 5, 1)
    assert (event.source_identity, event.destination_identity) == (policed.WEB_IDENTITY, policed.SERVER_IDENTITY)
    assert (POINTS[event.point], event.tcp_flags) == ("from-endpoint", build.SYN)
    acknowledgement = build.tcp(policed.web, policed.server, 4000, 80, build.ACK)
    assert policed.run("from_endpoint", acknowledgement).events == ()
    redirected = policed.run("from_endpoint", build.tcp(policed.web, policed.server, 4001, 8080))
    assert kinds(redirected.events) == [(EVENT_VERDICT, REDIRECTED)]
    assert redirected.events[0].proxy == 1


def test_a_refusal_is_one_event_that_is_both_verdict_and_drop(policed, build):
    packet = build.tcp(policed.web, policed.server, 4000, 81)
    assert kinds(policed.run("from_endpoint", packet).events) == [(EVENT_DROP, DROPPED)]
    listen(policed, EVENT_VERDICT | EVENT_TRACE)
    (event,) = policed.run("from_endpoint", packet).events
    assert (event.kinds, event.verdict, event.reason) == (EVENT_DROP | EVENT_VERDICT, DROPPED, NO_RULE)


def test_a_drop_that_policy_was_not_asked_about_is_no_verdict(policed, build):
    listen(policed, EVENT_VERDICT)
    (event,) = policed.run("from_endpoint", build.tcp(policed.stranger, policed.server, 4000, 80)).events
    assert (event.kinds, event.judged) == (EVENT_DROP, 0)


def test_every_packet_that_passes_is_traced_with_its_direction(policed, build):
    listen(policed, EVENT_TRACE)
    first = policed.run("from_endpoint", build.tcp(policed.web, policed.server, 4000, 80))
    answer = policed.run("from_uplink", build.tcp(policed.server, policed.web, 80, 4000, build.SYN_ACK))
    assert [(e.kinds, e.reply, e.judged, e.tcp_flags) for e in (*first.events, *answer.events)] == [
        (EVENT_TRACE, 0, 1, build.SYN),
        (EVENT_TRACE, 1, 0, build.SYN_ACK),
    ]
    assert answer.events[0].source == policed.web


def test_a_listener_that_died_is_told_nothing_more(policed, build):
    listen(policed, EVENT_VERDICT | EVENT_TRACE, seconds=-1)
    assert policed.run("from_endpoint", build.tcp(policed.web, policed.server, 4000, 80)).events == ()


def test_a_reload_does_not_end_listening(policed, build):
    listen(policed, EVENT_TRACE)
    policed.revision(2)
    assert len(policed.run("from_endpoint", build.tcp(policed.web, policed.server, 4000, 80)).events) == 1


def test_what_goes_beyond_the_rate_is_counted_and_leaves_drops_their_share(policed, build):
    listen(policed, EVENT_TRACE)
    lost = policed.maps.metrics.get(METRIC_PASSED_LOST).packets
    drops_lost = policed.maps.metrics.get(METRIC_EVENTS_LOST).packets
    policed.run("from_endpoint", build.tcp(policed.web, policed.server, 4000, 80))
    runs = 3 * PER_SECOND
    acknowledgement = build.tcp(policed.web, policed.server, 4000, 80, build.ACK)
    result = policed.run("from_endpoint", acknowledgement, repeat=runs)
    assert len(result.events) + policed.maps.metrics.get(METRIC_PASSED_LOST).packets - lost == runs
    assert len(result.events) < runs
    refused = policed.run("from_endpoint", build.tcp(policed.web, policed.server, 4000, 81))
    assert kinds(refused.events) == [(EVENT_DROP, DROPPED)]
    assert policed.maps.metrics.get(METRIC_EVENTS_LOST).packets == drops_lost


def test_a_flood_of_drops_is_held_to_the_rate_and_counted(policed, build):
    lost = policed.maps.metrics.get(METRIC_EVENTS_LOST).packets
    refused = build.udp(policed.web, policed.server, 4000, 81)
    told = 0
    began = time.monotonic()
    for _ in range(50):
        told += len(policed.run("from_endpoint", refused, repeat=1000).events)
    assert told + policed.maps.metrics.get(METRIC_EVENTS_LOST).packets - lost == 50_000
    # One second's worth at once, and what the time that passed allows, on each of the processors.
    assert told <= os.cpu_count() * PER_SECOND * (1 + time.monotonic() - began) + 1


def test_events_that_find_no_room_are_counted(node, build):
    node.enforce(web="egress")
    before = node.maps.metrics.get(METRIC_EVENTS_LOST).packets, node.maps.metrics.get(NO_RULE).packets
    runs = 20000
    result = node.run("from_endpoint", build.udp(node.web, node.server, 40000, 80), repeat=runs)
    lost = node.maps.metrics.get(METRIC_EVENTS_LOST).packets - before[0]
    assert not result.passed
    assert lost > 0
    assert len(result.events) + lost == runs == node.maps.metrics.get(NO_RULE).packets - before[1]
