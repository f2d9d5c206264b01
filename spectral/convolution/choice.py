"""Which algorithm is fastest for how many tokens, as measured."""

from __future__ import annotations

from typing import NamedTuple

from atlas_jax.distributed.mesh import platform


class Choice(NamedTuple):
    """An algorithm, the longest sequence it is taken for, and its chunk (0 where it has none), both in tokens."""

    algorithm: str
    longest: float
    chunk: int = 0


ANY = float("inf")

# CPU rows: `taskset -c 1 python -m benchmarks.convolution_table` and the same with `--dtype bfloat16`, jax 0.10.2, one Zen 4
# core (busy, so CPU time), 128 channels, 8 heads, 8 modes; forward and backward, ns per token and channel:
#
#   float32 modal T      128   512   2,048  8,192  32,768  131,072     bfloat16  128   512   8,192
#   toeplitz              24    55     246                                        20    50
#   chunked, 32           21    23      18     20      24       28                19    19      39
#   chunked, 64           24    25      19     20      24       27                21    19      32
#   parallel, 128         35    37      36     38      41                         38    38           chunk 64
#   fft                   36    36      38     43      57       74                33    33      41
#   scan                 160   123     110    103      76       78               259   221     250
#   float32 filter
#   toeplitz              26    54     247                                        23    56
#   fft                   37    40      41     43      51       71                35    38
#   overlap_save          28    47      74    106     128      174                31    52
#
# With few sequences, 4 of 128 tokens: toeplitz 18, chunked 14; 32 of them: 16 and 9.
#
# GPU rows: not measured yet. By reasoning: a chunk's matmul fills a tensor core's tiles from 128 tokens on, and a T x T
# matmul moves less than the states of two chunks do; a scan over chunks leaves the device idle. A free filter's Toeplitz
# matmul costs 2 T FLOPs a channel, about what a transform's memory traffic costs at T = 1,024 (twice that in bfloat16);
# above 65,536 the transforms' working memory decides.
MODAL = {
    ("cpu", "float32"): (Choice("toeplitz", 64), Choice("chunked", 8_192, 32), Choice("chunked", ANY, 64)),
    ("cpu", "bfloat16"): (Choice("toeplitz", 64), Choice("chunked", 2_048, 32), Choice("chunked", ANY, 64)),
    ("gpu", "float32"): (Choice("toeplitz", 256), Choice("parallel", ANY, 128)),
    ("gpu", "bfloat16"): (Choice("toeplitz", 256), Choice("parallel", ANY, 128)),
}
FILTER = {
    ("cpu", "float32"): (Choice("toeplitz", 256), Choice("fft", ANY)),
    ("cpu", "bfloat16"): (Choice("toeplitz", 256), Choice("fft", ANY)),
    ("gpu", "float32"): (Choice("toeplitz", 1_024), Choice("fft", 65_536), Choice("overlap_save", ANY)),
    ("gpu", "bfloat16"): (Choice("toeplitz", 2_048), Choice("fft", 65_536), Choice("overlap_save", ANY)),
}


def rows(table: dict[tuple[str, str], tuple[Choice, ...]], dtype: str) -> tuple[Choice, ...]:
    """The rows for the platform that is traced for. Other accelerators count as GPUs, other floats as float32."""
    backend = "cpu" if platform() == "cpu" else "gpu"
    return table[backend, dtype if dtype == "bfloat16" else "float32"]


def modal(length: int, dtype: str, chunk: int | None) -> Choice:
    """For `causal_convolution`. A given chunk is one Toeplitz block where the sequence fits it, and kept where it does not."""
    if chunk is None:
        return next(row for row in rows(MODAL, dtype) if length <= row.longest)
    if length <= chunk:
        return Choice("toeplitz", chunk)
    long = next(row for row in rows(MODAL, dtype) if length <= row.longest and row.algorithm != "toeplitz")
    return long._replace(chunk=chunk)


def filters(length: int, dtype: str) -> Choice:
    """For `filter_convolution`."""
    return next(row for row in rows(FILTER, dtype) if length <= row.longest)
