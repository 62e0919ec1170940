"""The plots themselves, read back from the figures."""

from __future__ import annotations

import io

import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.text import Text
from PIL import Image

from pcl.report import plots
from pcl.report.heatmaps import cosine_rows
from pcl.report.images import take_turns
from pcl.report.thin import thin

LOOKS = [plots.Look(dark=d, narrow=n) for d in (False, True) for n in (False, True)]


def _figures(look: plots.Look, tasks: int) -> dict[str, Figure]:
    rng = np.random.default_rng(1)
    names = [f"task-{i + 1}" for i in range(tasks)]
    steps = np.arange(50)
    series = {name: rng.random(50) for name in names}
    cosines = np.clip(rng.normal(size=(50, tasks, tasks)), -1, 1)
    before = rng.random((12, 5, 7))
    return {
        "timeline": plots.timeline(steps, series, {names[0]: (0, 70)}, look=look),
        "plan": plots.plan({name: (10 * i, 10 * i + 30) for i, name in enumerate(names)}, look=look),
        "shares": plots.plan(dict.fromkeys(names, (0, 49)), series, look=look),
        "accuracy": plots.accuracy_over_time(
            {name: (steps, series[name]) for name in names}, {names[0]: (0, 20)}, look=look
        ),
        "losses": plots.losses(steps, series, look=look),
        "matrix": plots.accuracy_matrix(names, names, rng.random((tasks, tasks)), look=look),
        "cosines": plots.gradient_cosines(steps, names, cosines, look=look),
        "conflict": plots.conflict_over_time(steps, rng.random(50), rng.random(50), look=look),
        "descent": plots.descent_shares(steps, series, {names[-1]: 30}, look=look),
        "falls": plots.measured_falls(steps, series, look=look),
        "memory": plots.memory_samples(before, 1 - before, [("task-1", "class 1")] * 12, before, look=look),
        "process": plots.learning_process(
            names, {name: rng.random(tasks) for name in ("er", "emgd-gmc+me")}, look=look
        ),
        "sizes": plots.sizes_over_time(
            {what: ([0, 10, 30], np.array([24, 30, 36]) * by) for what, by in (("neurons", 1), ("parameters", 1_100))},
            49,
            look=look,
        ),
        "features": plots.feature_maps([_cloud(rng, f"{name}, early", 1 + tasks) for name in names[:3]], look=look),
    }


def _cloud(rng: np.random.Generator, heading: str, classes: int) -> plots.Cloud:
    named = tuple(f"class {i % classes}" for i in range(40))
    return plots.Cloud(heading, "stored to class means: 0.93", rng.normal(size=(40, 2)), named, (False, True) * 20)


@pytest.mark.no_cover  # takes long, and goes no way that others do not
@pytest.mark.parametrize("look", [LOOKS[0], LOOKS[-1]], ids=str)  # widths and colours know nothing of each other
@pytest.mark.parametrize("tasks", [2, 5, 20])
def test_nothing_is_cut_off_and_no_text_is_tiny(look: plots.Look, tasks: int) -> None:
    for name, figure in _figures(look, tasks).items():
        with Image.open(io.BytesIO(plots.png(figure, scale=1))) as image:
            pixels = np.asarray(image.convert("RGB"))
        border = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
        assert (border == pixels[0, 0]).all(), f"{name}: something reaches over the edge"
        for text in figure.findobj(Text):
            assert not text.get_text() or text.get_fontsize() * 100 / 72 >= 10.9, f"{name}: {text.get_text()!r}"


