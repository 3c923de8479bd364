"""Supervisors over real actors of all kinds."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pykka
import pytest

from pfs.actors import (
    Actor,
    ActorKilled,
    BlockingActor,
    ChildCount,
    ChildInfo,
    ChildSpec,
    CountChildren,
    DeleteChild,
    Down,
    RestartChild,
    Scheduler,
    StartChild,
    Supervisor,
    SupervisorReply,
    TerminateChild,
    WhichChildren,
    foreign,
    supervisor,
)
from pfs.errors import ChildNotFound, InvalidRequest, PfsError, StartFailed, TooManyRestarts
from tests.support import run_together, take, wait_for

Events = queue.SimpleQueue[Any]


class Worker:
    """Notes its start and stop; calls what it is sent."""

    def __init__(self, name: str, events: Events, fails: Callable[[], object] = lambda: None) -> None:
        super().__init__()
        self.name = name
        self.events = events
        self.fails = fails

    def on_start(self) -> None:
        self.fails()
        self.events.put(f"start {self.name}")

    def on_receive(self, message: Callable[[], Any]) -> Any:
        return message()

    def on_stop(self) -> None:
        self.events.put(f"stop {self.name}")


class UsersWorker(Worker, Actor):
    pass


class InlineWorker(Worker, Actor):
    inline = True


class ThreadWorker(Worker, BlockingActor):
    pass


class PykkaWorker(Worker, pykka.ThreadingActor):
    pass


class InlineSupervisor(Supervisor):
    inline = True


OURS = [UsersWorker, InlineWorker, ThreadWorker]
SUPERVISORS = [Supervisor, InlineSupervisor]

each_supervisor = pytest.mark.parametrize("supervisor_class", SUPERVISORS)
each_worker = pytest.mark.parametrize("worker", OURS)


@pytest.fixture
def events() -> Events:
    return queue.SimpleQueue()


@pytest.fixture(autouse=True)
def quick_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(foreign, "FOREIGN_INTERVAL", 0.002)


@pytest.fixture
def downs(scheduler: Scheduler) -> Iterator[Any]:
    """`downs(ref)` is a queue that gets the ref's Down."""

    class Inbox:
        def __init__(self) -> None:
            self.messages: queue.SimpleQueue[Any] = queue.SimpleQueue()

        def tell(self, message: Any) -> None:
            self.messages.put(message)

        def is_alive(self) -> bool:
            return True

    def watch(ref: Any) -> queue.SimpleQueue[Any]:
        inbox = Inbox()
        scheduler.watch(ref, inbox)
        return inbox.messages

    return watch


def fail() -> None:
    raise ValueError("worker broke")


def drained(events: Events) -> list[Any]:
    found = []
    while not events.empty():
        found.append(events.get())
    return found


def ref_of(root: Any, child_id: str) -> Any:
    return next(info.ref for info in root.ask(WhichChildren(), timeout=5) if info.id == child_id)


def new_ref_of(root: Any, child_id: str, old: Any) -> Any:
    """The ref of a child that has been restarted: asks until the supervisor has heard of the end of the old one."""
    while True:
        [info] = [info for info in root.ask(WhichChildren(), timeout=5) if info.id == child_id]
        if info.ref is not old and info.state == "running":
            return info.ref


# -- start


@each_supervisor
def test_start_returns_when_all_children_run_in_order(
    scheduler: Scheduler, events: Events, supervisor_class: type[Supervisor]
) -> None:
    specs = [ChildSpec(worker.__name__, worker, (worker.__name__, events)) for worker in [*OURS, PykkaWorker]]
    root = scheduler.start(supervisor_class, specs)
    assert drained(events)[:3] == ["start UsersWorker", "start InlineWorker", "start ThreadWorker"]
    infos = root.ask(WhichChildren(), timeout=5)
    assert [(info.id, info.actor_class, info.restart, info.state) for info in infos] == [
        (spec.id, spec.actor_class, "permanent", "running") for spec in specs
    ]
    assert all(info.ref.is_alive() for info in infos)
    assert [info.ref.ask(lambda: 7, timeout=5) for info in infos] == [7] * 4
    assert root.ask(CountChildren(), timeout=5) == ChildCount(specs=4, active=4, supervisors=0, workers=4)


