"""The page in a real browser: no requests, no console messages, no foreign scripts, and every control works."""

from __future__ import annotations

import csv
import io
import itertools
import re

import pytest

from .conftest import OpenPage
from .page_results import ALARM, LEVELS, MODEL

CONTROLS = {
    "button#theme", "button.log-x", "button.log-y", "button.csv", "button.copy", "button.neuron", "button.near",
    "button.back", "button.next", "input.front", "input.layer", "input.search", "select#panel", "select.sort",
    "select.only", "select#explorer",
}  # fmt: skip
"""Every control of the page. A new control needs a test here."""


def saved(page, locator) -> list[list[str]]:
    """The rows of the CSV file that a click on the button downloads."""
    playwright = pytest.importorskip("playwright.sync_api")
    try:
        with page.expect_download(timeout=2000) as waiting:
            locator.click()
    except playwright.TimeoutError:  # Chromium holds one back after ten downloads of a page
        with page.expect_download() as waiting:
            locator.click()
    return list(csv.reader(io.StringIO(waiting.value.path().read_text(encoding="utf-8"))))


def chart(page, title: str):
    found = page.locator(".chart:visible", has=page.locator(f"figcaption b:text-is({title!r})")).first
    found.scroll_into_view_if_needed()
    found.locator(".main-svg").first.wait_for()
    return found


def layout(locator, path: str):
    return locator.locator(".plot").evaluate(f"plot => plot._fullLayout.{path}")


@pytest.mark.parametrize(
    ("width", "dark"),
    [
        pytest.param(1280, False, id="desktop-light"),
        pytest.param(360, True, id="phone-dark"),
        pytest.param(1280, True, id="desktop-dark", marks=pytest.mark.slow),
        pytest.param(360, False, id="phone-light", marks=pytest.mark.slow),
    ],
)
def test_nothing_is_wider_than_the_screen_and_every_chart_is_drawn(browser, whole_report, width, dark):
    window = OpenPage(browser, whole_report, width=width, dark=dark)
    page = window.page
    window.scroll_through()
    page.wait_for_timeout(200)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert (
        page.locator(".chart:visible").count()
        == page.locator(".chart:visible .plot .main-svg:nth-child(1)").count()
    )
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (ground == "rgb(255, 255, 255)") is not dark
    window.close()


def test_text_of_any_kind_stays_text(opened):
    page = opened.page
    assert page.locator("script").count() == 3, "the data, the plotting library, the page's own"
    assert page.locator("img").count() == 0
    assert MODEL in page.locator(".card h2").all_inner_texts()
    assert page.locator("#panel option").nth(2).inner_text().startswith(MODEL)
    assert any(ALARM in text for text in page.locator("#origin code").all_text_contents())
    assert ALARM in page.locator(".explorer .list th").all_inner_texts()
    assert any(ALARM in text for text in page.locator(".legendtext").all_text_contents())
    shown = page.locator(".tokens:visible").text_content()
    for token in (
        " the",
        "<script>",
        "\\x00\\x1b[0m",
        "\\ud800",
        "\\u202eabc",
        "\u05d0",
        "\U0001f9d1\u200d\U0001f680",
    ):
        assert token in shown


def test_there_is_no_control_without_a_test(opened):
    found = opened.page.eval_on_selector_all(
        "button:not(.modebar-btn), input, select",  # the plotting library's own bar is left out
        "all => all.map(e => e.localName + (e.id ? '#' + e.id : '.' + e.className))",
    )
    assert set(found) == CONTROLS


def test_a_phone_shows_headings_that_open(browser, whole_report):
    window = OpenPage(browser, whole_report, width=360)
    page = window.page
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    opened = page.locator("details.part").evaluate_all("parts => parts.map(part => part.open)")
    assert opened == [True] + [False] * (len(opened) - 1)
    assert page.locator(".panel .chart:visible").count() == 0
    page.locator("nav a", has_text="Inside the model").click()
    page.locator(".panel .chart:visible").first.wait_for()
    page.wait_for_timeout(1500)  # the page scrolls smoothly
    assert page.locator("nav").evaluate("nav => nav.getBoundingClientRect().top") == 0, "it stays in sight"
    window.close()


