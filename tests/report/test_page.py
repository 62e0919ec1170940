"""The page as a whole: complete, self-contained, escaped, valid, from any kind of run."""

from __future__ import annotations

import base64
import io
import json
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from synthetic_run import write_run

from pcl import notices
from pcl.report import figures, write_report
from pcl.report.clouds import clouds, similarity
from pcl.report.run import read_run

VOID = {"meta", "link", "img", "source", "br", "hr", "input"}
PLOTS = ["timeline", "accuracy", "process", "matrix", "cosines", "conflict", "descent", "falls", "losses", "memory"]
OF_SEVERAL = ("process", "matrix", "cosines", "conflict")


class Page(HTMLParser):
    """Collects tags, attributes and text, and insists that tags nest."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.source = path.read_text(encoding="utf-8")
        self.feed(self.source)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = [name for name, _ in attrs]
        assert len(names) == len(set(names)), f"<{tag}> repeats an attribute"
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.text.append(data)

    def of(self, *tags: str) -> list[dict[str, str | None]]:
        return [attributes for tag, attributes in self.tags if tag in tags]

    @property
    def words(self) -> str:
        return " ".join(" ".join(self.text).split())


@pytest.fixture
def unpainted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures are made but not painted, for what is said of the text around them."""
    dot = io.BytesIO()
    Image.new("RGB", (1, 1)).save(dot, "png")
    monkeypatch.setattr(figures, "png", lambda figure: dot.getvalue())


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_run(tmp_path_factory.mktemp("runs") / "first")
    write_report(folder)
    return folder


@pytest.fixture(scope="module")
def page(run: Path) -> Page:
    return Page(run / "report.html")


def test_sections_come_in_reading_order(page: Page) -> None:
    assert [a["id"] for a in page.of("section")] == [*PLOTS, "tasks", "settings"]


def test_page_asks_the_network_for_nothing(page: Page) -> None:
    addresses = [a[key] or "" for _, a in page.tags for key in ("src", "srcset", "href") if key in a]
    assert len(addresses) == 4 * len(PLOTS)
    assert all(address.startswith("data:image/png;base64,") for address in addresses)
    assert not page.of("script", "link", "iframe", "object")
    css = page.source[page.source.index("<style>") : page.source.index("</style>")]
    assert "url(" not in css
    assert "@import" not in css
    assert "http" not in re.sub(r"base64,[A-Za-z0-9+/=]+", "", page.source)


def test_every_image_has_alternative_text_and_four_variants(page: Page) -> None:
    images, sources = page.of("img"), page.of("source")
    assert len(images) == len(PLOTS)
    assert all(len(a["alt"] or "") > 30 for a in images)
    assert len({a["alt"] for a in images}) == len(images)
    media = [a["media"] for a in sources]
    assert media == [
        "(max-width: 640px) and (prefers-color-scheme: dark)",
        "(max-width: 640px)",
        "(prefers-color-scheme: dark)",
    ] * len(PLOTS)


def _decoded(uri: str | None, tmp_path: Path) -> np.ndarray:
    path = tmp_path / "decoded.png"
    path.write_bytes(base64.b64decode((uri or "").split(",")[1]))
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def test_variants_have_the_ground_of_their_page_and_are_not_blank(page: Page, tmp_path: Path) -> None:
    dark, white = (0x15, 0x18, 0x1D), (255, 255, 255)
    variants = [(a["srcset"], dark if "dark" in (a["media"] or "") else white) for a in page.of("source")]
    variants += [(a["src"], white) for a in page.of("img")]
    for uri, ground in variants:
        pixels = _decoded(uri, tmp_path)
        assert tuple(pixels[0, 0]) == ground
        assert tuple(pixels[-1, -1]) == ground
        share = float((pixels != np.array(ground)).any(axis=2).mean())
        assert share > 0.02


def test_a_png_lies_beside_the_page_for_every_plot(run: Path, page: Page, tmp_path: Path) -> None:
    assert sorted(path.stem for path in run.glob("*.png")) == sorted(PLOTS)
    for name, shown in zip(PLOTS, page.of("img"), strict=True):
        with Image.open(run / f"{name}.png") as image:
            assert image.width == 2 * 960 or name == "matrix"
            np.testing.assert_array_equal(np.asarray(image.convert("RGB")), _decoded(shown["src"], tmp_path))
    assert not list(run.glob("*.partial"))


def test_headline_says_what_the_numbers_mean(run: Path, page: Page) -> None:
    results = json.loads((run / "results.json").read_text())
    assert f"{100 * results['A']:.1f} %" in page.words
    assert f"{100 * results['F']:.1f} %".replace("-", "\N{MINUS SIGN}") in page.words
    assert "emgd-gmc+me on ps-digits" in page.words
    assert "negative means forgetting" in page.words
    assert "7.9 s" in page.words
    assert "134 Mflop On 258.8 samples" in page.words
    assert "102 kB For 50 stored samples" in page.words
    assert "has not finished" not in page.words


