# SPDX-License-Identifier: Apache-2.0
"""Metrics on a TCP address, for a Prometheus that cannot use the API's socket. Off unless configured.

Serves nothing else. May not answer a workload (invariant I7): whoever asks from an endpoint's address gets 403,
whatever its policy allows. An address cannot be forged: the datapath drops what a workload sends from another.
Failure verdict: OSError when the address is taken, and then the agent does not start.
"""

import socket

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from l7agent import measuring
from l7agent.agent import Agent
from l7observe.metrics import CONTENT_TYPE, render


def listen(address: tuple[str, int]) -> socket.socket:
    """Raises OSError with the address in it."""
    family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
    try:
        return socket.create_server(address, family=family, backlog=16)
    except OSError as error:
        raise OSError(error.errno, error.strerror, f"metrics.listen {address[0]} port {address[1]}") from error


async def text(agent: Agent) -> Response:
    """All metrics."""
    return Response(render(await measuring.samples(agent)), media_type=CONTENT_TYPE)


def application(agent: Agent) -> Starlette:
    """The ASGI application."""

    async def metrics(request: Request) -> Response:
        peer = request.client.host.removeprefix("::ffff:") if request.client is not None else ""
        if agent.endpoints.at(peer) is not None:
            return PlainTextResponse("metrics are not for workloads\n", 403)
        return await text(agent)

    return Starlette(routes=[Route("/metrics", metrics, methods=["GET"])])
