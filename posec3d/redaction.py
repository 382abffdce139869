"""What is told and kept, without passwords, signatures of URLs and what the environment keeps secret."""

import os
import re
from typing import Any, TypeVar

T = TypeVar("T")

_QUERY = re.compile(r"""(?<=://)([^\s'"<>?]*)\?([^\s'"<>)]*[^\s'"<>):,.])""")
_SIGNED = {
    "Signature": {"Signature", "Expires", "AWSAccessKeyId", "GoogleAccessId", "Key-Pair-Id", "Policy"},
    "sig": {"sig", *"se si sp spr sr srt ss st sv sip sdd skoid sktid skt ske sks skv".split()},
}
"""A parameter that signs a URL, and those that come with it: of AWS's older way, CloudFront and Google; of Azure."""


def unsigned(text: str) -> str:
    """Text without the signatures of the URLs in it, which are secrets and differ from one listing to the next.

    Parameters of other meaning stay; short ones, as `st`, go only from a URL that is signed by a scheme that has them.
    """

    def without(match: re.Match[str]) -> str:
        pairs = match[2].split("&")
        names = [pair.split("=")[0] for pair in pairs]
        known = set().union(*(also for mark, also in _SIGNED.items() if mark in names))
        kept = [
            pair
            for pair, name in zip(pairs, names, strict=True)
            if name not in known and not name.startswith(("X-Amz-", "X-Goog-"))
        ]
        return match[1] + ("?" + "&".join(kept) if kept else "")

    return _QUERY.sub(without, text)


def redacted(value: T) -> T:
    """Text, or that in dictionaries and lists, without passwords, signatures and what the environment hides."""
    named = "SECRET|TOKEN|PASSWORD|ACCESS_KEY|API_KEY"
    kept = (
        text for name, text in os.environ.items() if re.search(named, name) and not re.search("_(PATH|FILE)$", name)
    )
    secrets = [text for text in kept if len(text) >= 8]

    def one(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: one(part) for key, part in value.items()}
        if isinstance(value, list):
            return [one(part) for part in value]
        if isinstance(value, str):
            value = re.sub(r"(://[^/\s:@]*):[^/\s@]+@", r"\1:***@", unsigned(value))
            for secret in secrets:
                value = value.replace(secret, "***")
        return value

    return one(value)
