"""The replacement policy: budget, order, counters, and use from several threads."""

from __future__ import annotations

import sys
import threading

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from pfs.cache.lru import LruCache
from pfs.errors import InvalidRequest


def cache_of_lengths(capacity: int) -> LruCache[str, bytes]:
    return LruCache(capacity, len)


def test_what_was_used_longest_ago_goes_first() -> None:
    cache = cache_of_lengths(3)
    for key in "abc":
        assert cache.insert(key, b"1") == []
    assert cache.get("a") == b"1"
    assert cache.insert("d", b"1") == ["b"]
    assert cache.keys_in_order() == ["c", "a", "d"]


def test_peek_is_not_a_use() -> None:
    cache = cache_of_lengths(2)
    cache.insert("a", b"1")
    cache.insert("b", b"1")
    assert cache.peek("a") == b"1"
    assert cache.peek("x") is None
    assert cache.insert("c", b"1") == ["a"]
    assert (cache.hits, cache.misses) == (0, 0)


def test_one_large_value_evicts_as_many_as_it_needs() -> None:
    cache = cache_of_lengths(10)
    for key in "abcde":
        cache.insert(key, b"22")
    assert cache.insert("f", b"55555") == ["a", "b", "c"]
    assert cache.charged == 9


def test_a_value_larger_than_the_capacity_is_not_kept() -> None:
    cache = cache_of_lengths(4)
    cache.insert("a", b"1")
    assert cache.insert("b", b"55555") == ["a", "b"]
    assert len(cache) == 0
    assert cache.charged == 0
    assert "b" not in cache


def test_a_cache_without_capacity_keeps_only_what_costs_nothing() -> None:
    cache = cache_of_lengths(0)
    assert cache.insert("a", b"1") == ["a"]
    assert cache.insert("b", b"") == []
    assert "b" in cache


def test_a_value_put_in_again_is_charged_once_and_is_used_last() -> None:
    cache = cache_of_lengths(6)
    cache.insert("a", b"1")
    cache.insert("b", b"1")
    assert cache.insert("a", b"333") == []
    assert cache.charged == 4
    assert cache.keys_in_order() == ["b", "a"]
    assert cache.get("a") == b"333"


def test_what_is_removed_is_no_longer_charged_and_counts_as_no_eviction() -> None:
    cache = cache_of_lengths(6)
    cache.insert("a", b"333")
    assert cache.remove("a") == b"333"
    assert cache.remove("a") is None
    assert (cache.charged, cache.evictions) == (0, 0)


def test_a_smaller_capacity_evicts_at_once_and_a_larger_one_nothing() -> None:
    cache = cache_of_lengths(3)
    for key in "abc":
        cache.insert(key, b"1")
    assert cache.resize(1) == ["a", "b"]
    assert cache.resize(9) == []
    assert cache.capacity == 9
    assert cache.keys_in_order() == ["c"]


def test_hits_misses_and_evictions_are_counted() -> None:
    cache = cache_of_lengths(1)
    cache.get("a")
    cache.insert("a", b"1")
    cache.get("a")
    cache.get("a")
    cache.insert("b", b"1")
    cache.get("a")
    assert (cache.hits, cache.misses, cache.evictions) == (2, 2, 1)


@pytest.mark.parametrize("capacity", [-1, True, 1.5, "1", None])
def test_a_capacity_that_is_no_number_of_bytes_is_refused(capacity: object) -> None:
    with pytest.raises(InvalidRequest, match="capacity"):
        LruCache(capacity, len)  # type: ignore[arg-type]
    cache = cache_of_lengths(1)
    with pytest.raises(InvalidRequest, match="capacity"):
        cache.resize(capacity)  # type: ignore[arg-type]
    assert cache.capacity == 1


class LruMachine(RuleBasedStateMachine):
    """The cache against a list of (key, value) pairs, least recently used first, with sums done from scratch."""

    keys = st.integers(0, 12)
    values = st.binary(max_size=9)

    def __init__(self) -> None:
        super().__init__()
        self.capacity = 20
        self.cache: LruCache[int, bytes] = LruCache(self.capacity, len)
        self.entries: list[tuple[int, bytes]] = []
        self.counters = [0, 0, 0]

    def take(self, key: int) -> bytes | None:
        for index, entry in enumerate(self.entries):
            if entry[0] == key:
                del self.entries[index]
                return entry[1]
        return None

    def evict(self) -> list[int]:
        evicted = []
        while sum(len(value) for _, value in self.entries) > self.capacity:
            evicted.append(self.entries.pop(0)[0])
        self.counters[2] += len(evicted)
        return evicted

    @rule(key=keys, value=values)
    def insert(self, key: int, value: bytes) -> None:
        self.take(key)
        self.entries.append((key, value))
        assert self.cache.insert(key, value) == self.evict()

    @rule(key=keys)
    def get(self, key: int) -> None:
        value = self.take(key)
        assert self.cache.get(key) == value
        self.counters[value is None] += 1
        if value is not None:
            self.entries.append((key, value))

    @rule(key=keys)
    def peek(self, key: int) -> None:
        assert self.cache.peek(key) == dict(self.entries).get(key)
        assert (key in self.cache) == (key in dict(self.entries))

    @rule(key=keys)
    def remove(self, key: int) -> None:
        assert self.cache.remove(key) == self.take(key)

    @rule(capacity=st.integers(0, 40))
    def resize(self, capacity: int) -> None:
        self.capacity = capacity
        assert self.cache.resize(capacity) == self.evict()

    @invariant()
    def order_budget_and_counters_are_those_of_the_model(self) -> None:
        assert self.cache.keys_in_order() == [key for key, _ in self.entries]
        assert len(self.cache) == len(self.entries)
        assert self.cache.charged == sum(len(value) for _, value in self.entries) <= self.cache.capacity
        assert [self.cache.hits, self.cache.misses, self.cache.evictions] == self.counters


TestLruAgainstAModel = LruMachine.TestCase


def test_other_threads_may_get_while_one_inserts_removes_and_lists() -> None:
    cache: LruCache[int, bytes] = LruCache(50 * 8, len)
    wrong: list[object] = []
    stop = threading.Event()

    def read() -> None:
        try:
            while not stop.is_set():
                for key in range(100):
                    value = cache.get(key)
                    if value is not None and value != key.to_bytes(8, "little"):
                        wrong.append((key, value))
        except BaseException as error:
            wrong.append(error)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    readers = [threading.Thread(target=read) for _ in range(3)]
    try:
        for reader in readers:
            reader.start()
        for turn in range(20_000):
            key = turn * 7 % 100
            cache.insert(key, key.to_bytes(8, "little"))
            if turn % 5 == 0:
                cache.remove((key + 3) % 100)
            if turn % 10 == 0:
                assert len(cache.keys_in_order()) <= 50
    finally:
        stop.set()
        for reader in readers:
            reader.join()
        sys.setswitchinterval(interval)
    assert wrong == []
    assert cache.charged == 8 * len(cache) <= cache.capacity
