"""Worlds that are stopped at the end of their test."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.server.harness import World


@pytest.fixture
def make_world() -> Iterator[Callable[..., World]]:
    """Makes a `World`; all are stopped at the end."""
    worlds: list[World] = []

    def make(*arguments: object, **options: object) -> World:
        worlds.append(World(*arguments, **options))  # type: ignore[arg-type]
        return worlds[-1]

    yield make
    for world in worlds:
        world.stop()
