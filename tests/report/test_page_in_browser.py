"""report.html driven in the system's Chromium, where there is one and playwright is installed."""

import shutil
from pathlib import Path

import pytest

from tests.bench import jobs
from tests.report import fakes
from tests.report.test_page import rich
from wasi.report.gathered import gather
from wasi.report.write import write_page

pytest.importorskip("vl_convert")
playwright = pytest.importorskip("playwright.sync_api", reason="pip install -r requirements-browser.txt")
ROOT = Path(__file__).resolve().parents[2]
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium")
DRAWN = "document.querySelectorAll('.figure').length === document.querySelectorAll('.figure svg').length"
CUT = """[...document.querySelectorAll('main *, header *')].filter((element) => {
    const box = element.getBoundingClientRect();
    return box.width && (box.right > innerWidth + 1 || box.left < -1);
}).map((element) => element.outerHTML.slice(0, 120))"""
OVERLAPS = """[...document.querySelectorAll('.figure svg .role-axis-label')].flatMap((axis) => {
    const boxes = [...axis.querySelectorAll('text')].filter((text) => text.getAttribute('opacity') !== '0')
        .map((text) => [text.textContent, text.getBoundingClientRect()]);
    return boxes.flatMap(([one, a], place) => boxes.slice(place + 1)
        .filter(([, b]) => Math.min(a.right, b.right) - Math.max(a.left, b.left) > 1
            && Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top) > 1)
        .map(([other]) => `${one} and ${other}`));
})"""
CROWDED = """[...document.querySelectorAll('.figure svg .role-axis-label')].flatMap((axis) => {
    const boxes = [...axis.querySelectorAll('text:not([transform*="rotate(270)"])')]
        .filter((text) => text.getAttribute('opacity') !== '0')
        .map((text) => [text.textContent, text.getBoundingClientRect()]).sort(([, a], [, b]) => a.left - b.left);
    return boxes.slice(1).filter(([, b], place) => Math.abs(b.bottom - boxes[place][1].bottom) < 1
        && b.left - boxes[place][1].right < 4).map(([text], place) => `${boxes[place][0]} and ${text}`);
})"""


BROKEN_WORDS = """[...document.querySelectorAll('#table th button, #table th span, .key span')].flatMap((name) => {
    const pieces = [...name.childNodes].filter((node) => node.nodeType === Node.TEXT_NODE);
    return pieces.flatMap((piece) => [...piece.data.matchAll(/\\S+/g)].filter((word) => {
        const range = document.createRange();
        range.setStart(piece, word.index);
        range.setEnd(piece, word.index + word[0].length);
        return range.getClientRects().length > 1;
    }).map((word) => word[0]));
})"""
LAYER_LABELS = """[...document.querySelectorAll('.figure svg .role-axis-label text[transform*="rotate(270)"]')]
    .filter((text) => text.getAttribute('opacity') !== '0').map((text) => text.textContent)"""
MARKS = "(count) => document.querySelector('.figure').querySelectorAll('.mark-symbol path').length === count"
COVERED = """[...document.querySelectorAll('#table tbody tr')].flatMap((line) => {
    const boxes = [...line.querySelectorAll('th button, td span, td small')].map((element) => {
        const range = document.createRange();
        range.selectNodeContents(element);
        return [element, range.getBoundingClientRect()];
    });
    return boxes.flatMap(([one, a], place) => boxes.slice(place + 1)
        .filter(([other, b]) => !one.contains(other) && a.width && b.width
            && Math.min(a.right, b.right) - Math.max(a.left, b.left) > 1
            && Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top) > 1)
        .map(([other]) => `${one.textContent} and ${other.textContent}`));
})"""

LABELS = """[...document.querySelectorAll('.figure svg')].map((svg) =>
    [...svg.querySelectorAll('.labels_marks text, .ends_marks text')]
        .filter((text) => text.getAttribute('opacity') !== '0').map((text) => text.textContent))"""
