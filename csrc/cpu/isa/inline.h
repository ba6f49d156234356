// What every instruction set's traits share: the inlining rule, and the list of operations.
//
// A kernel is a template over one traits class. Each class has only static functions, all forced inline, and
// is named by exactly one set of translation units, so no instruction leaks into code that an older machine
// runs.
//
//   kLanes            32-bit lanes of a vector; a tile of 64 rows is 64 / kLanes row vectors
//   kAccumulators     vectors a kernel may keep as accumulators without spilling
//   I32, F32          vectors; I32 is also four bytes per lane
//   load, store, set1, broadcast (the dword at any address), add, shift_left<n>, shift_right<n> (arithmetic),
//   shift_right_logical<n>, shift_left_by, bit_and, bit_xor, max, widen_i16
//   horizontal_max, horizontal_sum (of I32 and F32): over all lanes
//   pack_bytes(values)   four vectors of values that fit signed bytes: values[c] become byte c of each lane
//   exchange<n>(mask, low, high)   swaps bit i + n of low with bit i of high for every i in mask
//   Sum               accumulator of products of bytes
//   dot(Sum, u, x)    adds u0 x0 + u1 x1 + u2 x2 + u3 x3 per lane, u unsigned and x signed bytes; exact while
//                     |sum of all added| <= kSumLimit (per half lane of 16 bits where Sum is 16 bits wide),
//                     and u <= 127 unless kFullByteDot
//   fold<n>(a, Sum)   a + sum * 2^n, n < 0: an arithmetic shift right of a sum known to be a multiple of 2^-n
//   fset1, fload, fstore, fadd, fsub, fmul, fma(a, b, c) = a b + c in one rounding, fmax, fmin, fabs,
//   to_float, to_int (nearest even), load_f16, load_bf16, store_f16, store_bf16 (nearest even)
//   lookup<n>(load_table(p), w)   entry (w >> n) & 15 of 16 floats, per lane
#pragma once

#define LOWBIT_INLINE inline __attribute__((always_inline))
// The same for a lambda: [&](int i) LOWBIT_LAMBDA_INLINE { ... }
#define LOWBIT_LAMBDA_INLINE __attribute__((always_inline))

// Tells GCC that a vector is changed where it stands. Without it the register allocator of GCC 12 gives every
// accumulator of an unrolled loop two registers, copies between them and spills.
#if defined(__x86_64__)
#define LOWBIT_KEEP(vector) asm("" : "+v"(vector))
#elif defined(__aarch64__)
#define LOWBIT_KEEP(vector) asm("" : "+w"(vector))
#else
#define LOWBIT_KEEP(vector) static_cast<void>(vector)
#endif

// Makes a pointer unknown to the optimiser, so that loads through it are not merged with earlier ones. Used
// where a second load is an operand of an instruction, and keeping the first one would cost a register.
#define LOWBIT_FORGET(pointer) asm("" : "+r"(pointer))

// For a loop nest that deserves all registers, or code outside the hot path.
#define LOWBIT_NOINLINE __attribute__((noinline))
