"""What the model of a crash campaign allows, and what it does not."""

from __future__ import annotations

import pytest

from pfs.testing.crash_model import CrashModel, Step, describe

A, B, C, D = (bytes([byte]) * 8 for byte in b"abcd")


def append(file: int, *pages: bytes) -> Step:
    return Step("write", file, None, pages)


def done(model: CrashModel, step: Step, *, durable: bool = True) -> None:
    model.begin(step, step)
    model.acknowledged(step, durable=durable)


def with_files(*, ordered: bool = True) -> CrashModel:
    return CrashModel({"x": (A,), "y": ()}, ordered=ordered)


def test_what_is_durable_must_be_there_and_nothing_else_may():
    model = with_files()
    assert model.files() == {1: "x", 2: "y"}
    done(model, append(1, B))
    assert model.check({"x": (A, B), "y": ()}) is None
    for found in ({"x": (A,), "y": ()}, {"x": (A, C), "y": ()}, {"x": (A, B, C), "y": ()}, {"x": (A, B), "y": (B,)}):
        assert "no prefix" in model.check(found)


def test_a_write_in_memory_may_be_lost_until_something_after_it_is_durable():
    model = with_files()
    done(model, append(1, B), durable=False)
    done(model, append(2, C), durable=False)
    assert model.check({"x": (A,), "y": ()}) is None
    assert model.check({"x": (A, B), "y": ()}) is None
    assert model.check({"x": (A, B), "y": (C,)}) is None
    assert model.check({"x": (A,), "y": (C,)}) is not None, "the second without the first"
    done(model, append(1, D))
    assert model.check({"x": (A, B, D), "y": (C,)}) is None
    assert model.check({"x": (A, B), "y": (C,)}) is not None


def test_a_sync_makes_durable_what_its_file_was_told_and_all_before_that():
    model = with_files()
    done(model, append(1, B), durable=False)
    done(model, append(2, C), durable=False)
    model.synced(1, model.committed)
    assert model.check({"x": (A, B), "y": ()}) is None
    assert model.check({"x": (A,), "y": ()}) is not None
    model.synced(2, 0)
    model.synced(None, model.committed)
    assert model.check({"x": (A, B), "y": ()}) is not None
    assert model.check({"x": (A, B), "y": (C,)}) is None


def test_what_is_under_way_is_there_whole_or_not_at_all():
    model = with_files()
    model.begin("a", append(1, B, C))
    model.begin("b", Step("truncate", 1, n=0))
    for pages in ((A,), (A, B, C), (), (B, C)):
        assert model.check({"x": pages, "y": ()}) is None
    assert model.check({"x": (A, B), "y": ()}) is not None
    assert model.outcome_unknown() == [append(1, B, C), Step("truncate", 1, n=0)]
    model.refused("a")
    assert model.check({"x": (A, B, C), "y": ()}) is not None
    model.acknowledged("b", durable=True)
    assert model.pages(1) == ()
    assert model.check({"x": (A,), "y": ()}) is not None


def test_what_cannot_be_done_behind_another_step_is_not_tried():
    model = with_files()
    model.begin("cut", Step("truncate", 1, n=0))
    model.begin("write", Step("write", 1, 0, (B,)))
    model.begin("cut to one", Step("truncate", 1, n=1))
    for pages in ((A,), (B,), ()):
        assert model.check({"x": pages, "y": ()}) is None


def test_an_acknowledged_write_over_pages_that_are_not_there_is_an_error_of_the_workload():
    with pytest.raises(AssertionError, match="was acknowledged, with 1 pages there"):
        done(with_files(), Step("write", 1, 1, (B,)))


def test_names_are_durable_and_go_with_any_pages():
    model = with_files()
    done(model, append(1, B), durable=False)
    done(model, Step("create", model.new_file(), name="z"))
    assert model.check({"x": (A,), "y": (), "z": ()}) is None
    assert "page files" in model.check({"x": (A,), "y": ()})
    done(model, Step("rename", 2, name="w"))
    model.begin("drop", Step("drop", 1))
    assert model.check({"x": (A, B), "w": (), "z": ()}) is None
    assert model.check({"w": (), "z": ()}) is None
    assert model.contents() == {"x": (A, B), "w": (), "z": ()}


def test_with_several_clients_each_file_has_an_order_of_its_own():
    model = with_files(ordered=False)
    done(model, append(1, B), durable=False)
    done(model, append(2, C))
    assert model.check({"x": (A,), "y": (C,)}) is None
    assert model.check({"x": (A,), "y": ()}) is not None
    model.synced(1, model.committed)
    assert model.check({"x": (A,), "y": (C,)}) is not None
    model.begin("more", append(1, D))
    assert model.check({"x": (A, B, D), "y": (C,)}) is None
    model.synced(None, model.committed)


def test_a_copy_goes_on_by_itself():
    model = with_files()
    other = model.copy()
    done(other, append(1, B))
    assert model.check({"x": (A,), "y": ()}) is None
    assert other.check({"x": (A,), "y": ()}) is not None


def test_what_is_wrong_is_said_with_all_that_was_done():
    model = with_files()
    for step in (append(1, B), Step("write", 1, 0, (C,)), Step("truncate", 1, n=1)):
        done(model, step)
    model.begin("more", append(2, D))
    wrong = model.check({"x": (A,), "y": ()})
    for part in ("append 1 to 1", "write 1 at 0 of 1", "cut 1 to 1", "under way: append 1 to 2", "found 'x'"):
        assert part in wrong
    assert str(Step("rename", 1, name="w")) == "rename 1 w"
    assert str(Step("drop", 1)) == "drop 1"
    assert describe([bytes(8), b"\0\0\0\1\0\0\0\2", A]) == "[0 torn(01) 61616161]"
