#include "cpu/bits_linear.h"

#include <algorithm>

#include "core/balanced_for.h"
#include "core/cpu_features.h"
#include "core/error.h"
#include "core/half.h"
#include "core/scratch.h"
#include "core/thread_pool.h"
#include "cpu/activations/prologue.h"
#include "cpu/bits/bits.h"

namespace lowbit {
namespace {

// Every row tile reads all prepared tokens of a pass. They should stay in a core's L2 cache while the tiles
// stream past; a pass of 64 tokens or more hides what reading the (far smaller) bits again costs.
constexpr int64_t kPassBytes = int64_t{512} << 10;
constexpr int64_t kPassTokens = 64;

// Waking another thread costs a few microseconds, and tens where another process wants its core: as long as
// a thread needs for this many bytes of bits.
constexpr int64_t kThreadBytes = int64_t{64} << 10;

int64_t row_tiles(const lowbit_signs& segment) {
  return (segment.bits.out_features + LOWBIT_TILE_ROWS - 1) / LOWBIT_TILE_ROWS;
}

const void* element(const void* data, lowbit_dtype dtype, int64_t index) {
  return data == nullptr ? nullptr : static_cast<const char*>(data) + index * dtype_size(dtype);
}

// The part of the biases that belongs to segment s, whose outputs start at `column`.
lowbit_vector bias_of(Biases biases, int32_t s, int64_t column) {
  if (biases.vectors == nullptr) return {};
  lowbit_vector bias = biases.vectors[biases.per_segment ? s : 0];
  if (!biases.per_segment) bias.data = element(bias.data, bias.dtype, column);
  return bias;
}

Epilogue epilogue_of(const lowbit_signs& segment, const float* gates, const lowbit_vector& bias,
                     const lowbit_output& y, int64_t first_row, int64_t first_column) {
  Epilogue epilogue{};
  if (segment.experts > 0) {
    epilogue.gates = segment.experts > 1 ? gates : nullptr;
    epilogue.experts = segment.experts;
    epilogue.out_scales = segment.out_scales;
    epilogue.out_scales_dtype = segment.dtype;
    epilogue.out_scales_stride = segment.out_scales_stride;
  }
  epilogue.bias = bias.data;
  epilogue.bias_dtype = bias.dtype;
  epilogue.y = const_cast<void*>(element(y.data, y.dtype, first_row * y.row_stride + first_column));
  epilogue.y_dtype = y.dtype;
  epilogue.y_stride = y.row_stride;
  return epilogue;
}

}  // namespace

lowbit_status bits_linear(const lowbit_signs* segments, int32_t num_segments, int32_t active_planes,
                          const lowbit_input& x, int32_t activation_bits, lowbit_precision precision,
                          Biases biases, const lowbit_output& y) noexcept {
  Isa isa;
  if (const lowbit_status bad = active_isa(&isa)) return bad;
  const BitsKernels& kernels = bits_kernels(isa);
  const bool exact = precision == LOWBIT_EXACT && activation_bits == 0;
  const CodeFormat format = code_format(precision, activation_bits, x.cols);
  Prologue prologue(activation_kernels(isa), format, exact, segments, num_segments);

  int64_t tiles = 0;
  for (int32_t s = 0; s < num_segments; ++s) tiles += row_tiles(segments[s]);
  const int64_t tile_bytes = active_planes * LOWBIT_TILE_ROWS * ((x.cols + 7) / 8);
  const int most_threads = std::min(get_num_threads(), Pieces::kMaxThreads);
  const int64_t pass = std::max(kPassTokens, kPassBytes / prologue.bytes_per_token());

  for (int64_t first = 0; first < x.rows; first += pass) {
    const int64_t rows = std::min(pass, x.rows - first);
    const auto threads =
        static_cast<int>(std::clamp<int64_t>(tiles * tile_bytes * rows / kThreadBytes, 1, most_threads));
    // A single token: no thread waits for another to prepare it.
    const bool each_its_own = rows == 1;
    const int64_t table_bytes = each_its_own && !exact
                                    ? kernels.table_bytes(active_planes, format.per_token, format.k_blocks,
                                                          tiles / (threads * prologue.sets()))
                                    : 0;
    if (const lowbit_status bad = each_its_own ? prologue.reserve(threads, threads, table_bytes)
                                               : prologue.run(x, first, first + rows)) {
      return bad;
    }
    const auto work_bytes = static_cast<int64_t>(
        Scratch::align(exact ? 0 : kernels.work_bytes(active_planes, rows * format.per_token)));
    thread_local Scratch scratch;
    std::byte* const work = scratch.reserve(threads * work_bytes);
    if (work == nullptr && work_bytes > 0) {
      return fail(LOWBIT_OUT_OF_MEMORY, "no memory for %d threads to work in (%lld bytes)", threads,
                  static_cast<long long>(threads * work_bytes));
    }
    // The tiles of all segments in one loop: a small segment must not leave threads idle. Cores are not
    // equally fast, be it that a neighbour takes bandwidth from one, so a thread takes tiles from another
    // where that costs no new preparations: neither of the token for another segment nor of tables.
    const bool costly = exact || (each_its_own && prologue.sets() > 1);
    const int64_t least = costly            ? tiles
                          : table_bytes > 0 ? 1
                                            : kernels.least_tiles(active_planes, rows * format.per_token);
    balanced_for(tiles, threads, least, [&](Pieces& pieces, int thread) {
      const int64_t slot = each_its_own ? thread : 0;
      int32_t prepared = -1;  // the segment that the token in the slot is prepared for
      for (int64_t begin, end; pieces.next(&begin, &end);) {
        int64_t column = 0, tile = 0;  // where the segment starts in y and among all tiles
        for (int32_t s = 0; s < num_segments && tile < end; ++s) {
          const int64_t from = std::max<int64_t>(begin - tile, 0);
          const int64_t to = std::min(end - tile, row_tiles(segments[s]));
          if (from < to) {
            if (each_its_own && (prepared < 0 || (prologue.sets() > 1 && prepared != s))) {
              prologue.prepare(x, first, s, slot, thread);
              if (table_bytes > 0) {
                kernels.build_tables(segments[s].bits, from, prologue.columns(s, slot, 1),
                                     prologue.tables(slot));
              }
              prepared = s;
            }
            const Epilogue epilogue = epilogue_of(segments[s], prologue.gates(s, slot),
                                                  bias_of(biases, s, column), y, first, column);
            if (exact) {
              kernels.product_exact(segments[s].bits, active_planes, prologue.float_columns(s, slot, rows),
                                    epilogue, from, to);
            } else {
              kernels.product(segments[s].bits, active_planes, prologue.columns(s, slot, rows), epilogue,
                              from, to, work + thread * work_bytes);
            }
          }
          column += segments[s].bits.out_features;
          tile += row_tiles(segments[s]);
        }
      }
    });
  }
  return LOWBIT_OK;
}

}  // namespace lowbit
