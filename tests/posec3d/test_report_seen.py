"""Reports as a browser sees them: nothing asked of the network, nothing wrong in the console, readable."""

import asyncio

import numpy as np
import pytest
from browser import AXE, HOSTILE, WIDTHS, see

from posec3d.comparison import Differences
from posec3d.comparison import summarise as differences_of
from posec3d.counts import count_row_group
from posec3d.limits import Limits, judge
from posec3d.report import sample, stats_html
from posec3d.statistics import summarise
from posec3d.sweep import Trial, ranked, report_html
from posec3d.table import Clip, rows_to_arrow, to_row

pytestmark = pytest.mark.slow


def clip(name: str, label: int, label_name: str, split: str, seed: int) -> Clip:
    rng = np.random.default_rng(seed)
    body = rng.normal((80, 60), 15, (1, 1, 17, 2)) + rng.normal(0, 2, (1, 6, 17, 2))
    scores = rng.uniform(0.2, 1, (1, 6, 17)) * (rng.random((1, 6, 17)) > 0.1)
    given = {"video": f"{name}/x.mp4", "fps": 25.0, "splits": (split,), "pose_model": name, "detector": name}
    return Clip(name, 6, 120, 160, body, scores, label=label, label_name=label_name, **given)


def page(clips: list[Clip]) -> str:
    failure = {"stage": HOSTILE, "cause": HOSTILE, "clips": 1, "examples": [{"video": HOSTILE, "clip_id": HOSTILE}]}
    counts = count_row_group(rows_to_arrow([to_row(c) for c in clips]))
    found = summarise(counts, {"clips": 1, "succeeded_later": 1, "groups": [failure]})
    differences = Differences()
    for one in clips[:50]:
        differences.add_clip(one, one)
    return stats_html(
        {"table": HOSTILE, "created": "2026-01-01", **found},
        [sample(one, rank, 0.5) for one, rank in zip(clips, ("worst", "median", "best"), strict=False)],
        verdicts=judge(Limits(at_most={"missing": 0.5, "leaked_identical": 0}), found["measures"]),
        comparison=differences_of(differences, 50, 50, 50, 50, HOSTILE),
    )


def ordinary() -> str:
    clips = [clip(f"c{i}", i % 7, f"class {i % 7}", "train" if i % 3 else "test", i) for i in range(60)]
    return page([*clips, clip("copy", 0, "class 0", "train", 0)])


def hostile() -> str:
    clips = [
        clip(f"{HOSTILE}{i}", i, f"{HOSTILE}{i}", HOSTILE if i % 2 else f"{HOSTILE}{i % 24}", i) for i in range(10_000)
    ]
    return page(clips)


def sweep(name: str, key: str) -> str:
    trials = [
        Trial(f"t{n}{name}", {key: f"{name}{n % 3}", "optim.lr": 10.0**-n}, "finished", rows, 4, "")
        for n in range(1, 6)
        if (rows := [{"epoch": e, "val_top1": (n + e) / 20, "val_loss": 1.0} for e in range(1, 5)])
    ]
    failed = Trial(f"failed{name}", {key: name, "optim.lr": 1.0}, "failed", [], 4, name)
    about = {"table": name, name: name}
    return report_html(ranked([*trials, failed], "val_top1", "max"), [key, "optim.lr"], "val_top1", "max", about=about)


@pytest.fixture(scope="module", params=["ordinary", "hostile", "ordinary sweep", "hostile sweep"])
def seen(request, chromium, axe, tmp_path_factory) -> dict:
    make = {
        "ordinary": ordinary,
        "hostile": hostile,
        "ordinary sweep": lambda: sweep("limb", "batch"),
        "hostile sweep": lambda: sweep(HOSTILE, HOSTILE),
    }
    file = tmp_path_factory.mktemp("page") / "page.html"
    file.write_text(make[request.param]())
    expressions = {
        "films": "[...document.querySelectorAll('.film img')].map(i => i.complete && i.naturalWidth > 0)",
        "playing": "document.getAnimations().length",
    }
    found = asyncio.run(see(chromium, file, axe, expressions))
    return {"page": request.param, "file": file, "checked": axe is not None, **found}


def test_nothing_is_asked_of_the_network(seen):
    assert [url for url in seen["requests"] if not url.startswith("data:image/")] == [seen["file"].as_uri()]


def test_nothing_is_said_in_the_console(seen):
    assert seen["console"] == []


def test_names_run_nothing(seen):
    assert seen["title"].startswith("Sweep: " if "sweep" in seen["page"] else "Keypoint table: ")


def test_the_page_is_as_wide_as_its_window(seen):
    assert seen["wide"] == {width: width for width in WIDTHS}


def test_films_play_unless_motion_is_not_wanted(seen):
    count = 0 if "sweep" in seen["page"] else 3
    assert seen["films"] == [True] * count and seen["playing"] == count
    if seen["checked"]:
        assert seen["at rest"] == 0


def test_ten_thousand_classes_make_no_page_of_ten_megabytes_and_open_at_once(seen):
    assert seen["file"].stat().st_size < 1_000_000
    assert seen["seconds"] < 20


def test_axe_finds_nothing_serious(seen):
    if not seen["checked"]:
        pytest.skip(f"npm cannot get {AXE}")
    assert seen["axe"] == []
