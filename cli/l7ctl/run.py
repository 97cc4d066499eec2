# SPDX-License-Identifier: Apache-2.0
"""`l7ctl run`: one command under policy, in a cgroup of its own, and what it did.

Under the running daemon's policies, or, where none runs, under a private daemon's that is gone with the command. Exit
code: the command's own, or 125 to 127 as of env(1) if it could not be started.
"""

import contextlib
import errno
import json
import os
import re
import shutil
import signal
import stat
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any, Final, TextIO

import click

from l7ctl import asking, oneshot
from l7ctl.client import Client
from l7ctl.confinement import Confinement
from l7ctl.errors import ExitCode, Failure, Unreachable
from l7ctl.output import count, table
from l7ctl.session import Session, pass_session
from l7ctl.tally import COLUMNS, Tally
from l7observe import flowlines
from l7observe.columns import printable
from l7observe.hub import Lost
from l7observe.record import AuditRecord
from l7policy import documents

NOT_FOUND: Final = 127
SIGNALLED: Final = 128
SETTLE_SECONDS: Final = 0.3
"""Records are handed over in batches: how long the last ones may take."""
_DEVICES: Final = (Path("/dev"), Path("/dev/fd"))
_FORWARDED: Final = (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)

_WATCHED: Final = """\
# Nothing is allowed, so that everything is told of; names are looked into.
apiVersion: cilium.io/v2
kind: CiliumClusterwideNetworkPolicy
metadata: {name: l7ctl-run}
spec:
  endpointSelector: {}
  egress:
    - toPorts:
        - ports: [{port: "53", protocol: ANY}]
          rules: {dns: [{matchPattern: "*"}]}
"""


@click.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@click.option("--policy", "-p", "policies", multiple=True, metavar="FILE|DIR", help="Policies. May be repeated.")
@click.option("--audit", is_flag=True, help="Let pass what policy denies, and tell of it.")
@click.option("--label", "-l", "labels", multiple=True, metavar="KEY=VALUE", help="Its labels.  [default: app=COMMAND]")
@click.option("--user", "-u", default="", metavar="NAME|UID", help="As whom it runs.  [default: as you]")
@click.option(
    "--suggest", type=click.Path(path_type=Path), metavar="FILE", help="Write a policy that allows just this."
)
@click.option("--report", type=click.Path(path_type=Path), metavar="FILE", help="Write what it did, as JSON.")
@click.option("--quiet", "-q", is_flag=True, help="Do not tell at the end what it did.")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED, metavar="-- COMMAND…")
@pass_session
@click.pass_context
def run(
    context: click.Context,
    session: Session,
    policies: tuple[str, ...],
    audit: bool,
    labels: tuple[str, ...],
    user: str,
    suggest: Path | None,
    report: Path | None,
    quiet: bool,
    command: tuple[str, ...],
) -> None:
    """Run a command under policy, and tell what it did.

    Without a running daemon, one is started for the command alone: give it --policy, or --audit to watch what the
    command does while nothing is denied. With a daemon, the command is one of its endpoints until it ends.

    What it did is told on standard error; its exit code is passed on. Needs root. The command cannot leave its cgroup;
    one that might ask another service of the machine to work for it should run as a --user of its own.

    \b
    Examples:
      l7ctl run --audit -- curl -s http://example.com/
      l7ctl run --audit --suggest pip.yaml -- pip download flask
      l7ctl run --policy pip.yaml -- pip download flask
      l7ctl run --label app=web --user www-data -- ./server
    """
    if shutil.which(command[0]) is None:
        click.echo(f"l7ctl: {printable(command[0])}: command not found", err=True)
        context.exit(NOT_FOUND)
    told = labels or (f"app={_label(command[0])}",)
    with contextlib.ExitStack() as stack:
        # Before the command starts: it could put a link to another file there, which root would write to at the end.
        reported = stack.enter_context(_opened(report)) if report is not None else None
        policy = stack.enter_context(_opened(suggest)) if suggest is not None else None
        client = stack.enter_context(_daemon(session, policies, audit))
        confinement = Confinement.make()
        stack.callback(confinement.remove)
        tally = Tally(confinement.folder.name)
        body = {"cgroup": confinement.path, "name": tally.endpoint, "labels": list(told), "audit": audit}
        client.post("/endpoints", body)
        stack.callback(_leave, client, tally.endpoint)
        watched = _watched(client, tally) if not quiet or reported or policy else contextlib.nullcontext()
        with watched:
            code = _run(confinement.command(command, user))
        if not quiet:
            _tell(tally, audited=audit, suggested=suggest is not None)
        if reported is not None:
            _write(reported, json.dumps(tally.plain() | {"exit_code": code}, indent=2) + "\n")
        if policy is not None:
            pairs = dict(label.partition("=")[::2] for label in told)
            _write(policy, tally.policy(pairs, _label(command[0])))
    context.exit(code)


