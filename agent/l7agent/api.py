# SPDX-License-Identifier: Apache-2.0
"""The API on the unix socket: HTTP in, JSON out, nothing decided here. Paths and shapes: docs/reference/api.md."""

import asyncio
import contextlib
import grp
import os
import platform
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from l7agent import bpf_views, endpoints, flowstream, fqdn_views, health, host, measuring, metrics_port, views
from l7agent.agent import Agent
from l7agent.endpoints import Endpoint
from l7agent.history import UnknownRevision
from l7agent.reload import ReloadFailed
from l7agent.workload import WorkloadError
from l7bpf.errors import DatapathError
from l7observe.hub import TooManySubscribers
from l7observe.metrics import FAMILIES, PREFIX, pairs
from l7policy.errors import PolicyErrors
from l7policy.policydoc import Source
from l7policy.scalars import match_name, match_pattern

T = TypeVar("T")


class EndpointRequest(msgspec.Struct, forbid_unknown_fields=True):
    """Body of POST /v1/endpoints."""

    labels: list[str]
    netns: str = ""
    cgroup: str = ""
    name: str = ""
    interface: str = ""
    ports: list[str] = []
    audit: bool | None = None


class LabelsRequest(msgspec.Struct, forbid_unknown_fields=True):
    """Body of PATCH /v1/endpoints/{id or name}/labels."""

    add: list[str] = []
    delete: list[str] = []


class ConfigRequest(msgspec.Struct, forbid_unknown_fields=True):
    """Body of PATCH /v1/endpoints/{id or name}/config. None: as declared and configured."""

    audit: bool | None


class RollbackRequest(msgspec.Struct, forbid_unknown_fields=True):
    """Body of POST /v1/rules/rollback."""

    revision: int | None = None


class SourceFile(msgspec.Struct, forbid_unknown_fields=True):
    """One policy file sent by a client."""

    path: str
    text: str


class DiffRequest(msgspec.Struct, forbid_unknown_fields=True):
    """Body of POST /v1/rules/diff; no sources means the policy directory."""

    sources: list[SourceFile] | None = None


class CleanRequest(msgspec.Struct, forbid_unknown_fields=True):
    """Body of POST /v1/fqdn/cache/clean."""

    pattern: str


class Problem(Exception):
    """An answer that is not a success."""

    def __init__(self, status: int, error: str, hint: str = "", problems: list[dict[str, Any]] | None = None) -> None:
        super().__init__(error)
        self.status = status
        self.body = {"error": error, "hint": hint, "problems": problems or []}


def reply(value: object, status: int = 200) -> Response:
    """A JSON response."""
    return Response(msgspec.json.encode(value), status, media_type="application/json")


async def body(request: Request, kind: type[T]) -> T:
    """The request's body. Raises Problem."""
    try:
        return msgspec.json.decode(await request.body() or b"{}", type=kind)
    except msgspec.MsgspecError as error:
        raise Problem(400, f"the request's body is not what {request.url.path} takes: {error}") from error


@contextlib.contextmanager
def problems() -> Iterator[None]:
    """Turns what operators do wrong into answers; bugs stay exceptions."""
    try:
        yield
    except PolicyErrors as error:
        raise Problem(422, "the policies are invalid; nothing was changed", "", views.problems(error)) from error
    except endpoints.Conflict as error:
        raise Problem(409, str(error)) from error
    except endpoints.NoSuchEndpoint as error:
        raise Problem(404, str(error), "l7ctl endpoint list shows them") from error
    except endpoints.EndpointError as error:
        raise Problem(400, str(error)) from error
    except WorkloadError as error:
        raise Problem(
            404 if error.missing else 400,
            str(error),
            "create it first; `ip netns list` and `systemd-cgls` show what exists" if error.missing else "",
        ) from error
    except UnknownRevision as error:
        raise Problem(404, str(error), "l7ctl rules revisions lists what is kept") from error
    except flowstream.BadQuery as error:
        raise Problem(400, str(error), "docs/reference/api.md") from error
    except TooManySubscribers as error:
        raise Problem(503, str(error), "end a `l7ctl monitor`") from error
    except DatapathError as error:
        raise Problem(503, str(error)) from error
    except ReloadFailed as error:
        raise Problem(503, str(error), "nothing was changed; `l7ctl status` shows the processes and maps") from error


