import numpy as np
import pytest

from musix_trainer.evaluation import metrics

TRUTH = np.array([[1, 0, 0], [0, 1, 1], [0, 0, 1]], bool)
CONFIDENCE = np.array([[0.9, 0.1, 0.0], [0.1, 0.2, 0.7], [0.5, 0.3, 0.2]], np.float32)


def test_choice_is_right_if_it_is_among_the_labels() -> None:
    assert metrics.hit_at(CONFIDENCE, TRUTH, 1) == pytest.approx(2 / 3)
    assert metrics.hit_at(CONFIDENCE, TRUTH, 3) == 1
    # Classes 0 and 2 occur: each has one right and one wrong answer between them, F1 = 2/3 each.
    assert metrics.macro_f1(CONFIDENCE, TRUTH) == pytest.approx(2 / 3)


def test_calibration_error_is_the_gap_between_confidence_and_accuracy() -> None:
    assert metrics.calibration_error(CONFIDENCE, TRUTH) == pytest.approx((0.1 + 0.3 + 0.5) / 3, abs=1e-6)


def test_ranking_equals_values_computed_by_hand() -> None:
    card = metrics.ranking([np.array([7, 8, 9]), np.array([1, 2, 3])], [{8, 5}, {4}], 3)
    ideal = 1 + 1 / np.log2(3)
    assert card == pytest.approx({"hr_at_3": 0.5, "ndcg_at_3": (1 / np.log2(3)) / ideal / 2, "recall_at_3": 0.25})