@contextlib.contextmanager
def _daemon(session: Session, policies: tuple[str, ...], audit: bool) -> Iterator[Client]:
    """The daemon whose policies hold: the one that runs, or a private one. Raises Failure."""
    try:
        session.client.get("/status")
    except Unreachable:
        pass
    else:
        if policies:
            raise Failure(
                "--policy is for a machine where no l7d runs",
                "put the file into its policies.d, and `l7ctl rules reload`",
                code=ExitCode.USAGE,
            )
        yield session.client
        return
    if not policies and not audit:
        raise Failure(
            "no l7d runs here, and no policy was given",
            "give --policy FILE, or --audit to watch what the command does",
            code=ExitCode.USAGE,
        )
    with asking.usage():
        sources = asking.sources(policies)
        documents.load_enforced(sources)
    texts = {f"{number:03}.yaml": source.text for number, source in enumerate(sources)} or {"watched.yaml": _WATCHED}
    oneshot.sweep()
    with oneshot.daemon(texts) as client:
        yield client


def _leave(client: Client, endpoint: str) -> None:
    """Takes the endpoint away. The command has ended: its exit code counts, whatever has become of the daemon."""
    try:
        client.delete("/endpoints", endpoint)
    except Failure as failure:
        failure.show()
        click.echo(f"l7ctl: endpoint {endpoint} is left behind; later: l7ctl endpoint remove {endpoint}", err=True)


@contextlib.contextmanager
def _watched(client: Client, tally: Tally) -> Iterator[None]:
    """Tallies what the workload does until the block ends, and a moment longer. Raises Failure if that cannot begin."""
    query = [("type", kind) for kind in ("policy-verdict", "drop", "l7")] + [("follow", "true")]
    lines = client.stream("/flows", query)
    if next(lines, None) is None:
        raise Failure("l7d went away before the command began")

    def listen() -> None:
        for text in lines:
            match flowlines.decode(text):
                case AuditRecord() as one:
                    tally.add(one)
                case Lost(count=count):
                    tally.lost += count
                case _:  # a later daemon's kind of line
                    pass
        tally.broken = "l7d went away while the command ran"

    listener = threading.Thread(target=listen, daemon=True)
    listener.start()
    yield
    listener.join(SETTLE_SECONDS)


def _run(argv: list[str]) -> int:
    """Runs it to its end; signals for this process are the command's. Returns its exit code."""
    child = subprocess.Popen(argv)

    def forward(number: int, _: FrameType | None) -> None:
        with contextlib.suppress(ProcessLookupError):
            child.send_signal(number)

    before: dict[int, Any] = {number: signal.signal(number, forward) for number in _FORWARDED}
    # The terminal sends this one to both.
    before[signal.SIGINT] = signal.signal(signal.SIGINT, lambda *_: None)
    try:
        code = child.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return SIGNALLED - code if code < 0 else code


def _tell(tally: Tally, *, audited: bool, suggested: bool) -> None:
    lines = tally.sorted()
    click.echo("", err=True)
    if tally.broken:
        click.echo(f"l7ctl: {tally.broken}; what it did after that is not known", err=True)
    if tally.lost:
        click.echo(f"l7ctl: {count(tally.lost, 'flow')} came too fast to be told of", err=True)
    if not lines and not tally.broken:
        click.echo("l7ctl: it did not use the network", err=True)
        return
    table(COLUMNS, lines, err=True)
    would = "would be denied, and passed because of --audit" if audited else "denied"
    click.echo(f"l7ctl: {count(tally.denied, 'flow')} {would}; {count(len(tally.asked), 'name')} asked for", err=True)
    if tally.others:
        click.echo(f"l7ctl: {tally.others} more, of kinds beyond the first {len(lines)}", err=True)
    if tally.denied and not suggested:
        click.echo("hint: --suggest FILE writes a policy that allows just this", err=True)


def _label(command: str) -> str:
    """What a command is called, as a label's value or a name."""
    return re.sub(r"[^a-z0-9]+", "-", Path(command).name.lower()).strip("-")[:63] or "command"


def _opened(path: Path) -> TextIO:
    """The file, made if need be, with what it holds left as it is until `_write`. Raises Failure.

    Who may write to the folder could have put a link there, to have root write elsewhere; below /dev nobody else may.
    """
    follow = 0 if path.parent in _DEVICES else os.O_NOFOLLOW
    try:
        return open(path, "a", opener=lambda name, flags: os.open(name, flags | follow, 0o666))
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise Failure(
                f"{path} is a link, and not written through", "name the file itself", code=ExitCode.USAGE
            ) from error
        raise Failure(f"cannot write {path}: {error.strerror or error}", code=ExitCode.USAGE) from error


def _write(file: TextIO, text: str) -> None:
    """Puts the text in place of what the file holds. Raises Failure."""
    try:
        if stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            file.truncate(0)
        file.write(text)
        file.flush()
    except OSError as error:
        raise Failure(f"cannot write {file.name}: {error.strerror or error}", code=ExitCode.USAGE) from error
