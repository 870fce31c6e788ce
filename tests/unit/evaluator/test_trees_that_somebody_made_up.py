"""scikit-learn follows a tree's branches without looking: whoever loads one looks first."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from sklearn.ensemble import IsolationForest

from acequia.errors import RejectedInput
from acequia_evaluator.loading import _check_trees


@pytest.fixture
def forest() -> Any:
    return IsolationForest(n_estimators=3, random_state=1).fit(np.random.default_rng(1).normal(size=(50, 4)))


def beyond(tree: Any) -> None:
    tree.children_left[0] = tree.node_count + 5


def in_a_circle(tree: Any) -> None:
    tree.children_right[0] = 0


def half_a_leaf(tree: Any) -> None:
    tree.children_right[0] = -1


def no_such_feature(tree: Any) -> None:
    tree.feature[0] = 4


def test_an_honest_forest_passes(forest: Any) -> None:
    _check_trees(forest)


@pytest.mark.parametrize("forge", [beyond, in_a_circle, half_a_leaf, no_such_feature])
def test_a_forged_tree_is_rejected(forest: Any, forge: Callable[[Any], None]) -> None:
    forge(forest.estimators_[1].tree_)
    with pytest.raises(RejectedInput, match="unreadable_model"):
        _check_trees(forest)
