# SPDX-License-Identifier: Apache-2.0
"""What is fuzzed: readers of what users and workloads write. Each target takes bytes, and may raise nothing.

Under pytest the kept corpora are replayed. To look for more (the extra `fuzz` brings atheris):

    python tests/fuzz/test_targets.py documents -max_total_time=300 tests/fuzz/corpus/documents examples/policies
"""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

CORPUS = Path(__file__).parent / "corpus"


def read_documents(data: bytes) -> None:
    """A policy file is refused with places, or means something to an endpoint."""
    from l7policy import documents  # noqa: PLC0415 - atheris wants to see the import
    from l7policy.entries import entries  # noqa: PLC0415
    from l7policy.errors import PolicyErrors  # noqa: PLC0415
    from l7policy.ids import ANY_IDENTITY, IdentityId  # noqa: PLC0415
    from l7policy.policydoc import Source  # noqa: PLC0415
    from l7policy.resolve import endpoint_policy  # noqa: PLC0415

    try:
        policies = documents.load([Source("fuzz.yaml", data.decode("utf-8", "surrogateescape"))])
    except PolicyErrors as refused:
        if not refused.errors or any(error.path != "fuzz.yaml" or not error.message for error in refused.errors):
            raise
        return
    labels = frozenset({"k8s:app=frontend", "k8s:io.kubernetes.pod.namespace=default"})
    policy = endpoint_policy(policies, labels)
    entries(policy, ANY_IDENTITY, None)
    entries(policy, IdentityId(256), labels)
    assert endpoint_policy(tuple(reversed(policies)), labels).digest == policy.digest


def read_names(data: bytes) -> None:
    """A pattern and a name, a line each: the matcher says what the documented regular expression says."""
    import re  # noqa: PLC0415

    from l7policy import names, scalars  # noqa: PLC0415

    pattern, _, name = data.decode("utf-8", "replace").partition("\n")
    try:
        peer = scalars.match_pattern(pattern)
        name = scalars.match_name(name).match_name
    except ValueError:
        return
    label = "[-a-zA-Z0-9_]"
    if not peer.match_pattern.removesuffix(".").strip("*"):
        expression = f"({label}+[.])+|[.]"
    else:
        text = peer.match_pattern
        leading = re.match(r"\*\*+[.]", text)
        prefix = f"{label}+([.]{label}+)*[.]" if leading else ""
        rest = text[leading.end() :] if leading else text
        expression = prefix + re.sub(r"\*+", f"{label}*", rest.replace(".", "[.]").replace("-", "[-]"))
    assert names.name_set((peer,)).matches(name) == (re.fullmatch(expression, name) is not None), (peer, name)


def read_expressions(data: bytes) -> None:
    """An HTTP expression and a path, a line each: refused, or matched in full and the same each time."""
    from l7policy import scalars  # noqa: PLC0415
    from l7policy.http import HttpRules  # noqa: PLC0415
    from l7policy.model import HttpRule  # noqa: PLC0415

    text, _, path = data.partition(b"\n")
    try:
        expression = scalars.expression(text.decode("utf-8", "replace"))
    except ValueError:
        return
    rules = HttpRules((HttpRule(path=expression),))
    first = rules.match(b"GET", path, b"example.com", ())
    assert rules.match(b"GET", path, b"example.com", ()) == first
    either = HttpRules((HttpRule(path=f"(?:{expression})|(?:{expression})"),)) if _can_be_doubled(expression) else rules
    assert either.match(b"GET", path, b"example.com", ()) == first


def _can_be_doubled(expression: str) -> bool:
    """An open ``\\Q`` quotes what comes after it, and RE2's size has a limit."""
    return (
        "\\Q" not in expression and not any(character.isdigit() for character in expression) and len(expression) < 900
    )


def read_client_hello(data: bytes) -> None:
    """A TLS client's first bytes are a hello or refused, and it does not matter how they were cut."""
    from l7proxy.client_hello import ClientHello, HelloReader  # noqa: PLC0415
    from l7proxy.head import NEED_MORE  # noqa: PLC0415

    reader, pieces = HelloReader(), HelloReader()
    found = reader.feed(data)
    for byte in data:
        same = pieces.feed(bytes([byte]))
        if same is not NEED_MORE:
            break
    if data:
        assert same == found
    if isinstance(found, ClientHello):
        assert (pieces.size, found.name) == (reader.size, "" if found.fault else found.sent)


TARGETS: dict[str, Callable[[bytes], None]] = {
    "documents": read_documents,
    "names": read_names,
    "expressions": read_expressions,
    "client_hello": read_client_hello,
}


@pytest.mark.parametrize(
    ("target", "path"),
    [(name, path) for name in TARGETS for path in sorted((CORPUS / name).iterdir())],
    ids=lambda value: value.name if isinstance(value, Path) else value,
)
def test_the_kept_corpus_raises_nothing(target: str, path: Path) -> None:
    TARGETS[target](path.read_bytes())


def main() -> None:
    import atheris  # noqa: PLC0415 - not needed to replay

    name = sys.argv.pop(1)
    with atheris.instrument_imports(include=["l7policy", "l7proxy"]):
        import l7policy.documents  # noqa: PLC0415
        import l7policy.http  # noqa: PLC0415
        import l7policy.names  # noqa: F401, PLC0415
        import l7proxy.client_hello  # noqa: F401, PLC0415
    atheris.Setup(sys.argv, TARGETS[name])
    atheris.Fuzz()


if __name__ == "__main__":
    main()