def test_every_category_keeps_its_label(browser, whole_report):
    window = OpenPage(browser, whole_report, width=360)
    page = window.page
    page.locator("nav a", has_text="All measurements").click()
    measures = chart(page, "Models and measures")
    names = layout(measures, "xaxis.ticktext.length")
    assert measures.locator(".xtick text").count() == names
    window.close()


def test_on_a_phone_titles_and_labels_have_room(browser, whole_report):
    """Titles of y axes are inside their plots, labels of tokens do not touch, and one in n is named."""
    window = OpenPage(browser, whole_report, width=360)
    page = window.page
    for section in ("Rules compared", "Inside the model"):
        page.locator("nav a", has_text=section).click()
    costs = chart(page, "Perplexity against activation ratio: relu/step-2")
    title, plot = (costs.locator(name).bounding_box() for name in (".ytitle", ".plot"))
    assert plot["y"] <= title["y"]
    assert title["y"] + title["height"] <= plot["y"] + plot["height"]
    tokens = chart(page, "Activation ratio of each token in each layer")
    lefts = tokens.locator(".xtick text").evaluate_all("all => all.map(e => e.getBoundingClientRect().left)")
    assert min(b - a for a, b in itertools.pairwise(lefts)) >= 8
    assert re.search(r"\(1 in \d is named\)", tokens.locator(".xtitle").text_content())
    window.close()


CONTRAST = """span => {
    const scale = (text) => (text.startsWith("color") ? 1 : 255);
    const channels = (text) => text.match(/[\\d.]+/g).slice(0, 3).map((part) => Number(part) / scale(text));
    const light = (text) => {
        const [r, g, b] = channels(text).map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
        return 0.2126 * r + 0.7152 * g + 0.0722 * b + 0.05;
    };
    span.style.setProperty("--a", 75);
    const mixed = document.body.appendChild(document.createElement("i"));
    mixed.style.color = "color-mix(in srgb, var(--shade) 75%, var(--page))"; // the ground is translucent on the page
    const [ground, ink] = [getComputedStyle(mixed).color, getComputedStyle(span).color].map(light);
    return Math.max(ground, ink) / Math.min(ground, ink);
}"""
"""Contrast of the text of a token to the strongest ground (WCAG 2.2: 4.5 or more for text)."""


@pytest.mark.parametrize("dark", [False, True])
def test_tokens_can_be_read_on_their_ground(browser, whole_report, dark):
    window = OpenPage(browser, whole_report, dark=dark)
    assert window.page.locator(".tokens span").first.evaluate(CONTRAST) > 4.5
    window.close()


def test_answers_and_the_neuron_found_first(opened):
    page = opened.page
    assert page.locator(".answers p").count() >= 1
    explorer = page.locator(".explorer:visible")
    explorer.scroll_into_view_if_needed()
    explorer.locator(".search").fill("1.7")
    assert explorer.locator(".detail b").first.inner_text() == "Neuron 1.7"
    explorer.locator(".search").fill("")  # other tests use the same window


def test_colours(opened):
    page, button = opened.page, opened.page.locator("#theme")
    line = "document.querySelector('.plot .scatterlayer .lines path').style.stroke"
    light = page.evaluate(line)
    button.click()
    assert button.inner_text() == "theme: light"
    button.click()
    assert button.inner_text() == "theme: dark"
    assert page.evaluate(line) != light
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") != "rgb(255, 255, 255)"
    button.click()
    assert button.inner_text() == "theme: auto"
    assert page.evaluate(line) == light


def test_scales(opened):
    training = chart(opened.page, "Activation ratio along training, each checkpoint at its own level")
    button = training.locator(".log-x")
    before = layout(training, "xaxis.type")
    button.click()
    assert layout(training, "xaxis.type") != before
    assert button.get_attribute("aria-pressed") == str(before == "linear").lower()
    frequency = chart(opened.page, "How often each neuron is active")
    frequency.locator(".log-y").click()
    assert layout(frequency, "yaxis.type") == "log"
    frequency.locator(".log-y").click()
    assert layout(frequency, "yaxis.type") == "linear"


