"""What the kernels of this folder share: a row spread over threads, sums over a block, integers from memory, votes.

A row is read `some` vectors at a time by each of the threads that own it, vector after vector around all of them:

    | thread 0 | thread 1 | ... | thread T-1 | thread 0 | ...        a vector each: 4 numbers, 16 bytes, or 1 number

so neighbouring threads read neighbouring addresses, and a thread has `some` reads under way before it waits for one.
"""

from functools import lru_cache
from types import SimpleNamespace

import numpy as np

from .._cuda import SIMULATED, cuda, intrinsic, types
from .._device import LANES, memory, shuffle, shuffle_xor

THREADS = 8 if SIMULATED else 256                       # of a block, where the kernel leaves it open
DOUBLINGS = LANES.bit_length() - 1                      # of the distance between lanes, in a sum over a warp


@lru_cache(maxsize=None)
def spread(width, some, threads):
    """read, write: `some` vectors of `width` numbers of a row that `threads` threads own; hop: how far all reach.

    at: the place of the row's first number; first: the thread's first column; columns: how many the row has. Where a
    vector does not exist, `missing` is read and nothing is written. width divides at, first and columns.
    """
    touch, stride = memory("float32", width), threads * width
    load, store = touch.load_vector, touch.store_vector

    @cuda.jit(device=True)
    def read(address, at, first, columns, x, missing):
        for k in range(some):
            column = first + k * stride
            if column < columns:
                load(address, at + column, x, k * width)
            else:
                for v in range(width):
                    x[k * width + v] = missing

    @cuda.jit(device=True)
    def write(address, at, first, columns, x):
        for k in range(some):
            column = first + k * stride
            if column < columns:
                store(address, at + column, x, k * width)

    return SimpleNamespace(read=read, write=write, hop=some * stride)


@lru_cache(maxsize=None)
def over_threads(threads):
    """total, largest: of a number of each of `threads` threads, one warp or the whole block; all of them get it.

    Lanes exchange by shuffles. Warps write to shared memory. Barriers, two: one when each warp's number is there, one
    when all have read them, so that the next sum may write. The order of the additions depends on `threads` alone.
    """
    warps = -(-threads // LANES)

    @cuda.jit(device=True)
    def total(x):
        for k in range(DOUBLINGS):
            x += shuffle_xor(x, 1 << k)
        if warps > 1:
            of_warps = cuda.shared.array(warps, np.float32)
            if cuda.threadIdx.x % LANES == 0:
                of_warps[cuda.threadIdx.x // LANES] = x
            cuda.syncthreads()
            x = of_warps[0]
            for w in range(1, warps):
                x += of_warps[w]
            cuda.syncthreads()
        return x

    @cuda.jit(device=True)
    def largest(x):
        """NaN counts as less than every number."""
        for k in range(DOUBLINGS):
            other = shuffle_xor(x, 1 << k)
            x = other if other > x else x
        if warps > 1:
            largest_of_warps = cuda.shared.array(warps, np.float32)
            if cuda.threadIdx.x % LANES == 0:
                largest_of_warps[cuda.threadIdx.x // LANES] = x
            cuda.syncthreads()
            x = largest_of_warps[0]
            for w in range(1, warps):
                x = largest_of_warps[w] if largest_of_warps[w] > x else x
            cuda.syncthreads()
        return x

    return SimpleNamespace(total=total, largest=largest)


if not SIMULATED:
    from llvmlite import ir

    @lru_cache(maxsize=None)
    def integer(dtype):
        """load(address, i): element i of an array of integers, of at most 64 bits."""
        bits, signed = int(dtype.lstrip("uint")), dtype[0] == "i"

        @intrinsic
        def load(typingctx, address, i):
            def codegen(context, builder, sig, args):
                place = builder.add(args[0], builder.mul(args[1], args[1].type(bits // 8)))
                x = builder.load(builder.inttoptr(place, ir.IntType(bits).as_pointer(1)), align=bits // 8)
                return x if bits == 64 else (builder.sext if signed else builder.zext)(x, ir.IntType(64))
            return types.int64(types.int64, types.int64), codegen

        return load

    @cuda.jit(device=True)
    def lanes_where(condition):
        """The lanes of the warp in which the condition holds: bit l for lane l."""
        return np.int64(cuda.ballot_sync(0xFFFFFFFF, condition)) & 0xFFFFFFFF        # its 32 bits may count as negative

else:
    @lru_cache(maxsize=None)
    def integer(dtype):
        def load(address, i):
            return int(address.array[address.at(i)][0])
        return load

    def lanes_where(condition):
        return sum(int(shuffle(np.float32(condition), lane)) << lane for lane in range(LANES))
