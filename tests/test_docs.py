"""The documentation: links lead somewhere, commands are taken, code compiles, the site builds and reads well."""

import asyncio
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from browser import AXE, WIDTHS, tab

from jobs import (
    compact,
    convert,
    demo,
    evaluate,
    export,
    export_poses,
    extract,
    import_poses,
    predict,
    stats,
    train,
    tune,
)
from jobs._job import parse

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted({*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("benchmarks/results/*.md")})
JOBS = {
    "extract": lambda args: parse(extract.Extract, args),
    "import_poses": lambda args: parse(import_poses.ImportPoses, args),
    "export_poses": lambda args: parse(export_poses.ExportPoses, args),
    "compact": lambda args: parse(compact.Compact, args),
    "convert": convert.parse,
    "stats": lambda args: parse(stats.Stats, args),
    "train": train.parse,
    "tune": tune.parse,
    "evaluate": lambda args: parse(evaluate.Evaluate, args),
    "export": lambda args: parse(export.Export, args),
    "predict": lambda args: parse(predict.Predict, args),
    "demo": lambda args: parse(demo.Demo, args),
}


def documented_commands():
    """Lines `python -m jobs.x ...` of the Markdown files, continuation lines joined.

    Not of evidence_commands.md, made from hundreds of results, which tests/benchmarks/test_accuracy.py looks at.
    """
    for path in sorted({*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")} - {ROOT / "docs/evidence_commands.md"}):
        text = path.read_text().replace("\\\n", " ")
        for match in re.finditer(
            r"^ *(?:ray job submit .*?-- )?(?:\.venv/bin/)?python -m jobs\.(\w+)(.*)$", text, re.M
        ):
            yield pytest.param(
                match[1], match[2].split("#")[0].strip(), id=f"{path.name}: {match[1]} {match[2].strip()}"
            )


@pytest.mark.parametrize(("job", "flags"), list(documented_commands()))
def test_documented_commands_have_the_flags_they_name(job, flags):
    assert JOBS[job](shlex.split(flags.replace("...", "x"))) is not None


def test_every_job_is_documented_and_has_help(capsys):
    documented = "".join(path.read_text() for path in [ROOT / "README.md", *ROOT.glob("docs/*.md")])
    for name, parse_flags in JOBS.items():
        assert f"jobs.{name}" in documented or name == "demo"
        with pytest.raises(SystemExit) as end:
            parse_flags(["--help"])
        assert end.value.code == 0
        assert f"python -m jobs.{name}" in capsys.readouterr().out


def without_code(text: str) -> str:
    return re.sub(r"`[^`\n]*`", "", re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S))


def anchors(page: Path) -> set[str]:
    """Of a page's headings, by the names that code hosts give them."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.M | re.S)
    names: dict[str, int] = {}
    for heading in re.findall(r"^#+ (.*)$", text, re.M):
        name = re.sub(r"[^\w\- ]", "", re.sub(r"\]\([^)]*\)", "", heading).lower()).replace(" ", "-")
        names[name] = names.get(name, -1) + 1
    return {f"{name}-{n}" if n else name for name, count in names.items() for n in range(count + 1)}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_relative_links_lead_somewhere(page):
    broken = []
    for link in re.findall(r"\]\(([^)\s]+)\)", without_code(page.read_text())):
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        if "://" not in link and not (target.exists() and (not anchor or anchor in anchors(target))):
            broken.append(link)
    assert broken == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_in_the_pages_compiles(page):
    for code in re.findall(r"^```python\n(.*?)^```$", page.read_text(), re.M | re.S):
        compile(code, str(page), "exec")


@pytest.mark.slow
def test_the_page_of_flags_has_the_flags_that_jobs_take(monkeypatch, capsys):
    pytest.importorskip("sphinx")
    monkeypatch.syspath_prepend(ROOT / "docs")
    import flags

    sections = dict(re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", flags.markdown(), re.M | re.S))
    listed = {name: set(re.findall(r"^\| `(--[\w.-]+)`", text, re.M)) for name, text in sections.items()}
    for name, parse_flags in JOBS.items():
        preset = ["demo"] if name in ("train", "tune", "convert") else []
        with pytest.raises(SystemExit):
            parse_flags([*preset, "--help"])
        # A flag stands right after its box's edge, which is a space where the terminal has no lines.
        shown = set(re.findall(r"^[│ ] (--[a-z][\w.-]*)", capsys.readouterr().out, re.M))
        ours = listed[f"jobs.{name}"] | (listed["Fields of a preset"] if preset else set())
        ours |= listed["jobs.train"] if name == "tune" else set()
        assert shown == ours, name


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    pytest.importorskip("sphinx", reason="pip install -e '.[docs]'")
    out = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-c", "docs", ".", str(out)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return out


async def look(address: str, site: Path, axe: str | None) -> dict[str, list]:
    """What is wrong with the pages of a site."""
    wrong: dict[str, list] = {"requests": [], "console": [], "wide": [], "axe": []}
    async with tab(address) as browser:
        for page in sorted(site.rglob("*.html")):
            name = page.relative_to(site).as_posix()
            if name == "index.html":  # leads to docs/index.html
                continue
            await browser.open(page.as_uri())
            if axe:
                await browser.value(axe)
            for width, scheme in zip(WIDTHS, ("light", "dark", "light"), strict=True):
                if await browser.look(width, scheme) != width:
                    wrong["wide"].append((name, width))
                if axe and width != WIDTHS[-1]:
                    wrong["axe"] += [(name, width, scheme, *found) for found in await browser.violations()]
            wrong["requests"] += [(name, u) for u in browser.requests if not u.startswith(("file:", "data:"))]
            wrong["console"] += [(name, said) for said in browser.console]
    return wrong


@pytest.mark.slow
@pytest.mark.timeout(900)  # some forty pages, each looked at by axe-core twice
def test_the_site_builds_without_a_warning_and_its_pages_read_well(site, chromium, axe):
    assert (site / "index.html").exists()
    assert asyncio.run(look(chromium, site, axe)) == {"requests": [], "console": [], "wide": [], "axe": []}
    if axe is None:
        pytest.skip(f"npm cannot get {AXE}: all else is well")