@each_supervisor
@each_worker
def test_start_raises_if_a_child_cannot_start_and_leaves_nothing(
    scheduler: Scheduler, events: Events, supervisor_class: type[Supervisor], worker: type
) -> None:
    specs = [ChildSpec("good", worker, ("good", events)), ChildSpec("bad", worker, ("bad", events, fail))]
    with pytest.raises(StartFailed, match="child 'bad' could not be started") as caught:
        scheduler.start(supervisor_class, specs)
    assert isinstance(caught.value.__cause__, ValueError)
    assert drained(events) == ["start good", "stop good"]
    assert not scheduler.living
    assert not scheduler.supervised


def test_start_raises_if_a_child_cannot_be_made(
    scheduler: Scheduler, events: Events, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(StartFailed, match="TypeError"):
        scheduler.start(Supervisor, [ChildSpec("bad", UsersWorker)])
    assert not scheduler.living


def test_a_supervisor_started_inside_a_handler_tells_by_down_that_a_child_could_not_start(
    scheduler: Scheduler, events: Events, downs: Any
) -> None:
    heard: list[Any] = []
    starter = scheduler.start(UsersWorker, "starter", events)
    specs = [ChildSpec("bad", ThreadWorker, ("bad", events, fail))]
    starter.ask(lambda: heard.append(downs(Supervisor.start(specs))), timeout=5)
    assert isinstance(take(heard[0]).reason, StartFailed)


def test_a_subclass_may_bring_its_own_children_and_messages(scheduler: Scheduler, events: Events) -> None:
    class Root(Supervisor):
        def __init__(self) -> None:
            super().__init__([ChildSpec("a", UsersWorker, ("a", events))], max_restarts=1, period=1.0)

        def on_receive(self, message: Any) -> Any:
            return "mine" if message == "hello" else super().on_receive(message)

    root = scheduler.start(Root)
    assert root.ask("hello", timeout=5) == "mine"
    assert ref_of(root, "a").is_alive()


def test_a_message_that_no_supervisor_knows_is_logged(scheduler: Scheduler, caplog: pytest.LogCaptureFixture) -> None:
    assert scheduler.start(Supervisor).ask("what?", timeout=5) is None
    assert "Unexpected message" in caplog.text


# -- restart


@each_supervisor
@each_worker
def test_a_child_that_fails_is_restarted_alone(
    scheduler: Scheduler,
    events: Events,
    supervisor_class: type[Supervisor],
    worker: type,
    caplog: pytest.LogCaptureFixture,
) -> None:
    specs = [ChildSpec(name, worker, (name, events)) for name in "ab"]
    root = scheduler.start(supervisor_class, specs)
    a, b = ref_of(root, "a"), ref_of(root, "b")
    drained(events)
    a.tell(fail)
    assert take(events) == "start a"
    assert new_ref_of(root, "a", a).ask(lambda: "back", timeout=5) == "back"
    assert ref_of(root, "b") is b
    assert not a.is_alive()


def test_pykkas_own_actor_is_restarted_too(
    scheduler: Scheduler, events: Events, caplog: pytest.LogCaptureFixture
) -> None:
    root = scheduler.start(Supervisor, [ChildSpec("a", PykkaWorker, ("a", events))])
    old = ref_of(root, "a")
    assert take(events) == "start a"
    old.tell(fail)
    assert take(events) == "start a"
    assert new_ref_of(root, "a", old).ask(lambda: "back", timeout=5) == "back"


@each_worker
def test_permanent_transient_and_temporary_children_that_stop_normally(
    scheduler: Scheduler, events: Events, worker: type
) -> None:
    specs = [
        ChildSpec(name, worker, (name, events), restart=name)  # type: ignore[arg-type]
        for name in ("permanent", "transient", "temporary")
    ]
    root = scheduler.start(Supervisor, specs)
    old = {spec.id: ref_of(root, spec.id) for spec in specs}
    drained(events)
    for name in ("transient", "temporary", "permanent"):
        old[name].stop(timeout=5)
    assert new_ref_of(root, "permanent", old["permanent"]).is_alive()
    infos = root.ask(WhichChildren(), timeout=5)
    assert [(info.id, info.state) for info in infos] == [("permanent", "running"), ("transient", "stopped")]
    assert infos[1].ref is None
    assert root.ask(RestartChild("transient"), timeout=5).is_alive()


@each_supervisor
def test_too_many_restarts_stop_the_children_and_fail_the_supervisor_with_the_reason(
    scheduler: Scheduler,
    events: Events,
    downs: Any,
    supervisor_class: type[Supervisor],
    caplog: pytest.LogCaptureFixture,
) -> None:
    specs = [ChildSpec(name, UsersWorker, (name, events)) for name in "abc"]
    root = scheduler.start(supervisor_class, specs, max_restarts=2, period=3600.0)
    down = downs(root)
    for _ in range(2):
        old = ref_of(root, "b")
        old.tell(fail)
        new_ref_of(root, "b", old)
    drained(events)
    ref_of(root, "b").tell(fail)
    reason = take(down).reason
    assert isinstance(reason, TooManyRestarts)
    assert "child 'b' ended (ValueError('worker broke'))" in str(reason)
    assert isinstance(reason.__cause__, ValueError)
    assert drained(events) == ["stop c", "stop a"]
    assert not scheduler.living
    assert not scheduler.supervised


def test_restarts_that_are_long_ago_are_forgotten(events: Events, clock: Any, caplog: pytest.LogCaptureFixture) -> None:
    scheduler = Scheduler(clock=clock)
    try:
        root = scheduler.start(
            InlineSupervisor, [ChildSpec("a", InlineWorker, ("a", events))], max_restarts=1, period=10.0
        )
        for _ in range(5):
            old = ref_of(root, "a")
            old.tell(fail)
            new_ref_of(root, "a", old)
            clock.now += 11.0
        assert root.is_alive()
    finally:
        scheduler.stop()


def test_a_child_that_cannot_start_again_uses_the_intensity_up(
    scheduler: Scheduler, events: Events, downs: Any, caplog: pytest.LogCaptureFixture
) -> None:
    for worker in OURS:
        broken: list[bool] = []
        root = scheduler.start(
            Supervisor, [ChildSpec("a", worker, ("a", events, lambda broken=broken: broken and fail()))]
        )
        down = downs(root)
        broken.append(True)
        ref_of(root, "a").tell(fail)
        assert isinstance(take(down).reason, TooManyRestarts)


# -- requests


@each_supervisor
@each_worker
def test_start_child_gives_the_ref_or_raises_start_failed(
    scheduler: Scheduler, events: Events, supervisor_class: type[Supervisor], worker: type
) -> None:
    root = scheduler.start(supervisor_class)
    ref = root.ask(StartChild(ChildSpec("a", worker, ("a", events))), timeout=5)
    assert take(events) == "start a", "the answer comes when on_start has ended"
    assert ref.ask(lambda: "alive", timeout=5) == "alive"
    with pytest.raises(StartFailed, match="child 'a' exists"):
        root.ask(StartChild(ChildSpec("a", worker, ("a", events))), timeout=5)
    with pytest.raises(StartFailed, match="worker broke") as caught:
        root.ask(StartChild(ChildSpec("b", worker, ("b", events, fail))), timeout=5)
    assert isinstance(caught.value.__cause__, ValueError)
    with pytest.raises(StartFailed, match="TypeError"):
        root.ask(StartChild(ChildSpec("c", worker)), timeout=5)
    assert [info.id for info in root.ask(WhichChildren(), timeout=5)] == ["a"]
    assert root.is_alive()


def test_start_child_with_pykkas_own_actor(scheduler: Scheduler, events: Events) -> None:
    root = scheduler.start(Supervisor)
    ref = root.ask(StartChild(ChildSpec("a", PykkaWorker, ("a", events))), timeout=5)
    assert ref.ask(lambda: "alive", timeout=5) == "alive"


@each_worker
def test_terminate_restart_and_delete(scheduler: Scheduler, events: Events, worker: type) -> None:
    root = scheduler.start(Supervisor, [ChildSpec("a", worker, ("a", events))])
    ref = ref_of(root, "a")
    assert root.ask(TerminateChild("a"), timeout=5) is None
    assert not ref.is_alive(), "the answer comes when the child has ended"
    assert root.ask(TerminateChild("a"), timeout=5) is None
    assert root.ask(CountChildren(), timeout=5) == ChildCount(specs=1, active=0, supervisors=0, workers=1)
    again = root.ask(RestartChild("a"), timeout=5)
    assert again.ask(lambda: "alive", timeout=5) == "alive"
    with pytest.raises(StartFailed, match="is running"):
        root.ask(RestartChild("a"), timeout=5)
    with pytest.raises(InvalidRequest):
        root.ask(DeleteChild("a"), timeout=5)
    root.ask(TerminateChild("a"), timeout=5)
    root.ask(DeleteChild("a"), timeout=5)
    for request in (TerminateChild("a"), RestartChild("a"), DeleteChild("a")):
        with pytest.raises(ChildNotFound):
            root.ask(request, timeout=5)


def test_a_child_that_hangs_in_on_start_keeps_nobody_else_waiting(scheduler: Scheduler, events: Events) -> None:
    entered, go_on = threading.Event(), threading.Event()

    def hang() -> None:
        entered.set()
        wait_for(go_on)

    root = scheduler.start(Supervisor)
    slow = root.ask(StartChild(ChildSpec("slow", ThreadWorker, ("slow", events, hang))), block=False)
    wait_for(entered)
    assert root.ask(StartChild(ChildSpec("quick", ThreadWorker, ("quick", events))), timeout=5).is_alive()
    assert [info.state for info in root.ask(WhichChildren(), timeout=5)] == ["starting", "running"]
    terminated = root.ask(TerminateChild("slow"), block=False)
    again = root.ask(TerminateChild("slow"), block=False)
    go_on.set()
    assert terminated.get(timeout=5) is None
    assert again.get(timeout=5) is None
    assert slow.get(timeout=5).is_alive() is False, "it had started before it was stopped"


def test_a_child_that_is_killed_in_on_start_has_not_started(scheduler: Scheduler, events: Events) -> None:
    entered, go_on = threading.Event(), threading.Event()

    def hang() -> None:
        entered.set()
        wait_for(go_on)

    root = scheduler.start(Supervisor)
    spec = ChildSpec("slow", ThreadWorker, ("slow", events, hang), shutdown="brutal_kill")
    slow = root.ask(StartChild(spec), block=False)
    wait_for(entered)
    assert root.ask(TerminateChild("slow"), timeout=5) is None
    with pytest.raises(StartFailed, match="ActorKilled"):
        slow.get(timeout=5)
    go_on.set()


def test_actors_tell_requests_and_are_told_the_answers(scheduler: Scheduler, events: Events) -> None:
    heard: queue.SimpleQueue[SupervisorReply] = queue.SimpleQueue()

    class Client(Actor):
        def on_receive(self, message: Any) -> None:
            if isinstance(message, SupervisorReply):
                heard.put(message)
            else:
                root.tell(message)

    root = scheduler.start(Supervisor)
    client: Any = scheduler.start(Client)

    def answer(request: Any) -> SupervisorReply:
        client.tell(request)
        reply = take(heard)
        assert reply.request == request
        return reply

    good, bad = ChildSpec("a", UsersWorker, ("a", events)), ChildSpec("b", ThreadWorker, ("b", events, fail))
    assert answer(StartChild(good, client)).value.is_alive()
    failed = answer(StartChild(bad, client))
    assert failed.value is None
    assert isinstance(failed.error, StartFailed)
    assert answer(CountChildren(client)).value.active == 1
    assert isinstance(answer(WhichChildren(client)).value[0], ChildInfo)
    assert answer(TerminateChild("a", client)).error is None
    assert answer(RestartChild("a", client)).value.is_alive()
    assert isinstance(answer(DeleteChild("a", client)).error, PfsError)
    client.stop(timeout=5)
    root.tell(CountChildren(client))
    assert root.ask(CountChildren(), timeout=5).active == 1


# -- shutdown


@each_supervisor
def test_stop_stops_the_children_in_reverse_order_then_the_supervisor(
    scheduler: Scheduler, events: Events, supervisor_class: type[Supervisor]
) -> None:
    class Noted(supervisor_class):  # type: ignore[misc,valid-type]
        def on_stop(self) -> None:
            events.put("stop supervisor")

    workers = [UsersWorker, InlineWorker, ThreadWorker, PykkaWorker]
    specs = [ChildSpec(name, worker, (name, events)) for name, worker in zip("abcd", workers, strict=True)]
    root = scheduler.start(Noted, specs)
    assert {take(events) for _ in range(4)} == {"start a", "start b", "start c", "start d"}
    first, second = root.stop(block=False), root.stop(block=False)
    assert first.get(timeout=5) is True
    assert second.get(timeout=5) is True
    assert drained(events) == ["stop d", "stop c", "stop b", "stop a", "stop supervisor"]
    assert root.exit_reason is None
    assert root.stop(timeout=5) is False


def test_a_supervisor_that_stops_refuses_new_children_and_still_answers(scheduler: Scheduler, events: Events) -> None:
    entered, go_on = threading.Event(), threading.Event()

    class Slow(ThreadWorker):
        def on_stop(self) -> None:
            entered.set()
            wait_for(go_on)

    root = scheduler.start(
        Supervisor, [ChildSpec("a", UsersWorker, ("a", events)), ChildSpec("b", Slow, ("b", events))]
    )
    stopped = root.stop(block=False)
    wait_for(entered)
    with pytest.raises(StartFailed, match="stopping"):
        root.ask(StartChild(ChildSpec("c", UsersWorker, ("c", events))), timeout=5)
    assert ref_of(root, "a").is_alive(), "one after the other"
    go_on.set()
    assert stopped.get(timeout=5) is True


@each_worker
def test_a_child_that_does_not_stop_in_its_time_is_killed(
    scheduler: Scheduler, events: Events, worker: type, caplog: pytest.LogCaptureFixture
) -> None:
    class Stubborn(worker):  # type: ignore[misc,valid-type]
        def _stop(self) -> Any:  # ignores that it is to stop
            return None

    spec = ChildSpec("stubborn", Stubborn, ("stubborn", events), shutdown=0.01)
    root = scheduler.start(Supervisor, [ChildSpec("a", worker, ("a", events)), spec])
    ref = ref_of(root, "stubborn")
    assert root.stop(timeout=5) is True
    assert isinstance(ref.exit_reason, ActorKilled)
    assert "did not stop in time and is killed" in caplog.text
    assert drained(events)[-1] == "stop a"


@each_worker
def test_brutal_kill_asks_nobody(scheduler: Scheduler, events: Events, worker: type) -> None:
    root = scheduler.start(Supervisor, [ChildSpec("a", worker, ("a", events), shutdown="brutal_kill")])
    ref = ref_of(root, "a")
    assert root.ask(TerminateChild("a"), timeout=5) is None
    assert isinstance(ref.exit_reason, ActorKilled)
    assert drained(events) == ["start a"]


@pytest.mark.parametrize("shutdown", ["brutal_kill", 0.01])
def test_pykkas_own_actor_that_hangs_is_left_behind(
    scheduler: Scheduler, events: Events, caplog: pytest.LogCaptureFixture, shutdown: Any
) -> None:
    entered, go_on = threading.Event(), threading.Event()

    def hang() -> None:
        entered.set()
        wait_for(go_on)

    root = scheduler.start(Supervisor, [ChildSpec("a", PykkaWorker, ("a", events), shutdown=shutdown)])
    ref = ref_of(root, "a")
    ref.tell(hang)
    wait_for(entered)
    assert root.stop(timeout=5) is True
    assert "is left behind" in caplog.text
    go_on.set()
    assert ref.actor_stopped.wait(5)


def test_a_child_that_stops_in_time_is_not_killed_later(events: Events, clock: Any) -> None:
    scheduler = Scheduler(clock=clock)
    try:
        root = scheduler.start(InlineSupervisor, [ChildSpec("a", InlineWorker, ("a", events))])
        root.ask(TerminateChild("a"), timeout=5)
        assert len(scheduler.timers) == 0
        again = root.ask(RestartChild("a"), timeout=5)
        clock.now += supervisor.SHUTDOWN + 1
        assert again.ask(lambda: "alive", timeout=5) == "alive"
        assert again.is_alive()
    finally:
        scheduler.stop()


def test_supervisors_under_supervisors_stop_from_the_leaves(scheduler: Scheduler, events: Events) -> None:
    def leaf(name: str, worker: type) -> ChildSpec:
        return ChildSpec(name, worker, (name, events))

    inner = ChildSpec("inner", Supervisor, ([leaf("b", ThreadWorker), leaf("c", InlineWorker)],))
    root = scheduler.start(Supervisor, [leaf("a", UsersWorker), inner, leaf("d", ThreadWorker)])
    assert drained(events) == ["start a", "start b", "start c", "start d"]
    assert root.ask(CountChildren(), timeout=5) == ChildCount(specs=3, active=3, supervisors=1, workers=2)
    assert root.stop(timeout=5) is True
    assert drained(events) == ["stop d", "stop c", "stop b", "stop a"]


def test_a_failed_inner_supervisor_is_restarted_with_its_children(
    scheduler: Scheduler, events: Events, caplog: pytest.LogCaptureFixture
) -> None:
    inner = ChildSpec(
        "inner", Supervisor, ([ChildSpec("leaf", UsersWorker, ("leaf", events))],), kwargs={"max_restarts": 0}
    )
    root = scheduler.start(Supervisor, [inner])
    old = ref_of(root, "inner")
    drained(events)
    ref_of(old, "leaf").tell(fail)
    assert take(events) == "start leaf"
    assert ref_of(new_ref_of(root, "inner", old), "leaf").is_alive()
    assert isinstance(old.exit_reason, TooManyRestarts)


def test_scheduler_stop_lets_supervisors_stop_their_children(events: Events) -> None:
    """Children stopped by anybody else would be restarted."""
    scheduler = Scheduler()
    inner = ChildSpec("inner", Supervisor, ([ChildSpec("b", ThreadWorker, ("b", events))],))
    scheduler.start(UsersWorker, "before", events)
    root = scheduler.start(Supervisor, [ChildSpec("a", UsersWorker, ("a", events)), inner])
    scheduler.start(UsersWorker, "after", events)
    drained(events)
    scheduler.stop()
    assert drained(events) == ["stop after", "stop b", "stop a", "stop before"]
    assert not root.is_alive()


def test_scheduler_stop_kills_a_supervisor_whose_children_take_too_long(
    events: Events, caplog: pytest.LogCaptureFixture
) -> None:
    entered, go_on = threading.Event(), threading.Event()

    def hang() -> None:
        entered.set()
        wait_for(go_on)

    scheduler = Scheduler()
    spec = ChildSpec("slow", ThreadWorker, ("slow", events), shutdown="infinity")
    root = scheduler.start(Supervisor, [ChildSpec("a", UsersWorker, ("a", events)), spec])
    slow = ref_of(root, "slow")
    slow.tell(hang)
    wait_for(entered)
    threading.Timer(0.1, go_on.set).start()
    scheduler.stop(timeout=0.02)
    assert not scheduler.living
    assert not scheduler.supervised
    assert isinstance(root.exit_reason, ActorKilled)


@pytest.mark.parametrize("ending", ["kill", "bug"])
@each_worker
def test_the_children_of_a_supervisor_that_is_killed_or_fails_are_told_to_stop(
    scheduler: Scheduler, events: Events, worker: type, ending: str, caplog: pytest.LogCaptureFixture
) -> None:
    class Buggy(Supervisor):
        def on_receive(self, message: Any) -> Any:
            if message == "bug":
                raise ZeroDivisionError
            return super().on_receive(message)

    root: Any = scheduler.start(Buggy, [ChildSpec(name, worker, (name, events)) for name in "ab"])
    refs = [ref_of(root, name) for name in "ab"]
    if ending == "kill":
        root.kill()
    else:
        root.tell("bug")
    for ref in refs:
        assert ref.actor_stopped.wait(5)
        assert ref.exit_reason is None
    assert not scheduler.supervised


def test_children_that_end_at_the_same_moment_on_other_threads_are_each_restarted_once(
    untraced_threads: None, scheduler: Scheduler, events: Events
) -> None:
    names = [str(number) for number in range(8)]
    specs = [ChildSpec(name, ThreadWorker, (name, events)) for name in names]
    root = scheduler.start(Supervisor, specs, max_restarts=100, period=3600.0)
    for _ in range(5):
        drained(events)
        old = {info.id: info.ref for info in root.ask(WhichChildren(), timeout=5)}
        run_together([ref.kill for ref in old.values()])
        assert sorted(take(events) for _ in names) == [f"start {name}" for name in names]
        for name in names:
            assert new_ref_of(root, name, old[name]).is_alive()
    assert root.ask(CountChildren(), timeout=5).active == 8


def test_a_down_of_somebody_else_does_not_disturb_a_supervisor(scheduler: Scheduler, events: Events) -> None:
    root = scheduler.start(Supervisor, [ChildSpec("a", UsersWorker, ("a", events))])
    stranger = scheduler.start(UsersWorker, "stranger", events)
    root.tell(Down(stranger, None))
    assert ref_of(root, "a").is_alive()