@pytest.mark.parametrize("look", LOOKS, ids=str)
def test_every_plot_has_a_title_and_labelled_axes(look: plots.Look) -> None:
    wanted = {
        "timeline": {"training step", "task"},
        "plan": {"training step", "task"},
        "shares": {"training step", "task"},
        "accuracy": {"training step", "accuracy (%)"},
        "losses": {"training step", "loss (nats)"},
        "matrix": {"task", "moment"},
        "cosines": {"training step", "pair of tasks", "gradient cosine"},
        "conflict": {
            "training step",
            "share of pairs in conflict (cosine below 0)",
            "similarity of lengths (1: equally long)",
        },
        "descent": {"training step", "share of the possible descent"},
        "falls": {"training step", "fall of the loss (nats)"},
        "memory": {"before", "after", "change", "gradient", "change (input units)"},
        "process": {"task that ended", "average accuracy (%)", "er", "emgd-gmc+me"},
        "sizes": {"training step", "neurons", "parameters"},
        "features": {"task-1, early\nstored to class means: 0.93", "class 4"},
    }
    for name, figure in _figures(look, 4).items():
        texts = {t.get_text() for t in figure.findobj(Text)}
        assert wanted[name] <= texts, name
        assert any(t.get_weight() == "bold" for t in figure.texts), name


def test_one_task_has_one_colour_in_all_plots() -> None:
    look = plots.Look()
    names = ["a", "b", "MEMORY", "c"]
    steps = np.arange(4)
    series = {name: np.ones(4) for name in names}
    lines = plots.losses(steps, series, look=look).axes[0].get_lines()
    curves = plots.accuracy_over_time({n: (steps, series[n]) for n in names}, look=look).axes[0].get_lines()
    fills = plots.timeline(steps, series, look=look).axes[0].patches
    by_lane = [to_hex(fill.get_facecolor()) for fill in fills]
    assert [line.get_color() for line in lines] == [line.get_color() for line in curves] == by_lane
    assert by_lane[2] == look.ink
    assert len(set(by_lane)) == 4


def test_timeline_draws_pauses_and_the_height_of_lambda() -> None:
    weight = np.array([0.5, 1.0, np.nan, np.nan, 0.25])
    axes = plots.timeline(np.arange(5), {"a": weight}).axes[0]
    (bar,), (fill,) = axes.collections, axes.patches
    spans = [(path.get_extents().x0, path.get_extents().x1) for path in bar.get_paths()]
    assert spans == [(0, 2), (4, 5)]
    foot = 0.4  # lanes count downwards, a bar is 0.8 high
    drawn = {(round(float(x), 6), round(float(foot - y), 6)) for x, y in fill.get_path().vertices if np.isfinite(y)}
    half = round(0.8 * 0.5**0.5, 6)  # λ = 1 is a full bar, heights go by its square root
    assert {(0, half), (1, half), (1, 0.8), (2, 0.8), (4, 0.4), (5, 0.4)} <= drawn
    assert all(height == 0 for x, height in drawn if 2 < x < 4)


def test_rare_large_weights_do_not_flatten_the_rest() -> None:
    weight = np.full(400, 0.5)
    weight[7] = 300.0
    figure = plots.timeline(np.arange(400), {"a": weight})
    assert any("a full bar is λ = 0.5 or more" in text.get_text() for text in figure.texts)


def test_accuracy_matrix_shows_percent_and_blanks() -> None:
    values = np.array([[0.931, np.nan], [0.5, 1.0]])
    axes = plots.accuracy_matrix(["one", "two"], ["a", "b"], values, [["a"], ["b"]]).axes[0]
    cells = {(round(t.get_position()[0]), round(t.get_position()[1])): t.get_text() for t in axes.texts}
    assert cells == {(0, 0): "93.1", (0, 1): "50.0", (1, 1): "100.0"}
    assert len(axes.patches) == 2


def test_cosines_of_many_tasks_are_averaged_by_task() -> None:
    rng = np.random.default_rng(0)
    cosines = rng.uniform(-1, 1, (3, 10, 10))
    cosines = (cosines + cosines.transpose(0, 2, 1)) / 2
    cosines[1, 4, :] = cosines[1, :, 4] = np.nan
    labels, values, by_task = cosine_rows([str(i) for i in range(10)], cosines)
    assert by_task
    assert labels == [str(i) for i in range(10)]
    others = [j for j in range(10) if j not in (2, 4)]
    assert values[1, 2] == pytest.approx(cosines[1, 2, others].mean())
    assert np.isnan(values[1, 4])


