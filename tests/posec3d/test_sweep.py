"""The sweep's ranking and report: what is best, and that names in it stay text."""

import html.parser

import pytest

from posec3d.sweep import Axis, Trial, ranked, report_html, text

HOSTILE = "<script>alert('x')</script>\"><img src=x onerror=alert(1)>"


def trial(name, scores, status="finished", lr=0.1, error="", **params):
    rows = [{"epoch": n + 1.0, "val_top1": score, "val_loss": 1 - score} for n, score in enumerate(scores)]
    return Trial(name, {"optim.lr": lr, **params}, status, rows, 4, error)


def test_the_best_epoch_of_a_trial_counts():
    one = trial("a", [0.5, 0.9, 0.9, 0.7])
    assert (one.value("val_top1", "max"), one.best_epoch("val_top1", "max")) == (0.9, 2)
    assert one.value("val_loss", "min") == pytest.approx(0.1)
    assert trial("b", [float("nan")]).value("val_top1", "max") is None


def test_ranking_puts_failures_last_and_breaks_ties_by_loss():
    close = Trial("close", {}, "finished", [{"epoch": 1, "val_top1": 0.8, "val_loss": 0.3}], 1)
    far = Trial("far", {}, "stopped", [{"epoch": 1, "val_top1": 0.8, "val_loss": 0.4}], 1)
    trials = [trial("none", [], "failed"), trial("failed", [0.9], "failed"), far, close, trial("worse", [0.2])]
    assert [t.name for t in ranked(trials, "val_top1", "max")] == ["close", "far", "worse", "failed", "none"]
    assert [t.name for t in ranked([trial("a", [0.1]), trial("b", [0.6])], "val_loss", "min")] == ["b", "a"]


def test_an_axis_places_numbers_by_size_and_names_evenly():
    assert [Axis([1, 2, 3], 0, 100).place(v) for v in (1, 2, 3)] == [0, 50, 100]
    assert Axis([0.001, 0.1], 0, 100, logarithmic=True).place(0.01) == 50
    assert Axis([None, 4, 2], 0, 90).ticks == [(15, "2"), (45, "4"), (75, "None")]
    assert Axis([5, 5], 0, 100).place(5) == 50


def test_values_for_people():
    assert [text(v) for v in (0.00123456, 16, None, [28, 32], "limb")] == ["0.001235", "16", "None", "[28, 32]", "limb"]


class Reader(html.parser.HTMLParser):
    """Collects tags and the text of a document."""

    def __init__(self, source):
        super().__init__()
        self.tags, self.text = [], ""
        self.feed(source)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data


def report(trials, keys):
    return report_html(ranked(trials, "val_top1", "max"), keys, "val_top1", "max", about={"table": HOSTILE})


def test_the_report_draws_every_trial_that_has_an_epoch():
    trials = [trial(f"t{n}", [n / 10, n / 8], lr=10**-n, kind="limb") for n in range(1, 6)]
    read = Reader(report([*trials, trial("x", [], "failed", kind="joint")], ["optim.lr", "kind"]))
    lines = [a for tag, a in read.tags if tag == "polyline"]
    assert len(lines) == 5 * 2  # in the parallel coordinates and as a learning curve
    assert [a["class"] for a in lines].count("best") == 1
    assert len([tag for tag, _ in read.tags if tag == "circle"]) == 5 * 2  # a dot for each of two parameters
    assert "Best is trial t5" in " ".join(read.text.split())


def test_hostile_names_stay_text_and_nothing_is_fetched():
    read = Reader(report([trial("a", [0.5], kind=HOSTILE), trial("b", [], "failed", error=HOSTILE, kind=1)], ["kind"]))
    assert {"script", "img", "link", "iframe"}.isdisjoint(tag for tag, _ in read.tags)
    assert not [name for _, a in read.tags for name in a if name.startswith("on") or name in ("src", "href")]
    assert read.text.count("<script>") >= 3
    (policy,) = [a["content"] for tag, a in read.tags if tag == "meta" and "http-equiv" in a]
    assert policy.startswith("default-src 'none'")


def test_a_sweep_in_which_all_failed_has_a_report():
    assert "No trial got through an epoch." in report([trial("a", [], "failed")], ["optim.lr"])


def test_ticks_that_would_touch_give_way_to_the_ends():
    axis = Axis([0.598, 0.6429, 0.6915, 0.6932], 200, 0)
    assert [name for _, name in axis.ticks] == ["0.598", "0.6429", "0.6932"]
    assert [name for _, name in Axis([3, 3], 0, 200).ticks] == ["3"]
