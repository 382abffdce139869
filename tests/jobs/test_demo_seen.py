"""The demo's first page as a browser sees it: it shows what is there, is readable, and names in it run nothing."""

import asyncio

import numpy as np
import pytest
from browser import AXE, HOSTILE, WIDTHS, see

from jobs.demo import write_index
from posec3d import draw
from posec3d.table import clip_id
from posec3d.video import write_video

pytestmark = pytest.mark.slow


def demo(out, label: str, video: str):
    """What a demo leaves behind, small, and its page."""
    grey = np.full((24, 240, 320, 3), 90, np.uint8)
    predictions = {}
    for key, folder in (("predict", "synthetic/predictions"), ("predict real", "real/predictions")):
        rows = []
        for number in range(3):
            name = f"videos/{number}{video}.mp4"
            row = {"video": name, "clip_id": clip_id(name), "people": number, "error": None, "top": []}
            if number:
                row["top"] = [{"label": f"{label}{i}", "probability": 0.5 / (i + 1)} for i in range(5)]
            rows.append(row)
            (out / folder).mkdir(parents=True, exist_ok=True)
            path = f"{out / folder}/{row['clip_id']}"
            write_video(f"{path}.mp4", grey, 16)
            draw.write_gif(f"{path}.gif", list(grey[:2]), 12)
            draw.write_png(f"{path}-why.png", grey[0])
        failed = {"video": f"videos/x{video}.mp4", "clip_id": "x", "people": 0, "top": [], "error": f"broken {label}"}
        predictions[key] = {"path": str(out / folder), "predictions": [*rows, failed], "seconds": 12.3}
    for picture in ("picture.png", "synthetic/run/learning_curves.png", "synthetic/run/evaluate/confusion.png"):
        (out / picture).parent.mkdir(parents=True, exist_ok=True)
        draw.write_png(out / picture, grey[0])
    classes = [{"name": f"{label}{n}"} for n in range(10_000)]
    done = {
        "extract": {"videos": 112, "seconds": 49.4, "path": f"runs/demo/{label}"},
        "stats": {"seconds": 6, "path": "runs/demo/synthetic/report"},
        "train": {"clips": 84, "seconds": 118.1, "path": "runs/demo/synthetic/run"},
        "evaluate": {"classes": classes, "top1": 0.9286, "clips": 28, "seconds": 10, "path": "evaluate"},
        **predictions,
        "stats real": {"seconds": 6, "path": "runs/demo/real/report"},
    }
    write_index(out, done)


@pytest.fixture(scope="module", params=["ordinary", "hostile"])
def seen(request, chromium, axe, tmp_path_factory):
    out = tmp_path_factory.mktemp("demo")
    demo(out, *{"ordinary": ("jumping_jack", "a12_t0"), "hostile": (HOSTILE, "\"'\n#? %<b>")}[request.param])
    pictures = "[...document.images].map(i => (i.loading = 'eager', i.decode().then(() => i.naturalWidth > 0)))"
    ready = "v => v.readyState ? v.videoWidth : new Promise(r => v.onloadedmetadata = () => r(v.videoWidth))"
    expressions = {
        "pictures": f"Promise.all({pictures})",
        "videos": f"Promise.all([...document.querySelectorAll('video')].map({ready}))",
        "links": "[...document.links].map(a => decodeURIComponent(a.href))",
        "text": "document.body.innerText",
    }
    found = asyncio.run(see(chromium, out / "index.html", axe, expressions))
    return {"page": request.param, "out": out, "checked": axe is not None, **found}


def test_all_pictures_and_videos_are_there(seen):
    assert seen["pictures"] == [True] * 9
    assert seen["videos"] == [320] * 6


def test_links_lead_to_files_that_are_there(seen):
    links = [link for link in seen["links"] if link.endswith("-why.png")]
    assert len(links) == 4 and all((seen["out"] / link.removeprefix("file://")).exists() for link in links)


def test_nothing_is_asked_of_the_network_and_nothing_said_in_the_console(seen):
    assert [url for url in seen["requests"] if not url.startswith(("file:", "data:"))] == []
    assert seen["console"] == []


def test_names_run_nothing_and_are_shown_as_they_are(seen):
    assert seen["title"] == "posec3d demo"
    name = "<script>document" if seen["page"] == "hostile" else "jumping_jack0 50 %"
    assert name in seen["text"] and "nobody found" in seen["text"]
    assert "\u202e" not in seen["text"]  # it would turn what stands behind it


def test_the_page_is_as_wide_as_its_window_small_and_opens_at_once(seen):
    assert seen["wide"] == {width: width for width in WIDTHS}
    assert (seen["out"] / "index.html").stat().st_size < 30_000
    assert seen["seconds"] < 20


def test_axe_finds_nothing_serious(seen):
    if not seen["checked"]:
        pytest.skip(f"npm cannot get {AXE}")
    assert seen["axe"] == []
