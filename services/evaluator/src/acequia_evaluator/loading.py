"""Loading a model that is not trusted until it has shown who it is: its hash first, then only types named here."""

import hashlib
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import skops.io
from skops.io.exceptions import UntrustedTypesFoundException

from acequia.cards import ModelCard
from acequia.errors import RejectedInput

TRUSTED = ("numpy.dtype", "sklearn.tree._tree.Tree")
"""Beyond what skops trusts by itself. Never taken from the file."""
MAX_UNPACKED_BYTES = 2**30
"""A model of ours takes some megabytes."""
UNREADABLE = (
    zipfile.BadZipFile, zipfile.LargeZipFile, zlib.error, EOFError, NotImplementedError, ImportError, AssertionError,
    LookupError, ValueError, TypeError, AttributeError, ArithmeticError, RecursionError,
)  # fmt: skip
"""What skops, and the constructors that it calls, raise for a file that somebody made up."""


def load_model(path: Path, card: ModelCard) -> Any:
    """The pipeline that `card` describes.

    Raises RejectedInput: `hash_mismatch`, `untrusted_type`, `unreadable_model` (not a skops file, one that unpacks to
    more than MAX_UNPACKED_BYTES, or one whose trees do not hang together).
    """
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != card.artifact.sha256:
        raise RejectedInput("hash_mismatch", f"sha256 is {digest}, the card says {card.artifact.sha256}")
    try:
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(entry.file_size for entry in archive.infolist())
        if unpacked > MAX_UNPACKED_BYTES:
            raise RejectedInput("unreadable_model", f"it unpacks to {unpacked} bytes: more than a model has")
        foreign = sorted(set(skops.io.get_untrusted_types(file=path)) - set(TRUSTED))
        if foreign:
            raise RejectedInput("untrusted_type", f"the model holds {', '.join(foreign)}")
        model = skops.io.load(path, trusted=list(TRUSTED))
        if not hasattr(model, "score_samples"):
            raise RejectedInput("unreadable_model", f"a {type(model).__name__} gives no scores")
        _check_trees(model)
    except UntrustedTypesFoundException as error:
        raise RejectedInput("untrusted_type", str(error)) from error
    except UNREADABLE as error:
        raise RejectedInput("unreadable_model", f"not a skops file: {error}") from error
    return model


def _check_trees(model: Any) -> None:
    """Each node's children come after it and exist, each feature exists: scikit-learn follows them without looking.

    RejectedInput (`unreadable_model`) otherwise.
    """
    forest = model[-1] if hasattr(model, "steps") else model
    for estimator in getattr(forest, "estimators_", ()):
        tree = estimator.tree_
        numbers = np.arange(tree.node_count)
        inner = tree.children_left != -1
        for children in (tree.children_left, tree.children_right):
            after = (children > numbers) & (children < tree.node_count)
            if not np.array_equal(children != -1, inner) or not after[inner].all():
                raise RejectedInput("unreadable_model", "a tree of the model has a branch that leads nowhere")
        if not ((tree.feature[inner] >= 0) & (tree.feature[inner] < tree.n_features)).all():
            raise RejectedInput("unreadable_model", "a tree of the model asks for a feature that there is not")
