"""Headless Chromium, spoken to by its DevTools protocol, and axe-core: for tests that look at pages."""

import base64
import json
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

AXE = "axe-core@4.14.1"
WIDTHS = (400, 1280, 1920)
HOSTILE = (
    "<script>document.title='pwned';alert(1)</script>\n\"'><img src=//example.org/x onerror=\"alert(1)\">\u202e[/b]"
)
"""A name that runs, breaks lines and turns the text around it, if a page lets it."""


class Browser:
    """One tab."""

    def __init__(self, socket: Any) -> None:
        self.socket = socket
        self.session: str | None = None
        self.number = 0
        self.events: list[dict] = []

    async def __call__(self, method: str, **params):
        self.number += 1
        message = {"id": self.number, "method": method, "params": params}
        await self.socket.send_json({**message, "sessionId": self.session} if self.session else message)
        while (answer := await self._heard()).get("id") != self.number:
            self.events.append(answer)
        assert "error" not in answer, answer
        return answer["result"]

    async def _heard(self) -> dict:
        event = await self.socket.receive_json(timeout=120)
        assert event.get("method") != "Page.javascriptDialogOpening", f"the page opens a dialog: {event}"
        return event

    async def value(self, expression: str):
        done = await self("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in done, done
        return done["result"].get("value")

    async def open(self, url: str) -> None:
        """Go there, and wait until all is loaded."""
        self.events.clear()
        await self("Page.navigate", url=url)
        while not any(event.get("method") == "Page.loadEventFired" for event in self.events):
            self.events.append(await self._heard())

    async def look(self, width: int, scheme: str = "light", height: int = 1000) -> int:
        """Be so wide, in a colour scheme, without motion; the width of the page, which is more if it sticks out."""
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        await self("Emulation.setDeviceMetricsOverride", **metrics)
        features = {"prefers-color-scheme": scheme, "prefers-reduced-motion": "reduce"}
        await self("Emulation.setEmulatedMedia", features=[{"name": k, "value": v} for k, v in features.items()])
        return await self.value("document.documentElement.scrollWidth")

    async def violations(self) -> list[tuple]:
        """What axe-core, whose script has been run, finds serious or critical."""
        found = json.loads(await self.value("axe.run({preload: false}).then(r => JSON.stringify(r.violations))"))
        return [
            (one["id"], one["impact"], node["target"], node["html"][:200])
            for one in found
            if one["impact"] in ("serious", "critical")
            for node in one["nodes"][:3]
        ]

    async def screenshot(self, path: Path, *, whole: bool = False) -> None:
        """The window as PNG, or the whole page."""
        shot = await self("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(shot["data"]))

    @property
    def requests(self) -> list[str]:
        """URLs asked for since `open`."""
        return [e["params"]["request"]["url"] for e in self.events if e.get("method") == "Network.requestWillBeSent"]

    @property
    def console(self) -> list[dict]:
        """What was said in the console since `open`."""
        said = ("Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded")
        return [e["params"] for e in self.events if e.get("method") in said]


@asynccontextmanager
async def tab(address: str) -> AsyncIterator[Browser]:
    """A new tab of the Chromium whose DevTools are at `address`."""
    import aiohttp  # here, for conftest.py reads this file for every test

    async with aiohttp.ClientSession() as http, http.ws_connect(address, max_msg_size=0) as socket:
        browser = Browser(socket)
        target = await browser("Target.createTarget", url="about:blank")
        attached = await browser("Target.attachToTarget", targetId=target["targetId"], flatten=True)
        browser.session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            await browser(f"{domain}.enable")
        yield browser


async def see(address: str, file: Path, axe: str | None, expressions: Mapping[str, str]) -> dict:
    """Open a page at each width, light and dark.

    Args:
        address: of DevTools.
        file: the page.
        axe: axe-core's script.
        expressions: JavaScript by name, whose values are wanted too.

    Returns:
        title; seconds to load; wide, by width; axe: what is serious; requests; console; and the expressions.
    """
    async with tab(address) as browser:
        start = time.monotonic()
        await browser.open(file.as_uri())
        found: dict = {"seconds": time.monotonic() - start, "axe": []}
        found |= {name: await browser.value(expression) for name, expression in expressions.items()}
        found["wide"] = {width: await browser.look(width) for width in WIDTHS}
        if axe:
            await browser.value(axe)
            for scheme in ("light", "dark"):
                await browser.look(WIDTHS[-1], scheme)
                found["axe"] += [(scheme, *one) for one in await browser.violations()]
        found["at rest"] = await browser.value("document.getAnimations().length")
        found["title"] = await browser.value("document.title")
        return {**found, "requests": browser.requests, "console": browser.console}
