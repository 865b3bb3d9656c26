"""What the tests share: a hypothesis profile that draws the same examples on each run, and values that no array argument takes."""

import numpy as np
import pytest
from hypothesis import settings

settings.register_profile("mambalib", derandomize=True, deadline=None, max_examples=40)
settings.load_profile("mambalib")

NOT_ARRAYS = {  # name: (value, the error, what its message says)
    "integers": (np.ones(2, np.int64), TypeError, "expected dtype float32 or float64.*, got int64"),
    "bools": (np.ones(2, bool), TypeError, "expected dtype float32 or float64.*, got bool"),
    "float16": (np.ones(2, np.float16), TypeError, "expected dtype float32 or float64.*, got float16"),
    "objects": (np.array([1.0, None]), TypeError, "expected dtype float32 or float64.*, got object"),
    "strings": (["1.0", "2.0"], TypeError, "expected dtype float32 or float64.*, got str[0-9]+"),
    "a string": ("1.0", TypeError, "expected an array of float32 or float64.*, got '1.0'"),
    "a bool": (True, TypeError, "expected an array of float32 or float64.*, got True"),
    "ragged rows": ([[1.0, 2.0], [3.0]], ValueError, "expected a rectangular array, got rows of different lengths"),
}


@pytest.fixture(params=NOT_ARRAYS.values(), ids=NOT_ARRAYS)
def not_an_array(request):
    """A value that no array argument takes, the error that it raises, and what the message says after the argument's name."""
    return request.param
