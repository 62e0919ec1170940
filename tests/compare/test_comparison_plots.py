"""Pictures and page of a comparison: nothing cut off, everything named, the page complete and by itself."""

import io
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from made_up import diverging, fill, hill
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

from pcl.compare import plots
from pcl.compare.page import arguments
from pcl.compare.plan import Plan
from pcl.compare.scatter import front
from pcl.compare.table import make_tables
from pcl.compare.write import write_results
from pcl.methods import WEIGHTINGS
from pcl.report.style import Look, png

LOOKS = [Look(dark=d, narrow=n) for d in (False, True) for n in (False, True)]
FEW = Plan(methods=("mgda", "emgd-gmc", "famo"), settings=("class",))
MANY = Plan(methods=("all", "all+me", "emgd-gmc:temperature=5,memory=shared"), settings=("task",))


def figures(plan: Plan, look: Look, *, failing: bool = False) -> dict[str, Figure]:
    results = fill(plan, diverging(1e-3) if failing else hill)
    costs = {entry: 1.0 + 0.3 * (i * 7 % 11) for i, entry in enumerate(plan.entries)}
    (table,) = make_tables(plan, results, costs)
    return {
        "accuracy": plots.accuracies(table, look=look),
        "cost": plots.accuracy_over_cost(table, look=look),
        "forgetting": plots.forgetting_and_accuracy(table, look=look),
        "rates": plots.rate_searches(plan, table, results, look=look),
    }


@pytest.mark.no_cover  # takes long, and goes no way that others do not
@pytest.mark.parametrize("look", [LOOKS[0], LOOKS[-1]], ids=str)  # widths and colours know nothing of each other
@pytest.mark.parametrize(
    ("plan", "failing"), [(FEW, False), (FEW, True), (MANY, False)], ids=["few", "failing", "many"]
)
def test_nothing_is_cut_off_and_no_text_is_tiny(plan: Plan, failing: bool, look: Look) -> None:
    for name, figure in figures(plan, look, failing=failing).items():
        with Image.open(io.BytesIO(png(figure, scale=1))) as image:
            pixels = np.asarray(image.convert("RGB"))
        border = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
        assert (border == pixels[0, 0]).all(), f"{name}: something reaches over the edge"
        for text in figure.findobj(Text):
            assert not text.get_text() or text.get_fontsize() * 100 / 72 >= 10.9, f"{name}: {text.get_text()!r}"


def test_axes_are_named_and_methods_are_there() -> None:
    wanted = {
        "accuracy": {"average accuracy A (%)", "method", "own learning rate", "lr 0.003 for all", "famo"},
        "cost": {"average accuracy A (%)", "cost of a step (ms)", "mean"},
        "forgetting": {"average accuracy A (%)", "forgetting F (%)", "mean"},
        "rates": {"validation A (%)", "learning rate", "mean", "mgda", "emgd-gmc", "famo"},
    }
    for name, figure in figures(FEW, Look()).items():
        assert wanted[name] <= {text.get_text() for text in figure.findobj(Text)}, name


@pytest.mark.parametrize("failing", [False, True])
def test_a_single_rate_is_shown_once(failing: bool) -> None:
    plan = replace(FEW, rates=1)
    results = fill(plan, diverging(1e-3) if failing else hill)
    (table,) = make_tables(plan, results, {})
    figure = plots.accuracies(table, look=Look())
    texts = [text.get_text() for text in figure.findobj(Text)]
    assert any("lr 0.003, the best on top" in text for text in texts)
    assert not any("own" in text for text in texts)
    assert texts.count("failed") == failing
    assert len(figure.axes[0].containers) == 1


def test_failures_are_written_into_the_picture() -> None:
    texts = {text.get_text() for text in figures(FEW, Look(), failing=True)["accuracy"].findobj(Text)}
    assert "failed" in texts
    assert "failed at its own rate" not in texts


def test_the_front_is_what_no_other_point_beats() -> None:
    at = np.array([[1.0, 5.0], [2.0, 7.0], [3.0, 6.0], [2.0, 7.0], [1.0, 4.0]])
    assert front(at, -1) == {0, 1, 3}  # cheap and accurate
    assert front(at, 1) == {1, 2, 3}


class Tags(HTMLParser):
    """Collects tags, and insists that they nest."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        if tag not in ("meta", "img", "source"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_is_complete_and_asks_the_network_for_nothing(tmp_path: Path) -> None:
    plan = Plan(methods=("mgda", "emgd-gmc"))
    results = fill(plan, diverging(1e-3))
    tables = make_tables(plan, results, {})
    path = write_results(plan, tables, results, tmp_path)
    text = path.read_text()
    tags = Tags(text).found
    assert next(a["id"] for tag, a in tags if tag == "section" and "id" in a) == tables[0].condition.slug
    pictures = 2 * 3  # without costs there is no picture of them
    images = [a for tag, a in tags if tag == "img"]
    assert len(images) == len({a["alt"] for a in images}) == pictures
    addresses = [a[key] or "" for _, a in tags for key in ("src", "srcset", "href") if key in a]
    assert len(addresses) == 4 * pictures
    assert all(address.startswith("data:image/png;base64,") for address in addresses)
    assert "http" not in re.sub(r"base64,[A-Za-z0-9+/=]+", "", text)
    assert len(list(tmp_path.glob("*.png"))) == pictures
    assert "failed 5 of 5" in text
    assert "loss of task &#39;task-1&#39; is nan" in text
    assert sum(tag == "tr" for tag, _ in tags) == 2 * (1 + 3)


def test_an_unfinished_comparison_has_a_page_that_says_so(tmp_path: Path) -> None:
    plan = Plan(methods=("mgda", "emgd-gmc"))
    partly = {t: r for t, r in fill(plan, hill).items() if t.setting == "task" and t.method != "mgda"}
    text = write_results(plan, make_tables(plan, partly, {}), partly, tmp_path).read_text()
    assert "no method is complete on ps-digits, class-incremental" in text
    assert "Not finished: mgda." in text
    with pytest.raises(ValueError, match="no method is complete yet"):
        write_results(plan, make_tables(plan, {}, {}), {}, tmp_path)


def test_the_command_on_the_page_gives_the_same_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    import shlex

    from pcl import cli

    plan = Plan(
        scenario=("ps-digits", "ps-mnist"), methods=("mgda", "all+me"), settings=("class",), grid=(2, 1, 3), lr=0.02,
        optimizers=("sgd",), timelines=("serial", "together"), edit_alpha=1e-4, scale="unit", spacing=2.5,
    )  # fmt: skip
    seen = []
    monkeypatch.setattr(cli.Compare, "__call__", lambda self: seen.append(self.plan))
    cli.main(["compare", *shlex.split(arguments(plan))])
    assert seen == [plan]


def test_many_are_many() -> None:
    assert len(MANY.method_names) >= 2 * len(WEIGHTINGS)
