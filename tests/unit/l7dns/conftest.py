# SPDX-License-Identifier: Apache-2.0
"""Messages written by dnspython, so that ours are read by somebody who did not write them."""

from collections.abc import Callable

import dns.message
import dns.rrset
import pytest

from l7dns import message
from l7dns.message import Question


@pytest.fixture
def question() -> Callable[..., Question]:
    def read(name: str = "www.example.com.", qtype: str = "A", **options: object) -> Question:
        found = message.parse_query(dns.message.make_query(name, qtype, id=0x1234, **options).to_wire())
        assert isinstance(found, Question)
        return found

    return read


@pytest.fixture
def response() -> Callable[..., bytes]:
    """A response under ID 7 to a query for `name`, with records as ``owner ttl type data``."""

    def build(
        name: str, qtype: str, *records: str, additional: tuple[str, ...] = (), rcode: int = 0, edns: int = -1
    ) -> bytes:
        made = dns.message.make_response(dns.message.make_query(name, qtype, id=7, use_edns=edns))
        made.set_rcode(rcode)
        for section, texts in ((made.answer, records), (made.additional, additional)):
            for text in texts:
                owner, ttl, kind, data = text.split(maxsplit=3)
                section.append(dns.rrset.from_text(owner, int(ttl), "IN", kind, data))
        return made.to_wire()

    return build
