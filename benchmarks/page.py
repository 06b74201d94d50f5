"""How long the page takes to answer: from the drop of an image to what it says, in Chromium.

    python -m benchmarks.page --out benchmarks/results/page-cpu.json

`vitkit serve` and the browser share the machine. Times are the browser's own, from the event to the
frame after the change: a dropped JPEG of 500x375 until the class stands there, and a click on a
patch until its map is drawn in all layers and heads, with what that costs on the wire. Weights are
random. It needs Debian's package chromium.
"""

import base64
import shutil
import statistics
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.loading import HEIGHT, WIDTH, write_images
from benchmarks.record import keep, parser
from benchmarks.serving import serving, write_checkpoint
from playwright.sync_api import Page, sync_playwright

FLAGS = ("--no-sandbox", "--disable-gpu", "--disable-background-networking")
MODELS = ("vit_small_patch16_224", "vit_base_patch16_224")
DROP = """
(data) => new Promise((resolve) => {
  const bytes = Uint8Array.from(atob(data), (c) => c.charCodeAt(0));
  const given = new DataTransfer();
  given.items.add(new File([bytes], "photo.jpg", { type: "image/jpeg" }));
  const begun = performance.now();
  new MutationObserver((_, watcher) => {
    watcher.disconnect();
    requestAnimationFrame(() => resolve(performance.now() - begun));
  }).observe(document.getElementById("answer-rows"), { childList: true });
  dispatchEvent(new DragEvent("drop", { dataTransfer: given, cancelable: true }));
})"""
CLICK = """
(place) => new Promise((resolve) => {
  const image = document.getElementById("image");
  const title = document.getElementById("map-title");
  const box = image.getBoundingClientRect();
  const share = (place + 0.5) / 14;
  const at = { clientX: box.left + share * box.width, clientY: box.top + share * box.height };
  const begun = performance.now();
  new MutationObserver((_, watcher) => {
    if (!title.textContent.includes(`row ${place}, column ${place} `)) return;
    watcher.disconnect();
    requestAnimationFrame(() => resolve(performance.now() - begun));
  }).observe(title, { childList: true });
  image.dispatchEvent(new MouseEvent("click", { ...at, bubbles: true }));
})"""
HEAD = """
(head) => new Promise((resolve) => {
  const begun = performance.now();
  document.querySelector(`[data-layer="0"][data-head="${head}"]`).click();
  requestAnimationFrame(() => resolve(performance.now() - begun));
})"""
SENT = """
() => performance.getEntriesByType("resource").filter(({ name }) => name.includes("/attention"))
  .map(({ encodedBodySize }) => encodedBodySize).at(-1)"""


def measure(page: Page, images: list[bytes]) -> dict[str, Any]:
    """Milliseconds of each thing, over all images; the first is not counted."""
    drops, clicks, heads = [], [], []
    for number, image in enumerate(images):
        drops.append(page.evaluate(DROP, base64.b64encode(image).decode()))
        page.wait_for_timeout(1500)  # the first maps are drawn meanwhile
        clicks.append(page.evaluate(CLICK, number % 14))
        page.wait_for_timeout(200)
        heads.append(page.evaluate(HEAD, number % 6))
    return {
        "first_answer_ms": spread(drops[1:]),
        "click_to_maps_ms": spread(clicks[1:]),
        "other_head_ms": spread(heads[1:]),
        "attention_kilobytes": round(page.evaluate(SENT) / 1000, 1),
    }


def spread(values: list[float]) -> dict[str, float]:
    """Median and most."""
    return {"median": round(statistics.median(values), 1), "most": round(max(values), 1)}


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--models", nargs="+", default=MODELS)
    options.add_argument("--images", type=int, default=16)
    arguments = options.parse_args()
    chromium = shutil.which("chromium")
    if chromium is None:
        raise SystemExit("chromium is not installed; install Debian's package chromium")
    result: dict[str, Any] = {"models": {}, "pixels": f"{WIDTH}x{HEIGHT}"}
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as play:
        write_images(Path(folder, "images"), arguments.images)
        images = [path.read_bytes() for path in sorted(Path(folder, "images").rglob("*.jpg"))]
        browser = play.chromium.launch(executable_path=chromium, args=list(FLAGS))
        for model in arguments.models:
            write_checkpoint(model, Path(folder, model))
            with serving(Path(folder, model), arguments.threads) as server:
                page = browser.new_page(viewport={"width": 1360, "height": 900})
                page.goto(f"http://{server.place[0]}:{server.place[1]}")
                page.wait_for_selector("#model-about:not(:empty)")
                result["models"][model] = measure(page, images)
                page.close()
    keep(result, arguments)


if __name__ == "__main__":
    main()
