"""What a kernel does below the level of arrays: read and write memory by address, and pass values between the lanes of a warp.

    memory(dtype, width)     load, store: one element; load_vector, store_vector: `width` neighbours in one 16-byte access; prefetch
                             asks for the 128 bytes around an element, so that the card's second cache has them when
                             they are read; fetch, widen: load in two halves, so that nothing waits for what is fetched
                             before it is widened
    memory(dtype, width, shared=True)      the same in the memory that a block shares
    room(dtype, size)        a function that gives the address of `size` elements of it
    exp2, reciprocal         the special-function unit's, in float32: an error of a few units of the last digit, and no denormal results
    board(dtype), ticket     what the blocks of one launch tell each other: pairs and states, who goes next
    shuffle, shuffle_up, shuffle_down, shuffle_xor      a register of another lane
    warp_barrier             what lanes of the warp wrote to shared memory before it, all of them can read after it
    any_lane, any_thread     whether a condition holds in any lane of the warp; in any thread of the block (a barrier)

Elements are widened to float32 on their way in (float64 stays; bool becomes 0 or 1) and rounded on their way out. bfloat16 is the upper half
of a float32, so it needs no support of the card. Each function has two versions with one meaning: LLVM instructions for
a card, NumPy for the simulator, where lanes exchange through memory and all threads of the block must take part.
"""

from functools import lru_cache
from itertools import count
from types import SimpleNamespace

import numpy as np

from ._cuda import SIMULATED, Memory, cuda, intrinsic, types

LANES = 4 if SIMULATED else 32                          # of a warp: few on the simulator, where each is a Python thread
_ROOMS = count()
SIZE = {"bool": 1, "float16": 2, "bfloat16": 2, "float32": 4, "float64": 8}


def accumulator(dtype):
    """The type in which sums of `dtype` are taken."""
    return np.float64 if dtype == "float64" else np.float32


