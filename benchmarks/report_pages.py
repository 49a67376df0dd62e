"""Open report pages in Chromium: console messages, width, accessibility, speed of the graph, pictures.

    python benchmarks/report_pages.py FOLDER PAGE.html ... [--axe axe.min.js] [--chromium /usr/bin/chromium]

FOLDER gets a picture of each page, 390 and 1400 pixels wide, light and dark. Needs the package playwright, a
Chromium, and for --axe the file of the npm package axe-core. It exits with 1 after a console message, a
request, a page that is wider than the window, or a violation that axe finds.
"""

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from playwright.sync_api import Page, sync_playwright

WIDTHS, SCHEMES = (390, 1400), ("light", "dark")
VIOLATIONS = (
    "async () => (await axe.run()).violations.map(v => `${v.id}: ${v.nodes.length} x ${v.nodes[0].html}`)"
)
DRAWN = "new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))"


def look(browser: Any, path: Path, folder: Path, axe: str) -> list[str]:
    """Take the pictures of a page; return what is wrong with it."""
    wrong: list[str] = []
    for width in WIDTHS:
        for scheme in SCHEMES:
            context = browser.new_context(
                viewport={"width": width, "height": 900}, color_scheme=scheme, bypass_csp=bool(axe)
            )
            page = context.new_page()
            listen(page, wrong)
            page.goto(path.as_uri())
            page.screenshot(path=folder / f"{path.stem}-{width}-{scheme}.png", full_page=True)
            over = page.evaluate(
                "document.documentElement.scrollWidth - document.documentElement.clientWidth"
            )
            wrong += [f"{width} px: {over} px too wide"] if over > 0 else []
            if axe:
                page.evaluate(axe)
                wrong += [f"{scheme}, {width} px: {found}" for found in page.evaluate(VIOLATIONS)]
            context.close()
    return wrong


def listen(page: Page, wrong: list[str]) -> None:
    """Note console messages, errors, and requests for anything but the page itself and what it holds."""

    def check(url: str) -> None:
        if not url.startswith(("file:", "data:")):
            wrong.append(f"request: {url[:80]}")

    page.on("console", lambda message: wrong.append(f"console: {message.text}"))
    page.on("pageerror", lambda error: wrong.append(f"error: {error}"))
    page.on("request", lambda request: check(request.url))


def use(page: Page, path: Path) -> dict[str, float]:
    """Load a page and use its graph as a reader does; return the seconds until each change is drawn."""

    def timed(action: Callable[[], Any]) -> float:
        start = time.perf_counter()
        action()
        page.evaluate(DRAWN)
        return time.perf_counter() - start

    found = {"load": timed(lambda: page.goto(path.as_uri()))}
    if not page.locator("#find").count():
        return found
    if page.locator("#as-nodes").is_visible():
        found["nodes"] = timed(lambda: page.check("#as-nodes"))
    found["find"] = timed(lambda: page.fill("#find", "conv"))
    found["go"] = timed(lambda: page.press("#find", "Enter"))
    found["zoom"] = timed(lambda: page.click("button[data-zoom='1.5']"))
    found["move"] = timed(lambda: page.press("svg.graph.nodes", "ArrowRight"))
    found["filter"] = timed(lambda: page.fill("input.filter >> nth=0", "conv"))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("pages", type=Path, nargs="+")
    parser.add_argument("--axe", type=Path, help="axe.min.js of axe-core")
    parser.add_argument("--chromium", default="/usr/bin/chromium")
    args = parser.parse_args()
    axe = args.axe.read_text(encoding="utf-8") if args.axe else ""
    args.folder.mkdir(parents=True, exist_ok=True)
    failed = False
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=args.chromium, args=["--no-sandbox"])
        for path in map(Path.resolve, args.pages):
            wrong = look(browser, path, args.folder, axe)
            page = browser.new_page(viewport={"width": 1400, "height": 900})
            times = ", ".join(f"{name} {seconds:.2f} s" for name, seconds in use(page, path).items())
            page.close()
            print(
                f"{path.name}: {path.stat().st_size / 1e6:.2f} MB; {times}; {len(wrong)} findings", flush=True
            )
            print("".join(f"  {line}\n" for line in wrong), end="")
            failed |= bool(wrong)
        browser.close()
    sys.exit(failed)


if __name__ == "__main__":
    main()
