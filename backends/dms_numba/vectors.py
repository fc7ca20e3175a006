"""Gives Numba vectors: a few registers of numbers that are computed with as one.

A loop that is written in vectors keeps all of a machine's units busy, and its sums are taken in the
order in which they stand. Nothing is left to a compiler that may or may not find vectors in a loop.

A number among vectors stands for a vector of it. No function here takes NaN for anything else.

Numba keeps compiled code for as long as the file of the kernel does not change. After a change
here, delete ``__pycache__``.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from inspect import signature as signature_of
from typing import Any

import numpy as np
from llvmlite import ir
from numba import __version__, njit, types, version_info
from numba.core.cgutils import get_or_insert_function
from numba.core.typing.templates import AbstractTemplate, infer_global, signature
from numba.extending import intrinsic, lower_builtin, lower_cast, models, register_model

from dms_spec.errors import BackendUnavailable, install_hint

if version_info[:2] < (0, 62):  # what its LLVM cannot compile ends the process
    raise BackendUnavailable(
        "Numba is too old for the compiled loops",
        expected="numba 0.62 or newer",
        got=__version__,
        fix=install_hint("dms-spec[numba]"),
    )

#: Compiles a kernel: on disk from then on, and without the interpreter's lock while it runs.
compiled: Callable[..., Any] = njit(nogil=True, cache=True, error_model="numpy")
#: Compiles a function into those that call it, so that its vectors stay in registers.
inlined: Callable[..., Any] = njit(forceinline=True, error_model="numpy")

# 32 numbers in float32: as many registers as a machine needs for them, two at least, so that one
# sum does not wait for the next. It is the same on every machine, and so are the bits of a sum.
_VECTOR_BYTES = 128
# Of a cache.
_LINE_BYTES = 64
# Of a number of so many bits: how many of them follow the point, and those of sqrt(1/2).
_MANTISSA = {32: 23, 64: 52}
_ROOT_OF_HALF = {32: 0x3F3504F3, 64: 0x3FE6A09E667F3BCD}
_INT, _INDEX = ir.IntType(32), ir.IntType(64)


class Vector(types.Type):
    """The type of vectors of so many numbers of one dtype."""

    def __init__(self, dtype: Any, lanes: int) -> None:
        self.dtype, self.lanes = dtype, lanes
        super().__init__(name=f"Vector({dtype}, {lanes})")


@register_model(Vector)
class _Model(models.PrimitiveModel):
    def __init__(self, manager: Any, kind: Vector) -> None:
        number = manager.lookup(kind.dtype).get_value_type()
        super().__init__(manager, kind, ir.VectorType(number, kind.lanes))


def _vector(array: Any) -> Vector:
    return Vector(array.dtype, _VECTOR_BYTES // _number_bytes(array))


# ---------------------------------------------------------------------------------- lane by lane


def fma(a: Any, b: Any, c: Any) -> Any:
    """a * b + c, rounded once on a machine that can."""
    raise NotImplementedError  # compiled alone, like all of these


def larger(a: Any, b: Any) -> Any:
    """The larger of two; b where either is NaN."""
    raise NotImplementedError


def size(a: Any) -> Any:
    """|a|."""
    raise NotImplementedError


def where_less(a: Any, b: Any, x: Any, y: Any) -> Any:
    """X where a < b, y elsewhere, and where either is NaN."""
    raise NotImplementedError


def times_power(p: Any, k: Any) -> Any:
    """p * 2^k, of k + 1.5 * 2^n, where n is how many bits follow the first in this dtype."""
    raise NotImplementedError


def power(x: Any) -> Any:
    """The k for which x / 2^k lies in [sqrt(1/2), sqrt(2)), of a normal x above 0."""
    raise NotImplementedError


def _define(function: Callable[..., Any], emit: Callable[..., Any]) -> None:
    """Compiles a function of vectors to instructions; numbers among them are converted before."""
    count = len(signature_of(function).parameters)

    @infer_global(function)
    class Typing(AbstractTemplate):
        def generic(self, given: Any, _named: Any) -> Any:
            found = {kind for kind in given if isinstance(kind, Vector)}
            return signature(*found, *(list(found) * count)) if len(found) == 1 else None

    def lower(_context: Any, builder: Any, _signature: Any, given: Any) -> Any:
        return emit(builder, *given)

    lower_builtin(function, *([Vector] * count))(lower)


def _named(name: str) -> Callable[..., Any]:
    """Calls one of LLVM's own functions of vectors."""

    def emit(builder: Any, *given: Any) -> Any:
        kind = given[0].type
        return _call(builder, f"llvm.{name}.{_suffix(kind)}", kind, given)

    return emit


def _call(builder: Any, name: str, result: Any, given: Any) -> Any:
    kind = ir.FunctionType(result, [value.type for value in given])
    return builder.call(get_or_insert_function(builder.module, kind, name), given)


