"""Reports in a browser: nothing is asked for, by day and by night all can be read, and they fit a phone and a page."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

_READABLE = """() => {
  const channel = v => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
  const light = colour => {
    const [r, g, b] = colour.match(/[\\d.]+/g).map(Number);
    return 0.2126 * channel(r) + 0.7152 * channel(g) + 0.0722 * channel(b);
  };
  const ground = element => {
    for (let e = element; e; e = e.parentElement) {
      const colour = getComputedStyle(e).backgroundColor;
      if (colour !== 'rgba(0, 0, 0, 0)') return colour;
    }
    return 'rgb(255, 255, 255)';
  };
  const written = [...document.querySelectorAll('h1, h2, p, th, td, figcaption, summary, svg text')];
  return written.filter(e => e.textContent.trim()).map(e => {
    const ink = light(getComputedStyle(e)[e.namespaceURI.endsWith('svg') ? 'fill' : 'color']), page = light(ground(e));
    return (Math.max(ink, page) + 0.05) / (Math.min(ink, page) + 0.05);
  });
}"""


@pytest.fixture(params=["light", "dark"])
def report(request: pytest.FixtureRequest, finished: Path, browser: Any) -> Iterator[Any]:
    """The report of a small run, opened as a file; at the end nothing else has been asked for."""
    page = browser.new_page(viewport={"width": 1100, "height": 900}, color_scheme=request.param)
    asked: list[str] = []
    said: list[str] = []
    page.on("request", lambda one: asked.append(one.url))
    page.on("console", lambda one: said.append(one.text))
    page.goto((finished / "report.html").as_uri())
    yield page
    assert [url for url in asked if not url.startswith("data:")] == [(finished / "report.html").as_uri()]
    assert said == []
    page.close()


def test_all_text_can_be_read_by_day_and_by_night(report: Any) -> None:
    dark = report.evaluate("matchMedia('(prefers-color-scheme: dark)').matches")
    ground = report.evaluate("getComputedStyle(document.body).backgroundColor")
    assert ground == ("rgb(19, 21, 23)" if dark else "rgb(251, 251, 250)")
    contrasts = report.evaluate(_READABLE)
    assert len(contrasts) > 200
    assert min(contrasts) >= 4.5  # WCAG 2.2, AA


def test_every_picture_is_there_and_has_a_text(report: Any) -> None:
    pictures = report.evaluate("[...document.images].map(i => [i.naturalWidth, i.alt])")
    assert len(pictures) >= 4 * (2 + 2 + 2)  # examples, worst, best
    assert all(width and alt for width, alt in pictures)
    boxes = report.evaluate(
        "[...document.querySelectorAll('svg')].map(s => [s.clientWidth, s.getAttribute('aria-label')])"
    )
    assert all(label for _, label in boxes)


def test_it_fits_a_phone(report: Any) -> None:
    report.set_viewport_size({"width": 390, "height": 800})
    assert report.evaluate("document.documentElement.scrollWidth") <= 390


def test_a_print_is_light_and_unfolded(report: Any) -> None:
    report.emulate_media(media="print")
    assert report.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(251, 251, 250)"
    folded = report.locator("details").first
    assert folded.get_attribute("open") is None
    assert folded.evaluate("d => d.lastElementChild.getBoundingClientRect().height") > 20
    assert report.locator("nav").evaluate("n => getComputedStyle(n).display") == "none"
