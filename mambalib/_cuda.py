"""The one door to CUDA: numba's `cuda`, and arrays of every library that keeps them on a card.

A kernel of this package takes addresses and integers, not arrays: describing an array to numba costs about ten
microseconds of Python, an integer one. `view` gives an array's address, shape and strides; `new`, `zeros` and `full`
make arrays of the library that the caller's array came from, so that results come back in kind; `launch` runs a kernel
on the caller's stream.

On the simulator (NUMBA_ENABLE_CUDASIM=1) an address is a `Memory`, a flat NumPy array that checks its bounds.
"""

import ctypes
import sys
from collections import namedtuple
from contextlib import nullcontext
from functools import lru_cache
from math import prod

import numpy as np
from numba import config, cuda

if config.ENABLE_CUDASIM or cuda.__file__.partition("numba_cuda")[1] == "":     # the simulator, and the target built into numba
    from numba import types
    from numba.extending import intrinsic
else:                                                   # numba-cuda, the target's home since 2025
    from numba.cuda import types
    from numba.cuda.extending import intrinsic

__all__ = ["cuda", "types", "intrinsic", "SIMULATED", "Memory", "View", "view", "contiguous", "new", "zeros", "full", "permuted",
           "stream", "device", "launch", "processors"]

SIMULATED = bool(config.ENABLE_CUDASIM)

View = namedtuple("View", "address shape strides dtype")        # strides in elements; dtype by name
NUMPY = {"float16": np.float16, "bfloat16": np.uint16, "float32": np.float32, "float64": np.float64}


class Memory:
    """A flat array of the simulator in the place of an address."""

    def __init__(self, array):
        self.array = array

    def at(self, i, n=1):
        """The place of elements i .. i + n - 1, if they exist."""
        if not 0 <= i <= i + n <= self.array.size:
            raise IndexError(f"elements {i} to {i + n - 1} of an array of {self.array.size}")
        return slice(int(i), int(i) + n)


def _library(x):
    name = type(x).__module__.partition(".")[0]
    return name if name in ("torch", "cupy") else "numba"


def dtype_name(x):
    """float32, float64, float16 or bfloat16 (16-bit words of no other meaning, too), or whatever else the array holds."""
    if hasattr(x, "data_ptr"):
        return str(x.dtype).rpartition(".")[2]
    name = x.dtype.name if hasattr(x, "dtype") else np.dtype(x.__cuda_array_interface__["typestr"]).name
    return "bfloat16" if name in ("uint16", "void16") else name