def _suffix(kind: ir.VectorType) -> str:
    return f"v{kind.count}{kind.element.intrinsic_name}"


def _all(kind: ir.VectorType, value: Any) -> Any:
    return ir.Constant(kind, [value] * kind.count)


def _emit_larger(builder: Any, a: Any, b: Any) -> Any:
    return builder.select(builder.fcmp_ordered(">", a, b), a, b)


def _emit_where_less(builder: Any, a: Any, b: Any, x: Any, y: Any) -> Any:
    return builder.select(builder.fcmp_ordered("<", a, b), x, y)


def _emit_times_power(builder: Any, p: Any, k: Any) -> Any:
    """Adds k to the exponent; what else is in its bits falls out on the left."""
    bits, more = _bits(builder, p), _bits(builder, k)
    shifted = builder.shl(more, _all(bits.type, _MANTISSA[bits.type.element.width]))
    return builder.bitcast(builder.add(bits, shifted), p.type)


def _emit_power(builder: Any, x: Any) -> Any:
    """Counts from the bits of sqrt(1/2) on; a shift to the right rounds down."""
    bits = _bits(builder, x)
    width = bits.type.element.width
    above = builder.sub(bits, _all(bits.type, _ROOT_OF_HALF[width]))
    return builder.sitofp(builder.ashr(above, _all(bits.type, _MANTISSA[width])), x.type)


def _bits(builder: Any, x: Any) -> Any:
    width = 32 if isinstance(x.type.element, ir.FloatType) else 64
    return builder.bitcast(x, ir.VectorType(ir.IntType(width), x.type.count))


_define(operator.add, lambda builder, a, b: builder.fadd(a, b))
_define(operator.iadd, lambda builder, a, b: builder.fadd(a, b))
_define(operator.sub, lambda builder, a, b: builder.fsub(a, b))
_define(operator.mul, lambda builder, a, b: builder.fmul(a, b))
_define(operator.truediv, lambda builder, a, b: builder.fdiv(a, b))
_define(fma, _named("fmuladd"))
_define(size, _named("fabs"))
_define(larger, _emit_larger)
_define(where_less, _emit_where_less)
_define(times_power, _emit_times_power)
_define(power, _emit_power)


@lower_cast(types.Number, Vector)
def _(context: Any, builder: Any, source: Any, kind: Vector, value: Any) -> Any:
    number = context.cast(builder, value, source, kind.dtype)
    return _repeated(builder, number, context.get_value_type(kind).count)


def _repeated(builder: Any, number: Any, count: int) -> Any:
    kind = ir.VectorType(number.type, count)
    undefined = ir.Constant(kind, ir.Undefined)
    first = builder.insert_element(undefined, number, _INT(0))
    return builder.shuffle_vector(first, undefined, _all(ir.VectorType(_INT, count), 0))


# ----------------------------------------------------------------------------- vectors and numbers


@intrinsic
def lanes(_: Any, array: Any) -> Any:
    """How many numbers a vector of an array's dtype holds."""
    kind = _vector(array)
    return types.intp(array), lambda *_: _INDEX(kind.lanes)


@intrinsic
def all_of(_: Any, array: Any, value: Any) -> Any:
    """A vector of an array's dtype, filled with one value."""
    kind = _vector(array)
    return kind(array, kind), lambda _context, _builder, _signature, given: given[1]


@intrinsic
def total(_: Any, vector: Any) -> Any:
    """The sum over a vector, by halves."""
    return vector.dtype(vector), lambda _context, builder, _signature, given: _halved(
        builder, given[0], lambda a, b: builder.fadd(a, b)
    )


@intrinsic
def largest(_: Any, vector: Any) -> Any:
    """The largest number in a vector, which must hold no NaN."""
    return vector.dtype(vector), lambda _context, builder, _signature, given: _halved(
        builder, given[0], lambda a, b: _emit_larger(builder, a, b)
    )


