"""The network of queues behind the cluster's arithmetic: cases whose answer is known by hand."""

import pytest

from benchmarks.scale import Case, Clip, Machine, Station, simulate, stream


def work(station, seconds, times):
    for _ in range(times):
        yield station, seconds, True


def test_one_server_does_one_thing_after_another_and_two_do_two_at_a_time():
    assert simulate([work(Station(1), 2.0, 1) for _ in range(1)]) == 2
    one, two = Station(1), Station(2)
    assert simulate([work(one, 2.0, 3) for _ in range(4)]) == 24
    assert simulate([work(two, 2.0, 3) for _ in range(4)]) == 12
    assert one.busy == two.busy == 24


def test_a_line_of_stations_is_as_fast_as_its_slowest():
    node, driver, s3 = Machine(Station(8)), Station(), Station()
    clips = iter([Clip(chunks=2, fetch=0.1, requests=1, cpu=0.5, gpu=0.25, driver=0.01)] * 400)
    seconds = simulate([stream(clips, node, driver, s3, Case(s3_latency_s=0.1)) for _ in range(8)])
    assert seconds == pytest.approx(400 * 2 * 0.25, rel=0.02)  # the GPU, 0.5 s a clip; the cores would take 0.125
    assert node.gpu.busy / seconds == pytest.approx(1, rel=0.02)
    assert driver.busy == pytest.approx(4)


def test_what_nobody_waits_for_is_still_done():
    driver, node = Station(), Machine(Station(1))
    clips = iter([Clip(chunks=1, fetch=0, requests=0, cpu=0.1, gpu=0, driver=1.0)] * 10)
    assert simulate([stream(clips, node, driver, Station(), Case())]) == pytest.approx(0.1 + 10)