def test_cosines_of_few_tasks_are_shown_by_pair_and_only_where_both_trained() -> None:
    cosines = np.full((2, 3, 3), np.nan)
    cosines[0, 0, 2] = cosines[0, 2, 0] = -0.25
    labels, values, by_task = cosine_rows(["a", "b", "c"], cosines)
    assert (labels, by_task) == (["a × c"], False)
    np.testing.assert_array_equal(values, [[-0.25], [np.nan]])


def test_a_ring_marks_where_a_task_was_found_starved() -> None:
    share = np.array([0.5, np.nan, 0.02, -0.1])
    axes = plots.descent_shares(np.arange(4), {"a": share, "b": share}, {"b": 3}).axes[0]
    rings = [line for line in axes.get_lines() if len(line.get_xdata()) == 1]
    assert [(line.get_xdata()[0], line.get_ydata()[0]) for line in rings] == [(3, -0.1)]
    assert axes.get_ylim()[0] < -0.1


def test_falls_leave_out_what_was_not_measured_and_keep_rare_peaks_from_flattening_the_rest() -> None:
    fall = np.full(400, np.nan)
    fall[::2] = 0.01
    fall[8] = 5.0
    axes = plots.measured_falls(np.arange(400), {"a": fall}).axes[0]
    (curve,) = (line for line in axes.get_lines() if len(line.get_xdata()) > 2)
    assert len(curve.get_xdata()) == 200
    assert axes.get_ylim()[1] < 0.1


def test_conflict_is_averaged_where_every_pair_flips() -> None:
    flips = np.tile([0.0, 1.0], 400)
    figure = plots.conflict_over_time(np.arange(800), flips, np.full(800, 0.3))
    for axes, mean in zip(figure.axes, (0.5, 0.3), strict=True):
        np.testing.assert_allclose(axes.get_lines()[0].get_ydata(), mean)


def test_more_than_seven_tasks_get_panels() -> None:
    steps = np.arange(3)
    assert len(plots.losses(steps, {str(i): np.ones(3) for i in range(7)}).axes) == 1
    assert len(plots.losses(steps, {str(i): np.ones(3) for i in range(8)}).axes) == 8


def test_losses_over_many_magnitudes_get_a_log_scale() -> None:
    figure = plots.losses(np.arange(100), {"a": np.geomspace(1e3, 1e-3, 100)})
    assert figure.axes[0].get_yscale() == "log"
    assert plots.losses(np.arange(100), {"a": np.linspace(3, 1, 100)}).axes[0].get_yscale() == "linear"


def test_memory_samples_show_what_changed() -> None:
    before = np.zeros((2, 3, 4, 4))
    after = before.copy()
    after[1, :, 0, 0] = 0.6, 0.3, 0.0
    figure = plots.memory_samples(before, after, [("a", "0"), ("b", "1")])
    pictures = [im for axes in figure.axes for im in axes.get_images() if isinstance(im, AxesImage)]
    assert len(pictures) == 6
    change = np.asarray(pictures[5].get_array())
    assert change[0, 0] == pytest.approx(0.3)  # mean over channels
    assert np.count_nonzero(change) == 1
    assert pictures[5].get_clim() == pytest.approx((-0.3, 0.3))


def test_gradients_are_divided_by_the_largest_of_their_own_image() -> None:
    gradient = np.zeros((3, 2, 4, 4))
    gradient[0, :, 1, 2], gradient[0, :, 0, 0] = (-6e-9, 0.0), (2e-9, 1e-9)
    gradient[1, :, 3, 3] = 5e4
    figure = plots.memory_samples(*np.zeros((2, 3, 2, 4, 4)), [("a", "0"), ("a", "1"), ("a", "2")], gradient)
    shown = [np.asarray(im.get_array()) for im in figure.axes[3].get_images()]
    assert (shown[0][1, 2], shown[0][0, 0]) == pytest.approx((1.0, 0.5))  # means of absolute values over channels
    assert shown[1][3, 3] == 1
    assert [np.count_nonzero(image) for image in shown] == [2, 1, 0]


def test_a_size_changes_where_the_network_grows_and_stays_in_between() -> None:
    figure = plots.sizes_over_time({"neurons": ([0, 10, 30], [24, 30, 36])}, 49)
    (axes,) = figure.axes
    step, marks = axes.lines
    assert step.get_drawstyle() == "steps-post"
    assert step.get_xydata().tolist() == [[0, 24], [10, 30], [30, 36], [49, 36]]
    assert marks.get_xydata().tolist() == [[10, 30], [30, 36]]