COVERING = """[...document.querySelectorAll('.figure svg')].flatMap((svg) => {
    const boxes = [...svg.querySelectorAll('.labels_marks text, .ends_marks text')]
        .filter((text) => text.getAttribute('opacity') !== '0').map((text) => text.getBoundingClientRect());
    const marks = [...svg.querySelectorAll('.mark-symbol path')].map((mark) => mark.getBoundingClientRect());
    return boxes.filter((a, place) => [...boxes.slice(place + 1), ...marks].some((b) =>
        Math.min(a.right, b.right) - Math.max(a.left, b.left) > 2
            && Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top) > 4)).map((box) => box.x);
})"""  # the box of a text is some pixels higher than its letters


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as started:
        found = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield found
        found.close()


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sweep")
    for seed in (0, 1):
        rich(folder, 0.9 + 0.01 * seed, "vanilla", None, seed)
        for epsilon in (0.4, 0.8):
            rich(folder, 0.8 + epsilon / 10 + 0.01 * seed, "wasi", epsilon, seed)
        fakes.write(folder, fakes.metrics(0.86, 0.9), fakes.config("lora", seed=seed))
    ours, vanilla = jobs.metrics(1234.5, 123.45, 345.6), jobs.metrics(1250.5, 125.45, 678.9)
    bench = jobs.content(fakes.config("wasi", 0.8), ours, vanilla)
    bench["baseline"]["config"] = fakes.config("vanilla")
    (folder / "bench").mkdir()
    jobs.write_sweep(folder / "bench", [bench])
    fakes.write(folder, {}, fakes.config("wsi", 0.8), status="failed", error="RuntimeError: out of memory " + "x" * 200)
    write_page(gather([folder]))
    return (folder / "report.html").as_uri()


@pytest.fixture(scope="module")
def long_address(tmp_path_factory):
    """Of a page of many figures, whose rows have long names and layers those of torchvision."""
    folder = tmp_path_factory.mktemp("long")
    names = [f"encoder.layers.encoder_layer_{block}.mlp.{place}" for block in range(12) for place in (0, 3)]
    layers = [{"name": name, "in_features": 96, "out_features": 384, "weight_rank": 24} for name in names]
    for model in ("one", "two", "three", "four"):
        options = {"model.name": f"vit_{model}"}
        rich(folder, 0.9, "vanilla", None, **options)
        for lr in (0.1, 0.2):
            config = fakes.config("wasi", 0.8, options=options | {"optimizer.lr": lr})
            fakes.write(folder, fakes.metrics(0.8, 0.5), config, layers=layers)
        lean = fakes.config(options=options | {"train.memory": "lean", "train.gradient_checkpointing": True})
        fakes.write(folder, fakes.metrics(0.8, 0.4), lean)
    write_page(gather([folder]))
    return (folder / "report.html").as_uri()


@pytest.fixture(scope="module")
def many_address(tmp_path_factory):
    """Of forty rows: seven thresholds of each method, plain and lean; wasi has another one for activations."""
    folder = tmp_path_factory.mktemp("many")
    rich(folder, 0.93, "vanilla", None)
    for name, step in (("svd_llm", 0.2), ("wasi", 0.15), ("wsi", 0.1)):
        for epsilon in (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9):
            for memory, cost in (("plain", 1.0), ("lean", 0.7)):
                accuracy = 0.9 - step * (1 - epsilon)
                history = [{"epoch": epoch, "train/loss": 1 + (1 - accuracy) / epoch, "val/acc": accuracy * epoch / 9}
                           for epoch in range(1, 10)]  # fmt: skip
                options = {"train.memory": memory}
                if name == "wasi":
                    options["method.activations.epsilon"] = 0.95
                config = fakes.config(name, epsilon, options=options)
                fakes.write(folder, fakes.metrics(accuracy, cost * epsilon), config, history=history)
    write_page(gather([folder]))
    return (folder / "report.html").as_uri()


def opened(browser, address, width=1280, **options):
    page = browser.new_page(viewport={"width": width, "height": 1200}, **options)
    page.errors, page.requests = [], []
    page.on("pageerror", lambda error: page.errors.append(str(error)))
    page.on("console", lambda message: page.errors.append(message.text) if message.type == "error" else None)
    page.on("request", lambda request: page.requests.append(request.url))
    page.goto(address)
    page.wait_for_function(DRAWN, timeout=60_000)
    return page


def names(page):
    return page.locator("#table tbody tr:visible th").all_inner_texts()