Handler = Callable[[Request], Awaitable[Response]]


class Api:
    """The routes, over one agent."""

    def __init__(self, agent: Agent) -> None:
        self._agent = agent

    async def status(self, _: Request) -> Response:
        fills = await self._agent.fills.get()
        found = await asyncio.to_thread(health.look, self._agent.datapath, tuple(self._agent.endpoints))
        return reply(views.status(self._agent, fills, found))

    async def endpoints(self, _: Request) -> Response:
        return reply(views.endpoints(self._agent))

    async def add_endpoint(self, request: Request) -> Response:
        wanted = await body(request, EndpointRequest)
        declared = endpoints.declare(
            wanted.netns,
            wanted.labels,
            wanted.name,
            wanted.interface,
            cgroup=wanted.cgroup,
            ports=wanted.ports,
            audit=wanted.audit,
        )
        endpoint = await self._agent.add_endpoint(declared)
        return reply(views.endpoint(self._agent, endpoint), 201)

    def _endpoint(self, key: str) -> Endpoint:
        endpoint = self._agent.endpoints.find(key)
        if endpoint is None and key == host.NAME:
            raise endpoints.NoSuchEndpoint(
                "host is the node itself: its options are node.audit and node.labels of the configuration"
            )
        if endpoint is None:
            raise endpoints.NoSuchEndpoint(f"no endpoint {key!r}")
        return endpoint

    async def endpoint(self, request: Request) -> Response:
        return reply(views.endpoint(self._agent, self._endpoint(request.path_params["key"])))

    async def remove_endpoint(self, request: Request) -> Response:
        await self._agent.remove_endpoint(self._endpoint(request.path_params["key"]))
        return Response(status_code=204)

    async def relabel_endpoint(self, request: Request) -> Response:
        wanted = await body(request, LabelsRequest)
        changed = await self._agent.change_endpoint(
            request.path_params["key"],
            lambda one: replace(one, declared=endpoints.relabelled(one.declared, wanted.add, wanted.delete)),
        )
        return reply(views.endpoint(self._agent, changed))

    async def configure_endpoint(self, request: Request) -> Response:
        wanted = await body(request, ConfigRequest)
        key = self._endpoint(request.path_params["key"]).declared.name
        changed = await self._agent.change_endpoint(key, lambda one: replace(one, audit=wanted.audit))
        return reply(views.endpoint(self._agent, changed))

    async def identities(self, _: Request) -> Response:
        return reply(views.identities(self._agent))

    async def rules(self, _: Request) -> Response:
        return reply(views.rules(self._agent))

    async def sources(self, _: Request) -> Response:
        return reply(views.sources(self._agent))

    async def revisions(self, _: Request) -> Response:
        return reply(views.revisions(self._agent))

    async def reload(self, _: Request) -> Response:
        return reply(views.change(await self._agent.reload()))

    async def rollback(self, request: Request) -> Response:
        wanted = await body(request, RollbackRequest)
        return reply(views.change(await self._agent.rollback(wanted.revision)))

    async def diff(self, request: Request) -> Response:
        wanted = await body(request, DiffRequest)
        sources = None if wanted.sources is None else tuple(Source(s.path, s.text) for s in wanted.sources)
        return reply(views.difference(*self._agent.compare(sources)))

    async def fqdn_cache(self, _: Request) -> Response:
        return reply(fqdn_views.cache(self._agent.endpoints, self._policy_users(), await self._dns("cache")))

    async def fqdn_clean(self, request: Request) -> Response:
        wanted = await body(request, CleanRequest)
        try:
            pattern = match_pattern(wanted.pattern)
        except ValueError as error:
            raise Problem(400, str(error)) from error
        return reply({"forgotten": await self._dns(f"clean {pattern.match_pattern}")})

    async def fqdn_names(self, _: Request) -> Response:
        selectors = self._agent.snapshot.selectors if self._agent.snapshot else ()
        return reply(fqdn_views.names(selectors, await self._dns("cache")))

    async def fqdn_explain(self, request: Request) -> Response:
        try:
            name = match_name(request.query_params.get("name", "")).match_name
        except ValueError as error:
            raise Problem(400, str(error)) from error
        agent = self._agent
        policies = agent.compiled.endpoint_policies if agent.compiled else {}
        rows = await self._dns("cache")
        return reply(fqdn_views.explain(name, agent.endpoints, policies, self._policy_users(), rows))

    def _policy_users(self) -> fqdn_views.Users:
        users: dict[int, list[str]] = {}
        for endpoint in self._agent.endpoints:
            users.setdefault(self._agent.kernel.policy_of(endpoint.id), []).append(endpoint.declared.name)
        return users

    async def fqdn_status(self, _: Request) -> Response:
        return reply(await self._dns("status"))

    async def fqdn_audit(self, _: Request) -> Response:
        rows = await self._dns("cache")
        agent = self._agent
        return reply(await asyncio.to_thread(fqdn_views.unexplained, agent.endpoints, agent.datapath.maps, rows))

    async def _dns(self, question: str) -> Any:
        try:
            return await self._agent.supervisor.dns.ask(question)
        except (ConnectionError, TimeoutError) as error:
            raise Problem(503, f"the DNS process does not answer: {error}") from error

    async def flows(self, request: Request) -> Response:
        pairs = request.query_params.multi_items()
        query = {key: [value for name, value in pairs if name == key] for key, _ in pairs}
        stream = flowstream.lines(self._agent.observation, flowstream.wish(query), platform.node())
        # The first line is asked for here, so that a refusal is an answer and not a stream that breaks off.
        first = await anext(stream)

        async def everything() -> AsyncIterator[bytes]:
            try:
                yield first
                async for part in stream:
                    yield part
            finally:
                await stream.aclose()

        return StreamingResponse(everything(), media_type="application/x-ndjson")

    async def metrics(self, _: Request) -> Response:
        return reply(
            [
                {"name": f"{PREFIX}{one.family}{one.suffix}", "labels": dict(pairs(one)), "value": one.value}
                | {"type": FAMILIES[one.family].kind}
                for one in await measuring.samples(self._agent)
            ]
        )

    async def prometheus(self, _: Request) -> Response:
        return await metrics_port.text(self._agent)

    async def bpf_policy(self, request: Request) -> Response:
        key = request.query_params.get("endpoint", "")
        return reply(bpf_views.policy(self._agent, self._endpoint(key) if key else None))

    async def bpf_ipcache(self, request: Request) -> Response:
        address = request.query_params.get("covering", "")
        if not address:
            return reply(bpf_views.ipcache(self._agent))
        try:
            found = await asyncio.to_thread(bpf_views.covering, self._agent, address)
        except ValueError as error:
            raise Problem(400, str(error)) from error
        if found is None:
            raise Problem(404, f"no prefix covers {address}: it is reserved:world", "l7ctl bpf ipcache list")
        return reply(found)

    async def bpf_conntrack(self, request: Request) -> Response:
        key = request.query_params.get("endpoint", "")
        name = self._endpoint(key).declared.name if key else ""
        known = bpf_views.names(self._agent)
        return reply(await asyncio.to_thread(bpf_views.conntrack, self._agent, known, name))

    def application(self) -> Starlette:
        """The ASGI application."""

        def guarded(handler: Handler) -> Handler:
            async def answer(request: Request) -> Response:
                # A client still sending its body when the answer is there already would take the end of the connection
                # for a daemon that is gone.
                await request.body()
                try:
                    with problems():
                        return await handler(request)
                except Problem as problem:
                    return reply(problem.body, problem.status)

            return answer

        def route(method: str, path: str, handler: Handler) -> Route:
            return Route(f"/v1/{path}", guarded(handler), methods=[method])

        return Starlette(
            exception_handlers={HTTPException: _nothing_there, Exception: _bug},
            routes=[
                route("GET", "status", self.status),
                route("GET", "endpoints", self.endpoints),
                route("POST", "endpoints", self.add_endpoint),
                route("PATCH", "endpoints/{key:path}/labels", self.relabel_endpoint),
                route("PATCH", "endpoints/{key:path}/config", self.configure_endpoint),
                route("GET", "endpoints/{key:path}", self.endpoint),
                route("DELETE", "endpoints/{key:path}", self.remove_endpoint),
                route("GET", "identities", self.identities),
                route("GET", "rules", self.rules),
                route("GET", "rules/sources", self.sources),
                route("GET", "rules/revisions", self.revisions),
                route("POST", "rules/reload", self.reload),
                route("POST", "rules/rollback", self.rollback),
                route("POST", "rules/diff", self.diff),
                route("GET", "fqdn/cache", self.fqdn_cache),
                route("POST", "fqdn/cache/clean", self.fqdn_clean),
                route("GET", "fqdn/names", self.fqdn_names),
                route("GET", "fqdn/explain", self.fqdn_explain),
                route("GET", "fqdn/audit", self.fqdn_audit),
                route("GET", "fqdn/status", self.fqdn_status),
                route("GET", "flows", self.flows),
                Route("/metrics", guarded(self.prometheus), methods=["GET"]),
                route("GET", "metrics", self.metrics),
                route("GET", "bpf/policy", self.bpf_policy),
                route("GET", "bpf/ipcache", self.bpf_ipcache),
                route("GET", "bpf/conntrack", self.bpf_conntrack),
            ],
        )