def test_the_learning_process_goes_through_the_averages() -> None:
    axes = plots.learning_process(["a", "b", "c"], {"": [0.9, 0.7, 0.75]}).axes[0]
    (line,) = axes.get_lines()
    np.testing.assert_allclose(line.get_ydata(), [90, 70, 75])
    assert [label.get_text() for label in axes.get_xticklabels()] == ["a", "b", "c"]


def test_tsne_keeps_what_is_apart_apart_and_gives_the_same_again() -> None:
    rng = np.random.default_rng(0)
    two = np.concatenate([rng.normal(0, 1, (20, 16)), rng.normal(8, 1, (20, 16))])
    found = plots.tsne(two)
    np.testing.assert_array_equal(found, plots.tsne(two))
    within = np.linalg.norm(found[:20] - found[:20].mean(axis=0), axis=1).max()
    assert np.linalg.norm(found[:20].mean(axis=0) - found[20:].mean(axis=0)) > 2 * within
    with pytest.raises(ValueError, match="at least 5 points, got 3"):
        plots.tsne(two[:3])


@pytest.mark.parametrize("value", [0.0, 0.3])
def test_features_of_a_backbone_that_has_died_have_one_place(value: float) -> None:
    np.testing.assert_array_equal(plots.tsne(np.full((6, 8), value)), np.zeros((6, 2)))


def test_a_single_feature_has_a_place() -> None:
    found = plots.tsne([[0.0], [0.1], [0.2], [7.0], [7.1], [7.2]])
    assert np.isfinite(found).all()
    assert np.ptp(found, axis=0).max() > 0


def test_feature_maps_ring_stored_samples_and_tell_many_classes_apart() -> None:
    rng = np.random.default_rng(0)
    axes = plots.feature_maps([_cloud(rng, "a", 14)]).axes[0]
    test, stored = axes.get_lines()[::2], axes.get_lines()[1::2]
    assert sum(len(line.get_xdata()) for line in test) == sum(len(line.get_xdata()) for line in stored) == 20
    assert len({(line.get_color(), line.get_marker()) for line in test}) == 14
    assert {line.get_markeredgecolor() for line in stored} == {plots.Look().ink}


def test_memory_samples_refuse_unequal_shapes() -> None:
    with pytest.raises(ValueError, match=r"expected equal shapes"):
        plots.memory_samples(np.zeros((2, 4, 4)), np.zeros((2, 4, 5)), [("a", "0")] * 2)


def test_samples_are_chosen_in_turn() -> None:
    owners = ["a"] * 5 + ["b"] * 1 + ["c"] * 5
    assert take_turns(owners, 6) == [0, 1, 2, 5, 6, 7]
    assert take_turns(owners, 99) == list(range(11))


def test_thinning_keeps_mean_low_and_high() -> None:
    values = np.array([1.0, 3.0, np.nan, np.nan, 5.0])
    out = thin(np.arange(10, 15), values, 3)
    assert out.size == 2
    np.testing.assert_array_equal(out.edges, [10, 12, 14, 15])
    np.testing.assert_array_equal(out.mean, [2.0, np.nan, 5.0])
    np.testing.assert_array_equal(out.low, [1.0, np.nan, 5.0])
    np.testing.assert_array_equal(out.high, [3.0, np.nan, 5.0])
    np.testing.assert_array_equal(thin(np.arange(10, 15), values, 5).mean, values)
    with pytest.raises(ValueError, match="one step per row"):
        thin([1, 2], [1.0], 5)


def test_png_is_twice_the_size_in_css_pixels() -> None:
    figure = plots.losses([0, 1], {"a": [1.0, 2.0]})
    width, height = figure.canvas.get_width_height()
    with Image.open(io.BytesIO(plots.png(figure))) as image:
        assert image.size == (2 * width, 2 * height)
        assert image.mode == "P"
    assert figure.canvas.get_width_height() == (width, height)
