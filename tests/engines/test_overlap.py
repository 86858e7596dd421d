"""Work beside the caller's own: in order, bounded, and nothing that is raised is lost."""

import threading

import pytest

from unsafe2safe.engines.overlap import BackgroundWriter, prepared_ahead


@pytest.mark.parametrize("ahead", [0, 1, 3])
def test_results_come_in_the_order_of_the_items(ahead):
    assert list(prepared_ahead(range(20), lambda item: item * item, ahead)) == [
        item * item for item in range(20)
    ]
    assert list(prepared_ahead([], str, ahead)) == []


@pytest.mark.parametrize("ahead", [1, 3])
def test_no_more_than_so_many_are_made_beforehand(ahead):
    made, most, lock = [], [], threading.Lock()

    def prepare(item):
        with lock:
            made.append(item)
        return item

    for taken, _ in enumerate(prepared_ahead(range(30), prepare, ahead), 1):
        with lock:
            most.append(len(made) - taken)
    assert max(most) <= ahead


def test_the_next_one_is_prepared_while_the_caller_works():
    begun = threading.Event()

    def prepare(item):
        if item == 1:
            begun.set()
        return item

    items = prepared_ahead(range(2), prepare, 1)
    assert next(items) == 0
    assert begun.wait(10)  # although nobody has asked for it yet
    assert list(items) == [1]


def test_what_preparing_raises_is_raised_at_its_turn_and_no_thread_stays():
    def prepare(item):
        if item == 2:
            raise KeyError(item)
        return item

    items = prepared_ahead(range(9), prepare, 2)
    assert [next(items), next(items)] == [0, 1]
    with pytest.raises(KeyError):
        next(items)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("prepare")]


def test_whoever_stops_early_leaves_no_thread():
    items = prepared_ahead(range(9), lambda item: item, 2)
    next(items)
    items.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("prepare")]


def test_writes_run_in_order_beside_the_caller():
    written, gate = [], threading.Event()
    with BackgroundWriter(5) as writer:
        writer.submit(lambda: written.append(gate.wait(10)))
        for number in range(4):
            writer.submit(lambda number=number: written.append(number))
        assert written == []  # the first one waits for us
        gate.set()
        writer.drain()
        assert written == [True, 0, 1, 2, 3]


def test_a_failed_write_is_raised_by_the_next_drain_and_stops_the_others():
    written = []

    def full():
        raise OSError(28, "no space left on device")

    with BackgroundWriter(2) as writer:
        writer.submit(lambda: written.append(0))
        writer.submit(full)
        for number in range(1, 50):  # more than may wait: nobody hangs
            writer.submit(lambda number=number: written.append(number))
        with pytest.raises(OSError, match="no space left"):
            writer.drain()
        assert written == [0]
        writer.submit(lambda: written.append(99))
        writer.drain()
    assert written == [0, 99]