def test_sort_filter_hover_and_click(browser, address):
    page = opened(browser, address)
    assert names(page) == ["vanilla", "wasi 0.4", "wasi 0.8", "lora"]

    heading = page.locator("#table thead button", has_text="Accuracy")
    heading.click()
    assert names(page) == ["wasi 0.4", "lora", "wasi 0.8", "vanilla"]
    heading.click()
    assert names(page) == ["vanilla", "wasi 0.8", "lora", "wasi 0.4"]
    page.locator("#table thead button", has_text="Threshold").click()
    assert names(page)[:2] == ["wasi 0.4", "wasi 0.8"]  # without a threshold: at the end

    page.fill("#filter", "WASI 0.8")
    assert names(page) == ["wasi 0.8"] and page.inner_text("#count") == "1 of 4 rows"
    page.fill("#filter", "")
    page.select_option("#method", "lora")
    assert names(page) == ["lora"]
    page.select_option("#method", "")

    mark = page.locator(".figure").first.locator(".mark-symbol path").nth(2)
    mark.hover()
    tooltip = page.locator("#vg-tooltip-element.visible")
    tooltip.wait_for()
    assert "wasi 0.8" in tooltip.inner_text() and "345.6 (1.96×)" in tooltip.inner_text()
    mark.click()
    assert page.inner_text("#details-name") == "wasi 0.8"
    assert "weight_epsilon: 0.8" in page.inner_text("#details-config")
    page.keyboard.press("Escape")
    page.locator("#table button.open", has_text="lora").click()
    assert page.inner_text("#details-name") == "lora" and page.is_visible("#details")
    page.locator("#details form button").click()

    places = "[...document.querySelectorAll('.figure')[0].querySelectorAll('path')].map((m) => m.outerHTML).join()"
    before = page.evaluate(places)
    page.locator("button[data-scale][aria-pressed=false]").first.click()
    page.wait_for_function(f"(before) => {places} !== before", arg=before)
    assert page.errors == [] and page.requests == [address]


def test_a_narrow_view_begins_with_the_best_and_can_be_reversed(browser, address):
    page = opened(browser, address, 390)
    reverse = page.locator("#direction")
    assert not reverse.is_visible()  # in the report's order
    page.select_option("#sort", label="Accuracy")
    assert names(page) == ["vanilla", "wasi 0.8", "lora", "wasi 0.4"] and reverse.inner_text() == "▼ descending"
    reverse.click()
    assert names(page) == ["wasi 0.4", "lora", "wasi 0.8", "vanilla"] and reverse.inner_text() == "▲ ascending"
    page.select_option("#sort", label="Step")
    assert names(page)[0] == "wasi 0.4" and reverse.inner_text() == "▲ ascending"  # of times the shortest
    page.select_option("#sort", label="order of the report")
    assert names(page) == ["vanilla", "wasi 0.4", "wasi 0.8", "lora"] and not reverse.is_visible()
    assert page.evaluate(CUT) == [] and page.errors == []


def test_rows_on_the_front_come_first_and_then_last(browser, tmp_path):
    for name, epsilon, accuracy in (("vanilla", None, 0.9), ("wasi", 0.4, 0.7), ("wasi", 0.6, 0.8), ("wasi", 0.8, 0.6)):
        rich(tmp_path, accuracy, name, epsilon)  # all of wasi cost the same
    write_page(gather([tmp_path]))
    page = opened(browser, (tmp_path / "report.html").as_uri())
    heading = page.locator("#table thead button", has_text="Pareto")
    marks = "[...document.querySelectorAll('#table tbody td[data-title=Pareto]')].map((cell) => cell.textContent)"
    before = page.evaluate(marks)
    assert set(before) == {"●", "-"}
    heading.click()
    first = page.evaluate(marks)
    heading.click()
    assert first == sorted(before, key="●-".index) and page.evaluate(marks) == first[::-1]


def drawn_rows(page, figure):
    """Names of the runs whose marks a figure has, from what is hovered over; and how many steps its front has."""
    marks = page.locator(".figure").nth(figure).locator(".mark-symbol path")
    return [marks.nth(place).get_attribute("aria-label").partition("run: ")[2].partition(";")[0]
            for place in range(marks.count())]  # fmt: skip


def test_the_filter_of_the_table_filters_figures_and_legends(browser, address):
    page = opened(browser, address)
    panels = page.locator("article", has_text="Accuracy against cost").first
    assert drawn_rows(page, 0) == ["vanilla", "wasi 0.4", "wasi 0.8", "lora"]
    assert panels.locator(".key:visible").all_inner_texts() == ["vanilla", "wasi", "lora"]
    front = panels.locator(".figure").first.locator("path[stroke-width='3']")
    before = front.get_attribute("d")

    page.select_option("#method", "wasi")
    page.wait_for_function(MARKS, arg=2)
    assert drawn_rows(page, 0) == ["wasi 0.4", "wasi 0.8"]
    assert panels.locator(".key:visible").all_inner_texts() == ["wasi"]
    assert front.get_attribute("d") != before  # of the rows that are left
    page.select_option("#method", "lora")
    ranks = page.locator("article", has_text="Ranks of every layer").first
    ranks.wait_for(state="hidden")
    assert drawn_rows(page, 0) == ["lora"]
    page.select_option("#method", "")
    ranks.wait_for(state="visible")
    page.wait_for_function(MARKS, arg=4)
    assert front.get_attribute("d") == before and page.errors == []
    page.fill("#filter", "no such run")
    page.locator(".part").first.wait_for(state="hidden")  # its heading too
    page.fill("#filter", "")
    page.locator(".part").first.wait_for(state="visible")


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_is_cut_and_no_numbers_run_into_one_another(browser, address, width, scheme):
    page = opened(browser, address, width, color_scheme=scheme)
    assert page.evaluate(CUT) == []
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert page.evaluate(OVERLAPS) == [] and page.evaluate(COVERED) == []
    assert page.errors == []