def view(x):
    """Where an array's elements lie."""
    if SIMULATED:
        array = x._ary if hasattr(x, "_ary") else x
        span = 1 + sum((n - 1) * s for n, s in zip(array.shape, array.strides)) // array.itemsize if array.size else 0
        flat = np.lib.stride_tricks.as_strided(array, (span,), (array.itemsize,))
        return View(Memory(flat), array.shape, tuple(s // array.itemsize for s in array.strides), dtype_name(x))
    if hasattr(x, "data_ptr"):
        return View(x.data_ptr(), tuple(x.shape), x.stride(), dtype_name(x))
    interface = x.__cuda_array_interface__
    shape, strides = interface["shape"], interface.get("strides")
    size = np.dtype(interface["typestr"]).itemsize
    strides = contiguous(shape) if strides is None else tuple(s // size for s in strides)
    return View(interface["data"][0], shape, strides, dtype_name(x))


def contiguous(shape):
    """The strides of a C-contiguous array."""
    return tuple(prod(shape[i + 1:]) for i in range(len(shape)))


def new(like, shape, dtype=None):
    """An array in kind, its elements undefined. dtype: None for that of `like`, or a name."""
    library, shape = _library(like), tuple(shape)
    if library == "torch":
        return like.new_empty(shape, dtype=dtype and getattr(sys.modules["torch"], dtype))
    dtype = NUMPY[dtype] if dtype else like.dtype if hasattr(like, "dtype") else NUMPY[dtype_name(like)]
    return sys.modules["cupy"].empty(shape, dtype) if library == "cupy" else cuda.device_array(shape, dtype)


def zeros(like, n):
    """n zero words of 8 bytes, made on the caller's stream."""
    library = _library(like)
    if library == "torch":
        return like.new_zeros(n, dtype=sys.modules["torch"].float64)
    if library == "cupy":
        return sys.modules["cupy"].zeros(n)
    if SIMULATED:
        return cuda.to_device(np.zeros(n))
    out = cuda.device_array(n)
    cuda.cudadrv.driver.device_memset(out, 0, out.nbytes, stream=_numba_stream(like))
    return out


def full(like, value):
    """One element of the value, of the dtype of `like`."""
    library, dtype = _library(like), dtype_name(like)
    if library == "torch":
        return like.new_full((), value)
    bits = np.float32(value).view(np.uint32)            # rounded to nearest, ties to even, as the 16 high bits
    value = (bits + 0x7FFF + (bits >> 16 & 1)) >> 16 if dtype == "bfloat16" and value == value else value
    value = 0x7FC0 if dtype == "bfloat16" and value != value else value
    if library == "cupy":
        out = sys.modules["cupy"].full((), value, NUMPY[dtype])
        return out.view(like.dtype)
    return cuda.to_device(np.full((1,), value, NUMPY[dtype]), stream=0 if SIMULATED else _numba_stream(like))


def permuted(x, axes):
    """A view of x with its axes reordered."""
    if tuple(axes) == tuple(range(len(axes))):
        return x
    if _library(x) == "torch":
        return x.permute(*axes)
    if _library(x) == "cupy":
        return x.transpose(*axes)
    if SIMULATED:
        return type(x)(x._ary.transpose(axes))
    return cuda.devicearray.DeviceNDArray([x.shape[i] for i in axes], [x.strides[i] for i in axes], x.dtype, gpu_data=x.gpu_data)


def stream(x):
    """The stream on which the caller of an array's library works now, as the driver's integer."""
    if SIMULATED:
        return 0
    library = _library(x)
    if library == "torch":
        torch = sys.modules["torch"]
        raw = getattr(torch._C, "_cuda_getCurrentRawStream", None)      # makes no object
        return raw(x.get_device()) if raw else torch.cuda.current_stream(x.device).cuda_stream
    if library == "cupy":
        return sys.modules["cupy"].cuda.get_current_stream().ptr
    return x.__cuda_array_interface__.get("stream") or 0


def _numba_stream(x):
    pointer = stream(x)
    return cuda.external_stream(pointer) if pointer > 1 else 0      # 0 and 1 are the default stream


def device(x):
    """A context in which kernels run on the card that holds x."""
    if SIMULATED or _cards() == 1:
        return nullcontext()
    index = x.device.index if _library(x) == "torch" else x.device.id if _library(x) == "cupy" else None
    return nullcontext() if index is None else cuda.gpus[index]


@lru_cache(maxsize=None)
def _cards():
    return len(cuda.gpus)


@lru_cache(maxsize=None)
def processors():
    """Multiprocessors of the card."""
    return 1 if SIMULATED else cuda.get_current_device().MULTIPROCESSOR_COUNT


def launch(kernel, blocks, threads, stream, *args):
    """kernel[blocks, threads, stream](*args), for arguments that are integers or tuples of integers.

    On a card the kernel is compiled through numba, and launched through the driver: the way through numba's dispatcher,
    which asks each argument for its type, takes tens of microseconds of Python, as long as many a kernel.
    """
    if SIMULATED:
        kernel[blocks, threads](*args)
        return
    flat = []
    for x in args:
        flat.extend(x) if type(x) is tuple else flat.append(x)
    function = _function(kernel, tuple([len(x) if type(x) is tuple else -1 for x in args]), _card())
    values = (ctypes.c_int64 * len(flat))(*flat)
    start = ctypes.addressof(values)
    places = (ctypes.c_void_p * len(flat))(*range(start, start + 8 * len(flat), 8))
    launcher = _driver().cuLaunchKernel
    error = launcher(function, blocks, 1, 1, threads, 1, 1, 0, stream, places, None)
    if error == 201:                                    # this thread has no context yet: numba makes one current
        cuda.current_context()
        error = launcher(function, blocks, 1, 1, threads, 1, 1, 0, stream, places, None)
    if error:
        raise RuntimeError(f"CUDA error {error} when launching {kernel.py_func.__name__} with {blocks} blocks of {threads} threads")


@lru_cache(maxsize=None)
def _function(kernel, lengths, card):
    """The driver's handle of the compiled kernel on a card. lengths: of each argument, -1 for an integer, else the tuple's."""
    signature = tuple(types.int64 if n < 0 else types.UniTuple(types.int64, n) if n else types.Tuple(()) for n in lengths)
    function = kernel.compile(signature)._codelibrary.get_cufunc()
    _KEPT.append(function)                              # the handle is valid as long as this is
    return int(getattr(function.handle, "value", function.handle))      # numba's two bindings: a c_void_p, or like an integer


_KEPT = []


def _card():
    return 0 if _cards() == 1 else cuda.get_current_device().id


@lru_cache(maxsize=None)
def _driver():
    driver = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    driver.cuLaunchKernel.argtypes = [ctypes.c_void_p] + 7 * [ctypes.c_uint] + 3 * [ctypes.c_void_p]
    return driver
