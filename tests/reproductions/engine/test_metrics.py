import numpy as np
import pytest

from reproductions.engine import metrics
from reproductions.engine.errors import KDError
from reproductions.engine.metrics import Metric


def test_mean_is_the_mean_of_its_column():
    assert metrics.value(Metric("mean", ("x",), True, "X"), {"x": [1, 2, 6], "other": [9]}) == 3


def test_calibration_error_of_a_case_done_by_hand():
    # Bin (0.8, 0.9]: confidence 0.9, 0.9, one right of two: |1.8 - 1| / 4. Bin (0.5, 0.6]: 0.6, 0.6, both right.
    columns = {"confidence": [0.9, 0.9, 0.6, 0.6], "correct": [1, 0, 1, 1]}
    found = metrics.value(Metric("ece", ("confidence", "correct"), False, "ECE"), columns)
    assert found == pytest.approx((0.8 + 0.8) / 4)


def test_calibration_error_takes_both_ends_and_is_zero_when_perfect():
    columns = {"confidence": [0.0, 1.0, 0.5, 0.5], "correct": [0, 1, 1, 0]}
    assert metrics.value(Metric("ece", ("confidence", "correct"), False, "ECE"), columns) == pytest.approx(0)


def test_excess_ratio_is_a_ratio_of_sums_not_a_mean_of_ratios():
    metric = Metric("excess_ratio", ("a", "b"), False, "ExAccErr", "%")
    assert metrics.value(metric, {"a": [2, 10], "b": [1, 9]}) == pytest.approx(20.0)


def test_ratio_is_a_ratio_of_sums():
    metric = Metric("ratio", ("accepted", "proposed"), True, "acceptance")
    assert metrics.value(metric, {"accepted": [1, 6], "proposed": [4, 6]}) == pytest.approx(0.7)
    assert metrics.value(metric, {"accepted": [0, 0], "proposed": [0, 0]}) == 0


def test_features_reproduce_the_metric_on_a_resample():
    rng = np.random.default_rng(0)
    columns = {"confidence": rng.random(50), "correct": (rng.random(50) < 0.5).astype(float)}
    metric = Metric("ece", ("confidence", "correct"), False, "ECE")
    drawn = rng.integers(0, 50, 50)
    weights = np.bincount(drawn, minlength=50) / 50
    by_features = metrics.KINDS["ece"].finish(weights @ metrics.features(metric, columns))
    resampled = metrics.value(metric, {name: column[drawn] for name, column in columns.items()})
    assert by_features == pytest.approx(resampled)


@pytest.mark.parametrize(
    "columns, message",
    [
        ({"confidenc": [1.0], "correct": [1.0]}, 'needs column "confidence" (did you mean "confidenc"?)'),
        ({"confidence": [1.0], "correct": [1.0, 0.0]}, "equally long"),
        ({"confidence": [], "correct": []}, "not empty"),
        ({"confidence": [float("nan")], "correct": [1.0]}, "not a finite number"),
    ],
)
def test_bad_columns_are_refused(columns, message):
    with pytest.raises(KDError) as error:
        metrics.value(Metric("ece", ("confidence", "correct"), False, "ECE"), columns)
    assert message in str(error.value)


def test_an_unknown_kind_names_the_nearest():
    with pytest.raises(KDError, match='did you mean "mean"'):
        Metric("meen", ("x",), True, "X")
    with pytest.raises(KDError, match="reads 2 column"):
        Metric("ece", ("x",), True, "X")