def _halved(builder: Any, vector: Any, combine: Callable[[Any, Any], Any]) -> Any:
    """Combines the halves of a vector, and of what comes out, until one number is left."""
    while (count := vector.type.count // 2) > 0:
        low, high = (
            builder.shuffle_vector(
                vector,
                vector,
                ir.Constant(ir.VectorType(_INT, count), list(range(start, start + count))),
            )
            for start in (0, count)
        )
        vector = combine(low, high)
    return builder.extract_element(vector, _INT(0))


@intrinsic
def polynomial(_: Any, x: Any, coefficients: Any) -> Any:
    """A polynomial in x by Horner's rule, from a tuple of numbers, that of the highest power first.

    Each step is rounded once on a machine that can.
    """

    def generate(context: Any, builder: Any, _signature: Any, given: Any) -> Any:
        x_, numbers = given
        value, step = None, _named("fmuladd")
        for place in range(coefficients.count):
            number = builder.extract_value(numbers, place)
            each = context.cast(builder, number, coefficients.dtype, x)
            value = each if value is None else step(builder, value, x_, each)
        return value

    return x(x, coefficients), generate


# ----------------------------------------------------------------------------------------- memory


@inlined
def read(array: Any, at: Any, left: Any, filler: Any) -> Any:
    """A vector from memory of which only so many numbers are ``left``; the others are the filler.

    What lies behind is not touched.
    """
    return load(array, at) if left >= lanes(array) else _load_some(array, at, left, filler)


@inlined
def write(array: Any, at: Any, left: Any, vector: Any) -> None:
    """Writes the first numbers of a vector, as many as are ``left``."""
    if left >= lanes(array):
        store(array, at, vector)
    else:
        _store_some(array, at, left, vector)


@intrinsic
def load(_: Any, array: Any, at: Any) -> Any:
    """A vector from memory."""
    kind = _vector(array)

    def generate(context: Any, builder: Any, _signature: Any, given: Any) -> Any:
        place = _pointer(context, builder, array, *given, context.get_value_type(kind))
        return builder.load(place, align=_number_bytes(array))

    return kind(array, types.intp), generate


@intrinsic
def store(_: Any, array: Any, at: Any, vector: Any) -> Any:
    """Writes a vector to memory."""

    def generate(context: Any, builder: Any, _signature: Any, given: Any) -> Any:
        place = _pointer(context, builder, array, *given[:2], given[2].type)
        builder.store(given[2], place, align=_number_bytes(array))
        return context.get_dummy_value()

    return types.void(array, types.intp, vector), generate


@intrinsic
def _load_some(_: Any, array: Any, at: Any, count: Any, filler: Any) -> Any:
    kind = _vector(array)

    def generate(context: Any, builder: Any, _signature: Any, given: Any) -> Any:
        own, at, count, filler = given
        place = _pointer(context, builder, array, own, at, filler.type)
        mask = _first(builder, count, kind.lanes)
        arguments = [place, _INT(_number_bytes(array)), mask, filler]
        name = f"llvm.masked.load.{_suffix(filler.type)}.p0"
        return _call(builder, name, filler.type, arguments)

    return kind(array, types.intp, types.intp, kind), generate


@intrinsic
def _store_some(_: Any, array: Any, at: Any, count: Any, vector: Any) -> Any:
    def generate(context: Any, builder: Any, _signature: Any, given: Any) -> Any:
        own, at, count, value = given
        place = _pointer(context, builder, array, own, at, value.type)
        mask = _first(builder, count, vector.lanes)
        arguments = [value, place, _INT(_number_bytes(array)), mask]
        _call(builder, f"llvm.masked.store.{_suffix(value.type)}.p0", ir.VoidType(), arguments)
        return context.get_dummy_value()

    return types.void(array, types.intp, types.intp, vector), generate


@intrinsic
def prefetch(_: Any, array: Any, at: Any) -> Any:
    """Asks for a vector that is needed soon. It may lie beyond the array: nothing is read."""
    step = _LINE_BYTES // _number_bytes(array)
    count = _vector(array).lanes

    def generate(context: Any, builder: Any, _signature: Any, given: Any) -> Any:
        for line in range(0, count, step):
            at = builder.add(given[1], _INDEX(line))
            place = _pointer(context, builder, array, given[0], at, ir.IntType(8))
            # To read, into the second cache, data.
            arguments = [place, _INT(0), _INT(2), _INT(1)]
            _call(builder, "llvm.prefetch.p0", ir.VoidType(), arguments)
        return context.get_dummy_value()

    return types.void(array, types.intp), generate


def _pointer(context: Any, builder: Any, array: Any, value: Any, at: Any, kind: Any) -> Any:
    data = context.make_array(array)(context, builder, value).data
    return builder.bitcast(builder.gep(data, [at]), kind.as_pointer())


def _first(builder: Any, count: Any, lanes: int) -> Any:
    """A mask that holds in the first so many lanes."""
    places = ir.Constant(ir.VectorType(_INT, lanes), list(range(lanes)))
    limit = _repeated(builder, builder.trunc(count, _INT), lanes)
    return builder.icmp_signed("<", places, limit)


def _number_bytes(array: Any) -> int:
    return int(array.dtype.bitwidth) // 8


@inlined
def scratch(like: Any, count: Any) -> Any:
    """Memory for so many numbers of an array's dtype, from the start of a line of the cache."""
    memory = np.empty(count + _LINE_BYTES // like.itemsize, like.dtype)
    skip = (_LINE_BYTES - memory.ctypes.data % _LINE_BYTES) % _LINE_BYTES // like.itemsize
    return memory[skip : skip + count]