@pytest.mark.usefixtures("unpainted")
def test_a_growing_classifier_shows_how_calibrated_it_is(page: Page, tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", tasks=2, length=4, image_shape=None, setting="class")
    words = Page(write_report(folder)).words
    assert "ECE, calibration 12.3 %" in words
    assert "Recency bias \N{MINUS SIGN}8.7 %" in words
    assert "Largest logits: 7.3 for new classes, 0.0 for old ones." in words
    assert "ECE" not in page.words


@pytest.mark.usefixtures("unpainted")
def test_kept_features_are_drawn_and_their_drift_is_named(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", tasks=2, length=4, image_shape=None, features=True)
    page = Page(write_report(folder))
    assert [a["id"] for a in page.of("section")][-3:] == ["features", "tasks", "settings"]
    early, late = (np.mean([similarity(pair[i]) for pair in read_run(folder).features.values()]) for i in (0, 1))
    assert early > 0.9 > 0.6 > late
    assert f"is {early:.2f} on average early and {late:.2f} late" in page.words
    (folder / "features" / "001-late.npz").unlink()  # as in a run that has not finished
    assert [cloud.heading for cloud in clouds(read_run(folder))] == ["task-1, early", "task-1, late"]


@pytest.mark.usefixtures("unpainted")
def test_without_scikit_learn_the_rest_of_the_report_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_run(tmp_path / "run", tasks=2, length=4, image_shape=None, features=True)
    monkeypatch.setitem(sys.modules, "sklearn.manifold", None)
    monkeypatch.setattr(notices, "_said", set())
    with pytest.warns(
        UserWarning, match=r"without the figure of features: .*install 'parallel-continual-learning\[digits"
    ):
        page = Page(write_report(folder))
    assert [a["id"] for a in page.of("section")][-3:] == ["losses", "tasks", "settings"]


@pytest.mark.usefixtures("unpainted")
def test_starved_tasks_are_named_at_the_top(page: Page, tmp_path: Path) -> None:
    (note,) = re.findall(r'<p class="warn">(.*?)</p>', page.source)
    assert re.match(r"Starved: task-3 \(found at step \d+\)\. Over 20 steps", note)
    shorter = Page(write_report(write_run(tmp_path / "run", tasks=2, length=8, image_shape=None)))
    assert 'class="warn"' not in shorter.source


def test_settings_and_the_command_that_repeats_the_run(run: Path, page: Page) -> None:
    assert f"pcl train --config {run / 'config.toml'}" in page.words
    assert "memory_per_class 5" in page.words
    assert "lr 0.001" in page.words


@pytest.mark.usefixtures("unpainted")
def test_command_is_relative_to_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_run(tmp_path / "runs" / "a run", tasks=1, image_shape=None)
    monkeypatch.chdir(tmp_path)
    assert "pcl train --config 'runs/a run/config.toml'" in Page(write_report("runs/a run")).words


@pytest.mark.usefixtures("unpainted")
def test_names_from_the_data_are_escaped(tmp_path: Path) -> None:
    hostile = ['<b>&"', "</style><script>alert(1)</script>", "_$x$ y$"]
    page = Page(write_report(write_run(tmp_path / "run", tasks=3, length=8, names=hostile)))
    assert not page.of("script", "b")
    for name in hostile:
        assert name in page.words


@pytest.mark.no_cover  # takes long, and goes no way that others do not
@pytest.mark.parametrize("tasks", [1, 9])
def test_any_number_of_tasks(tmp_path: Path, tasks: int) -> None:
    page = Page(write_report(write_run(tmp_path / "run", tasks=tasks, length=6)))
    expected = PLOTS if tasks > 1 else [name for name in PLOTS if name not in OF_SEVERAL]
    assert [a["id"] for a in page.of("section")] == [*expected, "tasks", "settings"]
    assert f"task-{tasks}" in page.words


@pytest.mark.no_cover  # takes long, and goes no way that others do not
def test_a_long_run_of_many_tasks_stays_small(tmp_path: Path) -> None:
    path = write_report(write_run(tmp_path / "run", tasks=20, length=480, image_shape=(3, 16, 16)))
    assert path.stat().st_size < 3_000_000
    assert "5,040" in Page(path).words


@pytest.mark.usefixtures("unpainted")
def test_an_unfinished_run_says_so(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", steps=40, finished=False, timing=False, image_shape=None)
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"kind":"step","st')  # killed while writing
    page = Page(write_report(folder))
    assert "This run has not finished: 40 of 72 planned steps are done." in page.words
    assert [a["id"] for a in page.of("section")] == [*PLOTS[:-1], "tasks", "settings"]
    assert "samples/s" not in page.words


def test_a_run_before_its_first_step(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", steps=0, finished=False, timing=False, image_shape=None)
    page = Page(write_report(folder))
    assert "no step is recorded yet" in page.words
    assert [a["id"] for a in page.of("section")] == ["tasks", "settings"]


@pytest.mark.usefixtures("unpainted")
def test_samples_that_are_no_images_are_left_out(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", tasks=2, length=6, image_shape=None)
    flat = np.zeros((4, 10), dtype=np.float32)
    np.savez(folder / "memory_edits.npz", before=flat, after=flat, y=np.arange(4), task=np.array(["task-1"] * 4))
    assert "memory" not in [a["id"] for a in Page(write_report(folder)).of("section")]


@pytest.mark.no_cover  # takes long, and goes no way that others do not
def test_threads_write_reports_at_once(tmp_path: Path) -> None:
    folders = [write_run(tmp_path / f"run-{i}", tasks=1, length=4, image_shape=None) for i in range(2)]
    alone = [write_report(folder).read_bytes() for folder in folders]
    with ThreadPoolExecutor(2) as pool:
        together = [path.read_bytes() for path in pool.map(write_report, folders)]
    assert together == alone


@pytest.mark.parametrize("package", ["jinja2", "matplotlib"])
def test_a_missing_package_is_named_with_its_extra(tmp_path: Path, package: str) -> None:
    folder = write_run(tmp_path / "run", tasks=1, length=4, image_shape=None)
    code = f"import sys; sys.modules[{package!r}] = None; from pcl.report import write_report; "
    code += f"write_report({str(folder)!r})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode != 0
    last = done.stderr.strip().splitlines()[-1]
    assert package in last
    assert "parallel-continual-learning[report]" in last