def test_one_layer_in_front(opened):
    frequency = chart(opened.page, "How often each neuron is active")
    opacity = "plot => plot.data.filter(trace => trace.meta !== 'mark').map(trace => trace.opacity)"
    assert frequency.locator(".plot").evaluate(opacity) == [1, 1, 1, 1]
    frequency.locator("input.front").fill("3")
    assert frequency.locator(".plot").evaluate(opacity) == [0.12, 0.12, 1, 0.12]
    assert frequency.locator("output").inner_text() == "layer 2"
    frequency.locator("input.front").fill("0")
    assert frequency.locator("output").inner_text() == "all"


def test_hover_zoom_and_legend(opened):
    page = opened.page
    frontier = chart(page, "Perplexity against activation ratio: relu/step-2")
    box = frontier.locator(".nsewdrag").bounding_box()
    point = frontier.locator(".scatterlayer .point").first.bounding_box()
    page.mouse.move(point["x"] + point["width"] / 2, point["y"] + point["height"] / 2)
    frontier.locator(".hoverlayer .hovertext").first.wait_for()
    assert "level 3" in frontier.locator(".hoverlayer").text_content()
    before = layout(frontier, "xaxis.range")
    page.mouse.move(box["x"] + 80, box["y"] + 40)
    page.mouse.down()
    page.mouse.move(box["x"] + 250, box["y"] + 150, steps=5)
    page.mouse.up()
    page.wait_for_function(
        "([plot, old]) => plot._fullLayout.xaxis.range[0] !== old",
        arg=[frontier.locator(".plot").element_handle(), before[0]],
    )
    assert layout(frontier, "xaxis.range")[0] > before[0]
    frontier.locator(".legendtoggle").first.click()
    page.wait_for_function(
        "plot => plot.data[0].visible === 'legendonly'", arg=frontier.locator(".plot").element_handle()
    )


def test_data_of_every_chart_can_be_saved(opened):
    page = opened.page
    for figure in page.locator(".chart:visible").all():
        rows = saved(page, figure.locator(".csv"))
        drawn = figure.locator(".plot").evaluate(
            "plot => plot.data.reduce((sum, trace) => sum + (trace.meta === 'mark' ? 0 : trace.x.length), 0)"
        )
        assert rows[0][0] == "series"
        assert len(rows) == 1 + drawn > 1
        assert {len(row) for row in rows} == {len(rows[0])}
        assert all(re.fullmatch(r"-?[\d.e+-]+", row[1]) for row in rows[1:])


def test_benchmarks(opened):
    page = opened.page
    card = page.locator(".card", has=page.locator(".measure:text-is('benchmarks at PPL-1%')"))
    assert re.fullmatch(
        r"-\d\.\d\d 95% interval -\d\.\d\d to -\d\.\d\d", card.locator(".figure").inner_text()
    )
    few, guessed = card.locator(".cautions li").all_inner_texts()
    assert few.startswith("Fewer than 100 items: SIQA, perplexity.")
    assert "has nothing right: LAMBADA." in guessed
    table = page.locator(".table", has=page.locator("figcaption:has-text('scores and ratios in percent')"))
    lines = [row.split("\t") for row in table.locator("tbody tr").all_inner_texts()]
    assert [line[:2] for line in lines[9:12]] == [[ALARM, level] for level in ("dense", *LEVELS)]
    assert page.locator("figcaption:has-text('Table 4: Commonsense (2 of 5 columns)')").count() == 1


