# SPDX-License-Identifier: Apache-2.0
"""For every test: hypothesis does not time examples. On a busy machine that would fail what is right."""

from hypothesis import settings

settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")