async def _nothing_there(request: Request, error: Exception) -> Response:
    """No such path, or not by this method."""
    assert isinstance(error, HTTPException)  # noqa: S101 - what it is registered for
    problem = Problem(
        error.status_code, f"{request.method} {request.url.path}: {error.detail}", "docs/reference/api.md"
    )
    return reply(problem.body, error.status_code)


async def _bug(request: Request, error: Exception) -> Response:
    """What nobody foresaw, in the shape of every other answer; the server logs the traceback."""
    return reply(Problem(500, f"{request.url.path}: {type(error).__name__}", "l7d's log says more").body, 500)


class SocketInUse(Exception):
    """Another agent serves the socket."""


def listen(path: Path, group: str) -> socket.socket:
    """A listening unix socket of mode 0660, owned by the group if it exists. Raises SocketInUse, OSError."""
    path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    if path.exists():
        with contextlib.closing(socket.socket(socket.AF_UNIX)) as probe:
            try:
                probe.connect(str(path))
            except OSError:
                path.unlink()
            else:
                raise SocketInUse(f"{path}: another l7d agent is running")
    server = socket.socket(socket.AF_UNIX)
    old_mask = os.umask(0o117)
    try:
        server.bind(str(path))
    finally:
        os.umask(old_mask)
    with contextlib.suppress(KeyError):
        os.chown(path, 0, grp.getgrnam(group).gr_gid)
    server.listen(128)
    return server


class _Server(uvicorn.Server):
    """Leaves the signals to the agent."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def serve(application: Starlette, listener: socket.socket) -> None:
    """Answers until cancelled."""
    config = uvicorn.Config(application, log_config=None, access_log=False, lifespan="off")
    await _Server(config).serve(sockets=[listener])