def test_points_of_levels_stand_side_by_side(opened):
    """They are drawn apart with intervals and names; the CSV file holds the number of the task."""
    scores = chart(opened.page, f"Change of each score: {MODEL}")
    drawn = scores.locator(".plot").evaluate(
        "plot => plot.data.filter(trace => trace.meta !== 'mark').map(trace => [...trace.x])"
    )
    assert len(drawn) == len(LEVELS)
    assert [(a + b) / 2 for a, b in zip(*drawn, strict=True)] == pytest.approx([0, 1, 2, 3])
    assert all(a < b for a, b in zip(*drawn, strict=True))
    assert layout(scores, "xaxis.ticktext")[:3] == ["PIQA", "SIQA", "LAMBADA"]
    rows = saved(opened.page, scores.locator(".csv"))
    assert rows[0] == ["series", "score", "change from dense, points", "y_low", "y_high", "text", "name of x"]
    assert [(row[0], row[1], row[6]) for row in rows[1:]] == [
        (level, str(at), task)
        for level in LEVELS
        for at, task in enumerate(("PIQA", "SIQA", "LAMBADA", ALARM))
    ]
    low, change, high = (float(rows[1][i]) for i in (3, 2, 4))
    assert low < change < high < 0
    scores.scroll_into_view_if_needed()
    point = scores.locator(".scatterlayer .point").first.bounding_box()
    opened.page.mouse.move(point["x"] + point["width"] / 2, point["y"] + point["height"] / 2)
    scores.locator(".hoverlayer .hovertext").first.wait_for()
    assert "score: PIQA" in scores.locator(".hoverlayer").text_content()
    groups = chart(opened.page, f"Change of the averages: {MODEL}")
    names = saved(opened.page, groups.locator(".csv"))
    assert list(dict.fromkeys(row[0] for row in names[1:])) == [
        "Commonsense", "Reading comprehension", "all 4 scores"
    ]  # fmt: skip


def test_measurements_one_at_a_time(opened):
    page, select = opened.page, opened.page.locator("#panel")
    assert page.locator(".panel:visible").count() == 1
    assert select.locator("option:checked").inner_text() == "relu/step-2: PPL-1%", "the last checkpoint first"
    names = select.locator("option").all_inner_texts()
    select.select_option(label="relu/step-1: PPL-1%")
    assert page.locator(".panel:visible").get_attribute("data-panel") == str(
        names.index("relu/step-1: PPL-1%")
    )
    chart(page, "Threshold of each layer")
    assert page.locator(".panel:visible .tokens span").count() == 40


def test_the_text_view(opened):
    page = opened.page
    view = page.locator(".text-view:visible")
    view.scroll_into_view_if_needed()
    shades = (
        "view => [...view.querySelectorAll('.tokens span')].map(span => span.style.getPropertyValue('--a'))"
    )
    whole, ratio = view.evaluate(shades), view.locator(".token-ratio").inner_text()
    assert len(set(whole)) > 10
    assert view.locator(".bars i.now").count() == 4
    view.locator("input.layer").fill("3")
    assert view.locator(".layer-name").inner_text() == "layer 2"
    assert view.evaluate(shades) != whole
    assert view.locator(".bars i.now").count() == 1
    assert view.locator(".token-ratio").inner_text() != ratio
    norms = [float(text) for text in view.locator(".top td:nth-child(3)").all_inner_texts()]
    assert len(norms) == 3
    assert norms == sorted(norms, reverse=True)
    view.locator(".tokens span").nth(5).hover()
    assert view.locator(".token-text").inner_text() == "\\frac{", "no escapes but those of control characters"
    view.locator(".tokens span").nth(6).hover()
    assert view.locator(".token-text").inner_text() == "<script>"
    assert "token 7 of 40" in view.locator(".detail").inner_text()
    view.locator(".tokens").press("ArrowRight")
    assert "token 8 of 40" in view.locator(".detail").inner_text()
    view.locator(".tokens").press("ArrowLeft")
    view.locator(".tokens").press("ArrowLeft")
    assert "token 6 of 40" in view.locator(".detail").inner_text()
    rows = saved(page, view.locator(".csv"))
    assert rows[0] == ["token", "text", *(f"ratio, layer {i}" for i in range(4))]
    assert len(rows) == 41


