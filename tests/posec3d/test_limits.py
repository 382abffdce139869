"""Threshold files: what they may say, and what breaks them."""

import pytest

from posec3d.limits import Limits, in_words, judge, read_limits


def read(tmp_path, text: str) -> Limits:
    (tmp_path / "limits.toml").write_text(text)
    return read_limits(str(tmp_path / "limits.toml"))


def test_a_file_of_limits_is_read(tmp_path):
    limits = read(tmp_path, "quality = 0.5\n[at_most]\nmissing = 0.2\ndistance = 0.05\n[at_least]\nhours = 10\n")
    assert limits == Limits(0.5, {"missing": 0.2, "distance": 0.05}, {"hours": 10})
    assert limits.compared == ["distance"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("at_most", "not TOML"),
        ("[at_mots]\nmissing = 1", r"unknown at_mots; it may have quality, \[at_most\] and \[at_least\]"),
        ("[at_most]\nmisses = 1", "no measure misses to limit; there are clips, hours, .*leaked_near, unmatched"),
        ("[at_most]\nmissing = 'few'", "missing must be a number, got 'few'"),
        ("[at_most]\nmissing = true", "missing must be a number, got True"),
        ("[at_most]\nmissing = nan", "missing must be a number, got nan"),
        ("quality = '1'", "quality must be a number"),
        ("at_most = 1", r"at_most must be a table, \[at_most\], got 1"),
    ],
)
def test_what_it_may_not_say(tmp_path, text, message):
    with pytest.raises(ValueError, match=message):
        read(tmp_path, text)


def test_a_limit_holds_up_to_its_value():
    limits = Limits(at_most={"missing": 0.2}, at_least={"hours": 2})
    assert in_words(judge(limits, {"missing": 0.2, "hours": 2})) == ""
    words = in_words(judge(limits, {"missing": 0.21, "hours": 1.5}))
    assert words == (
        "missing (share of joints without a score where their person is there) is 0.21, at most 0.2 is allowed; "
        "hours (hours of video with a known fps) is 1.5, at least 2 is allowed"
    )


def test_what_cannot_be_measured_breaks_its_limit():
    (verdict,) = judge(Limits(at_most={"missing": 0.2}), {"missing": None})
    assert not verdict["ok"]
