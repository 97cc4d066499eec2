# SPDX-License-Identifier: Apache-2.0
"""`l7ctl rules explain`: why something is allowed or denied, from files alone or by the rules in force.

The answer is `l7policy.explain`'s; here are only the question's options and the words for people. Exit codes are its
own: 0 allowed, 1 denied, 2 a question that makes no sense, or policies that are invalid.
"""

from dataclasses import replace

import click

from l7ctl import asking
from l7ctl.errors import ExitCode
from l7ctl.output import line, output_option, styled, value
from l7ctl.session import Session, pass_session
from l7observe.columns import printable
from l7policy import question
from l7policy.explain import Explanation, Matched, Side, explain, plain
from l7policy.hop import Response
from l7policy.question import HttpRequest, Question
from l7policy.verdict import Reason, Verdict
from l7proxy import request_path


@click.command("explain")
@click.option("-f", "--file", "files", multiple=True, metavar="FILE|DIR", help="Policies.  [default: those in force]")
@click.option("--cluster", "clusters", multiple=True, metavar="FILE|DIR", help="Pods, nodes… as kubectl prints them.")
@click.option("--from", "source", required=True, metavar="PEER", help="Labels, ns/pod, an address or reserved:NAME.")
@click.option("--to", "destination", required=True, metavar="PEER", help="The same, or fqdn:NAME.")
@click.option("--port", required=True, help="80/TCP, 53/ANY, icmp:8, icmpv6:echo-request.")
@click.option("--http", "request", metavar="'METHOD PATH'", help="An HTTP request.")
@click.option("--host", default="", help="Its Host header.")
@click.option("--header", "headers", multiple=True, metavar="'NAME: VALUE'", help="Another header. May be repeated.")
@click.option("--dns", metavar="NAME", help="A name that is asked for.")
@click.option("--sni", metavar="NAME", help="The server name of a TLS handshake; '' is one without.")
@asking.assumptions
@output_option(("text", "json"))
@pass_session
@click.pass_context
def explain_(
    context: click.Context,
    session: Session,
    files: tuple[str, ...],
    clusters: tuple[str, ...],
    source: str,
    destination: str,
    port: str,
    request: str | None,
    host: str,
    headers: tuple[str, ...],
    dns: str | None,
    sni: str | None,
    assumed: asking.Assumed,
    output: str,
) -> None:
    """Explain why something is allowed or denied, and what would allow it.

    With -f it needs neither a daemon nor root. Exit code 0: allowed, 1: denied, 2: wrong question or invalid policy.
    Protocol ANY asks about TCP and UDP: both must pass.

    \b
    Examples:
      l7ctl rules explain -f rules/ --from app=web --to fqdn:api.example.com --port 443/TCP
      l7ctl rules explain -f rules/ --from app=web --to app=db --port 80/TCP --http 'GET /health'
      l7ctl rules explain -f rules/ --cluster pods.yaml --from shop/web-1 --to 192.0.2.10 --port 53/ANY --dns a.test
      l7ctl rules explain --from frontend --to 198.51.100.1 --port icmp:8
    """
    if request is None and (host or headers):
        raise click.UsageError("--host and --header belong to a request: give --http too")
    with asking.usage():
        known = asking.known(session, files, clusters, assumed)
        http = None if request is None else question.request(request, host, headers)
        http = http and judged(http, normalise=known.normalise_paths)
        asked = question.ask(known.side(source), known.side(destination), port, http=http, dns=dns, sni=sni)
    answer = explain(known.policies, asked, known.setting)
    if output == "json":
        value(plain(answer), "json")
    else:
        _show(asked, answer)
    if not answer.allowed:
        context.exit(ExitCode.FAILED)


def judged(request: HttpRequest, *, normalise: bool = False) -> HttpRequest:
    """The request as the proxy reads it, with what it would refuse it for before it asks any rule."""
    path, fault = request_path.settled(request.path.encode(), normalise=normalise)
    return replace(request, path=path.decode(), malformed=fault)


def _show(asked: Question, answer: Explanation) -> None:
    line(f"{printable(asked.source.text)} -> {printable(asked.destination.text)} {asked.where}{_carried(asked)}")
    _show_side("egress", asked.source.text, answer.egress)
    _show_side("ingress", asked.destination.text, answer.ingress)
    line(f"  L7       {_layer7(asked, answer)}")
    line("")
    word = styled("allowed", "green") if answer.allowed else styled("denied", "red")
    reason = "" if answer.reason == Reason.NONE.name else f": {answer.reason}, {Reason[answer.reason].text}"
    if answer.verdict == Verdict.AUDIT.name:
        reason += "; it passes only because of audit mode"
    line(f"{word} ({answer.verdict}){reason}")
    if answer.nearest:
        line(f"nearest: {printable(answer.nearest)}")


def _carried(asked: Question) -> str:
    if asked.http is not None:
        host = f" host {asked.http.host}" if asked.http.host else ""
        return printable(f", {asked.http.method} {asked.http.path}{host}")
    if asked.dns is not None:
        return printable(f", asks for {asked.dns}")
    if asked.sni is not None:
        return printable(f", TLS for {asked.sni}") if asked.sni else ", TLS without a server name"
    return ""


def _show_side(name: str, whose: str, side: Side) -> None:
    if not side.enforced:
        line(f"  {name:8} not enforced: no policy limits the {name} of {printable(whose)}")
        return
    word, proxy = side.verdict, ""
    if side.proxy != "none":
        word = Verdict.REDIRECTED.name
        proxy = f" to the {side.proxy.upper()} proxy" + ("" if side.reason == Reason.NONE.name else ", which refuses")
    line(f"  {name:8} {styled(word, 'green' if side.allowed else 'red')}{proxy} ({side.protocol})")
    for matched in side.matched:
        line(f"    by     {_rule(matched)}")
    if not side.matched:
        line("    by     default deny: no rule covers it")
    line(f"    of     {printable(', '.join(side.selected_by)) or 'no policy: none selects it'}")


def _rule(matched: Matched) -> str:
    where = f" ({matched.file}:{matched.line})" if matched.file else ""
    return printable(f"{matched.policy} {matched.path}{where}")


def _layer7(asked: Question, answer: Explanation) -> str:
    proxies = [side.proxy.upper() for side in (answer.egress, answer.ingress) if side.proxy != "none"]
    if not proxies:
        return "not looked at" if answer.allowed else "never reached"
    if not answer.allowed:
        return f"refused, {answered(answer.l7.response)}"
    if asked.http is None and asked.dns is None and asked.sni is None:
        option = {"HTTP": "--http", "DNS": "--dns", "TLS": "--sni"}[proxies[0]]
        return f"each is judged on its own: ask with {option}"
    return "allowed"


def answered(response: Response) -> str:
    """What a refused client sees."""
    return "no answer" if response is None else f"answered {response}"
