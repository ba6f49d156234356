#include "cuda/plan/cost.h"

#include <algorithm>

namespace lowbit::cuda {
namespace {

// What the compiled code of a kernel is like: facts of benchmarks/results/cuda_report.json. Where targets
// differ, as on most of them.
struct Loop {
  int32_t warps;   // of a multiprocessor, at most, by their registers
  int32_t loaded;  // bytes of weights that a turn of a warp asks for
  int32_t idle;    // clocks of a turn in which these are not under way, four to an instruction
  int32_t clocks;  // that a multiprocessor takes for 16 rows x 1024 inputs of a digit: instructions, or L1
};

// By form, for one and two tiles of columns.
constexpr Loop kWhole[][2] = {
    {{12, 8192, 1320, 67}, {8, 8192, 1620, 89}},    // one
    {{24, 4096, 680, 96}, {16, 4096, 920, 160}},    // two
    {{32, 8192, 550, 128}, {8, 8192, 420, 192}},    // four
    {{16, 4096, 1000, 96}, {8, 4096, 670, 160}},    // mixed
    {{16, 8192, 1750, 228}, {8, 8192, 1860, 228}},  // planes
};
constexpr Loop kByRow[][2] = {
    {{12, 4096, 1320, 96}, {8, 2048, 700, 176}},
    {{8, 4096, 460, 112}, {8, 4096, 860, 192}},
    {{8, 8192, 430, 144}, {8, 8192, 1020, 224}},
    {{12, 4096, 800, 112}, {}},
    {{8, 8192, 1830, 228}, {}},
};
constexpr Loop kBy128[][2] = {
    {{8, 4096, 1370, 128}, {12, 2048, 1710, 224}},
    {{8, 4096, 560, 144}, {8, 4096, 1100, 240}},
    {{8, 8192, 560, 176}, {8, 8192, 1650, 272}},
    {{8, 4096, 1060, 144}, {}},
    {{8, 8192, 2180, 230}, {}},
};
// The same where tokens have two columns, for the forms that have such kernels.
constexpr Loop kBy128Pairs[][2] = {
    {{12, 4096, 1310, 104}, {8, 4096, 1470, 176}},
    {{8, 4096, 500, 120}, {8, 4096, 830, 192}},
    {{8, 8192, 560, 152}, {12, 8192, 1520, 224}},
    {},
    {},
};
constexpr Loop kBy32[][2] = {
    {{8, 2048, 1570, 224}, {}}, {{8, 4096, 1500, 240}, {}}, {{12, 8192, 2250, 272}, {}},
    {{8, 2048, 80, 224}, {}},   {{8, 8192, 3610, 352}, {}},
};
constexpr Loop kB1[] = {{32, 4096, 70, 33}, {24, 4096, 90, 48}};

constexpr double kSustained = 0.92;  // of the rates of memory and of the second-level cache
// What hides behind the longest of several times still counts a little: among equals, the least of it.
constexpr double kHidden = 0.05;
// Clocks where warps of a block divide inputs, for each of them: a barrier and its sums.
constexpr double kMeeting = 32;
constexpr int64_t kSystemShared = 1 << 10;  // of a block

double ratio(int64_t a, int64_t b) {
  return static_cast<double>(a) / static_cast<double>(b);
}

// What a product is on a grid of blocks.
struct Grid {
  Loop loop;
  int64_t blocks;
  int64_t row_tiles;  // of a block
  int64_t columns;    // of a pass, those that exist
  int64_t tile_columns;
  int64_t shared_bytes;
};

Grid grid_of(const Product& product, const Partition& partition) {
  const int64_t columns = product.tokens * product.per_token;
  if (product.b1) {
    const int tiles = columns > kTileColumns ? 2 : 1;
    return {kB1[tiles - 1],       row_blocks(product.layer, partition.row_warps),
            partition.row_warps,  columns,
            kTileColumns * tiles, int64_t{sizeof(int32_t)} * kMaxWarps * tiles * kTileSums};
  }
  const GemvShape shape =
      gemv_shape(product.layer, product.grouped, product.per_token, product.tokens, partition);
  const Form form = form_of(product.layer);
  const bool pairs = product.per_token == 2 && kernel_by_128_pairs(form, 1) != nullptr;
  const auto& loops = !product.grouped                        ? kWhole
                      : product.layer.unit == Unit::row       ? kByRow
                      : product.layer.unit == Unit::inputs_32 ? kBy32
                      : pairs                                 ? kBy128Pairs
                                                              : kBy128;
  const int64_t tile_columns = kTileColumns * shape.column_tiles;
  return {loops[static_cast<int>(form)][shape.column_tiles - 1],
          shape.groups * partition.splits,
          shape.row_tiles,
          std::min(columns, tile_columns),
          tile_columns,
          shape.shared_bytes};
}

// Times that a warp walks over all inputs.
int64_t passes_of(const Product& product) {
  const Layer& layer = product.layer;
  if (!product.b1 && form_of(layer) == Form::planes) return (layer.active + kChunkPlanes - 1) / kChunkPlanes;
  int32_t digits = 0;
  for (int32_t end = 0; end < layer.active; ++digits) end += layer.digits.widths[digits];
  return digits;
}

// Of 16 rows x 1024 inputs, with their scales.
int64_t weight_bytes(const Layer& layer) {
  const int64_t units = layer.unit == Unit::row ? 0 : kSpanInputs / static_cast<int64_t>(layer.unit);
  return layer.active * kSuperblockBytes + units * kRowTile * (layer.scales_dtype == LOWBIT_F32 ? 4 : 2);
}

}  // namespace

// Blocks that are resident together take as long as the slowest of four:
//
//   memory   all of them wait for the weights
//   cache    or for the second-level cache, through which come the weights, the columns once for each block,
//            and the sums that blocks leave for each other
//   turns    or each warp for its own loads: a turn of its loop takes the latency and what it idles
//   busy     or the multiprocessor with most of them has no more clocks, or tensor cores
//
// Blocks that do not fit come after them, and where they are few, fewer warps ask for memory.
double cost_of(const Product& product, const Partition& partition) {
  const Layer& layer = product.layer;
  const Architecture& gpu = product.architecture;
  const Grid grid = grid_of(product, partition);
  const int64_t warps = int64_t{partition.row_warps} * partition.input_warps;
  const int64_t spans = (layer.in_features + kSpanInputs - 1) / kSpanInputs;
  const double tile_spans =
      static_cast<double>(grid.row_tiles) * ratio(spans, partition.splits);  // of a block

  const double bytes = tile_spans * static_cast<double>(weight_bytes(layer));
  const int64_t column_bytes = kSpanInputs / (product.b1 ? 8 : 1);
  double cached = bytes + ratio(spans, partition.splits) * static_cast<double>(grid.columns * column_bytes);
  if (partition.splits > 1) {
    const int64_t sums = grid.row_tiles * kRowTile * grid.columns / product.per_token;
    cached += 2 * static_cast<double>(sums * int64_t{sizeof(int32_t)});  // written and read
  }
  const double macs = product.b1 ? 0 : static_cast<double>(kRowTile * kSpanInputs * grid.tile_columns);
  const double clocks = std::max<double>(grid.loop.clocks, macs / gpu.int8_macs);

  const double memory = bytes / (gpu.memory * kSustained);
  const double cache = cached / (gpu.memory * gpu.cache_rate * kSustained);
  const double turns = bytes / static_cast<double>(warps * grid.loop.loaded) * (gpu.latency + grid.loop.idle);
  const double busy = tile_spans * static_cast<double>(passes_of(product)) * clocks;
  const auto time_of = [&](int64_t blocks) {
    if (blocks == 0) return 0.0;
    const double share = ratio(blocks, product.multiprocessors);
    const int64_t most = (blocks + product.multiprocessors - 1) / product.multiprocessors;
    const double times[] = {share * memory, share * cache, turns, static_cast<double>(most) * busy};
    double longest = 0, sum = 0;
    for (const double time : times) {
      longest = std::max(longest, time);
      sum += time;
    }
    return longest + kHidden * (sum - longest);
  };
  const int64_t by_shared = (int64_t{gpu.block_shared_kb} << 10) / (grid.shared_bytes + kSystemShared);
  const int64_t resident = std::max<int64_t>(std::min(grid.loop.warps / warps, by_shared), 1);
  const int64_t together = resident * product.multiprocessors;
  return static_cast<double>(grid.blocks / together) * time_of(together) + time_of(grid.blocks % together) +
         kMeeting * partition.input_warps + (partition.splits > 1 ? gpu.microsecond : 0.0);
}

}  // namespace lowbit::cuda