if not SIMULATED:
    from llvmlite import ir

    I8, I16, I32, I64, F32, F64 = ir.IntType(8), ir.IntType(16), ir.IntType(32), ir.IntType(64), ir.FloatType(), ir.DoubleType()
    IR = {"bool": I8, "float16": ir.HalfType(), "bfloat16": I16, "float32": F32, "float64": F64}

    def _widen(builder, x, dtype):
        if dtype == "float16":
            return builder.fpext(x, F32)
        if dtype == "bfloat16":
            return builder.bitcast(builder.shl(builder.zext(x, I32), I32(16)), F32)
        if dtype == "bool":
            return builder.uitofp(x, F32)
        return x

    def _round(builder, x, dtype):
        if dtype == "float16":
            return builder.fptrunc(x, ir.HalfType())
        if dtype == "bfloat16":                         # to nearest, ties to even; NaN keeps its sign and stays NaN
            bits = builder.bitcast(x, I32)
            high = builder.lshr(bits, I32(16))
            up = builder.add(I32(0x7FFF), builder.and_(high, I32(1)))
            rounded = builder.lshr(builder.add(bits, up), I32(16))
            nan = builder.fcmp_unordered("uno", x, x)
            return builder.trunc(builder.select(nan, builder.or_(high, I32(0x40)), rounded), I16)
        if dtype == "bool":
            return builder.zext(builder.fcmp_unordered("!=", x, F32(0)), I8)
        return x

    def _place(builder, address, i, type, size, space=1):
        """A pointer to element i of `size` bytes: address space 1 is the card's memory, 3 what a block shares."""
        return builder.inttoptr(builder.add(address, builder.mul(i, i.type(size))), type.as_pointer(space))

    @lru_cache(maxsize=None)
    def memory(dtype, width, shared=False):
        size, element, space = SIZE[dtype], IR[dtype], 3 if shared else 1
        vector = ir.VectorType(element, width)
        acc = types.float64 if dtype == "float64" else types.float32
        raw, raw_ir = (types.uint16, I16) if size == 2 else (acc, element)

        @intrinsic
        def load(typingctx, address, i):
            def codegen(context, builder, sig, args):
                return _widen(builder, builder.load(_place(builder, *args, element, size, space), align=size), dtype)
            return acc(types.int64, types.int64), codegen

        @intrinsic
        def fetch(typingctx, address, i):
            def codegen(context, builder, sig, args):
                return builder.load(_place(builder, *args, raw_ir, size, space), align=size)
            return raw(types.int64, types.int64), codegen

        @intrinsic
        def widen(typingctx, x):
            def codegen(context, builder, sig, args):
                return _widen(builder, builder.bitcast(args[0], element), dtype)
            return acc(raw), codegen

        @intrinsic
        def store(typingctx, address, i, x):
            def codegen(context, builder, sig, args):
                builder.store(_round(builder, args[2], dtype), _place(builder, *args[:2], element, size, space), align=size)
                return context.get_dummy_value()
            return types.void(types.int64, types.int64, acc), codegen

        @intrinsic
        def load_vector(typingctx, address, i, out, j):
            def codegen(context, builder, sig, args):
                data = context.make_array(sig.args[2])(context, builder, args[2]).data
                x = builder.load(_place(builder, *args[:2], vector, size, space), align=size * width)
                for v in range(width):
                    x_v = _widen(builder, builder.extract_element(x, I32(v)), dtype)
                    builder.store(x_v, builder.gep(data, [builder.add(args[3], I64(v))]))
                return context.get_dummy_value()
            return types.void(types.int64, types.int64, out, types.int64), codegen

        @intrinsic
        def store_vector(typingctx, address, i, values, j):
            def codegen(context, builder, sig, args):
                data = context.make_array(sig.args[2])(context, builder, args[2]).data
                x = ir.Constant(vector, ir.Undefined)
                for v in range(width):
                    x_v = builder.load(builder.gep(data, [builder.add(args[3], I64(v))]))
                    x = builder.insert_element(x, _round(builder, x_v, dtype), I32(v))
                builder.store(x, _place(builder, *args[:2], vector, size, space), align=size * width)
                return context.get_dummy_value()
            return types.void(types.int64, types.int64, values, types.int64), codegen

        @intrinsic
        def prefetch(typingctx, address, i):
            def codegen(context, builder, sig, args):
                place = builder.add(args[0], builder.mul(args[1], I64(size)))
                builder.asm(ir.FunctionType(ir.VoidType(), [I64]), "prefetch.global.L2 [$0];", "l", [place], True)
                return context.get_dummy_value()
            return types.void(types.int64, types.int64), codegen

        return SimpleNamespace(load=load, store=store, load_vector=load_vector, store_vector=store_vector, prefetch=prefetch,
                               fetch=fetch, widen=widen, raw=np.uint16 if size == 2 else accumulator(dtype))

    def room(dtype, size):
        name = f"mambalib_room_{next(_ROOMS)}"

        @intrinsic
        def here(typingctx):
            def codegen(context, builder, sig, args):
                place = ir.GlobalVariable(builder.module, ir.ArrayType(IR[dtype], size), name, addrspace=3)
                place.align, place.initializer = 16, ir.Constant(place.type.pointee, ir.Undefined)
                return builder.ptrtoint(place, I64)
            return types.int64(), codegen

        return here

    def _special(instruction):
        @intrinsic
        def function(typingctx, x):
            def codegen(context, builder, sig, args):
                return builder.asm(ir.FunctionType(F32, [F32]), instruction + " $0, $1;", "=f,f", args, False)
            return types.float32(types.float32), codegen
        return function

    exp2, reciprocal = _special("ex2.approx.ftz.f32"), _special("rcp.approx.ftz.f32")

    @intrinsic
    def ticket(typingctx, address, i):
        def codegen(context, builder, sig, args):
            return builder.zext(builder.atomic_rmw("add", _place(builder, *args, I32, 8), I32(1), "monotonic"), I64)
        return types.int64(types.int64, types.int64), codegen

    def _put(builder, address, i, bits):
        place = builder.add(address, builder.mul(i, I64(8)))
        code = ir.FunctionType(ir.VoidType(), [I64, I64])
        builder.asm(code, "st.relaxed.gpu.global.b64 [$0], $1;", "l,l", [place, bits], True)

    def _get(builder, address, i):
        place = builder.add(address, builder.mul(i, I64(8)))
        return builder.asm(ir.FunctionType(I64, [I64]), "ld.relaxed.gpu.global.b64 $0, [$1];", "=l,l", [place], True)

    def _nonzero(builder, x, real):
        return builder.select(builder.fcmp_ordered("==", x, real(0)), real(-0.0), x)

    STATE = 0x7FC05CA7                                  # a NaN in the place of A: B is a state

    @lru_cache(maxsize=None)
    def board(dtype):
        if dtype == "float64":
            acc, slots = types.float64, 3               # A, B, the state; each valid when not zero

            def put_pair(builder, address, i, A, B):
                for n, x in enumerate((A, B)):
                    _put(builder, address, builder.add(builder.mul(i, I64(3)), I64(n)), builder.bitcast(_nonzero(builder, x, F64), I64))

            def put_state(builder, address, i, x):
                _put(builder, address, builder.add(builder.mul(i, I64(3)), I64(2)), builder.bitcast(_nonzero(builder, x, F64), I64))

            def get(builder, address, i):
                A, B, state = (_get(builder, address, builder.add(builder.mul(i, I64(3)), I64(n))) for n in range(3))
                pair = builder.and_(builder.icmp_unsigned("!=", A, I64(0)), builder.icmp_unsigned("!=", B, I64(0)))
                known = builder.icmp_unsigned("!=", state, I64(0))
                A, B = builder.select(known, F64(0), builder.bitcast(A, F64)), builder.bitcast(builder.select(known, state, B), F64)
                return builder.select(known, I32(2), builder.zext(pair, I32)), A, B
        else:
            acc, slots = types.float32, 1               # A in the lower half, B in the upper

            def put(builder, address, i, A_bits, B):
                upper = builder.shl(builder.zext(builder.bitcast(B, I32), I64), I64(32))
                _put(builder, address, i, builder.or_(upper, builder.zext(A_bits, I64)))

            def put_pair(builder, address, i, A, B):
                put(builder, address, i, builder.bitcast(_nonzero(builder, A, F32), I32), B)

            def put_state(builder, address, i, x):
                put(builder, address, i, I32(STATE), x)

            def get(builder, address, i):
                bits = _get(builder, address, i)
                A, B = builder.trunc(bits, I32), builder.trunc(builder.lshr(bits, I64(32)), I32)
                known = builder.icmp_unsigned("==", A, I32(STATE))
                there = builder.zext(builder.icmp_unsigned("!=", A, I32(0)), I32)
                A = builder.select(known, F32(0), builder.bitcast(A, F32))
                return builder.select(known, I32(2), there), A, builder.bitcast(B, F32)

        @intrinsic
        def publish_pair(typingctx, address, i, A, B):
            def codegen(context, builder, sig, args):
                put_pair(builder, *args)
                return context.get_dummy_value()
            return types.void(types.int64, types.int64, acc, acc), codegen

        @intrinsic
        def publish_state(typingctx, address, i, x):
            def codegen(context, builder, sig, args):
                put_state(builder, *args)
                return context.get_dummy_value()
            return types.void(types.int64, types.int64, acc), codegen

        @intrinsic
        def peek(typingctx, address, i):
            result = types.Tuple((types.int32, acc, acc))

            def codegen(context, builder, sig, args):
                return context.make_tuple(builder, result, get(builder, *args))
            return result(types.int64, types.int64), codegen

        return SimpleNamespace(publish_pair=publish_pair, publish_state=publish_state, peek=peek, slots=slots)

    ALL = 0xFFFFFFFF

    @cuda.jit(device=True)
    def shuffle(x, lane):
        return cuda.shfl_sync(ALL, x, lane)

    @cuda.jit(device=True)
    def shuffle_up(x, distance):
        return cuda.shfl_up_sync(ALL, x, distance)

    @cuda.jit(device=True)
    def shuffle_down(x, distance):
        return cuda.shfl_down_sync(ALL, x, distance)

    @cuda.jit(device=True)
    def shuffle_xor(x, mask):
        return cuda.shfl_xor_sync(ALL, x, mask)

    @cuda.jit(device=True)
    def warp_barrier():
        cuda.syncwarp(ALL)

    @cuda.jit(device=True)
    def any_lane(condition):
        return cuda.any_sync(ALL, condition)

    @cuda.jit(device=True)
    def any_thread(condition):
        # The vote first: with a condition that differs between lanes, a compiler was seen to make one barrier in each
        # branch of it, and a warp that waits at two barriers waits for ever.
        return cuda.syncthreads_or(np.int32(cuda.any_sync(ALL, condition))) != 0

