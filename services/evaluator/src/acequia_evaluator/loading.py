"""Loading a model that is not trusted until it has shown who it is: its hash first, then only types named here."""

import hashlib
import zipfile
from pathlib import Path
from typing import Any

import skops.io
from skops.io.exceptions import UntrustedTypesFoundException

from acequia.cards import ModelCard
from acequia.errors import RejectedInput

TRUSTED = ("numpy.dtype", "sklearn.tree._tree.Tree")
"""Beyond what skops trusts by itself. Never taken from the file."""


def load_model(path: Path, card: ModelCard) -> Any:
    """The pipeline that `card` describes.

    Raises RejectedInput: `hash_mismatch`, `untrusted_type`, `unreadable_model`.
    """
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != card.artifact.sha256:
        raise RejectedInput("hash_mismatch", f"sha256 is {digest}, the card says {card.artifact.sha256}")
    try:
        foreign = sorted(set(skops.io.get_untrusted_types(file=path)) - set(TRUSTED))
        if foreign:
            raise RejectedInput("untrusted_type", f"the model holds {', '.join(foreign)}")
        model = skops.io.load(path, trusted=list(TRUSTED))
    except UntrustedTypesFoundException as error:
        raise RejectedInput("untrusted_type", str(error)) from error
    except (zipfile.BadZipFile, KeyError, ValueError, TypeError, AttributeError) as error:
        raise RejectedInput("unreadable_model", f"not a skops file: {error}") from error
    if not hasattr(model, "score_samples"):
        raise RejectedInput("unreadable_model", f"a {type(model).__name__} gives no scores")
    return model