@pytest.mark.parametrize("width", [1280, 390])
def test_numbers_of_an_axis_stand_apart(browser, tmp_path, width):
    write_page(gather([ROOT / "results" / "pareto"], tmp_path))
    page = opened(browser, (tmp_path / "report.html").as_uri(), width)
    assert page.evaluate(CROWDED) == []


@pytest.mark.parametrize("width", [1110, 390])  # the first leaves the table least room
def test_a_long_page_is_drawn_to_its_end_and_its_long_names_can_be_read(browser, long_address, width):
    page = opened(browser, long_address, width)  # waits for all figures, without scrolling
    assert page.locator(".figure").count() > page.evaluate("AT_ONCE")
    assert page.evaluate(BROKEN_WORDS) == [] and page.evaluate(CUT) == []
    assert page.evaluate(OVERLAPS) == [] and page.evaluate(COVERED) == []
    labels = page.evaluate(LAYER_LABELS)
    assert "0.mlp.0" in labels and not any("encoder" in label or "…" in label for label in labels)
    assert page.errors == []


def test_long_names_of_layers_end_above_the_axis_title(browser, tmp_path):
    for epsilon, start in ((0.6, ""), (0.8, "encoder.layers.encoder_layer_with_a_name_of_its_own.")):
        names = [f"{start}blocks.{block}.mlp.WWWWWW" for block in range(12)]
        layers = [{"name": name, "in_features": 96, "out_features": 384, "weight_rank": 24} for name in names]
        fakes.write(tmp_path, fakes.metrics(0.8, 0.5), fakes.config("wasi", epsilon), layers=layers)
    write_page(gather([tmp_path]))
    page = opened(browser, (tmp_path / "report.html").as_uri(), 390)
    ends = page.evaluate("""[...document.querySelectorAll('.figure svg')]
        .filter((svg) => svg.textContent.includes('WWW')).map((svg) => {
            const labels = [...svg.querySelectorAll('.role-axis-label text[transform*="rotate(270)"]')];
            const titles = [...svg.querySelectorAll('.role-axis-title text')];
            const title = titles.find((text) => text.textContent === 'layer');
            const ends = labels.map((text) => text.getBoundingClientRect().bottom);
            return [Math.max(...ends), title.getBoundingClientRect().top];
        })""")
    assert len(ends) == 1 and all(label <= title for label, title in ends)
    labels = page.evaluate(LAYER_LABELS)
    assert {"blocks.0.mlp.WWWWWW", "…own.blocks.0.mlp.WWWWWW"} <= set(labels)


@pytest.mark.parametrize("width", [1280, 390])
def test_thresholds_stand_beside_marks_and_behind_lines_and_cover_nothing(browser, address, many_address, width):
    page = opened(browser, address, width)
    assert {"0.4", "0.8"} <= set(page.evaluate(LABELS)[0])
    assert page.evaluate(COVERING) == [] and page.errors == []

    page = opened(browser, many_address, width)
    labels = page.evaluate(LABELS)
    assert len(labels[0]) > 15 and len(set(labels[-1])) > 2  # of 42 points and of the ends of as many lines
    assert any("/0.95" in label for label in labels[0])
    assert page.evaluate(COVERING) == [] and page.evaluate(CUT) == [] and page.errors == []


def test_no_two_lines_of_a_figure_look_alike(browser, many_address):
    page = opened(browser, many_address)
    lines = page.locator(".figure").last.locator(".mark-line path")
    look = "(line) => ['stroke', 'stroke-dasharray', 'opacity'].map((name) => line.getAttribute(name)).join()"
    looks = lines.evaluate_all(f"(lines) => lines.map({look})")
    assert len(looks) == len(set(looks)) == 43
    article = page.locator("article").last
    shown = article.locator(".key:visible svg.line path").evaluate_all("(lines) => lines.map((line) => line.outerHTML)")
    assert len(shown) == 43
    page.select_option("#method", "vanilla")
    lines.nth(1).wait_for(state="detached")
    assert article.locator(".key:visible").all_inner_texts() == ["vanilla, memory=plain"]
    assert page.errors == []


def test_a_hollow_mark_can_be_clicked(browser, long_address):
    page = opened(browser, long_address)
    page.locator(".figure").first.locator(".mark-symbol path[fill-opacity='0']").first.click()
    assert page.is_visible("#details") and page.errors == []