else:
    from numba.cuda.simulator.kernel import _get_kernel_context as context      # the simulated card of this thread

    def _widen(x, dtype):
        return (x.astype(np.uint32) << 16).view(np.float32) if dtype == "bfloat16" else x.astype(accumulator(dtype))

    def _round(x, dtype):
        x = np.asarray(x, accumulator(dtype))
        if dtype != "bfloat16":
            return x.astype(dtype)
        bits = x.view(np.uint32)
        high = bits >> 16
        return np.where(np.isnan(x), high | 0x40, (bits + 0x7FFF + (high & 1)) >> 16).astype(np.uint16)

    @lru_cache(maxsize=None)
    def memory(dtype, width, shared=False):
        def load(address, i):
            return _widen(address.array[address.at(i)], dtype)[0]

        def store(address, i, x):
            address.array[address.at(i)] = _round(x, dtype)

        def load_vector(address, i, out, j):
            assert i % width == 0, "a vector that is not aligned"
            out[j:j + width] = _widen(address.array[address.at(i, width)], dtype)

        def store_vector(address, i, values, j):
            assert i % width == 0, "a vector that is not aligned"
            address.array[address.at(i, width)] = _round(values[j:j + width], dtype)

        def prefetch(address, i):
            address.at(i)

        def fetch(address, i):
            return address.array[address.at(i)][0]

        def widen(x):
            return _widen(np.asarray(x), dtype)[()]

        return SimpleNamespace(load=load, store=store, load_vector=load_vector, store_vector=store_vector, prefetch=prefetch,
                               fetch=fetch, widen=widen, raw=np.uint16 if dtype == "bfloat16" else np.dtype(dtype).type)

    def room(dtype, size):
        name = f"mambalib_room_{next(_ROOMS)}"

        def here():                                     # as cuda.shared.array does, which goes by the line it is called on
            return Memory(context().shared._allocations.setdefault(name, np.full(size, np.nan, accumulator(dtype))))

        return here

    def exp2(x):
        return np.float32(np.exp2(np.float64(x)))

    def reciprocal(x):
        with np.errstate(divide="ignore"):
            return np.float32(np.float64(1) / np.float64(x))

    def ticket(address, i):
        count = address.array[address.at(i)].view(np.int64)
        count[0] += 1
        return int(count[0]) - 1

    @lru_cache(maxsize=None)
    def board(dtype):
        acc = accumulator(dtype)

        def publish_pair(address, i, A, B):             # four float64 words: what is there, A, B
            address.array[address.at(4 * i, 3)] = 1, A, B

        def publish_state(address, i, x):
            address.array[address.at(4 * i, 3)] = 2, 0, x

        def peek(address, i):
            kind, A, B = address.array[address.at(4 * i, 3)]
            return int(kind), acc(A), acc(B)

        return SimpleNamespace(publish_pair=publish_pair, publish_state=publish_state, peek=peek, slots=4)

    def shuffle(x, lane):
        card = context()
        registers = card.shared.array(1024, np.float64)
        thread = card.threadIdx.x
        registers[thread] = x
        card.syncthreads()
        y = type(x)(registers[thread - thread % LANES + lane % LANES])
        card.syncthreads()                              # all have read before the next exchange writes
        return y

    def shuffle_up(x, distance):
        lane = context().threadIdx.x % LANES
        return shuffle(x, lane - distance if lane >= distance else lane)

    def shuffle_down(x, distance):
        lane = context().threadIdx.x % LANES
        return shuffle(x, lane + distance if lane + distance < LANES else lane)

    def shuffle_xor(x, mask):
        return shuffle(x, context().threadIdx.x % LANES ^ mask)

    def warp_barrier():
        context().syncthreads()

    def any_lane(condition):
        return context().syncthreads_or(condition) != 0

    any_thread = any_lane