def test_single_neurons(opened):
    page = opened.page
    root = page.locator(".explorer:visible")
    root.scroll_into_view_if_needed()
    root.locator("tbody tr").first.wait_for()
    names = root.locator("button.neuron")
    assert names.count() == 15
    first = names.all_inner_texts()
    root.locator(".next").click()
    assert not set(first) & set(names.all_inner_texts())
    root.locator(".back").click()
    assert names.all_inner_texts() == first
    assert root.locator(".back").is_disabled()

    root.locator(".sort").select_option("most frequent")
    shares = [float(text.rstrip("%")) for text in root.locator("tbody td:nth-child(2)").all_inner_texts()]
    assert shares == sorted(shares, reverse=True)
    root.locator(".sort").select_option("layer and number")
    assert names.first.inner_text() == "0.0"

    root.locator(".only").select_option(label="most in code")
    for row in root.locator("tbody tr").all()[:5]:
        code, other = (float(text.rstrip("%")) for text in row.locator("td").all_inner_texts()[2:4])
        assert code >= other
    root.locator(".only").select_option("")

    root.locator(".search").fill("1.7")
    assert names.first.inner_text() == "1.7"
    names.first.click()
    detail = root.locator(".detail")
    assert "Neuron 1.7" in detail.inner_text()
    assert detail.locator(".contexts mark").count() == 3
    assert page.evaluate("filled('a\\n \\n\\n  b')") == "a\n  b", "contexts have no blank lines"
    near = detail.locator(".near").first
    number = near.inner_text().split()[0]
    near.click()
    assert f"Neuron {number}" in detail.inner_text()
    root.locator(".search").fill("no such word anywhere")
    assert "no neuron found" in root.locator(".found").inner_text()
    root.locator(".search").fill("")
    rows = saved(page, root.locator(".csv").first)
    assert len(rows) == 1 + int(re.search(r"of (\d+)", root.locator(".found").inner_text())[1])


def test_another_model_of_neurons(opened):
    page = opened.page
    page.locator("#explorer").scroll_into_view_if_needed()
    page.locator(".explorer:visible tbody tr").first.wait_for()
    page.locator("#explorer").select_option("1")
    assert page.locator(".explorer:visible").get_attribute("data-explorer") == "1"
    assert page.locator(".explorer:visible tbody tr").count() == 15


def test_the_command_can_be_copied(opened):
    button = opened.page.locator(".copy:visible").first
    button.click()
    opened.page.wait_for_function("button => button.textContent !== 'copy'", arg=button.element_handle())
    assert button.inner_text() in ("copied", "selected")


MISSING = """[...document.querySelectorAll('.chart, .explorer')].filter(part => part.offsetParent)
    .filter(part => !part.querySelector('.main-svg, tbody tr')).length"""
"""Number of visible charts and lists of neurons that are still empty."""
INK = "[...new Set([...document.querySelectorAll('.xtick text')].map(text => text.style.fill))]"
"""Colours of the labels of all charts."""
LIGHT = "rgb(31, 35, 40)"


def tell_by_media(page, on: bool) -> None:
    page.emulate_media(media="print" if on else "screen")


def tell_by_event(page, on: bool) -> None:
    page.evaluate(f"dispatchEvent(new Event('{'before' if on else 'after'}print'))")


@pytest.mark.parametrize("printing", [pytest.param(tell_by_media, marks=pytest.mark.slow), tell_by_event])
def test_printed_all_is_drawn_in_light_colours(browser, whole_report, printing):
    """Parts that were never near the screen are drawn too, and a dark page returns to dark colours."""
    window = OpenPage(browser, whole_report, dark=True)
    page = window.page
    assert page.evaluate(MISSING) > 3
    assert LIGHT not in page.evaluate(INK)
    printing(page, True)
    page.wait_for_function(f"() => {MISSING} === 0")
    assert page.evaluate(INK) == [LIGHT]
    printing(page, False)
    page.wait_for_function("() => document.documentElement.dataset.theme === 'auto'")
    assert LIGHT not in page.evaluate(INK)
    window.close()


@pytest.mark.slow
def test_a_pdf_is_light_whole_and_without_controls(browser, whole_report):
    window = OpenPage(browser, whole_report, dark=True)
    assert window.page.pdf().startswith(b"%PDF")
    assert window.page.evaluate(MISSING) == 0
    window.page.emulate_media(media="print")
    assert not window.page.locator(".controls:visible, nav:visible, #theme:visible").count()
    assert window.page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    window.close()
