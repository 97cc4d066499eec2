# SPDX-License-Identifier: Apache-2.0
"""What can go wrong between us and the kernel, in words for the operator."""


class DatapathError(Exception):
    """The datapath could not be set up, changed or read. The message says what to do."""


class MapFull(DatapathError):
    """A kernel table has no room for another entry. `table` names it."""

    def __init__(self, table: str, capacity: int) -> None:
        super().__init__(
            f"the kernel table {table} is full ({capacity} entries): raise maps.{size_key(table)} in the "
            "configuration, which takes effect after `l7d cleanup` and a start"
        )
        self.table = table
        self.capacity = capacity


def size_key(table: str) -> str:
    """Under ``maps`` of the configuration, what says how large a table is."""
    return "endpoints" if table.startswith("endpoint_by_") else table
