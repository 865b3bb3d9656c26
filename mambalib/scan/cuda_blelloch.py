"""Blelloch's scan by one block, as chapter 12 teaches it: up-sweep, down-sweep, and from exclusive to inclusive.

It is here to be read. `linear_scan` runs the kernels of `cuda_rows` and `cuda_columns`, which keep more in registers.
"""

from functools import lru_cache

import numpy as np

from .._cuda import cuda


@lru_cache(maxsize=None)
def block_scan(threads):
    """The kernel for rows of at most 2 * threads steps (threads: a power of two).

    Launch: kernel[rows, threads](a, b, h0, h), arrays (rows, length), h0 (rows,), float32. A block owns a row; a thread
    owns two of its steps, and one node of the tree on each level, as long as there are enough nodes. Shared memory: the
    tree, a pair (A, B) a node. A stretch of steps takes a state h to A h + B; a parent's pair is its children's, the
    left, which is earlier, applied first: (A, B) = (A_r A_l, A_r B_l + B_r). The row is padded with (1, 0), which
    changes nothing.
    """
    n = 2 * threads

    @cuda.jit
    def scan_row(a, b, h0, h):
        A = cuda.shared.array(n, np.float32)
        B = cuda.shared.array(n, np.float32)
        row, me, length = cuda.blockIdx.x, cuda.threadIdx.x, b.shape[1]
        for t in range(me, n, threads):
            A[t], B[t] = np.float32(1), np.float32(0)
            if t < length:
                A[t], B[t] = a[row, t], b[row, t]
        cuda.syncthreads()                              # the leaves are there

        reach = 1                                       # steps under a node
        while reach < n:                                # up: from the leaves to the root
            left = 2 * reach * me + reach - 1
            if left < n:
                right = left + reach
                A_r = A[right]
                A[right], B[right] = A_r * A[left], A_r * B[left] + B[right]
            cuda.syncthreads()                          # this level is there before the next reads it
            reach *= 2

        if me == 0:
            A[n - 1], B[n - 1] = np.float32(1), np.float32(0)       # nothing comes before the root
        cuda.syncthreads()                              # the root is there

        reach = threads
        while reach > 0:                                # down: what comes before each node
            left = 2 * reach * me + reach - 1
            if left < n:
                right = left + reach
                A_l, B_l, A_p, B_p = A[left], B[left], A[right], B[right]
                A[left], B[left] = A_p, B_p             # before the left child comes what comes before its parent,
                A[right], B[right] = A_l * A_p, A_l * B_p + B_l     # and before the right child the left one besides
            cuda.syncthreads()                          # this level is there before the next reads it
            reach //= 2

        for t in range(me, length, threads):            # one step more: from the steps before t to h_t
            h[row, t] = a[row, t] * (A[t] * h0[row] + B[t]) + b[row, t]

    return scan_row
